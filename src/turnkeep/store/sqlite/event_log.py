"""The event log as rows: appending, reading, and keeping it within its bounds
(`turnkeep.store.log_bounds` says which).

A row holds what the event says; thread, offset, time and kind are columns, the
epoch is the thread's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import apsw

from turnkeep.events import FINAL, Answer, Event, EventKind, TextDelta
from turnkeep.store.sqlite.batch import EVENT
from turnkeep.store.sqlite.codec import decode, encode, restore
from turnkeep.store.sqlite.connection import every
from turnkeep.store.sqlite.rows import ThreadRow
from turnkeep.store.values import Page, Policy

_FINAL = "('" + "', '".join(sorted(FINAL)) + "')"


_RARE = ("tools", "calls", "error", "author", "detail", "place")
_USUAL = {f.name: f.default for f in fields(Event)}
_OFTEN = tuple(name for name in _USUAL if name not in (*_RARE, "usage", "kind", "offset", "epoch", "at"))
_often_defaults = tuple(_USUAL[name] for name in _OFTEN)
_rare_defaults = tuple(_USUAL[name] for name in _RARE)
# All fields by one call in C; `asdict` copies every value deeply, for each token.
_often_values, _rare_values = attrgetter(*_OFTEN), attrgetter(*_RARE)

_DELTA = frozenset(("text", "run_id", "attempt"))

EventRow = tuple[int, float, EventKind, str]
"""An event as a row: offset, time, kind, body."""


def body_of(event: Event) -> str:
    """What an event says, without fields that hold their default."""
    if event.__class__ is TextDelta:  # the hot path: one per token
        return encode({"text": event.text, "run_id": event.run_id, "attempt": event.attempt})
    triples = zip(_OFTEN, _often_values(event), _often_defaults, strict=True)
    data = {name: value for name, value, usual in triples if value != usual}
    # compared as one: few events have any of them
    if (rare := _rare_values(event)) != _rare_defaults:
        triples = zip(_RARE, rare, _rare_defaults, strict=True)
        data |= {name: value for name, value, usual in triples if value != usual}
    if event.usage is not None:
        data["usage"] = event.usage.to_json()
    if event.detail is not None:
        data["detail"] = event.detail.to_json()
    return encode(data)


def event_of(offset: int, at: float, kind: str, body: str, epoch: str) -> Event:
    def make(data: Mapping[str, Any]) -> Event:
        if kind == "delta" and data.keys() <= _DELTA:  # the hot path: one per token, where others follow it
            return TextDelta(data.get("text", ""), data.get("run_id"), data.get("attempt", 0), offset, epoch, at)
        return Event.from_json({**data, "kind": kind, "offset": offset, "epoch": epoch, "at": at})

    return restore("event", make, body)


def row_of(event: Event) -> EventRow:
    return event.offset, event.at, event.kind, body_of(event)


def append(connection: apsw.Connection, thread_row: ThreadRow, events: Iterable[Event]) -> list[tuple[int, EventRow]]:
    """Store new events at once; the rows by position, for those who need to know it."""
    rows: list[tuple[int, EventRow]] = []
    for event in events:
        row = row_of(event)
        # one by one, because each position is needed, and `executemany` tells the last alone
        connection.execute(EVENT.put, (thread_row.row, *row))
        rows.append((connection.last_insert_rowid(), row))
    return rows


def page(connection: apsw.Connection, thread_row: ThreadRow, after: int, limit: int) -> Page:
    thread = thread_row.thread
    rows = every(
        connection,
        "SELECT offset, at, kind, body FROM event WHERE thread = ? AND offset > ? ORDER BY offset LIMIT ?",
        (thread_row.row, after, limit),
    )
    events = tuple(event_of(offset, at, kind, body, thread.epoch) for offset, at, kind, body in rows)
    return Page(thread.epoch, thread.top, thread_row.floor, thread.live_from, events)


def trim(connection: apsw.Connection, thread_row: ThreadRow, policy: Policy, now: float) -> None:
    """Take out of a log what the policy does not keep, and remember the highest offset that went."""
    live = thread_row.thread.live_from
    new_floor = _age(connection, thread_row.row, thread_row.thread.top + 1 if live is None else live, policy, now)
    if live is not None:
        new_floor = max(new_floor, _roll(connection, thread_row, live, policy))
    if new_floor > thread_row.floor:
        thread_row.floor = new_floor
        connection.execute("UPDATE thread SET floor = ? WHERE id = ?", (new_floor, thread_row.row))


def _age(connection: apsw.Connection, row: int, end: int, policy: Policy, now: float) -> int:
    """Before `end`, keep the newest events within the age, and beyond them the last final ones."""
    newest = _newest(connection, row, end, policy.log_events)
    recent = connection.execute(
        "SELECT offset FROM event WHERE thread = ? AND offset > ? AND offset < ? AND at >= ? ORDER BY offset LIMIT 1",
        (row, newest, end, now - policy.log_age),
    ).get
    start = end if recent is None else recent
    finals = _newest(connection, row, start, policy.log_events, f"AND kind IN {_FINAL}")
    return _delete(connection, row, f"offset < ? AND (offset <= ? OR kind NOT IN {_FINAL})", (start, finals))


def _newest(connection: apsw.Connection, row: int, end: int, count: int, only: str = "") -> int:
    """The offset of the newest event before `end` that is not among the last so many; 0 if all are."""
    # the index alone answers this: it holds the kind for that (`event_thread`)
    offset: int | None = connection.execute(
        f"SELECT offset FROM event WHERE thread = ? AND offset < ? {only}"  # noqa: S608  # our own condition
        " ORDER BY offset DESC LIMIT 1 OFFSET ?",
        (row, end, count),
    ).get
    return offset or 0


def _delete(connection: apsw.Connection, row: int, which: str, values: Sequence[Any]) -> int:
    """Delete events; the highest offset that went, 0 for none."""
    rows = every(
        connection,
        f"DELETE FROM event WHERE thread = ? AND {which} RETURNING offset",  # noqa: S608  # our own condition
        (row, *values),
    )
    return max((offset for (offset,) in rows), default=0)


def _roll(connection: apsw.Connection, thread_row: ThreadRow, live: int, policy: Policy) -> int:
    """Of the run in progress keep the newest deltas; one snapshot at the last older one tells what
    they said.
    """
    row = thread_row.row
    if thread_row.thread.top - max(live - 1, thread_row.floor) <= policy.log_events:
        return 0  # there cannot be more
    last = _newest(connection, row, 1 << 62, policy.log_events, f"AND offset >= {int(live)} AND kind = 'delta'")
    if not last:
        return 0
    rows = every(
        connection,
        "SELECT offset, at, kind, body FROM event WHERE thread = ? AND offset BETWEEN ? AND ? ORDER BY offset",
        (row, live, last),
    )
    # a subscriber that comes late has to see the same text: the snapshot is made by the rule that
    # readers go by
    answer = Answer()
    for offset, at, kind, text in rows:
        answer.take(event_of(offset, at, kind, text, ""))
    _delete(connection, row, "offset >= ? AND offset < ? AND kind IN ('delta', 'snapshot')", (live, last))
    body = encode(decode(rows[-1][3]) | {"text": answer.text})
    connection.execute(
        "UPDATE event SET kind = 'snapshot', body = ? WHERE thread = ? AND offset = ?", (body, row, last)
    )
    return last
