"""How much of a channel's event log is kept.

Of the run in progress everything, its older deltas rolled into one snapshot. Before it the newest
events that are not too old, and beyond those the final ones, which say how each batch ended.
"""

from __future__ import annotations

from collections.abc import Sequence

from turnkeep.events import Answer, Event
from turnkeep.store.values import Policy

TRIM_EVERY = 64
"""A log may be so many events longer than its bound before it is trimmed."""


def trim_log(log: Sequence[Event], live_from: int | None, policy: Policy, now: float) -> tuple[list[Event], int]:
    """What is kept of a log, and the highest offset that was removed or rolled (0 for none)."""
    # Of the run in progress nothing ages: whoever joins
    # late must see the answer from its first word.
    start = len(log) if live_from is None else next((i for i, e in enumerate(log) if e.offset >= live_from), len(log))
    past, aged_through = _drop_aged(log[:start], policy, now)
    live, rolled_through = _roll_deltas(log[start:], policy)
    return past + live, max(aged_through, rolled_through)


def _drop_aged(past: Sequence[Event], policy: Policy, now: float) -> tuple[list[Event], int]:
    """The newest events within the age, and beyond them the last final ones."""
    recent = max(0, len(past) - policy.log_events)
    while recent < len(past) and past[recent].at < now - policy.log_age:
        recent += 1
    # Final events outlast the others: they are few, and who was away asks first how it ended.
    finals = [e for e in past[:recent] if e.is_final][-policy.log_events :]
    kept_offsets = {e.offset for e in finals}
    removed_through = max((e.offset for e in past[:recent] if e.offset not in kept_offsets), default=0)
    return finals + list(past[recent:]), removed_through


def _roll_deltas(live: Sequence[Event], policy: Policy) -> tuple[list[Event], int]:
    """The run in progress, with all but its newest deltas told by one snapshot in the place of the
    last rolled one.
    """
    deltas = [i for i, e in enumerate(live) if e.kind == "delta"]
    surplus = len(deltas) - policy.log_events
    # Counted in deltas alone: tools and decisions are
    # few, and a screen cannot be rebuilt without them.
    if surplus <= 0:
        return list(live), 0
    last = deltas[surplus - 1]
    answer = Answer()
    for event in live[: last + 1]:
        answer.take(event)
    # At the offset of the last delta it stands for: who holds an older one gets the whole text, who
    # holds a later one nothing twice.
    snapshot = Event("snapshot", text=answer.text, run_id=live[last].run_id, attempt=live[last].attempt)
    snapshot = snapshot.at_position(live[last].offset, live[last].epoch, live[last].at)
    others = [e for e in live[:last] if e.kind not in ("delta", "snapshot")]
    return [*others, snapshot, *live[last + 1 :]], snapshot.offset
