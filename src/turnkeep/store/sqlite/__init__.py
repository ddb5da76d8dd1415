"""SQLite: a `Store` in one file, for one or several processes of one machine, with one writer
thread per process.

From the outside in: one file per protocol of the contract (`inbox`, `dead_letters`, `events`,
`threads`, `registry`, `ledger`), all of them an `engine`, which opens the file and takes operations
to its threads (`reader`, and `writer`, which takes them in groups from its `operation_queue`).
There an operation sees a `transaction` (with the `thread_cache` before the file) or a `view`, and
stores by `rows`, `event_log`, `history`, `outbox` and `once`; what a group writes goes into the
file by table (`batch`). `due_index` says which thread wakes first, `waiters` and `other_processes`
whom to wake, `owners` who lives; `layout`, `connection`, `codec`, `file_identity` and `backup` are
about the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw

from turnkeep.store.sqlite.backup import backup, place_aside, restore, vacuum
from turnkeep.store.sqlite.dead_letters import SqliteDeadLetters
from turnkeep.store.sqlite.events import SqliteEvents
from turnkeep.store.sqlite.inbox import SqliteInbox
from turnkeep.store.sqlite.ledger import SqliteLedger
from turnkeep.store.sqlite.registry import SqliteRegistry
from turnkeep.store.sqlite.threads import SqliteThreads
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.values import LAYOUT

__all__ = ["SqliteStore", "backup", "place_aside", "restore", "vacuum"]


class SqliteStore(SqliteInbox, SqliteDeadLetters, SqliteEvents, SqliteThreads, SqliteRegistry, SqliteLedger):
    """A `Store` in one file.

    What an operation returned is synced to disk, except what `publish`, `pace` and `claim` returned: a
    crash of the machine may lose the last second of it (a crash of the process does not). Several
    processes may open the same file; leases of a process that is gone are free within a second.
    """

    async def check(self) -> Mapping[str, Any]:
        waiting = self.use().writer.waiting
        # a store that can be read and not written is not well, and only a write that is synced
        # shows it
        await self.write(_write_something)
        return {
            "engine": self.engine,
            "version": apsw.sqlite_lib_version(),
            "durability": "synced to disk",
            "loses": "nothing by a crash; by a power cut the last second of a stream, and that a turn has begun",
            "layout": LAYOUT,
            "path": str(self.path),
            "bytes": self.path.stat().st_size,
            "log_bytes": self.use().writer.log_bytes,
            "waiting": waiting,
        }

    async def now(self) -> float:
        self.use()
        return self.clock.now()

    async def backup(self, target: Path) -> int:
        """Copy the store while it runs to a file that is complete and checked; its size in bytes."""
        self.use()
        return await asyncio.to_thread(backup, self.path, target)


def _write_something(tx: Transaction) -> None:
    tx.mark()
    tx.connection.execute("REPLACE INTO meta (name, value) VALUES ('checked', ?)", (tx.now,))
