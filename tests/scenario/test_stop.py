"""P10, P11: stopping keeps what was said; disconnecting is not stopping; shutdown costs nobody an attempt."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import pytest

from tests.patience import until
from tests.scenario.house import TestHouse, opened
from turnkeep.messages import AssistantItem


async def test_cancel_keeps_the_text_shown_and_closes_the_model_connection(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        await house.send("c", "talk [[words:500]] [[pace:10]]")
        await house.until(stream, lambda event: event.kind == "delta")

        assert await house.queue.store.cancel(house.address("c"))
        events = await house.settled(stream, "m0")

        assert events[-1].outcome == "cancelled"
        assert events[-1].text
        last = (await house.transcript("c"))[-1]
        assert isinstance(last, AssistantItem)
        assert last.interrupted
        assert last.text == events[-1].text
        await until(lambda: [exchange.outcome for exchange in house.simulator.ledger] == ["closed_by_client"])


async def test_waiting_messages_run_after_a_cancel(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        await house.send("c", "talk [[words:500]] [[pace:10]]")
        await house.until(stream, lambda event: event.kind == "delta")
        await house.send("c", "and now this [[say:yes]]")

        await house.queue.store.cancel(house.address("c"))
        events = await house.settled(stream, "m1")

        assert events[-1].text == "yes"


async def test_cancel_with_drop_withdraws_what_waits(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        await house.send("c", "talk [[words:500]] [[pace:10]]")
        await house.until(stream, lambda event: event.kind == "delta")
        await house.send("c", "never mind")

        await house.queue.store.cancel(house.address("c"), drop_inbox=True)
        await house.settled(stream, "m0")

        record = await house.queue.store.message(house.address("c"), "m1")
        assert record is not None
        assert record.status == "withdrawn"
        assert len(house.simulator.ledger) == 1


async def test_a_reader_that_leaves_does_not_stop_the_run(store: str) -> None:
    async with opened(store) as house:
        async with house.stream("c") as stream:
            await house.send("c", "talk on [[words:30]] [[pace:5]]")
            await house.until(stream, lambda event: event.kind == "delta")
        async with house.stream("c", after=0, epoch="") as again:  # the run may be over by now
            events = await house.settled(again, "m0")

        assert events[-1].outcome == "completed"


async def test_a_drained_worker_gives_back_what_it_cannot_finish_without_an_attempt() -> None:
    async with opened("memory:", drain=0.05) as house, house.stream("c") as stream:
        await house.send("c", "long [[words:500]] [[pace:20]]")
        await house.until(stream, lambda event: event.kind == "delta")
        worker = house.queue._worker
        assert worker is not None

        worker.stop()
        await until(lambda: not worker.active)

        record = await house.queue.store.thread(house.address("c"))
        assert record is not None
        assert record.state == "retry"
        [opened_message] = await house.queue.store.open_messages(house.address("c"))
        assert opened_message.status == "waiting"


@pytest.mark.prove
async def test_stop_closes_the_model_connection_promptly(
    store: str, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    runs, bar = size(10, 200), size(5000, 250)
    taken: list[float] = []
    async with opened(store) as house:
        for number in range(runs):
            channel = f"c{number}"
            async with house.stream(channel) as stream:
                await house.send(channel, f"talk {number} [[words:2000]] [[pace:5]]", flush=True)
                await house.until(stream, lambda event: event.kind == "delta")
                pressed = time.time()
                await house.queue.store.cancel(house.address(channel))
                await until(functools.partial(closed, house, number))
                exchange = list(house.simulator.ledger)[number]
                taken.append((exchange.finished or 0.0) - pressed)
                await house.until(stream, lambda event: event.is_final)
    taken.sort()
    p50, p95 = taken[len(taken) // 2], taken[int(len(taken) * 0.95)]
    engine = store.split(":", maxsplit=1)[0]
    proof("stop", f"store {engine} | runs {runs} | closed p50 {p50 * 1000:.1f} ms | p95 {p95 * 1000:.1f} ms")
    assert p95 * 1000 <= bar


def closed(house: TestHouse, number: int) -> bool:
    exchanges = list(house.simulator.ledger)
    return len(exchanges) > number and exchanges[number].outcome == "closed_by_client"
