"""The one watch over all open sockets of a process: who does not read is cut, and whose credential
is over is closed.

A task and a timer for each of a thousand sockets would cost a twentieth of a core while nothing is
said, and to ask each of them how it does, twice a second, still half of what they cost then. So
credentials are counted as sockets come and go, and of a socket one number is looked at.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from turnkeep.auth.principals import Access, Principal
from turnkeep.errors import NotAuthenticated, StoreError
from turnkeep.telemetry import get_log

log = get_log(__name__)

LOOK_AGAIN = 0.5
"""Seconds between two looks at credentials."""
PEERS_EVERY = 4
"""Of these looks, how many for one at the peers."""


class Watchable(Protocol):
    """An open socket, as its watch sees it."""

    principal: Principal
    """Whose it is; changed by `SocketWatch.change_principal` alone."""

    @property
    def count_unsent(self) -> Callable[[], int]:
        """Tells how many bytes its peer has not taken yet."""
        ...

    def look(self, now: float) -> None:
        """End it, if its peer takes nothing. Called while bytes are unsent, and once after that."""
        ...

    def expel(self, reason: str) -> None:
        """Close it: its credential is over."""
        ...


@dataclass(slots=True)
class _Credential:
    """A principal, and how many sockets are his."""

    principal: Principal
    sockets: int = 0


class SocketWatch:
    """Looks at all that were added, as long as there is one."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._sockets: dict[Watchable, Callable[[], int]] = {}
        self._owing: set[Watchable] = set()
        """Whose peers had not taken everything at the last look."""
        # By identity: where nobody is asked all have the same one, and a hash of its fields would
        # cost more than asking twice.
        self._credentials: dict[int, _Credential] = {}
        self._watching: asyncio.Task[None] | None = None

    def add(self, socket: Watchable) -> None:
        self._sockets[socket] = socket.count_unsent
        self._count(socket.principal, 1)
        if self._watching is None:
            self._watching = asyncio.create_task(self._run())  # noqa: TID251 - of no socket: it ends with the last

    def remove(self, socket: Watchable) -> None:
        if self._sockets.pop(socket, None) is not None:
            self._count(socket.principal, -1)
            self._owing.discard(socket)
        if not self._sockets and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def change_principal(self, socket: Watchable, principal: Principal) -> None:
        """It has shown another credential."""
        self._count(principal, 1)
        self._count(socket.principal, -1)
        socket.principal = principal

    def _count(self, principal: Principal, step: int) -> None:
        credential = self._credentials.setdefault(id(principal), _Credential(principal))
        credential.sockets += step
        if not credential.sockets:
            del self._credentials[id(principal)]

    async def _run(self) -> None:
        for number in itertools.count():
            await asyncio.sleep(LOOK_AGAIN)
            if number % PEERS_EVERY == 0:
                self._look_at_peers()
            await self._look_at_credentials()

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

    async def _look_at_credentials(self) -> None:
        for principal in [credential.principal for credential in self._credentials.values()]:
            if (reason := await self._refusal(principal)) is not None:
                for socket in [one for one in self._sockets if one.principal is principal]:
                    socket.expel(reason)

    async def _refusal(self, principal: Principal) -> str | None:
        try:
            await self.access.revalidate(principal)
        except NotAuthenticated as error:
            return str(error)[:100]
        except StoreError as error:
            # Who was let in stays until somebody can be asked: a store that is away must not empty
            # the room.
            log.warning("credential_not_checked", error=error.code)
        except Exception:
            log.exception("watch_broke", door="websocket")
        return None
