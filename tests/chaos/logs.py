"""What the logs of the product's processes say of a storm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tests.chaos.programs import Program


def unexpected(program: Program) -> list[str]:
    """Errors that nobody caught, or that were caught where nothing else was left to do."""
    errors = (line for line in told(program.log_file) if line.get("level") == "error" and "exception" in line)
    return [f"{program.name}: {str(line)[:1500]}" for line in errors]


def fenced(log: Path) -> int:
    """Runs of a worker that ended without writing anything, because their lease was lost."""
    dropped: set[tuple[str, int]] = set()
    unsettled: set[str] = set()
    for line in told(log):
        match line.get("event"):
            case "run_settled" if line.get("verdict") == "dropping":
                dropped.add((line["run_id"], line["attempt"]))
            case "settlement_failed" | "settlement_broke":
                unsettled.add(line["run_id"])
    return sum(run_id not in unsettled for run_id, _ in dropped)


def told(log: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log that are JSON; the last one of a killed process may not be whole."""
    for line in log.read_bytes().splitlines() if log.exists() else ():
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(found, dict):
            yield found
