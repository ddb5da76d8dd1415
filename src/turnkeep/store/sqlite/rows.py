"""A thread as rows, and back: its head, its open messages, its journal, and what is remembered of
message ids.

`top` and `published` are kept in memory while a run publishes; the head is not written for each
delta. They are found again from the newest event of the log, because whatever else appends to the
log writes the head as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any

import apsw

from turnkeep.errors import ThreadQuarantined
from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Message
from turnkeep.store.records import time_to_live
from turnkeep.store.sqlite import passage_index
from turnkeep.store.sqlite.batch import ACTIVE_MINUTE, JOURNAL, MESSAGE, MESSAGE_ID, NEW_THREAD, THREAD, Batch
from turnkeep.store.sqlite.codec import decode, encode, restore
from turnkeep.store.sqlite.connection import every
from turnkeep.store.thread import AcceptedId, InboxMessage, Out, Thread, merge_known
from turnkeep.store.values import DeadLetter, HeldCall, Policy, RunRecord
from turnkeep.usage import Usage

OWN_TABLES = ("message", "known", "journal", "entry", "run", "event")
"""Tables whose rows belong to a thread, by its row id in the column `thread`."""

RUNS_SLACK = 8

_THREAD_STATE = "SELECT id, head, floor, open, active_minute FROM thread"
_StoredThread = tuple[int, str, int, int, int]


@dataclass(slots=True)
class ThreadRow:
    """A thread in memory, with what its row says beside the head. `row` is 0 until it is stored."""

    row: int
    thread: Thread
    epoch: str
    floor: int = 0
    wake: float | None = None
    """As stored, and the minute too."""
    active_minute: int = 0
    accepted_count: int = 0
    """The highest place in the order of acceptance among open messages."""
    accepted_ids: dict[str, AcceptedId] = field(default_factory=dict)
    """What is remembered of open messages, as far as it was needed."""
    has_past: bool | None = None
    """Whether ids of an earlier thread of its channel are remembered, once that was looked up."""
    is_new: bool = False
    """Nothing of it was put yet."""
    head: str = ""
    """As stored."""
    version: int = -1
    """Of the file, when this was what it says."""


@dataclass(frozen=True, slots=True)
class RowAddress:
    """Where an address leads: the row, and the address that the thread was made under."""

    row: int
    address: Address


def find(connection: apsw.Connection, address: Address) -> RowAddress | None:
    """The thread of a channel, or the one whose id the channel is."""
    row = connection.execute(
        "SELECT id FROM thread WHERE tenant = ? AND queue = ? AND channel = ?",
        (address.tenant, address.queue, address.channel),
    ).get
    if row is not None:
        return RowAddress(row, address)
    if not address.names_thread:
        return None
    other = connection.execute(
        "SELECT id, channel FROM thread WHERE tenant = ? AND queue = ? AND thread_id = ?",
        (address.tenant, address.queue, address.channel),
    ).get
    return None if other is None else RowAddress(other[0], Address(address.tenant, address.queue, other[1]))


def load(connection: apsw.Connection, row: int, incarnation: str) -> ThreadRow:
    """Raises `ThreadQuarantined` when what is stored makes no sense."""
    return _restore_thread(connection, connection.execute(f"{_THREAD_STATE} WHERE id = ?", (row,)).get, incarnation)


def load_channel(connection: apsw.Connection, address: Address, incarnation: str) -> ThreadRow | None:
    """The thread that was made under this address, by one look. Raises `ThreadQuarantined`."""
    state = connection.execute(
        f"{_THREAD_STATE} WHERE tenant = ? AND queue = ? AND channel = ?",
        (address.tenant, address.queue, address.channel),
    ).get
    return None if state is None else _restore_thread(connection, state, incarnation)


def is_as_stored(connection: apsw.Connection, thread_row: ThreadRow) -> bool:
    """Whether the file says of a thread what was read or stored here."""
    # no two states have one head: what changes beside it adds to the log, or is the doing of the lease's
    # owner
    state = connection.execute("SELECT head, floor, damaged FROM thread WHERE id = ?", (thread_row.row,)).get
    if state != (thread_row.head, thread_row.floor, None):
        return False
    thread = thread_row.thread
    return thread.state != "leased" or _newest_offset(connection, thread_row.row) == thread.top


def _restore_thread(connection: apsw.Connection, state: _StoredThread, incarnation: str) -> ThreadRow:
    row, head, floor, is_open, active_minute = state
    try:
        thread = Thread.from_json(decode(head))
        # the column spares idle threads, which most of them are, a query
        accepted_count = _load_messages(connection, row, thread) if is_open else 0
        if thread.frozen:
            records = every(connection, "SELECT body FROM journal WHERE thread = ? ORDER BY n", (row,))
            thread.journal = tuple([decode(body) for (body,) in records])
    # damage stays with its thread: the others go on (P9)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, apsw.CorruptError) as error:
        raise ThreadQuarantined(
            f"the stored state of thread row {row} cannot be read ({type(error).__name__}), look at it or forget it"
        ) from error
    # a run alone adds events without its head
    if thread.state == "leased":
        _find_top(connection, row, thread)
    thread_row = ThreadRow(row, thread, thread.epoch, floor, thread.wake, active_minute, accepted_count, head=head)
    thread.epoch += incarnation
    return thread_row


def _load_messages(connection: apsw.Connection, row: int, thread: Thread) -> int:
    """The highest place in the order of acceptance."""
    records = every(connection, "SELECT body, n FROM message WHERE thread = ? ORDER BY n", (row,))
    messages = [InboxMessage.from_json(thread.address, decode(body)) for body, _ in records]
    # the order of acceptance, which the rows have, is not that of the inbox: a delayed message gets
    # its number late
    thread.inbox = sorted((o for o in messages if o.message.seq), key=lambda o: o.message.seq)
    later = sorted((o for o in messages if not o.message.seq), key=lambda o: o.message.not_before or 0.0)
    thread.delayed = tuple(later)
    if thread.batch > len(thread.inbox):
        raise ValueError("the batch is longer than the inbox")
    return records[-1][1] if records else 0


def _find_top(connection: apsw.Connection, row: int, thread: Thread) -> None:
    """Events behind the head's `top` were published by the run in progress."""
    top = _newest_offset(connection, row)
    if top > thread.top:
        thread.published += top - thread.top
        thread.top = top


