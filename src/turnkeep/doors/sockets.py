"""The open sockets of this process: who may open one, and how many."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.websockets import WebSocket

from turnkeep.doors.access import LONGEST, PROTOCOL, Access, Principal, Shown, shown_by
from turnkeep.doors.greeting import Greeting
from turnkeep.doors.limits import Limits
from turnkeep.doors.websocket import BROKEN, NOT_AUTHENTICATED, RESTART, Socket
from turnkeep.errors import NotAuthenticated, TurnkeepError
from turnkeep.intake import optional_text, read_json
from turnkeep.queue import AssistantMessageQueue
from turnkeep.telemetry import get_log

log = get_log(__name__)

TOO_MANY = 4408
FIRST_FRAME = 10.0
"""Seconds in which a socket without a credential has to show one."""
FIRST_FRAME_BYTES = 2 * LONGEST
WAITING = 1_000
"""Sockets that have shown nothing yet."""


class Sockets:
    """Opens sockets, and closes all of them at the end."""

    def __init__(self, queue: AssistantMessageQueue, access: Access, limits: Limits) -> None:
        self._queue = queue
        self._access = access
        self._limits = limits
        self._greeting = Greeting(queue.store)
        self._open: set[Socket] = set()
        self._of_user: dict[tuple[str, str], int] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._open)

    async def answer(self, websocket: WebSocket) -> None:
        """Authenticate, then serve until the end."""
        greeting = await self._greeting.headers()
        await websocket.accept(subprotocol=_subprotocol(websocket.headers), headers=greeting)
        try:
            principal = await self._principal(websocket)
        except NotAuthenticated as error:
            await websocket.close(NOT_AUTHENTICATED, str(error)[:100])
        except _Gone:
            return
        except _TooMany:
            await websocket.close(TOO_MANY, "too many sockets")
        except TurnkeepError as error:
            await websocket.close(NOT_AUTHENTICATED if error.retryable is False else RESTART, str(error)[:100])
        except Exception:
            log.exception("authentication_broke", door="websocket")
            await websocket.close(BROKEN, "something went wrong")
        else:
            await self._serve(websocket, principal)

    def close(self) -> None:
        """Ask every client to come back."""
        for socket in self._open:
            socket.close(RESTART, "restarting, come back")

    # ---------------------------------------------------------------- authentication

    async def _principal(self, websocket: WebSocket) -> Principal:
        shown = shown_by(websocket.headers, websocket.cookies, websocket.query_params, changes=False, socket=True)
        try:
            return await self._access.authenticate(shown)
        except NotAuthenticated:
            if not shown.is_nothing:
                raise
        return await self._access.authenticate(await self._first_frame(websocket))

    async def _first_frame(self, websocket: WebSocket) -> Shown:
        if self._waiting >= WAITING:
            raise _TooMany
        self._waiting += 1
        try:
            async with asyncio.timeout(FIRST_FRAME):
                received = await websocket.receive()
        except TimeoutError:
            raise NotAuthenticated("no credential came within 10 s") from None
        finally:
            self._waiting -= 1
        if received["type"] == "websocket.disconnect":
            raise _Gone
        return shown_in(received.get("text") or "")

    # ---------------------------------------------------------------- life

    async def _serve(self, websocket: WebSocket, principal: Principal) -> None:
        user = (principal.tenant, principal.subject)
        if self._of_user.get(user, 0) >= self._limits.sockets_per_user:
            await websocket.close(TOO_MANY, "too many sockets")
            return
        socket = Socket(websocket, self._queue, principal, self._limits, self._access)
        self._open.add(socket)
        self._of_user[user] = self._of_user.get(user, 0) + 1
        try:
            await socket.serve()
        finally:
            self._open.discard(socket)
            self._of_user[user] -= 1
            if not self._of_user[user]:
                del self._of_user[user]


class _Gone(Exception):
    """the client went away before it said who it is"""


class _TooMany(Exception):
    """too many sockets have shown nothing yet"""


def shown_in(text: str) -> Shown:
    """The credential of a first frame. Raises `NotAuthenticated` for any other frame."""
    try:
        frame = read_json(text, limit=FIRST_FRAME_BYTES)
        if frame.get("action") == "auth":
            return shown_by_frame(frame)
    except TurnkeepError:
        pass
    raise NotAuthenticated('expected {"action": "auth", "token" or "ticket": …} as the first frame')


def shown_by_frame(frame: Mapping[str, object]) -> Shown:
    """Raises `InvalidMessage`."""
    return Shown(bearer=optional_text(frame, "token", LONGEST), ticket=optional_text(frame, "ticket", LONGEST))


def _subprotocol(headers: Mapping[str, str]) -> str | None:
    offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
    return PROTOCOL if PROTOCOL in offered else None
