"""A list of threads reads those that it shows, by an index that completes itself where it is not whole."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.contract.redis_desk import accepted, channel, said, store_on
from tests.services import RedisServer
from tests.unit.sqlite_files import opened
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.redis.activity_index import PAGE, ActivityIndex
from turnkeep.store.sqlite import threads as sqlite_threads
from turnkeep.store.thread_search import ThreadSearch
from turnkeep.testing import FakeClock

THREADS = 120
LISTING = ThreadSearch("t", "q", limit=10)


async def shown(store: RedisStore) -> list[str]:
    return [record.address.channel for record in await store.search(LISTING)]


async def test_redis_reads_as_many_threads_as_it_shows(redis_server: RedisServer) -> None:
    clock = FakeClock()
    async with store_on(redis_server.url(), clock=clock) as store:
        for n in range(THREADS):
            await accepted(store, said(channel(f"c{n}"), "m"))
            clock.advance(5.0)
        newest = [f"c{n}" for n in reversed(range(THREADS - 10, THREADS))]
        assert await shown(store) == newest
        looks = 0
        record_of = store._record

        async def counting(*address: object) -> object:
            nonlocal looks
            looks += 1
            return await record_of(*address)  # type: ignore[arg-type]

        store._record = counting  # type: ignore[method-assign, assignment]
        assert await shown(store) == newest
        assert 10 <= looks <= 12  # two of one stretch of ten seconds


async def test_redis_reads_a_bounded_number_of_threads_at_once(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), clock=FakeClock()) as store:
        await store.accept([said(channel(f"c{n}"), "m") for n in range(3 * THREADS)])  # at one moment
        await shown(store)  # which completes the index
        record_of, reading, most = store._record, 0, 0

        async def counting(*address: object) -> object:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            record = await record_of(*address)  # type: ignore[arg-type]
            reading -= 1
            return record

        store._record = counting  # type: ignore[method-assign, assignment]
        assert len(await shown(store)) == LISTING.limit
        assert most <= PAGE


@pytest.mark.parametrize("damage", ["gone", "of another type", "too short", "too long"])
async def test_redis_completes_an_index_that_is_not_whole(redis_server: RedisServer, damage: str) -> None:
    """As a program leaves it that knew of none, a copy, or a hand."""
    clock = FakeClock()
    async with store_on(redis_server.url(), clock=clock) as store:
        for n in range(THREADS):
            await accepted(store, said(channel(f"c{n}"), "m"))
            clock.advance(5.0)
        before = await shown(store)
        with redis_server.client() as server:
            for partition in store._keys.partitions:
                key = partition.names["threads"] + b":t\0q"
                if damage in ("gone", "of another type"):
                    server.delete(key)
                if damage == "of another type":
                    server.set(key, "x")
                elif damage == "too short":
                    server.zpopmax(key)
                elif damage == "too long":
                    server.zadd(key, {"nobody": 1e12})
        # an act on a thread does not fail by it, nor is it missing afterwards
        await accepted(store, said(channel("c3"), "m2"))

        assert await shown(store) == ["c3", *before[:9]]


async def test_redis_lists_a_thread_that_begins_while_the_index_is_completed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    async with store_on(redis_server.url(), clock=clock, partitions=1) as store:
        for n in range(9):
            await accepted(store, said(channel(f"c{n}"), "m"))
        with redis_server.client() as server:
            server.zpopmax(store._keys.partitions[0].names["threads"] + b":t\0q")
        clock.advance(60.0)
        look_up, begun = store._link.look_up, 0

        async def look_up_slowly(*arguments: Any) -> Any:
            """Between any two looks another thread begins."""
            nonlocal begun
            reply = await look_up(*arguments)
            if begun < 9:
                begun += 1
                await accepted(store, said(channel(f"new{begun}"), "m"))
            return reply

        monkeypatch.setattr(store._link, "look_up", look_up_slowly)
        listed = [record.address.channel for record in await store.search(ThreadSearch("t", "q"))]
        assert {f"c{n}" for n in range(9)} <= set(listed)
        assert [f"new{n}" for n in range(1, 5) if f"new{n}" not in listed] == []


@pytest.mark.parametrize("pause", [0.0, 5.0], ids=["all in one stretch", "two in each"])
async def test_redis_lists_every_thread_that_stays_while_others_leave(redis_server: RedisServer, pause: float) -> None:
    clock = FakeClock()
    async with store_on(redis_server.url(), clock=clock) as store:
        # of one partition, where a page of names moves up by those that leave
        names = [one for one in (f"c{n}" for n in range(1000)) if store._keys.thread(channel(one)).partition.index == 0]
        names = names[:40]
        for name in names:
            await accepted(store, said(channel(name), "m"))
            clock.advance(pause)
        listed: list[str] = []
        gone: list[str] = []
        index = ActivityIndex(store._link, store._keys.partitions, "t", "q")
        leaving = iter(reversed(names))
        async for some in index.walk(math.inf, 4):
            listed += [address.channel for _, address in some]
            for name in itertools.islice(leaving, 1):
                await store.forget(channel(name), force=True)
                gone.append(name)
            for name in itertools.islice(leaving, 1):
                clock.advance(60.0)
                await store.pause(channel(name))
                gone.append(name)
        assert len(listed) == len(set(listed))
        assert set(names) - set(listed) <= set(gone)


async def test_sqlite_looks_by_its_index(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await desk.say("m1")
        connection = apsw.Connection(str(path))
        values = {
            "tenant": "t",
            "queue": "q",
            "place": None,
            "at": None,
            "thread_id": None,
            "minute": 9,
            "most": 9,
            "text": "",
        }
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sqlite_threads._NEWEST_OF_ONE}", values).fetchall())
        connection.close()
        assert "INDEX thread_active" in plan
        assert "SCAN" not in plan


async def test_memory_looks_at_no_more_than_it_shows() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    await store.open()
    for n in range(THREADS):
        await store.accept([said(channel(f"c{n}"), "m")])
        clock.advance(1.0)
    for n in range(THREADS - 11):  # whoever looks at one of these meets nothing
        store.threads[channel(f"c{n}")] = None  # type: ignore[assignment]

    assert [record.address.channel for record in await store.search(LISTING)] == [
        f"c{n}" for n in reversed(range(THREADS - 10, THREADS))
    ]
