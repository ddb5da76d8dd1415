"""What was measured before: the figures that a change must not make worse, kept in `baseline.json`.

Only figures that say `is_checked` count: counts, ratios of CPU inside one run, and memory. Whatever else the machine
does makes a figure worse and never better, so the best of the rounds is compared, and a row that fails is measured
again before it counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.ladder.figures import Figure

FILE = Path(__file__).with_name("baseline.json")
WORSE = 0.15
"""A figure that is worse by more than this share is a regression."""


@dataclass(frozen=True, slots=True)
class Regression:
    name: str
    before: float
    now: float

    def __str__(self) -> str:
        return f"{self.name}: {self.now:.3g} instead of {self.before:.3g} (+{self.now / self.before - 1:.0%})"


def read() -> Mapping[str, float]:
    best: Mapping[str, float] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return best


def write(figures: Sequence[Figure]) -> None:
    """Take these as what is to be kept; those of other rows stay."""
    best = {**read(), **{one.name: round(one.best, 4) for one in figures if one.is_checked}}
    FILE.write_text(json.dumps(dict(sorted(best.items())), indent=1, ensure_ascii=False) + "\n")


def regressions(figures: Sequence[Figure], baseline: Mapping[str, float]) -> list[Regression]:
    return [
        Regression(one.name, baseline[one.name], one.best)
        for one in figures
        if one.is_checked and one.name in baseline and one.best > baseline[one.name] * (1 + WORSE)
    ]


def best_of(first: Sequence[Figure], second: Sequence[Figure]) -> list[Figure]:
    """Two measurements of the same rows as one, with the best of both."""
    again = {one.name: one for one in second}
    return [_joined(one, again[one.name]) if one.name in again else one for one in first]


def _joined(one: Figure, other: Figure) -> Figure:
    bests = None
    if one.bests is not None and other.bests is not None:
        bests = (min(one.bests[0], other.bests[0]), min(one.bests[1], other.bests[1]))
    return replace(one, samples=(*one.samples, *other.samples), bests=bests)
