"""Who works on a thread, for how long, and how a claim ends without an outcome."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.suite.desk import (
    BUSY,
    FAULT,
    HERE,
    LEASE,
    POLICY,
    WINDOW,
    WORKER,
    Start,
    at,
    said,
)
from tests.patience import PATIENCE
from turnkeep.errors import LeaseLost, MessageConflict, MessageFrozen, ThreadBusy
from turnkeep.store.values import Policies, Policy


class ClaimPromises:
    async def test_a_claim_carries_all_that_a_run_needs(self, start: Start) -> None:
        desk = await start()
        thread_id = (await desk.say("m1")).thread_id
        await desk.store.update(HERE, {"assistant": "asst_1"})
        await desk.wait(WINDOW)

        claim = await desk.claim()

        assert (claim.address, claim.thread_id, claim.owner, claim.assistant) == (HERE, thread_id, WORKER, "asst_1")
        assert (claim.attempt, claim.attempts, claim.deaths, claim.last_chance) == (1, 0, 0, False)
        assert (claim.stop, claim.calls, claim.journal) == (None, (), ())
        assert (claim.claimed_at, claim.lease_until) == (desk.now, desk.now + LEASE)
        assert claim.run_id
        assert claim.token

    async def test_a_claim_says_when_it_was_due(self, start: Start) -> None:
        """The window's end, moved by typing; a full batch and a flush at once; then what the run waited for."""
        desk = await start()
        await desk.say("m1")
        await desk.wait(WINDOW / 2)
        await desk.store.typing(HERE)
        typed_at = desk.now
        await desk.wait(2 * WINDOW)

        claim = await desk.claim()
        assert claim.due_at == pytest.approx(typed_at + WINDOW)
        await desk.store.release(claim, delay=3.0)
        released_at = desk.now
        await desk.wait(5.0)
        claim = await desk.claim()
        assert claim.due_at == pytest.approx(released_at + 3.0)
        await desk.wait(2 * LEASE)
        assert (await desk.claim("worker-2")).due_at == pytest.approx(claim.lease_until)

    async def test_a_flushed_message_is_due_when_it_came(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", flush=True)
        came_at = desk.now
        await desk.wait(WINDOW)

        assert (await desk.claim()).due_at == pytest.approx(came_at)

    async def test_a_claim_says_that_the_run_started(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")

        event = await desk.last_event()

        assert (event.kind, event.message_ids) == ("started", ("m1", "m2"))
        assert (event.run_id, event.attempt, event.thread_id) == (claim.run_id, 1, claim.thread_id)

    async def test_a_leased_thread_is_not_claimed_again(self, start: Start) -> None:
        desk = await start()
        await desk.lease("m1")
        await desk.say("m2")
        await desk.wait(LEASE - 0.25)

        assert await desk.claims("worker-2") == []

    async def test_no_more_are_claimed_than_asked_for(self, start: Start) -> None:
        desk = await start()
        for n in range(5):
            await desk.say("m", where=at(f"c{n}"), flush=True)

        assert [len(await desk.claims(limit=2)) for _ in range(4)] == [2, 2, 1, 0]

    async def test_of_many_claimants_at_once_each_thread_goes_to_one(self, start: Start) -> None:
        desk = await start()
        for n in range(20):
            await desk.say("m", where=at(f"c{n}"), flush=True)

        taken = await asyncio.gather(*(desk.claims(f"worker-{n}", limit=3) for n in range(10)))

        claims = [claim for some in taken for claim in some]
        assert sorted(claim.address for claim in claims) == sorted(at(f"c{n}") for n in range(20))
        assert len({claim.token for claim in claims}) == 20

    async def test_a_worker_claims_only_from_queues_it_serves(self, start: Start) -> None:
        desk = await start()
        for queue in ("q1", "q2", "q3"):
            await desk.say("m", where=at(queue=queue), flush=True)

        served = await desk.claims(queues=["q1", "q3"])
        none = await desk.claims(queues=[])
        rest = await desk.claims()

        assert sorted(claim.address.queue for claim in served) == ["q1", "q3"]
        assert none == []
        assert [claim.address.queue for claim in rest] == ["q2"]

    async def test_the_thread_that_is_due_first_goes_first(self, start: Start) -> None:
        desk = await start()
        for channel, window in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
            await desk.say("m", where=at(channel), window=window)
        await desk.wait(5)

        order = [(await desk.claims(limit=1))[0].address.channel for _ in range(3)]

        assert order == ["early", "middle", "late"]

    async def test_a_flood_of_one_tenant_does_not_keep_another_waiting(self, start: Start) -> None:
        desk = await start()
        for n in range(40):
            await desk.say("m", where=at(f"c{n}", tenant="loud"), flush=True)
        await desk.wait(1)
        for n in range(4):
            await desk.say("m", where=at(f"c{n}", tenant="quiet"), flush=True)

        first = await desk.claims(limit=9)

        assert sum(claim.address.tenant == "quiet" for claim in first) == 4

    async def test_shares_follow_the_weights(self, start: Start) -> None:
        desk = await start(policies=Policies(POLICY, weights={"heavy": 3.0}))
        for n in range(40):
            for tenant in ("heavy", "light"):
                await desk.say("m", where=at(f"c{n}", tenant=tenant), flush=True)

        claims = [claim for _ in range(4) for claim in await desk.claims(limit=6)]

        assert 17 <= sum(claim.address.tenant == "heavy" for claim in claims) <= 19

    async def test_silence_saves_nothing_up(self, start: Start) -> None:
        desk = await start()
        for n in range(60):
            await desk.say("m", where=at(f"c{n}", tenant="busy"), flush=True)
        assert len(await desk.claims(limit=20)) == 20
        for n in range(30):
            await desk.say("m", where=at(f"c{n}", tenant="rested"), flush=True)

        claims = await desk.claims(limit=20)

        assert 9 <= sum(claim.address.tenant == "rested" for claim in claims) <= 11

    async def test_a_worker_that_vanished_is_followed_by_another_at_the_end_of_its_lease(self, start: Start) -> None:
        desk = await start()
        first = await desk.lease("m1")
        await desk.wait(LEASE - 0.25)
        assert await desk.claims("worker-2") == []
        await desk.wait(0.25)

        second = await desk.claim("worker-2")

        assert (second.run_id, second.message_ids) == (first.run_id, first.message_ids)
        assert (second.attempt, second.deaths, second.attempts) == (2, 1, 0)
        assert second.fence > first.fence
        assert second.token != first.token

    async def test_each_death_is_counted(self, start: Start) -> None:
        desk = await start()
        await desk.lease("m1")
        deaths = []
        for _ in range(12):
            await desk.wait(LEASE)
            deaths.append((await desk.claim()).deaths)

        assert deaths == list(range(1, 13))

    async def test_the_fence_of_a_thread_only_rises(self, start: Start) -> None:
        desk = await start()
        fences = []
        for n in range(3):
            claim = await desk.lease(f"m{n}")
            fences.append(claim.fence)
            await desk.store.release(claim)
            claim = await desk.claim()
            fences.append(claim.fence)
            await desk.commit(claim)

        assert fences == sorted(set(fences))

    async def test_a_batch_without_a_journal_dissolves_with_its_worker(self, start: Start) -> None:
        desk = await start()
        await desk.lease("m1")
        await desk.say("m2")
        await desk.wait(LEASE)

        claim = await desk.claim()

        assert claim.message_ids == ("m1", "m2")
        assert claim.deaths == 1

    async def test_a_journalled_batch_stays_what_it_was(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.journal(claim, [{"n": 0, "kind": "item"}])
        await desk.say("m2")
        await desk.wait(LEASE)

        claim = await desk.claim()

        assert claim.message_ids == ("m1",)
        assert [dict(record) for record in claim.journal] == [{"n": 0, "kind": "item"}]

    async def test_deaths_stay_with_the_oldest_message(self, start: Start) -> None:
        desk = await start()
        await desk.lease("m1", "m2")
        await desk.wait(LEASE)
        claim = await desk.claim()
        await desk.store.release(claim)

        await desk.store.withdraw(HERE, "m1")

        claim = await desk.claim()
        assert (claim.message_ids, claim.deaths) == (("m2",), 0)

    async def test_a_lease_that_expired_but_was_not_taken_is_still_good(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.wait(LEASE * 2)

        [directive] = (await desk.store.renew(WORKER, [claim], lease=LEASE)).values()
        assert (directive.held, directive.lease_until) == (True, desk.now + LEASE)
        assert await desk.claims("worker-2") == []

        await desk.wait(LEASE * 2)
        assert (await desk.commit(claim)).messages == 0

    async def test_a_renewal_prolongs_the_lease(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        for _ in range(5):
            await desk.wait(LEASE - 1)
            directives = await desk.store.renew(WORKER, [claim], lease=LEASE)
            assert directives[claim.token].held

        assert await desk.claims("worker-2") == []
        assert await desk.due_in() == LEASE

    async def test_a_renewal_tells_what_was_lost(self, start: Start) -> None:
        desk = await start()
        lost = await desk.lease("m1")
        await desk.wait(LEASE)
        kept = await desk.claim(WORKER)

        directives = await desk.store.renew(WORKER, [lost, kept], lease=LEASE)

        assert not directives[lost.token].held
        assert directives[kept.token].held

    async def test_a_renewal_tells_that_a_forgotten_thread_is_lost(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.forget(HERE, force=True)

        directives = await desk.store.renew(WORKER, [claim], lease=LEASE)

        assert not directives[claim.token].held

    async def test_a_claim_whose_reply_was_lost_is_given_back_by_the_next_renewal(self, start: Start) -> None:
        desk = await start()
        known = await desk.lease("m1", where=at("known"))
        lost = await desk.lease("m1")

        await desk.store.renew(WORKER, [known], lease=LEASE)

        again = await desk.claim()
        assert (again.run_id, again.attempt, again.deaths, again.attempts) == (lost.run_id, 2, 0, 0)

    async def test_an_owner_without_claims_gives_back_all(self, start: Start) -> None:
        desk = await start()
        for n in range(3):
            await desk.lease("m", where=at(f"c{n}"))

        assert await desk.store.renew(WORKER, [], lease=LEASE) == {}

        assert len(await desk.claims("worker-2")) == 3

    async def test_a_renewal_touches_no_lease_of_others(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1", owner="worker-2")

        await desk.store.renew(WORKER, [], lease=LEASE)

        assert await desk.due_in() == LEASE
        assert (await desk.commit(claim)).messages == 0

    async def test_a_released_claim_uses_no_attempt(self, start: Start) -> None:
        desk = await start()
        for _ in range(20):
            await desk.say("m1")
            await desk.store.flush(HERE)
            await desk.store.release(await desk.claim())

        claim = await desk.claim()

        assert (claim.attempt, claim.attempts, claim.deaths) == (21, 0, 0)

    async def test_a_released_claim_is_due_after_its_delay(self, start: Start) -> None:
        desk = await start()
        await desk.store.release(await desk.lease("m1"), delay=7.0)

        await desk.wait(6.75)
        assert await desk.claims() == []
        await desk.wait(0.25)

        assert (await desk.claim()).message_ids == ("m1",)

    async def test_a_release_with_a_reason_tells_it(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.release(claim, delay=5.0, reason=FAULT)

        event = await desk.last_event()

        assert (event.kind, event.message_ids, event.error) == ("waiting", ("m1",), FAULT)
        assert (event.run_id, event.attempt) == (claim.run_id, 1)

    async def test_a_release_without_a_reason_tells_nothing(self, start: Start) -> None:
        desk = await start()
        await desk.store.release(await desk.lease("m1"))

        assert await desk.kinds() == ["accepted", "started"]

    async def test_a_released_batch_dissolves(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        with pytest.raises(MessageFrozen):
            await desk.store.withdraw(HERE, "m1")
        await desk.store.release(claim)

        await desk.store.edit(HERE, "m1", said("m1", "changed").content)
        await desk.store.withdraw(HERE, "m2")
        await desk.say("m3")

        claim = await desk.claim()
        assert [m.text for m in claim.messages] == ["changed", "text of m3"]

    async def test_a_released_journalled_batch_stays_frozen(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.journal(claim, [{"n": 0}])
        await desk.store.release(claim)
        await desk.say("m2")

        with pytest.raises(MessageFrozen):
            await desk.store.withdraw(HERE, "m1")
        with pytest.raises(MessageFrozen):
            await desk.store.edit(HERE, "m1", said("m1", "changed").content)

        assert (await desk.claim()).message_ids == ("m1",)

    async def test_a_dissolved_thread_without_messages_is_idle(self, start: Start) -> None:
        desk = await start()
        await desk.bring("dissolved")

        await desk.store.withdraw(HERE, "old")

        record = await desk.thread()
        assert (record.state, record.due, record.run_id, record.attempt) == ("idle", None, None, 0)
        assert (await desk.store.read(HERE)).live_from is None
        await desk.wait(1000)
        assert await desk.claims() == []

    async def test_the_run_in_progress_is_told_from_its_start(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        started = (await desk.last_event()).offset

        assert (await desk.store.read(HERE)).live_from == started
        await desk.commit(claim)
        assert (await desk.store.read(HERE)).live_from is None

    async def test_begin_accepts_and_claims_in_one_act(self, start: Start) -> None:
        desk = await start()

        claim = await desk.store.begin([said("m1"), said("m2")], owner=WORKER, lease=LEASE)

        assert claim.message_ids == ("m1", "m2")
        assert (claim.owner, claim.attempt, claim.lease_until) == (WORKER, 1, desk.now + LEASE)
        assert await desk.kinds() == ["accepted", "accepted", "started"]
        assert (await desk.commit(claim)).messages == 0

    async def test_begin_answers_waiting_messages_along(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")

        claim = await desk.store.begin([said("m2", not_before=desk.now + 50)], owner=WORKER, lease=LEASE)

        assert claim.message_ids == ("m1", "m2")

    @pytest.mark.parametrize("state", BUSY)
    async def test_begin_does_not_wait_for_a_busy_thread(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        before = await desk.dump(ids=["old", "m1"])

        with pytest.raises(ThreadBusy):
            await desk.store.begin([said("m1")], owner=WORKER, lease=LEASE)

        assert await desk.dump(ids=["old", "m1"]) == before

    async def test_begin_does_not_run_a_paused_thread(self, start: Start) -> None:
        desk = await start()
        await desk.store.pause(HERE)
        before = await desk.dump(ids=["m1"])

        with pytest.raises(ThreadBusy):
            await desk.store.begin([said("m1")], owner=WORKER, lease=LEASE)

        assert await desk.dump(ids=["m1"]) == before

    async def test_begin_stores_nothing_when_the_inbox_does_not_fit_one_batch(self, start: Start) -> None:
        desk = await start(Policy(max_batch=2))
        await desk.say("m1")
        before = await desk.dump(ids=["m1", "m2", "m3"])

        with pytest.raises(ThreadBusy):
            await desk.store.begin([said("m2"), said("m3")], owner=WORKER, lease=LEASE)

        assert await desk.dump(ids=["m1", "m2", "m3"]) == before

    async def test_begin_refuses_a_known_id_and_stores_nothing(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1"))
        before = await desk.dump(ids=["m1", "m2"])

        for messages in ([said("m2"), said("m1")], [said("m2"), said("m2")]):
            with pytest.raises(MessageConflict):
                await desk.store.begin(messages, owner=WORKER, lease=LEASE)

        assert await desk.dump(ids=["m1", "m2"]) == before

    async def test_begin_that_is_refused_creates_no_thread(self, start: Start) -> None:
        desk = await start(Policy(max_batch=1))

        with pytest.raises(ThreadBusy):
            await desk.store.begin([said("m1"), said("m2")], owner=WORKER, lease=LEASE)

        assert await desk.store.thread(HERE) is None

    async def test_a_begin_whose_reply_was_lost_can_be_found_and_is_answered_by_others(self, start: Start) -> None:
        desk = await start()
        await desk.store.begin([said("m1")], owner=WORKER, lease=LEASE)

        with pytest.raises((MessageConflict, ThreadBusy)):
            await desk.store.begin([said("m1")], owner=WORKER, lease=LEASE)
        assert await desk.status("m1") == "running"
        await desk.store.renew(WORKER, [], lease=LEASE)

        assert (await desk.claim()).message_ids == ("m1",)

    async def test_a_claim_of_a_forgotten_thread_is_lost(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.forget(HERE, force=True)
        await desk.say("m1")
        before = await desk.dump(ids=["m1"])

        with pytest.raises(LeaseLost):
            await desk.commit(claim)

        assert await desk.dump(ids=["m1"]) == before

    async def test_ready_returns_when_something_becomes_due(self, start: Start) -> None:
        desk = await start()
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            waits = group.create_task(desk.store.ready(queues=None, timeout=3600.0))
            await desk.wait(1)
            await desk.say("m1", flush=True)
            assert await waits

        assert await desk.is_claimable()

    async def test_ready_returns_at_once_when_something_is_due(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", flush=True)

        async with asyncio.timeout(PATIENCE):
            assert await desk.store.ready(queues=["q"], timeout=3600.0)

    async def test_ready_returns_when_a_window_has_passed(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", window=0.5)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            waits = group.create_task(desk.store.ready(queues=None, timeout=3600.0))
            await desk.wait(0.5)
            assert await waits

    async def test_ready_returns_when_the_lease_of_a_dead_owner_ends(self, start: Start) -> None:
        """Whoever rests finds it then, by himself: nobody tells of an owner that has died."""
        desk = await start()
        await desk.lease("m1")
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            waits = group.create_task(desk.store.ready(queues=None, timeout=3600.0))
            await desk.wait(LEASE - 0.1)
            assert not waits.done()
            await desk.wait(0.1)
            assert await waits

        assert await desk.is_claimable()

    async def test_ready_returns_after_its_timeout(self, start: Start) -> None:
        desk = await start()
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            waits = group.create_task(desk.store.ready(queues=None, timeout=0.5))
            await desk.wait(0.5)
            # True where only a claim looks
            if not await waits:
                assert await desk.is_claimable() is False
