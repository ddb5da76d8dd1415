"""Run every benchmark in this folder, one after the other, or the ones named.

    python bench/run.py [NAME …]        such as: windows store_sqlite

Each is a program of its own and says what it needs; one that cannot run here says why, and the others go on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem != Path(__file__).stem)


def main(asked: Sequence[str]) -> int:
    if unknown := [name for name in asked if name not in NAMES]:
        print(f"there is no benchmark {', '.join(unknown)}; choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    failed = [name for name in asked or NAMES if not runs(name)]
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall ran")
    return 1 if failed else 0


def runs(name: str) -> bool:
    print(f"\n== {name}", flush=True)
    path = os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py")], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