def _newest_offset(connection: apsw.Connection, row: int) -> int:
    offset: int | None = connection.execute("SELECT max(offset) FROM event WHERE thread = ?", (row,)).get
    return offset or 0


def load_known(connection: apsw.Connection, row: int, message_id: str, now: float) -> AcceptedId | None:
    """What is remembered of a message id; None when it is unknown or its time is over."""
    body = connection.execute(
        "SELECT body FROM known WHERE thread = ? AND message_id = ? AND (forget_at IS NULL OR forget_at > ?)",
        (row, message_id, now),
    ).get
    return None if body is None else restore("message id", AcceptedId.from_json, body)


def has_any_past_id(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT 1 FROM past_id LIMIT 1").get is not None


def has_past_ids(connection: apsw.Connection, address: Address) -> bool:
    row = connection.execute(
        "SELECT 1 FROM past_id WHERE tenant = ? AND queue = ? AND channel = ? LIMIT 1",
        (address.tenant, address.queue, address.channel),
    ).get
    return row is not None


def load_past_id(connection: apsw.Connection, address: Address, message_id: str, now: float) -> AcceptedId | None:
    """What is remembered of an id of an earlier thread of this channel."""
    body = connection.execute(
        "SELECT body FROM past_id WHERE tenant = ? AND queue = ? AND channel = ? AND message_id = ? AND forget_at > ?",
        (address.tenant, address.queue, address.channel, message_id, now),
    ).get
    return None if body is None else restore("message id", AcceptedId.from_json, body)


def put_head(batch: Batch, thread_row: ThreadRow, policy: Policy) -> None:
    """The thread's own row."""
    thread, row = thread_row.thread, thread_row.row
    # the epoch without what this life of the file adds: the next life adds its own
    thread_row.head = encode(thread.head_to_json(epoch=thread_row.epoch))
    changing = (*_search_columns(thread, policy), thread_row.head, row)
    if thread_row.is_new or batch.holds(NEW_THREAD, row):
        thread_row.is_new = False
        thread_row.active_minute = _minute(thread)
        batch.put(NEW_THREAD, row, (*changing, *_identity(thread), thread_row.active_minute))
        return
    batch.put(THREAD, row, changing)
    if thread_row.active_minute != _minute(thread):
        thread_row.active_minute = _minute(thread)
        batch.put(ACTIVE_MINUTE, row, (thread_row.active_minute, row))


def _minute(thread: Thread) -> int:
    return int(thread.active_at // 60)


def _identity(thread: Thread) -> tuple[Any, ...]:
    address = thread.address
    return address.tenant, address.queue, address.channel, thread.thread_id, thread.created_at


def _search_columns(thread: Thread, policy: Policy) -> tuple[Any, ...]:
    count = len(thread.inbox) + len(thread.delayed)
    expires = thread.state == "idle" and not count
    return (
        thread.state,
        thread.paused,
        thread.wake,
        thread.owner,
        count,
        thread.active_at,
        thread.active_at + time_to_live(thread, policy) if expires else None,
    )


def put_messages(batch: Batch, thread_row: ThreadRow, out: Out) -> None:
    """Open messages that changed; those that are open no more go. What was done is journaled."""
    row, thread = thread_row.row, thread_row.thread
    if out.changed_ids:
        for inbox_message in (*thread.inbox, *thread.delayed):
            message_id = inbox_message.message.message_id
            if message_id in out.changed_ids:
                thread_row.accepted_count += 1
                body = encode(inbox_message.to_json())
                batch.put(MESSAGE, (row, message_id), (row, message_id, thread_row.accepted_count, body))
    for message_id in out.removed_ids:
        batch.drop(MESSAGE, (row, message_id))
    if out.journal_cleared:
        batch.drop(JOURNAL, (row,))
    for record in out.journal:
        batch.put(JOURNAL, (row, record["n"]), (row, record["n"], encode(record)))


def put_known(
    batch: Batch,
    thread_row: ThreadRow,
    changes: Iterable[tuple[str, AcceptedId]],
    find_accepted: Callable[[ThreadRow, str], AcceptedId | None],
) -> None:
    """Merge what became of message ids into what is remembered of them."""
    row = thread_row.row
    for message_id, new in changes:
        # a digest comes with acceptance: then there is nothing before it to be merged with, and no
        # look is needed
        old = None if new.digest else find_accepted(thread_row, message_id)
        accepted_id = merge_known(old, new)
        # only those of open messages are asked for again and again; the others are many
        if accepted_id.forget_at is None:
            thread_row.accepted_ids[message_id] = accepted_id
        else:
            thread_row.accepted_ids.pop(message_id, None)
        body = encode(accepted_id.to_json())
        batch.put(MESSAGE_ID, (row, message_id), (row, message_id, accepted_id.forget_at, body))


def cut_runs(connection: apsw.Connection, row: int, policy: Policy) -> None:
    """The oldest runs beyond the policy go."""
    connection.execute(
        "DELETE FROM run WHERE thread = ?1 AND id <="
        " (SELECT id FROM run WHERE thread = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        (row, policy.runs_kept),
    )


def leave_ids(connection: apsw.Connection, row: int, address: Address, *, now: float, policy: Policy) -> None:
    """Message ids outlive their thread: as long as was said when they were settled, the open ones
    from now.
    """
    connection.execute(
        "INSERT OR REPLACE INTO past_id (tenant, queue, channel, message_id, forget_at, body)"
        " SELECT ?, ?, ?, message_id, ifnull(forget_at, ?), body FROM known"
        " WHERE thread = ? AND ifnull(forget_at, ?) > ?",
        (address.tenant, address.queue, address.channel, now + policy.dedupe, row, now + policy.dedupe, now),
    )


def erase(connection: apsw.Connection, row: int) -> None:
    """Delete a thread with all its rows."""
    passage_index.leave_out(connection, "thread = ?", (row,))
    for table in OWN_TABLES:
        connection.execute(f"DELETE FROM {table} WHERE thread = ?", (row,))  # noqa: S608  # names of our own tables
    connection.execute("DELETE FROM thread WHERE id = ?", (row,))


def letter_to_json(letter: DeadLetter) -> dict[str, Any]:
    address = letter.address
    return {
        "dead_id": letter.dead_id,
        "address": [address.tenant, address.queue, address.channel],
        "thread_id": letter.thread_id,
        "message": letter.message.to_json(),
        "fault": letter.fault.to_json(),
        "attempts": letter.attempts,
        "deaths": letter.deaths,
        "run_id": letter.run_id,
        "at": letter.at,
    }


def letter_from_json(data: Mapping[str, Any]) -> DeadLetter:
    address = Address(*data["address"])
    message = Message.from_json(address, data["message"])
    return DeadLetter(**{**data, "address": address, "message": message, "fault": TurnFault(**data["fault"])})


def run_from_json(data: Mapping[str, Any]) -> RunRecord:
    values = {
        **data,
        "message_ids": tuple(data["message_ids"]),
        "usage": Usage.from_json(data["usage"]),
        "fault": TurnFault(**data["fault"]) if data["fault"] else None,
        "calls": tuple(HeldCall(**call) for call in data["calls"]),
    }
    return RunRecord(**values)
