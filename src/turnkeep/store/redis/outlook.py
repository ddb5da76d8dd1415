"""When something is due in each partition, as far as one process knows.

A look at a partition tells its next moment, and every moment that comes before that is told by a
hint. So nothing is asked of a partition before its moment, and a thread that a hint names is
claimed without a look. Hints may be lost: a claim that no hint led to looks for itself, and so does
one of each second (`LOOK_EVERY`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address

NEVER = float("inf")
ALWAYS = 0.0
"""A moment that has always come: the partition has to be looked at."""

LOOK_EVERY = 1.0
"""Seconds after which hints alone are not trusted any more."""

PRECISION = 1e-6
"""Seconds by which a moment of an index, which is text, may differ from that of its thread."""

MOST_NAMES = 256
"""Threads of one partition that hints named and nobody has claimed; more of them are looked up."""


@dataclass(frozen=True, slots=True)
class DueThread:
    """A thread that a hint named, and when it is due."""

    at: float
    address: Address


class Outlook:
    """The next moment of each partition, for the queues that somebody serves."""

    def __init__(self, partitions: int, queues: Sequence[str] | None) -> None:
        self._queues = None if queues is None else frozenset(queues)
        self._bounds = [ALWAYS] * partitions
        """What the last look said."""
        self._hints: list[dict[Address | None, float]] = [{} for _ in range(partitions)]
        """What hints said since the last look was asked for; None for a thread without a name."""
        self._moments = [ALWAYS] * partitions
        """The earlier of both. Kept, because all of them are compared at each wake."""
        self._looked_at = [0] * partitions
        self._looks = 0
        self._round_at = -NEVER
        self._is_trusted = False

    @property
    def earliest(self) -> float:
        return min(self._moments)

    def on_due(self, partition: int, address: Address | None, queue: str, at: float) -> None:
        """A hint: something of this queue is due at this moment."""
        if self._queues is not None and queue not in self._queues:
            return
        hints = self._hints[partition]
        if len(hints) >= MOST_NAMES:
            hints.clear()
            address, at = None, ALWAYS
        # Without a name it stands for several threads: the first of them counts.
        hints[address] = at if address is not None else min(at, hints.get(None, at))
        self._moments[partition] = min(self._moments[partition], at)

    def forget(self, partitions: Iterable[int] | None = None) -> None:
        """Hints may be missing here, or everywhere: only a look tells now."""
        for partition in range(len(self._bounds)) if partitions is None else partitions:
            self._bounds[partition] = self._moments[partition] = ALWAYS

    def ask(self, partition: int, *, by_look: bool = False) -> None:
        """The next moment is asked for now. Hints from here on count beside the answer."""
        self._hints[partition] = {}
        if by_look:
            self._looks += 1
            self._looked_at[partition] = self._looks

    def learn(self, partition: int, moment: float) -> None:
        """The answer to what was asked."""
        self._bounds[partition] = moment
        self._moments[partition] = min((moment, *self._hints[partition].values()))

    def name(self, partition: int, address: Address, at: float) -> None:
        """A thread that a hint named is due later than it said."""
        self._hints[partition].setdefault(address, at)
        self._moments[partition] = min(self._moments[partition], at)

    def due_threads(self, partition: int, now: float) -> list[DueThread] | None:
        """The threads that are due, where hints named them all; None where a look has to tell."""
        due = [(address, at) for address, at in self._hints[partition].items() if at <= now]
        # The end of a window that slid was told by a claim, and its thread named: that is no other.
        if self._bounds[partition] <= now and all(abs(self._bounds[partition] - at) > PRECISION for _, at in due):
            return None
        if any(address is None for address, _ in due):
            return None
        return [DueThread(at, address) for address, at in due if address is not None]

    def due(self, now: float) -> list[int]:
        """Partitions whose moment has come, those first whose came first."""
        if self.earliest > now:
            return []
        moments = self._moments
        return sorted((i for i, moment in enumerate(moments) if moment <= now), key=moments.__getitem__)

    def longest_unasked(self, many: int) -> list[int]:
        """So many partitions, those first that were not looked at for longest."""
        places = range(len(self._looked_at))
        return sorted(places, key=self._looked_at.__getitem__)[:many]

    def trust(self, seconds: float) -> None:
        """Hints led to the claim that comes next; not believed once a second has passed without a
        look.
        """
        self._is_trusted = seconds - self._round_at <= LOOK_EVERY

    def take_trust(self, seconds: float) -> bool:
        """Whether hints led to this claim; else it begins a round of looks."""
        is_trusted, self._is_trusted = self._is_trusted, False
        if not is_trusted:
            self._round_at = seconds
        return is_trusted
