"""The one watch over the peers of all open sockets of a process: who does not read is cut.

A task and a timer for each of a thousand sockets would cost a twentieth of a core while nothing is
said, and to ask each of them how it does still half of what they cost then. So of a socket one
number is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from turnkeep.auth.credential_watch import CredentialUser, CredentialWatch
from turnkeep.clock import until_tick
from turnkeep.telemetry import get_log

log = get_log(__name__)

LOOK_AGAIN = 2.0
"""Seconds between two looks."""


class Watchable(CredentialUser, Protocol):
    """An open socket, as its watch sees it."""

    @property
    def count_unsent(self) -> Callable[[], int]:
        """Tells how many bytes its peer has not taken yet."""
        ...

    def look(self, now: float) -> None:
        """End it, if its peer takes nothing. Called while bytes are unsent, and once after that."""
        ...


class SocketWatch:
    """Looks at all that were added, as long as there is one; and has their credentials watched."""

    def __init__(self, credentials: CredentialWatch) -> None:
        self.credentials = credentials
        self._sockets: dict[Watchable, Callable[[], int]] = {}
        self._owing: set[Watchable] = set()
        """Whose peers had not taken everything at the last look."""
        self._watching: asyncio.Task[None] | None = None

    def add(self, socket: Watchable) -> None:
        self._sockets[socket] = socket.count_unsent
        self.credentials.add(socket)
        if self._watching is None:
            self._watching = asyncio.create_task(self._run())  # noqa: TID251 - of no socket: it ends with the last

    def remove(self, socket: Watchable) -> None:
        self.credentials.remove(socket)
        if self._sockets.pop(socket, None) is not None:
            self._owing.discard(socket)
        if not self._sockets and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(until_tick(LOOK_AGAIN))
            self._look_at_peers()

    def _look_at_peers(self) -> None:
        now = asyncio.get_running_loop().time()
        suspects, self._owing = (
            self._owing,
            {socket for socket, count_unsent in self._sockets.items() if count_unsent()},
        )
        for socket in suspects | self._owing:
            try:
                socket.look(now)
            except Exception:  # of one socket: the others are watched on
                log.exception("watch_broke", door="websocket")
