"""What a check of `turnkeep doctor` finds: how one thing is, in one sentence."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Literal

from turnkeep.clock import SystemClock
from turnkeep.lean_dataclass import dataclass

FindingState = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """How one thing is."""

    name: str
    state: FindingState
    sentence: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "state": self.state, "sentence": self.sentence}


def ok(name: str, sentence: str) -> Finding:
    return Finding(name, "ok", sentence)


def warning(name: str, sentence: str) -> Finding:
    return Finding(name, "warning", sentence)


def failure(name: str, sentence: str) -> Finding:
    return Finding(name, "failure", sentence)


def today() -> date:
    return datetime.fromtimestamp(SystemClock().now(), UTC).date()
