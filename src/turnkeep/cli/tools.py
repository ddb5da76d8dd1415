"""`turnkeep tools`: what foreign servers offer, and what was accepted of it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption, Yes
from turnkeep.cli.audit import report
from turnkeep.errors import NotFound
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.settings import Settings
from turnkeep.tools.pins import Pin, Pins

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Tools of MCP servers.")

ToolName = Annotated[str, typer.Argument(metavar="NAME", help="As the model knows it: server__tool.")]


@app.command("list")
def list_tools(*, as_json: JsonOption = False) -> None:
    """List the tools that MCP servers have offered, with those that changed since they were
    accepted.
    """
    pins = asyncio.run(_list(context.settings()))
    if as_json:
        for pin in pins:
            output.emit(_json(pin))
        return
    rows = [(pin.name, "CHANGED" if pin.is_changed else "accepted", pin.description) for pin in pins]
    output.table(("TOOL", "STATE", "SAYS OF ITSELF"), rows, empty="no MCP server has offered a tool")


@app.command()
def accept(name: ToolName, yes: Yes = False, as_json: JsonOption = False) -> None:
    """Accept a tool as it describes itself now; running workers offer it again within seconds."""
    settings = context.settings()
    pin = next((one for one in asyncio.run(_list(settings)) if one.name == name), None)
    if pin is None:
        raise NotFound(f"no server has offered a tool {name!r}, list them with `turnkeep tools list`")
    # With its own words: they are what the model would read, and what changed since they were
    # accepted.
    output.confirm(f"accept {name}, which says of itself: {pin.description}?", yes=yes)
    accepted_pin = asyncio.run(_accept(settings, name))
    if as_json:
        output.emit(_json(accepted_pin))
    else:
        output.say(f"accepted {name}")


async def _list(settings: Settings) -> list[Pin]:
    async with context.attach_store(settings) as store:
        return await Pins(store).list()


async def _accept(settings: Settings, name: str) -> Pin:
    async with context.attach_store(settings) as store:
        pin = await Pins(store).accept(name)
        await report(store, "tool_accepted", tenant=DEFAULT_TENANT, tool=name)
        return pin


def _json(pin: Pin) -> dict[str, object]:
    return {"name": pin.name, "changed": pin.is_changed, "description": pin.description}
