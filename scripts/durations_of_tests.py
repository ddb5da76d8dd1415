"""What takes long among the tests, as a run on an idle machine shows: `python scripts/durations_of_tests.py LOG`, of
the log of `python dev.py test --durations 0`. It writes `tests/durations.json`, by which the longest are begun first.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.services.scheduling import DURATIONS as FILE
from tests.services.scheduling import without_group

LINE = re.compile(r"^([0-9.]+)s (?:setup|call|teardown) +(tests/.+)$", re.M)
LEAST = 1.0
"""Seconds: what takes less needs no place of its own."""


def main(arguments: list[str]) -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("log", type=Path)
    log = options.parse_args(arguments).log
    durations = long_tests(log.read_text(errors="replace"))
    if not durations:
        print(f"{log} holds no durations; run the tests with --durations 0")
        return 1
    FILE.write_text(json.dumps(durations, indent=0, ensure_ascii=False) + "\n")
    print(f"{len(durations)} tests take {LEAST:.0f} s and more, {sum(durations.values()):.0f} s together")
    return 0


def long_tests(log: str) -> dict[str, float]:
    """Seconds by test, setup and teardown with it, the longest first."""
    seconds: Counter[str] = Counter()
    for took, nodeid in LINE.findall(log):
        seconds[without_group(nodeid.rstrip())] += float(took)  # type: ignore[assignment]
    return {nodeid: round(took, 1) for nodeid, took in seconds.most_common() if took >= LEAST}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
