"""What people are shown of a thread, its messages and its runs: one derivation for all engines."""

from __future__ import annotations

from collections.abc import Iterable

from turnkeep.store import rules_change
from turnkeep.store.thread import AcceptedId, Thread
from turnkeep.store.values import MessageRecord, Policy, RunRecord, State, ThreadRecord

_RUN_STATUS = {"leased": "in_progress", "held": "requires_action"}

_HOUR, _DAY = 3600.0, 86400.0
_AGES = {"1h": _HOUR, "1d": _DAY, "7d": 7 * _DAY, "30d": 30 * _DAY}


def time_to_live(thread: Thread, policy: Policy) -> float:
    return policy.expiry if thread.ttl is None else thread.ttl


def is_over(thread: Thread, policy: Policy, now: float) -> bool:
    """Whether the thread has expired: then it counts as absent, and is deleted when met."""
    # A delayed message is a promise: its thread lives until it has come.
    is_idle = thread.state == "idle" and not thread.delayed
    return is_idle and thread.active_at + time_to_live(thread, policy) <= now


def slides(thread: Thread, policy: Policy, now: float) -> bool:
    """Whether a read at this moment is worth a write of `active_at`."""
    # A hundredth: reading a history a thousand times must not write a thousand times.
    return now - thread.active_at >= time_to_live(thread, policy) / 100


def thread_record(thread: Thread, policy: Policy) -> ThreadRecord:
    state: State = thread.state
    return ThreadRecord(
        address=thread.address,
        thread_id=thread.thread_id,
        state=state,
        paused=thread.paused,
        created_at=thread.created_at,
        active_at=thread.active_at,
        expires_at=thread.active_at + time_to_live(thread, policy),
        due=thread.due,
        assistant=thread.assistant,
        metadata=dict(thread.metadata),
        options=thread.options,
        summary=thread.summary,
        messages=thread.messages,
        open_messages=len(thread.inbox) + len(thread.delayed),
        turns=thread.turns,
        items=thread.items,
        bytes=thread.bytes,
        usage=thread.usage,
        run_id=thread.run_id,
        attempt=thread.attempt,
        calls=thread.calls,
        epoch=thread.epoch,
        top=thread.top,
    )


def message_record(thread: Thread, message_id: str, accepted_id: AcceptedId) -> MessageRecord:
    """Of an open message where it is now, of a settled one how it ended."""
    open_status = rules_change.status_of(thread, message_id)
    if open_status is None:
        return accepted_id.record(message_id, None)
    status, message = open_status
    run_id = thread.run_id if status == "running" else None
    return MessageRecord(message, message_id, status, accepted_id.receipt, run_id, steer=accepted_id.steer)


def current_run(thread: Thread) -> RunRecord | None:
    """The run in progress, or the one that waits for its next attempt or for a decision."""
    if thread.run_id is None:
        return None
    batch = thread.inbox[: thread.batch]
    return RunRecord(
        thread.run_id,
        _RUN_STATUS.get(thread.state, "queued"),  # type: ignore[arg-type]  # values are run statuses
        tuple(envelope.message.message_id for envelope in batch),
        thread.attempt,
        thread.first_claimed_at,
        usage=thread.spent,
        calls=thread.calls,
    )


def ages(active: Iterable[float], now: float) -> dict[str, int]:
    """Threads by last activity, each in the first age that holds it."""
    counts = dict.fromkeys([*_AGES, "older"], 0)
    for at in active:
        counts[next((name for name, age in _AGES.items() if now - at <= age), "older")] += 1
    return counts
