"""Random histories: the memory engine and another one live through the same, and every answer is compared.

Needs hypothesis. `drive` finds the shortest history after which the engines differ, or after which the books of
`tests.contract.bookkeeping` do not agree with what the memory engine tells. Engines must take the fake clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.contract.twins import Held, Make, Twins
from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, AssistantItem, Message, UserItem, text_content
from turnkeep.store.contract import Store
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.transcript import last_user_turn
from turnkeep.store.values import (
    Claim,
    Commit,
    Decision,
    Failure,
    HeldCall,
    Policy,
    Receipt,
    SettledOutcome,
    ThreadOptions,
    TranscriptEntry,
)
from turnkeep.usage import Usage

POLICY = Policy(
    window=2.0, max_wait=6.0, max_batch=3, max_inbox=8, expiry=10_000.0, dedupe=4_000.0,
    history_items=30, log_events=100_000, log_age=1e9, runs_kept=3,
)  # fmt: skip

PLACES = [Address("t1", "q1", "a"), Address("t1", "q1", "b"), Address("t2", "q2", "a")]
OWNERS = ["w1", "w2"]
LEASE = 30.0
CALLS = (HeldCall("call_1", "pay", "{}", "d1"), HeldCall("call_2", "book", "{}", "d2", kind="output"))
FAULT = TurnFault("model_unavailable", "try again", "503")
COST = Usage(requests=1, input_tokens=3, output_tokens=2, cost_nano=5)

places = st.sampled_from([PLACES[0], PLACES[0], PLACES[0], *PLACES])
ids = st.sampled_from(["m1", "m2", "m3", *[None] * 9])
"""Mostly ids that were never used (None)."""
texts = st.sampled_from(["yes", "no"])
owners = st.sampled_from(OWNERS)
picks = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 5])
lost = st.booleans()
"""The reply to the operation was lost, so that it is made again."""
habits = st.fixed_dictionaries(
    {
        "on_busy": st.sampled_from(
            [None, None, "collect", "queue", "steer", "steer", "interrupt", "rollback", "reject"]
        ),
        "window": st.sampled_from([None, None, 0.0, 1.0, 5.0]),
        "max_wait": st.sampled_from([None, None, 3.0]),
        "delay": st.sampled_from([None, None, None, None, 1.0, 10.0, 40.0, -1.0]),
        "flush": st.sampled_from([False, False, False, False, True]),
    }
)
"""What a message asks for."""
follow_ups = st.sampled_from([None, None, "steer", "taken", "taken", "collect", "interrupt", "queue"])
"""What is said while a run is in progress; ``taken`` steers it and is taken at once."""
jumps = st.sampled_from([0.25, 1.0, 1.0, 2.0, 2.0, 6.0, 15.0, LEASE, LEASE, 100.0, 4_000.0, 20_000.0])
changes = st.sampled_from(
    [
        {"metadata": {"a": "1"}},
        {"metadata": {"a": None, "b": "2"}},
        {"assistant": "asst_1", "options": ThreadOptions(window=4.0)},
        {"options": ThreadOptions(on_busy="steer")},
        {"ttl": 15_000.0},
        {"unknown": 1},
    ]
)


def drive(make: Make, *, examples: int, steps: int, loop: asyncio.AbstractEventLoop) -> None:
    """Live through so many random histories of so many steps; raises what went wrong, shrunk."""

    class Bound(Histories):
        def __init__(self) -> None:
            super().__init__(Twins(make, POLICY, PLACES, loop))

    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(Bound, settings=chosen)


def has_claims(history: Histories) -> bool:
    return bool(history.twins.held)


def has_letters(history: Histories) -> bool:
    return bool(history.twins.letters)


class Histories(RuleBasedStateMachine):
    """One history. Every rule makes one operation (or the usual few) on both engines, then looks."""

    def __init__(self, twins: Twins) -> None:
        super().__init__()
        self.twins = twins

    # ---------------------------------------------------------------- time

    @rule(seconds=jumps)
    def time_passes(self, seconds: float) -> None:
        self.twins.clock.advance(seconds)
        self.twins.look(*PLACES)

    @rule(seconds=st.sampled_from([6.0, LEASE]))
    def some_time_passes_and_old_things_expire(self, seconds: float) -> None:
        self.twins.clock.advance(seconds)
        self.twins.look(*PLACES)
        self.twins.both(lambda store, _: store.expire(limit=100))
        self.twins.look(*PLACES)

    # ---------------------------------------------------------------- messages

    @rule(where=places, known=ids, text=texts, fields=habits, twice=lost)
    def a_message_comes(
        self, where: Address, known: str | None, text: str, fields: dict[str, Any], twice: bool
    ) -> None:
        delay = fields["delay"]
        wishes = {name: value for name, value in fields.items() if name != "delay"}
        not_before = None if delay is None else self.twins.now + delay
        message = Message(where, known or self.twins.new_id(), text_content(text), not_before=not_before, **wishes)
        for _ in range(1 + twice):
            self.twins.accept([message])
        self.twins.look(where)

    @rule(
        some=st.lists(st.tuples(places, ids, texts), min_size=2, max_size=5),
        limit=st.sampled_from([None, None, None, 0, 2, 5]),
    )
    def messages_come_together(self, some: list[tuple[Address, str | None, str]], limit: int | None) -> None:
        messages = [Message(where, known or self.twins.new_id(), text_content(text)) for where, known, text in some]
        self.twins.accept(messages, max_inbox=limit)
        self.twins.look(*PLACES)

    @rule(where=places, pick=picks, text=st.sampled_from([None, "edited", "again"]), twice=lost)
    def a_message_is_edited_or_withdrawn(self, where: Address, pick: int, text: str | None, twice: bool) -> None:
        recent = self.twins.books.recent_ids(where)
        message_id = recent[-1 - (pick + 1) % len(recent)]
        if text is None:
            was_open = message_id in self.twins.books.of(where).open_ids
            outcome = self.twins.both(lambda store, _: store.withdraw(where, message_id), twice=twice)
            if was_open and not isinstance(outcome, Exception):
                self.twins.books.withdrawn(where, [message_id], self.twins.now)
        else:
            self.twins.both(lambda store, _: store.edit(where, message_id, text_content(text)), twice=twice)
        self.twins.look(where)

    @rule(where=places, flush=st.booleans(), twice=lost)
    def somebody_types_or_flushes(self, where: Address, flush: bool, twice: bool) -> None:
        if flush:
            self.twins.flush(where, twice=twice)
        else:
            self.twins.both(lambda store, _: store.typing(where), twice=twice)
        self.twins.look(where)

    @rule(where=places, drop=st.booleans(), twice=lost)
    def a_thread_is_cancelled(self, where: Address, drop: bool, twice: bool) -> None:
        before = self.twins.books.of(where).open_ids
        self.twins.both(lambda store, _: store.cancel(where, drop_inbox=drop), twice=twice)
        left = {record.message_id for record in self.twins.wait(self.twins.here.open_messages(where))}
        assert drop or left == set(before)
        self.twins.books.withdrawn(where, [i for i in before if i not in left], self.twins.now)
        self.twins.look(where)

    @rule(where=places, resume=st.booleans(), twice=lost)
    def a_thread_is_paused_or_resumed(self, where: Address, resume: bool, twice: bool) -> None:
        self.twins.both(lambda store, _: store.resume(where) if resume else store.pause(where), twice=twice)
        self.twins.look(where)

    # ---------------------------------------------------------------- claims

    @rule(owner=owners, keep=st.sampled_from([True, True, True, False]), patience=st.sampled_from([0.0, 6.0]))
    def a_worker_claims(self, owner: str, keep: bool, patience: float) -> None:
        self.twins.clock.advance(patience)
        self.twins.look(*PLACES)
        self.twins.claim(owner, LEASE, keep=keep)
        self.twins.look(*PLACES)

    @rule(where=places, count=st.integers(1, 4), owner=owners, journalled=st.booleans(), then=follow_ups)
    def a_burst_is_being_answered(
        self, where: Address, count: int, owner: str, journalled: bool, then: str | None
    ) -> None:
        """What most threads do most of the time."""
        self.twins.accept([Message(where, self.twins.new_id(), text_content("hi")) for _ in range(count)])
        self.twins.flush(where)
        self.twins.claim(owner, LEASE)
        if journalled and self.twins.held:
            self.a_run_journals(pick=0, count=1, gap=0, twice=False)
        if then is not None:
            policy: Any = "steer" if then == "taken" else then
            self.twins.accept([Message(where, self.twins.new_id(), text_content("and"), on_busy=policy)])
        if then == "taken" and self.twins.held:
            self.a_run_is_steered(pick=0, take=2, twice=False)
        self.twins.look(*PLACES)

    @rule(where=places, owner=owners, known=ids, text=texts)
    def a_caller_begins(self, where: Address, owner: str, known: str | None, text: str) -> None:
        self.twins.begin(Message(where, known or self.twins.new_id(), text_content(text)), owner, LEASE)
        self.twins.look(where)

    @rule(owner=owners, forgotten=st.sampled_from([None, None, 0, 1]), twice=lost)
    def a_worker_renews(self, owner: str, forgotten: int | None, twice: bool) -> None:
        mine = [held for held in self.twins.held if held.here.owner == owner]
        if forgotten is not None and mine:
            mine.pop(forgotten % len(mine))
        current = [held.here for held in mine if self.twins.books.is_current(held.here)]

        async def renew(store: Store, side: int) -> list[Any]:
            claims = [held.on(side) for held in mine]
            directives = await store.renew(owner, claims, lease=LEASE)
            return [directives[claim.token] for claim in claims]

        outcome = self.twins.both(renew, twice=twice)
        assert not isinstance(outcome, Exception)
        assert sum(directive.held for directive in outcome) == len(current)
        self.twins.books.renewed(owner, current, self.twins.now + LEASE)
        self.twins.look(*PLACES)

    @precondition(has_claims)
    @rule(pick=picks)
    def a_worker_crashes(self, pick: int) -> None:
        """Nobody knows its claim any more."""
        self.twins.held.remove(self.twins.pick(pick))

    # ---------------------------------------------------------------- runs

    @precondition(has_claims)
    @rule(pick=picks, count=st.integers(1, 3), gap=st.sampled_from([0, 0, 0, 1]), twice=lost)
    def a_run_journals(self, pick: int, count: int, gap: int, twice: bool) -> None:
        held = self.twins.pick(pick)
        records = [{"n": held.journalled + gap + n, "kind": "note"} for n in range(count)]
        _, counts = self.twins.fenced(held, lambda store, claim: store.journal(claim, records), twice=twice)
        if counts:
            held.journalled += count
        self.twins.look(held.where)

    @precondition(has_claims)
    @rule(pick=picks, take=st.integers(0, 3), twice=lost)
    def a_run_is_steered(self, pick: int, take: int, twice: bool) -> None:
        held = self.twins.pick(pick)
        offered, _ = self.twins.fenced(held, lambda store, claim: store.offer_steering(claim), twice=twice)
        if isinstance(offered, list) and offered[:take]:
            taken = offered[:take]
            record = {"n": held.journalled, "steered_through": taken[-1].seq}
            _, counts = self.twins.fenced(held, lambda store, claim: store.journal(claim, [record]), twice=twice)
            assert counts
            held.journalled += 1
            self.twins.books.steered(held.where, [message.message_id for message in taken])
        self.twins.look(held.where)

    @precondition(has_claims)
    @rule(pick=picks, count=st.integers(0, 4), back=st.integers(-1, 2), twice=lost)
    def a_run_publishes(self, pick: int, count: int, back: int, twice: bool) -> None:
        held = self.twins.pick(pick)
        first = max(0, held.published - back)
        events = [Event("delta", text=f"{first + n} ", attempt=held.here.attempt) for n in range(count)]
        _, counts = self.twins.fenced(held, lambda store, claim: store.publish(claim, first, events), twice=twice)
        if counts:
            held.published = max(held.published, first + count)
        self.twins.look(held.where)

    @precondition(has_claims)
    @rule(pick=picks, outcome=st.sampled_from(["completed", "completed", "incomplete", "cancelled"]), twice=lost)
    def a_run_commits(self, pick: int, outcome: SettledOutcome, twice: bool) -> None:
        self.commit(self.twins.pick(pick), outcome, twice=twice)

    def commit(self, held: Held, outcome: SettledOutcome, *, twice: bool) -> None:
        asked = [TranscriptEntry(UserItem(text_content(i), i), 1) for i in self.twins.books.of(held.where).batch]
        done = Commit(outcome, "answer", [*asked, TranscriptEntry(AssistantItem("answer"), 1)], COST, "model")
        _, counts = self.twins.fenced(held, lambda store, claim: store.commit(claim, done), twice=twice)
        if counts:
            self.twins.books.committed(held.where, outcome, self.twins.now)
        self.twins.look(held.where)

    @precondition(has_claims)
    @rule(pick=picks, delay=st.sampled_from([None, None, 0.0, 5.0]), effects=st.booleans(), twice=lost)
    def a_run_fails(self, pick: int, delay: float | None, effects: bool, twice: bool) -> None:
        held = self.twins.pick(pick)
        failure = Failure(FAULT, delay, effects, COST)
        outcome, counts = self.twins.fenced(held, lambda store, claim: store.fail(claim, failure), twice=twice)
        if counts:
            self.twins.books.ended(held.where, str(outcome), self.twins.now)
        self.twins.look(held.where)

    @precondition(has_claims)
    @rule(pick=picks, delay=st.sampled_from([0.0, 5.0]), reason=st.sampled_from([None, FAULT]), twice=lost)
    def a_run_is_released(self, pick: int, delay: float, reason: TurnFault | None, twice: bool) -> None:
        held = self.twins.pick(pick)

        def release(store: Store, claim: Claim) -> Awaitable[None]:
            return store.release(claim, delay=delay, reason=reason)

        if self.twins.fenced(held, release, twice=twice)[1]:
            self.twins.books.ended(held.where, "released", self.twins.now)
        self.twins.look(held.where)

    @precondition(has_claims)
    @rule(pick=picks, count=st.integers(1, 2), decided=st.integers(0, 2), twice=lost)
    def a_run_is_held(self, pick: int, count: int, decided: int, twice: bool) -> None:
        held = self.twins.pick(pick)

        def hold(store: Store, claim: Claim) -> Awaitable[None]:
            return store.hold(claim, CALLS[:count], expires_in=60.0)

        if self.twins.fenced(held, hold, twice=twice)[1]:
            self.twins.books.ended(held.where, "held", self.twins.now)
        for call in CALLS[:decided]:
            self.somebody_decides(where=held.where, call=call, digest="", verdict="approved", twice=twice)
        self.twins.look(held.where)

    @rule(
        where=places, call=st.sampled_from(CALLS), digest=st.sampled_from(["", "", "", "wrong"]), twice=lost,
        verdict=st.sampled_from(["approved", "denied", "output"]),
    )  # fmt: skip
    def somebody_decides(self, where: Address, call: HeldCall, digest: str, verdict: Any, twice: bool) -> None:
        def decide(store: Store, _: int) -> Awaitable[HeldCall]:
            return store.decide(where, call.call_id, digest or call.digest, Decision(verdict, by="ann"))

        self.twins.both(decide, twice=twice)
        self.twins.look(where)

    # ---------------------------------------------------------------- dead letters

    @precondition(has_letters)
    @rule(pick=picks, keep=st.sampled_from([True, True, False]), twice=lost)
    def a_letter_is_redriven_or_discarded(self, pick: int, keep: bool, twice: bool) -> None:
        pair = self.twins.letters[pick % len(self.twins.letters)]
        letter = self.twins.wait(self.twins.here.dead_letter(pair[0]))
        assert letter is not None
        if keep:
            outcome = self.twins.both(lambda store, side: store.redrive(pair[side]), twice=twice)
            if isinstance(outcome, Receipt):
                self.twins.books.redriven(letter.address, letter.message, self.twins.now)
        else:
            self.twins.both(lambda store, side: store.discard(pair[side]))
        self.twins.look(letter.address)

    # ---------------------------------------------------------------- threads

    @rule(where=places, words=st.sampled_from([("a",), ("a", "b")]), once=st.sampled_from([None, "k1", "k2"]))
    def the_transcript_is_changed(self, where: Address, words: tuple[str, ...], once: str | None) -> None:
        entries = [
            TranscriptEntry(UserItem(text_content("hm"), "extra"), 2),
            *(TranscriptEntry(AssistantItem(w), 3) for w in words),
        ]
        twice = once is not None
        self.twins.both(lambda store, _: store.append(where, entries, author="ann", once=once), twice=twice)
        self.twins.look(where)

    @rule(where=places, lag=st.integers(0, 5), once=st.sampled_from([None, "k1", "k2"]))
    def somebody_answers_what_waits(self, where: Address, lag: int, once: str | None) -> None:
        # Each engine's own: an engine may have drawn other ids than its twin, and a view names one.
        records = [self.twins.wait(store.thread(where)) for store in (self.twins.here, self.twins.there)]
        waiting = [r.message for r in self.twins.wait(self.twins.here.open_messages(where)) if r.status == "waiting"]
        asked = [TranscriptEntry(UserItem(m.content, m.message_id), 2) for m in waiting if m is not None]
        views = [
            InboxView(tuple(asked), record.top - (lag == 5), record.thread_id) if record is not None and asked else None
            for record in records
        ]
        words = [TranscriptEntry(AssistantItem("I am here"), 3)]

        def answer(store: Store, side: int) -> Awaitable[None]:
            return store.append(where, words, author="ann", inbox=views[side], once=once)

        before = self.twins.books.of(where).open_ids
        self.twins.both(answer, twice=once is not None)
        left = {record.message_id for record in self.twins.wait(self.twins.here.open_messages(where))}
        gone = [message_id for message_id in before if message_id not in left]
        self.twins.books.answered_by_a_person(where, gone, self.twins.now)
        self.twins.look(where)

    @rule(where=places, twice=lost)
    def the_last_turn_is_answered_again(self, where: Address, twice: bool) -> None:
        once = self.twins.new_id()
        said = self.twins.wait(self.twins.here.history(where)).entries
        receipts = self.twins.both(lambda store, _: store.regenerate(where, once=once), twice=twice)
        if isinstance(receipts, list):
            asked = [entry.item for entry in last_user_turn(said) if isinstance(entry.item, UserItem)]
            for receipt, item in zip(receipts, asked, strict=True):
                message = Message(where, receipt.message_id, item.content, flush=True)
                self.twins.books.accepted(message, self.twins.now)
        self.twins.look(where)

    @rule(where=places, change=changes, back=st.integers(0, 9))
    def a_thread_is_changed(self, where: Address, change: dict[str, Any], back: int) -> None:
        self.twins.both(lambda store, _: store.thread(where, create=back == 0))
        record = self.twins.wait(self.twins.here.thread(where))
        if record is not None or "unknown" not in change:
            self.twins.both(lambda store, _: store.update(where, change))
        if record is not None and back < record.turns:
            through = record.turns - back
            self.twins.both(lambda store, _: store.compact(where, through_turn=through, summary=f"to {through}"))
        self.twins.both(lambda store, _: store.history(where, tokens=back))
        self.twins.look(where)

    @rule(where=places, force=st.sampled_from([False, False, False, False, False, True]))
    def a_thread_is_forgotten(self, where: Address, force: bool) -> None:
        if self.twins.both(lambda store, _: store.forget(where, force=force)) is True:
            assert force or not self.twins.books.of(where).open_ids
            self.twins.books.forgotten(where, self.twins.now)
        self.twins.look(where)

    # ---------------------------------------------------------------- the end

    def teardown(self) -> None:
        try:
            self.drain()
            self.twins.look_at_everything()
        finally:
            self.twins.close()

    def drain(self) -> None:
        """With workers that do their work, every message that was accepted comes to its end."""
        for where in PLACES:
            self.twins.both(lambda store, _, at=where: store.resume(at))  # type: ignore[misc]  # bound now
        self.twins.look(*PLACES)
        for _ in range(40):
            if not self.twins.books.open_total():
                return
            self.twins.clock.advance(50.0)
            self.twins.look(*PLACES)
            self.twins.held.clear()
            self.twins.claim("last", LEASE)
            for held in list(self.twins.held):
                self.commit(held, "cancelled" if held.here.stop else "completed", twice=True)
        raise AssertionError(f"{self.twins.books.open_total()} messages were never answered")
