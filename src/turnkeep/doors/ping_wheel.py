"""When each open socket of a process is pinged: one timer for all of them, where one for each would be
an eighth of what an idle socket holds.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from turnkeep.telemetry import get_log

log = get_log(__name__)

PING_TICK = 0.05
"""Seconds whose pings go together: a thousand sockets that came in one second must not be pinged at one
turn of the loop.
"""


class PingedSocket(Protocol):
    """Who is pinged."""

    def send_keepalive_ping(self) -> None: ...


class PingWheel:
    """Sockets by the tick at which they are due. Lives on one event loop."""

    def __init__(self) -> None:
        self._due: dict[int, set[PingedSocket]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def __len__(self) -> int:
        return sum(map(len, self._due.values()))

    def add(self, socket: PingedSocket, delay: float) -> int:
        """Ping it once, after so many seconds. The tick by which `remove` finds it."""
        tick = math.ceil((asyncio.get_running_loop().time() + delay) / PING_TICK)
        self._due.setdefault(tick, set()).add(socket)
        self._call(tick)
        return tick

    def remove(self, socket: PingedSocket, tick: int) -> None:
        """Safe for one that is not there any more."""
        sockets = self._due.get(tick)
        if sockets is not None:
            sockets.discard(socket)
            if not sockets:
                del self._due[tick]

    def _call(self, tick: int) -> None:
        if self._timer is not None:
            if self._timer_tick <= tick:
                return
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = asyncio.get_running_loop().call_at(tick * PING_TICK, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time() / PING_TICK
        for tick in sorted(tick for tick in self._due if tick <= now):
            for socket in self._due.pop(tick):
                try:
                    socket.send_keepalive_ping()
                except Exception:  # of one socket: the others are pinged all the same
                    log.exception("ping_broke", door="websocket")
        if self._due:
            self._call(min(self._due))
