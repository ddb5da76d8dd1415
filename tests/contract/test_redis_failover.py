"""What a failover loses: at most what the replica had not heard; with strict durability nothing that has a receipt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.redis_desk import accepted, channel, has_replica, said, sentinel_url, store_on
from tests.patience import PATIENCE
from tests.services import RedisSentinel, RedisServer, eventually
from turnkeep.errors import OutcomeUnknown, StoreUnavailable
from turnkeep.store.redis import RedisStore
from turnkeep.store.redis.server_fitness import Durability
from turnkeep.store.values import Policies, Policy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("redis_installed")]

WIDE = Policies(Policy(window=3600.0, max_wait=7200.0, max_inbox=1_000_000))
SENDERS = 16
DEAF = 0.3
"""Seconds for which the replica has not heard what the primary was told when it is killed."""

Receipts = dict[tuple[str, str], float]
"""When each message had its receipt, by channel and id."""


async def send(store: RedisStore, number: int, receipts: Receipts, enough: asyncio.Event) -> None:
    """Send one message after the other, each until it has its receipt."""
    where, count = f"c{number}", 0
    while not enough.is_set():
        try:
            await store.accept([said(channel(where), f"m{count}")])
        except (StoreUnavailable, OutcomeUnknown):
            await asyncio.sleep(0.02)
            continue
        receipts[where, f"m{count}"] = asyncio.get_running_loop().time()
        count += 1


async def fail_over(durability: Durability, source: random.Random, more: int) -> tuple[int, list[float]]:
    """Kill the primary under load, and go on for so many receipts more: how many there were, and for each that lied
    how long before the replica became deaf it was given.
    """
    loop, receipts, enough = asyncio.get_running_loop(), Receipts(), asyncio.Event()
    options: dict[str, Any] = {"durability": durability, "timeout": 1.0, "policies": WIDE}
    async with RedisSentinel() as group:
        old = group.primary()
        await asyncio.to_thread(eventually, lambda: has_replica(old), PATIENCE, "the replica to connect")
        async with store_on(sentinel_url(group), **options) as store, asyncio.timeout(120):
            async with asyncio.TaskGroup() as senders:
                for number in range(SENDERS):
                    senders.create_task(send(store, number, receipts, enough))
                await asyncio.sleep(source.uniform(0.2, 0.8))
                deafened_at = loop.time()
                await deafened(old, group.replica(), DEAF)
                before = len(receipts)
                await asyncio.to_thread(group.fail_over)
                await asyncio.to_thread(old.start)  # it becomes the replica of the new one
                while len(receipts) < before + more:
                    await asyncio.sleep(0.02)
                enough.set()
            lost = [at for (where, m), at in receipts.items() if await store.message(channel(where), m) is None]
    return len(receipts), [deafened_at - at for at in lost]


async def deafened(primary: RedisServer, replica: RedisServer, seconds: float) -> None:
    """The replica hears nothing any more of what the primary is told; then the primary is killed."""
    replica.freeze()
    primary.cli("CLIENT", "KILL", "TYPE", "replica")
    await asyncio.sleep(seconds)
    primary.kill9()
    replica.thaw()


async def test_a_replaced_primary_that_comes_back_is_given_nothing() -> None:
    """It calls itself a primary until the sentinels find it; what it were given would be gone then."""
    async with RedisSentinel() as group, store_on(sentinel_url(group), prefix="back:") as store:
        old = group.primary()
        await asyncio.to_thread(group.fail_over)
        await asyncio.to_thread(old.start)
        assert old.cli("ROLE")[0] == "master"

        assert (await accepted(store, said(channel("c"), "m1"))).position == 1

        async with store_on(group.primary().url(), prefix="back:") as witness:
            assert await witness.message(channel("c"), "m1") is not None


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("durability", [pytest.param("standard", marks=pytest.mark.only_in_prove), "strict"])
async def test_a_failover_loses_no_more_than_the_durability_says(
    durability: Durability, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    failovers, source = size(1, 10), random.Random(8)
    receipts, ages = 0, list[float]()
    for _ in range(failovers):
        given, lost = await fail_over(durability, source, size(0, 160))
        receipts += given
        ages += lost
    proof(
        f"sentinel failover ({durability})",
        f"failovers {failovers} | the replica hears nothing for the last {DEAF * 1000:.0f} ms | receipts {receipts} | "
        f"lost {len(ages)} | of those given before that {sum(age > 0 for age in ages)}",
    )
    assert (ages == []) == (durability == "strict")
    assert all(age <= 0 for age in ages)
