"""Looking for threads: which ones, in which order, the same way for every engine."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Literal

from turnkeep.lean_dataclass import dataclass
from turnkeep.store.values import ThreadRecord

ThreadPlace = Literal["idle", "waiting", "leased", "retry", "held", "paused"]
"""Where people look for a thread: its state, or paused, whatever its state."""


@dataclass(frozen=True, slots=True)
class ThreadSearch:
    """Which threads, and where to go on: those before (`active_at`, `thread_id`) of the last one seen.

    `text` is looked for, without regard to case, in the channel, the thread id and the values of
    the metadata; in a sealed store those of the metadata are hidden from it.
    """

    tenant: str | None = None
    queue: str | None = None
    place: ThreadPlace | None = None
    text: str = ""
    before: tuple[float, str] | None = None
    limit: int = 100


def newest_threads(records: Iterable[ThreadRecord], query: ThreadSearch) -> list[ThreadRecord]:
    """Those of a search out of all threads of its tenant and queue, newest first."""
    fitting = (record for record in records if fits(record, query))
    return heapq.nlargest(query.limit, fitting, key=lambda record: (record.active_at, record.thread_id))


def fits(record: ThreadRecord, query: ThreadSearch) -> bool:
    """Whether a thread is one that is looked for."""
    if query.before is not None and (record.active_at, record.thread_id) >= query.before:
        return False
    if query.place not in (None, "paused" if record.paused else record.state):
        return False
    text = query.text.lower()
    words = (record.address.channel, record.thread_id, *record.metadata.values())
    return not text or any(text in word.lower() for word in words)
