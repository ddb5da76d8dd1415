"""Turns that wait for somebody's decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.suite.desk import CALL, HERE, LEASE, OTHER_CALL, Desk, Start, at, delta, retry
from turnkeep.errors import Conflict, InvalidMessage, NotFound, ThreadNotFound
from turnkeep.messages import BusyPolicy
from turnkeep.store.contract import EventGap
from turnkeep.store.values import Decision, HeldCall

YES = Decision("approved", by="ann")


async def hold(desk: Desk, *calls: HeldCall, expires_in: float = 600.0) -> None:
    await desk.store.hold(await desk.lease("m1"), calls, expires_in=expires_in)


class HoldPromises:
    async def test_a_held_turn_gives_worker_and_lease_back(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        await desk.wait(LEASE * 5)

        record = await desk.thread()

        assert (record.state, record.calls) == ("held", (CALL,))
        assert await desk.claims() == []
        assert (await desk.store.counts()).held == 1

    async def test_a_hold_waits_for_what_its_log_has_lost(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, [delta("a")])

        for _ in range(2):
            with pytest.raises(EventGap) as gap:
                await desk.store.hold(claim, [CALL], expires_in=600.0, published_count=2)
            assert gap.value.published_count == 1
        assert await desk.kinds(HERE) == ["accepted", "started", "delta"]

        await desk.store.publish(claim, 1, [delta("b")])
        for count in (2, 9):
            await desk.store.hold(claim, [CALL], expires_in=600.0, published_count=count)

        assert await desk.kinds(HERE) == ["accepted", "started", "delta", "delta", "held"]

    async def test_a_hold_tells_on_what_it_waits(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL, OTHER_CALL)

        event = await desk.last_event()

        assert (event.kind, event.message_ids) == ("held", ("m1",))
        assert [dict(call) for call in event.calls] == [CALL.to_json(), OTHER_CALL.to_json()]

    async def test_the_last_decision_makes_the_thread_due(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL, OTHER_CALL)
        await desk.store.decide(HERE, OTHER_CALL.call_id, OTHER_CALL.digest, Decision("output", "42"))
        assert await desk.claims() == []

        await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)

        claim = await desk.claim()
        assert claim.calls == (
            replace(CALL, decision="approved", by="ann", decided_at=desk.now),
            replace(OTHER_CALL, decision="output", output="42", decided_at=desk.now),
        )
        assert (claim.attempts, claim.deaths, claim.attempt, claim.message_ids) == (0, 0, 2, ("m1",))

    async def test_a_decision_is_told_and_given_back(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)

        decided = await desk.store.decide(HERE, CALL.call_id, CALL.digest, Decision("denied", by="bob"))

        assert decided == replace(CALL, decision="denied", by="bob", decided_at=desk.now)
        event = await desk.last_event()
        assert event.kind == "decided"
        assert [dict(call) for call in event.calls] == [decided.to_json()]

    async def test_the_same_decision_again_gives_the_same_answer(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL, OTHER_CALL)
        decided = await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)
        before = await desk.dump(ids=["m1"])

        assert await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES) == decided

        assert await desk.dump(ids=["m1"]) == before

    async def test_a_decision_can_be_repeated_while_the_run_goes_on(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        decided = await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)
        await desk.claim()

        assert await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES) == decided

    async def test_another_decision_is_a_conflict(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)
        before = await desk.dump(ids=["m1"])

        with pytest.raises(Conflict):
            await desk.store.decide(HERE, CALL.call_id, CALL.digest, Decision("denied"))

        assert await desk.dump(ids=["m1"]) == before

    async def test_a_decision_on_other_arguments_is_a_conflict(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        before = await desk.dump(ids=["m1"])

        with pytest.raises(Conflict):
            await desk.store.decide(HERE, CALL.call_id, "another digest", YES)

        assert await desk.dump(ids=["m1"]) == before

    @pytest.mark.parametrize("arguments", ["{}", '{"kind":"output"}', '{"a": "\\"kind\\":\\"output\\""}'])
    async def test_nobody_speaks_for_a_tool_that_runs_here_or_runs_one_that_does_not(
        self, start: Start, arguments: str
    ) -> None:
        desk = await start()
        approval, output = replace(CALL, arguments=arguments), replace(OTHER_CALL, arguments='{"kind":"approval"}')
        await hold(desk, approval, output)
        before = await desk.dump(ids=["m1"])

        for call, verdict in ((approval, Decision("output", "paid")), (output, YES)):
            with pytest.raises(InvalidMessage, match=call.call_id):
                await desk.store.decide(HERE, call.call_id, call.digest, verdict)
        assert await desk.dump(ids=["m1"]) == before

        await desk.store.decide(HERE, output.call_id, output.digest, Decision("denied"))
        assert (await desk.store.decide(HERE, approval.call_id, approval.digest, YES)).decision == "approved"

    async def test_a_call_says_whether_who_asked_for_it_may_approve_it(self, start: Start) -> None:
        desk = await start()
        await hold(desk, replace(CALL, self_approval=True), OTHER_CALL)

        record = await desk.store.thread(HERE)
        assert record is not None
        assert [call.self_approval for call in record.calls] == [True, False]
        assert (await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)).self_approval

    async def test_a_call_says_what_people_may_see_of_it(self, start: Start) -> None:
        desk = await start()
        await hold(desk, replace(CALL, show="arguments"), OTHER_CALL)

        record = await desk.store.thread(HERE)
        assert record is not None
        assert [call.show for call in record.calls] == ["arguments", "name"]
        told = next(event for event in (await desk.store.read(HERE, after=0)).events if event.kind == "held")
        assert [call.get("show") for call in told.calls] == ["arguments", None]

    @pytest.mark.parametrize("state", ["idle", "waiting", "leased", "retry", "held"])
    async def test_a_decision_on_no_call_is_not_found(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.dump(ids=["old"])

        with pytest.raises(NotFound):
            await desk.store.decide(HERE, "call_unknown", "digest", YES)
        with pytest.raises(ThreadNotFound):
            await desk.store.decide(at("unknown"), "call_unknown", "digest", YES)

        assert await desk.dump(ids=["old"]) == before

    async def test_calls_open_at_the_end_of_the_time_have_expired(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL, OTHER_CALL, expires_in=100.0)
        await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)
        await desk.wait(99.75)
        assert await desk.claims() == []
        await desk.wait(0.25)

        claim = await desk.claim()

        assert [call.decision for call in claim.calls] == ["approved", "expired"]
        with pytest.raises(Conflict):
            await desk.store.decide(HERE, OTHER_CALL.call_id, OTHER_CALL.digest, YES)

    async def test_a_cancelled_hold_leaves_its_calls_open_and_undecidable(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        await desk.store.cancel(HERE)

        claim = await desk.claim()

        assert [call.decision for call in claim.calls] == [None]
        with pytest.raises(Conflict):
            await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)

    async def test_a_declined_call_cannot_be_approved(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        await desk.say("m2", on_busy="interrupt")

        with pytest.raises(Conflict):
            await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)

    async def test_a_hold_on_nothing_is_due_at_once(self, start: Start) -> None:
        desk = await start()
        await hold(desk, replace(CALL, decision="approved"))

        assert (await desk.claim()).message_ids == ("m1",)

    async def test_a_hold_freezes_the_batch(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        await desk.say("m2")
        await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)

        assert (await desk.claim()).message_ids == ("m1",)

    @pytest.mark.parametrize("policy", ["collect", "queue", "steer"])
    async def test_later_messages_wait_for_the_decision(self, start: Start, policy: BusyPolicy) -> None:
        desk = await start()
        await hold(desk, CALL)

        await desk.say("m2", on_busy=policy)
        await desk.wait(100)

        assert await desk.claims() == []

    async def test_decisions_survive_a_failed_attempt(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)
        await desk.store.fail(await desk.claim(), retry(0.0))

        assert [call.decision for call in (await desk.claim()).calls] == ["approved"]

    async def test_a_turn_may_be_held_again(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)

        await desk.store.hold(await desk.claim(), [OTHER_CALL], expires_in=600.0)

        assert (await desk.thread()).calls == (OTHER_CALL,)
        assert await desk.claims() == []

    async def test_an_answer_ends_the_calls(self, start: Start) -> None:
        desk = await start()
        await hold(desk, CALL)
        await desk.store.decide(HERE, CALL.call_id, CALL.digest, YES)
        await desk.commit(await desk.claim())

        assert (await desk.thread()).calls == ()
        assert [c.decision for c in (await desk.store.runs(HERE))[0].calls] == ["approved"]
        assert (await desk.lease("m2")).calls == ()
