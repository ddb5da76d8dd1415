"""The rules of a claim: taking a thread that is due, and what its owner does to it
while the lease holds.

Plain functions, as in `rules_accept`. Everything an owner writes is checked against the token of
its claim first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from turnkeep.errors import LeaseLost, MessageConflict, ThreadBusy
from turnkeep.events import Event
from turnkeep.messages import Message
from turnkeep.store.contract import EventGap
from turnkeep.store.rules_accept import accept, await_next_batch, batch_size, no_later, ripen
from turnkeep.store.thread import AcceptedId, InboxMessage, Thread
from turnkeep.store.values import Claim, Directive, Policy, Receipt, Record


def claim(
    thread: Thread, policy: Policy, now: float, *, owner: str, lease: float, token: str, run_id: str
) -> Claim | None:
    """Take the thread if it is due. `token` and `run_id` are fresh; the run id is used when no run
    is open.
    """
    ripen(thread, policy, now)
    # A lease that ended is looked at even when paused:
    # the death has to be counted and the batch let go.
    if thread.state == "idle" or (thread.paused and thread.state != "leased") or thread.due is None or thread.due > now:
        return None
    if thread.state == "leased":
        _bury(thread, now)
        if thread.paused:
            await_next_batch(thread, policy, now)
            return None
    # It came due by its expiry. With a stop the calls
    # stay as they are: the run commits as cancelled.
    if thread.state == "held" and not thread.stop:
        thread.calls = tuple([c if c.decision else replace(c, decision="expired") for c in thread.calls])
    return _lease(thread, policy, now, owner, lease, token, run_id)


def begin(
    thread: Thread, messages: Sequence[Message], priors: Sequence[AcceptedId | None], policy: Policy, now: float,
    *, owner: str, lease: float, token: str, run_id: str,
) -> Claim:  # fmt: skip
    """Accept and claim in one act."""
    ripen(thread, policy, now)
    if thread.is_busy or thread.paused:
        raise ThreadBusy("a run is in progress or the thread is paused, wait or send a message instead")
    for message, prior in zip(messages, priors, strict=True):
        if prior is not None or message.message_id in thread.out.accepted_ids:
            raise MessageConflict(f"message id {message.message_id!r} was used before, use a new id")
        # Whoever calls directly waits on the line: a window would only be silence to him.
        accept(thread, message.but(flush=True, not_before=None), None, policy, now)
    # A part of them answered and the rest left to a worker would be an answer to half a question.
    if batch_size(thread, policy) < len(thread.inbox):
        raise ThreadBusy("the messages that wait already do not fit one batch with these, wait for their answer")
    return _lease(thread, policy, now, owner, lease, token, run_id)


def _bury(thread: Thread, now: float) -> None:
    """The last owner vanished: count a death; what was not frozen dissolves."""
    oldest = thread.inbox[0]
    # On the oldest alone: it is the one message that every further claim of this thread holds too.
    oldest.deaths += 1
    thread.out.changed_ids.add(oldest.message.message_id)
    end_claim(thread, now)


def end_claim(thread: Thread, now: float) -> None:
    """End a claim: back to retry, with the frozen batch or with none. A pending stop keeps the
    batch for its cancel commit; a batch that dissolves leaves nothing to steer.
    """
    thread.state = "retry"
    thread.token = thread.owner = None
    # Frozen for the cancel: what was stopped is what was being answered, not what has come since.
    thread.frozen = thread.frozen or thread.stop is not None
    if not thread.frozen:
        thread.batch = 0
        defer_steering(thread, thread.run_id, now)
    for envelope in thread.inbox[thread.batch :]:
        # The run that it was offered to may never have read it; the next one is offered it again.
        if envelope.steer == "offered":
            envelope.steer = "asked"
            thread.out.changed_ids.add(envelope.message.message_id)


def _lease(thread: Thread, policy: Policy, now: float, owner: str, lease: float, token: str, run_id: str) -> Claim:
    if not thread.frozen:
        thread.batch = batch_size(thread, policy)
    # A further attempt keeps id and journal, so that
    # whoever watches sees one run and effects happen once.
    if thread.run_id is None:
        thread.run_id, thread.attempt, thread.first_claimed_at = run_id, 0, now
    # Kept on the claim: what waited in the queue is measured from here, and typing moved it.
    thread.due_at = now if thread.due is None else min(thread.due, now)
    thread.state, thread.due = "leased", now + lease
    thread.token, thread.owner, thread.claimed_at = token, owner, now
    # Never reset, unlike `attempt`: an old owner of an earlier batch must be behind as well.
    thread.fence += 1
    thread.attempt += 1
    # Each claim counts its own events, for a worker that died cannot say how far it came.
    thread.published = 0
    thread.flushed, thread.typed_at = False, None
    thread.active_at = now
    # A claim that only commits a cancel shows nothing,
    # so nothing that is on the screen is replaced.
    if thread.stop is None:
        event = Event(
            "started", thread.batch_ids, run_id=thread.run_id, attempt=thread.attempt, thread_id=thread.thread_id
        )
        thread.emit(event, now)
        thread.live_from = thread.top
    return current_claim(thread)


def current_claim(thread: Thread) -> Claim:
    """The claim that is valid now."""
    oldest = thread.inbox[0]
    return Claim(
        address=thread.address,
        thread_id=thread.thread_id,
        run_id=thread.run_id or "",
        token=thread.token or "",
        fence=thread.fence,
        owner=thread.owner or "",
        attempt=thread.attempt,
        lease_until=thread.lease_until,
        messages=tuple(o.message for o in thread.inbox[: thread.batch]),
        journal=thread.journal,
        attempts=oldest.attempts,
        deaths=oldest.deaths,
        last_chance=oldest.last_chance,
        stop=thread.stop,
        calls=thread.calls,
        assistant=thread.assistant,
        claimed_at=thread.claimed_at,
        due_at=thread.due_at,
        transcript=thread.transcript,
        items=thread.items,
    )


def check_lease(thread: Thread | None, claim: Claim) -> None:
    if thread is None or thread.state != "leased" or thread.token != claim.token:
        raise LeaseLost(f"attempt {claim.attempt} of run {claim.run_id} does not own its thread any more")


def renew(thread: Thread, claim: Claim, now: float, lease: float, policy: Policy = Policy()) -> Directive:
    # Told, not raised: one lost claim among hundreds must not fail the renewal of the others.
    if thread.state != "leased" or thread.token != claim.token:
        return Directive(held=False)
    ripen(thread, policy, now)
    thread.due = now + lease
    steer = any(o.steer == "asked" for o in thread.inbox[thread.batch :])
    return Directive(True, thread.due, thread.stop, steer)


def orphan(thread: Thread, now: float) -> None:
    """A lease that its owner does not know: the reply to its claim was lost. Nobody died, so no
    death is counted.
    """
    # As a release: the thread is due at once and the message keeps its deaths.
    if thread.state == "leased":
        end_claim(thread, now)
        thread.due = now


def bereave(thread: Thread, now: float) -> None:
    """A lease whose owner is known to be gone: the next claim is at once, and counts the death."""
    if thread.state == "leased":
        thread.due = no_later(thread, now)


def offer_steering(thread: Thread, claim: Claim) -> list[Message]:
    check_lease(thread, claim)
    steering = [i for i, o in enumerate(thread.inbox) if o.steer and i >= thread.batch]
    if not steering:
        return []
    # With all that wait before it: a batch is a prefix of the inbox, so nothing may be overtaken.
    batch_addition = thread.inbox[thread.batch : steering[-1] + 1]
    for envelope in batch_addition:
        if envelope.steer != "offered":
            envelope.steer = "offered"
            thread.out.changed_ids.add(envelope.message.message_id)
    return [envelope.message for envelope in batch_addition]


def journal(thread: Thread, claim: Claim, records: Sequence[Record], now: float) -> None:
    check_lease(thread, claim)
    for record in records:
        place = record["n"]
        # A record that was written, but whose reply was lost, comes again.
        if place < len(thread.journal):
            continue
        if place > len(thread.journal):
            raise ValueError(f"journal record {place} comes after {len(thread.journal)} records, write them in order")
        thread.journal = (*thread.journal, record)
        thread.out.journal.append(record)
        # From its first record on the batch is what the model
        # has seen; a further attempt must ask the same.
        thread.frozen = True
        if "steered_through" in record:
            _take_steered(thread, record["steered_through"], now)


def _take_steered(thread: Thread, through: int, now: float) -> None:
    envelopes = [o for o in thread.inbox[thread.batch :] if o.message.seq <= through]
    thread.batch += len(envelopes)
    _end_steering(thread, envelopes, "applied", thread.run_id, now)


def defer_steering(thread: Thread, run_id: str | None, now: float) -> None:
    """Messages that asked to steer and were not taken wait like any other."""
    _end_steering(thread, [o for o in thread.inbox if o.steer], "deferred", run_id, now)


def _end_steering(
    thread: Thread,
    envelopes: Sequence[InboxMessage],
    outcome: Literal["applied", "deferred"],
    run_id: str | None,
    now: float,
) -> None:
    for envelope in envelopes:
        envelope.steer = ""
        thread.out.changed_ids.add(envelope.message.message_id)
        thread.out.accepted_ids[envelope.message.message_id] = AcceptedId(
            "", no_receipt(thread, envelope), steer=outcome
        )
    if envelopes:
        ids = tuple(o.message.message_id for o in envelopes)
        thread.emit(Event("steered", ids, run_id=run_id, outcome=outcome), now)


def publish(thread: Thread, claim: Claim, n: int, events: Sequence[Event], now: float) -> int:
    check_lease(thread, claim)
    check_published(thread, n)
    # Events that are here already were sent again after a lost reply; the rest is new.
    for event in events[thread.published - n :]:
        thread.emit(event, now)
        thread.published += 1
    return thread.top


def check_published(thread: Thread, n: int) -> None:
    """Raises `EventGap` where the log holds fewer events of the claim."""
    # Raised, not filled: the announcer knows what was shown and publishes it from there again.
    if n > thread.published:
        raise EventGap(n, thread.published)


def no_receipt(thread: Thread, envelope: InboxMessage) -> Receipt:
    """Stands where the receipt of the first acceptance will be put back by `merge_known`."""
    return Receipt(thread.address.channel, envelope.message.message_id, thread.thread_id, "accepted", 0, None)
