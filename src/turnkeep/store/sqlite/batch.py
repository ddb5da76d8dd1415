"""Rows that a group of operations writes, kept until somebody has to see them in the file: then one
statement for each table, where a statement for each row costs twice as much.

The rows of an operation stand apart until it has succeeded, so taking one back alone costs nothing.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import apsw

from turnkeep.lean_dataclass import dataclass

Row = tuple[Any, ...]
RowKey = Any
"""Of one row: a tuple where rows can be deleted by it."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The statement that writes one row, and the one that deletes by a key: one row, or all whose
    keys begin with it.
    """

    put: str
    drop: str = ""
    drops_many: bool = False


NEW_THREAD = Table(
    "INSERT INTO thread (state, paused, wake, owner, open, active_at, expires_at, head, id,"
    " tenant, queue, channel, thread_id, created_at, active_minute)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
THREAD = Table(
    "UPDATE thread SET state = ?, paused = ?, wake = ?, owner = ?, open = ?, active_at = ?, expires_at = ?, head = ?"
    " WHERE id = ?"
)
# apart from the row's other columns: SQLite writes an index whenever a statement names its column, changed or not
ACTIVE_MINUTE = Table("UPDATE thread SET active_minute = ? WHERE id = ?")
# only a new row has a place in the order: a message that was edited keeps its own
MESSAGE = Table(
    "INSERT INTO message (thread, message_id, n, body) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (thread, message_id) DO UPDATE SET body = excluded.body",
    "DELETE FROM message WHERE thread = ? AND message_id = ?",
)
MESSAGE_ID = Table(
    "INSERT INTO known (thread, message_id, forget_at, body) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (thread, message_id) DO UPDATE SET forget_at = excluded.forget_at, body = excluded.body"
)
JOURNAL = Table("INSERT INTO journal (thread, n, body) VALUES (?, ?, ?)", "DELETE FROM journal WHERE thread = ?", True)
ENTRY = Table("INSERT INTO entry (thread, turn, tokens, at, size, item) VALUES (?, ?, ?, ?, ?, ?)")
RUN = Table("INSERT INTO run (thread, body) VALUES (?, ?)")
EVENT = Table("INSERT INTO event (thread, offset, at, kind, body) VALUES (?, ?, ?, ?, ?)")
TOTAL = Table(
    "INSERT INTO total (tenant, queue, completed, failed) VALUES (?, ?, ?, ?) ON CONFLICT (tenant, queue)"
    " DO UPDATE SET completed = completed + excluded.completed, failed = failed + excluded.failed"
)
SHARE = Table("REPLACE INTO served (tenant, claims, floor) VALUES (?, ?, ?)")

# a thread has its row before others refer to it
_ORDER = (NEW_THREAD, THREAD, ACTIVE_MINUTE, MESSAGE, MESSAGE_ID, JOURNAL, ENTRY, RUN, EVENT, TOTAL, SHARE)


class Batch:
    """The rows of one group. Of one key the newest counts, so their order within a table says nothing."""

    def __init__(self) -> None:
        self._rows: dict[Table, dict[RowKey, Row | None]] = {table: {} for table in _ORDER}
        self._own: list[tuple[Table, RowKey, Row | None]] = []
        self._numbers = count()
        self.is_empty = True
        """Whether the group has no rows but those of the operation in progress."""

    @property
    def has_own(self) -> bool:
        return bool(self._own)

    def put(self, table: Table, key: RowKey, row: Row) -> None:
        """Write this row, in place of the one with this key."""
        self._own.append((table, key, row))

    def add(self, table: Table, row: Row) -> None:
        """Write one more row, behind all others."""
        self._own.append((table, next(self._numbers), row))

    def drop(self, table: Table, key: Row) -> None:
        """Delete the row with this key, or the rows whose keys begin with it."""
        self._own.append((table, key, None))

    def holds(self, table: Table, key: RowKey) -> bool:
        """Whether the file does not say yet what the row with this key is."""
        return key in self._rows[table] or any(own[0] is table and own[1] == key for own in self._own)

    def take_in(self) -> None:
        """The operation has succeeded: its rows are the group's."""
        for table, key, row in self._own:
            if row is None and table.drops_many:
                _drop_many(self._rows[table], key)
            self._rows[table][key] = row
        if self._own:
            self._own.clear()
            self.is_empty = False

    def take_back(self) -> None:
        """The operation has failed: forget its rows."""
        self._own.clear()

    def forget(self) -> None:
        """The group has failed."""
        self._own.clear()
        self._clear()

    def write(self, connection: apsw.Connection) -> int | None:
        """Put the rows of the group into the file. The position of the newest event, if there are any."""
        position = None
        for table, rows in self._rows.items():
            if rows:
                _write(connection, table, rows)
                if table is EVENT:
                    position = connection.last_insert_rowid()
        self._clear()
        return position

    def _clear(self) -> None:
        for rows in self._rows.values():
            rows.clear()
        self.is_empty = True


def _drop_many(rows: dict[RowKey, Row | None], prefix: RowKey) -> None:
    """What the deletion would meet in the file, if it were there."""
    for key in [key for key in rows if isinstance(key, tuple) and key[:1] == prefix]:
        del rows[key]


def _write(connection: apsw.Connection, table: Table, rows: dict[RowKey, Row | None]) -> None:
    if table.drop:
        keys = [key for key, row in rows.items() if row is None]
        if keys:
            connection.executemany(table.drop, keys)
    put = [row for row in rows.values() if row is not None]
    if put:
        connection.executemany(table.put, put)
