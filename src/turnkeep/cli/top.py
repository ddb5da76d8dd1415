"""`turnkeep top`: the fleet, what waits, the last hour and the newest threads, on one
screen that stays.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.fleet import ProcessRecord, list_processes
from turnkeep.lean_dataclass import dataclass
from turnkeep.remedies import remedy_of
from turnkeep.runs.activity import Cell, Stretch, add_up, quantile, read_series
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.shared_ledger import Circuit
from turnkeep.store.thread_search import ThreadSearch
from turnkeep.store.values import Counts, ThreadRecord
from turnkeep.usage import NANO

app = typer.Typer(add_completion=False)

BARS = " ▁▂▃▄▅▆▇█"
MINUTES = 60
MOST_THREADS = 100


@dataclass(frozen=True, slots=True)
class Overview:
    """What is seen at one look; `now` by the clock of the store."""

    now: float
    counts: Counts
    circuits: Sequence[Circuit]
    processes: Sequence[ProcessRecord]
    hour: Sequence[Stretch]
    threads: Sequence[ThreadRecord]


@app.command()
def top(
    *,
    every: Annotated[
        float, typer.Option("--every", metavar="S", min=0.2, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="NAME", help="Whose threads and whose last hour.")
    ] = "default",
    as_json: JsonOption = False,
) -> None:
    """Watch what runs, what waits and why, and what the last hour has cost, until Ctrl-C. Into a
    pipe it writes one look after the other.
    """
    asyncio.run(_watch(context.settings(), tenant, every=every, once=once, as_json=as_json))


async def _watch(settings: Settings, tenant: str, *, every: float, once: bool, as_json: bool) -> None:
    async with context.attach_store(settings) as store:
        screen = output.console()
        if once or as_json or not screen.is_terminal:
            while True:
                overview = await _read_overview(store, settings, tenant)
                output.emit(_json(overview)) if as_json else screen.print(_draw(settings, overview, rows=MOST_THREADS))
                if once:
                    return
                await asyncio.sleep(every)
        # on a screen of its own: what stood in the terminal is there again at the end
        with Live(console=screen, screen=True, auto_refresh=False) as live:
            while True:
                overview = await _read_overview(store, settings, tenant)
                live.update(_draw(settings, overview, rows=shutil.get_terminal_size().lines), refresh=True)
                await asyncio.sleep(every)


async def _read_overview(store: Store, settings: Settings, tenant: str) -> Overview:
    now = await store.now()
    return Overview(
        now=now,
        counts=await store.counts(queue=settings.queue),
        circuits=await store.circuits(),
        processes=await list_processes(store),
        hour=await read_series(store, tenant, span="hour", now=now),
        threads=await store.search(ThreadSearch(tenant=tenant, queue=settings.queue, limit=MOST_THREADS)),
    )


def _json(overview: Overview) -> dict[str, Any]:
    from turnkeep.doors.http.endpoint import thread_json

    return {
        "now": overview.now,
        "counts": {name: getattr(overview.counts, name) for name in Counts.__slots__},
        "circuits": [{"endpoint": one.endpoint, **one.fault.to_json()} for one in overview.circuits],
        "processes": [one.to_json() | {"silent": one.is_silent(overview.now)} for one in overview.processes],
        "activity": [{"at": one.at, **one.cell} for one in overview.hour],
        "threads": [thread_json(record, in_full=True) for record in overview.threads],
    }


def _draw(settings: Settings, overview: Overview, *, rows: int) -> Group:
    """As many threads as there are lines left."""
    above = [*_head(settings, overview), _processes(overview)]
    used = 10 + len(overview.processes) + len(overview.circuits) * 2
    return Group(*above, _threads(overview, most=max(3, rows - used)))


def _head(settings: Settings, overview: Overview) -> Iterator[RenderableType]:
    counts = overview.counts
    yield Text(
        f"queue {settings.queue} in {context.store_location(settings)}   {output.moment(overview.now)}", style="bold"
    )
    line = Text()
    for number, word, style in (
        (counts.active, "active", "green"),
        (counts.waiting, "waiting", "yellow"),
        (counts.delayed, "delayed", ""),
        (counts.held, "held", "yellow"),
        (counts.paused, "paused", ""),
        (counts.dead_letters, "dead", "red"),
    ):
        line.append(f"{number:,} {word}   ", style=style if number else "dim")
    if counts.oldest_wait:
        line.append(f"the first has waited for {output.span(counts.oldest_wait)}", style="yellow")
    yield line
    yield _hour(overview)
    for circuit in overview.circuits:
        yield Text(f"nobody answers at {circuit.endpoint}: {output.printable(circuit.fault.details)}", style="red")
        yield Text(f"  {remedy_of(circuit.fault.code)}", style="dim")
    yield Text()


def _hour(overview: Overview) -> Text:
    """Runs of each minute as a row of bars, and what they came to."""
    runs = [0] * MINUTES
    for stretch in overview.hour:
        minute = MINUTES - 1 - int((overview.now - stretch.at) // 60)
        if 0 <= minute < MINUTES:
            runs[minute] += stretch.cell.get("runs", 0)
    most = max(runs) or 1
    bars = "".join(BARS[-(-number * (len(BARS) - 1) // most)] for number in runs)
    return Text(f"{bars} ", style="cyan").append(_sentence(overview), style="dim")


def _sentence(overview: Overview) -> str:
    total: Cell = {}
    for stretch in overview.hour:
        total = add_up(total, stretch.cell)
    words = [f"{output.count(total.get('runs', 0), 'run')} in the last hour"]
    if first := total.get("waits", {}).get("first"):
        words.append(f"first token {quantile(first, 0.5) or 0:g} s, of one in twenty {quantile(first, 0.95) or 0:g} s")
    if cost := total.get("usage", {}).get("cost_nano"):
        words.append(f"${cost / NANO:.4f}")
    return ", ".join(words)


def _processes(overview: Overview) -> Table:
    table = _table("ROLE", "HOST", "PID", "RUNS", "VERSION", "HEARD")
    for one in overview.processes:
        silence = overview.now - one.renewed_at
        silent = one.is_silent(overview.now)
        table.add_row(
            one.role,
            output.printable(one.host),
            str(one.pid),
            f"{one.active_runs} of {one.slots}" if one.slots else "",
            one.version,
            f"silent for {output.span(silence)}" if silent else f"{output.span(silence)} ago",
            style="red" if silent else "",
        )
    if not overview.processes:
        table.add_row("nobody runs with this store: turnkeep serve, or turnkeep worker", style="yellow")
    return table


def _threads(overview: Overview, *, most: int) -> Group:
    table = _table("THREAD", "STATE", "OPEN", "MESSAGES", "ACTIVE")
    for record in overview.threads[:most]:
        state = "paused" if record.paused else "answering" if record.state == "leased" else record.state
        table.add_row(
            output.printable(record.address.channel),
            state + (f", attempt {record.attempt}" if record.attempt > 1 else ""),
            str(record.open_messages or ""),
            f"{record.messages:,}",
            f"{output.span(overview.now - record.active_at)} ago",
            style="" if record.open_messages or record.state == "leased" else "dim",
        )
    return Group(Text(), table)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table
