"""Bursts as people write them, at the sizes and with the faults under which an earlier queue lost them: every message
stands in exactly one user message of the committed transcript, in order, and nothing that had come before a run began
is left behind by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.programs import Program
from tests.scenario.house import TestHouse, opened
from tests.services import RedisServer
from turnkeep.errors import StoreError
from turnkeep.simulator import Simulator, StreamPace, serve

pytestmark = [pytest.mark.prove, pytest.mark.timeout(900)]

Size = Callable[[int, int], int]
Proof = Callable[[str, str], None]

RUN = "[[words:6]]"
PACE = StreamPace(first=0.06, token=0.04)
"""A run of 300 ms."""
WINDOW: dict[str, Any] = {"window": 0.5, "max_wait": 0.5, "backoff_delay": 0.2, "backoff_cap": 1.0, "max_inbox": 1000}


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.only_in_prove])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Redis has its day when it is killed in between, at the end of this file."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'turnkeep.db'}"
    return str(request.getfixturevalue("redis_server").url())


@dataclass
class Crowd:
    """People who write to a house; what each said is in `texts`."""

    house: TestHouse
    source: random.Random
    texts: dict[str, list[str]]

    async def say(self, channel: str) -> None:
        """One message, repeated under its id until it has its receipt."""
        said = self.texts.setdefault(channel, [])
        text = f"{channel} says {len(said)} {RUN}"
        said.append(text)
        while True:
            with contextlib.suppress(StoreError):
                await self.house.send(channel, text, f"{channel}-{len(said)}")
                return
            await asyncio.sleep(0.1)

    async def burst(self, channel: str, count: int) -> None:
        """With exponential gaps of 150 ms on average."""
        for _ in range(count):
            await self.say(channel)
            await asyncio.sleep(self.source.expovariate(1 / 0.15))

    async def bursts(self, channels: int, count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(channels):
                group.create_task(self.burst(f"c{n}", count))

    async def answered(self, patience: float = 600.0) -> None:
        """Wait until nothing is open."""
        async with asyncio.timeout(patience):
            while True:
                with contextlib.suppress(StoreError):
                    counts = await self.house.queue.store.counts()
                    if counts.completed + counts.failed >= sum(map(len, self.texts.values())):
                        return
                await asyncio.sleep(0.05)

    async def verdict(self, *, quiet: bool = True) -> str:
        """Once, lost, doubled; raises where it is not N, 0, 0. `quiet`: nothing failed, so no batch was frozen."""
        once = doubled = lost = runs = 0
        for channel, texts in self.texts.items():
            said = Counter(await self.house.said_by_user(channel))
            once += sum(said[text] == 1 for text in texts)
            doubled += sum(said[text] > 1 for text in texts)
            lost += sum(said[text] == 0 for text in texts)
            assert [*said] == texts, f"{channel} is out of order"
            runs += await self._runs(channel, quiet)
        ledger = self.house.simulator.ledger
        assert ledger.overlaps() == []
        assert ledger.twice_within_a_request() == []
        total = sum(map(len, self.texts.values()))
        figures = f"messages {total} | once {once} | lost {lost} | doubled {doubled} | runs {runs}"
        assert (once, lost, doubled) == (total, 0, 0), figures
        return figures

    async def _runs(self, channel: str, quiet: bool) -> int:
        """How many; each took all that had come when it began."""
        store, address = self.house.queue.store, self.house.address(channel)
        runs = await store.runs(address)
        if quiet:
            page = await store.read(address)
            arrived = {event.message_ids[0]: event.at for event in page.events if event.kind == "accepted"}
            for run in runs:
                last = max(arrived.get(name, 0.0) for name in run.message_ids)
                left = [name for name, at in arrived.items() if last < at < run.started_at]
                assert left == [], f"{channel}: a run left {left} behind"
        return len(runs)


@contextlib.asynccontextmanager
async def crowd(store: str, **settings: Any) -> AsyncIterator[Crowd]:
    async with opened(store, **{**WINDOW, **settings}) as house:
        house.simulator.pace = PACE
        yield Crowd(house, random.Random(1), {})


# ---------------------------------------------------------------- nothing goes wrong


async def test_each_single_message_is_one_run(store: str, proof: Proof) -> None:
    async with crowd(store, concurrency=5) as people:
        await people.bursts(10, 1)
        await people.answered()
        figures = await people.verdict()
        assert figures.endswith("runs 10")
        proof("bursts: 10 threads, 1 message each", figures)


@pytest.mark.parametrize("concurrency", [5, 50])
async def test_bursts_on_many_threads_lose_and_double_nothing(
    store: str, concurrency: int, size: Size, proof: Proof
) -> None:
    async with crowd(store, concurrency=concurrency) as people:
        await people.bursts(size(8, 50), size(5, 10))
        await people.answered()
        proof(f"bursts: burst, concurrency {concurrency}", await people.verdict())


async def test_a_second_burst_on_the_same_threads_loses_and_doubles_nothing(
    store: str, size: Size, proof: Proof
) -> None:
    async with crowd(store, concurrency=5) as people:
        await people.bursts(size(5, 20), size(4, 10))
        await people.answered()
        await asyncio.sleep(size(0, 45))
        await people.bursts(size(5, 20), size(4, 10))
        await people.answered()
        proof("bursts: a second burst", await people.verdict())


@pytest.mark.parametrize(("threads", "concurrency"), [(20, 50), (30, 5)])
async def test_three_messages_during_the_run_of_a_first_are_all_answered(
    store: str, threads: int, concurrency: int, proof: Proof
) -> None:
    async with crowd(store, concurrency=concurrency) as people:

        async def person(channel: str) -> None:
            async with people.house.stream(channel) as stream:
                await people.say(channel)
                await people.house.until(stream, lambda event: event.kind == "started", timeout=120)
            for _ in range(3):
                await people.say(channel)

        async with asyncio.TaskGroup() as group:
            for n in range(threads):
                group.create_task(person(f"c{n}"))
        await people.answered()
        proof(f"bursts: 3 during a run, {threads} threads, concurrency {concurrency}", await people.verdict())


async def test_two_messages_at_once_are_one_run(store: str, proof: Proof) -> None:
    async with crowd(store, concurrency=5, window=2.0, max_wait=2.0) as people:
        async with asyncio.TaskGroup() as group:
            for n in range(50):
                group.create_task(people.say(f"c{n}"))
                group.create_task(people.say(f"c{n}"))
        await people.answered()
        figures = await people.verdict()
        assert figures.endswith("runs 50")
        proof("bursts: two messages at once, 50 threads", figures)


# ---------------------------------------------------------------- something does


async def test_runs_that_fail_lose_and_double_nothing(store: str, size: Size, proof: Proof) -> None:
    async with crowd(store, concurrency=5, max_attempts=5) as people:
        people.house.fault(kind="500", times=None, probability=0.05)
        await people.bursts(size(10, 50), size(5, 10))
        await people.answered()
        proof("bursts: 5 % of runs fail", await people.verdict(quiet=False))


async def test_killed_workers_lose_and_double_nothing(store: str, tmp_path: Path, size: Size, proof: Proof) -> None:
    simulator = Simulator(pace=PACE)
    async with serve(simulator) as model, crowd(store, worker=False) as people:
        people.house.simulator = simulator
        environment = {"TURNKEEP_STORE": store, "OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-test"}
        environment |= {"TURNKEEP_MODEL_API": "responses", "TURNKEEP_LEASE": "2", "TURNKEEP_CONCURRENCY": "5"}
        worker = Program(["worker"], tmp_path, environment)
        worker.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(people.bursts(size(8, 50), size(5, 10)))
                for _ in range(size(2, 3)):
                    await begun(simulator)
                    await asyncio.to_thread(worker.kill9)
                    await simulator.ledger.quiet()
                    worker.start()
            await people.answered()
        finally:
            worker.kill9()
        assert len(simulator.ledger.closed_by_client) >= size(0, 3)  # a run may end before its worker does
        proof(f"bursts: worker killed {size(2, 3)} times", await people.verdict(quiet=False))


async def begun(simulator: Simulator) -> None:
    """A run is under way."""
    async with asyncio.timeout(PATIENCE):
        while not simulator.ledger.open():
            await asyncio.sleep(0.01)


@pytest.mark.redis
async def test_a_killed_redis_loses_and_doubles_nothing(redis_installed: str, size: Size, proof: Proof) -> None:
    with RedisServer(program=redis_installed, appendonly="always") as server:
        async with crowd(server.url(), concurrency=5) as people:
            async with asyncio.TaskGroup() as group:
                group.create_task(people.bursts(size(8, 50), size(5, 10)))
                for _ in range(size(2, 3)):
                    await begun(people.house.simulator)
                    await asyncio.to_thread(server.kill9)
                    await asyncio.sleep(0.3)
                    await asyncio.to_thread(server.start)
                    await asyncio.sleep(0.3)
            await people.answered()
            proof(f"bursts: Redis killed {size(2, 3)} times", await people.verdict(quiet=False))
