"""`turnkeep audit`: who came in or did not, who decided, changed or deleted what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Annotated

import typer

from turnkeep.auth.audit_trail import Act, AuditEvent, Trail, channel_digest, events_of
from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.settings import Settings
from turnkeep.store.contract import Registry

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The audit trail: who did what, and who could not.")

AGAIN = 1.0
"""Seconds between two looks."""

Number = Annotated[int, typer.Option("--number", "-n", metavar="N", min=0, help="So many of the newest.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")]
ByChannel = Annotated[str | None, typer.Option("--channel", metavar="NAME", help="Only what happened on it.")]


@app.callback()
def audit() -> None:
    """The audit trail: who did what, and who could not."""  # with a callback, one command alone keeps its name


@app.command()
def tail(
    *, number: Number = 20, follow: Follow = False, channel: ByChannel = None, as_json: JsonOption = False
) -> None:
    """Show the newest events, oldest first. They hold no secret and no text, and of a channel a digest of its name."""
    settings = context.settings()
    digest = None if channel is None else channel_digest(channel)
    asyncio.run(_tail(settings, _Display(number, digest, as_json), follow=follow))


class _Display:
    """What was shown already, and how."""

    def __init__(self, number: int, channel: str | None, as_json: bool) -> None:
        self._number = number
        self._channel = channel
        self._as_json = as_json
        self._last_events: set[str] | None = None

    def show(self, events: Sequence[AuditEvent]) -> None:
        fitting = [event for event in events if self._channel in (None, event.about.get("channel"))]
        if self._last_events is None:
            fresh = fitting[max(0, len(fitting) - self._number) :]
        else:
            fresh = [event for event in fitting if repr(event) not in self._last_events]
        # by their words: events carry a dict and no number, so they are neither hashed nor
        # compared by place
        self._last_events = {repr(event) for event in fitting}
        for event in fresh:
            output.emit(event.to_json()) if self._as_json else output.say(_line(event))


def _line(event: AuditEvent) -> str:
    about = [f"{name}={value}" for name, value in event.about.items()]
    words = [event.tenant, event.by, event.door, event.peer, *about, f"×{event.count}" if event.count > 1 else ""]
    return f"{output.moment(event.at)}  {event.event:<18} {' '.join(word for word in words if word)}"


async def _tail(settings: Settings, display: _Display, *, follow: bool) -> None:
    async with context.attach_store(settings) as store:
        display.show(await events_of(store))
        while follow:
            # asked again and again: the registry tells nobody of a change
            await asyncio.sleep(AGAIN)
            display.show(await events_of(store))


async def report(registry: Registry, event: Act, *, tenant: str, **about: str) -> None:
    """Write down what a verb has done: it was somebody with an account of this machine."""
    by = f"uid:{os.getuid()}" if hasattr(os, "getuid") else "command line"
    await Trail(registry).act(event, tenant=tenant, by=by, door="command line", about=about)
