"""P9 for sinks: an event that its receiver fails on delays its own channel alone, and is not lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.patience import PATIENCE, until
from tests.scenario.house import TestHouse, answered, opened
from tests.scenario.hubs import AGAIN_SOON, QUICKLY, WEBHOOK_SECRET, Inbox, receiver
from turnkeep.backoff import Backoff
from turnkeep.outbound.forwarder import Forwarder, ForwardRules, SinkReceiver
from turnkeep.outbound.parking import ParkingRules
from turnkeep.outbound.relay import Relay
from turnkeep.outbound.replies import ReplyExchange
from turnkeep.outbound.webhook import Webhook
from turnkeep.store.sinks import ParkedEvent

NEVER = Backoff("fixed", delay=3600.0, jitter=False, cap=3600.0)


@contextlib.asynccontextmanager
async def delivering(house: TestHouse, there: Inbox, rules: ForwardRules = QUICKLY) -> AsyncIterator[Forwarder]:
    """A webhook is delivered to until the end of the block."""
    webhook = Webhook(there.url, WEBHOOK_SECRET, allow_private=True)
    forwarder = Forwarder(house.queue.store, webhook, queue=house.queue.name, rules=rules)
    await house.queue.store.open_sink(forwarder.sink)
    running = asyncio.create_task(forwarder.run())
    try:
        yield forwarder
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def taken(there: Inbox) -> list[dict[str, Any]]:
    """The data of the events that were taken, in order."""
    return [event["data"] for event, status in zip(there.events, there.statuses, strict=True) if status < 300]


def channels(there: Inbox) -> list[str]:
    return [data["channel"] for data in taken(there)]


def failing_on(*names: str, status: int = 500) -> Callable[[dict[str, str]], int]:
    return lambda data: status if data["channel"] in names else 200


async def parked(house: TestHouse) -> list[ParkedEvent]:
    store = house.queue.store
    partitions = await store.open_sink(f"webhook:{house.queue.name}")
    return [one for n in partitions for one in await store.list_parked(f"webhook:{house.queue.name}", n)]


async def until_parked(house: TestHouse, count: int) -> list[ParkedEvent]:
    async with asyncio.timeout(PATIENCE):
        while len(found := await parked(house)) != count:
            await asyncio.sleep(0.02)
    return found


@pytest.mark.daily(rows=2)  # each failure on one of two engines
@pytest.mark.parametrize("status", [302, 400, 404, 410, 500, 503])
async def test_an_event_that_its_receiver_fails_on_delays_no_other_channel(store: str, status: int) -> None:
    async with opened(store) as house, receiver() as there:
        there.by_data = failing_on("poison", status=status)
        async with delivering(house, there):
            for channel in ("poison", "c1", "c2", "c3"):
                await answered(house, channel, "hello")
            await until(lambda: set(channels(there)) == {"c1", "c2", "c3"})
            [left] = await until_parked(house, 1)

            assert left.address.channel == "poison"
            assert left.reason == f"the receiver answered {status}"
            there.by_data = failing_on()
            await until(lambda: "poison" in channels(there))
            await until_parked(house, 0)


async def test_later_events_of_its_channel_wait_behind_it(store: str) -> None:
    async with opened(store) as house, receiver() as there:
        there.by_data = failing_on("poison")
        async with delivering(house, there):
            for text in ("one", "two", "three"):
                await answered(house, "poison", f"[[say:{text}]]")
            await answered(house, "c1", "hello")
            await until_parked(house, 3)
            await until(lambda: channels(there) == ["c1"])

            there.by_data = failing_on()
            await until(lambda: channels(there) == ["c1", "poison", "poison", "poison"])
            await answered(house, "poison", "[[say:four]]")
            await until(lambda: len(channels(there)) == 5)
    assert [data["message"] for data in taken(there)[1:]] == ["one", "two", "three", "four"]


async def test_the_next_process_goes_on_with_what_is_parked(store: str) -> None:
    patient = replace(QUICKLY, parking=ParkingRules(backoff=NEVER, look_again=0.2))
    async with opened(store) as house, receiver() as there:
        there.by_data = failing_on("poison")
        async with delivering(house, there, patient):
            await answered(house, "poison", "[[say:one]]")
            await until_parked(house, 1)
        await answered(house, "poison", "[[say:two]]")
        there.by_data = failing_on()
        async with delivering(house, there):
            await until(lambda: channels(there) == ["poison", "poison"])
            await until_parked(house, 0)
    ids = [headers["webhook-id"] for headers, _ in there.requests]
    assert len(set(ids)) == 2


async def test_after_an_outage_everything_is_tried_at_once(store: str) -> None:
    """A receiver that answers 404 while it is deployed loses nothing, though each event looks like a bad one."""
    patient = replace(QUICKLY, parking=ParkingRules(tries=2, suspects=3, backoff=NEVER, look_again=60.0))
    async with opened(store) as house, receiver() as there:
        there.by_data = lambda _: 404
        async with delivering(house, there, patient):
            names = [f"c{number}" for number in range(6)]
            for name in names:
                await answered(house, name, "hello")
            await until_parked(house, 3)
            there.by_data = failing_on()
            await until(lambda: set(channels(there)) == set(names))
            await until_parked(house, 0)


async def test_what_failed_for_too_long_is_left_to_people_and_its_channel_goes_on(store: str) -> None:
    impatient = replace(QUICKLY, parking=ParkingRules(backoff=AGAIN_SOON, look_again=0.1, give_up_after=0.3))
    async with opened(store) as house, receiver() as there:
        there.by_data = lambda data: 400 if "one" in data["message"] else 200
        async with delivering(house, there, impatient) as forwarder:
            await answered(house, "c1", "[[say:one]]")
            await answered(house, "c1", "[[say:two]]")
            await until(lambda: channels(there) == ["c1"])
            [left] = await until_parked(house, 1)
            assert left.is_given_up
            asked = len(there.requests)
            await answered(house, "c1", "[[say:three]]")
            await until(lambda: channels(there) == ["c1", "c1"])
            assert len(there.requests) == asked + 1

            there.by_data = failing_on()
            for partition in await house.queue.store.open_sink(forwarder.sink):
                await house.queue.store.redrive_parked(forwarder.sink, partition, [left.position])
            await until(lambda: channels(there) == ["c1", "c1", "c1"])
            await until_parked(house, 0)


NOWHERE: dict[str, Callable[[TestHouse], SinkReceiver]] = {
    "webhook": lambda _: Webhook("http://127.0.0.1:1/hook", WEBHOOK_SECRET, allow_private=True),
    "relay": lambda house: Relay("ws://127.0.0.1:1/ws", house.queue.store),
    "reply": lambda _: ReplyExchange("amqp://guest:guest@127.0.0.1:1/", "replies"),
}


@pytest.mark.daily(rows=2)  # each way on one of two engines
@pytest.mark.parametrize("kind", NOWHERE)
async def test_a_receiver_that_cannot_be_reached_parks_nothing(
    kind: str, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(store) as house:
        forwarder = Forwarder(house.queue.store, NOWHERE[kind](house), queue=house.queue.name, rules=QUICKLY)
        await house.queue.store.open_sink(forwarder.sink)
        running = asyncio.create_task(forwarder.run())
        await answered(house, "c1", "hello")
        await until(lambda: caplog.text.count("delivery_failed") > 6)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        [record] = await house.queue.store.sinks()
        assert record.parked == 0
        assert record.waiting > 0
