"""Whoever waits for an answer is told when there will be none."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenario.house import TestHouse, opened
from turnkeep.errors import NotFound
from turnkeep.store.clearing import forget_at_work


async def running(house: TestHouse) -> None:
    async with house.stream("c") as stream:
        await house.send("c", "tell me all [[words:4000]] [[pace:5]]", "first", flush=True)
        await house.until(stream, lambda event: event.kind == "delta")


async def test_who_listens_to_a_thread_that_is_forgotten_hears_its_turn_end(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        await running(house)
        await house.send("c", "and this", "second")

        assert await forget_at_work(house.queue.store, house.address("c"))

        heard = await house.settled(stream, "first")
        assert heard[-1].kind == "completed"
        assert ("withdrawn", ("second",)) in [(event.kind, event.message_ids) for event in heard]
        assert await house.queue.store.thread(house.address("c")) is None
        assert [exchange.outcome for exchange in house.simulator.ledger] == ["closed_by_client"]


async def test_a_thread_of_a_dead_worker_is_forgotten_too(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnkeep.store.clearing.PATIENCE", 0.2)
    async with opened(store, worker=False) as house:
        await house.send("c", "hello", "first", flush=True)
        await house.queue.store.claim(owner="dead", queues=None, limit=1, lease=60.0)

        assert await forget_at_work(house.queue.store, house.address("c"))

        assert await house.queue.store.thread(house.address("c")) is None


async def test_what_is_not_there_is_not_forgotten(store: str) -> None:
    async with opened(store) as house:
        assert not await forget_at_work(house.queue.store, house.address("nobody"))


async def test_asking_ends_when_the_question_is_withdrawn(store: str) -> None:
    async with opened(store) as house:
        await running(house)
        asking = house.queue.ask("c", "wait for it", message_id="asked", timeout=20, flush=False)
        [told, _] = await asyncio.gather(asking, withdrawn(house, "asked"), return_exceptions=True)

        assert isinstance(told, NotFound)
        assert "withdrawn" in str(told)


async def withdrawn(house: TestHouse, message_id: str) -> None:
    """Taken back as soon as it is there."""
    while await house.queue.store.message(house.address("c"), message_id) is None:
        await asyncio.sleep(0.01)
    await house.queue.cancel_run("c", drop_inbox=True)
