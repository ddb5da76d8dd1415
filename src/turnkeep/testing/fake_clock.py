"""Time and names under the control of a test."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from itertools import count

from turnkeep.store.ids import Ids

START = 1_700_000_000.0
"""A moment that every number format keeps exactly; add to it in steps of 1/4 second."""


class FakeClock:
    """A `Clock` that stands still until it is told to move, or to jump."""

    origin = ""

    def __init__(self, start: float = START) -> None:
        self._start = start
        self._seconds = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> float:
        return self._start + self._seconds

    def elapsed(self) -> float:
        return self._seconds

    def jump(self, seconds: float) -> None:
        """Set the time of day forward or back; no second passes."""
        self._start += seconds

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has moved so far; at once (after other tasks had their turn) for 0
        or less.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waits: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # with an order: sleepers of one moment wake as they fell asleep, and futures
        # cannot be compared
        heapq.heappush(self._sleepers, (self._seconds + seconds, next(self._order), waits))
        await waits

    def advance(self, seconds: float) -> None:
        """Move at once; who sleeps until then or earlier is woken in the order of time."""
        self._seconds += seconds
        while self._sleepers and self._sleepers[0][0] <= self._seconds:
            _, _, waits = heapq.heappop(self._sleepers)
            if not waits.done():
                waits.set_result(None)

    async def run(self, seconds: float) -> None:
        """Move from one sleeper to the next, each of which acts at its own moment (and
        may sleep again).
        """
        end = self._seconds + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.advance(max(0.0, self._sleepers[0][0] - self._seconds))
            await settle()
        self.advance(end - self._seconds)
        await settle()


async def settle(turns: int = 50) -> None:
    """Let every task that can go on go on."""
    # a number of turns, because nothing tells when no task can go on
    for _ in range(turns):
        await asyncio.sleep(0)


def counting_ids() -> Ids:
    """`Ids` that count up from 1 for each purpose."""
    counts: Counter[str] = Counter()

    def next_id(purpose: str) -> str:
        counts[purpose] += 1
        return f"{counts[purpose]:032x}"

    return next_id
