"""Callers that speak bytes, so that a thousand of them cost less than what they measure."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar, cast

STEP = 50
"""Connections that are opened at once."""
DELTA = b"event: response.output_text.delta"
_STATUS = re.compile(rb'"status":"(\w+)"')
_DELTA = re.compile(rb'"delta":"([^"]*)')


class Caller(asyncio.Protocol):
    """A connection; `answering` ends with the answer that was asked for last."""

    transport: asyncio.Transport
    answering: asyncio.Future[None]

    def __init__(self) -> None:
        self.tokens = 0
        self.first: float | None = None
        """Seconds until the first token."""
        self._begun_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def begin(self) -> asyncio.Future[None]:
        self.tokens, self.first = 0, None
        self._begun_at, self.answering = time.perf_counter(), asyncio.get_running_loop().create_future()
        return self.answering

    def count(self, tokens: int) -> None:
        if tokens and self.first is None:
            self.first = time.perf_counter() - self._begun_at
        self.tokens += tokens

    def end(self, error: Exception | None = None) -> None:
        answering = getattr(self, "answering", None)
        if answering is not None and not answering.done():
            answering.set_result(None) if error is None else answering.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.end(ConnectionError("the connection was lost"))


class ModelCaller(Caller):
    """Asks the model, directly or through the pump."""

    def ask(self, mode: str) -> asyncio.Future[None]:
        answering = self.begin()
        head = b"POST /%b/v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}" % mode.encode()
        self.transport.write(head)
        return answering

    def data_received(self, data: bytes) -> None:
        self.count(data.count(DELTA))
        if data.endswith(b"0\r\n\r\n"):
            self.end()


class Subscriber(Caller):
    """A WebSocket of the product, which writes to a channel and counts what comes back."""

    def __init__(self) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.opening: asyncio.Future[None] = loop.create_future()
        self.subscribing: asyncio.Future[None] = loop.create_future()
        self.accepted: float | None = None
        """Seconds until the receipt."""
        self.marks: list[tuple[str, float]] = []
        """Beginnings and ends of runs."""
        self._buffer, self._is_open = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        key = base64.b64encode(os.urandom(16))
        port = self.transport.get_extra_info("peername")[1]
        self.transport.write(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (port, key)
        )

    def send(self, request: dict[str, Any]) -> None:
        self.transport.write(masked(json.dumps(request).encode()))

    def subscribe(self, channel: str, text: str = "delta") -> asyncio.Future[None]:
        self.subscribing = asyncio.get_running_loop().create_future()
        self.send({"action": "subscribe", "channel": channel, "text": text})
        return self.subscribing

    def say(self, channel: str, text: str) -> asyncio.Future[None]:
        answering = self.begin()
        self.accepted = None
        self.send({"action": "message", "channel": channel, "message": text})
        return answering

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        if not self._is_open:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            self._greet(head)
        place = 0
        while (bounds := end_of_frame(data, place)) is not None:
            start, end = bounds
            if data[place] & 15 == 1:
                self.take(data[start:end])
            elif data[place] & 15 == 9:
                self.transport.write(masked(data[start:end], kind=0x8A))
            place = end
        self._buffer = data[place:]

    def _greet(self, head: bytes) -> None:
        if b" 101 " in head[:20]:
            self._is_open = True
            self.opening.set_result(None)
        else:
            self.opening.set_exception(ConnectionError(head[:200].decode(errors="replace")))

    def take(self, text: bytes) -> None:
        """One frame: a token, or a word about the run."""
        status = found[1] if (found := _STATUS.search(text)) else b""
        if status == b"in_progress":
            if delta := _DELTA.search(text):
                self.count(delta[1].count(b" "))
        elif status == b"accepted":
            self.accepted = time.perf_counter() - self._begun_at
        elif status == b"started":
            self.marks.append(("started", time.perf_counter()))
        elif status == b"completed" and b'"response"' in text:
            self.marks.append(("completed", time.perf_counter()))
            self.end()
        elif status == b"subscribed" and not self.subscribing.done():
            self.subscribing.set_result(None)
        elif status == b"error":
            self.end(RuntimeError(text[:300].decode(errors="replace")))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for future in (self.opening, self.subscribing):
            if not future.done():
                future.set_exception(ConnectionError("the socket was lost"))


class Counter(Subscriber):
    """A subscriber among a thousand: once `is_quick` it counts without looking into frames."""

    def __init__(self) -> None:
        super().__init__()
        self.is_quick = False
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        if not self.is_quick:
            super().data_received(data)
            return
        if data[:1] == b"\x89":  # a ping comes while nothing else does
            self.transport.write(masked(data[2 : 2 + data[1]], kind=0x8A))
            return
        data = self._tail + data
        self.tokens += data.count(b'"delta":"')
        self._tail = data[-8:]
        if b'"status":"completed"' in data:
            self.end()


def masked(data: bytes, kind: int = 0x81) -> bytes:
    """A frame as clients send it."""
    size = len(data)
    head = bytes((kind, 0x80 | size)) if size < 126 else bytes((kind, 0xFE)) + size.to_bytes(2, "big")
    key = b"\1\2\3\4"
    mask = (key * (size // 4 + 1))[:size]
    return head + key + (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


def end_of_frame(data: bytes, place: int) -> tuple[int, int] | None:
    """Where the text of the frame begins and ends; None while it is not whole."""
    if place + 2 > len(data):
        return None
    size, start = data[place + 1] & 127, place + 2
    if size > 125:
        width = 2 if size == 126 else 8
        if start + width > len(data):
            return None
        size, start = int.from_bytes(data[start : start + width], "big"), start + width
    return (start, start + size) if start + size <= len(data) else None


C = TypeVar("C", bound=Caller)


async def connect(kind: type[C], port: int, count: int) -> list[C]:
    """So many open connections."""
    loop = asyncio.get_running_loop()
    callers: list[C] = []
    for begun in range(0, count, STEP):
        dialing = [loop.create_connection(kind, "127.0.0.1", port) for _ in range(min(STEP, count - begun))]
        step = [caller for _, caller in await asyncio.gather(*dialing)]
        await asyncio.gather(*[caller.opening for caller in step if isinstance(caller, Subscriber)])
        callers += step
    return callers


async def subscribe(callers: Sequence[Subscriber], prefix: str) -> None:
    """Each to a channel of its own, or all to the one that is named without a number."""
    for begun in range(0, len(callers), STEP):
        step = [
            caller.subscribe(prefix.format(begun + place)) for place, caller in enumerate(callers[begun : begun + STEP])
        ]
        await asyncio.wait_for(asyncio.gather(*step), 30)


class HttpCaller:
    """One connection that is kept open: posts, and reads events."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
        return self._streams

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        try:
            return await self._post(path, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            # a server may close what was not used for some seconds; clients then open another one
            self.close()
            self._streams = None
            return await self._post(path, body)

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        reader, writer = await self._open()
        data = json.dumps(body).encode()
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), self._port, len(data), data)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        if found := re.search(rb"content-length: *(\d+)", head):
            return status, await reader.readexactly(int(found[1]))
        return status, b"".join([chunk async for chunk in self._chunks(reader)])

    async def events(self, path: str) -> AsyncIterator[bytes]:
        """Server-sent events, each with its blank line."""
        reader, writer = await self._open()
        writer.write(
            b"GET %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: text/event-stream\r\n\r\n" % (path.encode(), self._port)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            raise RuntimeError(head[:200].decode(errors="replace"))
        rest = b""
        async for chunk in self._chunks(reader):
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                yield event + b"\n\n"

    async def _chunks(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
