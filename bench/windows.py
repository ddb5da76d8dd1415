"""What windows cost and save: simulated people with rhythms of their own, who write in bursts and think in between.

    python bench/windows.py [PEOPLE] [SEED]

Runs per message (1 is a run for each), the wait that a window adds after the last message of a burst, and how often
somebody is cut in on: a run begins while the burst goes on. The same people write to every window.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turnkeep.adaptive_window import AdaptiveRules, Rhythm

BURSTS = 25
"""Bursts of each person."""

Window = Callable[[float, Rhythm], tuple[float, float]]
"""Window and max_wait of a message, from when it came and what is known of its channel."""


@dataclass
class Tally:
    messages: int = 0
    bursts: int = 0
    runs: int = 0
    cut: int = 0
    waits: list[float] | None = None


def main(people: int, seed: int) -> None:
    crowd = [list(bursts_of(random.Random(f"{seed}/{n}"))) for n in range(people)]
    print(f"{people:,} people, {sum(len(person) for person in crowd):,} bursts, "
          f"{sum(len(burst) for person in crowd for burst in person):,} messages, seed {seed}\n")  # fmt: skip
    print("| window | runs per message | added wait p50 | p95 | bursts cut in on |\n|---|---|---|---|---|")
    for name, window in WINDOWS.items():
        tally = Tally(waits=[])
        for person in crowd:
            live(person, window, tally)
        print(row(name, tally))


def row(name: str, tally: Tally) -> str:
    waits = sorted(tally.waits or [0.0])
    p50, p95 = (waits[int(len(waits) * share)] for share in (0.5, 0.95))
    return (
        f"| {name} | {tally.runs / tally.messages:.2f} | {p50:.2f} s | {p95:.2f} s | "
        f"{100 * tally.cut / tally.bursts:.1f} % |"
    )


# ---------------------------------------------------------------- people


def bursts_of(source: random.Random) -> Iterator[list[float]]:
    """When the messages of each burst come. A third of people write whole messages; others in pieces, each at a pace of
    their own: log-normal gaps with medians from 0.4 to 3 s.
    """
    goes_on = source.choice((0.03, 0.4, 0.65))
    pace, spread = source.uniform(-0.9, 1.1), source.uniform(0.2, 0.6)
    now = 0.0
    for _ in range(BURSTS):
        burst = [now]
        while source.random() < goes_on and len(burst) < 20:
            burst.append(burst[-1] + source.lognormvariate(pace, spread))
        yield burst
        now = burst[-1] + source.uniform(20.0, 120.0)  # reads the answer, and thinks


# ---------------------------------------------------------------- windows


def live(person: list[list[float]], window: Window, tally: Tally) -> None:
    rhythm: Rhythm | None = None
    for burst in person:
        due, first, before = None, 0.0, tally.runs
        for at in burst:
            if due is not None and due <= at:
                tally.runs, due = tally.runs + 1, None
            rhythm = heard(rhythm, at)
            length, longest = window(at, rhythm)
            first = at if due is None else first
            due = min(at + length, first + longest)
        tally.runs += 1
        tally.messages += len(burst)
        tally.bursts += 1
        tally.cut += tally.runs > before + 1
        if tally.waits is not None and due is not None:
            tally.waits.append(due - burst[-1])


def heard(rhythm: Rhythm | None, at: float) -> Rhythm:
    if rhythm is None:
        return Rhythm(at)
    rhythm.hear(at, RULES)
    return rhythm


RULES = AdaptiveRules()


def adaptive(at: float, rhythm: Rhythm) -> tuple[float, float]:
    learned = rhythm.window(RULES)
    return (1.5 if learned is None else learned), 8.0


WINDOWS: dict[str, Window] = {
    "none": lambda at, rhythm: (0.0, 0.0),
    "fixed 10 s (`seed`)": lambda at, rhythm: (10.0, 10.0),
    "fixed 2 s": lambda at, rhythm: (2.0, 2.0),
    "sliding 1.5 s, at most 8 s (`web`)": lambda at, rhythm: (1.5, 8.0),
    "sliding 3 s, at most 8 s": lambda at, rhythm: (3.0, 8.0),
    "adaptive, at most 8 s": adaptive,
}


if __name__ == "__main__":
    main(*(int(argument) for argument in (*sys.argv[1:], *("10000", "1")[len(sys.argv) - 1 :])))
