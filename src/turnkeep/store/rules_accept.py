"""The rules of taking messages in, and of the window in which a burst becomes one turn.

Plain functions over one `Thread`: no input, no output, no clock, `now` is given. They change the
thread that they are given and leave the rest in its `out`; an engine gives them a copy or throws
away what it holds when they raise, so that a rule that raises has changed nothing that is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from turnkeep.errors import InboxFull, MessageConflict, ThreadBusy
from turnkeep.events import Event
from turnkeep.messages import Message, digest
from turnkeep.store.thread import AcceptedId, InboxMessage, Thread
from turnkeep.store.values import Policy, Receipt, Stop


def accept(
    thread: Thread, message: Message, prior: AcceptedId | None, policy: Policy, now: float, max_inbox: int | None = None
) -> Receipt:
    """Take one message in, or say why not."""
    # First of all: a repeat is answered as before
    # however full, busy or paused the thread is by now.
    if prior is not None:
        return _repeat_receipt(prior, message)
    # A delayed message whose time has come takes its place
    # before the new one, as if it had been sent at that moment.
    ripen(thread, policy, now)
    # What is delayed counts as well: else a caller fills the store with messages for next year.
    if len(thread.inbox) + len(thread.delayed) >= (policy.max_inbox if max_inbox is None else max_inbox):
        raise InboxFull(
            f"{len(thread.inbox) + len(thread.delayed)} messages wait on this channel already, wait for an answer"
        )
    counting = _what_counts(thread, message, policy)
    is_delayed = message.not_before is not None and message.not_before > now
    # A delayed one is not refused: what the thread
    # does now says nothing about the moment it is for.
    if counting["on_busy"] == "reject" and thread.is_busy and not is_delayed:
        raise ThreadBusy("a run is in progress and the policy is reject, send again when it has ended")
    thread.messages += 1
    thread.active_at = now
    thread.out.changed_ids.add(message.message_id)
    if is_delayed:
        envelope = InboxMessage(message.but(**counting, arrival=0.0, seq=0), message.size)
        _delay(thread, envelope)
    else:
        envelope = InboxMessage(message.but(**counting, arrival=now, seq=thread.next_seq), message.size)
        _join(thread, envelope, policy, now)
    thread.emit(_accepted_event(envelope.message, thread), now)
    receipt = _receipt(thread, envelope, now, is_delayed=is_delayed)
    thread.out.accepted_ids[message.message_id] = AcceptedId(digest(message.content), receipt, steer=receipt.steer)
    return receipt


def by_store_time(message: Message, of_day: Callable[[float], float]) -> Message:
    """With `not_before`, which people name by the time of day, on the clock of the store."""
    return message if message.not_before is None else message.but(not_before=of_day(message.not_before))


def is_due_at_once(message: Message, policy: Policy) -> bool:
    """Whether a thread at rest that has no options of its own is due when it has this message."""
    waits = min(_first(message.window, default=policy.window), _first(message.max_wait, default=policy.max_wait))
    return message.not_before is None and (message.flush or waits == 0)


def _repeat_receipt(prior: AcceptedId, message: Message) -> Receipt:
    # Only the content makes two sends the same: with another window it is still the same message.
    if prior.digest != digest(message.content):
        raise MessageConflict(f"message id {message.message_id!r} was used for another text, use a new id")
    return replace(prior.receipt, repeated=True)


def _what_counts(thread: Thread, message: Message, policy: Policy) -> dict[str, Any]:
    """Of a message with what counts for it fixed: its own values, else the
    thread's, else the queue's.
    """
    options = thread.options
    window = _first(message.window, options.window, default=policy.window)
    # Window 0 asks for no waiting at all, so a longer `max_wait`
    # of the thread or queue must not bring some back.
    max_wait = _first(message.max_wait, 0.0 if window == 0 else None, options.max_wait, default=policy.max_wait)
    on_busy = message.on_busy or options.on_busy or policy.on_busy
    # Fixed on arrival: a policy that is changed later
    # does not move what was promised in the receipt.
    return {"address": thread.address, "window": window, "max_wait": max_wait, "on_busy": on_busy}


def _first(*values: float | None, default: float) -> float:
    # A loop: a generator costs more than the rest of it, and every message comes by here twice.
    for value in values:
        if value is not None:
            return value
    return default


def _delay(thread: Thread, envelope: InboxMessage) -> None:
    # Sorted on insertion, read at every operation; stable, so that equal moments keep the order of
    # sending.
    thread.delayed = tuple(sorted([*thread.delayed, envelope], key=lambda o: o.message.not_before or 0.0))


def _join(thread: Thread, envelope: InboxMessage, policy: Policy, arrival: float) -> None:
    """Put a message at the end of the inbox, whose arrival and next place it has."""
    thread.next_seq += 1
    thread.inbox.append(envelope)
    thread.out.changed_ids.add(envelope.message.message_id)
    # `due` is the end of the lease, of a delay or of a held
    # action now, and none of them is a new message's to move.
    if thread.is_busy:
        _ask_for_turn(thread, envelope, arrival)
        return
    thread.state = "waiting"
    thread.due = window_end(thread, policy, arrival)


def _ask_for_turn(thread: Thread, envelope: InboxMessage, now: float) -> None:
    """What a message asks of a busy thread."""
    asks = envelope.message.on_busy
    # Policy `collect` asks for nothing: it waits for the batch after this one.
    if asks == "queue":
        envelope.alone = True
    # Only a run in progress has steps to steer at; otherwise it waits as with `collect`.
    elif asks == "steer" and thread.state == "leased":
        envelope.steer = "asked"
        thread.out.nudge = thread.owner
    elif asks in ("interrupt", "rollback"):
        ask_to_stop(thread, "interrupt" if asks == "interrupt" else "rollback", now)


def ask_to_stop(thread: Thread, stop: Stop, now: float) -> None:
    """Tell the run, or the next claimant, to give up; open calls of a held turn are declined by a
    newer message.
    """
    if thread.state == "leased":
        thread.stop = thread.stop or stop
        thread.out.nudge = thread.owner
        return
    thread.due = no_later(thread, now)
    # Without a batch there is nothing to commit as
    # cancelled: the next claim begins anew and takes all.
    if thread.batch:
        thread.stop = thread.stop or stop
    # A newer message moves on from the question, so the
    # call is declined; a cancel says nothing about it.
    if thread.state == "held" and stop != "cancel":
        thread.calls = tuple([c if c.decision else replace(c, decision="declined") for c in thread.calls])


def _accepted_event(message: Message, thread: Thread) -> Event:
    return Event(
        "accepted", (message.message_id,), text=message.text, policy=message.on_busy, thread_id=thread.thread_id
    )


def _receipt(thread: Thread, envelope: InboxMessage, now: float, *, is_delayed: bool) -> Receipt:
    message = envelope.message
    # None where the end of something else decides: a
    # time here would be a promise that nobody can keep.
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


def ripen(thread: Thread, policy: Policy, now: float) -> None:
    """Messages whose `not_before` has come join the inbox, each at its own moment."""
    while thread.delayed and (thread.delayed[0].message.not_before or 0.0) <= now:
        envelope, thread.delayed = thread.delayed[0], thread.delayed[1:]
        arrival = envelope.message.not_before or now
        envelope.message = envelope.message.but(arrival=arrival, seq=thread.next_seq)
        _join(thread, envelope, policy, arrival)


def batch_size(thread: Thread, policy: Policy) -> int:
    """How many messages one run takes: a message that wants a batch of its own has one, else up to
    the limits.
    """
    size = 0
    for count, envelope in enumerate(thread.inbox):
        size += envelope.size
        # At least one message goes, however big: else it
        # would wait for ever and hold up all behind it.
        if count and (envelope.alone or count == policy.max_batch or size > policy.max_batch_bytes):
            return count
        if envelope.alone:
            return 1
    return len(thread.inbox)


def window_end(thread: Thread, policy: Policy, now: float) -> float:
    """When the inbox is due: the sliding window after the last message, at most `max_wait` after
    any; now when a flush is asked or nobody can join any more.
    """
    count = batch_size(thread, policy)
    # Nobody can join any more, so waiting longer would only cost time.
    is_full = count < len(thread.inbox) or count >= policy.max_batch or thread.inbox[0].alone
    if is_full or thread.flushed:
        return no_later(thread, now)
    last = thread.inbox[count - 1].message
    # Typing moves the sliding end alone; the cap of each message is a promise to whoever sent it.
    end = max(last.arrival, thread.typed_at or 0.0) + (last.window or 0.0)
    for envelope in thread.inbox[:count]:
        message = envelope.message
        if message.flush:
            return no_later(thread, now)
        end = min(end, message.arrival + (message.max_wait or 0.0))
    return end


def no_later(thread: Thread, now: float) -> float:
    """Due now; what is due already keeps its place before others."""
    # Not `now` alone: the order of claims is by `due`,
    # and pressing flush must not cost a thread its place.
    return now if thread.due is None else min(thread.due, now)


def flush(thread: Thread, policy: Policy, now: float) -> bool:
    ripen(thread, policy, now)
    if thread.state != "waiting":
        return False
    thread.flushed = True
    thread.due = no_later(thread, now)
    return True


def typing(thread: Thread, policy: Policy, now: float) -> float | None:
    ripen(thread, policy, now)
    if thread.state != "waiting" or thread.due is None:
        return None
    thread.typed_at = now
    thread.due = window_end(thread, policy, now)
    return max(0.0, thread.due - now)


def await_next_batch(thread: Thread, policy: Policy, now: float) -> None:
    """No run is open: wait for the rest of the inbox, or for nothing."""
    thread.active_at = now
    # A frozen batch goes on with its own delay; only an answer, a death or a stop ends it.
    if thread.state == "retry" and thread.batch:
        return
    thread.state, thread.due = "idle", None
    ripen(thread, policy, now)
    if thread.inbox:
        thread.state = "waiting"
        thread.due = window_end(thread, policy, now)
    else:
        thread.run_id, thread.attempt, thread.live_from, thread.flushed = None, 0, None, False
