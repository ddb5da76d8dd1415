"""`turnkeep sinks`: how deliveries to the outside stand, and what is parked because its
receiver fails on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption, Yes
from turnkeep.errors import NotFound
from turnkeep.store.contract import Store
from turnkeep.store.sinks import ParkedEvent, SinkRecord

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Deliveries to the outside, and what is parked.")

SinkName = Annotated[str, typer.Argument(metavar="SINK", help="Its name, as `turnkeep sinks list` shows it.")]
ParkedIds = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Ids, as `turnkeep sinks parked` shows them.")
]
AllParked = Annotated[bool, typer.Option("--all", help="All that is parked of this sink.")]

PAGE = 1000


@app.command("list")
def list_sinks(*, as_json: JsonOption = False) -> None:
    """List sinks: what waits, what is parked, and what was lost at a bound."""
    records = asyncio.run(_list())
    if as_json:
        for record in records:
            output.emit(record.to_json())
        return
    rows = [
        (one.name, one.waiting, output.moment(one.oldest_at), one.parked, one.given_up, one.lost) for one in records
    ]
    output.table(("SINK", "WAITING", "SINCE", "PARKED", "GIVEN UP", "LOST"), rows, empty="no sinks are set")


async def _list() -> list[SinkRecord]:
    async with context.attach_store(context.settings()) as store:
        return await store.sinks()


@app.command("parked")
def list_parked(
    sink: SinkName,
    *,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The oldest so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List what is parked of a sink, the oldest first: channel, reason, since when its
    receiver fails on it.
    """
    events = asyncio.run(_list_parked(sink, limit))
    if as_json:
        for event_id, one in events:
            output.emit({"id": event_id, **one.to_json()})
        return
    rows = [(event_id, one.address.channel, one.kind, output.moment(one.at), _state(one)) for event_id, one in events]
    output.table(("ID", "CHANNEL", "EVENT", "OF", "STATE"), rows, empty="nothing is parked")


def _state(one: ParkedEvent) -> str:
    if one.failed_at is None:
        return "waits behind another of its channel" if not one.reason else one.reason
    return f"{'given up' if one.is_given_up else 'failing'} since {output.moment(one.failed_at)}: {one.reason}"


async def _list_parked(sink: str, limit: int) -> list[tuple[str, ParkedEvent]]:
    async with _open(sink) as (store, record):
        return [one async for one in _all(store, record, limit)]


@app.command()
def redrive(sink: SinkName, ids: ParkedIds = None, *, every: AllParked = False, as_json: JsonOption = False) -> None:
    """Try parked events again, as if they had never failed: those that were given up too."""
    _demand_some(ids, every=every)
    count = asyncio.run(_redrive(sink, ids or ()))
    if as_json:
        output.emit({"redriven": count})
    else:
        output.say(f"{output.count(count, 'event')} will be tried again within seconds")


async def _redrive(sink: str, ids: Sequence[str]) -> int:
    async with _open(sink) as (store, record):
        event_ids = ids or [event_id async for event_id, _ in _all(store, record)]
        return await _each_partition(
            event_ids, lambda partition, positions: store.redrive_parked(sink, partition, positions)
        )


@app.command()
def discard(
    sink: SinkName, ids: ParkedIds = None, *, every: AllParked = False, yes: Yes = False, as_json: JsonOption = False
) -> None:
    """Drop parked events for good; later ones of their channels go on."""
    _demand_some(ids, every=every)
    count = asyncio.run(_discard(sink, ids or (), yes=yes))
    if as_json:
        output.emit({"discarded": count})
    else:
        output.say(f"discarded {output.count(count, 'event')}")


async def _discard(sink: str, ids: Sequence[str], *, yes: bool) -> int:
    async with _open(sink) as (store, record):
        event_ids = ids or [event_id async for event_id, _ in _all(store, record)]
        if event_ids:
            output.confirm(f"discard {output.count(len(event_ids), 'event')} of {sink}?", yes=yes)
        return await _each_partition(event_ids, lambda partition, positions: store.unpark(sink, partition, positions))


@asynccontextmanager
async def _open(sink: str) -> AsyncIterator[tuple[Store, SinkRecord]]:
    async with context.attach_store(context.settings()) as store:
        for record in await store.sinks():
            if record.name == sink:
                yield store, record
                return
        raise NotFound(f"there is no sink {sink!r}, list them with `turnkeep sinks list`")


async def _all(store: Store, record: SinkRecord, limit: int | None = None) -> AsyncIterator[tuple[str, ParkedEvent]]:
    """What is parked, by id."""
    number = 0
    for partition in record.partitions:
        after = ""
        while page := await store.list_parked(record.name, partition, after=after, limit=PAGE):
            for one in page:
                if number == limit:
                    return
                number += 1
                yield f"{partition}/{one.position}", one
            after = page[-1].position


async def _each_partition(ids: Sequence[str], act: Callable[[int, Sequence[str]], Awaitable[int]]) -> int:
    # Positions count within a partition, and a store changes one partition at a time.
    places: dict[int, list[str]] = {}
    for event_id in ids:
        partition, slash, position = event_id.partition("/")
        if not slash or not partition.isdecimal() or not position:
            raise NotFound(f"{event_id!r} is no id of a parked event, `turnkeep sinks parked` shows them")
        places.setdefault(int(partition), []).append(position)
    return sum([await act(partition, positions) for partition, positions in places.items()])


def _demand_some(ids: Sequence[str] | None, *, every: bool) -> None:
    if bool(ids) == every:
        raise output.NotGiven("give ids of parked events, or --all; `turnkeep sinks parked` shows them")
