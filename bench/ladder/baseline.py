"""What was measured before: the figures that a change must not make worse, kept in `baseline.json`.

Only figures that say `is_checked` count: counts, ratios of CPU inside one run, and memory. Whatever else the machine
does makes a figure worse and never better, so the best of the rounds is compared, and a row that fails is measured
again before it counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    best = {**read(), **{one.name: round(one.low, 4) for one in figures if one.is_checked}}
    FILE.write_text(json.dumps(dict(sorted(best.items())), indent=1, ensure_ascii=False) + "\n")


def regressions(figures: Sequence[Figure], baseline: Mapping[str, float]) -> list[Regression]:
    return [
        Regression(one.name, baseline[one.name], one.low)
        for one in figures
        if one.is_checked and one.name in baseline and one.low > baseline[one.name] * (1 + WORSE)
    ]


def best_of(first: Sequence[Figure], second: Sequence[Figure]) -> list[Figure]:
    """Of two measurements of the same rows, the better figures."""
    again = {one.name: one for one in second}
    return [min(one, again.get(one.name, one), key=lambda figure: figure.low) for one in first]
