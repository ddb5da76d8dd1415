"""Sinks as rows: what is owed to each, in an outbox of its own, and what of it is parked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from turnkeep.errors import NotFound
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.sinks import MOST_PARKED, WAITING_COUNTED, Delivery, ParkedEvent, Selection, SinkRecord
from turnkeep.store.sqlite.connection import every, one
from turnkeep.store.sqlite.event_log import EventRow, event_of
from turnkeep.store.sqlite.rows import ThreadRow

OUTBOX = 1_000_000
"""Events that wait for one sink at most; the oldest go first."""

POSITION_DIGITS = 20
_LAST = 2**63 - 1
"""The largest number that a row can have."""

CHECK_EVERY = 64
"""The bound is looked at once in so many events of the store."""

_EVENT = "position, tenant, queue, channel, thread_id, epoch, offset, at, kind, body"
_SEND = f"INSERT INTO outbox (sink, {_EVENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # our own names
_PARK = (
    f"INSERT INTO parked (sink, {_EVENT}, reason, failed_at, given_up) SELECT sink, {_EVENT}, ?, ?, 0"  # noqa: S608
    " FROM outbox WHERE sink = ? AND position = ? ON CONFLICT DO NOTHING"
)
_NEXT = f"SELECT {_EVENT} FROM outbox WHERE sink = ? AND position > ? ORDER BY position LIMIT ?"  # noqa: S608
_AT = f"SELECT {_EVENT} FROM parked WHERE sink = ? AND position = ?"  # noqa: S608


@dataclass(frozen=True, slots=True)
class OpenSink:
    """A sink as one who appends events has to know it."""

    name: str
    selection: Selection


def open_sinks(connection: apsw.Connection) -> tuple[OpenSink, ...]:
    rows = every(connection, "SELECT name, tenant, queue, finals FROM sink ORDER BY name")
    return tuple(OpenSink(name, Selection(tenant, queue, bool(finals))) for name, tenant, queue, finals in rows)


def send(
    connection: apsw.Connection,
    thread_row: ThreadRow,
    sinks: Sequence[OpenSink],
    event_rows: Sequence[tuple[int, EventRow]],
    *,
    now: float,
) -> bool:
    """Put new events, by position, into the outbox of each sink that selects them; whether any does."""
    is_sent = False
    address = thread_row.thread.address
    where = (address.tenant, address.queue, address.channel, thread_row.thread.thread_id, thread_row.thread.epoch)
    # a copy for each sink: a slow one then holds no row of the log, which goes by bounds of its own
    for sink in sinks:
        rows = [one for one in event_rows if sink.selection.includes(address, one[1][2])]
        for position, event in rows:
            connection.execute(_SEND, (sink.name, position, *where, *event))
        if any(position % CHECK_EVERY == 0 for position, _ in rows):
            _keep_bound(connection, sink.name, now)
        is_sent = is_sent or bool(rows)
    return is_sent


def _keep_bound(connection: apsw.Connection, sink: str, now: float) -> None:
    """Positions rise, so rows are counted only where the oldest one is far behind: that takes long."""
    first, last = one(connection, "SELECT min(position), max(position) FROM outbox WHERE sink = ?", (sink,))
    if last - first >= OUTBOX:
        # positions are of the whole store: other sinks and channels leave gaps, so only counting
        # says how many wait
        [count] = one(connection, "SELECT count(*) FROM outbox WHERE sink = ?", (sink,))
        if count > OUTBOX:
            _drop_oldest(connection, sink, count - OUTBOX, now)


def _drop_oldest(connection: apsw.Connection, sink: str, count: int, now: float) -> None:
    # one that is opened again keeps its position, and goes on where it was
    connection.execute(
        "DELETE FROM outbox WHERE sink = ?1 AND position <="
        " (SELECT position FROM outbox WHERE sink = ?1 ORDER BY position LIMIT 1 OFFSET ?2)",
        (sink, count - 1),
    )
    connection.execute("UPDATE sink SET lost = lost + ?2, lost_at = ?3 WHERE name = ?1", (sink, count, now))


@dataclass(frozen=True, slots=True)
class SinkPartition:
    """Where a sink stands, who has it, and until when."""

    position: int
    owner: str
    until: float


def open_sink(connection: apsw.Connection, sink: str, selection: Selection) -> None:
    connection.execute(
        "INSERT INTO sink (name, tenant, queue, finals, position, lost, owner, until)"
        " VALUES (?, ?, ?, ?, 0, 0, '', 0.0) ON CONFLICT (name) DO UPDATE"
        " SET tenant = excluded.tenant, queue = excluded.queue, finals = excluded.finals",
        (sink, selection.tenant, selection.queue, int(selection.finals)),
    )


def close_sink(connection: apsw.Connection, sink: str) -> None:
    connection.execute("DELETE FROM sink WHERE name = ?", (sink,))
    connection.execute("DELETE FROM outbox WHERE sink = ?", (sink,))
    connection.execute("DELETE FROM parked WHERE sink = ?", (sink,))


def holding(connection: apsw.Connection, sink: str, partition: int) -> SinkPartition:
    """Raises `NotFound` for a sink that is not open."""
    rows = every(connection, "SELECT position, owner, until FROM sink WHERE name = ?", (sink,))
    if not rows or partition != 0:
        raise NotFound(f"sink {sink!r} with partition {partition} is not open, open it first")
    return SinkPartition(*rows[0])


def deliveries(connection: apsw.Connection, sink: str, after: int, limit: int) -> list[Delivery]:
    return [_delivery(row) for row in every(connection, _NEXT, (sink, after, limit))]


def move(connection: apsw.Connection, sink: str, position: int) -> None:
    """What is delivered up to here, or parked, leaves the outbox."""
    connection.execute("DELETE FROM outbox WHERE sink = ? AND position <= ?", (sink, position))
    connection.execute("UPDATE sink SET position = max(position, ?) WHERE name = ?", (position, sink))


def park(connection: apsw.Connection, sink: str, position: int, *, reason: str, now: float) -> None:
    """Copy an event of the outbox; one that is parked already stays as it is."""
    connection.execute(_PARK, (reason, now if reason else None, sink, position))


def bound_parked(connection: apsw.Connection, sink: str, now: float) -> None:
    connection.execute(
        "DELETE FROM parked WHERE sink = ?1 AND position IN (SELECT position FROM parked WHERE sink = ?1"
        " ORDER BY given_up DESC, position LIMIT max(0, (SELECT count(*) FROM parked WHERE sink = ?1) - ?2))",
        (sink, MOST_PARKED),
    )
    if count := connection.changes():
        connection.execute("UPDATE sink SET lost = lost + ?, lost_at = ? WHERE name = ?", (count, now, sink))


def list_parked(connection: apsw.Connection, sink: str, after: int, limit: int) -> list[ParkedEvent]:
    rows = every(
        connection,
        "SELECT position, tenant, queue, channel, thread_id, kind, offset, at, reason, failed_at, given_up FROM parked"
        " WHERE sink = ? AND position > ? ORDER BY position LIMIT ?",
        (sink, after, limit),
    )
    return [_parked_event(row) for row in rows]


def parked_deliveries(connection: apsw.Connection, sink: str, positions: Sequence[int]) -> list[Delivery]:
    return [_delivery(row) for position in sorted(positions) for row in every(connection, _AT, (sink, position))]


def note_failure(
    connection: apsw.Connection, sink: str, position: int, reason: str, *, give_up: bool, now: float
) -> None:
    connection.execute(
        "UPDATE parked SET reason = ?, failed_at = ifnull(failed_at, ?), given_up = ? WHERE sink = ? AND position = ?",
        (reason, now, int(give_up), sink, position),
    )


def redrive(connection: apsw.Connection, sink: str, positions: Sequence[int]) -> int:
    statement = "UPDATE parked SET reason = '', failed_at = NULL, given_up = 0 WHERE sink = ? AND position = ?"
    return _count(connection, statement, sink, positions)


def unpark(connection: apsw.Connection, sink: str, positions: Sequence[int]) -> int:
    return _count(connection, "DELETE FROM parked WHERE sink = ? AND position = ?", sink, positions)


def _count(connection: apsw.Connection, statement: str, sink: str, positions: Sequence[int]) -> int:
    """How many rows a statement changed, over all positions."""
    count = 0
    for position in positions:
        connection.execute(statement, (sink, position))
        count += connection.changes()
    return count


def records(connection: apsw.Connection) -> list[SinkRecord]:
    rows = every(
        connection,
        "SELECT name, (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE sink = name LIMIT ?)),"
        " (SELECT at FROM outbox WHERE sink = name ORDER BY position LIMIT 1),"
        " (SELECT count(*) FROM parked WHERE sink = name),"
        " (SELECT count(*) FROM parked WHERE sink = name AND given_up = 1), lost, lost_at FROM sink ORDER BY name",
        (WAITING_COUNTED,),
    )
    return [SinkRecord(*row) for row in rows]


def position_of(number: int) -> str:
    """Text that sorts like the number; nothing for the beginning."""
    return f"{number:0{POSITION_DIGITS}d}" if number else ""


def number_of(position: str) -> int:
    """Positions come from people too: -1, where nothing ever is, for text that is none of ours."""
    if not position:
        return 0
    number = int(position) if position.isascii() and position.isdigit() and len(position) <= POSITION_DIGITS else -1
    return number if number <= _LAST else -1


def _delivery(row: Sequence[Any]) -> Delivery:
    position, tenant, queue, channel, thread_id, epoch, offset, at, kind, body = row
    where = Address(tenant, queue, channel)
    return Delivery(position_of(position), where, thread_id, event_of(offset, at, kind, body, epoch))


def _parked_event(row: Sequence[Any]) -> ParkedEvent:
    position, tenant, queue, channel, thread_id, kind, offset, at, reason, failed_at, given_up = row
    where = Address(tenant, queue, channel)
    return ParkedEvent(position_of(position), where, thread_id, kind, offset, at, reason, failed_at, bool(given_up))
