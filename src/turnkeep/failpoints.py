"""Places in a run at which its process can be made to die, so that tests reach every gap between
two steps.

Unarmed, which is always but in a test of crashes, a point costs one look at an empty dictionary:
`if crash_chances: reach("final")`.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from typing import Literal, get_args

Point = Literal["claimed", "asked", "midstream", "called", "tool_started", "tool_done", "final", "committed"]
"""After the claim; when the model has begun; at a piece of text; before calls are journalled;
between a call's mark and its act; between its act and its result; before the commit; after it."""

POINTS: tuple[Point, ...] = get_args(Point)

crash_chances: dict[str, float] = {}
"""How likely each point is to kill; one object for as long as the process lives."""
_chance = random.Random()  # noqa: S311 - decides when a test dies
_act: Callable[[str], None]


def reach(point: Point) -> None:
    """Die here, as likely as this point was armed."""
    if crash_chances and _chance.random() < crash_chances.get(point, 0.0):
        _act(point)


def die(point: str) -> None:
    """As a power cut would: nothing is flushed, closed or said."""
    # SIGKILL, not an exception: `finally` and `atexit` must not run, as in a power cut.
    os.kill(os.getpid(), signal.SIGKILL)


def arm(points: Mapping[str, float], *, act: Callable[[str], None] = die, seed: int | None = None) -> None:
    """Give points their probabilities in place of all earlier ones; none disarms."""
    global _act  # noqa: PLW0603 - one process has one set of failpoints
    crash_chances.clear()
    crash_chances.update(points)
    _act = act
    # Of its own generator: a test that is seeded must not depend on who else draws numbers.
    _chance.seed(seed)


def read_points(text: str) -> dict[str, float]:
    """`"claimed:0.01,midstream:0.001"` as a mapping. Raises ValueError with what is wrong."""
    points: dict[str, float] = {}
    for pair in filter(None, text.split(",")):
        name, _, chance = pair.strip().partition(":")
        if name not in POINTS:
            raise ValueError(f"there is no failpoint {name!r}, there are {', '.join(POINTS)}")
        try:
            points[name] = float(chance)
        except ValueError:
            raise ValueError(f"failpoint {name!r} needs a probability, like {name}:0.01") from None
    return points
