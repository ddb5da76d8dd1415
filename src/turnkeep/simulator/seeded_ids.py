"""Identifiers and chance from one seeded source.

The same seed gives the same identifiers in the same order of requests.
"""

from __future__ import annotations

import random


class SeededIds:
    """Mints identifiers and throws dice; two instances with one seed agree."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose, protects nothing

    def hex(self, digits: int) -> str:
        return f"{self._random.getrandbits(digits * 4):0{digits}x}"

    def new(self, prefix: str, digits: int = 48) -> str:
        return prefix + self.hex(digits)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def between(self, low: int, high: int) -> int:
        return self._random.randint(low, high)
