"""Cancel, interrupt, roll back: the flag is found, whatever happens to the worker."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.suite.desk import CALL, HERE, LEASE, OTHER_CALL, WINDOW, Desk, Start, at, give_up, retry
from tests.patience import PATIENCE
from turnkeep.messages import BusyPolicy
from turnkeep.store.values import Claim, Decision, Stop


async def told(desk: Desk, claim: Claim) -> Stop | None:
    """What a renewal tells the run."""
    [directive] = (await desk.store.renew(claim.owner, [claim], lease=LEASE)).values()
    return directive.stop


class StopPromises:
    async def test_cancel_tells_the_run_in_progress(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        assert await told(desk, claim) is None

        assert await desk.store.cancel(HERE)

        assert await told(desk, claim) == "cancel"

    async def test_cancel_again_says_the_same(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.cancel(HERE)
        before = await desk.dump(ids=["m1"])

        assert await desk.store.cancel(HERE)

        assert await desk.dump(ids=["m1"]) == before
        assert await told(desk, claim) == "cancel"

    @pytest.mark.parametrize("policy", ["interrupt", "rollback"])
    async def test_a_message_may_stop_the_run_in_progress(self, start: Start, policy: BusyPolicy) -> None:
        desk = await start()
        claim = await desk.lease("m1")

        await desk.say("m2", on_busy=policy)

        assert await told(desk, claim) == policy
        await desk.commit(claim, outcome="cancelled")
        assert await desk.waiting_ids() == ["m2"]

    async def test_the_first_stop_counts(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="rollback")
        await desk.say("m3", on_busy="interrupt")
        await desk.store.cancel(HERE)

        assert await told(desk, claim) == "rollback"

    async def test_the_worker_is_told_at_once(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            nudged = group.create_task(desk.store.wait_nudge(claim.owner, timeout=3600.0))
            await desk.wait(1)
            await desk.store.cancel(HERE)

        assert nudged.result() == {HERE}

    async def test_nobody_is_nudged_for_nothing(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            nudged = group.create_task(desk.store.wait_nudge(claim.owner, timeout=0.5))
            await desk.say("m2")
            await desk.wait(0.5)

        assert nudged.result() == set()

    @pytest.mark.parametrize("state", ["retry", "held"])
    async def test_cancel_is_left_to_the_next_claimant_at_once(self, start: Start, state: str) -> None:
        desk = await start()
        first = await desk.bring(state)
        assert first is not None

        assert await desk.store.cancel(HERE)

        claim = await desk.claim()
        assert (claim.stop, claim.message_ids, claim.run_id) == ("cancel", ("old",), first.run_id)
        await desk.commit(claim, outcome="cancelled")
        assert await desk.status("old") == "cancelled"

    @pytest.mark.parametrize("state", ["idle", "waiting", "dissolved"])
    async def test_cancel_finds_nothing_to_stop(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.dump(ids=["old"])

        assert not await desk.store.cancel(HERE)
        assert not await desk.store.cancel(at("unknown"))

        assert await desk.dump(ids=["old"]) == before

    @pytest.mark.parametrize("state", ["idle", "waiting", "dissolved"])
    async def test_cancel_may_drop_all_that_waits(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        await desk.say("m1")
        await desk.say("later", not_before=desk.now + 100)

        assert not await desk.store.cancel(HERE, drop_inbox=True)

        record = await desk.thread()
        assert (record.state, record.due, record.open_messages) == ("idle", None, 0)
        assert await desk.status("later") == "withdrawn"
        assert (await desk.kinds())[-2:] == ["withdrawn", "withdrawn"]
        await desk.wait(200)
        assert await desk.claims() == []

    @pytest.mark.parametrize("state", ["leased", "retry", "held"])
    async def test_dropping_the_inbox_leaves_the_batch(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        await desk.say("m1")
        await desk.say("later", not_before=desk.now + 100)

        assert await desk.store.cancel(HERE, drop_inbox=True)

        assert await desk.waiting_ids() == ["old"]
        assert (await desk.thread()).state == state

    async def test_what_waits_runs_after_a_cancel(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")
        await desk.store.cancel(HERE)
        await desk.commit(claim, outcome="cancelled")
        await desk.wait(WINDOW)

        claim = await desk.claim()

        assert (claim.message_ids, claim.stop) == (("m2",), None)

    @pytest.mark.parametrize("stop", ["cancel", "interrupt", "rollback"])
    async def test_a_stop_outlives_its_worker_and_keeps_its_batch(self, start: Start, stop: str) -> None:
        desk = await start()
        first = await desk.lease("m1")
        await press(desk, stop)
        await desk.say("late")
        await desk.wait(LEASE)

        claim = await desk.claim()

        assert (claim.stop, claim.message_ids, claim.run_id) == (stop, ("m1",), first.run_id)
        assert (await desk.kinds()).count("started") == 1

    async def test_a_stop_outlives_a_release_and_is_due_at_once(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.cancel(HERE)
        await desk.store.release(claim, delay=500.0)

        claim = await desk.claim()

        assert (claim.stop, claim.message_ids, claim.deaths) == ("cancel", ("m1",), 0)

    @pytest.mark.parametrize("failure", [retry(500.0), give_up(), give_up(effects=True)])
    async def test_a_stop_outlives_a_failure_and_is_due_at_once(self, start: Start, failure: object) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        await desk.store.cancel(HERE)

        assert await desk.store.fail(claim, failure) == "retry"  # type: ignore[arg-type]  # a Failure

        claim = await desk.claim()
        assert (claim.stop, claim.message_ids) == ("cancel", ("m1", "m2"))

    async def test_a_claim_that_was_to_stop_and_fails_is_dead_and_never_split(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        await desk.store.cancel(HERE)
        await desk.store.release(claim)

        assert await desk.store.fail(await desk.claim(), give_up()) == "dead"

        assert await desk.claims() == []

    async def test_a_stop_outlives_a_hold(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.cancel(HERE)
        await desk.store.hold(claim, [CALL], expires_in=600.0)

        claim = await desk.claim()

        assert (claim.stop, [call.decision for call in claim.calls]) == ("cancel", [None])

    @pytest.mark.parametrize("policy", ["interrupt", "rollback"])
    async def test_a_batch_that_has_dissolved_is_not_stopped_but_joined(self, start: Start, policy: BusyPolicy) -> None:
        desk = await start()
        await desk.bring("dissolved")
        await desk.say("m1", on_busy=policy)

        claim = await desk.claim()

        assert (claim.stop, claim.message_ids) == (None, ("old", "m1"))

    async def test_a_run_that_was_faster_than_the_stop_counts(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.cancel(HERE)
        await desk.commit(claim, "done already")

        assert await desk.status("m1") == "answered"
        assert (await desk.lease("m2")).stop is None

    @pytest.mark.parametrize("policy", ["interrupt", "rollback"])
    async def test_a_newer_message_declines_the_open_calls_of_a_held_turn(
        self, start: Start, policy: BusyPolicy
    ) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.hold(claim, [CALL, OTHER_CALL], expires_in=600.0)
        await desk.store.decide(HERE, CALL.call_id, CALL.digest, Decision("approved"))

        await desk.say("m2", on_busy=policy)

        claim = await desk.claim()
        assert claim.stop == policy
        assert [call.decision for call in claim.calls] == ["approved", "declined"]

    async def test_a_paused_thread_takes_the_stop_when_it_resumes(self, start: Start) -> None:
        desk = await start()
        await desk.bring("retry")
        await desk.store.pause(HERE)

        assert await desk.store.cancel(HERE)
        assert await desk.claims() == []
        await desk.store.resume(HERE)

        assert (await desk.claim()).stop == "cancel"


async def press(desk: Desk, stop: str) -> None:
    if stop == "cancel":
        await desk.store.cancel(HERE)
    else:
        await desk.say("stopper", on_busy="interrupt" if stop == "interrupt" else "rollback")
