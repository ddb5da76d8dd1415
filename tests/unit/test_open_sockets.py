"""What an open socket holds and waits with, and what becomes of it when it is pinged."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect

from tests.collector import nothing_left
from tests.patience import PATIENCE
from turnkeep.doors.http_transport import HttpTransport, transports
from turnkeep.doors.peers import peers_of
from turnkeep.doors.socket_transport import Gate, ReaderQueue, SocketTransport, transport_of
from turnkeep.settings import Settings


@asynccontextmanager
async def echoing(**options: float) -> AsyncIterator[tuple[int, list[SocketTransport]]]:
    """The port of a server of sockets that says back what it hears, and its ends of them."""
    ends: list[SocketTransport] = []

    async def echo(websocket: WebSocket) -> None:
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect:
            return

    async def answer(websocket: WebSocket) -> None:
        connection = transport_of(websocket.scope)
        assert connection is not None
        await websocket.accept()
        ends.append(connection)
        connection.go_on(websocket, echo)

    http, ws = transports(peers_of(Settings(_env_file=None)))
    app = Starlette(routes=[WebSocketRoute("/ws", answer)])
    config = uvicorn.Config(app, http=http, ws=ws, lifespan="off", log_config=None, **options)  # type: ignore[arg-type]
    config.load()

    def connection() -> asyncio.Protocol:
        made: asyncio.Protocol = http(config=config, server_state=ServerState(), app_state={})
        return made

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], ends
    finally:
        server.close()


@asynccontextmanager
async def conversation(**options: float) -> AsyncIterator[tuple[ClientConnection, SocketTransport]]:
    """A socket whose server says back what it hears, and the server's end of it."""
    large = {"X-Large": "x" * 5_000}
    async with (
        echoing(**options) as (port, ends),
        asyncio.timeout(20),
        connect(f"ws://127.0.0.1:{port}/ws", additional_headers=large) as client,
    ):
        await client.send("hello")
        assert await client.recv() == "hello"
        yield client, ends[0]


