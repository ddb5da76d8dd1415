"""A sealed store keeps every promise of the contract, on every engine."""

from __future__ import annotations

import secrets
from itertools import count
from pathlib import Path

import pytest

from tests.contract.store_suite import StoreSuite
from tests.contract.suite.answering import AnswerPromises
from tests.contract.suite.changing import ChangePromises
from tests.contract.suite.delivering import DeliveryPromises
from tests.contract.suite.desk import HERE, Start, said
from tests.contract.suite.letters import LetterPromises
from tests.contract.suite.logging import LogPromises
from tests.contract.suite.repeating import POLICY, TRIPLES, RepeatPromises, play_all, share_of
from tests.services import RedisServer
from turnkeep.store import seal_store
from turnkeep.store.aes import AesCodec
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.seal import Seal
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Policies, Policy
from turnkeep.testing import FakeClock, counting_ids

CONTENT = (AnswerPromises, ChangePromises, DeliveryPromises, LetterPromises, LogPromises, RepeatPromises)
"""What an engine keeps and gives back: half of it on each, in turns; the seal stands before every engine alike."""

CODEC = AesCodec({"k2": b"2" * 32, "k1": b"1" * 32})


async def opened(engine: Store) -> Store:
    store = seal_store(engine, CODEC)
    await store.open()
    return store


class Sealed(StoreSuite):
    """Sizes are those of what is stored."""

    async def test_a_batch_holds_no_more_bytes_than_its_limit(self, start: Start) -> None:
        size = Seal(CODEC, HERE).whole(said("m1", "x" * 100)).size
        desk = await start(Policy(window=2.0, max_batch_bytes=2 * size))
        for message_id in ("m1", "m2", "m3"):
            await desk.say(message_id, "x" * 100)

        assert (await desk.claim()).message_ids == ("m1", "m2")

    async def test_a_repeat_gives_the_first_answer_and_touches_nothing(self, start: Start) -> None:
        desk = await start(POLICY)

        def before(engine: Store) -> Store:
            return seal_store(engine, CODEC)

        assert await play_all(desk.store, desk.clock, share_of(TRIPLES, 53), before=before) == []


@pytest.mark.daily(tests=6)  # the whole of it is tried without, in test_store.py
class TestMemory(Sealed):
    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        return await opened(MemoryStore(policies, clock=clock, ids=counting_ids()))


@pytest.mark.daily(*CONTENT, tests=2)
class TestSqlite(Sealed):
    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        path = self.directory / f"{secrets.token_hex(4)}.db"
        return await opened(SqliteStore(path, policies, clock=clock, ids=counting_ids(), ballast=0))


@pytest.mark.daily(*CONTENT, tests=2, turn=1)
class TestRedis(Sealed):
    namespaces = count()

    @pytest.fixture(autouse=True)
    def on(self, redis_server: RedisServer) -> None:
        self.server = redis_server

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        prefix = f"sealed {next(self.namespaces)}:"
        return await opened(RedisStore(self.server.url(), policies, prefix=prefix, ids=counting_ids(), now=clock))
