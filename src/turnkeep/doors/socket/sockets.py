"""The open sockets of this process: who may open one, and how many."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from starlette.routing import Match, WebSocketRoute
from starlette.types import Scope
from starlette.websockets import WebSocket

from turnkeep.application import Application
from turnkeep.auth.credential_watch import CredentialWatch
from turnkeep.auth.limits import Holder, Limits, Slots, holder
from turnkeep.auth.principals import LONGEST_CREDENTIAL, PROTOCOL, Credentials, Principal, credentials_of_request
from turnkeep.doors.error_answers import error_response
from turnkeep.doors.socket.session import BROKEN, RESTART, Socket
from turnkeep.doors.socket.socket_actions import NOT_AUTHENTICATED, credentials_in
from turnkeep.doors.socket.socket_watch import SocketWatch
from turnkeep.doors.socket.writers import Broadcasts
from turnkeep.doors.socket_transport import transport_of
from turnkeep.errors import NotAuthenticated, NotFound, Rejection, TooManyRequests, TurnkeepError
from turnkeep.inputs import read_json
from turnkeep.outbound.greeting import Greeting
from turnkeep.telemetry import get_log

log = get_log(__name__)

TOO_MANY = 4408
FIRST_FRAME = 3.0
"""Seconds in which a socket without a credential has to show one, where that is allowed."""
FIRST_FRAME_BYTES = 2 * LONGEST_CREDENTIAL
WAITING = 1_000
"""Sockets that have shown nothing yet."""
WAITING_OF_ONE = 500
"""Those of one address."""


class Sockets:
    """Opens sockets, and closes all of them at the end."""

    def __init__(self, application: Application, credentials: CredentialWatch, limits: Limits) -> None:
        self._application = application
        self._access = credentials.access
        self._limits = limits
        self._greeting = Greeting(application.store)
        self._takes_first_frames = application.settings.first_frame_auth
        self._open: set[Socket] = set()
        self._watch = SocketWatch(credentials)
        self._broadcasts = Broadcasts(application.hub)
        self._waiting = 0
        self._nobodies = Slots("sockets that have shown no credential", WAITING_OF_ONE)

    def __len__(self) -> int:
        return len(self._open)

    async def answer(self, websocket: WebSocket) -> None:
        """Authenticate, then serve until the end. Whoever shows no credential at all is refused
        before the upgrade.
        """
        try:
            principal = await self._principal_of_upgrade(websocket)
        except _Nobody as nobody:
            await self._hold_back(websocket)
            await _refuse(websocket, nobody.error)
            return
        except TurnkeepError as error:
            await self._hold_back(websocket)
            # A browser tells its page no status of a refused upgrade, only the code of a close:
            # accept first.
            await self._accept(websocket)
            await websocket.close(NOT_AUTHENTICATED if error.retryable is False else RESTART, str(error)[:100])
            return
        except Exception:
            log.exception("authentication_broke", door="websocket")
            await self._accept(websocket)
            await websocket.close(BROKEN, "something went wrong")
            return
        if principal is not None:
            _know(websocket)
            await self._accept(websocket)
            await self._serve(websocket, principal)
        elif (late := await self._first_frame(websocket)) is not None:
            _know(websocket)
            await self._serve(websocket, late)

    async def _hold_back(self, websocket: WebSocket) -> None:
        await self._limits.hold_back(_peer(websocket))

    async def _accept(self, websocket: WebSocket) -> None:
        await websocket.accept(subprotocol=_subprotocol(websocket.headers), headers=await self._greeting.headers())

    def close(self) -> None:
        """Ask every client to come back."""
        # None is waited for: each ends by itself, and a deaf one is cut by its own watch.
        for socket in self._open:
            socket.close(RESTART, "restarting, come back")

    async def _principal_of_upgrade(self, websocket: WebSocket) -> Principal | None:
        """Who came, by what the upgrade shows; None: the first frame is to show it."""
        credentials = credentials_of_request(
            websocket.headers, websocket.cookies, websocket.query_params, changes=False, socket=True
        )
        try:
            return await self._access.authenticate(credentials)
        except NotAuthenticated as error:
            # What is shown and wrong is never made up for by a first frame:
            # one credential, one answer.
            if not credentials.is_nothing:
                raise
            if not self._takes_first_frames:
                raise _Nobody(error) from None
            return None

    async def _first_frame(self, websocket: WebSocket) -> Principal | None:
        """Who came, by the first frame; None: it was told, and is closed."""
        await self._accept(websocket)
        try:
            return await self._access.authenticate(await self._shown_later(websocket))
        except _ClientGone:
            return None
        except _TooMany:
            await websocket.close(TOO_MANY, "too many sockets")
        except TurnkeepError as error:
            await websocket.close(NOT_AUTHENTICATED if error.retryable is False else RESTART, str(error)[:100])
        except Exception:
            log.exception("authentication_broke", door="websocket")
            await websocket.close(BROKEN, "something went wrong")
        return None

    async def _shown_later(self, websocket: WebSocket) -> Credentials:
        # Beside the bound for each address, since addresses are cheap.
        if self._waiting >= WAITING:
            raise _TooMany
        self._waiting += 1
        try:
            with self._nobodies.of(Holder("", _peer(websocket) or "", "address")):
                async with asyncio.timeout(FIRST_FRAME):
                    event = await websocket.receive()
        except TooManyRequests:
            raise _TooMany from None
        except TimeoutError:
            raise NotAuthenticated(f"no credential came within {FIRST_FRAME:g} s") from None
        finally:
            self._waiting -= 1
        if event["type"] == "websocket.disconnect":
            raise _ClientGone
        return shown_in(event.get("text") or "")

    async def _serve(self, websocket: WebSocket, principal: Principal) -> None:
        """Until the end; on our own server as soon as all that led here has returned."""
        if (connection := transport_of(websocket.scope)) is None:
            await self._serve_now(principal, websocket)
        else:
            connection.go_on(websocket, partial(self._serve_now, principal))

    async def _serve_now(self, principal: Principal, websocket: WebSocket) -> None:
        whose = holder(principal, _peer(websocket))
        try:
            with self._limits.streaming(whose):
                socket = Socket(
                    websocket,
                    principal,
                    application=self._application,
                    broadcasts=self._broadcasts,
                    limits=self._limits,
                    watch=self._watch,
                )
                self._open.add(socket)
                self._watch.add(socket)
                try:
                    await socket.serve()
                finally:
                    self._open.discard(socket)
                    self._watch.remove(socket)
        except TooManyRequests:
            await self._hold_back(websocket)
            await websocket.close(TOO_MANY, "too many sockets")


def _peer(websocket: WebSocket) -> str | None:
    return websocket.client.host if websocket.client else None


def _know(websocket: WebSocket) -> None:
    if (connection := transport_of(websocket.scope)) is not None:
        connection.know()


async def _refuse_route(websocket: WebSocket) -> None:
    await _refuse(websocket, NotFound("there is no such route"))


class _AnyPath(WebSocketRoute):
    """What it is asked for may be no path (`*`), or hold a line break, which a pattern leaves out."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if scope["type"] == "websocket" else Match.NONE), {}


