"""Threads in memory over those in the file.

A loaded thread stays in memory while nobody else has changed it, and goes when an operation on it
raised.
"""

from __future__ import annotations

from collections import OrderedDict

import apsw

from turnkeep.messages import Address
from turnkeep.store.sqlite import rows
from turnkeep.store.sqlite.owners import Owners
from turnkeep.store.sqlite.rows import ThreadRow

MOST_THREADS = 4096


class ThreadCache:
    """What the writer has loaded and stored, the one that was used longest ago first."""

    def __init__(self, file: apsw.Connection, owners: Owners) -> None:
        self._file = file
        self._owners = owners
        self._thread_rows: OrderedDict[Address, ThreadRow] = OrderedDict()
        self._version = -1
        """Of the file, at the last look: a thread of this version is as the file has it."""
        self._operation_addresses: list[Address] = []

    def __contains__(self, address: Address) -> bool:
        return address in self._thread_rows

    def look(self) -> bool:
        """Whether somebody else has written since the last look. What that means for a thread is asked
        when it is needed.
        """
        # changes by commits of other connections alone, and is read from shared memory: no query of
        # the file
        version: int = self._file.execute("PRAGMA data_version").get
        has_changed = version != self._version
        self._version = version
        return has_changed

    def get(self, address: Address) -> ThreadRow | None:
        """A thread as the file has it, or None."""
        thread_row = self._thread_rows.get(address)
        if thread_row is None:
            return None
        if thread_row.version != self._version:
            if not self._is_as_stored(thread_row):
                del self._thread_rows[address]
                return None
            thread_row.version = self._version
        self._thread_rows.move_to_end(address)
        self._operation_addresses.append(address)
        return thread_row

    def recall(self, address: Address) -> ThreadRow | None:
        """What memory has of a thread, which may be old by now: for a guess of the event loop."""
        return self._thread_rows.get(address)

    def keep(self, thread_row: ThreadRow) -> None:
        address = thread_row.thread.address
        thread_row.version = self._version
        self._thread_rows[address] = thread_row
        self._operation_addresses.append(address)
        # the one that was used longest ago: `get` moves to the end
        if len(self._thread_rows) > MOST_THREADS:
            self._thread_rows.popitem(last=False)

    def drop(self, address: Address) -> None:
        """Forget a thread with changes that are not to be stored."""
        self._thread_rows.pop(address, None)

    def begin_operation(self) -> None:
        self._operation_addresses.clear()

    def undo_operation(self) -> None:
        # rules change threads in place: one that was begun to be changed is not to be trusted
        for address in self._operation_addresses:
            self.drop(address)

    def clear(self) -> None:
        """Memory holds what was taken back: the next look has to find that the file is another."""
        self._version = -1
        self._thread_rows.clear()

    def _is_as_stored(self, thread_row: ThreadRow) -> bool:
        """Whether nobody else has changed this thread since it was read or stored."""
        # what a run of another process publishes does not show in the head
        if thread_row.thread.state == "leased" and thread_row.thread.owner not in self._owners:
            return False
        return rows.is_as_stored(self._file, thread_row)
