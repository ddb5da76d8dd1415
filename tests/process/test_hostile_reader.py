"""One socket of many never reads: the others get their frames as fast as when it does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket as sockets
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import FULL
from tests.patience import PATIENCE
from tests.process.programs import Server

TOKEN_EVERY = 0.25
TEXT, PING, PONG = 1, 9, 10
LOUD = b'{"action": "ping", "id": "%s"}' % (b"x" * 100_000)
"""What the odd one asks for again and again: an answer of the same size."""


class Listener(asyncio.Protocol):
    """A client as small as it can be: it notes how late each piece of text is, and reads for as long as it wants."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.ends = 0
        self.transport: asyncio.Transport | None = None
        self.subscribed = asyncio.Event()
        self.lost = False
        self._buffer = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True

    def send(self, text: bytes, opcode: int = TEXT) -> None:
        assert self.transport is not None
        size, first = len(text), bytes([0x80 | opcode])
        head = first + (bytes([0x80 | size]) if size < 126 else b"\xff" + size.to_bytes(8, "big"))
        self.transport.write(head + b"\0\0\0\0" + text)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._buffer += data
        if not self._is_open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            assert b" 101 " in head.split(b"\r\n")[0], head
            self._is_open, self._buffer = True, rest
            self.send(b'{"action": "subscribe", "channel": "all", "text": "delta"}')
        while (frame := self._frame()) is not None:
            opcode, payload = frame
            if opcode == PING:
                self.send(payload, PONG)
            else:
                self._take(payload, now)

    def _frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(buffer[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(buffer[2:10], "big"), 10
        if len(buffer) < start + size:
            return None
        self._buffer = buffer[start + size :]
        return buffer[0] & 0x0F, buffer[start : start + size]

    def _take(self, payload: bytes, now: float) -> None:
        self.ends += b'"final_message":true' in payload
        if b'"status":"subscribed"' in payload:
            self.subscribed.set()
        elif b'"status":"in_progress"' in payload:
            self.late.append(now - float(payload.partition(b'"timestamp":')[2].partition(b",")[0]))


@dataclass
class Crowd:
    """Everybody who listens."""

    server: Server
    listeners: list[Listener] = field(default_factory=list)

    async def grow(self, count: int) -> None:
        for _ in range(count):
            self.listeners.append(await self.join())

    async def join(self) -> Listener:
        connection = sockets.socket()
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 16_384)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", self.server.port))
        _, listener = await loop.create_connection(Listener, sock=connection)
        async with asyncio.timeout(PATIENCE):
            await listener.subscribed.wait()
        return listener

    async def hear(self, http: aiohttp.ClientSession, name: str, tokens: int) -> list[float]:
        """One answer for all; how late each piece of text came to each."""
        for listener in self.listeners:
            listener.late, listener.ends = [], 0
        body = {"message": f"[[words:{tokens}]] [[pace:{int(TOKEN_EVERY * 1000)}]]", "message_id": name, "flush": True}
        async with http.post(f"{self.server.url}/api/channels/all/messages", json=body) as told:
            assert told.status == 202
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(tokens * TOKEN_EVERY * 3 + 30):
                while not all(listener.ends for listener in self.listeners):
                    await asyncio.sleep(0.05)
        without_end = sum(not listener.ends for listener in self.listeners)
        said = [line[:300] for line in self.server.log.splitlines() if line.startswith('{"event')]
        assert not without_end, f"{without_end} of {len(self.listeners)} have no end in {name}: {said[-8:]}"
        return [late for listener in self.listeners for late in listener.late]


@contextlib.asynccontextmanager
async def odd_one(crowd: Crowd, *, reads: bool) -> AsyncIterator[Listener]:
    """One more listener, who asks for a megabyte a second, and reads it or not."""
    listener = await crowd.join()
    assert listener.transport is not None
    if not reads:
        listener.transport.pause_reading()

    async def ask() -> None:
        while not listener.lost:
            listener.send(LOUD)
            await asyncio.sleep(0.1)

    asking = asyncio.create_task(ask())
    try:
        yield listener
    finally:
        asking.cancel()
        listener.transport.abort()


def p99(late: Sequence[float]) -> float:
    return sorted(late)[int(len(late) * 0.99)] * 1000


def megabytes(server: Server) -> float:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_others_do_not_wait_for_who_never_reads(
    tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    many, tokens, rounds = size(30, 999), size(8, 40), size(1, 7)
    settings = {"TURNKEEP_SOCKETS_PER_USER": "5000", "TURNKEEP_STORE": "memory:", "TURNKEEP_WINDOW": "0"}
    late: dict[bool, list[list[float]]] = {True: [], False: []}
    memory: dict[bool, float] = {True: 0.0, False: 0.0}
    server = Server(["serve"], tmp_path, settings)
    server.start()
    try:
        async with aiohttp.ClientSession() as http:
            await server.answers(http)
            crowd = Crowd(server)
            await crowd.grow(many)
            await crowd.hear(http, "warm-up", tokens)
            for number in range(rounds):
                for reads in (True, False) if number % 2 else (False, True):
                    async with odd_one(crowd, reads=reads):
                        late[reads].append(await crowd.hear(http, f"{number}-{reads}", tokens))
                        memory[reads] = max(memory[reads], megabytes(server))
            assert not any(listener.lost for listener in crowd.listeners)
            for listener in crowd.listeners:
                assert listener.transport is not None
                listener.transport.abort()
    finally:
        server.kill9()
    base, changed = (statistics.median(map(p99, late[reads])) for reads in (True, False))
    heard = {reads: sum(map(len, late[reads])) for reads in late}
    texts = f"rounds {rounds} | frames {heard[True]} and {heard[False]}"
    proof(
        "slow reader",
        f"sockets {many + 1} | {texts} | p99 of the others (median round) {base:.1f} ms when it reads,"
        f" {changed:.1f} ms when it never does ({(changed / base - 1) * 100:+.1f} %)"
        f" | memory {memory[True]:.1f} and {memory[False]:.1f} MB",
    )
    assert min(heard.values()) >= many * rounds  # a busy server puts several tokens into a frame
    if FULL:
        assert min(heard.values()) >= many * rounds * tokens * 0.9
        assert changed < base * 1.10
