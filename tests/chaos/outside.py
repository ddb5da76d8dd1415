"""Gateways of other processes as people see them: requests and sockets over the network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import websockets
from websockets.asyncio.client import ClientConnection

from tests.chaos.people import Frame, Gone
from tests.chaos.programs import HOST

REPLY_TIMEOUT = 5.0
"""Seconds until a reply counts as lost."""


class OutsideDoor:
    """One gateway, reached at a port."""

    def __init__(self, http: aiohttp.ClientSession, port: int) -> None:
        self._http = http
        self._port = port

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Frame]:
        patience = aiohttp.ClientTimeout(REPLY_TIMEOUT)
        try:
            async with self._http.post(f"http://{HOST}:{self._port}{path}", json=body, timeout=patience) as told:
                return told.status, orjson.loads(await told.read() or b"{}")
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError):
            raise Gone from None

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[OutsideSocket]:
        url = f"ws://{HOST}:{self._port}/ws"
        try:
            connection = await websockets.connect(
                url,
                open_timeout=REPLY_TIMEOUT,
                ping_interval=2.0,
                ping_timeout=REPLY_TIMEOUT,
                close_timeout=0.5,
                max_size=None,
            )
        except (OSError, TimeoutError, websockets.WebSocketException):
            raise Gone from None
        try:
            yield OutsideSocket(connection)
        finally:
            connection.transport.abort()


class OutsideSocket:
    """An open socket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frame: Frame) -> None:
        try:
            await self._connection.send(orjson.dumps(frame).decode())
        except (OSError, websockets.WebSocketException):
            raise Gone from None

    async def heard(self) -> Frame:
        try:
            frame: Frame = orjson.loads(await self._connection.recv())
        except (OSError, websockets.WebSocketException):
            raise Gone from None
        return frame
