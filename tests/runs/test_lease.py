"""A lease that is held: who works under it is told why he has to end, once, and nothing else of his task is touched."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from tests.runs.stage import lease_of_nobody
from turnkeep.errors import LeaseLost, RunTimedOut, StoreUnavailable
from turnkeep.runs.lease import DrainRequest, Lease, StopRequest
from turnkeep.runs.run import while_held

LOST, STOP, DRAIN, AWAY = LeaseLost("lost"), StopRequest("cancel"), DrainRequest(), StoreUnavailable("away")


def current_cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def within(lease: Lease, work: Callable[[], Awaitable[None]]) -> None:
    with while_held(lease):
        await work()


async def test_a_block_that_nobody_ends_is_left_as_it_is() -> None:
    lease = lease_of_nobody()
    with while_held(lease):
        await asyncio.sleep(0)
    lease.interrupt(STOP)
    await asyncio.sleep(0)
    assert current_cancellations() == 0


async def test_a_reason_ends_the_block_at_its_next_wait() -> None:
    lease = lease_of_nobody()
    asyncio.get_running_loop().call_later(1.0, lease.interrupt, STOP)
    with pytest.raises(StopRequest) as caught, while_held(lease):
        await for_ever()
    await asyncio.sleep(0)
    assert (caught.value, current_cancellations()) == (STOP, 0)


async def test_a_block_with_a_reason_to_end_does_not_begin() -> None:
    lease, steps = lease_of_nobody(), list[str]()
    lease.interrupt(STOP)
    with pytest.raises(StopRequest), while_held(lease):
        steps.append("begun")
    await asyncio.sleep(0)
    assert (steps, current_cancellations()) == ([], 0)


async def test_a_reason_that_is_given_within_the_block_ends_it_too() -> None:
    lease = lease_of_nobody()

    async def work() -> None:
        lease.interrupt(STOP)
        await for_ever()

    with pytest.raises(StopRequest):
        await within(lease, work)
    assert current_cancellations() == 0


async def test_a_block_that_does_not_wait_any_more_is_ended_all_the_same() -> None:
    lease = lease_of_nobody()
    with pytest.raises(StopRequest), while_held(lease):
        lease.interrupt(STOP)
    await asyncio.sleep(0)
    assert current_cancellations() == 0


WEIGHTS: dict[str, tuple[list[Exception], Exception | None, Exception]] = {
    "a lost lease before a stop": ([STOP, LOST], None, LOST),
    "a stop before a drain": ([DRAIN, STOP], None, STOP),
    "the first of two alike": ([STOP, StopRequest("rollback")], None, STOP),
    "a lost lease before what the work raises": ([LOST], AWAY, LOST),
    "a stop before what the work raises": ([STOP], RunTimedOut("late"), STOP),
    "what the work raises before what we do not know": ([ValueError("odd")], AWAY, AWAY),
    "of several that the work raises the one that we know": ([ValueError("odd")], ExceptionGroup("", [AWAY]), AWAY),
}


@pytest.mark.parametrize(("reasons", "raised", "counts"), WEIGHTS.values(), ids=WEIGHTS)
async def test_of_several_reasons_the_weightiest_counts(
    reasons: list[Exception], raised: Exception | None, counts: Exception
) -> None:
    lease = lease_of_nobody()

    async def work() -> None:
        for reason in reasons:
            lease.interrupt(reason)
        try:
            await for_ever()
        finally:
            if raised is not None:
                raise raised

    with pytest.raises(type(counts)) as caught:
        await within(lease, work)
    assert caught.value is counts
    assert current_cancellations() == 0


async def test_what_the_work_does_on_its_way_out_is_not_cut_off_by_a_second_reason() -> None:
    lease, steps, loop = lease_of_nobody(), list[str](), asyncio.get_running_loop()
    loop.call_later(1.0, lease.interrupt, STOP)
    loop.call_later(2.0, lease.interrupt, LOST)

    async def work() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(3.0)
            steps.append("tidied up")

    with pytest.raises(LeaseLost):
        await within(lease, work)
    assert steps == ["tidied up"]


async def beginning(lease: Lease) -> asyncio.Task[None]:
    """A task that works under it, and waits."""
    task = asyncio.create_task(within(lease, for_ever))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("cancel_first", [False, True])
async def test_who_is_cancelled_from_outside_is_cancelled_whatever_else_is_said(*, cancel_first: bool) -> None:
    lease = lease_of_nobody()
    task = await beginning(lease)
    acts: list[Callable[[], object]] = [lambda: lease.interrupt(STOP), task.cancel]
    for act in reversed(acts) if cancel_first else acts:
        act()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_who_is_cancelled_without_a_reason_is_cancelled() -> None:
    task = await beginning(lease_of_nobody())
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_who_cancels_before_a_reason_of_the_work_itself_takes_effect_comes_first() -> None:
    lease = lease_of_nobody()

    async def work() -> None:
        lease.interrupt(STOP)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await within(lease, work)


async def test_a_group_that_failed_within_the_block_hides_no_reason() -> None:
    """On Python 3.11 it leaves a cancellation counted that nobody has asked for."""
    lease = lease_of_nobody()

    async def fail() -> None:
        await asyncio.sleep(1.0)
        raise ValueError

    async def work() -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        await for_ever()

    asyncio.get_running_loop().call_later(2.0, lease.interrupt, STOP)
    with pytest.raises(StopRequest):
        await within(lease, work)


async def test_what_ends_the_program_is_nobody_elses() -> None:
    lease = lease_of_nobody()

    async def work() -> None:
        lease.interrupt(STOP)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await within(lease, work)
    await asyncio.sleep(0)
    assert current_cancellations() == 0


def test_there_is_nothing_to_interrupt_without_a_task() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"), while_held(lease_of_nobody()):
        pass


async def test_what_a_callback_begins_is_no_task() -> None:
    errors: list[Exception] = []

    def call() -> None:
        try:
            with while_held(lease_of_nobody()):
                pass
        except RuntimeError as error:
            errors.append(error)

    asyncio.get_running_loop().call_soon(call)
    await asyncio.sleep(1.0)
    assert [str(error) for error in errors] == ["only a task can be interrupted"]
