"""Bells and feeds."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.patience import PATIENCE
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store.values import Notice
from turnkeep.store.wakeups import Bell, Feed
from turnkeep.testing import FakeClock, settle

A, B, C = (Address("t", "q", channel) for channel in "abc")


def event(offset: int) -> Event:
    return Event("delta", offset=offset)


async def drain(feed: Feed) -> list[Notice]:
    found: list[Notice] = []
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0):
                found.append(await anext(feed))
    return found


async def test_a_bell_wakes_all_who_wait_and_nobody_later() -> None:
    bell, clock = Bell(), FakeClock()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        waiting = [group.create_task(bell.wait(clock, 100.0)) for _ in range(3)]
        await settle()
        bell.ring()
        bell.ring()
        await settle()
        assert all(task.done() for task in waiting)
        late = group.create_task(bell.wait(clock, 100.0))
        await settle()
        assert not late.done()
        clock.advance(100.0)


async def test_a_bell_that_is_not_rung_waits_for_the_clock() -> None:
    bell, clock = Bell(), FakeClock()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        waits = group.create_task(bell.wait(clock, 2.0))
        await clock.run(1.75)
        assert not waits.done()
        await clock.run(0.25)
        assert waits.done()


async def test_whoever_stops_waiting_for_a_bell_is_forgotten() -> None:
    bell, clock = Bell(), FakeClock()
    task = asyncio.create_task(bell.wait(clock, 100.0))
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    bell.ring()
    assert not bell._waiting


async def test_a_bell_that_rings_for_one_who_is_cancelled_keeps_nobody_from_cancelling_him() -> None:
    """Both in one turn of the loop, in either order."""
    for is_rung_first in (True, False):
        bell, clock = Bell(), FakeClock()
        task = asyncio.create_task(bell.wait(clock, 100.0))
        await settle()
        for act in (bell.ring, task.cancel) if is_rung_first else (task.cancel, bell.ring):
            act()
        await asyncio.gather(task, return_exceptions=True)

        assert task.cancelled()
        assert not bell._waiting


async def test_a_bell_that_rings_when_the_time_is_over_leaves_nothing_behind() -> None:
    bell, clock = Bell(), FakeClock()

    async def wait() -> int:
        await bell.wait(clock, 1.0)
        await asyncio.sleep(0)  # a cancellation that was left would come here
        current = asyncio.current_task()
        assert current is not None
        return current.cancelling()

    task = asyncio.create_task(wait())
    await settle()
    clock.advance(1.0)
    bell.ring()

    assert await task == 0


async def test_whoever_hears_a_bell_is_awake_at_the_next_turn_of_the_loop() -> None:
    bell, clock = Bell(), FakeClock()
    task = asyncio.create_task(bell.wait(clock, 100.0))
    await settle()
    bell.ring()
    await settle(turns=1)

    assert task.done()


async def test_a_feed_gives_notices_in_order() -> None:
    feed = Feed(lambda address: address)
    await feed.add(A)
    await feed.add(B)
    for n, where in enumerate([A, B, A, C]):
        feed.tell(where, [event(n)])

    assert await drain(feed) == [Notice(A, (event(0),)), Notice(B, (event(1),)), Notice(A, (event(2),))]


async def test_a_feed_that_falls_behind_owes_each_channel_one_empty_notice() -> None:
    feed = Feed(lambda address: address, bound=3)
    await feed.add(A)
    await feed.add(B)
    for n in range(100):
        feed.tell(A if n % 3 else B, [event(n)])

    assert await drain(feed) == [Notice(B), Notice(A)]

    feed.tell(A, [event(100)])
    assert await drain(feed) == [Notice(A, (event(100),))]


async def test_a_feed_that_is_behind_tells_nothing_out_of_order() -> None:
    feed = Feed(lambda address: address, bound=1)
    await feed.add(A)
    await feed.add(B)
    for n, where in enumerate([A, A, B]):
        feed.tell(where, [event(n)])
    assert await anext(feed) == Notice(A)
    feed.tell(A, [event(3)])

    assert await drain(feed) == [Notice(B), Notice(A)]


async def test_a_feed_names_a_channel_as_it_was_asked_for() -> None:
    feed = Feed(lambda address: A if address == C else address)
    await feed.add(C)
    await feed.add(A)
    feed.tell(A, [event(1)])
    assert {notice.address for notice in await drain(feed)} == {A, C}

    await feed.discard(A)
    feed.tell(A, [event(2)])
    assert [notice.address for notice in await drain(feed)] == [C]
    await feed.discard(C)
    feed.tell(A, [event(3)])
    assert await drain(feed) == []


async def test_an_address_that_came_to_mean_another_thread_is_told_of_that_alone_and_then_of_nothing() -> None:
    """Its thread was forgotten, and another one is on the channel now."""
    threads = {C: A}
    feed = Feed(lambda address: threads.get(address, address))
    await feed.add(C)
    threads.clear()
    await feed.add(C)
    feed.tell(A, [event(1)])
    feed.tell(C, [event(2)])
    assert await drain(feed) == [Notice(C, (event(2),))]

    await feed.discard(C)
    feed.tell(A, [event(3)])
    assert await drain(feed) == []
    assert not feed.is_wanted


async def test_a_closed_feed_ends() -> None:
    feed = Feed(lambda address: address)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:

        async def follow() -> int:
            return len([notice async for notice in feed])

        waits = group.create_task(follow())
        await settle()
        feed.close()

    assert waits.result() == 0
