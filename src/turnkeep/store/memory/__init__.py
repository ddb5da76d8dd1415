"""The memory engine: the whole contract in dictionaries, gone with the process.

It is the oracle of the other engines, so it is written to be obviously right: every operation works
on a copy of one thread, applies one rule, and puts the copy in place; nothing is awaited in
between. A rule that raises leaves the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeep.store.memory.dead_letters import MemoryDeadLetters
from turnkeep.store.memory.events import MemoryEvents
from turnkeep.store.memory.inbox import MemoryInbox
from turnkeep.store.memory.ledger import MemoryLedger
from turnkeep.store.memory.registry import MemoryRegistry
from turnkeep.store.memory.threads import MemoryThreads
from turnkeep.store.values import LAYOUT

__all__ = ["MemoryStore"]


class MemoryStore(MemoryInbox, MemoryDeadLetters, MemoryEvents, MemoryThreads, MemoryRegistry, MemoryLedger):
    """A `Store` in memory: nothing survives the process, and nobody else can see it."""

    engine = "memory"

    async def open(self) -> None:
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True
        self.bell.ring()
        self.outbox.close()

    async def check(self) -> Mapping[str, Any]:
        self.moment()
        loses = "everything when the process ends"
        return {"engine": self.engine, "version": None, "durability": "none", "loses": loses, "layout": LAYOUT}

    async def now(self) -> float:
        return self.moment()

    async def expire(self, *, limit: int = 100) -> int:
        now = self.moment()
        count = self.expire_threads(limit, now)
        self.expire_nudges()
        self.expire_receipts(now)
        self.expire_documents(now)
        self.expire_accounts(now)
        return count
