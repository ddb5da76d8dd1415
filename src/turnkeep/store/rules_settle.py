"""The rules by which a claim ends: an answer, a failure, a release or a held turn.

Plain functions, as in `rules_accept`. Each leaves its result behind under the token of its claim,
so that a repeat whose first reply was lost gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from turnkeep.events import Event, TurnFault
from turnkeep.store.rules_accept import ask_to_stop, await_next_batch
from turnkeep.store.rules_claim import check_lease, check_published, defer_steering, end_claim, no_receipt
from turnkeep.store.thread import AcceptedId, InboxMessage, Settlement, Thread
from turnkeep.store.transcript_version import TranscriptVersion
from turnkeep.store.values import (
    Claim,
    Commit,
    DeadLetter,
    FailOutcome,
    Failure,
    HeldCall,
    MessageStatus,
    Policy,
    Remainder,
    RunRecord,
    TranscriptEntry,
)
from turnkeep.usage import Usage

SETTLEMENTS = 4
"""How many claims of a thread leave their results behind."""


def _find_settlement(thread: Thread, claim: Claim, act: str) -> Settlement | None:
    """The result left behind, if this claim was settled by this act before."""
    for settlement in thread.settlements:
        if settlement.token == claim.token and settlement.act == act:
            return settlement
    check_lease(thread, claim)
    return None


def _leave(thread: Thread, settlement: Settlement) -> None:
    """Leave the result behind, beside those of a few claims before it: a repeat may come after the
    next settlement.
    """
    thread.settlements = (settlement, *thread.settlements)[:SETTLEMENTS]


def commit(thread: Thread, claim: Claim, end: Commit, policy: Policy, now: float) -> Remainder:
    if last := _find_settlement(thread, claim, "commit"):
        return _remainder(*last.result)
    # Here and not at the next publication: after the final event nothing of the run may come.
    check_published(thread, end.published_count)
    complete(thread, end, policy, now)
    remainder = Remainder(len(thread.inbox), thread.wake, thread.transcript)
    result = [remainder.messages, remainder.due, *thread.transcript]
    _leave(thread, Settlement(claim.token, "commit", result))
    return remainder


def complete(thread: Thread, end: Commit, policy: Policy, now: float, *, author: str | None = None) -> None:
    """The batch is answered, by a model or by `author`: the run ends."""
    ids, run_id, attempt = thread.batch_ids, thread.run_id, thread.attempt
    status: MessageStatus = "cancelled" if end.outcome == "cancelled" else "answered"
    # What failed attempts have cost is the turn's as well: the provider charges for it.
    usage = end.usage + thread.spent
    add_turn(thread, end.entries, now)
    thread.usage += usage
    thread.out.completed_count += len(ids)
    run = _run_record(thread, now, status=end.outcome, usage=usage, model=end.model)
    _close(thread, thread.batch, status, policy, now)
    event = Event(
        "completed", ids, text=end.text, run_id=run_id, attempt=attempt, outcome=end.outcome, usage=usage, author=author
    )
    _end_run(thread, run)
    defer_steering(thread, run_id, now)
    # After what steering leaves behind: nothing of a run comes after its final event.
    thread.emit(event, now)
    await_next_batch(thread, policy, now)


def _remainder(messages: int, due: float | None, *version: Any) -> Remainder:
    # A version before this one left only the first two behind.
    return Remainder(messages, due, TranscriptVersion(*version) if version else None)


def add_turn(thread: Thread, entries: Sequence[TranscriptEntry], now: float) -> None:
    """Add one turn to the transcript."""
    thread.turns += 1
    thread.out.entries = [TranscriptEntry(entry.item, entry.tokens, thread.turns, now) for entry in entries]
    if entries:
        thread.transcript_at = now


def _close(thread: Thread, count: int, status: MessageStatus, policy: Policy, now: float) -> None:
    """The first messages of the inbox are open no more."""
    ids = tuple(o.message.message_id for o in thread.inbox[:count])
    for envelope in thread.inbox[:count]:
        remember_status(thread, envelope, status, policy, now, ids)
    del thread.inbox[:count]


def remember_status(
    thread: Thread,
    envelope: InboxMessage,
    status: MessageStatus,
    policy: Policy,
    now: float,
    covers: tuple[str, ...] = (),
) -> None:
    """Engines merge this into what they know of the id: digest and receipt stay those
    of the first acceptance.
    """
    message_id = envelope.message.message_id
    thread.out.removed_ids.add(message_id)
    thread.out.changed_ids.discard(message_id)
    before = thread.out.accepted_ids.get(message_id) or AcceptedId("", no_receipt(thread, envelope))
    run_id = thread.run_id if status != "withdrawn" else None
    thread.out.accepted_ids[message_id] = before.settle(status, now, now + policy.dedupe, run_id=run_id, covers=covers)


def _end_run(thread: Thread, run: RunRecord | None) -> None:
    thread.out.run = run
    # Said only where there is one, so that engines
    # write nothing for the many runs without a journal.
    thread.out.journal_cleared = bool(thread.journal)
    thread.journal = thread.calls = ()
    thread.batch, thread.frozen, thread.run_id, thread.attempt = 0, False, None, 0
    thread.token = thread.owner = thread.stop = thread.live_from = None
    thread.spent = Usage()


def _run_record(
    thread: Thread, now: float, *, status: Any, usage: Usage, model: str | None = None, fault: TurnFault | None = None
) -> RunRecord:
    return RunRecord(
        thread.run_id or "",
        status,
        thread.batch_ids,
        thread.attempt,
        thread.first_claimed_at,
        now,
        usage,
        model,
        fault,
        thread.calls,
    )


def fail(thread: Thread, claim: Claim, failure: Failure, policy: Policy, now: float) -> FailOutcome:
    """Dead letters get their `dead_id` from the engine. A stop that came meanwhile is obeyed by the
    next claimant.
    """
    if last := _find_settlement(thread, claim, "fail"):
        outcome: FailOutcome = last.result
        return outcome
    # Attempts are counted on the oldest, as deaths
    # are: the batch grows by steering, its head stays.
    oldest = thread.inbox[0]
    oldest.attempts += 1
    thread.out.changed_ids.add(oldest.message.message_id)
    thread.spent += failure.usage
    # The stop was meant for this batch: its dead letter
    # would be an error to somebody who gave up himself.
    asked_to_stop = thread.stop is not None and claim.stop is None
    if failure.retry_in is not None or asked_to_stop:
        outcome = "retry"
        _retry(thread, claim, failure.fault, now + (failure.retry_in or 0.0), now)
    # After an effect it is not split: each part would be
    # a run without the journal that holds the effect.
    elif thread.batch > 1 and not failure.effects and thread.stop is None:
        outcome = "split"
        _split(thread, claim, failure.fault, now)
    else:
        outcome = "dead"
        _die(thread, claim, failure.fault, policy, now)
    _leave(thread, Settlement(claim.token, "fail", outcome))
    return outcome


def _retry(thread: Thread, claim: Claim, fault: TurnFault, at: float, now: float) -> None:
    thread.emit(_run_event("retrying", thread, claim, fault), now)
    thread.frozen = True
    end_claim(thread, now)
    thread.due = now if thread.stop else at


def _split(thread: Thread, claim: Claim, fault: TurnFault, now: float) -> None:
    """One attempt each, in order, so that a poison message does not take its neighbours along."""
    thread.emit(_run_event("retrying", thread, claim, fault), now)
    for envelope in thread.inbox[: thread.batch]:
        # Their attempts are used up together; one more each is enough to tell who is to blame.
        envelope.alone = envelope.last_chance = True
        thread.out.changed_ids.add(envelope.message.message_id)
    thread.usage += thread.spent
    _end_run(thread, None)
    defer_steering(thread, claim.run_id, now)
    thread.state, thread.due = "waiting", now


def _die(thread: Thread, claim: Claim, fault: TurnFault, policy: Policy, now: float) -> None:
    ids = thread.batch_ids
    thread.usage += thread.spent
    run = _run_record(thread, now, status="failed", usage=thread.spent, fault=fault)
    oldest = thread.inbox[0]
    thread.out.dead += [
        DeadLetter(
            "", thread.address, thread.thread_id, o.message, fault, oldest.attempts, oldest.deaths, claim.run_id, now
        )
        for o in thread.inbox[: thread.batch]
    ]
    thread.out.failed_count += len(ids)
    dead = _run_event("dead", thread, claim, fault)
    _close(thread, thread.batch, "dead", policy, now)
    _end_run(thread, run)
    defer_steering(thread, claim.run_id, now)
    thread.emit(dead, now)
    await_next_batch(thread, policy, now)


def _run_event(kind: Literal["retrying", "waiting", "dead"], thread: Thread, claim: Claim, fault: TurnFault) -> Event:
    return Event(kind, thread.batch_ids, run_id=claim.run_id, attempt=claim.attempt, error=fault)


def release(thread: Thread, claim: Claim, delay: float, reason: TurnFault | None, now: float) -> None:
    if _find_settlement(thread, claim, "release"):
        return
    if reason is not None:
        thread.emit(_run_event("waiting", thread, claim, reason), now)
    end_claim(thread, now)
    # Whoever stops is not kept waiting by a rate limit of the provider.
    thread.due = now if thread.stop else now + delay
    _leave(thread, Settlement(claim.token, "release"))


def hold(
    thread: Thread,
    claim: Claim,
    calls: Sequence[HeldCall],
    expires_in: float,
    now: float,
    *,
    published_count: int = 0,
) -> None:
    if _find_settlement(thread, claim, "hold"):
        return
    # Whoever waits for the outputs of his own tools hears no more than this of what was said before.
    check_published(thread, published_count)
    thread.frozen = True
    end_claim(thread, now)
    thread.state, thread.due = "held", now + expires_in
    thread.calls = tuple(calls)
    call_forms = tuple(call.to_json() for call in calls)
    thread.emit(Event("held", thread.batch_ids, run_id=claim.run_id, attempt=claim.attempt, calls=call_forms), now)
    # The stop came while the run gave itself up to wait;
    # nobody else would look at it before the expiry.
    if thread.stop:
        ask_to_stop(thread, thread.stop, now)
    elif all(c.decision for c in calls):
        thread.due = now
    _leave(thread, Settlement(claim.token, "hold"))
