"""Whether a type checker takes every Python sample of the documentation: `python scripts/sample_types.py`.

A step of `dev.py check`, behind the types of the package: with their cache it takes seconds. As a test it took a
minute of the first run on a new machine, which has no cache yet.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.docs.samples import ROOT, written_modules

FOLDER = ROOT / ".dev" / "samples"


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.py"):  # of a page that is gone
        old.unlink()
    modules = written_modules(FOLDER)
    if not modules:
        print("no page has a sample: where have they gone?")
        return 1
    return subprocess.run([sys.executable, "-m", "mypy", *map(str, modules)], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
