"""What of a test, or of a suite that several engines keep, is for every day: `@pytest.mark.daily(…)`."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MARK = "daily"
ENGINES = {"sqlite", "redis"}
"""What rows of the rings above the contract are called that try the same on each durable engine."""


@dataclass(frozen=True, slots=True)
class DailyShare:
    """The tests of these `promises` (none are named: of all), of them every n-th test, and every n-th row: always the
    same ones. `turn` says which; classes that keep one suite take theirs in turns.
    """

    promises: tuple[type, ...] = ()
    tests: int = 1
    rows: int = 1
    turn: int = 0

    def takes_test(self, name: str) -> bool:
        is_promised = not self.promises or any(name in vars(promises) for promises in self.promises)
        return is_promised and zlib.crc32(name.encode()) % self.tests == self.turn % self.tests

    def takes_rows(self, rows: Sequence[Sequence[str]]) -> list[bool]:
        """Of each row, named by what stands in each of its tables, whether it is for every day; one is always.

        Its places are added: so each row of one table meets another row of the other, and n engines take one
        another's turns.
        """
        tables: defaultdict[int, dict[str, int]] = defaultdict(dict)
        turns = [
            sum(tables[number].setdefault(name, len(tables[number])) for number, name in enumerate(row)) % self.rows
            for row in rows
        ]
        there = sorted(set(turns))
        place = self.turn % self.rows * len(there) // self.rows  # of few rows, too, engines take others
        return [turn == there[place] for turn in turns]


def daily_shares(node: Any) -> Iterator[DailyShare]:
    """What is said of a test, or of what collects it, from the nearest on."""
    for mark in node.iter_markers(MARK):
        yield DailyShare(mark.args, **mark.kwargs)


def share_of_engines(name: str, rows: Sequence[Sequence[str]]) -> DailyShare | None:
    """Of a test above the contract that is to hold on both durable engines, one of them: which is by the name of the
    test, so each engine has half of the tests. That engines do the same, the contract asks each of them daily.
    """
    are_tried = {place for row in rows for place in row} >= ENGINES
    return DailyShare(rows=2, turn=zlib.crc32(name.encode()) % 2) if are_tried else None
