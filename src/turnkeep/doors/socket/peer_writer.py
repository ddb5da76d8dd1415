"""What is written to the peer of one socket: straight to the system while it takes it, else kept
within a bound.

On our own server there is no task for it: the transport says when it takes more. Another server
than ours is written to by a task.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.websockets import WebSocket

from turnkeep.broadcast import Payload
from turnkeep.doors.socket_transport import SocketTransport, transport_of

MERGE_ABOVE = 64_000
"""Unsent bytes from which on text is merged."""
CLOSE_ABOVE = 800_000
"""Unsent bytes that are kept for a socket at most; frames of one event that find nothing before
them may be more.
"""

TOO_SLOW = 4008
ABNORMAL = 1006


class SocketEnded(Exception):
    """nothing is written to this socket any more"""


class PeerWriter:
    """Writes in order; the frames of one event wait together or not at all.

    What does not fit closes the socket with 4008, and its client comes back for it.
    """

    __slots__ = (
        "_empty",
        "_loop",
        "_queue",
        "_some",
        "_transport",
        "_unsent_bytes",
        "_websocket",
        "closing",
        "moved_at",
        "size",
        "write_at_once",
    )  # fmt: skip

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._transport: SocketTransport | None = transport_of(websocket.scope)
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Payload] | None = None
        self._some: asyncio.Event | None = None if self._transport is not None else asyncio.Event()
        self._empty: asyncio.Event | None = None
        # Of the bytes, not the characters: one of those takes up to four, and memory
        # is what is bounded.
        self.size = 0
        self.moved_at = 0.0
        """When the peer has taken something last, of what waited for it."""
        self.closing: tuple[int, str] | None = None
        self._unsent_bytes = 0
        self.write_at_once = _takes_nothing if self._transport is None else self._transport.write_frames
        """Whether frames went to the system: the whole of `write` where that takes them, one call less
        for each of a thousand sockets. Nothing is overtaken: while something waits it takes nothing.
        """
        if self._transport is not None:
            self._transport.attach(self)

    @property
    def needs_task(self) -> bool:
        """Whether `run` has to be run."""
        return self._transport is None

    @property
    def is_level(self) -> bool:
        """Nothing waits: what is written goes to the system at once."""
        return not self._queue and self._transport is not None and self._transport.is_writable

    @property
    def is_behind(self) -> bool:
        return self.size > MERGE_ABOVE

    def write(self, payload: Payload) -> bool:
        """Whether the system has taken it; else it waits, or is left out where all is
        over. May not wait.
        """
        if not self._queue and self.write_at_once(payload.frames):
            return True
        if self.closing is None and payload.messages:
            self._keep(payload)
        return False

    def _keep(self, payload: Payload) -> None:
        size = len(payload.frames)
        # An empty queue takes any event, or one that is too large would close the
        # socket at every return.
        if self._queue and self.size + size > CLOSE_ABOVE:
            self.close(TOO_SLOW, "too slow, resume from the last offset")
            return
        if not self._queue:
            self.moved_at = self._loop.time()
            self._queue = deque()
        self._queue.append(payload)
        self.size += size
        if self._some is not None:
            self._some.set()

    def _take(self) -> Payload | None:
        if not self._queue:
            return None
        payload = self._queue.popleft()
        self.size -= len(payload.frames)
        self.moved_at = self._loop.time()
        if not self._queue:
            self._let_go()
        return payload

    def on_writable(self) -> None:
        """The system takes more."""
        transport = self._transport
        while transport is not None and transport.is_writable and (payload := self._take()) is not None:
            transport.write_frames(payload.frames)

    def on_lost(self) -> None:
        """There is nobody left to write to."""
        self.closing = self.closing or (ABNORMAL, "the connection was lost")
        self._let_go()

    async def run(self) -> None:
        """Write to another server than ours until it is closed; returns once it was."""
        while self._some is not None:
            await self._some.wait()
            self._some.clear()
            while self.closing is None and (payload := self._take()) is not None:
                for message in payload.messages:
                    await self._websocket.send_text(message.decode())
                self.moved_at = self._loop.time()
            if self.closing is not None:
                await self._websocket.close(*self.closing)
                return

    async def wait_until_empty(self) -> None:
        """Raises `SocketEnded` where nothing will be written any more."""
        if self._queue:
            self._empty = self._empty or asyncio.Event()
            await self._empty.wait()
        if self.closing is not None:
            raise SocketEnded

    def is_stuck(self) -> bool:
        """Whether the system holds something that the peer does not take; what has
        become less is progress.
        """
        if self._transport is None:
            return False
        # That nothing is kept here says nothing about the peer: what was written may stand in our
        # own transport.
        before, self._unsent_bytes = self._unsent_bytes, self._transport.unsent_bytes
        if self._unsent_bytes < before or not before:
            self.moved_at = self._loop.time()
        return self._unsent_bytes > 0

    def close(self, code: int, reason: str) -> None:
        """Ask for the end; what waits is not written any more."""
        if self.closing is not None:
            return
        self.closing, self.moved_at = (code, reason), self._loop.time()
        # Let go at once: a peer that does not read would hold it in memory until it is cut.
        self._let_go()
        if self._transport is not None:
            self._transport.end(code, reason)
        elif self._some is not None:
            self._some.set()

    def _let_go(self) -> None:
        """An idle socket holds no queue."""
        self._queue, self.size = None, 0
        if self._empty is not None:
            self._empty.set()
            self._empty = None


def _takes_nothing(_: bytes) -> bool:
    return False
