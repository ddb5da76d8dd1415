"""What of the package all rings run, as it was seen last: `python scripts/coverage_figure.py [--write]`.

Measuring takes a quarter of an hour, far too long for `dev.py check`. So `dev.py coverage --all` writes down what
it saw (`--write`), and `check` holds the tree against that: refused are a figure below the least, and one of a tree
whose size has changed by more than `DRIFT` since, as it says too little about this one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "tests" / "coverage.json"
LEAST = 95.0
"""Per cent of statements and branches together."""
DRIFT = 0.03
"""The part of its lines by which `src` may differ from the tree that was measured."""
COUNTS = ("num_statements", "missing_lines", "num_branches", "missing_branches")


def main(arguments: list[str]) -> int:
    lines = source_lines()
    if arguments == ["--write"]:
        FIGURE.write_text(json.dumps(figure_of(measured_totals(), lines), indent=1) + "\n")
    figure = json.loads(FIGURE.read_text())
    complaint = complaint_about(figure, lines)
    print(complaint or f"coverage over all: {figure['percent']} %")
    return 1 if complaint else 0


def measured_totals() -> dict[str, float]:
    """Of the combined data that is there now."""
    command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    totals: dict[str, float] = json.loads(done.stdout)["totals"]
    return totals


def figure_of(totals: dict[str, float], lines: int) -> dict[str, float]:
    return {"percent": round(totals["percent_covered"], 2), "lines": lines} | {name: totals[name] for name in COUNTS}


def source_lines() -> int:
    return sum(path.read_bytes().count(b"\n") for path in sorted((ROOT / "src").rglob("*.py")))


def complaint_about(figure: dict[str, float], lines: int) -> str:
    """Why this figure does not do for a tree of so many lines; empty if it does."""
    if figure["percent"] < LEAST:
        return f"coverage over all is {figure['percent']} %, promised are {LEAST} %: test what no line runs"
    if abs(lines - figure["lines"]) > DRIFT * figure["lines"]:
        return f"coverage was seen at {figure['lines']} lines, src has {lines}: python3 dev.py coverage --all"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
