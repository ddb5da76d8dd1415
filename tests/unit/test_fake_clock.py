"""Time under the control of a test."""

from __future__ import annotations

import asyncio

from turnkeep.testing import START, FakeClock, settle


async def test_it_stands_still_until_it_is_moved() -> None:
    clock = FakeClock()
    assert clock.now() == clock.now() == START

    clock.advance(2.5)

    assert clock.now() == START + 2.5


async def test_sleepers_wake_at_their_moment() -> None:
    clock = FakeClock()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (3.0, 1.0, 2.0, 0.0, -1.0):
            group.create_task(sleep(seconds))
        await settle()
        assert sorted(woken) == [-1.0, 0.0]
        clock.advance(2.0)
        await settle()
        assert woken[2:] == [1.0, 2.0]
        clock.advance(1.0)


async def test_run_lets_each_sleeper_act_at_its_own_moment() -> None:
    clock = FakeClock()
    seen: list[float] = []

    async def tick() -> None:
        for _ in range(4):
            await clock.sleep(1.5)
            seen.append(clock.now() - START)

    async with asyncio.TaskGroup() as group:
        group.create_task(tick())
        await clock.run(5.0)
        assert seen == [1.5, 3.0, 4.5]
        assert clock.now() == START + 5.0
        await clock.run(1.0)

    assert seen[-1] == 6.0


async def test_a_sleeper_that_was_cancelled_disturbs_nobody() -> None:
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(1.0))
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await clock.run(2.0)

    assert task.cancelled()
