"""Run every benchmark in this folder, one after the other, or the ones named.

    python bench/run.py [NAME …]                    such as: windows store_sqlite; `store` is all that begin so
    python bench/run.py [NAME …] --against REV      compare with another revision: ratios, in one run
                        [--rounds 10] [--json FILE]

Each is a program of its own and says what it needs; one that cannot run here says why, and the others go on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from comparison import COMPARABLE, compare

HERE = Path(__file__).resolve().parent
PARTS = ("baton", "comparison", Path(__file__).stem)
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in PARTS)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--against", metavar="REV")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args(arguments)
    choice = COMPARABLE if asked.against else NAMES
    if unknown := [name for name in asked.names if not chosen([name], choice)]:
        print(f"there is no benchmark {', '.join(unknown)}; choose from {', '.join(choice)}", file=sys.stderr)
        return 2
    programs = chosen(asked.names, choice)
    if asked.against:
        compare(programs, asked.against, asked.rounds, asked.json)
        return 0
    failed = [name for name in programs if not runs(name)]
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall ran")
    return 1 if failed else 0


def chosen(names: Sequence[str], choice: Sequence[str]) -> list[str]:
    """In the order of `choice`: those named, or that begin with a name; all, when none is named."""
    return [one for one in choice if not names or any(one == name or one.startswith(f"{name}_") for name in names)]


def runs(name: str) -> bool:
    print(f"\n== {name}", flush=True)
    path = os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py")], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
