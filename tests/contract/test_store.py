"""Memory, Redis and Valkey keep every promise of the store contract; SQLite does so in `test_store_sqlite`."""

from __future__ import annotations

from itertools import count

import pytest

from tests.contract.store_suite import StoreSuite
from tests.contract.suite.claiming import ClaimPromises
from tests.contract.suite.engine import EnginePromises
from tests.contract.suite.letters import LetterPromises
from tests.contract.suite.threads import ThreadPromises
from tests.services import RedisServer
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import Policies
from turnkeep.testing import FakeClock, counting_ids


class TestMemory(StoreSuite):
    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        store = MemoryStore(policies, clock=clock, ids=counting_ids())
        await store.open()
        return store


class OnServer(StoreSuite):
    """Each store has a namespace of its own on the server of the test."""

    server: RedisServer
    namespaces = count()

    partitions: int | None = None

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        prefix = f"test {next(self.namespaces)}:"
        store = RedisStore(
            self.server.url(), policies, prefix=prefix, partitions=self.partitions, ids=counting_ids(), now=clock
        )
        await store.open()
        return store


@pytest.mark.daily(rows=4, turn=2)  # memory tries all, by the same rules, and SQLite the rows between these
class TestRedis(OnServer):
    @pytest.fixture(autouse=True)
    def on(self, redis_server: RedisServer) -> None:
        self.server = redis_server


@pytest.mark.daily(LetterPromises, ThreadPromises, tests=2, rows=4, turn=1)  # the same scripts as above
class TestRedisCutFiner(OnServer):
    """Four times as many partitions: an id that carries one of 16 leads to four."""

    partitions = 64

    @pytest.fixture(autouse=True)
    def on(self, redis_server: RedisServer) -> None:
        self.server = redis_server


@pytest.mark.daily(EnginePromises, ClaimPromises, rows=4, turn=1)  # the same scripts as above
class TestValkey(OnServer):
    @pytest.fixture(autouse=True)
    def on(self, valkey_server: RedisServer) -> None:
        self.server = valkey_server
