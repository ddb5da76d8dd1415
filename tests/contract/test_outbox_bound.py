"""What waits for a sink that nobody empties has a bound in every engine, and the newest events are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.opening import opened
from tests.contract.redis_desk import store_on
from tests.services import RedisServer
from turnkeep.events import Event
from turnkeep.messages import Address, Message, text_content
from turnkeep.store import Store
from turnkeep.store.log_bounds import TRIM_EVERY
from turnkeep.store.memory import MemoryStore, outbox
from turnkeep.store.redis import events as redis_events
from turnkeep.store.sinks import EVERYTHING, Delivery, Selection
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.sqlite import outbox as sending
from turnkeep.store.values import Claim, Commit, Policies, Policy
from turnkeep.usage import Usage

AT_ONCE = Policies(Policy(window=0.0))
WHERE = Address("t", "q", "c")


async def leased(store: Store) -> Claim:
    await store.accept([Message(WHERE, "m", text_content("hello"))])
    [claim] = await store.claim(owner="w", limit=1, lease=600.0)
    return claim


async def published(store: Store, claim: Claim, numbers: range) -> int:
    """The offset of the last of these events of a run."""
    tops = [await store.publish(claim, n, [Event(kind="delta", text=f"word {n}")]) for n in numbers]
    return tops[-1]


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def small(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """A store of each engine that keeps 100 events for a sink (Redis: as always), and 3 parked."""
    monkeypatch.setattr(outbox, "OUTBOX", 100)
    monkeypatch.setattr(sending, "OUTBOX", 100)
    for engine in (outbox, sending, redis_events):
        monkeypatch.setattr(engine, "MOST_PARKED", 3)
    if request.param == "redis":
        async with store_on(redis_server.url(), prefix="small:", policies=AT_ONCE) as there:
            yield there
    else:
        store = (
            MemoryStore(AT_ONCE) if request.param == "memory" else SqliteStore(tmp_path / "a.db", AT_ONCE, ballast=0)
        )
        async with opened(store):
            yield store


def kept_few(store: Store) -> bool:
    return store.engine != "redis"


async def waiting(store: Store, sink: str) -> tuple[int, list[Delivery]]:
    """What waits for a sink in the one partition that holds something, leased to "w"."""
    for partition in await store.open_sink(sink, FINALS if sink == "finals" else EVERYTHING):
        await store.lease_sink(sink, partition, owner="w", lease=60.0)
        if page := await store.deliveries(sink, partition, after="", limit=1_000):
            return partition, page
    return 0, []


FINALS = Selection(finals=True)


@pytest.mark.parametrize("small", ["memory", "sqlite"], indirect=True)
async def test_the_oldest_events_go_when_nobody_takes_them_and_it_is_told(small: Store) -> None:
    await small.open_sink("all")
    claim = await leased(small)
    await published(small, claim, range(50))
    assert len((await waiting(small, "all"))[1]) >= 50

    top = await published(small, claim, range(50, 550))
    _, kept = await waiting(small, "all")

    assert 100 <= len(kept) <= 100 + TRIM_EVERY
    offsets = [one.event.offset for one in kept]
    assert offsets == list(range(offsets[0], top + 1))
    [record] = await small.sinks()
    assert (record.waiting, record.lost) == (len(kept), offsets[0] - 1)
    assert record.lost_at is not None


async def test_what_another_sink_wants_pushes_nothing_out(small: Store) -> None:
    await small.open_sink("finals", FINALS)
    await small.open_sink("all")
    await small.commit(await leased(small), Commit("completed", "done", (), Usage(), "m"))
    await small.accept([Message(WHERE, "m2", text_content("hello"))])
    [claim] = await small.claim(owner="w", limit=1, lease=600.0)

    await published(small, claim, range(300))

    _, kept = await waiting(small, "finals")
    assert [one.event.kind for one in kept] == ["completed"]
    finals = next(record for record in await small.sinks() if record.name == "finals")
    assert (finals.waiting, finals.lost) == (1, 0)


async def test_parked_events_have_a_bound_and_those_given_up_go_first(small: Store) -> None:
    await small.open_sink("all")
    claim = await leased(small)

    async def park() -> int:
        partition, page = await waiting(small, "all")
        places = [(one.position, "no") for one in page]
        await small.mark_delivered("all", partition, owner="w", position=page[-1].position, to_park=places)
        return partition

    partition = await park()  # accepted and started
    await published(small, claim, range(1))
    await park()
    given_up = (await small.list_parked("all", partition))[1]
    await small.note_failure("all", partition, given_up.position, reason="no", give_up=True)
    await published(small, claim, range(1, 3))
    await park()

    assert [one.offset for one in await small.list_parked("all", partition)] == [3, 4, 5]
    [record] = await small.sinks()
    assert (record.parked, record.given_up, record.lost) == (3, 0, 2)


async def test_redis_keeps_a_hundred_thousand_of_a_partition(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), prefix="bound:", policies=AT_ONCE) as store:
        await store.open_sink("webhook:q")
        raw = redis_server.async_client()
        claim = await leased(store)
        await published(store, claim, range(1))
        [key] = [key async for key in raw.scan_iter("bound:*outbox:webhook:q")]
        await raw.eval("for _ = 1, 100500 do redis.call('XADD', KEYS[1], '*', 'space', 't') end", 1, key)
        await raw.aclose()
        await published(store, claim, range(1, 3))
        again = redis_server.async_client()
        assert 100_000 <= await again.xlen(key) <= 100_200
        await again.aclose()
        [record] = await store.sinks()
        assert record.lost >= 400


PARTED = """
local since = '%015d-%010d'
for name, position in pairs({early = '', late = since:format(2, 0)}) do
  local sink = {since = since:format(0, 0), position = position, owner = '', until_ = 0}
  redis.call('HSET', KEYS[1], name, cmsgpack.pack(sink))
end
for n = 1, 3 do
  local frame = string.format('%d delta 1.5 2 1\\n{}x', n)
  redis.call('XADD', KEYS[2], n .. '-0', 'space', 't\\0q', 'channel', 'c', 'thread', 'thread_1', 'epoch', 'e',
    'frame', frame)
end
"""
"""Sinks and their one outbox as layout 1 kept them."""


async def test_what_waited_in_the_one_outbox_of_layout_1_reaches_each_sink_of_redis(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), prefix="parted:", policies=AT_ONCE) as store:
        raw = redis_server.async_client()
        await raw.eval(PARTED, 2, "parted:{parted:3}sinks", "parted:{parted:3}outbox")
        for _ in range(2):
            await store.open_sink("early")
        await published(store, await leased(store), range(1))

        for sink, offsets in (("early", [1, 2, 3]), ("late", [3])):
            position = await store.lease_sink(sink, 3, owner="w", lease=60.0)
            found = await store.deliveries(sink, 3, after=position or "", limit=100)
            assert [one.event.offset for one in found if one.thread_id == "thread_1"] == offsets
            assert {one.address for one in found} >= {WHERE}
        assert not await raw.exists("parted:{parted:3}outbox")
        await raw.aclose()
