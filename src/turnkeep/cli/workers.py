"""`turnkeep workers`: the processes that run with this store, and which of them have gone silent."""

from __future__ import annotations

import asyncio

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.fleet import ProcessRecord, list_processes

app = typer.Typer(add_completion=False)


@app.command()
def workers(*, as_json: JsonOption = False) -> None:
    """List the processes that serve or answer with this store: where they run, how much they have
    in hand, when each was last heard of.
    """
    now, records = asyncio.run(_read_workers())
    if as_json:
        for record in records:
            output.emit(record.to_json() | {"silent": record.is_silent(now)})
        return
    rows = [
        (
            one.role,
            one.host,
            one.pid,
            f"{one.active_runs} of {one.slots}" if one.slots else "answers nothing",
            ", ".join(one.queues),
            one.version,
            f"silent for {now - one.renewed_at:.0f} s" if one.is_silent(now) else f"{now - one.renewed_at:.0f} s ago",
        )
        for one in records
    ]
    head = ("ROLE", "HOST", "PID", "RUNS", "QUEUES", "VERSION", "HEARD")
    output.table(head, rows, empty="no process runs with this store")


async def _read_workers() -> tuple[float, list[ProcessRecord]]:
    async with context.attach_store(context.settings()) as store:
        return await store.now(), await list_processes(store)
