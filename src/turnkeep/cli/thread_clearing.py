"""`turnkeep threads forget` and `clear`: what is deleted is gone, so both ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from turnkeep.auth.audit_trail import channel_digest
from turnkeep.cli import context, output
from turnkeep.cli.arguments import ANY_AGE, Channel, JsonOption, OlderThan, Tenant, Yes
from turnkeep.cli.audit import report
from turnkeep.errors import ThreadBusy
from turnkeep.messages import Address
from turnkeep.settings import Settings
from turnkeep.store.clearing import forget_at_work
from turnkeep.store.contract import Store

AT_ONCE = 64
"""Threads that are forgotten at once, so that the store can do them together."""
MOST_NAMES = 20
"""Threads that are named one by one in a remark."""

ClearingOutcome = Literal["forgotten", "gone", "busy"]


def forget(
    name: Channel,
    *,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Even if messages are open.")] = False,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Delete one thread and everything of it."""
    settings = context.settings()
    asyncio.run(_forget(settings, Address(tenant, settings.queue, name), yes=yes, force=force))
    if as_json:
        output.emit({"forgotten": name})
    else:
        output.say(f"forgot {name}")


async def _forget(settings: Settings, address: Address, *, yes: bool, force: bool) -> None:
    async with context.attach_store(settings) as store:
        record = await context.existing(store, address)
        messages = output.count(record.messages, "message")
        output.confirm(f"forget {address.channel} with its {messages}, in {context.store_location(settings)}?", yes=yes)
        await (forget_at_work(store, address) if force else store.forget(address))
        about = {"channel": channel_digest(address.channel), "force": str(force).lower()}
        await report(store, "channel_forgotten", tenant=address.tenant, **about)


def clear(
    *,
    older_than: OlderThan = ANY_AGE,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Threads that are not idle, too.")] = False,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Delete all threads, or those without activity for a while. Assistants stay; threads that
    are not idle are skipped and named.
    """
    settings = context.settings()
    count, busy_channels = asyncio.run(_clear(settings, tenant, older_than, yes=yes, force=force))
    if as_json:
        output.emit({"cleared": count, "skipped": busy_channels})
        return
    output.say(f"cleared {output.count(count, 'thread')}")
    if busy_channels:
        first, rest = ", ".join(busy_channels[:MOST_NAMES]), len(busy_channels) - MOST_NAMES
        more = f" and {rest} more" if rest > 0 else ""
        output.say(f"skipped {len(busy_channels)}, not idle (--force clears them): {first}{more}")


async def _clear(
    settings: Settings, tenant: str, older_than: float, *, yes: bool, force: bool
) -> tuple[int, list[str]]:
    async with context.attach_store(settings) as store:
        # Looked for before the question, which has to say how many.
        addresses = [
            record.address async for record in store.scan(tenant=tenant, queue=settings.queue, idle_for=older_than)
        ]
        if not addresses:
            return 0, []
        age = f" without activity for {output.span(older_than)}" if older_than else ""
        what = output.count(len(addresses), "thread")
        output.confirm(f"clear {what}{age} from {context.store_location(settings)}? (assistants stay)", yes=yes)
        count, busy_channels = await _forget_all(store, addresses, force=force)
        await report(store, "channels_forgotten", tenant=tenant, threads=str(count), force=str(force).lower())
        return count, busy_channels


async def _forget_all(store: Store, addresses: list[Address], *, force: bool) -> tuple[int, list[str]]:
    """How many were forgotten, and the channels of those that were not."""
    count, busy_channels = 0, []
    with output.progress("clearing") as step:
        for first in range(0, len(addresses), AT_ONCE):
            batch = addresses[first : first + AT_ONCE]
            outcomes = await asyncio.gather(*(_forget_idle(store, address, step, force=force) for address in batch))
            # Added up when all of them are done: an addition across an await lost all but the last.
            count += outcomes.count("forgotten")
            busy_channels += [
                address.channel for address, outcome in zip(batch, outcomes, strict=True) if outcome == "busy"
            ]
    return count, busy_channels


async def _forget_idle(store: Store, address: Address, step: Callable[[], None], *, force: bool) -> ClearingOutcome:
    step()
    try:
        was_there = await (forget_at_work(store, address) if force else store.forget(address))
        return "forgotten" if was_there else "gone"
    # Somebody wrote since it was looked at: what is open has to be answered first.
    except ThreadBusy:
        return "busy"
