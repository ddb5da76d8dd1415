"""When each open socket of a process is pinged: one timer for all of them, where one for each would be
an eighth of what an idle socket holds; and many at a time, because a process that is woken for one
ping, and again for its answer, pays more for that than for both.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from turnkeep.telemetry import get_log

log = get_log(__name__)

PING_INTERVAL = 30.0
"""Seconds between two pings of a socket. Proxies close what is silent for a minute, some for fifty
seconds: one that comes late is no reason yet.
"""
TURNS = 30
"""Into how many turns of the wheel the sockets of one interval are gathered: each is a whole second, at
which others look around too (`clock.until_tick`).
"""
PINGS_AT_ONCE = 100
"""At one turn of the loop: ten thousand that came in one second must not be pinged before anybody else
is served.
"""


class PingedSocket(Protocol):
    """Who is pinged."""

    def send_keepalive_ping(self) -> None: ...


class PingWheel:
    """Sockets by the moment at which they are due. Lives on one event loop."""

    def __init__(self) -> None:
        self._due: dict[float, set[PingedSocket]] = {}
        self._timer: asyncio.Handle | None = None
        self._timer_moment = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._due.values()))

    def add(self, socket: PingedSocket, delay: float) -> float:
        """Ping it once, after so many seconds and a `TURNS`th of them at most. The moment by which
        `remove` finds it.
        """
        step = delay / TURNS
        moment = math.ceil((asyncio.get_running_loop().time() + delay) / step) * step
        self._due.setdefault(moment, set()).add(socket)
        self._call(moment)
        return moment

    def remove(self, socket: PingedSocket, moment: float) -> None:
        """Safe for one that is not there any more."""
        sockets = self._due.get(moment)
        if sockets is not None:
            sockets.discard(socket)
            if not sockets:
                del self._due[moment]

    def _call(self, moment: float) -> None:
        if self._timer is not None:
            if self._timer_moment <= moment:
                return
            self._timer.cancel()
        self._timer_moment = moment
        self._timer = asyncio.get_running_loop().call_at(moment, self._turn)

    def _turn(self) -> None:
        self._timer = None
        for socket in self._take(asyncio.get_running_loop().time()):
            try:
                socket.send_keepalive_ping()
            except Exception:  # of one socket: the others are pinged all the same
                log.exception("ping_broke", door="websocket")
        if self._due:
            self._call(min(self._due))

    def _take(self, now: float) -> list[PingedSocket]:
        """Those that are due, or as many of them as are pinged at once."""
        some: list[PingedSocket] = []
        for moment in sorted(moment for moment in self._due if moment <= now):
            sockets = self._due[moment]
            while sockets and len(some) < PINGS_AT_ONCE:
                some.append(sockets.pop())
            if not sockets:
                del self._due[moment]
        return some
