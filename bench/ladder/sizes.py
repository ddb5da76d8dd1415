"""How much is measured: in full, or so little that it can be asked of every change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """`size.of(small, full)` chooses; `rounds` is how often each variant gets its turn."""

    is_small: bool = False
    rounds: int = 3

    def of(self, small: T, full: T) -> T:
        return small if self.is_small else full
