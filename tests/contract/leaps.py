"""A time of day that somebody sets between any two operations, and a store that lives with it.

    clock = LeapingClock(desk_clock, random.Random(7))
    store = MyStore(policies, clock=clock)
    await store.open()
    store = leaping(store, clock)

Every promise holds then as if nobody had touched the clock: pass the result to the contract suite.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from turnkeep.messages import Message
from turnkeep.store.contract import Store
from turnkeep.testing.fake_clock import FakeClock

_HOUR, _DAY, _YEAR = 3_600.0, 86_400.0, 31_536_000.0

LEAPS = (0.0, *(sign * span for span in (_HOUR, _DAY, 10 * _YEAR) for sign in (1, -1)))
"""Seconds that the time of day is away from what it should be; whole, so that sums stay exact."""

_AS_THEY_ARE = ("scan", "follow", "close", "ready", "wait_nudge", "revision")
"""No coroutines, no work, or waits that have to begin at once."""

Told = Callable[[float], Awaitable[object]]


class LeapingClock:
    """The clock of a test, whose time of day is set by `leap`. Seconds pass as the test says."""

    origin = ""

    def __init__(self, clock: FakeClock, dice: random.Random) -> None:
        self._clock = clock
        self._dice = dice
        self.off = 0.0

    def now(self) -> float:
        return self._clock.now() + self.off

    def elapsed(self) -> float:
        return self._clock.elapsed()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def leap(self) -> None:
        """Set the time of day, forward or back."""
        self.off = self._dice.choice(LEAPS)


def leaping(store: Store, clock: LeapingClock, *, told: Told | None = None) -> Store:
    """The same store; the time of day leaps before each operation, and `told` what it is then."""
    return cast("Store", _Leaping(store, clock, told))


class _Leaping:
    """Passes everything on."""

    def __init__(self, store: Store, clock: LeapingClock, told: Told | None) -> None:
        self._store = store
        self._clock = clock
        self._told = told

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found
        if name in _AS_THEY_ARE:
            return found
        return self._accept if name == "accept" else self._after_leap(found)

    def _after_leap(self, act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def acted(*args: Any, **options: Any) -> Any:
            await self._leap()
            return await act(*args, **options)

        return acted

    async def _accept(self, messages: Sequence[Message], **options: Any) -> Any:
        """Who sends reads the same clock, so the moments that they name have leapt as well."""
        await self._leap()
        named = [m if m.not_before is None else m.but(not_before=m.not_before + self._clock.off) for m in messages]
        return await self._store.accept(named, **options)

    async def _leap(self) -> None:
        self._clock.leap()
        if self._told is not None:
            await self._told(self._clock.now())
