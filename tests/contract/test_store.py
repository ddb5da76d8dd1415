"""Every engine keeps every promise of the store contract."""

from __future__ import annotations

from turnkeep.store.base import Policies, Store
from turnkeep.store.memory import MemoryStore
from turnkeep.testing import FakeClock, counting_ids
from turnkeep.testing.store_suite import StoreSuite


class TestMemory(StoreSuite):
    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        store = MemoryStore(policies, clock=clock, ids=counting_ids())
        await store.open()
        return store
