"""The transcript as rows: appending, reading backwards, and keeping it within its
bounds by whole turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

import apsw

from turnkeep.messages import item_from_json, item_to_json
from turnkeep.store.sqlite import passage_index
from turnkeep.store.sqlite.batch import ENTRY, Batch
from turnkeep.store.sqlite.codec import encode, restore
from turnkeep.store.sqlite.connection import every, one
from turnkeep.store.sqlite.rows import ThreadRow
from turnkeep.store.thread import Thread
from turnkeep.store.transcript import last_user_turn, size_of
from turnkeep.store.values import History, Policy, TranscriptEntry

_BEYOND = 1 << 62
_PAGE = 100

_OLDEST = (
    "SELECT turn, count(*), sum(size) FROM entry"
    " WHERE thread = ?1 AND turn = (SELECT min(turn) FROM entry WHERE thread = ?1)"
)


def append(batch: Batch, thread_row: ThreadRow, entries: Sequence[TranscriptEntry]) -> None:
    """Add the entries of one turn."""
    thread = thread_row.thread
    for entry in entries:
        item = item_to_json(entry.item)
        size = size_of(item)
        batch.add(ENTRY, (thread_row.row, entry.turn, entry.tokens, entry.at, size, encode(item)))
        thread.items += 1
        thread.bytes += size


def is_beyond(thread: Thread, policy: Policy) -> bool:
    """Counted in the head, so that a commit reads no entry but its own."""
    return thread.items > policy.history_items or thread.bytes > policy.history_bytes


def cut(connection: apsw.Connection, thread_row: ThreadRow, policy: Policy) -> None:
    """The oldest turns beyond the bounds go; the newest turn always stays."""
    thread, row = thread_row.thread, thread_row.row
    newest = one(connection, "SELECT max(turn) FROM entry WHERE thread = ?", (row,))[0]
    # one turn after the other, from the oldest on: what stays is not looked at, however much it is
    while is_beyond(thread, policy):
        turn, count, size = one(connection, _OLDEST, (row,))
        if turn == newest:
            return
        _delete(connection, "thread = ? AND turn = ?", (row, turn))
        thread.items -= count
        thread.bytes -= size


def remove(connection: apsw.Connection, thread_row: ThreadRow, *, through: int = -1, beginning: int = _BEYOND) -> None:
    """Delete the turns up to one, or from one on, and count what is left."""
    _delete(connection, "thread = ? AND (turn <= ? OR turn >= ?)", (thread_row.row, through, beginning))
    thread_row.thread.items, thread_row.thread.bytes = one(
        connection, "SELECT count(*), ifnull(sum(size), 0) FROM entry WHERE thread = ?", (thread_row.row,)
    )


def _delete(connection: apsw.Connection, condition: str, values: tuple[int, ...]) -> None:
    passage_index.leave_out(connection, condition, values)
    connection.execute(f"DELETE FROM entry WHERE {condition}", values)  # noqa: S608  # our own conditions


def last_turn_asked(connection: apsw.Connection, row: int) -> list[TranscriptEntry]:
    """The entries of the last turn that holds user items."""
    for turn in _backwards(connection, row, None):
        if entries := last_user_turn(turn):
            return entries
    return []


def history(
    connection: apsw.Connection,
    thread_row: ThreadRow,
    *,
    tokens: int | None,
    items: int | None,
    before_turn: int | None,
) -> History:
    """The newest whole turns within the limits; what is older is not read."""
    turns: list[list[TranscriptEntry]] = []
    count = weight = 0
    complete = True
    for turn in _backwards(connection, thread_row.row, before_turn):
        count += len(turn)
        weight += sum(entry.tokens for entry in turn)
        if (items is not None and count > items) or (tokens is not None and weight > tokens):
            complete = False
            break
        turns.append(turn)
    return History(tuple(entry for turn in reversed(turns) for entry in turn), thread_row.thread.summary, complete)


def _backwards(connection: apsw.Connection, row: int, before: int | None) -> Iterator[list[TranscriptEntry]]:
    """Whole turns, the newest first, each in its own order."""
    for _, turn in groupby(_entries_backwards(connection, row, before), key=attrgetter("turn")):
        yield list(turn)[::-1]


def _entries_backwards(connection: apsw.Connection, row: int, before: int | None) -> Iterator[TranscriptEntry]:
    """A page at a time, so that no more is read than is wanted."""
    last: tuple[int, int] = (_BEYOND if before is None else before, 0)
    while True:
        # from the last key on: an OFFSET would read again all that it skips
        page = every(
            connection,
            "SELECT item, tokens, turn, at, id FROM entry WHERE thread = ? AND (turn, id) < (?, ?)"
            " ORDER BY turn DESC, id DESC LIMIT ?",
            (row, *last, _PAGE),
        )
        for item, tokens, turn, at, _ in page:
            yield TranscriptEntry(restore("item", item_from_json, item), tokens, turn, at)
        if len(page) < _PAGE:
            return
        last = (page[-1][2], page[-1][4])
