"""Getting a run to its client, whole or as a fault wants it, and noticing at once when
the client is gone.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Protocol

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from turnkeep.simulator.exchanges import Exchange
from turnkeep.simulator.faults import Fault, FaultyRun, disturb
from turnkeep.simulator.frames import (
    DROPPING_ACTS,
    FOREVER,
    ClientGone,
    ConnectionDrop,
    FrameAct,
    FrameStream,
    ReplyFrame,
    Wire,
    pour,
    until_disconnect,
)
from turnkeep.simulator.prompt import Json
from turnkeep.simulator.quirks import Quirk
from turnkeep.simulator.world import World

HTML = b"<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>We will be right back</h1></body></html>"


class DeliverableRun(FaultyRun, Protocol):
    """What can be delivered."""

    outcome: Literal["completed", "incomplete", "failed"]

    @property
    def is_settled(self) -> bool: ...

    def body(self) -> Json: ...


class JsonReply(Response):
    """A JSON reply."""

    media_type = "application/json"

    def __init__(self, body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(orjson.dumps(body), status_code=status, headers=dict(headers or {}))


class RunDelivery:
    """The ASGI application of one reply. `abandon` is called once if the run does not end."""

    def __init__(
        self,
        world: World,
        run: DeliverableRun,
        exchange: Exchange,
        *,
        fault: Fault | None,
        streaming: bool,
        abandon: Callable[[], None],
        quirk: Quirk,
    ) -> None:
        self._world = world
        self._run = run
        self._exchange = exchange
        self._fault = fault
        self._streaming = streaming
        self._abandon = abandon
        self._quirk = quirk
        headers = world.message_headers if exchange.surface == "messages" else world.headers
        self._headers = headers(exchange.request_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = wire_of(scope)
        try:
            async with asyncio.TaskGroup() as group:
                # A server tells of a client that left through `receive` only, so somebody has to
                # listen there while the reply is written.
                watcher = group.create_task(until_disconnect(receive))
                await self._deliver(send, wire)
                watcher.cancel()
        except* ClientGone:
            self._world.ledger.finish(self._exchange, "closed_by_client", None)
        finally:
            # The first outcome counts; this one is for what ended in no way that was foreseen.
            self._world.ledger.finish(self._exchange, "failed", None)
            if not self._run.is_settled:
                self._abandon()

    async def _deliver(self, send: Send, wire: Wire | None) -> None:
        fault = self._fault
        if fault is not None and fault.kind in ("refuse", "hang", "html", "lost"):
            await self._deny(fault, send, wire)
        elif self._streaming:
            await self._stream(FrameStream(send, wire, self._world.dice if self._world.options.split else None))
        else:
            await self._whole(send, wire)

    async def _stream(self, stream: FrameStream) -> None:
        await stream.begin([(name.encode(), value.encode()) for name, value in self._headers.items()])
        act = await pour(
            self._frames(), stream, self._world.clock, ping=self._world.options.ping, on_frame=self._record_frame
        )
        if act in DROPPING_ACTS:
            self._world.ledger.finish(self._exchange, "cut")
            await stream.drop(reset=act == "reset")
            await _wait_for_watcher()
            return
        if act == "end":
            self._world.ledger.finish(self._exchange, "truncated")
        await stream.end()

    async def _whole(self, send: Send, wire: Wire | None) -> None:
        # Pace, faults and outcome are those of a stream, although nobody is shown one.
        act, is_garbled = await self._play()
        if act in DROPPING_ACTS:
            await self._drop(wire, reset=act == "reset")
            return
        body = orjson.dumps(self._run.body())
        if act == "end" or is_garbled:
            self._world.ledger.finish(self._exchange, "truncated")
            # The length that is sent is that of the half: what is broken is the JSON, not the
            # transfer.
            body = body[: len(body) // 2]
        await _send(send, wire, 200, body=body, headers={"content-type": "application/json", **self._headers})

    async def _play(self) -> tuple[FrameAct, bool]:
        """Let a run happen without showing it; how it ended, and whether its body is to be broken."""
        frames = disturb(self._run, self._fault)
        for frame in frames:
            if frame.wait > 0:
                await self._world.clock.sleep(frame.wait)
            if frame.act in (*DROPPING_ACTS, "end"):
                return frame.act or "end", False
            is_garbled = self._fault is not None and self._fault.kind == "garbage"
            if not (is_garbled and frame.act == "last"):
                self._record_frame(frame)
        return "last", self._fault is not None and self._fault.kind == "garbage"

    async def _deny(self, fault: Fault, send: Send, wire: Wire | None) -> None:
        if fault.kind == "html":
            await self._html(send, wire, fault.status or 200)
            return
        if fault.kind == "hang":
            await self._world.clock.sleep(FOREVER if fault.seconds is None else fault.seconds)
        elif fault.kind == "lost":
            await self._lose()
        await self._drop(wire, reset=fault.kind != "hang")

    async def _lose(self) -> None:
        # Answered and stored here, and the client cannot know: a blind retry pays and says it
        # twice.
        for frame in self._run.stream:
            if frame.wait > 0:
                await self._world.clock.sleep(frame.wait)
            self._exchange.sent += frame.delta
        self._world.ledger.finish(self._exchange, "lost")

    async def _html(self, send: Send, wire: Wire | None, status: int) -> None:
        self._world.ledger.finish(self._exchange, "failed", status)
        await _send(send, wire, status, body=HTML, headers={"content-type": "text/html; charset=utf-8"})

    async def _drop(self, wire: Wire | None, *, reset: bool) -> None:
        self._world.ledger.finish(self._exchange, "cut", None)
        if wire is None:
            raise ConnectionDrop
        wire.drop(reset=reset)
        await _wait_for_watcher()

    def _frames(self) -> Iterator[ReplyFrame]:
        frames = disturb(self._run, self._fault)
        # OpenAI ends responses with their last event; some of its imitations add chat's [DONE].
        if self._quirk.done_after_responses and self._exchange.surface == "responses":
            frames = itertools.chain(frames, (ReplyFrame(b"data: [DONE]\n\n"),))
        if self._quirk.crlf:
            # SSE allows all three line ends; a reader that knows LF only works until it
            # meets such a server.
            return (frame._replace(data=frame.data.replace(b"\n", b"\r\n")) for frame in frames)
        return frames

    def _record_frame(self, frame: ReplyFrame) -> None:
        self._exchange.sent += frame.delta
        if frame.act == "last":
            self._world.ledger.finish(self._exchange, self._run.outcome)


def wire_of(scope: Scope) -> Wire | None:
    """The connection itself, where the server gives it and speaks in chunks."""
    wire: Wire | None = scope.get("state", {}).get("wire")
    # Chunks written by hand are a matter of HTTP/1.1 alone.
    return wire if scope.get("http_version") == "1.1" else None


async def _wait_for_watcher() -> None:
    """Wait until the server has noticed that the connection is dropped; the watcher ends this."""
    # A reply that returns unfinished would be ended by the server, in a way of its own.
    await asyncio.sleep(FOREVER)


async def _send(send: Send, wire: Wire | None, status: int, *, body: bytes, headers: Mapping[str, str]) -> None:
    if wire is not None:
        wire.check()
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})
