"""Whether this tree is faster or slower than another revision: the same programs against both, step by step.

    python bench/run.py store readers --against REV [--rounds 10] [--json FILE]

REV is checked out beside this tree, and its code is loaded in place of this one's, with the same libraries and by the
same program of this tree. Both programs live at the same time and take turns (`baton.py`): what else the machine does
disturbs both alike, so only ratios are shown: the median over the rounds, and the middle half of them. A step that one
of the two cannot do is left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
COMPARABLE = ("readers", "store_redis", "store_sqlite")
"""Programs that know `--steps`."""

Step = tuple[str, str]
"""What was measured, and in which unit."""


@dataclass(frozen=True)
class Ratio:
    """This tree by the other one: below 1 it is faster. `low` and `high` bound the middle half of the rounds."""

    program: str
    step: str
    unit: str
    before: float
    now: float
    ratio: float
    low: float
    high: float


def chosen(names: Sequence[str]) -> list[str]:
    """In their order: those named, or that begin with a name; all, when none is named. LookupError for another."""
    for name in names:
        if not any(_is_meant(one, name) for one in COMPARABLE):
            raise LookupError(name)
    return [one for one in COMPARABLE if not names or any(_is_meant(one, name) for name in names)]


def _is_meant(program: str, name: str) -> bool:
    return program == name or program.startswith(f"{name}_")


def compare(programs: Sequence[str], revision: str, rounds: int, file: Path | None) -> None:
    """Print a table of ratios, and write it as JSON if asked to."""
    found: list[Ratio] = []
    with worktree(revision) as other:
        for program in programs:
            print(f"\n== {program}: this tree by {revision}, {rounds} rounds", flush=True)
            ratios = ratios_of(program, other, rounds)
            show(ratios)
            found += ratios
    if file is not None:
        table = {"against": revision, "rounds": rounds, "ratios": [asdict(ratio) for ratio in found]}
        file.write_text(json.dumps(table, indent=1) + "\n")


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """The files of a revision, for a while."""
    with tempfile.TemporaryDirectory(prefix="turnkeep-bench-") as name:
        folder = Path(name) / "other"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


class Runner:
    """One program on the code of one tree; `figures` has a value of each round."""

    def __init__(self, program: str, tree: Path) -> None:
        path = os.pathsep.join((str(tree / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")))
        self.figures: dict[Step, list[float]] = {}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / f"{program}.py"), "--steps"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._give, self._take = self._process.stdin, self._process.stdout
        self._is_begun = False

    def step(self) -> bool:
        """Let it do one step; whether the round goes on."""
        if self._is_begun:
            self._give.write("\n")
            self._give.flush()
        self._is_begun = True
        line = self._take.readline()
        if not line:
            raise SystemExit(f"the program ended with code {self._process.wait()}; what it said is above")
        told = json.loads(line)
        for unit, figure in told["figures"].items():
            self.figures.setdefault((told["step"], unit), []).append(figure)
        return told["step"] is not None

    def end(self) -> None:
        """It ends when nobody gives it another turn."""
        with self._process, suppress(BrokenPipeError):
            self._give.close()


def ratios_of(program: str, other: Path, rounds: int) -> list[Ratio]:
    theirs, ours = Runner(program, other), Runner(program, ROOT)
    try:
        one_round([theirs, ours])  # warms up
        theirs.figures.clear()
        ours.figures.clear()
        for number in range(rounds):
            one_round([theirs, ours] if number % 2 else [ours, theirs])
    finally:
        theirs.end()
        ours.end()
    return [
        ratio_of(program, step, theirs.figures[step], figures)
        for step, figures in ours.figures.items()
        if step in theirs.figures
    ]


def one_round(runners: Sequence[Runner]) -> None:
    """They take turns, step by step, until each has ended its round."""
    left = list(runners)
    while left:
        left = [runner for runner in left if runner.step()]


def ratio_of(program: str, step: Step, before: Sequence[float], now: Sequence[float]) -> Ratio:
    """Of each round by itself: the two figures of a round saw the same machine."""
    ratios = sorted(b / a for a, b in zip(before, now, strict=True) if a)
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [*ratios, *ratios, *ratios]
    return Ratio(program, *step, statistics.median(before), statistics.median(now), middle, low, high)


def show(ratios: Sequence[Ratio]) -> None:
    print(f"{'':34}{'unit':12}{'before':>10}{'now':>10}{'ratio':>8}   middle half")
    for one in ratios:
        figures = f"{one.before:10.1f}{one.now:10.1f}{one.ratio:8.2f}   {one.low:.2f} to {one.high:.2f}"
        print(f"{one.step:34}{one.unit:12}{figures}", flush=True)