async def open_bare(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A socket of a client that answers nothing by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def masked_frame(head: int, payload: bytes) -> bytes:
    mask = b"\x21\xf0\x00\xff"
    return (
        bytes((head, 0x80 | len(payload))) + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    )


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head, size = await reader.readexactly(2)
    return head, await reader.readexactly(size)


async def test_an_open_socket_holds_nothing_of_what_opened_it() -> None:
    async with conversation() as (client, connection):
        assert connection.scope.keys() == {"type", "client", "state"}
        assert connection.response is None
        (task,) = connection.tasks
        calls, coroutine = [], task.get_coro()
        while coroutine is not None and hasattr(coroutine, "cr_code"):
            calls.append(coroutine.cr_code.co_filename)
            coroutine = coroutine.cr_await
        assert not [file for file in calls if "starlette/middleware" in file or "starlette/routing" in file]
        await client.send("again")
        assert await client.recv() == "again"
    async with asyncio.timeout(20):
        while connection.tasks:
            await asyncio.sleep(0.01)


async def test_a_connection_leaves_nothing_to_the_collector_when_it_becomes_a_socket_nor_when_that_ends() -> None:
    with nothing_left(SocketTransport, WebSocket):
        async with echoing() as (port, ends), asyncio.timeout(PATIENCE):
            with nothing_left(HttpTransport):
                _, peer = await open_bare(port)
                while not ends:
                    await asyncio.sleep(0.001)
            connection = weakref.ref(ends.pop())
            peer.write(masked_frame(0x88, b"\x03\xe8"))
            while connection() is not None:
                await asyncio.sleep(0.001)
            peer.transport.abort()


async def test_an_idle_socket_is_pinged_again_and_again_and_no_more_when_it_is_gone() -> None:
    async with conversation(ws_ping_interval=0.1, ws_ping_timeout=20.0) as (_, connection):
        for _ in range(2):
            connection.last_ping_rtt = 0.0
            while not connection.last_ping_rtt:
                await asyncio.sleep(0.01)
        wheel = connection._wheel
    async with asyncio.timeout(20):
        while len(wheel) or connection.tasks:
            await asyncio.sleep(0.01)


PING, PONG, TEXT, BEGUN, REST, CLOSE = 0x89, 0x8A, 0x81, 0x01, 0x80, 0x88

ANSWERS: dict[str, Callable[[bytes], list[bytes]]] = {
    "alone": lambda ping: [masked_frame(PONG, ping)],
    "in two pieces": lambda ping: [masked_frame(PONG, ping)[:5], masked_frame(PONG, ping)[5:]],
    "behind one that nobody asked for": lambda ping: [masked_frame(PONG, b"else"), masked_frame(PONG, ping)],
    "with a message": lambda ping: [masked_frame(PONG, ping) + masked_frame(TEXT, b"hello")],
    "inside of a message": lambda ping: [
        masked_frame(BEGUN, b"hel"), masked_frame(PONG, ping), masked_frame(REST, b"lo")
    ],
    "behind the beginning of a frame": lambda ping: [
        masked_frame(TEXT, b"hello")[:4], masked_frame(TEXT, b"hello")[4:] + masked_frame(PONG, ping)
    ],
}  # fmt: skip


@pytest.mark.parametrize("how", ANSWERS)
async def test_a_peer_that_answers_a_ping_is_pinged_again_and_heard(how: str) -> None:
    async with echoing(ws_ping_interval=0.1, ws_ping_timeout=PATIENCE) as (port, _), asyncio.timeout(PATIENCE):
        reader, writer = await open_bare(port)
        pings: list[bytes] = []
        texts: list[bytes] = []
        while len(pings) < 3:
            head, payload = await next_frame(reader)
            if head == TEXT:
                texts.append(payload)
                continue
            assert head == PING
            pings.append(payload)
            for piece in ANSWERS[how](payload):
                writer.write(piece)
                await asyncio.sleep(0.01)  # each piece is read for itself
        assert set(texts) <= {b"hello"}
        assert len(set(pings)) == 3
        writer.write(masked_frame(TEXT, b"still there"))
        while (await next_frame(reader))[1] != b"still there":
            pass
        writer.close()


@pytest.mark.parametrize("says", [b"", masked_frame(PONG, b"else"), masked_frame(PONG, b""), masked_frame(TEXT, b"x")])
async def test_a_peer_that_does_not_answer_a_ping_is_closed_whatever_else_it_says(says: bytes) -> None:
    async with echoing(ws_ping_interval=0.1, ws_ping_timeout=0.1) as (port, ends), asyncio.timeout(PATIENCE):
        reader, writer = await open_bare(port)
        assert (await next_frame(reader))[0] == PING
        writer.write(says)
        while (frame := await next_frame(reader))[0] != CLOSE:
            assert frame == (TEXT, b"x")
        assert int.from_bytes(frame[1][:2], "big") == 1011
        with contextlib.suppress(ConnectionResetError):  # where it was closed before it had read what was said
            assert await reader.read() == b""
        writer.close()
        while ends[0].tasks:
            await asyncio.sleep(0.01)


class WriterUser:
    """Whoever writes past the protocol, and whether the connection was open when he was told to stop."""

    def __init__(self, connection: SocketTransport) -> None:
        self._connection = connection
        self.was_open = list[bool]()
        self.is_told = asyncio.Event()

    def on_writable(self) -> None: ...

    def on_unwritable(self) -> None:
        self.was_open.append(not self._connection.transport.is_closing())
        self.is_told.set()

    def on_lost(self) -> None: ...


async def pour(connection: SocketTransport, _: asyncio.StreamWriter) -> None:
    while connection.is_writable:
        connection.write(b"x" * 1_000_000)
        await asyncio.sleep(0)


ENDS: dict[str, Callable[[SocketTransport, asyncio.StreamWriter], object]] = {
    "its peer says that it closes": lambda _, peer: peer.write(masked_frame(0x88, b"\x03\xe8")),
    "its peer sends no more": lambda _, peer: peer.write_eof(),
    "its peer breaks the protocol": lambda _, peer: peer.write(masked_frame(0xF1, b"")),
    "no pong comes": lambda connection, _: connection.keepalive_timeout(),
    "the server goes": lambda connection, _: connection.shutdown(),
    "it is dropped": lambda connection, _: connection.drop(),
    "its peer takes nothing": pour,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_who_writes_past_the_protocol_is_told_before_the_connection_takes_no_more(
    end: Callable[[SocketTransport, asyncio.StreamWriter], object],
) -> None:
    async with echoing() as (port, ends), asyncio.timeout(PATIENCE):
        _, peer = await open_bare(port)
        while not ends:
            await asyncio.sleep(0.001)
        user = WriterUser(ends[0])
        ends[0].attach(user)
        ending = end(ends[0], peer)
        if asyncio.iscoroutine(ending):
            await ending
        await user.is_told.wait()
        peer.transport.abort()

    assert user.was_open[0]


async def test_a_queue_gives_all_in_order_and_loses_nothing_with_a_reader_that_is_cancelled() -> None:
    queue = ReaderQueue[int]()
    assert queue.empty()
    for number in range(3):
        queue.put_nowait(number)
    assert [await queue.get() for _ in range(3)] == [0, 1, 2]
    reading = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait(3)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    queue.put_nowait(4)
    async with asyncio.timeout(20):
        assert [await queue.get(), await queue.get()] == [3, 4]
    assert queue.empty()


async def test_a_gate_lets_all_through_who_were_not_cancelled() -> None:
    gate = Gate()
    await gate.wait()
    gate.clear()
    gate.clear()
    waiting = [asyncio.ensure_future(gate.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert not waiting[1].done()
    gate.set()
    gate.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*waiting[1:])
