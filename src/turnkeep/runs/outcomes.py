"""What can come of a run, as a closed set of values."""

from __future__ import annotations

from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.store.values import Commit, Failure, HeldCall


@dataclass(frozen=True, slots=True)
class HoldVerdict:
    """Somebody has to decide first."""

    calls: tuple[HeldCall, ...]


@dataclass(frozen=True, slots=True)
class Releasing:
    """Not now: the claim goes back without using an attempt."""

    delay: float
    reason: TurnFault | None = None


@dataclass(frozen=True, slots=True)
class Dropping:
    """Another worker owns the thread: write nothing."""


Verdict = Commit | Failure | HoldVerdict | Releasing | Dropping

# Written out, for dashboards go by these words: a class may be renamed, a label may not.
VERDICT_LABELS: dict[type[Verdict], str] = {
    Commit: "commit",
    Failure: "failure",
    HoldVerdict: "holding",
    Releasing: "releasing",
    Dropping: "dropping",
}
