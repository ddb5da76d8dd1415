"""Events are written straight to a connection of our own server, and are the answer that any server would give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from turnkeep.doors.http.sent_events import SentEvents
from turnkeep.doors.http_transport import HttpTransport, transports
from turnkeep.doors.peers import peers_of
from turnkeep.settings import Settings
from turnkeep.telemetry import SILENT

PIECES = [b"data: a\n\n", b"", b"data: " + b"b" * 70_000 + b"\n\n", "data: ä\n\n".encode()]
Pieces = Callable[[], AsyncIterator[bytes]]


async def some() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece


@asynccontextmanager
async def listening(pieces: Pieces, close: Callable[[], Awaitable[None]], *, ours: bool) -> AsyncIterator[int]:
    """A server of ours, or uvicorn's own; its port."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await SentEvents(pieces(), close)(scope, receive, send)

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    protocol = transports(peers_of(Settings(_env_file=None), SILENT))[0] if ours else H11Protocol

    def connection() -> asyncio.Protocol:
        made: asyncio.Protocol = protocol(config=config, server_state=ServerState(), app_state={})
        return made

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def nothing() -> None:
    """Nothing was opened for it."""


async def answer(port: int, *requests: str) -> bytes:
    """All that comes on one connection to these requests, the last of which ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        writer.write(f"{request}\r\nHost: localhost\r\n\r\n".encode())
    async with asyncio.timeout(10):
        data = await reader.read()
    writer.close()
    lines = data.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith((b"date:", b"server:")))


@pytest.mark.parametrize(
    "requests",
    [
        ["GET / HTTP/1.1\r\nConnection: close"],
        ["GET / HTTP/1.1", "GET / HTTP/1.1\r\nConnection: close"],
        ["GET / HTTP/1.0"],
        ["HEAD / HTTP/1.1\r\nConnection: close"],
        ["POST / HTTP/1.1\r\nContent-Length: 0", "HEAD / HTTP/1.1", "GET / HTTP/1.1\r\nConnection: close"],
    ],
    ids=["one", "two on a connection", "without chunks", "head alone", "of every kind"],
)
async def test_what_is_written_straight_is_what_uvicorn_writes(requests: list[str]) -> None:
    async with listening(some, nothing, ours=True) as ours, listening(some, nothing, ours=False) as theirs:
        assert await answer(ours, *requests) == await answer(theirs, *requests) != b""


async def test_pieces_wait_for_a_peer_that_does_not_read_and_end_with_it() -> None:
    count, ended = 0, asyncio.Event()
    paused = asyncio.Event()

    async def many() -> AsyncIterator[bytes]:
        nonlocal count
        while True:
            count += 1
            yield b"x" * 1_000_000

    async def close() -> None:
        ended.set()

    pause = HttpTransport.pause_writing

    def pause_aloud(self: HttpTransport) -> None:
        pause(self)
        paused.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpTransport, "pause_writing", pause_aloud)
        async with listening(many, close, ours=True) as port, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2_000)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await paused.wait()
            written = count
            for _ in range(100):
                await asyncio.sleep(0)
            # one that was on its way when it was told to wait
            assert count <= written + 1
            assert not ended.is_set()
            await reader.readexactly(written * 1_000_000)
            writer.transport.abort()
            await ended.wait()
