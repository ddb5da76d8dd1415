"""How a run ends: committed, tried again, split, dead; and what a claim that lost its lease may do: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.suite.desk import (
    CALL,
    FAULT,
    HERE,
    LEASE,
    WINDOW,
    Desk,
    Start,
    answer,
    at,
    delta,
    give_up,
    retry,
    said,
)
from turnkeep.errors import LeaseLost, MessageFrozen
from turnkeep.messages import AssistantItem, UserItem, text_content
from turnkeep.store.contract import EventGap
from turnkeep.store.rules_settle import SETTLEMENTS
from turnkeep.store.values import Claim, Policy, Remainder, SettledOutcome
from turnkeep.usage import Usage

COST = Usage(requests=1, input_tokens=10, output_tokens=5, cost_nano=7)

Write = Callable[[Desk, Claim], Awaitable[Any]]

WRITES: dict[str, Write] = {
    "offered": lambda desk, claim: desk.store.offer_steering(claim),
    "journal": lambda desk, claim: desk.store.journal(claim, [{"n": 0}]),
    "publish": lambda desk, claim: desk.store.publish(claim, 0, [delta("x")]),
    "commit": lambda desk, claim: desk.commit(claim, "stale"),
    "fail": lambda desk, claim: desk.store.fail(claim, give_up()),
    "retry": lambda desk, claim: desk.store.fail(claim, retry(1.0)),
    "release": lambda desk, claim: desk.store.release(claim),
    "hold": lambda desk, claim: desk.store.hold(claim, [CALL], expires_in=5.0),
}
"""Every operation that carries a claim."""


async def taken_over(desk: Desk, claim: Claim) -> None:
    await desk.wait(LEASE)
    await desk.claim("worker-2")


async def committed_long_ago(desk: Desk, claim: Claim) -> None:
    """Settled, and many runs after it: then nothing of the first claim is remembered."""
    await desk.commit(claim)
    for n in range(SETTLEMENTS):
        await desk.commit(await desk.lease(f"next{n}", owner="worker-2"))


async def dead_and_gone(desk: Desk, claim: Claim) -> None:
    await desk.store.fail(claim, give_up())
    for n in range(SETTLEMENTS):
        await desk.store.fail(await desk.lease(f"next{n}", owner="worker-2"), give_up())


async def given_back_by_a_renewal(desk: Desk, claim: Claim) -> None:
    await desk.store.renew(claim.owner, [], lease=LEASE)


async def forgotten(desk: Desk, claim: Claim) -> None:
    await desk.store.forget(HERE, force=True)
    await desk.bring("leased")


LOSSES: list[Callable[[Desk, Claim], Awaitable[None]]] = [
    taken_over,
    committed_long_ago,
    dead_and_gone,
    given_back_by_a_renewal,
    forgotten,
]


class SettlePromises:
    async def test_a_commit_answers_its_batch(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        await desk.say("m3")
        await desk.wait(1)

        left = await desk.commit(claim, "hello")

        assert left == Remainder(1, desk.now + WINDOW - 1)
        assert await desk.waiting_ids() == ["m3"]
        for message_id in ("m1", "m2"):
            record = await desk.record(message_id)
            assert (record.status, record.run_id, record.covers) == ("answered", claim.run_id, ("m1", "m2"))
            assert (record.message, record.settled_at) == (None, desk.now)

    async def test_a_commit_writes_the_transcript_in_the_same_act(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1", "m2"), "hello")
        await desk.wait(1)
        await desk.commit(await desk.lease("m3"), "bye")

        entries = (await desk.store.history(HERE)).entries

        assert [entry.item for entry in entries] == [
            UserItem(text_content("text of m1"), "m1"),
            UserItem(text_content("text of m2"), "m2"),
            AssistantItem("hello"),
            UserItem(text_content("text of m3"), "m3"),
            AssistantItem("bye"),
        ]
        assert [entry.turn for entry in entries] == [1, 1, 1, 2, 2]
        assert [entry.at for entry in entries] == [desk.now - 1] * 3 + [desk.now] * 2
        assert [entry.tokens for entry in entries] == [1] * 5
        record = await desk.thread()
        assert (record.turns, record.items) == (2, 5)
        assert record.bytes > 0

    async def test_a_commit_ends_the_run_with_one_final_event(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        await desk.commit(claim, "hello", usage=COST)

        event = await desk.last_event()

        assert (event.kind, event.message_ids, event.text) == ("completed", ("m1", "m2"), "hello")
        assert (event.run_id, event.attempt, event.outcome, event.usage) == (claim.run_id, 1, "completed", COST)

    async def test_a_commit_waits_for_what_its_log_has_lost(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, [delta("a")])
        whole = replace(answer(claim), published_count=3)

        for _ in range(2):
            with pytest.raises(EventGap) as gap:
                await desk.store.commit(claim, whole)
            assert gap.value.published_count == 1
        assert await desk.status("m1") == "running"
        assert await desk.kinds(HERE) == ["accepted", "started", "delta"]

        await desk.store.publish(claim, 1, [delta("b"), delta("c")])
        left = await desk.store.commit(claim, whole)

        assert await desk.store.commit(claim, replace(whole, published_count=9)) == left
        assert await desk.kinds(HERE) == ["accepted", "started", "delta", "delta", "delta", "completed"]

    async def test_runs_that_end_together_lose_nothing_by_one_that_lost_events(self, start: Start) -> None:
        desk = await start()
        claims = [await desk.lease("m1", where=at(f"c{n}")) for n in range(3)]
        counts = [0, 5, 0]

        ends = await asyncio.gather(
            *(desk.store.commit(c, replace(answer(c), published_count=n)) for c, n in zip(claims, counts, strict=True)),
            return_exceptions=True,
        )

        assert [type(end) for end in ends] == [Remainder, EventGap, Remainder]
        assert [await desk.status("m1", at(f"c{n}")) for n in range(3)] == ["answered", "running", "answered"]

    async def test_a_commit_counts_what_it_used(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1"), usage=COST)
        await desk.commit(await desk.lease("m2"), usage=COST)

        assert (await desk.thread()).usage == COST + COST
        assert (await desk.store.stats()).usage == COST + COST

    async def test_a_commit_counts_what_failed_attempts_used(self, start: Start) -> None:
        desk = await start()
        await desk.store.fail(await desk.lease("m1"), retry(1.0, usage=COST))
        assert (await desk.thread()).usage == Usage()
        assert (await desk.store.runs(HERE))[0].usage == COST
        await desk.wait(1)
        await desk.commit(await desk.claim(), usage=COST)

        assert (await desk.thread()).usage == COST + COST
        assert (await desk.last_event()).usage == COST + COST
        assert (await desk.store.runs(HERE))[0].usage == COST + COST

    @pytest.mark.parametrize("end", ["commit", "dead", "split"])
    async def test_a_run_is_not_charged_for_the_one_before(self, start: Start, end: str) -> None:
        desk = await start()
        await desk.store.fail(await desk.lease("m1", "m2"), retry(0.0, usage=COST))
        claim = await desk.claim()
        if end == "commit":
            await desk.commit(claim)
            claim = await desk.lease("m3")
        else:
            await desk.store.fail(claim, give_up(effects=end == "dead"))
            claim = await desk.lease("m3") if end == "dead" else await desk.claim()

        await desk.commit(claim)

        assert (await desk.last_event()).usage == Usage()
        assert (await desk.thread()).usage == COST

    @pytest.mark.parametrize(
        ("outcome", "status"), [("completed", "answered"), ("incomplete", "answered"), ("cancelled", "cancelled")]
    )
    async def test_each_outcome_settles_the_batch(self, start: Start, outcome: SettledOutcome, status: str) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1"), outcome=outcome)

        assert await desk.status("m1") == status
        assert (await desk.last_event()).outcome == outcome
        assert (await desk.store.runs(HERE))[0].status == outcome
        assert (await desk.store.counts()).completed == 1

    async def test_after_its_last_answer_a_thread_is_idle(self, start: Start) -> None:
        desk = await start()

        left = await desk.commit(await desk.lease("m1"))

        record = await desk.thread()
        assert left == Remainder(0, None)
        assert (record.state, record.due, record.run_id, record.attempt) == ("idle", None, None, 0)

    @pytest.mark.parametrize("effects", [False, True])
    async def test_between_runs_no_run_is_live(self, start: Start, effects: bool) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        await desk.say("m3")
        await desk.store.fail(claim, give_up(effects=effects))
        assert (await desk.store.read(HERE)).live_from is None
        await desk.wait(WINDOW)
        claim = await desk.claim()
        await desk.say("m4")

        await desk.commit(claim)

        assert (await desk.store.read(HERE)).live_from is None
        assert (await desk.thread()).run_id is None

    async def test_a_delayed_message_that_came_during_a_run_is_left_by_its_commit(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("later", not_before=desk.now + 10)
        await desk.wait(11)

        left = await desk.commit(claim)

        assert left == Remainder(1, desk.now - 1 + WINDOW)

    async def test_a_new_batch_is_a_new_run(self, start: Start) -> None:
        desk = await start()
        first = await desk.lease("m1")
        await desk.commit(first)
        second = await desk.lease("m2")

        assert second.run_id != first.run_id
        assert (second.attempt, second.journal) == (1, ())

    async def test_a_repeated_commit_gives_the_same_result_and_changes_nothing(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.say("m2")
        left = await desk.commit(claim)
        before = await desk.dump(ids=["m1", "m2"])

        assert await desk.commit(claim) == left
        assert await desk.dump(ids=["m1", "m2"]) == before

    async def test_a_commit_is_repeatable_while_the_next_run_works(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        left = await desk.commit(claim)
        await desk.lease("m2", owner="worker-2")
        before = await desk.dump(ids=["m1", "m2"])

        assert await desk.commit(claim) == left
        assert await desk.dump(ids=["m1", "m2"]) == before

    async def test_a_repeated_failure_gives_the_same_result_and_counts_once(self, start: Start) -> None:
        for failure, outcome in ((retry(0.0), "retry"), (give_up(), "split"), (give_up(effects=True), "dead")):
            desk = await start()
            claim = await desk.lease("m1", "m2")
            assert await desk.store.fail(claim, failure) == outcome
            before = await desk.dump(ids=["m1", "m2"])

            assert await desk.store.fail(claim, failure) == outcome
            assert await desk.dump(ids=["m1", "m2"]) == before

    async def test_a_repeated_release_changes_nothing(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.release(claim, delay=5.0, reason=FAULT)
        before = await desk.dump(ids=["m1"])

        await desk.store.release(claim, delay=5.0, reason=FAULT)

        assert await desk.dump(ids=["m1"]) == before

    async def test_a_repeated_hold_changes_nothing(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.hold(claim, [CALL], expires_in=5.0)
        before = await desk.dump(ids=["m1"])

        await desk.store.hold(claim, [CALL], expires_in=5.0)

        assert await desk.dump(ids=["m1"]) == before

    async def test_a_claim_settles_one_way_only(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.release(claim, delay=60.0)
        before = await desk.dump(ids=["m1"])

        for name in ("commit", "fail", "retry", "hold", "journal", "publish", "offered"):
            with pytest.raises(LeaseLost):
                await WRITES[name](desk, claim)

        assert await desk.dump(ids=["m1"]) == before

    @pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
    @pytest.mark.parametrize("write", WRITES)
    async def test_a_stale_claim_changes_nothing(
        self, start: Start, write: str, loss: Callable[[Desk, Claim], Awaitable[None]]
    ) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        await loss(desk, claim)
        before = await desk.dump(ids=["m1", "m2", "next", "old"])

        with pytest.raises(LeaseLost):
            await WRITES[write](desk, claim)

        assert await desk.dump(ids=["m1", "m2", "next", "old"]) == before

    async def test_the_worker_that_took_over_is_not_disturbed_by_the_one_that_lost(self, start: Start) -> None:
        desk = await start()
        stale = await desk.lease("m1")
        await desk.wait(LEASE)
        claim = await desk.claim("worker-2")
        with pytest.raises(LeaseLost):
            await desk.commit(stale, "stale")

        await desk.commit(claim, "fresh")

        assert (await desk.transcript())[-1] == AssistantItem("fresh")

    async def test_a_failed_attempt_is_due_again_with_the_same_batch(self, start: Start) -> None:
        desk = await start()
        first = await desk.lease("m1", "m2")
        await desk.say("m3")

        assert await desk.store.fail(first, retry(10.0)) == "retry"
        await desk.wait(9.75)
        assert await desk.claims() == []
        await desk.wait(0.25)

        claim = await desk.claim()
        assert (claim.message_ids, claim.run_id) == (first.message_ids, first.run_id)
        assert (claim.attempts, claim.attempt, claim.deaths) == (1, 2, 0)

    async def test_a_failed_attempt_is_told(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.fail(claim, retry(10.0))

        event = await desk.last_event()

        assert (event.kind, event.message_ids, event.error) == ("retrying", ("m1",), FAULT)
        assert (event.run_id, event.attempt) == (claim.run_id, 1)

    async def test_a_failed_attempt_freezes_its_batch(self, start: Start) -> None:
        desk = await start()
        await desk.store.fail(await desk.lease("m1"), retry(10.0))

        with pytest.raises(MessageFrozen):
            await desk.store.withdraw(HERE, "m1")
        with pytest.raises(MessageFrozen):
            await desk.store.edit(HERE, "m1", said("m1", "changed").content)

    async def test_a_failed_attempt_keeps_its_journal(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.journal(claim, [{"n": 0, "kind": "a"}, {"n": 1, "kind": "b"}])
        await desk.store.fail(claim, retry(0.0))

        assert [dict(r) for r in (await desk.claim()).journal] == [{"n": 0, "kind": "a"}, {"n": 1, "kind": "b"}]

    async def test_a_batch_is_split_when_it_would_die(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2", "m3")
        await desk.store.journal(claim, [{"n": 0}])
        await desk.say("m4")

        assert await desk.store.fail(claim, give_up(usage=COST)) == "split"

        assert await desk.due_in() == 0
        assert (await desk.last_event()).kind == "retrying"
        assert (await desk.thread()).usage == COST
        alone = []
        for _ in range(3):
            claim = await desk.claim()
            assert (claim.last_chance, claim.journal) == (True, ())
            alone.append((claim.message_ids, claim.attempts, claim.attempt))
            await desk.commit(claim)
        assert alone == [(("m1",), 1, 1), (("m2",), 0, 1), (("m3",), 0, 1)]
        await desk.wait(WINDOW)
        claim = await desk.claim()
        assert (claim.message_ids, claim.last_chance) == (("m4",), False)

    async def test_a_poison_message_does_not_take_its_neighbours_along(self, start: Start) -> None:
        desk = await start()
        await desk.store.fail(await desk.lease("good1", "poison", "good2"), give_up())
        while claims := await desk.claims():
            if "poison" in claims[0].message_ids:
                assert await desk.store.fail(claims[0], give_up()) == "dead"
            else:
                await desk.commit(claims[0])

        assert [await desk.status(i) for i in ("good1", "poison", "good2")] == ["answered", "dead", "answered"]
        assert [item.message_id for item in await desk.transcript() if isinstance(item, UserItem)] == ["good1", "good2"]

    async def test_a_split_message_may_be_retried_and_stays_alone(self, start: Start) -> None:
        desk = await start()
        await desk.store.fail(await desk.lease("m1", "m2"), give_up())

        assert await desk.store.fail(await desk.claim(), retry(1.0)) == "retry"
        await desk.wait(1)

        claim = await desk.claim()
        assert (claim.message_ids, claim.last_chance, claim.attempts) == (("m1",), True, 2)

    async def test_a_batch_whose_effects_started_dies_whole(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1", "m2")
        await desk.say("m3")

        assert await desk.store.fail(claim, give_up(effects=True)) == "dead"

        letters = await desk.store.dead()
        assert [letter.message.message_id for letter in letters] == ["m1", "m2"]
        assert await desk.waiting_ids() == ["m3"]
        assert await desk.due_in() == WINDOW

    async def test_a_dead_message_leaves_a_letter_and_an_event(self, start: Start) -> None:
        desk = await start()
        await desk.store.fail(await desk.lease("m1"), retry(LEASE))
        await desk.wait(LEASE)
        await desk.claim()
        await desk.wait(LEASE)
        claim = await desk.claim()

        assert await desk.store.fail(claim, give_up(usage=COST)) == "dead"

        [letter] = await desk.store.dead()
        assert (letter.address, letter.thread_id, letter.run_id) == (HERE, claim.thread_id, claim.run_id)
        assert (letter.message.message_id, letter.message.text) == ("m1", "text of m1")
        assert (letter.fault, letter.attempts, letter.deaths, letter.at) == (FAULT, 2, 1, desk.now)
        event = await desk.last_event()
        assert (event.kind, event.message_ids, event.error) == ("dead", ("m1",), FAULT)
        record = await desk.record("m1")
        assert (record.status, record.run_id, record.settled_at) == ("dead", claim.run_id, desk.now)
        assert await desk.transcript() == []
        [run] = await desk.store.runs(HERE)
        assert (run.status, run.fault, run.usage) == ("failed", FAULT, COST)
        assert (await desk.thread()).usage == COST
        assert (await desk.thread()).state == "idle"

    async def test_completed_and_failed_count_messages(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1", "m2"))
        await desk.store.fail(await desk.lease("m3", "m4"), give_up(effects=True))

        counts = await desk.store.counts()

        assert (counts.completed, counts.failed, counts.dead_letters, counts.open_messages) == (2, 2, 2, 0)

    async def test_journal_records_are_kept_in_order_and_once(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.journal(claim, [{"n": 0, "v": "a"}])
        await desk.store.journal(claim, [{"n": 0, "v": "a"}, {"n": 1, "v": "b"}])
        await desk.store.journal(claim, [{"n": 1, "v": "again"}])
        await desk.wait(LEASE)

        assert [dict(r) for r in (await desk.claim()).journal] == [{"n": 0, "v": "a"}, {"n": 1, "v": "b"}]

    async def test_a_gap_in_the_journal_is_refused_whole(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")

        with pytest.raises(ValueError, match="record"):
            await desk.store.journal(claim, [{"n": 0}, {"n": 2}])
        await desk.store.release(claim)

        claim = await desk.claim()
        assert claim.journal == ()
        await desk.store.release(claim)
        await desk.store.withdraw(HERE, "m1")

    async def test_journal_records_are_plain_json_and_come_back_equal(self, start: Start) -> None:
        desk = await start()
        record = {"n": 0, "nested": {"list": [1, 2.5, None, True, "ü😀"], "empty": {}}, "text": "a\nb"}
        claim = await desk.lease("m1")
        await desk.store.journal(claim, [record])
        record["text"] = "changed by the caller later"
        await desk.wait(LEASE)

        [kept] = (await desk.claim()).journal

        assert kept["nested"] == {"list": [1, 2.5, None, True, "ü😀"], "empty": {}}
        assert kept["text"] == "a\nb"

    async def test_an_answer_clears_the_journal(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.journal(claim, [{"n": 0}])
        await desk.commit(claim)

        assert (await desk.lease("m2")).journal == ()

    async def test_runs_are_told_newest_first(self, start: Start) -> None:
        desk = await start(Policy(runs_kept=3))
        claims = []
        for n in range(5):
            claims.append(await desk.lease(f"m{n}"))
            await desk.commit(claims[-1], usage=COST)
            await desk.wait(1)
        claims.append(await desk.lease("m5"))

        runs = await desk.store.runs(HERE)

        assert [run.run_id for run in runs] == [claims[n].run_id for n in (5, 4, 3, 2)]
        assert [run.status for run in runs] == ["in_progress"] + ["completed"] * 3
        newest = runs[1]
        assert (newest.message_ids, newest.attempt, newest.usage, newest.model) == (("m4",), 1, COST, "model-1")
        assert (newest.started_at, newest.finished_at) == (desk.now - 1, desk.now - 1)

    @pytest.mark.parametrize(
        ("state", "status"),
        [("leased", "in_progress"), ("retry", "queued"), ("dissolved", "queued"), ("held", "requires_action")],
    )
    async def test_the_open_run_has_the_status_of_its_thread(self, start: Start, state: str, status: str) -> None:
        desk = await start()
        claim = await desk.bring(state)
        assert claim is not None

        [run] = await desk.store.runs(HERE)

        assert (run.run_id, run.status, run.attempt) == (claim.run_id, status, 1)
        assert run.finished_at is None
        assert run.message_ids == (() if state == "dissolved" else ("old",))

    async def test_an_empty_answer_is_an_answer(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")

        await desk.store.commit(claim, answer(claim, ""))

        assert (await desk.last_event()).text == ""
        assert await desk.status("m1") == "answered"

    async def test_committed_order_is_the_order_of_acceptance(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, max_batch=2))
        for n in range(7):
            await desk.say(f"m{n}")
        claim = await desk.claim()
        await desk.store.fail(claim, retry(0.0))
        for _ in range(4):
            await desk.commit(await desk.claim())
            await desk.wait(WINDOW)

        asked = [item.message_id for item in await desk.transcript() if isinstance(item, UserItem)]

        assert asked == [f"m{n}" for n in range(7)]

    async def test_another_channel_is_not_touched(self, start: Start) -> None:
        desk = await start()
        await desk.bring("leased", at("other"))
        before = await desk.store.thread(at("other"))

        await desk.commit(await desk.lease("m1"))

        assert await desk.store.thread(at("other")) == before
