"""A TCP proxy between a client and a server that delays, cuts, holds or refuses what it is told to.

Guarantees: a change of behaviour reaches open connections too; bytes are never altered or reordered, only late or
never; on leaving the `async with` every connection is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from tests.services.process import HOST, hold_port

CHUNK = 65_536


class _Link:
    """One accepted connection, and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.ends = [client]
        self.task: asyncio.Task[None] | None = None
        self.loses_reply = False
        self.doomed = False

    def cut(self) -> None:
        for end in self.ends:
            end.transport.abort()
        if self.task is not None:
            self.task.cancel()


_Passes = Callable[[_Link, bytes], Awaitable[bytes]]


class TcpProxy:
    """Listens on loopback and forwards to `host:port`; use as `async with TcpProxy("127.0.0.1", 6379) as proxy`.

    `connections` counts those accepted, `cuts` those that a behaviour has cut. The port is its own while it is open,
    also while it refuses.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self._target = (host, port)
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._group = asyncio.TaskGroup()
        self._open = asyncio.Event()
        self.lost = asyncio.Event()
        """Set when a reply was lost."""
        self.forward()

    # ------------------------------------------------------------ behaviour

    def forward(self) -> None:
        """Pass everything on at once; what was held flows now."""
        self._delay = 0.0
        self._lost_requests: tuple[bytes, ...] = ()
        self._losses = 0
        self._passing = b""
        self._holds = False
        self._budget: int | None = None
        self._open.set()

    def delay(self, seconds: float) -> None:
        """Every piece of a reply waits this long."""
        self.forward()
        self._delay = seconds

    def cut_before_reply(self, *matching: bytes, times: int = 1, hold: bool = False, passing: bytes = b"") -> None:
        """The next requests that contain one of `matching` arrive, their replies do not: the connection is cut instead.

        After `times` of them everything is forwarded again. A request in several pieces is matched piece by piece;
        with several requests in flight on one connection, the first reply after the match is the one that is lost.
        With `hold` nothing moves from the cut on until `forward`; `lost` tells when. A reply with `passing` is none
        of those: it passes, and the next request is looked at.
        """
        self.forward()
        self._lost_requests, self._losses, self._holds, self._passing = matching or (b"",), times, hold, passing
        self.lost.clear()

    def cut_after(self, count: int) -> None:
        """`count` more bytes of replies pass, then their connection is cut; after that everything is forwarded."""
        self.forward()
        self._budget = count

    def blackhole(self) -> None:
        """Connections stay open and nothing moves, in either direction, until `forward`."""
        self._open.clear()

    def lead_to(self, host: str, port: int) -> None:
        """New connections go to another server; open ones live on (see `cut_all`)."""
        self._target = (host, port)

    async def refuse(self) -> None:
        """New connections are refused; open ones live on (see `cut_all`)."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> None:
        """Listen (again)."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._take, HOST, self.port)

    def cut_all(self) -> int:
        """Cut every open connection; returns how many."""
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    @property
    def open_connections(self) -> int:
        return len(self._links)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._holder = hold_port()
        self.port = self._holder.getsockname()[1]
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self._holder.close()
        self.cut_all()
        await self._group.__aexit__(None, None, None)

    # ------------------------------------------------------------ one connection

    def _take(self, requests: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(client)
        self._links.add(link)
        link.task = self._group.create_task(self._serve(link, requests, client))

    async def _serve(self, link: _Link, requests: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            await self._open.wait()
            replies, server = await asyncio.open_connection(*self._target)
            link.ends.append(server)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, requests, server, self._pass_request))
                group.create_task(self._pump(link, replies, client, self._pass_reply))
        except OSError:
            return  # the server is not there: the client sees its connection end
        finally:
            self._links.discard(link)
            for end in link.ends:
                end.transport.abort()

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passes: _Passes
    ) -> None:
        sink.transport.set_write_buffer_limits(high=0)  # drained means sent
        try:
            while data := await source.read(CHUNK):
                await self._open.wait()
                sink.write(await passes(link, data))
                await sink.drain()
                if link.doomed:
                    self._lose(link)
            await self._open.wait()
            sink.write_eof()
        except OSError:
            link.cut()

    def _lose(self, link: _Link) -> None:
        self.cuts += 1
        if self._holds:
            self._open.clear()
        self.lost.set()
        link.cut()

    async def _pass_request(self, link: _Link, data: bytes) -> bytes:
        if self._losses > 0 and any(each in data for each in self._lost_requests):
            self._losses -= 1
            link.loses_reply = True
        return data

    async def _pass_reply(self, link: _Link, data: bytes) -> bytes:
        if link.loses_reply and self._passing and self._passing in data:
            link.loses_reply, self._losses = False, self._losses + 1
        elif link.loses_reply:
            link.doomed = True
            return b""
        if self._delay:
            await asyncio.sleep(self._delay)
        if self._budget is None:
            return data
        allowed = data[: self._budget]
        self._budget -= len(allowed)
        if self._budget == 0:
            self._budget, link.doomed = None, True
        return allowed
