"""What waits for a sink that nobody empties has a bound in every engine, and the newest events are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.contract.redis_desk import store_on
from tests.services import RedisServer
from turnkeep.events import Event
from turnkeep.messages import Address, Message, text_content
from turnkeep.store import Store
from turnkeep.store.base import Claim, Policies, Policy
from turnkeep.store.log import TRIM_EVERY
from turnkeep.store.memory import MemoryStore, outbox
from turnkeep.store.sqlite import SqliteStore, log

AT_ONCE = Policies(Policy(window=0.0))
WHERE = Address("t", "q", "c")


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def leased(store: Store) -> Claim:
    await store.accept([Message(WHERE, "m", text_content("hello"))])
    [claim] = await store.claim(owner="w", limit=1, lease=600.0)
    return claim


async def published(store: Store, claim: Claim, numbers: range) -> int:
    """The offset of the last of these events of a run."""
    tops = [await store.publish(claim, n, [Event(kind="delta", text=f"word {n}")]) for n in numbers]
    return tops[-1]


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_the_oldest_events_go_when_nobody_takes_them(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "OUTBOX", 100)
    monkeypatch.setattr(log, "OUTBOX", 100)
    store: Store = MemoryStore(AT_ONCE) if engine == "memory" else SqliteStore(tmp_path / "a.db", AT_ONCE, ballast=0)
    async with opened(store):
        [partition] = await store.open_sink("webhook:q")
        await store.lease_sink("webhook:q", partition, owner="w", lease=60.0)
        claim = await leased(store)
        await published(store, claim, range(50))
        assert len(await store.deliveries("webhook:q", partition, after="", limit=1_000)) >= 50

        top = await published(store, claim, range(50, 550))
        kept = await store.deliveries("webhook:q", partition, after="", limit=1_000)
        assert 100 <= len(kept) <= 100 + 2 * TRIM_EVERY
        assert kept[-1].event.offset == top
        offsets = [one.event.offset for one in kept]
        assert offsets == list(range(offsets[0], top + 1))


async def test_redis_keeps_a_hundred_thousand_of_a_partition(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), prefix="bound:", policies=AT_ONCE) as store:
        await store.open_sink("webhook:q")
        raw = Redis.from_url(redis_server.url())
        claim = await leased(store)
        await published(store, claim, range(1))
        [key] = [key async for key in raw.scan_iter("bound:*outbox*")]
        async with raw.pipeline(transaction=False) as pipe:
            for _ in range(100_500):
                _ = pipe.xadd(key, {"space": "t"})
            await pipe.execute()
        await raw.aclose()
        await published(store, claim, range(1, 3))
        again = Redis.from_url(redis_server.url())
        assert 100_000 <= await again.xlen(key) <= 100_200
        await again.aclose()
