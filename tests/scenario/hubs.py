"""Outsides that a sink delivers to: a WebSocket server that hands frames on, and a receiver of webhooks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import websockets
from aiohttp import web
from websockets.asyncio.server import Server, ServerConnection, serve

from tests.patience import PATIENCE
from tests.services import HOST, hold_port
from turnkeep.backoff import Backoff
from turnkeep.outbound.forwarder import ForwardRules
from turnkeep.outbound.parking import ParkingRules

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()

AGAIN_SOON = Backoff(delay=0.02, cap=0.1)
QUICKLY = ForwardRules(
    lease=2.0, pause=0.01, idle=0.05, backoff=AGAIN_SOON, parking=ParkingRules(backoff=AGAIN_SOON, look_again=0.2)
)


@dataclass
class Hub:
    """A user's own WebSocket server: frames in from anybody, and out to whoever subscribed to their channel.

    `echoes`: it sends frames to their sender too. `closes_with`: a code for connections that send such a text.
    """

    port: int
    echoes: bool = False
    closes_with: tuple[str, int] | None = None
    frames: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    _server: Server | None = None
    _open: set[ServerConnection] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}/ws"

    async def start(self) -> None:
        self._server = await serve(self._serve, HOST, self.port)

    async def stop(self) -> None:
        """Cut all connections and refuse new ones."""
        if self._server is not None:
            for connection in list(self._open):
                connection.transport.abort()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        for connection in list(self._open):
            connection.transport.abort()

    def payloads(self, channel: str) -> list[dict[str, Any]]:
        return [frame["payload"] for frame in self.frames if frame["channel"] == channel]

    def finals(self, channel: str) -> list[dict[str, Any]]:
        return [p for p in self.payloads(channel) if p["type"] == "error" or p["status"] == "completed"]

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        self._open.add(connection)
        try:
            async for text in connection:
                frame = json.loads(text)
                if self.closes_with and self.closes_with[0] in text:
                    await connection.close(self.closes_with[1])
                    return
                self.frames.append(frame)
                if self.echoes:
                    await connection.send(text)
        except websockets.ConnectionClosed:
            pass
        finally:
            self._open.discard(connection)


@contextlib.asynccontextmanager
async def hub(**options: Any) -> AsyncIterator[Hub]:
    with hold_port() as holder:  # nobody else takes the port while it is away
        one = Hub(holder.getsockname()[1], **options)
        await one.start()
        try:
            yield one
        finally:
            await one.stop()


@dataclass
class Inbox:
    """A receiver of webhooks. `answer` gives the status of each request, by its number from 0; `by_data`, where it is
    set, by the data of its event.
    """

    answer: Callable[[int], int] = lambda _: 204
    by_data: Callable[[dict[str, Any]], int] | None = None
    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        status = self.by_data(self.events[-1]["data"]) if self.by_data else self.answer(len(self.requests) - 1)
        self.statuses.append(status)
        return web.Response(status=status, headers={"location": "/elsewhere"} if status == 302 else {})


@contextlib.asynccontextmanager
async def receiver(answer: Callable[[int], int] = lambda _: 204) -> AsyncIterator[Inbox]:
    inbox = Inbox(answer)
    application = web.Application()
    application.router.add_post("/hook", inbox.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    inbox.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield inbox
    finally:
        async with asyncio.timeout(PATIENCE):
            await runner.cleanup()
