"""A budget holds for all workers together, also when some of them are killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.process.programs import Program
from turnkeep.assistants import Assistants
from turnkeep.messages import Address, Message, text_content
from turnkeep.pricing.prices import PriceBook
from turnkeep.runs.budget import Budget, Budgets
from turnkeep.simulator import Simulator, StreamPace, serve
from turnkeep.store import Policies, Policy, Store, open_store
from turnkeep.store.values import Counts
from turnkeep.usage import NANO

MODEL = "gpt-4o"
OUTPUT = 16
COST = 16 * 2_500 + 2 * 10_000
"""Nano-dollars of one run: what the simulator counts for the messages below."""

RESERVED = 60 * 2_500 + OUTPUT * 10_000
"""What a run reserves at most: we count the input otherwise than the simulator."""


@pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.only_in_prove), "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store that several processes can open."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'turnkeep.db'}"
    pytest.importorskip("redis")
    return str(request.getfixturevalue("redis_server").url())


@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_workers_spend_what_is_allowed_whoever_is_killed(
    place: str, tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    count, allowed, kills = size(60, 1000), size(12, 100), size(2, 10)
    hands = size(2, 4)
    budget = allowed * COST + RESERVED
    store = open_store(place, Policies(Policy(window=0.0, max_wait=0.0)))
    simulator = Simulator(pace=StreamPace(first=0.05, token=0.02))
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(simulator))
        await store.open()
        stack.push_async_callback(store.close)
        await _brief_assistant(store)
        began = await store.now() // 86_400
        workers = [_worker(place, url, budget, tmp_path / str(number)) for number in range(hands)]
        for worker in workers:
            stack.callback(worker.kill9)
            worker.start()
        await store.accept([_message(number) for number in range(count)])
        counts = await _until_settled(store, workers, count, kills)
        spent = (await store.stats()).usage.cost_nano
        days = 1 + await store.now() // 86_400 - began  # midnight begins a new budget
        [code] = {letter.fault.code for letter in await store.dead(limit=count)}
    assert spent == counts.completed * COST
    assert budget - RESERVED <= spent <= days * budget
    assert code == "budget_spent"
    engine = place.partition(":")[0]
    proof(
        f"budget ({engine})",
        f"{count} requests for {allowed}, {hands} workers, {kills} kills: {counts.completed} answered, "
        f"{spent / NANO:.6f} of {budget / NANO:.6f} dollars, one reservation is {RESERVED / NANO:.6f}",
    )


async def _brief_assistant(store: Store) -> None:
    """Its answers are short, so that a run costs little less than it reserves."""
    assistants = Assistants(store, model=MODEL)
    values = {"parameters": {"max_output_tokens": OUTPUT}}
    created = await assistants.create("default", values, now=await store.now())
    await assistants.use("default", created.assistant_id)


def _worker(place: str, url: str, budget: int, folder: Path) -> Program:
    folder.mkdir()
    settings = {
        "TURNKEEP_STORE": place,
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_MODEL": MODEL,
        "TURNKEEP_MODEL_API": "responses",
        "TURNKEEP_TENANT_BUDGET": f"{budget / NANO:.9f}",
        "TURNKEEP_CONCURRENCY": "16",
        "TURNKEEP_LEASE": "3",
    }
    return Program(["worker"], folder, settings)


def _message(number: int) -> Message:
    text = f"number {number:04} [[say:ok]]"
    return Message(Address("default", "assistant", f"c{number}"), f"m{number}", text_content(text))


async def _until_settled(store: Store, workers: list[Program], count: int, kills: int) -> Counts:
    """Kill a worker now and then, when the money is about to be spent, and start it again."""
    dice, sweeping = random.Random(1), Budgets(store, PriceBook(), [Budget("tenant", 1.0)])
    async with asyncio.timeout(600):
        while (counts := await store.counts()).completed + counts.failed < count:
            await asyncio.sleep(0.3)
            if kills and counts.completed:
                kills -= 1
                worker = dice.choice(workers)
                worker.kill9()
                worker.start()
            elif not kills:
                await sweeping.sweep(older_than=20.0, tenants=["default"])
    return counts
