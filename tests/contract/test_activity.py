"""What runs did, added up by several processes in records that all share; and who those processes are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from turnkeep.fleet import Heartbeat, list_processes
from turnkeep.messages import Address, Message, text_content
from turnkeep.runs.activity import BOUNDS, HOUR_KEPT, Activity, RunFigures
from turnkeep.runs.activity import read_days as days_of
from turnkeep.runs.activity import read_series as series_of
from turnkeep.runs.backlog_series import BacklogSeries, read_backlog
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Commit, Policies
from turnkeep.testing.fake_clock import FakeClock
from turnkeep.usage import Usage

NOON = 1_795_953_600.0
"""2026-11-29 12:00 UTC."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    if request.param == "memory":
        engine: Store = MemoryStore(Policies(), clock=clock)
    elif request.param == "sqlite":
        engine = SqliteStore(tmp_path / "turnkeep.db", Policies(), clock=clock, ballast=0)
    else:
        engine = RedisStore(request.getfixturevalue("redis_server").url(), Policies(), now=clock)
    await engine.open()
    yield engine
    await engine.close()


def answered(at: float, tenant: str = "t", **fields: Any) -> RunFigures:
    values: dict[str, Any] = {
        "model": "m1", "messages": 2, "usage": Usage(requests=1, input_tokens=10, output_tokens=5, cost_nano=7),
        "attempt": 2, "arrival": at, "claimed_at": at, "seconds": 1.2,
    }  # fmt: skip
    return RunFigures(at, tenant, "completed", **{**values, **fields})


async def test_several_processes_add_to_the_same_figures(store: Store, clock: FakeClock) -> None:
    processes = [Activity(store) for _ in range(6)]
    for _ in range(3):
        for number, process in enumerate(processes):
            process.note(answered(clock.now(), model=f"m{number % 2}"))
        await asyncio.gather(*(process.save() for process in processes))

    [minute] = await series_of(store, "t", span="hour", now=clock.now())
    assert (minute.at, minute.cell["runs"], minute.cell["messages"]) == (NOON, 18, 36)
    assert minute.cell["usage"]["cost_nano"] == 18 * 7
    assert sum(minute.cell["waits"]["whole"]) == 18
    assert "first" not in minute.cell["waits"]
    [hour] = await series_of(store, "t", span="month", now=clock.now())
    assert (hour.at, hour.cell) == (NOON, minute.cell)
    [day] = await days_of(store, "t", days=30, now=clock.now())
    assert (day.day, day.total["runs"]) == ("2026-11-29", 18)
    assert {name: cell["runs"] for name, cell in day.models.items()} == {"m0": 9, "m1": 9}


async def test_a_series_has_its_minutes_in_order_and_forgets_them_in_time(store: Store, clock: FakeClock) -> None:
    activity = Activity(store)
    for _ in range(3):
        activity.note(answered(clock.now()))
        clock.advance(25 * 60)
    await activity.save()

    # noon, 12:25 and 12:50; now it is 13:15
    assert [one.at - NOON for one in await series_of(store, "t", span="hour", now=clock.now())] == [1_500, 3_000]
    assert [one.cell["runs"] for one in await series_of(store, "t", span="month", now=clock.now())] == [3]
    assert await series_of(store, "other", span="hour", now=clock.now()) == []
    clock.advance(HOUR_KEPT)
    assert await store.get("activity", "t", "2026-11-29T12") is None
    assert len(await days_of(store, "t", days=30, now=clock.now())) == 1


async def test_buckets_of_another_version_are_no_reason_to_stop(store: Store, clock: FakeClock) -> None:
    """They do not add up with ours: ours count from now on, beside all else of the record."""
    cell = {"runs": 5, "waits": {"whole": [1, 2, 3]}}
    await store.put("activity", "t", "2026-11-29T12", {"figures": {"minutes": {"0": cell}}})
    activity = Activity(store)

    activity.note(answered(clock.now()))
    await activity.save()

    [minute] = await series_of(store, "t", span="hour", now=clock.now())
    assert minute.cell["runs"] == 6
    assert (len(minute.cell["waits"]["whole"]), sum(minute.cell["waits"]["whole"])) == (len(BOUNDS) + 1, 1)


async def test_a_process_is_listed_while_it_says_so_and_is_silent_when_it_does_not(
    store: Store, clock: FakeClock
) -> None:
    beating = Heartbeat(store, role="worker", queues=("q",), slots=5, active_runs=lambda: 3)
    task = asyncio.create_task(beating.run())
    async with asyncio.timeout(PATIENCE):
        while not (records := await list_processes(store)):
            await asyncio.sleep(0.01)
    task.cancel()

    [record] = records
    assert (record.role, record.slots, record.active_runs, record.queues) == ("worker", 5, 3, ("q",))
    assert not record.is_silent(await store.now())
    clock.advance(40)
    [record] = await list_processes(store)
    assert record.is_silent(await store.now())
    await beating.end()
    assert await list_processes(store) == []
    await Heartbeat(store, role="gateway", queues=(), slots=0, active_runs=lambda: 0).end()  # it had never begun


async def test_a_process_that_ended_without_a_word_is_forgotten(store: Store, clock: FakeClock) -> None:
    beating = Heartbeat(store, role="worker", queues=("q",), slots=5, active_runs=lambda: 0)
    await beating._beat()
    clock.advance(599)
    assert len(await list_processes(store)) == 1
    clock.advance(2)
    assert await list_processes(store) == []


async def test_how_much_waited_is_kept_by_the_minute_and_the_hour_the_most_that_anybody_saw(
    store: Store, clock: FakeClock
) -> None:
    gateway, worker = BacklogSeries(store, "q", {"t": None}), BacklogSeries(store, "q", {"t": None})
    await asyncio.gather(gateway.look(), worker.look())
    assert await read_backlog(store, "t", span="hour", now=clock.now()) == {}
    for number in range(3):
        await store.accept([Message(Address("t", "q", f"c{number}"), "m", text_content("hello"), window=0.0)])
    clock.advance(20.0)
    await asyncio.gather(gateway.look(), worker.look())
    for claim in await store.claim(owner="w", limit=2, lease=30.0):
        await store.commit(claim, Commit("completed", "", (), Usage()))
    clock.advance(30.0)
    await worker.look()
    clock.advance(60.0)
    await worker.look()

    seen = {"open_messages": 3, "waiting": 3, "oldest_wait": 50}
    later = {"open_messages": 1, "waiting": 1, "oldest_wait": 110}
    assert await read_backlog(store, "t", span="hour", now=clock.now()) == {NOON: seen, NOON + 60: later}
    assert await read_backlog(store, "t", span="month", now=clock.now()) == {NOON: {**seen, "oldest_wait": 110}}
    assert await read_backlog(store, "default", span="hour", now=clock.now()) == {}
