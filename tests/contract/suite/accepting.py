"""Messages on their way in."""

from __future__ import annotations

import pytest

from tests.contract.suite.desk import (
    BUSY,
    HERE,
    MAX_WAIT,
    POLICY,
    WINDOW,
    Start,
    at,
    give_up,
    said,
)
from turnkeep.errors import InboxFull, MessageConflict, Rejection, ThreadBusy, ThreadNotFound
from turnkeep.messages import BusyPolicy, Part, digest
from turnkeep.store.values import Policies, Policy, Receipt


class AcceptPromises:
    async def test_a_receipt_tells_place_and_time(self, start: Start) -> None:
        desk = await start()

        first = await desk.say("m1")
        await desk.wait(0.5)
        second = await desk.say("m2")

        assert (first.channel, first.message_id, first.status) == ("c", "m1", "accepted")
        assert (first.position, first.due_in, first.idempotent, first.repeated) == (1, WINDOW, True, False)
        assert (second.position, second.due_in) == (2, WINDOW)
        assert first.thread_id == second.thread_id == (await desk.thread()).thread_id

    async def test_the_same_id_and_text_again_gives_the_original_receipt_and_stores_nothing(self, start: Start) -> None:
        desk = await start()
        original = await desk.say("m1", "hello")
        await desk.say("m2")
        before = await desk.dump(ids=["m1", "m2"])
        await desk.wait(0.5)

        again = await desk.say("m1", "hello")

        assert again.repeated
        assert again.to_json() == original.to_json()
        assert await desk.dump(ids=["m1", "m2"]) == before

    async def test_the_same_id_with_other_text_is_a_conflict_and_stores_nothing(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", "hello")
        before = await desk.dump(ids=["m1"])

        with pytest.raises(MessageConflict):
            await desk.say("m1", "goodbye")

        assert await desk.dump(ids=["m1"]) == before

    async def test_only_the_content_makes_two_sends_the_same(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", "hello", metadata={"device": "phone"})

        again = await desk.say("m1", "hello", metadata={"device": "desk"}, window=60.0)

        assert again.repeated

    async def test_parts_that_are_no_text_make_a_difference(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", (Part("text", "look"), Part("image", data={"url": "a"})))

        with pytest.raises(MessageConflict):
            await desk.say("m1", (Part("text", "look"), Part("image", data={"url": "b"})))

    async def test_each_message_of_one_call_has_its_own_outcome_in_its_place(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", "hello")

        outcomes = await desk.store.accept(
            [
                said("m2", where=at("other")),
                said("m1", "goodbye"),
                said("m3"),
                said("m4", where=at("other")),
                said("m1", "hello"),
            ]
        )

        assert [type(o) for o in outcomes] == [Receipt, MessageConflict, Receipt, Receipt, Receipt]
        assert await desk.waiting_ids() == ["m1", "m3"]
        assert await desk.waiting_ids(at("other")) == ["m2", "m4"]

    async def test_no_messages_have_no_outcomes(self, start: Start) -> None:
        desk = await start()

        assert await desk.store.accept([]) == []

    async def test_one_id_twice_in_one_call_is_one_message(self, start: Start) -> None:
        desk = await start()

        first, second, third = await desk.store.accept([said("m1", "a"), said("m1", "a"), said("m1", "b")])

        assert isinstance(first, Receipt)
        assert isinstance(second, Receipt)
        assert not first.repeated
        assert second.repeated
        assert isinstance(third, MessageConflict)
        assert await desk.waiting_ids() == ["m1"]

    async def test_one_id_on_two_channels_is_two_messages(self, start: Start) -> None:
        desk = await start()

        await desk.say("m1", "hello")
        other = await desk.say("m1", "goodbye", at("other"))

        assert not other.repeated
        assert (await desk.store.counts()).open_messages == 2

    async def test_an_answered_id_is_remembered_for_the_dedupe_time(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, dedupe=1000.0))
        original = await desk.say("m1")
        await desk.wait(2.0)
        await desk.commit(await desk.claim())

        await desk.wait(999.0)
        assert (await desk.say("m1")).to_json() == original.to_json()
        with pytest.raises(MessageConflict):
            await desk.say("m1", "other")

        await desk.wait(1.0)
        assert await desk.store.message(HERE, "m1") is None
        assert not (await desk.say("m1", "other")).repeated

    async def test_an_open_id_is_remembered_however_long_it_waits(self, start: Start) -> None:
        desk = await start(Policy(dedupe=1000.0))
        await desk.store.pause(HERE)
        await desk.say("m1")

        await desk.wait(5000.0)
        await desk.store.expire()

        assert (await desk.say("m1")).repeated

    async def test_a_withdrawn_id_is_remembered(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.store.withdraw(HERE, "m1")

        assert (await desk.say("m1")).repeated
        assert await desk.waiting_ids() == []

    async def test_a_dead_id_is_remembered(self, start: Start) -> None:
        desk = await start()
        await desk.store.fail(await desk.lease("m1"), give_up())

        assert (await desk.say("m1")).repeated
        assert await desk.waiting_ids() == []

    async def test_the_digest_is_that_of_the_first_text(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", "first")
        await desk.store.edit(HERE, "m1", said("m1", "second").content)

        assert (await desk.say("m1", "first")).repeated
        with pytest.raises(MessageConflict):
            await desk.say("m1", "second")

        await desk.wait(WINDOW)
        await desk.commit(await desk.claim())
        assert (await desk.say("m1", "first")).repeated
        with pytest.raises(MessageConflict):
            await desk.say("m1", "second")

    async def test_a_minted_id_is_told_as_not_idempotent(self, start: Start) -> None:
        desk = await start()

        assert not (await desk.say("m1", minted=True)).idempotent

    async def test_a_full_inbox_refuses_and_stores_nothing(self, start: Start) -> None:
        desk = await start(Policy(max_inbox=2))
        await desk.say("m1")
        await desk.say("m2", not_before=desk.now + 100)
        before = await desk.dump(ids=["m1", "m2", "m3"])

        with pytest.raises(InboxFull):
            await desk.say("m3")

        assert await desk.dump(ids=["m1", "m2", "m3"]) == before
        assert (await desk.say("m1")).repeated

    async def test_a_refusal_stores_nothing_even_if_delayed_messages_have_come_meanwhile(self, start: Start) -> None:
        desk = await start(Policy(max_inbox=1))
        await desk.say("later", not_before=desk.now + 1)
        await desk.wait(5)
        before = await desk.dump(ids=["later", "m1"])

        with pytest.raises(InboxFull):
            await desk.say("m1")
        with pytest.raises(Rejection):
            await desk.store.begin([said("m1")], owner="w", lease=30.0)

        assert await desk.dump(ids=["later", "m1"]) == before

    async def test_a_caller_may_allow_more_or_less_to_wait_than_the_queue(self, start: Start) -> None:
        desk = await start(Policy(max_inbox=2))
        await desk.say("m1")

        [refused] = await desk.store.accept([said("m2")], max_inbox=1)
        taken = await desk.store.accept([said("m2"), said("m3"), said("m4")], max_inbox=4)

        assert isinstance(refused, InboxFull)
        assert all(isinstance(outcome, Receipt) for outcome in taken)

    async def test_the_messages_of_a_call_that_fit_are_taken_and_the_rest_refused(self, start: Start) -> None:
        desk = await start(Policy(max_inbox=2))

        outcomes = await desk.store.accept([said("m1"), said("m2"), said("m3")])

        assert [isinstance(o, Rejection) for o in outcomes] == [False, False, True]
        assert await desk.waiting_ids() == ["m1", "m2"]

    async def test_room_is_made_by_an_answer(self, start: Start) -> None:
        desk = await start(Policy(max_inbox=1))
        claim = await desk.lease("m1")
        with pytest.raises(InboxFull):
            await desk.say("m2")

        await desk.commit(claim)

        assert (await desk.say("m2")).position == 1

    async def test_without_create_an_unknown_channel_is_refused(self, start: Start) -> None:
        desk = await start()
        await desk.store.thread(at("known"), create=True)

        known, unknown = await desk.store.accept([said("m1", where=at("known")), said("m1")], create=False)

        assert isinstance(known, Receipt)
        assert isinstance(unknown, ThreadNotFound)
        assert await desk.store.thread(HERE) is None

    async def test_a_refused_message_creates_no_thread(self, start: Start) -> None:
        desk = await start()

        [outcome] = await desk.store.accept([said("m1")], max_inbox=0)

        assert isinstance(outcome, InboxFull)
        assert await desk.store.thread(HERE) is None
        assert (await desk.store.counts()).threads == 0

    async def test_a_thread_id_as_channel_is_the_thread_of_its_channel(self, start: Start) -> None:
        desk = await start()
        first = await desk.say("m1")

        second = await desk.say("m2", where=at(first.thread_id))

        assert (second.channel, second.thread_id, second.position) == ("c", first.thread_id, 2)
        assert await desk.waiting_ids() == ["m1", "m2"]
        assert await desk.waiting_ids(at(first.thread_id)) == ["m1", "m2"]
        assert (await desk.thread(at(first.thread_id))).address == HERE
        assert (await desk.store.counts()).threads == 1

    async def test_a_message_by_thread_id_is_claimed_under_the_threads_address(self, start: Start) -> None:
        desk = await start()
        thread_id = (await desk.say("m1")).thread_id
        await desk.say("m2", where=at(thread_id))
        await desk.wait(WINDOW)

        claim = await desk.claim()

        assert claim.address == HERE
        assert [m.address for m in claim.messages] == [HERE, HERE]

    async def test_a_call_may_name_one_thread_by_channel_and_by_id(self, start: Start) -> None:
        desk = await start()
        thread_id = (await desk.say("m1")).thread_id

        await desk.store.accept([said("m2"), said("m3", where=at(thread_id)), said("m4")])

        assert await desk.waiting_ids() == ["m1", "m2", "m3", "m4"]

    async def test_a_thread_id_that_nobody_knows_becomes_a_thread_of_that_id(self, start: Start) -> None:
        desk = await start()
        for channel in ("thread_abc", "thread_0a0123456789abcdef012345", "thread_" + "f" * 24):
            receipt = await desk.say("m1", where=at(channel))

            assert (receipt.channel, receipt.thread_id) == (channel, channel)
            assert (await desk.thread(at(channel))).thread_id == channel

    async def test_a_thread_id_belongs_to_its_tenant_and_queue(self, start: Start) -> None:
        desk = await start()
        thread_id = (await desk.say("m1")).thread_id

        foreign = await desk.say("m1", "other", at(thread_id, tenant="t2"))
        elsewhere = await desk.say("m1", "other", at(thread_id, queue="q2"))

        assert foreign.channel == elsewhere.channel == thread_id
        assert await desk.waiting_ids() == ["m1"]
        assert (await desk.store.counts()).threads == 3

    @pytest.mark.parametrize("state", BUSY)
    async def test_the_policy_reject_refuses_on_a_busy_thread(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.dump(ids=["old", "m1"])

        with pytest.raises(ThreadBusy):
            await desk.say("m1", on_busy="reject")

        assert await desk.dump(ids=["old", "m1"]) == before

    @pytest.mark.parametrize("state", ["idle", "waiting"])
    async def test_the_policy_reject_joins_the_window_of_a_thread_that_is_not_busy(
        self, start: Start, state: str
    ) -> None:
        desk = await start()
        await desk.bring(state)

        assert (await desk.say("m1", on_busy="reject")).due_in == WINDOW

    @pytest.mark.parametrize("policy", ["collect", "queue", "steer", "interrupt", "rollback", "reject"])
    @pytest.mark.parametrize("state", ["idle", "waiting"])
    async def test_every_policy_joins_the_window_of_a_thread_that_is_not_busy(
        self, start: Start, state: str, policy: BusyPolicy
    ) -> None:
        desk = await start()
        await desk.bring(state)

        receipt = await desk.say("m1", on_busy=policy)

        assert (receipt.due_in, receipt.steer) == (WINDOW, None)
        assert (await desk.thread()).state == "waiting"

    @pytest.mark.parametrize("policy", ["collect", "queue", "steer"])
    @pytest.mark.parametrize("state", BUSY)
    async def test_on_a_busy_thread_a_message_is_appended_and_due_stays(
        self, start: Start, state: str, policy: BusyPolicy
    ) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.thread()

        receipt = await desk.say("m1", on_busy=policy)

        after = await desk.thread()
        assert (receipt.position, receipt.due_in) == (2, None)
        assert (after.state, after.due) == (before.state, before.due)
        assert await desk.waiting_ids() == ["old", "m1"]

    @pytest.mark.parametrize("policy", ["interrupt", "rollback"])
    @pytest.mark.parametrize("state", ["retry", "dissolved", "held"])
    async def test_interrupt_and_rollback_make_retry_and_held_due_now(
        self, start: Start, state: str, policy: BusyPolicy
    ) -> None:
        desk = await start()
        await desk.bring(state)

        await desk.say("m1", on_busy=policy)

        assert await desk.due_in() == 0
        assert await desk.is_claimable()

    @pytest.mark.parametrize("policy", ["interrupt", "rollback"])
    async def test_interrupt_and_rollback_leave_the_lease_as_it_is(self, start: Start, policy: BusyPolicy) -> None:
        desk = await start()
        await desk.bring("leased")
        before = await desk.due_in()

        await desk.say("m1", on_busy=policy)

        assert await desk.due_in() == before
        assert not await desk.is_claimable()

    async def test_what_was_said_is_claimed_as_it_was_said(self, start: Start) -> None:
        desk = await start()
        content = (Part("text", "grüß 😀\n"), Part("image", data={"url": "https://example.org/a.png", "detail": 1}))
        asked = {"text": {"format": {"type": "json_schema", "schema": {"required": [], "n": 1.5}}}}
        await desk.say("m1", content, instructions="be brief", metadata={"k": "v"}, model="m-2", parameters=asked)
        await desk.wait(WINDOW)

        [message] = (await desk.claim()).messages

        assert message.content == content
        assert (message.instructions, dict(message.metadata)) == ("be brief", {"k": "v"})
        assert (message.model, message.parameters) == ("m-2", asked)
        assert (message.arrival, message.seq) == (desk.now - WINDOW, 1)
        assert digest(message.content) == digest(content)

    async def test_an_accepted_event_tells_what_was_said_and_asked(self, start: Start) -> None:
        desk = await start()
        receipt = await desk.say("m1", "hello", on_busy="steer")

        [event] = await desk.events()

        assert (event.kind, event.message_ids, event.text, event.policy) == ("accepted", ("m1",), "hello", "steer")
        assert (event.thread_id, event.offset, event.at) == (receipt.thread_id, 1, desk.now)

    async def test_a_messages_own_values_go_before_the_threads_and_those_before_the_queues(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, max_wait=8.0, on_busy="queue"))
        await desk.store.thread(HERE, create=True)
        await desk.store.update(HERE, {"options": {"window": 3.0, "on_busy": "interrupt"}})

        assert (await desk.say("m1", where=at("plain"))).due_in == 2.0
        assert (await desk.say("m1")).due_in == 3.0
        assert (await desk.say("m2", window=4.0)).due_in == 4.0
        policies = [event.policy for event in [*await desk.events(), *await desk.events(at("plain"))]]
        assert policies == ["interrupt", "interrupt", "queue"]

    async def test_each_queue_has_its_own_policy(self, start: Start) -> None:
        desk = await start(policies=Policies(POLICY, {"slow": Policy(window=5.0)}))

        assert (await desk.say("m1", where=at(queue="slow"))).due_in == 5.0
        assert (await desk.say("m1", where=at(queue="other"))).due_in == WINDOW

    async def test_what_counts_for_a_message_is_fixed_when_it_comes(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")

        await desk.store.update(HERE, {"options": {"window": 6.0}})
        await desk.store.typing(HERE)

        assert await desk.due_in() == WINDOW

    async def test_a_receipt_on_a_paused_thread_names_no_time(self, start: Start) -> None:
        desk = await start()
        await desk.store.pause(HERE)

        receipt = await desk.say("m1")

        assert (receipt.position, receipt.due_in) == (1, None)

    async def test_messages_are_counted_once(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.say("m1")
        await desk.say("m2", not_before=desk.now + MAX_WAIT)

        record = await desk.thread()

        assert (record.messages, record.open_messages) == (2, 2)
        assert (await desk.store.counts()).open_messages == 2

    async def test_an_open_message_is_told_with_its_receipt(self, start: Start) -> None:
        desk = await start()
        receipt = await desk.say("m1", "hello")

        record = await desk.record("m1")

        assert record.message is not None
        assert (record.message.text, record.status, record.receipt) == ("hello", "waiting", receipt)
        assert (record.run_id, record.covers, record.settled_at) == (None, (), None)

    async def test_an_unknown_message_is_none(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")

        assert await desk.store.message(HERE, "m2") is None
        assert await desk.store.message(at("other"), "m1") is None

    async def test_a_message_that_failed_before_is_running_in_retry_and_held(self, start: Start) -> None:
        desk = await start()
        for state, status in (("retry", "running"), ("held", "running"), ("leased", "running")):
            where = at(state)
            claim = await desk.bring(state, where)
            assert claim is not None

            record = await desk.record("old", where)

            assert (record.status, record.run_id) == (status, claim.run_id)
        await desk.bring("dissolved")
        assert await desk.status("old") == "waiting"
