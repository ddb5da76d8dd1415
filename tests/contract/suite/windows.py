"""When a burst becomes a turn."""

from __future__ import annotations

import pytest

from tests.contract.suite.desk import HERE, LEASE, MAX_WAIT, STATES, WINDOW, Desk, Start, at, retry, said
from turnkeep.messages import BusyPolicy
from turnkeep.store.values import Policy, Remainder


async def is_due_exactly_in(desk: Desk, seconds: float) -> bool:
    """Whether the one thread can be claimed in so many seconds and not a quarter of a second before."""
    await desk.wait(seconds - 0.25)
    if await desk.is_claimable():
        return False
    await desk.wait(0.25)
    return await desk.is_claimable()


class WindowPromises:
    async def test_a_message_waits_its_window(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")

        assert await is_due_exactly_in(desk, WINDOW)

    async def test_each_message_slides_the_window(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.wait(1.5)
        await desk.say("m2")

        assert await is_due_exactly_in(desk, WINDOW)

    async def test_nobody_waits_longer_than_max_wait(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, max_wait=5.0))
        await desk.say("m1")
        for n in range(2, 5):
            await desk.wait(1.5)
            await desk.say(f"m{n}")

        assert await is_due_exactly_in(desk, 0.5)

    async def test_a_burst_is_one_turn_in_order(self, start: Start) -> None:
        desk = await start()
        for n in range(1, 6):
            await desk.say(f"m{n}")
            await desk.wait(0.5)
        await desk.wait(WINDOW)

        claim = await desk.claim()

        assert claim.message_ids == ("m1", "m2", "m3", "m4", "m5")
        assert [m.seq for m in claim.messages] == [1, 2, 3, 4, 5]

    async def test_the_last_message_sets_the_sliding_end(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", window=6.0)
        await desk.say("m2", window=1.0)

        assert await is_due_exactly_in(desk, 1.0)

    async def test_the_least_max_wait_of_the_batch_counts(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", max_wait=3.0)
        await desk.wait(2.0 - 0.25)
        await desk.say("m2")

        assert await is_due_exactly_in(desk, 1.25)

    async def test_a_window_of_nothing_is_due_at_once_with_all_before_it(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")

        receipt = await desk.say("m2", window=0.0)

        assert receipt.due_in == 0.0
        assert (await desk.claim()).message_ids == ("m1", "m2")

    async def test_a_message_that_asks_to_flush_ends_the_window(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")

        receipt = await desk.say("m2", flush=True)

        assert receipt.due_in == 0.0
        assert (await desk.claim()).message_ids == ("m1", "m2")

    async def test_a_flush_asked_while_a_run_was_busy_counts_after_it(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", flush=True)

        left = await desk.commit(claim)

        assert (left.messages, left.due) == (1, desk.now)
        assert (await desk.claim()).message_ids == ("m2",)

    async def test_a_flushed_window_does_not_slide_open_again(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        assert await desk.store.flush(HERE)

        assert (await desk.say("m2")).due_in == 0.0
        assert await desk.store.typing(HERE) == 0.0
        assert await desk.store.flush(HERE)
        assert (await desk.claim()).message_ids == ("m1", "m2")

    async def test_what_is_due_keeps_its_time_when_more_come(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", flush=True)
        due = (await desk.thread()).due
        await desk.wait(0.5)

        await desk.say("m2")
        await desk.store.flush(HERE)
        await desk.store.typing(HERE)

        assert (await desk.thread()).due == due

    async def test_a_flush_ends_with_its_batch(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1"))

        assert (await desk.say("m2")).due_in == WINDOW

    @pytest.mark.parametrize("state", [state for state in STATES if state != "waiting"])
    async def test_only_a_waiting_thread_is_flushed(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.dump(ids=["old"])

        assert not await desk.store.flush(HERE)
        assert not await desk.store.flush(at("unknown"))

        assert await desk.dump(ids=["old"]) == before

    async def test_a_full_batch_is_due_at_once(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, max_batch=3))
        await desk.say("m1")
        assert (await desk.say("m2")).due_in == WINDOW

        assert (await desk.say("m3")).due_in == 0.0
        assert (await desk.claim()).message_ids == ("m1", "m2", "m3")

    async def test_more_than_a_batch_becomes_several(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, max_batch=2))
        for n in range(1, 6):
            await desk.say(f"m{n}")

        first = await desk.claim()
        assert (await desk.commit(first)).due == desk.now
        second = await desk.claim()
        left = await desk.commit(second)

        assert (first.message_ids, second.message_ids) == (("m1", "m2"), ("m3", "m4"))
        assert (left.messages, left.due) == (1, desk.now + WINDOW)

    async def test_a_batch_holds_no_more_bytes_than_its_limit(self, start: Start) -> None:
        size = said("m1", "x" * 100).size
        desk = await start(Policy(window=2.0, max_batch_bytes=2 * size))
        await desk.say("m1", "x" * 100)
        assert (await desk.say("m2", "x" * 100)).due_in == WINDOW
        assert (await desk.say("m3", "x" * 100)).due_in == 0.0

        assert (await desk.claim()).message_ids == ("m1", "m2")

    async def test_a_message_larger_than_a_batch_has_one_of_its_own(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, max_batch_bytes=50))
        await desk.say("m1", "x" * 100)
        await desk.say("m2")

        assert (await desk.claim()).message_ids == ("m1",)

    async def test_messages_that_came_during_a_run_wait_by_their_own_window(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")
        await desk.wait(0.5)

        left = await desk.commit(claim)

        assert (left.messages, left.due) == (1, desk.now + WINDOW - 0.5)
        assert await is_due_exactly_in(desk, WINDOW - 0.5)

    async def test_a_window_that_has_passed_during_a_run_is_due_at_once(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")
        await desk.wait(10.0)

        left = await desk.commit(claim)

        assert left.due is not None
        assert left.due <= desk.now
        assert (await desk.claim()).message_ids == ("m2",)

    async def test_typing_moves_the_sliding_end(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.wait(1.5)

        assert await desk.store.typing(HERE) == WINDOW
        assert await is_due_exactly_in(desk, WINDOW)

    async def test_typing_never_goes_beyond_max_wait(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        for _ in range(5):
            await desk.wait(1.5)
            await desk.store.typing(HERE)

        assert await desk.store.typing(HERE) == MAX_WAIT - 7.5
        assert await is_due_exactly_in(desk, MAX_WAIT - 7.5)

    @pytest.mark.parametrize("state", [state for state in STATES if state != "waiting"])
    async def test_typing_changes_nothing_elsewhere(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.dump(ids=["old"])

        assert await desk.store.typing(HERE) is None
        assert await desk.store.typing(at("unknown")) is None

        assert await desk.dump(ids=["old"]) == before

    async def test_typing_counts_for_one_batch_only(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.store.typing(HERE)
        await desk.wait(WINDOW)
        await desk.commit(await desk.claim())

        await desk.say("m2")

        assert await is_due_exactly_in(desk, WINDOW)

    async def test_a_delayed_message_waits_beside_the_inbox(self, start: Start) -> None:
        desk = await start()

        receipt = await desk.say("later", not_before=desk.now + 10)

        assert (receipt.status, receipt.due_in, receipt.position) == ("delayed", 10.0, 1)
        assert await desk.status("later") == "delayed"
        assert (await desk.thread()).state == "idle"

    async def test_a_delayed_message_joins_at_its_moment_and_waits_its_window(self, start: Start) -> None:
        desk = await start()
        await desk.say("later", not_before=desk.now + 10)

        assert await is_due_exactly_in(desk, 10 + WINDOW)

    async def test_a_delayed_message_delays_nobody(self, start: Start) -> None:
        desk = await start()
        await desk.say("later", not_before=desk.now + 10)
        await desk.say("m1")
        await desk.wait(WINDOW)

        claim = await desk.claim()

        assert claim.message_ids == ("m1",)
        assert await desk.commit(claim) == Remainder(0, desk.now + 10 - WINDOW)

    async def test_a_delayed_message_takes_its_place_at_its_moment(self, start: Start) -> None:
        desk = await start(Policy(window=4.0, max_wait=20.0))
        await desk.say("second", not_before=desk.now + 2)
        await desk.say("first")
        await desk.wait(3)
        await desk.say("third")
        await desk.wait(4)

        claim = await desk.claim()

        assert claim.message_ids == ("first", "second", "third")
        assert claim.messages[1].arrival == desk.now - 5

    async def test_delayed_messages_are_told_in_the_order_of_their_moments(self, start: Start) -> None:
        desk = await start()
        await desk.say("b", not_before=desk.now + 20)
        await desk.say("a", not_before=desk.now + 10)
        await desk.say("now")

        assert await desk.waiting_ids() == ["now", "a", "b"]
        assert (await desk.say("m", not_before=desk.now + 15)).position == 3

    async def test_a_delayed_message_is_not_refused_by_a_run_that_is_busy_now(self, start: Start) -> None:
        desk = await start()
        await desk.lease("m1")

        receipt = await desk.say("later", not_before=desk.now + 10, on_busy="reject")

        assert receipt.status == "delayed"

    async def test_a_moment_that_has_passed_delays_nothing(self, start: Start) -> None:
        desk = await start()

        receipt = await desk.say("m1", not_before=desk.now)

        assert (receipt.status, receipt.due_in) == ("accepted", WINDOW)

    async def test_several_delayed_messages_join_each_at_its_own_moment(self, start: Start) -> None:
        desk = await start(Policy(window=1.0, max_wait=8.0))
        await desk.say("a", not_before=desk.now + 1)
        await desk.say("b", not_before=desk.now + 1.5)
        await desk.say("c", not_before=desk.now + 60)
        await desk.wait(10)

        claim = await desk.claim()

        assert claim.message_ids == ("a", "b")
        assert [m.arrival for m in claim.messages] == [desk.now - 9, desk.now - 8.5]

    @pytest.mark.parametrize("policy", ["interrupt", "rollback"])
    async def test_a_delayed_message_interrupts_at_its_moment(self, start: Start, policy: BusyPolicy) -> None:
        desk = await start()
        await desk.say("later", not_before=desk.now + 10, on_busy=policy)
        claim = await desk.lease("m1")
        [directive] = (await desk.store.renew(claim.owner, [claim], lease=LEASE)).values()
        assert directive.stop is None
        await desk.wait(10)

        [directive] = (await desk.store.renew(claim.owner, [claim], lease=LEASE)).values()

        assert directive.stop == policy

    async def test_a_delayed_message_interrupts_a_retry_at_its_moment(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("later", not_before=desk.now + 10, on_busy="interrupt")
        await desk.store.fail(claim, retry(60.0))

        await desk.wait(9.75)
        assert not await desk.claims()
        await desk.wait(0.25)

        assert (await desk.claim()).stop == "interrupt"

    async def test_a_message_that_asked_to_queue_has_a_batch_of_its_own(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")
        await desk.say("m3", on_busy="queue")
        await desk.say("m4")
        await desk.say("m5")

        batches = []
        for _ in range(3):
            await desk.commit(claim)
            await desk.wait(WINDOW)
            claim = await desk.claim()
            batches.append(claim.message_ids)

        assert batches == [("m2",), ("m3",), ("m4", "m5")]

    async def test_a_batch_of_its_own_does_not_wait_for_company(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="queue")

        assert (await desk.commit(claim)).due == desk.now
