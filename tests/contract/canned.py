"""A server that says exactly the bytes a test wants, when it wants them, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

DONE = b"data: [DONE]\n\n"

EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass
class Visit:
    """One request, and the means to answer it. `left` is set once the client has closed the connection."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int
    left: asyncio.Event
    transport: asyncio.Transport

    def begin(self, status: int = 200, content_type: str = EVENT_STREAM, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Said", f"content-type: {content_type}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode())

    def say(self, data: bytes | str) -> None:
        data = data.encode() if isinstance(data, str) else data
        if data:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.transport.write(b"0\r\n\r\n")

    def whole(self, data: bytes | str, status: int = 200, content_type: str = EVENT_STREAM, **headers: str) -> None:
        self.begin(status, content_type, **headers)
        self.say(data)
        self.end()

    def cut(self) -> None:
        self.transport.abort()


Answer = Callable[[Visit], Awaitable[None]]


@dataclass
class Canned:
    """Where the server is and what it was asked so far."""

    url: str = ""
    visits: list[Visit] = field(default_factory=list)
    connections: int = 0

    @property
    def last(self) -> Visit:
        return self.visits[-1]


class _Connection(asyncio.Protocol):
    def __init__(self, told: Canned, answer: Answer, tasks: set[asyncio.Task[None]]) -> None:
        self._told, self._answer, self._tasks = told, answer, tasks
        self._left = asyncio.Event()
        self._data = b""
        self._number = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._told.connections += 1
        self._number = self._told.connections

    def connection_lost(self, error: Exception | None) -> None:
        self._left.set()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        if len(rest) < size:
            return
        self._data = rest[size:]
        assert self._transport is not None
        body = orjson.loads(rest[:size]) if size else {}
        visit = Visit(first.split(" ")[1], headers, body, self._number, self._left, self._transport)
        self._told.visits.append(visit)
        task = asyncio.get_running_loop().create_task(self._run(visit))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, visit: Visit) -> None:
        await self._answer(visit)


@contextlib.asynccontextmanager
async def canned(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Canned]:
    """Serve on a free port; every request gets the same answer."""
    told = Canned()
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(told, answer, tasks), "127.0.0.1", 0, ssl=tls)
    told.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield told
    finally:
        server.close()
        for visit in told.visits:
            visit.transport.abort()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def event(body: object, name: str = "") -> bytes:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"


def choice(delta: Any, reason: Any = None, index: Any = 0, **more: Any) -> bytes:
    return event({"choices": [{"index": index, "delta": delta, "finish_reason": reason, **more}]})
