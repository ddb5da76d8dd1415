"""The name of one state of a transcript, so that a copy of it can be told from an old one."""

from __future__ import annotations

from typing import NamedTuple


class TranscriptVersion(NamedTuple):
    """Names one state of one thread's transcript: where two are equal, so are entries and summary,
    but for old turns that went at the bounds of the history.

    `edits` counts what changes it without a new turn. The moment stands for what counting cannot
    tell: a store that has lost its end (a failover) gives the same numbers to other entries.
    """

    turns: int = 0
    edits: int = 0
    changed_at: float = 0.0


NO_TRANSCRIPT = TranscriptVersion()
"""Of a thread to which nothing was added yet."""
