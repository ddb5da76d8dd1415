"""Time for tests that hold hours: it moves only when every task waits, and then straight to the next timer.

The loop is asyncio's own, so tasks, timeouts and groups are the real ones; only its selector does not wait.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

from turnkeep.testing.fake_clock import START

BEGIN = 4096.0
"""The time of a loop when it begins. Not 0: a difference of two times would look like their sum."""


def passed() -> float:
    """Seconds since the test began."""
    return asyncio.get_running_loop().time() - BEGIN


class MovedLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds pass at once. A test that would hang ends with a RuntimeError instead."""

    def __init__(self) -> None:
        self._seconds = BEGIN
        super().__init__(_Impatient(self.move))

    def time(self) -> float:
        return self._seconds

    def move(self, seconds: float) -> None:
        self._seconds += seconds


class _Impatient(selectors.SelectSelector):
    """Moves time where another selector would wait for it."""

    def __init__(self, move: Callable[[float], None]) -> None:
        super().__init__()
        self._move = move

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("every task waits, and no timer will ever wake one")
        # a moment more than asked for: what is left of a second after rounding would be waited for again and again
        self._move(timeout + 1e-9)
        return ready


class LoopClock:
    """The `Clock` of a store that goes by the time of the loop; `jump` sets its time of day, and no second passes."""

    origin = ""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._day = START

    def now(self) -> float:
        return self._day + self._loop.time()

    def elapsed(self) -> float:
        return self._loop.time()

    def jump(self, seconds: float) -> None:
        self._day += seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
