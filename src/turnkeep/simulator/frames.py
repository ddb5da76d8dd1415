"""Frames of a stream, and how they get onto the connection.

A run yields `ReplyFrame`s. `pour` writes them at their pace; a frame may carry an act, such as to
cut the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import orjson
from starlette.types import Receive, Send

from turnkeep.clock import Clock
from turnkeep.simulator.seeded_ids import SeededIds

FrameAct = Literal["last", "reset", "close", "end", "stall"]
DROPPING_ACTS: tuple[FrameAct, ...] = ("reset", "close")
# Longer than any client waits: OpenAI's own gives up after ten minutes without a byte.
FOREVER = 3600.0
# A write for each would cost a call of the system and a turn of the loop; all at once would be no
# stream, and nobody else would get his turn.
BATCH = 16
LINGER = 0.05


# A tuple: one is made for each token.
class ReplyFrame(NamedTuple):
    """Some bytes of a stream: what to wait before them, and what to do with the connection at them.

    `last` is the terminal event; `reset` and `close` drop the connection after these bytes, `end`
    ends the body cleanly, `stall` falls silent for `wait` seconds.
    """

    data: bytes = b""
    wait: float = 0.0
    act: FrameAct | None = None
    delta: bool = False
    head: bool = False


class Wire(Protocol):
    """The connection below: chunks go straight to it, and it can be dropped."""

    def check(self) -> None:
        """Raise `ClientGone` if it is closing: the server may notice a little before it tells."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def drop(self, *, reset: bool) -> None: ...


class ConnectionDrop(Exception):
    """Makes a server that gives no `Wire` close the connection."""


class ClientGone(Exception):
    """The client is gone."""


def event(kind: str, payload: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(payload))


def data(payload: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(payload)


class FrameStream:
    """One streamed reply. With `dice` its chunks are cut at arbitrary bytes, within
    frames and characters.
    """

    def __init__(self, send: Send, wire: Wire | None, dice: SeededIds | None) -> None:
        self._send = send
        self._wire = wire
        self._dice = dice
        self._carry = b""

    async def begin(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        framing = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        if self._wire is not None:
            self._wire.check()
            framing.append((b"transfer-encoding", b"chunked"))
        await self._send({"type": "http.response.start", "status": 200, "headers": [*framing, *headers]})

    async def write(self, chunk: bytes) -> None:
        if self._dice is None:
            await self._chunk(chunk)
            return
        chunk = self._carry + chunk
        # The end of each chunk waits for the next one: else every frame would begin a chunk.
        keep = self._dice.between(0, min(24, len(chunk)))
        self._carry = chunk[len(chunk) - keep :]
        await self._pieces(chunk[: len(chunk) - keep], self._dice)

    async def flush(self) -> None:
        if self._carry:
            chunk, self._carry = self._carry, b""
            await self._chunk(chunk)

    async def end(self) -> None:
        await self.flush()
        if self._wire is not None:
            self._wire.check()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def drop(self, *, reset: bool) -> None:
        await self.flush()
        if self._wire is None:
            raise ConnectionDrop
        if reset:
            await asyncio.sleep(LINGER)  # a reset throws away what the client has not read yet
        self._wire.drop(reset=reset)

    async def _pieces(self, chunk: bytes, dice: SeededIds) -> None:
        while chunk:
            cut = dice.between(1, max(1, min(64, len(chunk))))
            await self._chunk(chunk[:cut])
            await asyncio.sleep(0)
            chunk = chunk[cut:]

    async def _chunk(self, chunk: bytes) -> None:
        if not chunk:
            return
        if self._wire is None:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        else:
            self._wire.check()
            self._wire.write(chunk)
            await self._wire.drain()


async def pour(
    frames: Iterator[ReplyFrame],
    stream: FrameStream,
    clock: Clock,
    *,
    ping: float | None,
    on_frame: Callable[[ReplyFrame], None],
) -> FrameAct:
    """Write frames at their pace; `on_frame` is told of each before its bytes go out.

    Returns ``last`` when the stream came to its end, else the act that cut it short.
    Frames without a wait are written together, at most `BATCH` at a time.
    """
    batch: list[bytes] = []
    for frame in frames:
        if frame.wait > 0:
            await _flush(batch, stream)
            await rest(frame.wait, stream, clock, ping=ping)
        # Before the bytes: a client that has read so many deltas was sent at least so many.
        on_frame(frame)
        batch.append(frame.data)
        if frame.act in ("reset", "close", "end"):
            await _flush(batch, stream)
            return frame.act
        if len(batch) >= BATCH:
            await _flush(batch, stream)
            await asyncio.sleep(0)
    await _flush(batch, stream)
    return "last"


async def rest(seconds: float, stream: FrameStream, clock: Clock, *, ping: float | None) -> None:
    """Wait, with a comment line every `ping` seconds."""
    while ping is not None and seconds > ping:
        await clock.sleep(ping)
        # A comment in SSE: readers have to pass over it.
        await stream.write(b": ping\n\n")
        seconds -= ping
    await clock.sleep(seconds)


async def until_disconnect(receive: Receive) -> None:
    """Returns never; raises `ClientGone` as soon as the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientGone


async def _flush(batch: list[bytes], stream: FrameStream) -> None:
    if batch:
        await stream.write(b"".join(batch))
        batch.clear()
