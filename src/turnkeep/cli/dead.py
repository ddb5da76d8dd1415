"""`turnkeep queue dead`: messages that no run could answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption, Yes
from turnkeep.cli.exit_codes import FAILED
from turnkeep.errors import Conflict, NotFound
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.values import DeadLetter, Receipt

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Messages that no run could answer.")

Whose = Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Whose; all without.")]
DeadIds = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="dead_… ids.")]
AllDead = Annotated[bool, typer.Option("--all", help="All there are.")]

PAGE = 500


@app.command("list")
def list_dead(
    *,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The oldest so many.")] = 100,
    tenant: Whose = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, the oldest first."""
    settings = context.settings()
    letters = asyncio.run(_list(settings, tenant, limit))
    if as_json:
        for letter in letters:
            output.emit(_json(letter))
        return
    rows = [
        (one.dead_id, output.moment(one.at), one.address.channel, one.message.message_id, one.fault.code, one.attempts)
        for one in letters
    ]
    output.table(("ID", "DIED", "CHANNEL", "MESSAGE", "REASON", "ATTEMPTS"), rows, empty="no dead letters")


async def _list(settings: Settings, tenant: str | None, limit: int) -> list[DeadLetter]:
    async with context.attach_store(settings) as store:
        return [letter async for letter, _ in _all(store, settings, tenant, limit=limit)]


async def _all(
    store: Store, settings: Settings, tenant: str | None, *, limit: int | None = None
) -> AsyncIterator[tuple[DeadLetter, int]]:
    """All dead letters, page by page, numbered from 1."""
    number, after = 0, ""
    while limit is None or number < limit:
        # By the last id, not by number: what is discarded meanwhile would shift every page after
        # it.
        size = PAGE if limit is None else min(PAGE, limit - number)
        page = await store.dead(tenant=tenant, queue=settings.queue, after=after, limit=size)
        for letter in page:
            number += 1
            yield letter, number
        if not page:
            return
        after = page[-1].dead_id


@app.command()
def show(
    dead_id: Annotated[str, typer.Argument(metavar="ID", help="dead_… id.")], *, as_json: JsonOption = False
) -> None:
    """Show a dead letter: what was said, and why nobody could answer."""
    letter = asyncio.run(_show(context.settings(), dead_id))
    if as_json:
        output.emit(_json(letter))
        return
    output.facts(
        [
            ("id", letter.dead_id),
            ("channel", letter.address.channel),
            ("thread", letter.thread_id),
            ("message", letter.message.message_id),
            ("died", output.moment(letter.at)),
            ("reason", f"{letter.fault.code}: {letter.fault.details or letter.fault.message}"),
            ("attempts", f"{letter.attempts}, and {output.count(letter.deaths, 'worker')} died on it"),
            ("run", letter.run_id),
            ("text", letter.message.text),
        ]
    )


async def _show(settings: Settings, dead_id: str) -> DeadLetter:
    async with context.attach_store(settings) as store:
        return await _letter(store, dead_id)


async def _letter(store: Store, dead_id: str) -> DeadLetter:
    letter = await store.dead_letter(dead_id)
    if letter is None:
        raise NotFound(f"there is no dead letter {dead_id!r}, list them with `turnkeep queue dead list`")
    return letter


@app.command()
def redrive(
    dead_ids: DeadIds = None, *, every: AllDead = False, tenant: Whose = None, as_json: JsonOption = False
) -> None:
    """Accept dead letters again, at the end of their inbox and with fresh attempts."""
    _demand_some(dead_ids, every=every)
    receipts, refusals = asyncio.run(_redrive(context.settings(), dead_ids or (), tenant))
    if as_json:
        output.emit({"accepted": [receipt.to_json() for receipt in receipts], "refused": refusals})
    else:
        output.say(f"accepted {output.count(len(receipts), 'message')} again")
        for dead_id, reason in refusals.items():
            output.note(f"{dead_id}: {reason}", style="red")
    raise typer.Exit(FAILED if refusals else 0)


async def _redrive(
    settings: Settings, dead_ids: Sequence[str], tenant: str | None
) -> tuple[list[Receipt], dict[str, str]]:
    receipts, refusals = [], {}
    async with context.attach_store(settings) as store:
        with output.progress("accepting") as step:
            for dead_id in dead_ids or [letter.dead_id async for letter, _ in _all(store, settings, tenant)]:
                try:
                    receipts.append(await store.redrive(dead_id))
                # Somebody else was faster with this one; the others go on.
                except (NotFound, Conflict) as error:
                    refusals[dead_id] = str(error)
                step()
    return receipts, refusals


@app.command()
def discard(
    dead_ids: DeadIds = None,
    *,
    every: AllDead = False,
    yes: Yes = False,
    tenant: Whose = None,
    as_json: JsonOption = False,
) -> None:
    """Drop dead letters for good."""
    _demand_some(dead_ids, every=every)
    count = asyncio.run(_discard(context.settings(), dead_ids or (), tenant, yes=yes))
    if as_json:
        output.emit({"discarded": count})
    else:
        output.say(f"discarded {output.count(count, 'dead letter')}")


async def _discard(settings: Settings, dead_ids: Sequence[str], tenant: str | None, *, yes: bool) -> int:
    async with context.attach_store(settings) as store:
        for dead_id in dead_ids:
            await _letter(store, dead_id)
        # All are looked up before the first is dropped: a misspelt id costs nothing.
        ids = dead_ids or [letter.dead_id async for letter, _ in _all(store, settings, tenant)]
        if ids:
            what = output.count(len(ids), "dead letter")
            output.confirm(f"discard {what} from {context.store_location(settings)}?", yes=yes)
        return sum([await store.discard(dead_id) for dead_id in ids])


def _demand_some(dead_ids: Sequence[str] | None, *, every: bool) -> None:
    if bool(dead_ids) == every:
        raise output.NotGiven("give ids of dead letters, or --all; `turnkeep queue dead list` shows them")


def _json(letter: DeadLetter) -> dict[str, Any]:
    from turnkeep.doors.http.endpoint import dead_json

    return dead_json(letter)
