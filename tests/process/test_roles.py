"""Many gateways and many workers on one Redis: what is killed is taken over, what is restarted loses nothing."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE, until
from tests.process.fleet import Crowd, Fleet, Worker, fleet, until_taken_over
from tests.process.listener import judged
from tests.process.programs import Program
from tests.services import RedisServer
from turnkeep.simulator import Simulator, StreamPace, serve
from turnkeep.store import open_store
from turnkeep.store.values import Counts

pytestmark = pytest.mark.slow

Size = Callable[[int, int], int]
Proof = Callable[[str, str], None]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def counts_of(url: str) -> Counts:
    store = open_store(url)
    await store.open()
    try:
        return await store.counts()
    finally:
        await store.close()


# ---------------------------------------------------------------- a worker dies


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_the_runs_of_a_killed_worker_are_taken_over_in_time(
    redis_server: RedisServer, tmp_path: Path, size: Size, proof: Proof
) -> None:
    kills, channels, workers = size(2, 100), size(4, 24), size(2, 3)
    simulator, source = Simulator(), random.Random(5)
    taken: list[float] = []
    async with (
        serve(simulator) as model,
        fleet(tmp_path, redis_server.url(), model, workers=workers, TURNKEEP_LEASE="2") as many,
    ):
        crowd = Crowd(many, channels, words=60, milliseconds=50)
        async with crowd.talking():
            for kill in range(kills + 20):
                if kill >= kills and taken:
                    break
                await until(lambda: len(simulator.ledger.open()) >= channels // 2, patience=PATIENCE)
                await asyncio.sleep(source.uniform(0, 0.5))
                taken += await until_taken_over(many.workers[kill % workers], simulator)
        counts = await counts_of(redis_server.url())
    heard = judged(crowd.listeners)
    proof(
        "takeover",
        f"workers {workers} | lease 2 s | kills {kills} | runs cut {len(taken)} | taken over p50 "
        f"{statistics.median(taken):.2f} s | p99 {percentile(taken, 0.99):.2f} s | slowest {max(taken):.2f} s | "
        f"turns {crowd.said} | failed {counts.failed} | dead {counts.dead_letters} | holes {heard.holes} | "
        f"repeats {heard.repeats} | model saw twice {len(simulator.ledger.twice_within_a_request())}",
    )
    assert percentile(taken, 0.99) <= size(60, 3)
    assert (counts.failed, counts.dead_letters, counts.completed) == (0, 0, crowd.said)
    assert heard.is_clean, heard
    assert heard.answers == crowd.said
    assert simulator.ledger.twice_within_a_request() == []


# ---------------------------------------------------------------- a new version


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_a_rolling_restart_fails_no_run_and_loses_no_frame(
    redis_server: RedisServer, tmp_path: Path, size: Size, proof: Proof
) -> None:
    workers, channels, rounds = size(1, 3), size(4, 60), size(1, 3)
    simulator, restarts = Simulator(), 0
    async with (
        serve(simulator) as model,
        fleet(tmp_path, redis_server.url(), model, gateways=2, workers=workers) as many,
    ):
        crowd = Crowd(many, channels, words=size(10, 40), milliseconds=25)
        async with crowd.talking():
            for _ in range(rounds):
                for program in many.programs[:: size(2, 1)]:
                    await until(lambda: len(simulator.ledger.open()) >= channels // 4, patience=PATIENCE)
                    await restarted(program, many)
                    restarts += 1
        counts = await counts_of(redis_server.url())
    heard = judged(crowd.listeners)
    proof(
        "rolling restart",
        f"workers {workers} | gateways 2 | restarts {restarts} | turns {crowd.said} | "
        f"failed {counts.failed} | dead {counts.dead_letters} | model requests {len(simulator.ledger)} | "
        f"sockets cut {sum(one.cuts for one in crowd.listeners)} | frames {heard.frames} | holes {heard.holes} | "
        f"repeats {heard.repeats} | texts that do not add up {heard.wrong_texts} | began anew {heard.anew} | "
        f"sends refused {dict(many.refused)}",
    )
    assert (counts.failed, counts.dead_letters, counts.completed) == (0, 0, crowd.said)
    assert heard.is_clean, heard
    assert (heard.answers, heard.errors, heard.anew) == (crowd.said, 0, 0)
    assert [exchange.outcome for exchange in simulator.ledger] == ["completed"] * crowd.said


async def restarted(program: Program, many: Fleet) -> None:
    """Asked to end, ended, started, ready."""
    program.send(signal.SIGTERM)
    assert await asyncio.to_thread(program.wait, 60.0) == 0, program.log[-3000:]
    program.start()
    if isinstance(program, Worker):
        await program.works()
    else:
        gateway = next(one for one in many.gateways if one is program)
        await gateway.answers(many.http)


# ---------------------------------------------------------------- stop


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_a_stop_at_a_gateway_closes_the_connection_of_a_worker(
    redis_server: RedisServer, tmp_path: Path, size: Size, proof: Proof
) -> None:
    runs = size(3, 200)
    simulator, taken = Simulator(), list[float]()
    async with serve(simulator) as model, fleet(tmp_path, redis_server.url(), model) as many:
        for number in range(runs):
            channel = f"c{number}"
            await many.send(channel, "m", "talk [[words:2000]] [[pace:5]]")
            await until(lambda n=number: len(simulator.ledger) > n, patience=PATIENCE)
            exchange = list(simulator.ledger)[number]
            await until(lambda e=exchange: e.sent > 5, patience=PATIENCE)
            pressed = time.time()
            async with many.http.post(f"{many.gateways[0].url}/api/channels/{channel}/cancel") as told:
                assert (await told.json())["cancelled"]
            await until(lambda e=exchange: e.outcome != "open", patience=PATIENCE)
            assert exchange.outcome == "closed_by_client"
            taken.append((exchange.finished or 0.0) - pressed)
    proof(
        "stop across processes",
        f"runs {runs} | request at a gateway to model connection closed by a worker p50 "
        f"{statistics.median(taken) * 1000:.0f} ms | p95 {percentile(taken, 0.95) * 1000:.0f} ms | "
        f"slowest {max(taken) * 1000:.0f} ms",
    )
    assert percentile(taken, 0.95) * 1000 <= size(60_000, 250)


# ---------------------------------------------------------------- shares


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_every_worker_gets_its_share(redis_server: RedisServer, tmp_path: Path, size: Size, proof: Proof) -> None:
    workers, gateways, channels, each = size(2, 4), size(1, 2), size(40, 1000), size(2, 5)
    simulator = Simulator(pace=StreamPace(first=0.05, token=0.005))
    async with (
        serve(simulator) as model,
        fleet(
            tmp_path, redis_server.url(), model, gateways=gateways, workers=workers, TURNKEEP_CONCURRENCY="16"
        ) as many,
    ):
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(channels):
                group.create_task(says(many, number, each))
        turns = await settled(redis_server.url(), channels * each)
        seconds = time.monotonic() - begun
        shares = [worker.log.count("run_settled") for worker in many.workers]
    fair = sum(shares) / workers
    off = max(abs(share - fair) / fair for share in shares)
    proof(
        "shares",
        f"workers {workers} | gateways {gateways} | channels {channels} | messages {channels * each} | runs {shares} | "
        f"furthest from the even share {off:.0%} | {turns / seconds:.0f} messages/s",
    )
    assert off <= size(1, 0) or off <= 0.25


async def says(many: Fleet, number: int, count: int) -> None:
    for n in range(count):
        gateway = many.gateways[(number + n) % len(many.gateways)]
        while await many.offer(gateway, f"c{number}", f"m{n}", f"channel {number} says {n}") not in (200, 202):
            await asyncio.sleep(0.05)


async def settled(url: str, messages: int) -> int:
    """Wait until so many messages are answered."""
    store = open_store(url)
    await store.open()
    try:
        async with asyncio.timeout(600):
            while (counts := await store.counts()).completed < messages:
                assert (counts.failed, counts.dead_letters) == (0, 0)
                await asyncio.sleep(0.05)
    finally:
        await store.close()
    return counts.completed
