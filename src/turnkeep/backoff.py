"""When to try again: exponential or fixed delays with full jitter and a cap."""

from __future__ import annotations

import random
from typing import Literal

from turnkeep.lean_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delay before attempt n+1 after n failures, in seconds.

    With `jitter` the delay is drawn evenly from 0 to the full value ("full jitter"), so that many
    failures at one moment do not come back at one moment.
    """

    type: Literal["exponential", "fixed"] = "exponential"
    delay: float = 5.0
    factor: float = 2.0
    cap: float = 300.0
    jitter: bool = True

    def ceiling(self, failures: int) -> float:
        """The longest possible delay after this many failures (at least one)."""
        if self.type == "fixed":
            return min(self.delay, self.cap)
        # The exponent is capped: after a thousand failures the power would be no float any more.
        return min(self.delay * self.factor ** min(max(failures, 1) - 1, 64), self.cap)

    def after(self, failures: int, source: random.Random | None = None) -> float:
        """A delay after this many failures."""
        # Full jitter spreads most (Brooker, AWS Architecture Blog, 2015); a fixed part would keep
        # bursts together.
        longest = self.ceiling(failures)
        return (source or random).uniform(0.0, longest) if self.jitter else longest
