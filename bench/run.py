"""Measure, in ratios inside one run.

    python3 dev.py bench                        the ladder: every row, with what it must reach
    python3 dev.py bench tokens 9               some of its programs, by name or by the number of a row
    python3 dev.py bench --list                 what there is
                [--small] [--rounds 3]          less of it
                [--peers]                       and peers that do the same work (`bench peers`: they alone)
                [--json [FILE]]                 the figures as JSON, to FILE or to the output
                [--report [FILE ...]]           write docs/performance.md of it; or of the JSON in FILE, in which a
                                                figure of a later file stands for that of an earlier one
    python3 dev.py bench --check [--keep]       what is robust, small, against the stored baseline; 1: it got worse
                                                by more than 15 %. --keep: this is the baseline from now on
    python3 dev.py bench store --against REV    the engines by another revision of this repository, in one run

Exit codes: 0 measured (and not worse), 1 a program failed or a figure got worse, 2 called wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import comparison  # noqa: E402 - after the path

from bench.ladder import baseline, profile, report  # noqa: E402
from bench.ladder.figures import Figure, table  # noqa: E402
from bench.ladder.rows import PEERS, PROGRAMS, Program, chosen  # noqa: E402
from bench.ladder.sizes import Size  # noqa: E402

ALONE = ("readers", "store_redis", "store_sqlite", "windows", "seed_targets")
"""Programs that print figures of their own; run when they are named."""
PATIENCE = 900.0
"""Seconds that one program may take."""
TRIES = 3
"""Measurements of a row that seems to have become worse."""


@dataclass(slots=True)
class Outcome:
    """What a run has found."""

    figures: list[Figure]
    failures: list[str]
    profiles: list[profile.Profile] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def to_json(self) -> dict[str, Any]:
        """For machines and for the page."""
        return {
            "machine": report.machine(),
            "load": self.load,
            "failures": self.failures,
            "figures": [one.to_json() for one in sorted(self.figures, key=lambda one: one.row)],
            "profiles": [one.to_json() for one in self.profiles],
        }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="dev.py bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    parser.add_argument("--report", nargs="*", metavar="FILE")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--against", metavar="REV")
    asked = parser.parse_args(arguments)
    if asked.list:
        print(overview())
        return 0
    if asked.against:
        return run_comparison(asked)
    if asked.report:
        tell_files(report.write(report.joined([json.loads(Path(file).read_text()) for file in asked.report])))
        return 0
    alone = [name for name in ALONE if name in asked.names]
    words = [word for word in asked.names if word not in alone]
    try:
        programs = chosen(words) if words or not alone else []
        programs += [PEERS] if asked.peers and PEERS not in programs else []
    except LookupError as unknown:
        names = ", ".join([*(one.name for one in (*PROGRAMS, PEERS)), *ALONE])
        print(f"bench: there is no program or row {unknown.args[0]!r}; choose from {names}", file=sys.stderr)
        return 2
    failed = [name for name in alone if not runs(name)]
    if not programs:
        return 1 if failed else 0
    if asked.check:
        return check([one for one in programs if one.is_checked], keep=asked.keep)
    size = Size(asked.small, asked.rounds or (3 if asked.small else 2))
    outcome = measure(programs, size, asked.json)
    if asked.report is not None:
        missed = {one.row for one in outcome.figures if one.is_met is False}
        outcome.profiles = uvloop.run(profile.take(missed, size))
    show(outcome, asked.json)
    if asked.report is not None:
        tell_files(report.write(outcome.to_json()))
    return 1 if failed or outcome.failures else 0


def overview() -> str:
    lines = [f"  {one.name:14}{', '.join(map(str, one.rows)):16}{one.summary}" for one in (*PROGRAMS, PEERS)]
    return "\n".join(["The ladder (name, rows):", *lines, "", f"Programs of their own: {', '.join(ALONE)}"])


def measure(programs: Sequence[Program], size: Size, place: str | None = None) -> Outcome:
    """One after the other; one that fails says why, and the others go on. What there is so far stands in the file
    `place`.
    """
    outcome = Outcome([], [])
    for number, program in enumerate(programs, 1):
        begun_at = time.monotonic()
        say(f"{number} of {len(programs)}, {program.name}: {program.summary}")
        try:
            outcome.figures += uvloop.run(asyncio.wait_for(program.measure(size), PATIENCE))
        except Exception as error:
            outcome.failures.append(program.name)
            say(f"{program.name} failed: {type(error).__name__}: {error}")
            continue
        keep(outcome, place)
        say(f"{program.name} took {time.monotonic() - begun_at:.0f} s")
    return outcome


def keep(outcome: Outcome, place: str | None) -> None:
    if place is not None and place != "-":
        Path(place).write_text(json.dumps(outcome.to_json(), indent=1, ensure_ascii=False) + "\n")


def show(outcome: Outcome, place: str | None) -> None:
    if place == "-":
        print(json.dumps(outcome.to_json(), indent=1, ensure_ascii=False))
        return
    keep(outcome, place)
    print("\n" + table(sorted(outcome.figures, key=lambda one: one.row)))
    if outcome.failures:
        print(f"\nfailed: {', '.join(outcome.failures)}")


def tell_files(files: Sequence[Path]) -> None:
    for file in files:
        say(f"wrote {file.relative_to(HERE.parent)}")


def check(programs: Sequence[Program], *, keep: bool) -> int:
    """Whether a robust figure got worse than it was."""
    size, before = Size(is_small=True), baseline.read()
    found: list[Figure] = []
    failed: list[str] = []
    for program in programs:
        outcome = measure([program], size)
        for _ in range(TRIES - 1):
            if not outcome.failures and not baseline.regressions(outcome.figures, before):
                break
            again = measure([program], size)
            outcome = Outcome(baseline.best_of(outcome.figures or again.figures, again.figures), again.failures)
        found += [one for one in outcome.figures if one.is_checked]
        failed += outcome.failures
    print("\n" + table(found))
    if keep and not failed:
        baseline.write(found)
        say(f"kept in {baseline.FILE.name}")
        return 0
    worse = baseline.regressions(found, before)
    for one in worse:
        say(f"worse than before: {one}")
    say(f"{len(found)} figures, {len(worse)} worse by more than {baseline.WORSE:.0%}, {len(failed)} programs failed")
    return 1 if worse or failed else 0


def run_comparison(asked: argparse.Namespace) -> int:
    try:
        programs = comparison.chosen(asked.names)
    except LookupError as unknown:
        names = ", ".join(comparison.COMPARABLE)
        print(f"there is no benchmark {unknown.args[0]}; choose from {names}", file=sys.stderr)
        return 2
    comparison.compare(programs, asked.against, asked.rounds or 10, Path(asked.json) if asked.json else None)
    return 0


def runs(name: str) -> bool:
    """A program of its own, in a process of its own."""
    path = os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, str(HERE / f"{name}.py")]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode == 0


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
