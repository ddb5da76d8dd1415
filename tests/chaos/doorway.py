"""A gateway in the virtual machine: its ASGI application, called as a server would, over a way that can be cut."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.types import ASGIApp

from tests.chaos.people import Frame, Gone
from tests.chaos.virtual import Process

Event = MutableMapping[str, Any]

REPLY_TIMEOUT = 3.0


class Pipe:
    """One direction of a connection: everything arrives in order, a little later, or the end does."""

    def __init__(self, source: random.Random, delay: float) -> None:
        self._source = source
        self._delay = delay
        self._arrived: deque[Any] = deque()
        self._last = 0.0
        self._some = asyncio.Event()
        self.is_cut = False

    def put(self, thing: Any) -> None:
        loop = asyncio.get_running_loop()
        self._last = max(self._last, loop.time() + self._source.uniform(0.0, self._delay))
        loop.call_at(self._last, self.arrive, thing)

    def cut(self) -> None:
        self.is_cut = True
        self._some.set()

    async def get(self) -> Any:
        """Raises `Gone` when the connection is cut and nothing has arrived before."""
        while not self._arrived:
            if self.is_cut:
                raise Gone
            self._some.clear()
            await self._some.wait()
        return self._arrived.popleft()

    def arrive(self, thing: Any) -> None:
        if not self.is_cut:
            self._arrived.append(thing)
            self._some.set()


class Gateway:
    """A `Door` of one process."""

    def __init__(self, application: ASGIApp, process: Process, source: random.Random, *, delay: float = 0.004) -> None:
        self.process = process
        self._application = application
        self._source = source
        self._delay = delay
        self._pipes: list[Pipe] = []
        self.broken: list[str] = []
        """Errors that the application did not answer for."""
        process.at_death(self.cut_all)

    def cut_all(self) -> None:
        """Every connection ends."""
        for pipe in self._pipes:
            pipe.cut()
        self._pipes.clear()

    def _pipe(self) -> Pipe:
        pipe = Pipe(self._source, self._delay)
        self._pipes.append(pipe)
        return pipe

    def _serve(self, scope: dict[str, Any], there: Pipe, back: Pipe) -> None:
        """Call the application, as a server would: when it has ended, so has the connection."""
        if self.process.state == "dead":
            raise Gone

        async def receive() -> Event:
            try:
                event: Event = await there.get()
            except Gone:
                return {"type": f"{scope['type']}.disconnect", "code": 1006}
            return event

        async def send(event: Event) -> None:
            if back.is_cut:
                raise OSError("the other side is gone")
            back.put(event)

        async def served() -> None:
            try:
                await self._application(scope, receive, send)
            except OSError:
                pass  # it wrote to a connection that was cut
            except Exception as error:
                self.broken.append(f"{self.process.name} answered with {error!r}")
            back.put({"type": f"{scope['type']}.close"})

        self.process.keep(self.process.start(served()))

    # ------------------------------------------------------------ requests

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Frame]:
        there, back = self._pipe(), self._pipe()
        there.put({"type": "http.request", "body": orjson.dumps(body), "more_body": False})
        self._serve(_scope("http", path, method="POST"), there, back)
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                begun, ended = await back.get(), await back.get()
        except TimeoutError:
            raise Gone from None
        finally:
            there.cut()
        if ended["type"] != "http.response.body":
            raise Gone
        return begun["status"], orjson.loads(ended["body"] or b"{}")

    # ------------------------------------------------------------ sockets

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[Socket]:
        there, back = self._pipe(), self._pipe()
        there.arrive({"type": "websocket.connect"})  # a server calls nobody before it has read that
        self._serve(_scope("websocket", "/ws", subprotocols=[]), there, back)
        try:
            await _first(back)
            yield Socket(there, back)
        finally:
            there.cut()
            back.cut()


class Socket:
    """The client's end of a socket."""

    def __init__(self, there: Pipe, back: Pipe) -> None:
        self._there = there
        self._back = back

    async def send(self, frame: Frame) -> None:
        self._there.put({"type": "websocket.receive", "text": orjson.dumps(frame).decode()})

    async def heard(self) -> Frame:
        event = await self._back.get()
        if event["type"] == "websocket.close":
            raise Gone
        frame: Frame = orjson.loads(event["text"])
        return frame


async def _first(back: Pipe) -> None:
    try:
        async with asyncio.timeout(REPLY_TIMEOUT):
            accepted = await back.get()
    except TimeoutError:
        raise Gone from None
    if accepted["type"] != "websocket.accept":
        raise Gone


def _scope(kind: str, path: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "state": {},
        **more,
    }