ELSEWHERE = _AnyPath("/", _refuse_route)
"""Takes each upgrade that no route before it has taken, and refuses it."""


async def _refuse(websocket: WebSocket, error: Rejection) -> None:
    """Answer the upgrade with what it is refused for. A server that can only close says 403."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(error_response(error))
        if (connection := transport_of(websocket.scope)) is not None:
            connection.refuse()
    else:
        await websocket.close()


class _Nobody(Exception):
    """no credential was shown, and the first frame may not show one"""

    def __init__(self, error: NotAuthenticated) -> None:
        super().__init__(str(error))
        self.error = error


class _ClientGone(Exception):
    """the client went away before it said who it is"""


class _TooMany(Exception):
    """too many sockets have shown nothing yet"""


def shown_in(text: str) -> Credentials:
    """The credential of a first frame. Raises `NotAuthenticated` for any other frame."""
    try:
        frame = read_json(text, limit=FIRST_FRAME_BYTES)
        if frame.get("action") == "auth":
            return credentials_in(frame)
    except TurnkeepError:
        pass
    raise NotAuthenticated('expected {"action": "auth", "token" or "ticket": …} as the first frame')


def _subprotocol(headers: Mapping[str, str]) -> str | None:
    offers = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
    return PROTOCOL if PROTOCOL in offers else None
