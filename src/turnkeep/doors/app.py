"""The ASGI application: all doors of one queue, to be served alone or mounted in another application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from importlib import resources

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from turnkeep.doors.access import Access, Open
from turnkeep.doors.greeting import Greeting
from turnkeep.doors.http import JSON, HttpDoor, refused
from turnkeep.doors.limits import Limits
from turnkeep.doors.sse import stream_events
from turnkeep.doors.websocket import RESTART, Socket
from turnkeep.errors import StoreError, TurnkeepError
from turnkeep.queue import AssistantMessageQueue


class Sockets:
    """The open sockets of this process."""

    def __init__(self, queue: AssistantMessageQueue, access: Access, limits: Limits) -> None:
        self._queue = queue
        self._access = access
        self._limits = limits
        self._greeting = Greeting(queue.store)
        self._open: set[Socket] = set()
        self._of_user: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def answer(self, websocket: WebSocket) -> None:
        """Authenticate before accepting, then serve until the end."""
        try:
            principal = await self._access.authenticate(websocket.headers, cookies=websocket.cookies)
        except TurnkeepError as error:
            await websocket.accept()
            await websocket.close(4401, str(error)[:100])
            return
        user = (principal.tenant, principal.subject)
        greeting = await self._greeting.headers()
        await websocket.accept(subprotocol=_subprotocol(websocket.headers), headers=greeting)
        if self._of_user.get(user, 0) >= self._limits.sockets_per_user:
            await websocket.close(4408, "too many sockets")
            return
        socket = Socket(websocket, self._queue, principal, self._limits)
        self._open.add(socket)
        self._of_user[user] = self._of_user.get(user, 0) + 1
        try:
            await socket.serve()
        finally:
            self._open.discard(socket)
            self._of_user[user] -= 1
            if not self._of_user[user]:
                del self._of_user[user]

    def close(self) -> None:
        """Ask every client to come back."""
        for socket in self._open:
            socket.close(RESTART, "restarting, come back")


def _subprotocol(headers: Mapping[str, str]) -> str | None:
    offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
    return "turnkeep" if "turnkeep" in offered else None


def app(queue: AssistantMessageQueue, *, access: Access | None = None, own_queue: bool = True) -> Starlette:
    """The application. With `own_queue` its lifespan opens and closes the queue."""
    access = access or Open()
    limits = Limits(queue.settings)
    door = HttpDoor(queue, access, limits)
    sockets = Sockets(queue, access, limits)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if own_queue:
            await queue.open()
        try:
            yield
        finally:
            sockets.close()
            if own_queue:
                await queue.close()

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def ready(_: Request) -> Response:
        try:
            await queue.store.check()
        except StoreError as error:
            return refused(error)
        return JSON({"ready": True, "engine": queue.store.engine})

    pages = resources.files("turnkeep") / "web"

    async def playground(_: Request) -> Response:
        page = (pages / "index.html").read_bytes()
        return Response(page, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    application = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/api/channels/{channel:path}/events", door.endpoint(stream_events), methods=["GET"]),
            *door.routes(),
            WebSocketRoute("/ws", sockets.answer),
            Route("/healthz", healthy),
            Route("/readyz", ready),
            Route("/", playground),
            Mount("/static", StaticFiles(packages=[("turnkeep", "web/static")]), name="static"),
        ],
    )
    application.state.queue = queue
    application.state.sockets = sockets
    return application


PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
