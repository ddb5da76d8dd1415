"""Redis is killed, away, or full, while gateways and workers go on: no receipt lies, no stream has a hole."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import LONG_PATIENCE, until, within
from tests.process.fleet import Crowd, Fleet, fleet
from tests.process.listener import Judgement, judged
from tests.services import RedisServer
from turnkeep.messages import Address
from turnkeep.simulator import Simulator, serve
from turnkeep.store import open_store
from turnkeep.store.contract import Store
from turnkeep.store.values import Counts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("redis_installed")]

Size = Callable[[int, int], int]
Proof = Callable[[str, str], None]


async def asked(url: str, question: Callable[[Store], object]) -> object:
    """What a store says, opened for this question."""
    store = open_store(url)
    await store.open()
    try:
        return await question(store)  # type: ignore[misc]
    finally:
        await store.close()


async def counts_of(url: str) -> Counts:
    counts = await asked(url, lambda store: store.counts())
    assert isinstance(counts, Counts)
    return counts


def streaming(crowd: Crowd) -> list[str]:
    """The channels on which an answer is being told."""
    return [channel for channel in crowd.channels if "delta" in crowd.listener(channel).frames[channel][-1]]


async def gone_on(crowd: Crowd, channels: list[str], since: float) -> list[float]:
    """For each channel the seconds from this moment until something more was told."""

    def told(channel: str) -> float | None:
        frames = crowd.listener(channel).frames[channel]
        return next((f["heard"] - since for f in frames if f["heard"] > since and f["status"] != "subscribed"), None)

    await until(lambda: all(told(channel) is not None for channel in channels), patience=LONG_PATIENCE)
    return [told(channel) or 0.0 for channel in channels]


def told_of(heard: Judgement) -> str:
    return (
        f"frames {heard.frames} | holes {heard.holes} | repeats {heard.repeats} | texts that do not add up "
        f"{heard.wrong_texts} | began anew {heard.anew} | errors {heard.errors}"
    )


# ---------------------------------------------------------------- killed


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_a_stream_goes_on_soon_after_redis_was_killed(tmp_path: Path, size: Size, proof: Proof) -> None:
    kills, channels, hands = size(1, 20), size(4, 40), size(1, 2)
    simulator, source = Simulator(), random.Random(11)
    taken: list[float] = []
    async with (
        RedisServer(appendonly="always") as redis,
        serve(simulator) as model,
        fleet(tmp_path, redis.url(), model, gateways=hands, workers=hands) as many,
    ):
        crowd = Crowd(many, channels, words=size(40, 60), milliseconds=50)
        async with crowd.talking():
            for _ in range(kills):
                await until(lambda: len(streaming(crowd)) >= channels // 2, patience=LONG_PATIENCE)
                cut = streaming(crowd)
                await asyncio.to_thread(redis.kill9)
                await asyncio.sleep(source.uniform(0.1, size(1, 2)))
                await asyncio.to_thread(redis.start)
                taken += await gone_on(crowd, cut, asyncio.get_running_loop().time())
        counts = await counts_of(redis.url())
    heard = judged(crowd.listeners)
    proof(
        "redis kill -9 in mid-answer",
        f"kills {kills} | streams cut {len(taken)} | told on after Redis answers p50 "
        f"{statistics.median(taken):.2f} s | slowest {max(taken):.2f} s | turns {crowd.said} | "
        f"failed {counts.failed} | {told_of(heard)}",
    )
    assert max(taken) <= size(60, 2)
    assert heard.is_clean, heard
    assert (heard.answers, heard.errors) == (crowd.said, 0)
    assert (counts.completed, counts.failed, counts.dead_letters) == (crowd.said, 0, 0)
    assert len(simulator.ledger) == crowd.said


# ---------------------------------------------------------------- away


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_while_redis_is_away_no_receipt_is_given_and_then_all_goes_on(
    tmp_path: Path, size: Size, proof: Proof
) -> None:
    seconds, channels, hands = size(2, 30), size(4, 40), size(1, 2)
    simulator = Simulator()
    async with (
        RedisServer(appendonly="always") as redis,
        serve(simulator) as model,
        fleet(tmp_path, redis.url(), model, gateways=hands, workers=hands, TURNKEEP_LEASE=f"{size(30, 10)}") as many,
    ):
        crowd = Crowd(many, channels, words=60, milliseconds=50)
        async with crowd.talking():
            await until(lambda: len(streaming(crowd)) >= channels // 2, patience=LONG_PATIENCE)
            cut = streaming(crowd)
            await asyncio.to_thread(redis.kill9)
            offered, told_in = await offers(many, seconds)
            await asyncio.to_thread(redis.start)
            taken = await gone_on(crowd, cut, asyncio.get_running_loop().time())
        counts = await counts_of(redis.url())
        kept = [one for one in offered if await asked(redis.url(), lambda s, m=one: s.message(STRANGER, m))]  # type: ignore[misc]
        for message_id in offered:
            await many.send(STRANGER.channel, message_id, "again")
    heard = judged(crowd.listeners)
    proof(
        "redis away",
        f"seconds {seconds} | sends meanwhile {len(offered)} | receipts 0 | refused within {told_in:.1f} s | kept "
        f"{len(kept)} | told on after it came back p50 {statistics.median(taken):.2f} s | "
        f"slowest {max(taken):.2f} s | turns {crowd.said} | failed {counts.failed} | "
        f"dead {counts.dead_letters} | {told_of(heard)}",
    )
    assert kept == []
    assert heard.is_clean, heard
    assert (heard.answers, heard.errors) == (crowd.said, 0)
    assert (counts.completed, counts.failed, counts.dead_letters) == (crowd.said, 0, 0)


STRANGER = Address("default", "assistant", "stranger")


async def offers(many: Fleet, seconds: float) -> tuple[list[str], float]:
    """Messages that are offered for so long, none of which gets a receipt; and the longest wait for a refusal."""
    loop, offered, slowest = asyncio.get_running_loop(), list[str](), 0.0
    until = loop.time() + seconds
    while loop.time() < until:
        message_id, begun = f"m{len(offered)}", loop.time()
        assert await many.offer(many.gateways[0], STRANGER.channel, message_id, "hello") == 503
        slowest = max(slowest, loop.time() - begun)
        offered.append(message_id)
        await asyncio.sleep(0.1)
    return offered, slowest


# ---------------------------------------------------------------- full


async def told(many: Fleet, hand: int, channel: str) -> int:
    """What a sender is told, who sends again when a kept connection was closed under the request."""
    for _ in range(3):
        if status := await many.offer(many.gateways[hand], channel, "m1", "hello"):
            return status
    return 0


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_a_full_redis_refuses_senders_and_lets_runs_end(tmp_path: Path, size: Size, proof: Proof) -> None:
    runs, sends, hands = size(4, 200), size(10, 1000), size(1, 2)
    simulator = Simulator()
    async with (
        RedisServer(appendonly="always") as redis,
        serve(simulator) as model,
        fleet(tmp_path, redis.url(), model, gateways=hands, workers=hands, TURNKEEP_LEASE=f"{size(5, 2)}") as many,
    ):
        crowd = Crowd(many, runs, words=60, milliseconds=50)
        async with crowd.talking():
            await until(lambda: len(streaming(crowd)) == runs, patience=LONG_PATIENCE)
            redis.cli("CONFIG", "SET", "maxmemory", "1mb")
            crowd.leaving.set()
            statuses = [await told(many, n % hands, f"new{n}") for n in range(sends)]
            await until(lambda: not simulator.ledger.open(), patience=LONG_PATIENCE)
        full = await counts_of(redis.url())
        redis.cli("CONFIG", "SET", "maxmemory", "0")
        for number in range(sends):
            await many.send(f"new{number}", "m1", "hello")
        after = await answered(redis.url(), crowd.said + sends)
    heard = judged(crowd.listeners)
    proof(
        "redis full",
        f"runs in progress {runs} | ended while full {full.completed} | sends refused "
        f"{statuses.count(503)} of {sends} | threads of refused senders {full.threads - runs} | open while full "
        f"{full.open_messages} | then accepted "
        f"and answered {after.completed - full.completed} of {sends} | failed {after.failed} | {told_of(heard)}",
    )
    assert set(statuses) == {503}
    assert (full.completed, full.threads, full.open_messages) == (crowd.said, runs, 0)
    assert (after.completed, after.failed, after.dead_letters) == (crowd.said + sends, 0, 0)
    assert heard.is_clean, heard
    assert (heard.answers, heard.errors) == (crowd.said, 0)
    assert len(simulator.ledger) == crowd.said + sends


async def answered(url: str, messages: int) -> Counts:
    """The counts as soon as so many messages are answered."""
    async with within(LONG_PATIENCE):
        while (counts := await counts_of(url)).completed < messages:
            await asyncio.sleep(0.1)
    return counts
