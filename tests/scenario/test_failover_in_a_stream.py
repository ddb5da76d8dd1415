"""A server that takes the place of another had not heard of the last deltas: the answer goes on, whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.chaos.standby import Standby
from tests.patience import PATIENCE
from turnkeep.events import Answer, Event
from turnkeep.messages import Address, Message, text_content
from turnkeep.runs.announcer import Announcer, Publisher
from turnkeep.store.contract import EventGap
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Claim, Policies, Policy

WHERE = Address("default", "assistant", "c")


@asynccontextmanager
async def owner_at_work() -> AsyncIterator[tuple[MemoryStore, Claim, Announcer]]:
    store = MemoryStore(Policies(Policy(window=0.0)))
    await store.accept([Message(WHERE, "m", text_content("hello"))])
    [claim] = await store.claim(owner="w", limit=1, lease=30.0)
    publisher = Publisher(store)
    announcer = Announcer(publisher, claim)
    publishing = asyncio.get_running_loop().create_task(publisher.run())
    yield store, claim, announcer
    publishing.cancel()
    announcer.close()


async def say(announcer: Announcer, *texts: str) -> None:
    for text in texts:
        announcer.text(text)
    async with asyncio.timeout(PATIENCE):
        await announcer.wait_until_published()


def shown(events: Sequence[Event]) -> str:
    """As a subscriber sees it."""
    answer = Answer()
    for event in events:
        answer.take(event)
    return answer.text


@pytest.mark.parametrize("losses", [1, 3])
async def test_deltas_that_a_failover_lost_are_shown_again(losses: int) -> None:
    async with owner_at_work() as (store, _, announcer):
        await say(announcer, "one ", "two ")
        for number in range(losses):
            standby = Standby(store)
            await say(announcer, f"{number} ", "is lost ")
            standby.take_over(number + 1)
            await say(announcer, "and ", "shown again ")

        assert shown((await store.read(WHERE)).events) == announcer.text_so_far


async def test_an_answer_that_begins_anew_just_then_is_shown_once() -> None:
    async with owner_at_work() as (store, _, announcer):
        standby = Standby(store)
        await say(announcer, "one ")
        standby.take_over(1)
        announcer.replace("two ")
        await say(announcer, "three")

        events = (await store.read(WHERE)).events
        assert shown(events) == "two three"
        assert [event.kind for event in events].count("snapshot") == 1


async def test_a_gap_says_how_much_there_is() -> None:
    async with owner_at_work() as (store, claim, announcer):
        await say(announcer, "one ")

        with pytest.raises(EventGap) as gap:
            await store.publish(claim, 7, [])

        assert gap.value.published_count == 1
