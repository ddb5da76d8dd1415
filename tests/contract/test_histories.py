"""The engines live through random histories exactly as the memory engine does; SQLite does in `test_store_sqlite`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.contract.histories import drive
from tests.contract.twins import Make
from tests.services import RedisServer
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import Policies
from turnkeep.testing import FakeClock, counting_ids

Size = Callable[[int, int], int]
Proof = Callable[[str, str], None]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.only_in_prove  # the same books are kept beside Redis below, and beside SQLite
@pytest.mark.prove
@pytest.mark.timeout(1200)
def test_the_books_agree_with_the_memory_engine(loop: asyncio.AbstractEventLoop, size: Size, proof: Proof) -> None:
    async def make(policies: Policies, clock: FakeClock) -> Store:
        return MemoryStore(policies, clock=clock, ids=counting_ids())

    drive(make, examples=size(30, 1_000), steps=50, loop=loop)
    proof("histories: memory", f"{size(30, 1_000)} × 50 steps, no promise broken")


@pytest.mark.prove
@pytest.mark.timeout(1200)
def test_redis_lives_as_memory_does(
    loop: asyncio.AbstractEventLoop, size: Size, proof: Proof, redis_server: RedisServer
) -> None:
    drive(on(redis_server), examples=size(3, 500), steps=50, loop=loop)
    proof("histories: redis", f"{size(3, 500)} × 50 steps, every answer equal")


@pytest.mark.only_in_prove  # the scripts are those that Redis runs above
@pytest.mark.prove
@pytest.mark.timeout(1200)
def test_valkey_lives_as_memory_does(
    loop: asyncio.AbstractEventLoop, size: Size, proof: Proof, valkey_server: RedisServer
) -> None:
    drive(on(valkey_server), examples=size(3, 150), steps=50, loop=loop)
    proof("histories: valkey", f"{size(3, 150)} × 50 steps, every answer equal")


def on(server: RedisServer) -> Make:
    namespaces = count()

    async def make(policies: Policies, clock: FakeClock) -> Store:
        prefix = f"test {next(namespaces)}:"
        store = RedisStore(server.url(), policies, prefix=prefix, ids=counting_ids(), now=clock)
        await store.open()
        return store

    return make
