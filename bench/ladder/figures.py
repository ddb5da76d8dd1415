"""What a measurement says: a figure with its spread, and what it is held against."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach and what it aims at."""

    must: float
    aim: float
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a row, of all its rounds. `parts` are medians: of each process, or of what a ratio is made of."""

    row: int
    name: str
    unit: str
    samples: tuple[float, ...]
    target: Target | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    is_checked: bool = False
    """Robust enough to fail a build: a count, or a ratio of CPU."""
    bests: tuple[float, float] | None = None
    """Of a ratio: the best of ours, and the best of the floor, of whichever rounds they are."""

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        return min(self.samples)

    @property
    def high(self) -> float:
        return max(self.samples)

    @property
    def best(self) -> float:
        """What comes closest to an undisturbed machine. Not the lowest ratio: that is the round in which the floor was
        disturbed most.
        """
        return self.low if self.bests is None else self.bests[0] / self.bests[1]

    @property
    def is_met(self) -> bool | None:
        """Whether it reaches what it must; None where nothing is said."""
        if self.target is None:
            return None
        return self.value >= self.target.must if self.target.more_is_better else self.value <= self.target.must

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "best": self.best,
            "is_met": self.is_met,
        }


def ratio(
    row: int,
    name: str,
    ours: Sequence[Mapping[str, float]],
    floor: Sequence[Mapping[str, float]],
    *,
    target: Target | None = None,
    is_checked: bool = False,
    unit: str = "µs",
) -> Figure:
    """Ours by the floor, round by round: both figures of a round saw the same machine."""
    costs, floors = [sum(one.values()) for one in ours], [sum(one.values()) for one in floor]
    samples = tuple(a / b for a, b in zip(costs, floors, strict=True))
    parts = {**medians(ours, unit), "floor " + unit: _middle(floors)}
    return Figure(row, name, "x", samples, target, parts, is_checked, (min(costs), min(floors)))


def medians(rounds: Sequence[Mapping[str, float]], unit: str = "") -> dict[str, float]:
    """The median of each part."""
    names = rounds[0] if rounds else ()
    return {f"{name} {unit}".strip(): _middle([one[name] for one in rounds]) for name in names}


def percentile(values: Sequence[float], share: float) -> float:
    """Of so many values, the one below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _middle(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def table(figures: Sequence[Figure]) -> str:
    """For people: a line each, with what it must reach and where it comes from."""
    lines = [f"{'row':>3}  {'figure':58}{'median':>10} {'unit':5}{'low':>9}{'high':>9}{'must':>9}{'aim':>9}"]
    for one in figures:
        goal = f"{one.target.must:>9,g}{one.target.aim:>9,g}" if one.target else " " * 18
        mark = {True: "  met", False: "  MISSED", None: ""}[one.is_met]
        spread = f"{shown(one.low):>9}{shown(one.high):>9}"
        lines.append(f"{one.row:>3}  {one.name:58}{shown(one.value):>10} {one.unit:5}{spread}{goal}{mark}")
        if one.parts:
            lines.append("     " + " · ".join(f"{name} {shown(value)}" for name, value in one.parts.items()))
    return "\n".join(lines)


def shown(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
