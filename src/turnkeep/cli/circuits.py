"""`turnkeep queue circuits`: model servers that are not asked for now, and asking them again."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.table import Table

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.settings import Settings
from turnkeep.store.shared_ledger import Circuit

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Model servers that are not asked for now.",
)


@app.command("list")
def list_open(*, as_json: JsonOption = False) -> None:
    """List model servers that are not asked for now: since when, why, and when one run tries again."""
    asyncio.run(_list(context.settings(), as_json=as_json))


async def _list(settings: Settings, *, as_json: bool) -> None:
    async with context.attach_store(settings) as store:
        circuits, now = await store.circuits(), await store.now()
    if as_json:
        output.emit([_json(circuit) for circuit in circuits])
    elif not circuits:
        output.say("no circuit is open: every model server is asked")
    else:
        output.console().print(_table(circuits, now))


@app.command()
def close(
    endpoints: Annotated[list[str] | None, typer.Argument(metavar="[ENDPOINT]...", help="As listed.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that are open.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask there again at once, for you have mended the key, the account or the server."""
    if bool(endpoints) == every:
        raise typer.BadParameter("name the endpoints to close, or --all")
    asyncio.run(_close(context.settings(), None if every else endpoints, as_json=as_json))


async def _close(settings: Settings, endpoints: list[str] | None, *, as_json: bool) -> None:
    async with context.attach_store(settings) as store:
        names = [circuit.endpoint for circuit in await store.circuits()] if endpoints is None else endpoints
        outcomes = {name: await store.mend(name) for name in names}
    if as_json:
        output.emit([{"endpoint": name, "closed": was_open} for name, was_open in outcomes.items()])
    else:
        for name, was_open in outcomes.items():
            output.say(f"closed {name}" if was_open else f"{name} was not open")
    # a script that names an endpoint wrongly must see it
    if not all(outcomes.values()):
        raise typer.Exit(1)


def _json(circuit: Circuit) -> dict[str, Any]:
    fault = circuit.fault
    return {
        "endpoint": circuit.endpoint,
        "code": fault.code,
        "message": fault.message,
        "details": fault.details,
        "since": circuit.opened_at,
        "probe_at": circuit.probe_at,
    }


def _table(circuits: list[Circuit], now: float) -> Table:
    table = Table("endpoint", "why", "since", "next try", box=None, header_style="bold", pad_edge=False)
    for circuit in circuits:
        waits = max(0.0, circuit.probe_at - now)
        table.add_row(
            circuit.endpoint, circuit.fault.details, f"{now - circuit.opened_at:.0f} s ago", f"in {waits:.0f} s"
        )
    return table
