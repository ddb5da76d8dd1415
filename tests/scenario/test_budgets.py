"""What a budget allows is spent, and no more than one reservation beside it; who is refused is told politely."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.scenario.house import TestHouse, opened
from turnkeep.composition import endpoint_of
from turnkeep.runs.budget import _STARTS
from turnkeep.usage import NANO, Usage

OUTPUT = 16


@pytest.fixture(autouse=True)
def one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Midnight begins a new budget, also between two calls of a test."""
    monkeypatch.setitem(_STARTS, "day", "a day without an end")


@asynccontextmanager
async def thrifty(store: str, **settings: Any) -> AsyncIterator[TestHouse]:
    """A house whose assistant answers briefly, so that a run costs little less than it reserves."""
    given = {"openai_model": "gpt-4o", "window": 0.0, "max_wait": 0.0, **settings}
    async with opened(store, **given) as house:
        await brief(house)
        yield house


async def brief(house: TestHouse) -> None:
    assistants, own = house.queue.assistants, house.queue.assistant
    await assistants.change("default", own.assistant_id, {"parameters": {"max_output_tokens": OUTPUT}})


def text(number: int) -> str:
    return f"number {number:04} [[say:ok]]"


async def one_run() -> Usage:
    """What one of the runs below costs."""
    async with thrifty("memory:") as house, house.stream("c") as events:
        await house.send("c", text(0), "m0")
        seen = await house.settled(events, "m0")
    usage = seen[-1].usage
    assert usage is not None
    return usage


def reserved(usage: Usage) -> int:
    """What such a run reserves, with a little more for tokens that we count otherwise than the provider."""
    return usage.cost_nano + OUTPUT * 10_000 + 40 * 2_500


async def test_many_at_once_spend_what_is_allowed_within_one_reservation(store: str) -> None:
    usage = await one_run()
    budget, count = 20 * usage.cost_nano + reserved(usage), 60
    async with thrifty(store, tenant_budget=budget / NANO) as house:
        await asyncio.gather(*(house.send(f"c{n}", text(n), f"m{n}") for n in range(count)))
        counts = await _all_settled(house, count)
        spent = (await house.queue.store.stats()).usage.cost_nano
        letters = await house.queue.store.dead()
    assert budget - reserved(usage) <= spent <= budget
    assert counts.completed * usage.cost_nano == spent
    assert counts.failed == count - counts.completed == len(letters)
    assert {letter.fault.code for letter in letters} == {"budget_spent"}
    assert {letter.fault.message for letter in letters} == {
        "The budget for this period is used up. Please try again later."
    }
    assert all(exchange.outcome == "completed" for exchange in house.simulator.ledger)
    assert len(house.simulator.ledger) == counts.completed, "who is refused costs nothing"


async def _all_settled(house: TestHouse, count: int) -> Any:
    async with asyncio.timeout(PATIENCE):
        while (counts := await house.queue.store.counts()).completed + counts.failed < count:
            await asyncio.sleep(0.02)
    return counts


async def test_a_thread_that_has_spent_its_budget_takes_no_other_along(store: str) -> None:
    usage = await one_run()
    budget = usage.cost_nano + reserved(usage)
    async with thrifty(store, thread_budget=budget / NANO) as house:
        outcomes = []
        for number in range(4):
            async with house.stream("greedy") as events:
                await house.send("greedy", text(number), f"m{number}")
                outcomes.append((await house.settled(events, f"m{number}"))[-1].kind)
        async with house.stream("modest") as events:
            await house.send("modest", text(9), "m9")
            assert (await house.settled(events, "m9"))[-1].kind == "completed"
    assert outcomes[0] == "completed"
    assert outcomes[-1] == "dead"
    assert outcomes == sorted(outcomes), "once it is spent, it stays spent"


async def test_what_a_run_reserved_is_free_again_when_it_fails(store: str) -> None:
    usage = await one_run()
    budget = usage.cost_nano + reserved(usage)
    async with thrifty(store, tenant_budget=budget / NANO) as house:
        for number in range(5):
            house.fault(kind="poison", match="number")
            async with house.stream("c") as events:
                await house.send("c", text(number), f"m{number}")
                assert (await house.settled(events, f"m{number}"))[-1].kind == "dead"
            house.simulator.faults.clear()
        async with house.stream("c") as events:
            await house.send("c", text(9), "m9")
            assert (await house.settled(events, "m9"))[-1].kind == "completed"


async def test_the_pace_of_all_workers_is_kept_without_using_attempts(store: str) -> None:
    async with opened(store, requests_per_minute=120, window=0.0, max_wait=0.0) as house:
        await house.queue.store.slow_down(endpoint_of(house.queue.settings).name, 2.0)
        async with house.stream("c") as events:
            await house.send("c", "hello", "m1")
            seen = await house.settled(events, "m1")
    waiting = [event for event in seen if event.kind == "waiting"]
    assert waiting
    assert waiting[0].error is not None
    assert waiting[0].error.code == "pace_reached"
    assert seen[-1].kind == "completed"
    assert not [event for event in seen if event.kind == "retrying"]


async def test_what_one_user_has_spent_is_nobody_elses(store: str) -> None:
    usage = await one_run()
    async with thrifty(store, user_budget=(usage.cost_nano + reserved(usage)) / NANO) as house:
        outcomes = []
        for number, user in enumerate(("ana", "ana", "ana", "ana", "ben")):
            async with house.stream(f"c{number}") as events:
                await house.send(f"c{number}", text(number), f"m{number}", metadata={"user": user})
                outcomes.append((await house.settled(events, f"m{number}"))[-1].kind)
    assert (outcomes[0], outcomes[3], outcomes[4]) == ("completed", "dead", "completed")
