"""The rules of turn-taking: what each operation does to one thread, as pure functions over `Thread`.

No input, no output, no clock: `now` is given. Engines load a thread, apply one rule, and store the thread and its
`out` in one
act. A rule that raises has changed nothing that is stored, because the engine then stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from turnkeep.errors import (
    Conflict,
    InboxFull,
    InvalidMessage,
    LeaseLost,
    MessageConflict,
    MessageFrozen,
    NotFound,
    ThreadBusy,
    WrongState,
)
from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, AssistantItem, Content, Message, UserItem, digest
from turnkeep.store.contract import EventGap
from turnkeep.store.ids import message_id_of
from turnkeep.store.thread import AcceptedId, InboxMessage, Settlement, Thread
from turnkeep.store.values import (
    Claim,
    Commit,
    DeadLetter,
    Decision,
    Directive,
    FailOutcome,
    Failure,
    HeldCall,
    MessageStatus,
    Policy,
    Receipt,
    Record,
    Remainder,
    RunRecord,
    Stop,
    ThreadOptions,
    TranscriptEntry,
)
from turnkeep.usage import Usage

SETTLEMENTS = 4
"""How many claims of a thread leave their results behind."""

# ---------------------------------------------------------------- accepting


def accept(
    thread: Thread, message: Message, prior: AcceptedId | None, policy: Policy, now: float, max_inbox: int | None = None
) -> Receipt:
    """Take one message in, or say why not."""
    if prior is not None:
        return _repeat_receipt(prior, message)
    ripen(thread, policy, now)
    if len(thread.inbox) + len(thread.delayed) >= (policy.max_inbox if max_inbox is None else max_inbox):
        raise InboxFull(
            f"{len(thread.inbox) + len(thread.delayed)} messages wait on this channel already, wait for an answer"
        )
    envelope = _envelope_of(thread, message, policy)
    is_delayed = message.not_before is not None and message.not_before > now
    if envelope.message.on_busy == "reject" and thread.is_busy and not is_delayed:
        raise ThreadBusy("a run is in progress and the policy is reject, send again when it has ended")
    thread.messages += 1
    thread.active_at = now
    thread.out.changed_ids.add(message.message_id)
    if is_delayed:
        _delay(thread, envelope)
    else:
        _join(thread, envelope, policy, now)
    thread.emit(_accepted_event(envelope.message, thread), now)
    receipt = _receipt(thread, envelope, now, is_delayed=is_delayed)
    thread.out.accepted_ids[message.message_id] = AcceptedId(digest(message.content), receipt, steer=receipt.steer)
    return receipt


def by_store_time(message: Message, of_day: Callable[[float], float]) -> Message:
    """With `not_before`, which people name by the time of day, on the clock of the store."""
    return message if message.not_before is None else message.but(not_before=of_day(message.not_before))


def _repeat_receipt(prior: AcceptedId, message: Message) -> Receipt:
    if prior.digest != digest(message.content):
        raise MessageConflict(f"message id {message.message_id!r} was used for another text, use a new id")
    return replace(prior.receipt, repeated=True)


def _envelope_of(thread: Thread, message: Message, policy: Policy) -> InboxMessage:
    """The message with what counts for it fixed: its own values, else the thread's, else the queue's."""
    options = thread.options
    window = _first(message.window, options.window, policy.window)
    max_wait = _first(message.max_wait, 0.0 if window == 0 else None, options.max_wait, policy.max_wait)
    on_busy = message.on_busy or options.on_busy or policy.on_busy
    effective = message.but(
        address=thread.address, window=window, max_wait=max_wait, on_busy=on_busy, arrival=0.0, seq=0
    )
    return InboxMessage(effective, message.size)


def _first(*values: float | None) -> float:
    return next(v for v in values if v is not None)


def _delay(thread: Thread, envelope: InboxMessage) -> None:
    thread.delayed.append(envelope)
    thread.delayed.sort(key=lambda o: o.message.not_before or 0.0)


def _join(thread: Thread, envelope: InboxMessage, policy: Policy, arrival: float) -> None:
    """Put a message at the end of the inbox: this is its arrival and its place in order."""
    envelope.message = envelope.message.but(arrival=arrival, seq=thread.next_seq)
    thread.next_seq += 1
    thread.inbox.append(envelope)
    thread.out.changed_ids.add(envelope.message.message_id)
    if thread.is_busy:
        _ask_for_turn(thread, envelope, arrival)
        return
    thread.state = "waiting"
    thread.due = _window_end(thread, policy, arrival)


def _ask_for_turn(thread: Thread, envelope: InboxMessage, now: float) -> None:
    """What a message asks of a busy thread."""
    asks = envelope.message.on_busy
    if asks == "queue":
        envelope.alone = True
    elif asks == "steer" and thread.state == "leased":
        envelope.steer = "asked"
        thread.out.nudge = thread.owner
    elif asks in ("interrupt", "rollback"):
        _stop(thread, "interrupt" if asks == "interrupt" else "rollback", now)


def _stop(thread: Thread, stop: Stop, now: float) -> None:
    """Tell the run, or the next claimant, to give up; open calls of a held turn are declined by a newer message."""
    if thread.state == "leased":
        thread.stop = thread.stop or stop
        thread.out.nudge = thread.owner
        return
    thread.due = _no_later(thread, now)
    if thread.batch:
        thread.stop = thread.stop or stop
    if thread.state == "held" and stop != "cancel":
        thread.calls = [c if c.decision else replace(c, decision="declined") for c in thread.calls]


def _accepted_event(message: Message, thread: Thread) -> Event:
    return Event(
        "accepted", (message.message_id,), text=message.text, policy=message.on_busy, thread_id=thread.thread_id
    )


def _receipt(thread: Thread, envelope: InboxMessage, now: float, *, is_delayed: bool) -> Receipt:
    message = envelope.message
    due_in: float | None = None
    if is_delayed:
        due_in = (message.not_before or now) - now
    elif thread.state == "waiting" and not thread.paused and thread.due is not None:
        due_in = max(0.0, thread.due - now)
    return Receipt(
        channel=message.address.channel,
        message_id=message.message_id,
        thread_id=thread.thread_id,
        status="delayed" if is_delayed else "accepted",
        position=len(thread.inbox) + (thread.delayed.index(envelope) + 1 if is_delayed else 0),
        due_in=due_in,
        idempotent=not message.minted,
        steer="accepted" if envelope.steer else None,
    )


# ---------------------------------------------------------------- the window


def ripen(thread: Thread, policy: Policy, now: float) -> None:
    """Messages whose `not_before` has come join the inbox, each at its own moment."""
    while thread.delayed and (thread.delayed[0].message.not_before or 0.0) <= now:
        envelope = thread.delayed.pop(0)
        _join(thread, envelope, policy, envelope.message.not_before or now)


def _batch_size(thread: Thread, policy: Policy) -> int:
    """How many messages one run takes: a message that wants a batch of its own has one, else up to the limits."""
    size = 0
    for count, envelope in enumerate(thread.inbox):
        size += envelope.size
        if count and (envelope.alone or count == policy.max_batch or size > policy.max_batch_bytes):
            return count
        if envelope.alone:
            return 1
    return len(thread.inbox)


def _window_end(thread: Thread, policy: Policy, now: float) -> float:
    """When the inbox is due: the sliding window after the last message, at most `max_wait` after any; now when a flush
    is asked or nobody can join any more.
    """
    count = _batch_size(thread, policy)
    batch = [envelope.message for envelope in thread.inbox[:count]]
    is_full = count < len(thread.inbox) or count >= policy.max_batch or thread.inbox[0].alone
    if is_full or thread.flushed or any(m.flush for m in batch):
        return _no_later(thread, now)
    last = batch[-1]
    slides = max(last.arrival, thread.typed_at or 0.0) + (last.window or 0.0)
    return min(slides, *(m.arrival + (m.max_wait or 0.0) for m in batch))


def _no_later(thread: Thread, now: float) -> float:
    """Due now; what is due already keeps its place before others."""
    return now if thread.due is None else min(thread.due, now)


def flush(thread: Thread, policy: Policy, now: float) -> bool:
    ripen(thread, policy, now)
    if thread.state != "waiting":
        return False
    thread.flushed = True
    thread.due = _no_later(thread, now)
    return True


def typing(thread: Thread, policy: Policy, now: float) -> float | None:
    ripen(thread, policy, now)
    if thread.state != "waiting" or thread.due is None:
        return None
    thread.typed_at = now
    thread.due = _window_end(thread, policy, now)
    return max(0.0, thread.due - now)


# ---------------------------------------------------------------- claiming


def claim(
    thread: Thread, policy: Policy, now: float, *, owner: str, lease: float, token: str, run_id: str
) -> Claim | None:
    """Take the thread if it is due. `token` and `run_id` are fresh; the run id is used when no run is open."""
    ripen(thread, policy, now)
    if thread.state == "idle" or (thread.paused and thread.state != "leased") or thread.due is None or thread.due > now:
        return None
    if thread.state == "leased":
        _bury(thread, now)
        if thread.paused:
            _rest(thread, policy, now)
            return None
    if thread.state == "held" and not thread.stop:
        thread.calls = [c if c.decision else replace(c, decision="expired") for c in thread.calls]
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
        accept(thread, message.but(flush=True, not_before=None), None, policy, now)
    if _batch_size(thread, policy) < len(thread.inbox):
        raise ThreadBusy("the messages that wait already do not fit one batch with these, wait for their answer")
    return _lease(thread, policy, now, owner, lease, token, run_id)


def _bury(thread: Thread, now: float) -> None:
    """The last owner vanished: count a death; what was not frozen dissolves."""
    oldest = thread.inbox[0]
    oldest.deaths += 1
    thread.out.changed_ids.add(oldest.message.message_id)
    _let_go(thread, now)


def _let_go(thread: Thread, now: float) -> None:
    """End a claim: back to retry, with the frozen batch or with none. A pending stop keeps the batch for its cancel
    commit; a batch that dissolves leaves nothing to steer.
    """
    thread.state = "retry"
    thread.token = thread.owner = None
    thread.frozen = thread.frozen or thread.stop is not None
    if not thread.frozen:
        thread.batch = 0
        _defer_steering(thread, thread.run_id, now)
    for envelope in thread.inbox[thread.batch :]:
        if envelope.steer == "offered":
            envelope.steer = "asked"
            thread.out.changed_ids.add(envelope.message.message_id)


def _lease(thread: Thread, policy: Policy, now: float, owner: str, lease: float, token: str, run_id: str) -> Claim:
    if not thread.frozen:
        thread.batch = _batch_size(thread, policy)
    if thread.run_id is None:
        thread.run_id, thread.attempt, thread.first_claimed_at = run_id, 0, now
    thread.due_at = now if thread.due is None else min(thread.due, now)
    thread.state, thread.due = "leased", now + lease
    thread.token, thread.owner, thread.claimed_at = token, owner, now
    thread.fence += 1
    thread.attempt += 1
    thread.published = 0
    thread.flushed, thread.typed_at = False, None
    thread.active_at = now
    if thread.stop is None:
        event = Event("started", _ids(thread), run_id=thread.run_id, attempt=thread.attempt, thread_id=thread.thread_id)
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
        journal=tuple(thread.journal),
        attempts=oldest.attempts,
        deaths=oldest.deaths,
        last_chance=oldest.last_chance,
        stop=thread.stop,
        calls=tuple(thread.calls),
        assistant=thread.assistant,
        claimed_at=thread.claimed_at,
        due_at=thread.due_at,
    )


def _ids(thread: Thread) -> tuple[str, ...]:
    return tuple(o.message.message_id for o in thread.inbox[: thread.batch])


# ---------------------------------------------------------------- while leased


def _check(thread: Thread, claim: Claim) -> None:
    if thread.state != "leased" or thread.token != claim.token:
        raise LeaseLost(f"attempt {claim.attempt} of run {claim.run_id} does not own its thread any more")


def renew(thread: Thread, claim: Claim, now: float, lease: float, policy: Policy = Policy()) -> Directive:
    if thread.state != "leased" or thread.token != claim.token:
        return Directive(held=False)
    ripen(thread, policy, now)
    thread.due = now + lease
    steer = any(o.steer == "asked" for o in thread.inbox[thread.batch :])
    return Directive(True, thread.due, thread.stop, steer)


def orphan(thread: Thread, now: float) -> None:
    """A lease that its owner does not know: the reply to its claim was lost. Nobody died, so no death is counted."""
    if thread.state == "leased":
        _let_go(thread, now)
        thread.due = now


def bereave(thread: Thread, now: float) -> None:
    """A lease whose owner is known to be gone: the next claim is at once, and counts the death."""
    if thread.state == "leased":
        thread.due = _no_later(thread, now)


def list_offered(thread: Thread, claim: Claim) -> list[Message]:
    _check(thread, claim)
    steering = [i for i, o in enumerate(thread.inbox) if o.steer and i >= thread.batch]
    if not steering:
        return []
    batch_addition = thread.inbox[thread.batch : steering[-1] + 1]
    for envelope in batch_addition:
        if envelope.steer != "offered":
            envelope.steer = "offered"
            thread.out.changed_ids.add(envelope.message.message_id)
    return [envelope.message for envelope in batch_addition]


def journal(thread: Thread, claim: Claim, records: Sequence[Record], now: float) -> None:
    _check(thread, claim)
    for record in records:
        place = record["n"]
        if place < len(thread.journal):
            continue
        if place > len(thread.journal):
            raise ValueError(f"journal record {place} comes after {len(thread.journal)} records, write them in order")
        thread.journal.append(record)
        thread.out.journal.append(record)
        thread.frozen = True
        if "steered_through" in record:
            _take_steered(thread, record["steered_through"], now)


def _take_steered(thread: Thread, through: int, now: float) -> None:
    envelopes = [o for o in thread.inbox[thread.batch :] if o.message.seq <= through]
    thread.batch += len(envelopes)
    _end_steering(thread, envelopes, "applied", thread.run_id, now)


def _defer_steering(thread: Thread, run_id: str | None, now: float) -> None:
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
            "", _no_receipt(thread, envelope), steer=outcome
        )
    if envelopes:
        ids = tuple(o.message.message_id for o in envelopes)
        thread.emit(Event("steered", ids, run_id=run_id, outcome=outcome), now)


def publish(thread: Thread, claim: Claim, n: int, events: Sequence[Event], now: float) -> int:
    _check(thread, claim)
    if n > thread.published:
        raise EventGap(n, thread.published)
    for event in events[thread.published - n :]:
        thread.emit(event, now)
        thread.published += 1
    return thread.top


# ---------------------------------------------------------------- settling


def _find_settlement(thread: Thread, claim: Claim, act: str) -> Settlement | None:
    """The result left behind, if this claim was settled by this act before."""
    for settlement in thread.settlements:
        if settlement.token == claim.token and settlement.act == act:
            return settlement
    _check(thread, claim)
    return None


def _leave(thread: Thread, settlement: Settlement) -> None:
    """Leave the result behind, beside those of a few claims before it: a repeat may come after the next settlement."""
    thread.settlements = [settlement, *thread.settlements][:SETTLEMENTS]


def commit(thread: Thread, claim: Claim, end: Commit, policy: Policy, now: float) -> Remainder:
    if last := _find_settlement(thread, claim, "commit"):
        return Remainder(*last.result)
    ids = _ids(thread)
    status: MessageStatus = "cancelled" if end.outcome == "cancelled" else "answered"
    usage = end.usage + thread.spent
    thread.turns += 1
    thread.out.entries = [replace(e, turn=thread.turns, at=now) for e in end.entries]
    thread.usage += usage
    thread.out.completed_count += len(ids)
    run = _run_record(thread, now, status=end.outcome, usage=usage, model=end.model)
    _close(thread, thread.batch, status, policy, now)
    event = Event(
        "completed", ids, text=end.text, run_id=claim.run_id, attempt=claim.attempt, outcome=end.outcome, usage=usage
    )
    _end_run(thread, run)
    _defer_steering(thread, claim.run_id, now)
    thread.emit(event, now)
    _rest(thread, policy, now)
    remainder = Remainder(len(thread.inbox), thread.wake)
    _leave(thread, Settlement(claim.token, "commit", [remainder.messages, remainder.due]))
    return remainder


def _close(thread: Thread, count: int, status: MessageStatus, policy: Policy, now: float) -> None:
    """The first messages of the inbox are open no more."""
    ids = tuple(o.message.message_id for o in thread.inbox[:count])
    for envelope in thread.inbox[:count]:
        _remember(thread, envelope, status, policy, now, ids)
    del thread.inbox[:count]


def _remember(
    thread: Thread,
    envelope: InboxMessage,
    status: MessageStatus,
    policy: Policy,
    now: float,
    covers: tuple[str, ...] = (),
) -> None:
    """Engines merge this into what they know of the id: digest and receipt stay those of the first acceptance."""
    message_id = envelope.message.message_id
    thread.out.removed_ids.add(message_id)
    thread.out.changed_ids.discard(message_id)
    before = thread.out.accepted_ids.get(message_id) or AcceptedId("", _no_receipt(thread, envelope))
    thread.out.accepted_ids[message_id] = replace(
        before,
        status=status,
        run_id=thread.run_id if status != "withdrawn" else None,
        covers=covers,
        settled_at=now,
        forget_at=now + policy.dedupe,
    )


def _no_receipt(thread: Thread, envelope: InboxMessage) -> Receipt:
    """Stands where the receipt of the first acceptance will be put back by `merge_known`."""
    return Receipt(thread.address.channel, envelope.message.message_id, thread.thread_id, "accepted", 0, None)


def merge_known(old: AcceptedId | None, new: AcceptedId) -> AcceptedId:
    """What an engine stores for an id: the first digest and receipt, the newest status."""
    if old is None or new.digest:
        return new
    return replace(new, digest=old.digest, receipt=old.receipt, steer=new.steer or old.steer)


def _end_run(thread: Thread, run: RunRecord | None) -> None:
    thread.out.run = run
    thread.out.journal_cleared = bool(thread.journal)
    thread.journal, thread.calls = [], []
    thread.batch, thread.frozen, thread.run_id, thread.attempt = 0, False, None, 0
    thread.token = thread.owner = thread.stop = thread.live_from = None
    thread.spent = Usage()


def _rest(thread: Thread, policy: Policy, now: float) -> None:
    """No run is open: wait for the rest of the inbox, or for nothing."""
    thread.active_at = now
    if thread.state == "retry" and thread.batch:
        return
    thread.state, thread.due = "idle", None
    ripen(thread, policy, now)
    if thread.inbox:
        thread.state = "waiting"
        thread.due = _window_end(thread, policy, now)
    else:
        thread.run_id, thread.attempt, thread.live_from, thread.flushed = None, 0, None, False


def _run_record(
    thread: Thread, now: float, *, status: Any, usage: Usage, model: str | None = None, fault: TurnFault | None = None
) -> RunRecord:
    return RunRecord(
        thread.run_id or "",
        status,
        _ids(thread),
        thread.attempt,
        thread.first_claimed_at,
        now,
        usage,
        model,
        fault,
        tuple(thread.calls),
    )


def fail(thread: Thread, claim: Claim, failure: Failure, policy: Policy, now: float) -> FailOutcome:
    """Dead letters get their `dead_id` from the engine. A stop that came meanwhile is obeyed by the next claimant."""
    if last := _find_settlement(thread, claim, "fail"):
        outcome: FailOutcome = last.result
        return outcome
    oldest = thread.inbox[0]
    oldest.attempts += 1
    thread.out.changed_ids.add(oldest.message.message_id)
    thread.spent += failure.usage
    asked_to_stop = thread.stop is not None and claim.stop is None
    if failure.retry_in is not None or asked_to_stop:
        outcome = "retry"
        _retry(thread, claim, failure.fault, now + (failure.retry_in or 0.0), now)
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
    _let_go(thread, now)
    thread.due = now if thread.stop else at


def _split(thread: Thread, claim: Claim, fault: TurnFault, now: float) -> None:
    """One attempt each, in order, so that a poison message does not take its neighbours along."""
    thread.emit(_run_event("retrying", thread, claim, fault), now)
    for envelope in thread.inbox[: thread.batch]:
        envelope.alone = envelope.last_chance = True
        thread.out.changed_ids.add(envelope.message.message_id)
    thread.usage += thread.spent
    _end_run(thread, None)
    _defer_steering(thread, claim.run_id, now)
    thread.state, thread.due = "waiting", now


def _die(thread: Thread, claim: Claim, fault: TurnFault, policy: Policy, now: float) -> None:
    ids = _ids(thread)
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
    _defer_steering(thread, claim.run_id, now)
    thread.emit(dead, now)
    _rest(thread, policy, now)


def _run_event(kind: Literal["retrying", "waiting", "dead"], thread: Thread, claim: Claim, fault: TurnFault) -> Event:
    return Event(kind, _ids(thread), run_id=claim.run_id, attempt=claim.attempt, error=fault)


def release(thread: Thread, claim: Claim, delay: float, reason: TurnFault | None, now: float) -> None:
    if _find_settlement(thread, claim, "release"):
        return
    if reason is not None:
        thread.emit(_run_event("waiting", thread, claim, reason), now)
    _let_go(thread, now)
    thread.due = now if thread.stop else now + delay
    _leave(thread, Settlement(claim.token, "release"))


def hold(thread: Thread, claim: Claim, calls: Sequence[HeldCall], expires_in: float, now: float) -> None:
    if _find_settlement(thread, claim, "hold"):
        return
    thread.frozen = True
    _let_go(thread, now)
    thread.state, thread.due = "held", now + expires_in
    thread.calls = list(calls)
    call_forms = tuple(call.to_json() for call in calls)
    thread.emit(Event("held", _ids(thread), run_id=claim.run_id, attempt=claim.attempt, calls=call_forms), now)
    if thread.stop:
        _stop(thread, thread.stop, now)
    elif all(c.decision for c in calls):
        thread.due = now
    _leave(thread, Settlement(claim.token, "hold"))


def decide(thread: Thread, call_id: str, call_digest: str, decision: Decision, now: float) -> HeldCall:
    place = next((i for i, c in enumerate(thread.calls) if c.call_id == call_id), None)
    if place is None:
        raise NotFound(f"no call {call_id!r} waits on this thread")
    call = thread.calls[place]
    if call.digest != call_digest:
        raise Conflict(f"call {call_id!r} has other arguments (digest {call.digest}), decide on what is asked now")
    if call.decision is not None:
        if (call.decision, call.output) == (decision.verdict, decision.output):
            return call
        raise Conflict(f"call {call_id!r} was decided already: {call.decision}")
    if decision.verdict == FOREIGN[call.kind]:
        raise unfit(call_id, call.kind)
    if thread.state != "held":
        raise WrongState(f"call {call_id!r} waits no longer, its run is being stopped")
    outcome = replace(call, decision=decision.verdict, output=decision.output, by=decision.by)
    thread.calls[place] = outcome
    thread.emit(Event("decided", _ids(thread), run_id=thread.run_id, calls=(outcome.to_json(),)), now)
    if all(c.decision for c in thread.calls):
        thread.due = _no_later(thread, now)
    return outcome


FOREIGN: Mapping[str, str] = {"approval": "output", "output": "approved"}
"""The verdict that is none for a call of this kind: nobody speaks for a tool that runs here."""


def unfit(call_id: str, kind: str) -> InvalidMessage:
    if kind == "approval":
        return InvalidMessage(f"call {call_id!r} asks for an approval and takes no output: decide approved or denied")
    return InvalidMessage(f"call {call_id!r} asks for its output and runs nowhere here: give the output, or deny it")


# ---------------------------------------------------------------- from outside


def cancel(thread: Thread, policy: Policy, now: float, *, drop_inbox: bool) -> bool:
    ripen(thread, policy, now)
    stopping = thread.state in ("leased", "held") or (thread.state == "retry" and thread.batch > 0)
    if stopping:
        _stop(thread, "cancel", now)
    if drop_inbox:
        waiting = [o for o in thread.inbox[thread.batch :] if o.steer != "offered"]
        _drop(thread, waiting + thread.delayed, policy, now)
    return stopping


def _drop(thread: Thread, envelopes: Sequence[InboxMessage], policy: Policy, now: float) -> None:
    for envelope in envelopes:
        _remember(thread, envelope, "withdrawn", policy, now)
        thread.emit(Event("withdrawn", (envelope.message.message_id,)), now)
    message_ids = {envelope.message.message_id for envelope in envelopes}
    thread.inbox = [o for o in thread.inbox if o.message.message_id not in message_ids]
    thread.delayed = [o for o in thread.delayed if o.message.message_id not in message_ids]
    _after_removal(thread, policy, now)


def _after_removal(thread: Thread, policy: Policy, now: float) -> None:
    if not thread.is_busy or (thread.state == "retry" and not thread.batch and not thread.inbox):
        _rest(thread, policy, now)


def withdraw(thread: Thread, message_id: str, policy: Policy, now: float) -> None:
    envelope = _find_changeable(thread, message_id, policy, now)
    _drop(thread, [envelope], policy, now)


def edit(thread: Thread, message_id: str, content: Content, policy: Policy, now: float) -> Message:
    envelope = _find_changeable(thread, message_id, policy, now)
    if envelope.message.content == content:
        return envelope.message
    envelope.message = envelope.message.but(content=content)
    envelope.size = envelope.message.size
    thread.out.changed_ids.add(message_id)
    thread.emit(Event("edited", (message_id,), text=envelope.message.text), now)
    return envelope.message


def _find_changeable(thread: Thread, message_id: str, policy: Policy, now: float) -> InboxMessage:
    ripen(thread, policy, now)
    for place, envelope in enumerate([*thread.inbox, *thread.delayed]):
        if envelope.message.message_id == message_id:
            if place < thread.batch or envelope.steer == "offered":
                raise MessageFrozen(f"message {message_id!r} is being answered, send a new one")
            return envelope
    raise NotFound(f"no message {message_id!r} waits on this channel")


def late(accepted_id: AcceptedId | None, message_id: str, *, withdrawing: bool) -> None:
    """Why a message that is not open cannot be changed; a withdrawal that is repeated has nothing left to do."""
    if accepted_id is None:
        raise NotFound(f"no message {message_id!r} is known on this channel")
    if not (withdrawing and accepted_id.status == "withdrawn"):
        raise MessageFrozen(f"message {message_id!r} is {accepted_id.status}, send a new one")


def status_of(thread: Thread, message_id: str) -> tuple[MessageStatus, Message] | None:
    """Where an open message is now; None if it is not open."""
    for place, envelope in enumerate(thread.inbox):
        if envelope.message.message_id == message_id:
            return ("running" if place < thread.batch else "waiting"), envelope.message
    for envelope in thread.delayed:
        if envelope.message.message_id == message_id:
            return "delayed", envelope.message
    return None


def pause(thread: Thread, now: float) -> None:
    if not thread.paused:
        thread.paused = True
        thread.active_at = now
        thread.emit(Event("paused"), now)


def resume(thread: Thread, policy: Policy, now: float) -> None:
    if thread.paused:
        thread.paused = False
        thread.active_at = now
        ripen(thread, policy, now)
        thread.emit(Event("resumed"), now)


def append(thread: Thread, entries: Sequence[TranscriptEntry], author: str | None, now: float) -> None:
    _between_turns(thread)
    thread.turns += 1
    thread.active_at = now
    thread.out.entries = [replace(e, turn=thread.turns, at=now) for e in entries]
    for entry in entries:
        if author is not None and isinstance(entry.item, AssistantItem):
            thread.emit(Event("said", text=entry.item.text, author=author), now)


def regenerate(
    thread: Thread, last_turn: Sequence[TranscriptEntry], stem: str, policy: Policy, now: float
) -> list[Receipt]:
    """Accept once more what was said in a turn; `asked` are the entries of the last one that holds user items, which
    the engine removes with all later ones. The new ids begin with `stem`.
    """
    ripen(thread, policy, now)
    if thread.is_busy or thread.inbox:
        raise ThreadBusy(OTHERS_WAIT)
    if not last_turn:
        raise NotFound(NOTHING_ASKED)
    return [accept(thread, message, None, policy, now) for message in repeat_messages(thread.address, last_turn, stem)]


def repeat_messages(address: Address, last_turn: Sequence[TranscriptEntry], stem: str) -> list[Message]:
    """Messages like those that were said in a turn. They wait for nothing, whatever messages do on their thread."""
    items = [entry.item for entry in last_turn if isinstance(entry.item, UserItem)]
    return [
        Message(
            address,
            message_id_of(stem, place),
            item.content,
            instructions=item.instructions,
            user_instructions=item.user_instructions,
            model=item.model,
            parameters=item.parameters,
            metadata=item.metadata or {},
            on_busy="collect",
            flush=True,
        )
        for place, item in enumerate(items)
    ]


OTHERS_WAIT = "other messages are open on this thread, answer a turn again when they are answered"
NOTHING_ASKED = "no turn of this thread holds a user message, there is nothing to answer again"


def _between_turns(thread: Thread) -> None:
    if thread.is_busy:
        raise ThreadBusy("a run is in progress, change the transcript when it has ended")


def update(thread: Thread, changes: Mapping[str, Any], now: float) -> None:
    """Change what people may set. A time to live that somebody set is never shortened by a later one."""
    if strange := set(changes) - {"assistant", "metadata", "options", "ttl"}:
        raise InvalidMessage(
            f"a thread has no {', '.join(sorted(strange))}, change assistant, metadata, options or ttl"
        )
    if "assistant" in changes:
        thread.assistant = changes["assistant"]
    if "options" in changes:
        options = changes["options"]
        thread.options = options if isinstance(options, ThreadOptions) else ThreadOptions(**options)
    if (ttl := changes.get("ttl")) is not None:
        thread.ttl = max(thread.ttl or 0.0, ttl)
    metadata = thread.metadata | dict(changes.get("metadata", {}))
    thread.metadata = {name: value for name, value in metadata.items() if value is not None}
    thread.active_at = now


def redrive(thread: Thread, letter: DeadLetter, policy: Policy, now: float, prior: AcceptedId | None = None) -> Receipt:
    """A new acceptance at the end of the inbox, under the same id; `known` is what was remembered of it, if anything:
    the digest stays that of the first text.
    """
    message = letter.message.but(not_before=None, flush=False, on_busy="collect")
    if status_of(thread, message.message_id) is not None:
        raise MessageConflict(
            f"a message {message.message_id!r} waits on this channel already, redrive when it is settled"
        )
    receipt = accept(thread, message, None, policy, now, max_inbox=1 << 60)
    if prior is not None:
        thread.out.accepted_ids[message.message_id].digest = prior.digest
    return receipt
