"""Edit, withdraw, pause, resume."""

from __future__ import annotations

import pytest

from tests.contract.suite.desk import HERE, LEASE, STATES, WINDOW, Start, at, give_up
from turnkeep.errors import MessageFrozen, NotFound
from turnkeep.messages import text_content
from turnkeep.store.values import Remainder

CHANGED = text_content("changed")


class ChangePromises:
    async def test_a_waiting_message_can_be_edited(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.say("m2")
        await desk.wait(1)

        record = await desk.store.edit(HERE, "m1", CHANGED)

        assert record.message is not None
        assert (record.message.text, record.status) == ("changed", "waiting")
        assert await desk.due_in() == WINDOW - 1
        event = await desk.last_event()
        assert (event.kind, event.message_ids, event.text) == ("edited", ("m1",), "changed")
        await desk.wait(1)
        assert [m.text for m in (await desk.claim()).messages] == ["changed", "text of m2"]

    async def test_a_delayed_message_can_be_edited(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", not_before=desk.now + 10)

        assert (await desk.store.edit(HERE, "m1", CHANGED)).status == "delayed"

        await desk.wait(10 + WINDOW)
        assert [m.text for m in (await desk.claim()).messages] == ["changed"]

    async def test_the_same_edit_again_changes_nothing(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        record = await desk.store.edit(HERE, "m1", CHANGED)
        before = await desk.dump(ids=["m1"])

        assert await desk.store.edit(HERE, "m1", CHANGED) == record

        assert await desk.dump(ids=["m1"]) == before

    async def test_a_waiting_message_can_be_withdrawn(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.say("m2")

        record = await desk.store.withdraw(HERE, "m1")

        assert (record.status, record.message, record.settled_at) == ("withdrawn", None, desk.now)
        assert await desk.waiting_ids() == ["m2"]
        event = await desk.last_event()
        assert (event.kind, event.message_ids) == ("withdrawn", ("m1",))

    async def test_the_same_withdrawal_again_changes_nothing(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        record = await desk.store.withdraw(HERE, "m1")
        before = await desk.dump(ids=["m1"])
        await desk.wait(1)

        assert await desk.store.withdraw(HERE, "m1") == record

        assert await desk.dump(ids=["m1"]) == before

    async def test_a_thread_whose_last_message_is_withdrawn_is_idle(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.store.withdraw(HERE, "m1")

        record = await desk.thread()

        assert (record.state, record.due) == ("idle", None)
        await desk.wait(100)
        assert await desk.claims() == []

    async def test_a_withdrawn_delayed_message_never_comes(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", not_before=desk.now + 10)
        await desk.store.withdraw(HERE, "m1")
        await desk.wait(100)

        assert await desk.claims() == []

    async def test_the_window_is_that_of_the_messages_left(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.wait(1.5)
        await desk.say("m2")

        await desk.store.withdraw(HERE, "m2")

        assert await desk.due_in() == 0.5

    async def test_a_message_behind_the_batch_can_be_changed_during_a_run(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")
        await desk.say("m3")
        await desk.store.edit(HERE, "m2", CHANGED)
        await desk.store.withdraw(HERE, "m3")
        await desk.commit(claim)
        await desk.wait(WINDOW)

        assert [m.text for m in (await desk.claim()).messages] == ["changed"]

    @pytest.mark.parametrize("state", ["leased", "retry", "held"])
    async def test_a_message_that_is_being_answered_is_frozen(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.dump(ids=["old"])

        with pytest.raises(MessageFrozen):
            await desk.store.edit(HERE, "old", CHANGED)
        with pytest.raises(MessageFrozen):
            await desk.store.withdraw(HERE, "old")

        assert await desk.dump(ids=["old"]) == before

    async def test_a_settled_message_is_frozen(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("answered"))
        await desk.store.fail(await desk.lease("dead"), give_up())

        for message_id in ("answered", "dead"):
            with pytest.raises(MessageFrozen):
                await desk.store.edit(HERE, message_id, CHANGED)
            with pytest.raises(MessageFrozen):
                await desk.store.withdraw(HERE, message_id)

    async def test_a_withdrawn_message_cannot_be_edited(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.store.withdraw(HERE, "m1")

        with pytest.raises(MessageFrozen):
            await desk.store.edit(HERE, "m1", CHANGED)

    async def test_an_unknown_message_cannot_be_changed(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")

        for where in (HERE, at("unknown")):
            with pytest.raises(NotFound):
                await desk.store.edit(where, "m2", CHANGED)
            with pytest.raises(NotFound):
                await desk.store.withdraw(where, "m2")

    # ---------------------------------------------------------------- pause

    @pytest.mark.parametrize("state", [state for state in STATES if state != "leased"])
    async def test_no_run_begins_on_a_paused_thread(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        await desk.store.pause(HERE)
        await desk.say("m1", flush=True)
        await desk.wait(10_000)

        assert await desk.claims() == []
        counts = await desk.store.counts()
        assert (counts.paused, counts.waiting, counts.delayed, counts.held) == (1, 0, 0, 0)

    @pytest.mark.parametrize("state", STATES)
    async def test_pausing_and_resuming_keeps_state_and_due(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.thread()

        await desk.store.pause(HERE)
        paused = await desk.thread()
        await desk.store.resume(HERE)
        resumed = await desk.thread()

        assert (paused.paused, paused.state) == (True, before.state)
        assert (resumed.paused, resumed.state, resumed.due) == (False, before.state, before.due)

    @pytest.mark.parametrize("state", ["waiting", "retry", "dissolved", "held"])
    async def test_what_became_due_during_a_pause_is_claimed_when_it_ends(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        await desk.store.pause(HERE)
        await desk.wait(10_000)
        await desk.store.resume(HERE)

        assert (await desk.claim()).message_ids == ("old",)

    async def test_a_run_in_progress_finishes_and_no_other_begins(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.pause(HERE)
        await desk.say("m2")
        [directive] = (await desk.store.renew(claim.owner, [claim], lease=LEASE)).values()
        assert (directive.held, directive.stop) == (True, None)
        await desk.wait(10)

        assert await desk.commit(claim) == Remainder(1, None)

        assert await desk.claims() == []
        await desk.store.resume(HERE)
        assert (await desk.claim()).message_ids == ("m2",)

    @pytest.mark.parametrize("journalled", [False, True])
    async def test_a_worker_that_vanishes_during_a_pause_is_followed_after_it(
        self, start: Start, journalled: bool
    ) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        if journalled:
            await desk.store.journal(claim, [{"n": 0}])
        await desk.store.pause(HERE)
        await desk.wait(LEASE)
        assert await desk.claims("worker-2") == []
        await desk.wait(1000)
        assert await desk.claims("worker-2") == []
        await desk.store.resume(HERE)

        claim = await desk.claim("worker-2")

        assert (claim.message_ids, claim.deaths) == (("m1",), 1)

    async def test_pause_and_resume_are_told_once(self, start: Start) -> None:
        desk = await start()
        await desk.store.pause(HERE)
        await desk.store.pause(HERE)
        await desk.store.resume(HERE)
        await desk.store.resume(HERE)

        assert await desk.kinds() == ["paused", "resumed"]

    async def test_pausing_creates_the_thread_and_resuming_does_not(self, start: Start) -> None:
        desk = await start()
        await desk.store.resume(HERE)
        assert await desk.store.thread(HERE) is None

        await desk.store.pause(HERE)

        assert (await desk.thread()).paused

    async def test_messages_are_accepted_and_kept_during_a_pause(self, start: Start) -> None:
        desk = await start()
        await desk.store.pause(HERE)
        await desk.say("m1")
        await desk.say("m2", not_before=desk.now + 10)
        await desk.wait(100)
        await desk.say("m3")
        await desk.wait(100)
        await desk.store.resume(HERE)

        assert (await desk.claim()).message_ids == ("m1", "m2", "m3")

    async def test_waiting_messages_can_be_changed_during_a_pause(self, start: Start) -> None:
        desk = await start()
        await desk.store.pause(HERE)
        await desk.say("m1")
        await desk.say("m2")
        await desk.store.edit(HERE, "m1", CHANGED)
        await desk.store.withdraw(HERE, "m2")
        await desk.store.resume(HERE)
        await desk.wait(WINDOW)

        assert [m.content for m in (await desk.claim()).messages] == [CHANGED]
