"""Messages that ask to be taken into the run in progress."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.suite.desk import HERE, LEASE, WINDOW, Desk, Start, give_up, retry
from tests.patience import PATIENCE
from turnkeep.errors import MessageFrozen
from turnkeep.messages import text_content
from turnkeep.store.values import Claim


async def steered(desk: Desk, claim: Claim) -> bool:
    """Whether a renewal tells the run of messages to steer by."""
    [directive] = (await desk.store.renew(claim.owner, [claim], lease=LEASE)).values()
    return directive.steer


class SteerPromises:
    async def test_a_steering_message_is_offered_to_the_run(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        assert not await steered(desk, claim)

        receipt = await desk.say("m2", on_busy="steer")

        assert receipt.steer == "accepted"
        assert (await desk.record("m2")).steer == "accepted"
        assert await steered(desk, claim)
        assert [m.message_id for m in await desk.store.offer_steering(claim)] == ["m2"]
        assert not await steered(desk, claim)

    async def test_all_that_wait_before_a_steering_message_are_offered_with_it(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")
        await desk.say("m3", on_busy="steer")
        await desk.say("m4")

        assert [m.message_id for m in await desk.store.offer_steering(claim)] == ["m2", "m3"]

    async def test_nothing_is_offered_when_nobody_asked_to_steer(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")

        assert await desk.store.offer_steering(claim) == []

    async def test_the_offer_stands_until_it_is_journalled(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="steer")

        first = await desk.store.offer_steering(claim)
        second = await desk.store.offer_steering(claim)
        assert first == second
        await desk.store.journal(claim, [{"n": 0, "steered_through": first[-1].seq}])

        assert await desk.store.offer_steering(claim) == []

    async def test_what_was_offered_cannot_be_taken_back_any_more(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="steer")
        await desk.store.offer_steering(claim)

        with pytest.raises(MessageFrozen):
            await desk.store.withdraw(HERE, "m2")
        with pytest.raises(MessageFrozen):
            await desk.store.edit(HERE, "m2", text_content("changed"))
        await desk.store.cancel(HERE, drop_inbox=True)

        assert await desk.waiting_ids() == ["m1", "m2"]

    async def test_what_was_not_offered_yet_can_be_taken_back(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="steer")

        await desk.store.withdraw(HERE, "m2")

        assert await desk.store.offer_steering(claim) == []

    async def test_journalled_messages_belong_to_the_batch(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")
        await desk.say("m3", on_busy="steer")
        taken = await desk.store.offer_steering(claim)

        await desk.store.journal(claim, [{"n": 0, "steered_through": taken[-1].seq}])

        event = await desk.last_event()
        assert (event.kind, event.message_ids, event.outcome) == ("steered", ("m2", "m3"), "applied")
        assert (await desk.record("m3")).steer == "applied"
        assert await desk.status("m3") == "running"
        await desk.commit(claim)
        assert (await desk.record("m1")).covers == ("m1", "m2", "m3")
        assert (await desk.record("m3")).steer == "applied"
        assert await desk.waiting_ids() == []

    async def test_a_repeated_record_takes_no_more(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="steer")
        [taken] = await desk.store.offer_steering(claim)
        record = {"n": 0, "steered_through": taken.seq}
        await desk.store.journal(claim, [record])
        before = await desk.dump(ids=["m1", "m2"])

        await desk.store.journal(claim, [record])

        assert await desk.dump(ids=["m1", "m2"]) == before

    async def test_a_second_attempt_has_the_steered_messages_in_its_batch(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="steer")
        [taken] = await desk.store.offer_steering(claim)
        await desk.store.journal(claim, [{"n": 0, "steered_through": taken.seq}])
        await desk.wait(LEASE)

        assert (await desk.claim()).message_ids == ("m1", "m2")

    async def test_what_was_offered_but_not_journalled_is_offered_to_the_next_attempt(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.journal(claim, [{"n": 0}])
        await desk.say("m2", on_busy="steer")
        await desk.store.offer_steering(claim)
        await desk.wait(LEASE)

        claim = await desk.claim()

        assert claim.message_ids == ("m1",)
        assert await steered(desk, claim)
        assert [m.message_id for m in await desk.store.offer_steering(claim)] == ["m2"]

    async def test_steering_that_came_too_late_is_deferred(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="steer")
        await desk.store.offer_steering(claim)

        left = await desk.commit(claim)

        assert (left.messages, left.due) == (1, desk.now + WINDOW)
        assert (await desk.record("m2")).steer == "deferred"
        kinds = [(event.kind, event.outcome) for event in await desk.events()]
        assert ("steered", "deferred") in kinds
        await desk.store.withdraw(HERE, "m2")

    @pytest.mark.parametrize("effects", [False, True])
    async def test_steering_is_deferred_when_its_run_dies_or_is_split(self, start: Start, effects: bool) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        await desk.say("m3", on_busy="steer")
        await desk.store.offer_steering(claim)

        await desk.store.fail(claim, give_up(effects=effects))

        assert (await desk.record("m3")).steer == "deferred"
        await desk.store.withdraw(HERE, "m3")

    async def test_steering_goes_on_in_the_next_attempt(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="steer")
        await desk.store.offer_steering(claim)
        await desk.store.fail(claim, retry(1.0))
        await desk.store.edit(HERE, "m2", text_content("changed"))
        await desk.wait(1)

        claim = await desk.claim()

        assert [m.text for m in await desk.store.offer_steering(claim)] == ["changed"]

    async def test_steering_a_batch_that_dissolves_is_deferred_into_the_next_one(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2", on_busy="steer")
        await desk.store.offer_steering(claim)

        await desk.store.release(claim)

        assert (await desk.record("m2")).steer == "deferred"
        claim = await desk.claim()
        assert claim.message_ids == ("m1", "m2")
        assert await desk.store.offer_steering(claim) == []

    @pytest.mark.parametrize("state", ["retry", "dissolved", "held"])
    async def test_there_is_nothing_to_steer_without_a_run_in_progress(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)

        assert (await desk.say("m2", on_busy="steer")).steer is None

    async def test_the_worker_is_told_of_steering_at_once(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            told = group.create_task(desk.store.wait_nudge(claim.owner, timeout=3600.0))
            await desk.wait(1)
            await desk.say("m2", on_busy="steer")

        assert told.result() == {HERE}
