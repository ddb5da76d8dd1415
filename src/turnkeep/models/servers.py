"""What model servers say and mean: `servers.toml`, read when the first error arrives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from turnkeep import toml
from turnkeep.lean_dataclass import dataclass

Meaning = Literal[
    "too_long", "credentials", "quota", "rate_limit", "gone", "unavailable", "malformed", "refused", "unpaired"
]
"""What an error asks of us; explained at the head of the table."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One way to say it.

    `window`, where the sentence names it, finds the size of the model's context.
    """

    means: Meaning
    pattern: re.Pattern[str]
    window: re.Pattern[str] | None


def meaning_of_code(code: str) -> Meaning | None:
    return _codes().get(code.lower())


def sentence_in(message: str) -> Sentence | None:
    """The first known sentence of the table that this message holds; expects lower case."""
    return next((sentence for sentence in _sentences() if sentence.pattern.search(message)), None)


def window_in(message: str) -> int | None:
    """The size of the context in tokens that a refusal names; expects lower case."""
    for sentence in _sentences():
        if sentence.window and sentence.pattern.search(message) and (match := sentence.window.search(message)):
            digits = next(group for group in match.groups() if group).replace(",", "")
            # The sentence is a server's, and thousands of digits are no number to Python.
            return int(digits[:12])
    return None


@cache
def table() -> Mapping[str, Any]:
    """The table as it stands in the file; for tests too."""
    return toml.parse((resources.files(__package__) / "servers.toml").read_text("utf-8"))


@cache
def _codes() -> Mapping[str, Meaning]:
    codes: Mapping[Meaning, list[str]] = table()["codes"]
    return {code: means for means in get_args(Meaning) for code in codes.get(means, [])}


@cache
def _sentences() -> tuple[Sentence, ...]:
    return tuple(
        Sentence(row["means"], re.compile(row["pattern"]), re.compile(row["window"]) if "window" in row else None)
        for row in table()["sentence"]
    )
