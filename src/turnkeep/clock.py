"""Time as a value that is passed in: the only place that reads the clocks of the machine.

A machine has two: the time of day, which somebody may set at any moment, and one that counts
seconds as they pass. Windows, leases and expiries are spans, so a store measures them on a
`SteadyClock`: the time of day when it was begun, and from there on the seconds that passed. Whoever
compares with a moment that was named from outside (the end of an API key, a JWT) asks
the time of day.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from pathlib import Path
from time import clock_gettime, monotonic
from typing import Protocol, runtime_checkable

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_SINCE_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
"""Counts on while the machine sleeps, as the world does."""


class Clock(Protocol):
    """The time of day in Unix seconds, and waiting."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


@runtime_checkable
class Stopwatch(Protocol):
    """Counts seconds as they pass. Two that have the same `origin` (not empty) count
    from the same moment.
    """

    @property
    def origin(self) -> str: ...

    def elapsed(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    @property
    def origin(self) -> str:
        return boot()

    # no function of ours: it is asked with every token
    elapsed = staticmethod(monotonic if _SINCE_BOOT is None else partial(clock_gettime, _SINCE_BOOT))


class SteadyClock:
    """Goes on as seconds pass, from the time of day of its beginning on; nobody can set it.

    On a clock that is no `Stopwatch` it goes on with that one, and stands still where
    that is set back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watch = clock if isinstance(clock, Stopwatch) else _CountedClock(clock)
        self.elapsed = self._watch.elapsed
        """Seconds since the origin; bound here, for it is asked with every token."""
        self._base = clock.now() - self.elapsed()

    def now(self) -> float:
        return self._base + self.elapsed()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    @property
    def origin(self) -> str:
        return self._watch.origin

    @property
    def base(self) -> float:
        """What is added to the seconds that passed since the origin."""
        return self._base

    def rebase(self, base: float) -> None:
        """Go by what others do who count from the same origin, or go on from a moment of before."""
        self._base = base

    def of_day(self, moment: float) -> float:
        """A moment that somebody named by the time of day, on this clock: as far ahead
        as it is there.

        Exactly the same where both agree within a second.
        """
        # Within a second they agree: else each call would move the moment by the time
        # between two readings.
        ahead = self.now() - self._clock.now()
        return moment + ahead if abs(ahead) > 1.0 else moment


class _CountedClock:
    """Counts how far a time of day has gone on; where it goes back nothing is known,
    and nothing is counted.
    """

    origin = ""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.now()
        self._total = 0.0

    def elapsed(self) -> float:
        # Read once and remembered: a clock that goes back and forth again counts the
        # second way only.
        before, self._last = self._last, self._clock.now()
        self._total += max(0.0, self._last - before)
        return self._total


def until_tick(every: float) -> float:
    """Seconds until the next whole multiple of these: who looks around by it wakes an idle process
    together with all others who do. Never none at all: who is woken a moment too early has the next one.
    """
    wait = every - asyncio.get_running_loop().time() % every
    return wait if wait > every / 10 else wait + every


def boot(path: Path = BOOT_ID) -> str:
    """Which run of the machine this is; empty where that cannot be known."""
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""
