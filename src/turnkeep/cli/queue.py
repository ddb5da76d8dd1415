"""`turnkeep queue`: how much waits where, dead letters, and people who take over a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from turnkeep.cli import circuits, context, dead, output
from turnkeep.cli.arguments import Channel, JsonOption, Tenant
from turnkeep.messages import Address
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.shared_ledger import Circuit
from turnkeep.store.values import Counts

app = typer.Typer(add_completion=False, no_args_is_help=True, help="How much waits; dead letters; pause and resume.")
app.add_typer(dead.app, name="dead")
app.add_typer(circuits.app, name="circuits")

EVERY = 1.0
"""Seconds between two looks of `--watch`."""


@app.command()
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")] = False,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Whose; all without.")] = None,
    as_json: JsonOption = False,
) -> None:
    """How many threads are being answered, wait or are due later; how many messages were
    answered or died.
    """
    asyncio.run(_status(context.settings(), tenant, watch=watch, as_json=as_json))


async def _status(settings: Settings, tenant: str | None, *, watch: bool, as_json: bool) -> None:
    async with context.attach_store(settings) as store:
        if not watch:
            _print(settings, *await _read_queue(store, settings, tenant), as_json=as_json)
        # Into a pipe go lines. A live display would write movements of a cursor there.
        elif as_json or not output.console().is_terminal:
            while True:
                _print(settings, *await _read_queue(store, settings, tenant), as_json=as_json)
                await asyncio.sleep(EVERY)
        else:
            with Live(console=output.console(), auto_refresh=False) as live:
                while True:
                    live.update(_draw(settings, *await _read_queue(store, settings, tenant)), refresh=True)
                    await asyncio.sleep(EVERY)


async def _read_queue(store: Store, settings: Settings, tenant: str | None) -> tuple[Counts, list[Circuit]]:
    return await store.counts(tenant=tenant, queue=settings.queue), await store.circuits()


def _print(settings: Settings, counts: Counts, circuits: Sequence[Circuit], *, as_json: bool) -> None:
    if as_json:
        output.emit(_json(counts, circuits))
    else:
        output.console().print(_draw(settings, counts, circuits), soft_wrap=True)


def _json(counts: Counts, circuits: Sequence[Circuit]) -> dict[str, Any]:
    """As `GET /api/queue` tells it."""
    details = ("held", "paused", "open_messages", "dead_letters", "threads", "oldest_wait")
    return {
        "activeCount": counts.active,
        "waitingCount": counts.waiting,
        "delayedCount": counts.delayed,
        "completedCount": counts.completed,
        "failedCount": counts.failed,
        "details": {name: getattr(counts, name) for name in details}
        | {"circuits": [{"code": c.fault.code, "message": c.fault.message, "since": c.opened_at} for c in circuits]},
    }


def _draw(settings: Settings, counts: Counts, circuits: Sequence[Circuit]) -> Text:
    lines = [
        ("active", counts.active, "threads being answered"),
        ("waiting", counts.waiting, "threads due now"),
        ("oldest", counts.oldest_wait, "seconds for which the first of them has waited"),
        ("delayed", counts.delayed, "threads due later"),
        ("held", counts.held, "threads that wait for a decision: turnkeep actions list"),
        ("paused", counts.paused, "threads taken over by a person"),
        ("completed", counts.completed, "messages answered, ever"),
        ("failed", counts.failed, "messages given up, ever"),
        ("open", counts.open_messages, "messages not answered yet"),
        ("dead", counts.dead_letters, "dead letters kept: turnkeep queue dead list"),
        ("threads", counts.threads, "in all"),
    ]
    text = Text(f"queue {settings.queue} in {context.store_location(settings)}\n", style="bold")
    for name, number, meaning in lines:
        text.append(f"{name:<10}{number:>9,}  ", style="").append(f"{meaning}\n", style="dim")
    for circuit in circuits:
        remedy = f"turnkeep queue circuits close '{circuit.endpoint}'"
        text.append(f"nobody answers at {circuit.endpoint}: {circuit.fault.details}\n", style="red")
        text.append(f"  once it is mended: {remedy}\n", style="dim")
    text.rstrip()
    return text


@app.command()
def pause(name: Channel, *, tenant: Tenant = "default", as_json: JsonOption = False) -> None:
    """Let no run begin on a channel; a run in progress ends. Messages are still taken."""
    settings = context.settings()
    asyncio.run(_pause(settings, Address(tenant, settings.queue, name), on=True))
    output.emit({"channel": name, "paused": True}) if as_json else output.say(f"paused {name}")


@app.command()
def resume(name: Channel, *, tenant: Tenant = "default", as_json: JsonOption = False) -> None:
    """Undo `pause`."""
    settings = context.settings()
    asyncio.run(_pause(settings, Address(tenant, settings.queue, name), on=False))
    output.emit({"channel": name, "paused": False}) if as_json else output.say(f"resumed {name}")


async def _pause(settings: Settings, address: Address, *, on: bool) -> None:
    async with context.attach_store(settings) as store:
        await context.existing(store, address)
        await (store.pause(address) if on else store.resume(address))
