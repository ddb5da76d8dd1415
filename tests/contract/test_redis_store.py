"""The Redis engine keeps every promise of the store contract, on Redis and on Valkey."""

from __future__ import annotations

from itertools import count

import pytest

from tests.services import RedisServer
from turnkeep.store.base import Policies, Store
from turnkeep.store.redis import RedisStore
from turnkeep.testing import FakeClock, counting_ids
from turnkeep.testing.store_suite import StoreSuite

_prefixes = map("p{}:".format, count())


class TestRedis(StoreSuite):
    @pytest.fixture(autouse=True)
    def server(self, redis_server: RedisServer) -> None:
        self._server = redis_server

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        store = RedisStore(self._server.url(), policies, prefix=next(_prefixes), now=clock, ids=counting_ids())
        await store.open()
        return store


class TestValkey(StoreSuite):
    @pytest.fixture(autouse=True)
    def server(self, valkey_server: RedisServer) -> None:
        self._server = valkey_server

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        store = RedisStore(self._server.url(), policies, prefix=next(_prefixes), now=clock, ids=counting_ids())
        await store.open()
        return store
