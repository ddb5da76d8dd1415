"""What somebody has read of an inbox, so that he answers that and nothing else."""

from __future__ import annotations

from turnkeep.lean_dataclass import dataclass
from turnkeep.store.values import TranscriptEntry


@dataclass(frozen=True, slots=True)
class InboxView:
    """The oldest messages that wait on a thread, as they are to stand in its transcript, and `top`:
    where its log ended before they were read. A thread that is forgotten and begun anew has another
    id: its log may end at the same place.
    """

    entries: tuple[TranscriptEntry, ...]
    top: int
    thread_id: str
