"""The time of a store on Redis: one for all processes, that nobody can set.

Windows, leases and expiries are spans, and the clock of a server may be set while they run. So the
store has a time of its own (`clock.lua`): that of the server, set right whenever it leaps. Who
finds the leaps are the processes, which count seconds by themselves: each knows the time of the
store from its last look, and goes on from there. A leap forward is one that brings more seconds
than a process counted which looked since; a leap back shows by itself. Rejected: TIME in every
script, which moves all leases at once when an administrator sets the clock; the clocks of the
processes, which differ.
"""

from __future__ import annotations

import asyncio
from typing import Any

from turnkeep.clock import SteadyClock
from turnkeep.store.redis.client.link import Link
from turnkeep.store.redis.client.pipe import Refusal, Reply
from turnkeep.store.redis.codec import exact
from turnkeep.store.redis.server_fitness import changed_layout

LOOK_AT_CLOCK_EVERY = 1.0
"""Seconds between two looks at the server while anything is done."""


class StoreTime:
    """What one process knows of the time of the store. Until the first look it has none."""

    def __init__(
        self, watch: SteadyClock, key: bytes, layout_key: bytes, *, tolerance: float, partitions: int | None
    ) -> None:
        """`tolerance`: seconds a look may take; smaller leaps are not told from a slow network.
        `partitions`: how many this process goes by; None: it changes them itself.
        """
        self._seconds = watch.elapsed
        self._key = key
        self._keys = (key, layout_key)
        self._partitions = partitions
        self.obstacle: str | None = None
        """Why this process may do nothing more here: the store has become another one while it ran.
        Each look at the time brings it, because there is one in each second that anything is done in;
        what is done first after a rest is done before it.
        """
        self._tolerance = tolerance
        self._base: float | None = None
        self._told_at = self._asked_at = float("-inf")
        self.ahead = 0.0
        """Seconds by which the store is ahead of the server's clock."""

    def now(self, link: Link | None = None) -> float:
        """With a link, the server is asked behind what was sent last, if it is time to."""
        seconds = self._seconds()
        if link is not None and seconds - self._asked_at >= LOOK_AT_CLOCK_EVERY:
            # Behind what was sent last, and not awaited: with every token somebody
            # asks for the time.
            self._ask(link, seconds)
        return (self._base or 0.0) + seconds

    def of_day(self, moment: float) -> float:
        """A moment of the server's clock in the store's time; the same within a second."""
        return moment + self.ahead if abs(self.ahead) > 1.0 else moment

    async def look(self, link: Link) -> float:
        """Ask the server, and return the time. Raises `StoreError`."""
        self._asked_at = self._seconds()
        self._hear(await link.run_apart("clock", self._key, self._keys, *self._account()), self._asked_at)
        return self.now()

    def _ask(self, link: Link, asked_at: float) -> None:
        answer = link.ask("clock", self._key, self._keys, *self._account())
        if answer is not None:
            self._asked_at = asked_at
            answer.add_done_callback(lambda reply: self._hear_if_any(reply, asked_at))

    def _account(self) -> tuple[bytes, bytes, bytes]:
        """What this process knows, for the script."""
        tolerance = exact(self._tolerance)
        if self._base is None:
            # Nothing to compare with: a first look cannot find a leap.
            return b"", b"", tolerance
        duration = self._seconds() - self._told_at
        return exact(self.now()), exact(duration), tolerance

    def _hear_if_any(self, reply: asyncio.Future[Reply], asked_at: float) -> None:
        if not reply.cancelled() and reply.exception() is None and not isinstance(reply.result(), Refusal):
            self._hear(reply.result(), asked_at)

    def _hear(self, reply: Any, asked_at: float) -> None:
        """The answer was given between asking and now: in the middle, for all that is known."""
        now, self.ahead = float(reply[0]), float(reply[1])
        if self._partitions is not None:
            self.obstacle = changed_layout(reply[2], reply[3], self._partitions)
        heard_at = self._seconds()
        self._base = now - (asked_at + heard_at) / 2
        self._told_at = asked_at
