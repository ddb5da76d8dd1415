"""One tenant floods, others go on: they wait for a slot to be free, not for the flood to be over."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import LONG_PATIENCE, within
from tests.scenario.house import TestHouse, opened
from turnkeep.messages import Address, Message, text_content
from turnkeep.simulator import Exchange

SLOTS = 8
TAKES = 0.2
"""Seconds of every answer."""


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, memory_path: Path) -> str:
    """The URL of an empty store that several tenants share."""
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url())
    return f"sqlite:{memory_path / 'turnkeep.db'}"


@dataclass(frozen=True)
class Wait:
    """One message of a small tenant: when it had its receipt, when the model was asked, when it was answered."""

    accepted: float
    asked: float
    answered: float

    def passed_by(self, others: Iterable[Exchange]) -> int:
        """How many of these began while it waited."""
        return sum(self.accepted < other.arrived < self.asked for other in others)


def p95(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[int(len(ordered) * 0.95)]


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_a_flooding_tenant_delays_others_by_at_most_one_batch_for_each_slot(
    store: str, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    flood, tenants, each = size(60, 5000), size(4, 20), 5
    async with opened(store, concurrency=SLOTS, window=0, drain=1.0) as house:
        calm = await small_tenants(house, "calm", tenants, each)
        await accept_flood(house, flood)
        pressed = await small_tenants(house, "pressed", tenants, each)
        floods = [exchange for exchange in house.simulator.ledger if exchange.tenant == "flood"]
    passed_by = max(wait.passed_by(floods) for wait in pressed)
    alone, beside = p95(w.answered - w.accepted for w in calm), p95(w.answered - w.accepted for w in pressed)
    begun_alone, begun = p95(w.asked - w.accepted for w in calm), p95(w.asked - w.accepted for w in pressed)
    proof(
        f"flood ({store.partition(':')[0]})",
        f"{flood} messages against {tenants} tenants × {each} | slots {SLOTS} | p95 until answered alone "
        f"{alone:.2f} s | beside the flood {beside:.2f} s | ratio {beside / alone:.2f} | "
        f"p95 until begun alone {begun_alone:.2f} s | beside the flood {begun:.2f} s | "
        f"most flood batches begun while one waited {passed_by}",
    )
    assert len(floods) < flood, "the flood was over before the others were"
    assert passed_by <= size(2, 1) * SLOTS
    assert beside / alone <= size(100, 2)


async def small_tenants(house: TestHouse, name: str, tenants: int, each: int) -> list[Wait]:
    """Each sends its messages, on channels of their own, at moments that keep half of the slots busy."""
    source = random.Random(4)
    within = 2 * tenants * each * TAKES / SLOTS
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(small_message(house, f"small{tenant}", f"{name}{n}", source.uniform(0, within)))
            for tenant in range(tenants)
            for n in range(each)
        ]
    return [task.result() for task in tasks]


async def small_message(house: TestHouse, tenant: str, channel: str, after: float) -> Wait:
    await asyncio.sleep(after)
    address = Address(tenant, house.queue.name, channel)
    await house.queue.accept([spoken(address)])
    accepted = time.time()
    async with within(LONG_PATIENCE):
        while (record := await house.queue.store.message(address, "m")) is None or record.status != "answered":
            await asyncio.sleep(0.02)
    answered = time.time()
    [asked] = [e.arrived for e in house.simulator.ledger if text_of(address) in e.texts]
    return Wait(accepted, asked, answered)


async def accept_flood(house: TestHouse, count: int) -> None:
    """So many messages of one tenant, each on a channel of its own; all are in before this returns."""
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        await house.queue.accept([spoken(Address("flood", house.queue.name, f"f{number}")) for number in numbers])


def text_of(address: Address) -> str:
    return f"{address.tenant} on {address.channel} [[ttft:{TAKES * 1000:.0f}]] [[say:yes]]"


def spoken(address: Address) -> Message:
    return Message(address, "m", text_content(text_of(address)))
