"""What is written to sockets: by a `PeerWriter` to each, in order and within a bound; by a `Broadcast` the same bytes
to all that keep up.

Sockets that follow one channel in one dialect and have come equally far share one encoder (`Broadcast`):
an event is encoded once, and the same bytes are written to each of them. Whoever falls behind goes
on with a copy of his own, because what he gets is merged, and joins the others again when he has
caught up. Streams of server-sent events have an encoder each (`event_stream`): what is written to
them goes through ASGI, which costs more than the encoding.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from starlette.websockets import WebSocket

from turnkeep.doors.socket_transport import SocketTransport, transport_of
from turnkeep.events import Event
from turnkeep.hub import Hub
from turnkeep.messages import Address
from turnkeep.subscription import Subscriber
from turnkeep.telemetry import get_log
from turnkeep.wire import Dialect, Frame, WireEncoder, frame_bytes

log = get_log(__name__)

CLOSE_AFTER = 10.0
"""Seconds in which a peer for whom something waits takes nothing."""
MERGE_ABOVE = 64_000
"""Unsent bytes from which on text is merged."""
CLOSE_ABOVE = 800_000
"""Unsent bytes that are kept for a socket at most; frames of one event that find nothing before
them may be more.
"""

TOO_SLOW = 4008
ABNORMAL = 1006

WriteFrames = Callable[[bytes], object]
"""Takes whole frames of a member. It is called for each of a thousand and asked nothing, so whoever cannot
be written to leaves (`Broadcast.leave`) in the moment in which that begins.
"""


def websocket_frame(message: bytes) -> bytes:
    """One whole text frame of a server (RFC 6455, 5.2), which masks nothing."""
    size = len(message)
    if size < 126:
        return b"\x81%c%b" % (size, message)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), message)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), message)


class Payload:
    """The messages of some events, and the same as frames of a WebSocket."""

    __slots__ = ("frames", "messages")

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.messages = messages
        self.frames = b"".join(map(websocket_frame, messages))
        """Text frames, as they go over the line."""


class SocketEnded(Exception):
    """nothing is written to this socket any more"""


class DirectChannel(Protocol):
    """Whose frames are written past a writer for as long as the system takes all."""

    def go_alone(self) -> None:
        """What comes next cannot be written: it waits."""
        ...


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
        "direct_channels",
        "moved_at",
        "patience",
        "size",
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
        self.patience: asyncio.Timeout | None = None
        """Of whoever serves this socket, while he does."""
        self.direct_channels: tuple[DirectChannel, ...] = ()
        """Channels whose frames a broadcast writes past this, for as long as the system takes all."""
        if self._transport is not None:
            self._transport.attach(self)

    @property
    def needs_task(self) -> bool:
        """Whether `run` has to be run."""
        return self._transport is None

    @property
    def direct_write(self) -> WriteFrames | None:
        """The system's own, while nothing waits and it takes what is written. Whoever uses it is one of the
        `direct_channels`, and stops `on_unwritable`.
        """
        transport = self._transport
        return transport.write if transport is not None and transport.is_writable and not self._queue else None

    @property
    def count_unsent(self) -> Callable[[], int]:
        return self._count_kept if self._transport is None else self._transport.count_unsent

    def _count_kept(self) -> int:
        return self.size

    @property
    def is_behind(self) -> bool:
        return self.size > MERGE_ABOVE

    def send(self, *frames: Frame) -> None:
        # Encoded at once and not when it is written: only of bytes is it known how much waits.
        self.write(Payload([frame_bytes(frame) for frame in frames]))

    def write(self, payload: Payload) -> bool:
        """Whether the system has taken it; else it waits, or is left out where all is
        over. May not wait.
        """
        if not self._queue and self._transport is not None and self._transport.write_frames(payload.frames):
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

    def on_unwritable(self) -> None:
        """The system takes no more: who shares goes alone, and waits here."""
        for channel in self.direct_channels:
            channel.go_alone()

    def on_lost(self) -> None:
        """There is nobody left to write to."""
        self.closing = self.closing or (ABNORMAL, "the connection was lost")
        self.end_within(CLOSE_AFTER)
        self.on_unwritable()
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
        self.closing = (code, reason)
        self.end_within(CLOSE_AFTER)
        self.on_unwritable()
        # Let go at once: a peer that does not read would hold it in memory until it is cut.
        self._let_go()
        if self._transport is not None:
            self._transport.end(code, reason)
        elif self._some is not None:
            self._some.set()

    def end_within(self, seconds: float) -> None:
        """Serve this socket for so long at most: who serves it may wait for what never comes."""
        if self.patience is not None and not self.patience.expired():
            self.patience.reschedule(self._loop.time() + seconds)

    def _let_go(self) -> None:
        """An idle socket holds no queue."""
        self._queue, self.size = None, 0
        if self._empty is not None:
            self._empty.set()
            self._empty = None


class Member(Subscriber, Protocol):
    """A subscriber who can be told together with others."""

    def fail(self) -> None:
        """He misses something: his client has to come back for it, and he leaves. May not wait."""
        ...


class Broadcast:
    """One channel in one dialect, for all of a process who are equally far: one subscriber of the hub,
    in place of its members.

    `every`: seconds between two messages of text; 0: each delta at once.
    """

    __slots__ = (
        "_address",
        "_encoder",
        "_every",
        "_flushed_at",
        "_hub",
        "_loop",
        "_members",
        "_on_empty",
        "_timer",
        "_writes",
    )

    def __init__(
        self, hub: Hub, address: Address, encoder: WireEncoder, *, every: float, on_empty: Callable[[], object]
    ) -> None:
        self._hub = hub
        self._address = address
        self._encoder = encoder
        self._every = every
        self._on_empty = on_empty
        self._members: dict[Member, WriteFrames] = {}
        self._writes: tuple[WriteFrames, ...] | None = ()
        """How each member is written to; None: somebody has come or gone."""
        self._flushed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        """Tell all members. What cannot be put into this dialect ends them."""
        try:
            self._send(self._encode(events))
        except Exception:
            self._fail()

    def _tell_owed(self) -> None:
        """What was kept back, to all."""
        try:
            self._send(self._flush())
        except Exception:
            self._fail()

    def _fail(self) -> None:
        """What failed has moved the encoder, and fails for all."""
        log.exception("delivery_broke", members=len(self._members))
        for member in tuple(self._members):
            self._end(member)

    def _end(self, member: Member) -> None:
        """Of one who misses something: he is told nothing more. One who cannot be ended ends nobody else."""
        try:
            member.fail()
        except Exception:
            log.exception("member_not_ended", member=type(member).__name__)
        if member in self._members:
            self.leave(member)

    def _send(self, messages: Sequence[bytes]) -> None:
        """The loop that fan-out is made of. It touches nothing of a member but his connection: of a
        thousand, what has to be fetched into the processor's cache costs more than what is done with it.
        """
        if not messages:
            return
        frames = b"".join(map(websocket_frame, messages)) if len(messages) > 1 else websocket_frame(messages[0])
        if self._writes is None:
            self._writes = tuple(self._members.values())
        for write in self._writes:
            try:
                write(frames)
            except Exception as error:  # a connection that has ended just now: the others come after it
                self._lose(write, error)

    def _lose(self, write: WriteFrames, error: Exception) -> None:
        log.info("member_lost", error=f"{type(error).__name__}: {error}")
        for member in [member for member, own in self._members.items() if own is write]:
            self._end(member)

    def _encode(self, events: Sequence[Event]) -> list[bytes]:
        encoder, messages = self._encoder, list[bytes]()
        if not self._every:
            for event in events:
                messages += encoder.tell(event)
            return messages
        for event in events:
            messages += encoder.encode(event)
        return messages + self._flush_in_time() if encoder.owes else messages

    def _flush_in_time(self) -> list[bytes]:
        """At once after a silence, else merged until the time has come."""
        wait = self._flushed_at + self._every - self._loop.time()
        if wait <= 0:
            return self._flush()
        if self._timer is None:
            self._timer = self._loop.call_later(wait, self._tell_owed)
        return []

    def _flush(self) -> list[bytes]:
        self._flushed_at = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._encoder.flush()

    def join(self, member: Member, encoder: WireEncoder, write: WriteFrames) -> bool:
        """Share the encoder from here on, if it would say the same as this one, which owes nothing.

        Never in the middle of a delivery, which has not come to all members yet.
        """
        # What is kept back is not told twice: it is told to the others before somebody is one of them.
        if self._encoder.owes:
            self._tell_owed()
        if encoder is not self._encoder and (not self._members or encoder.state != self._encoder.state):
            return False
        if not self._hub.merge(self._address, member, self):
            return False
        self._members[member], self._writes = write, None
        return True

    def leave(self, member: Member) -> WireEncoder:
        """An encoder of the member's own, as far as he is: from here on he is told for himself."""
        if self._members.pop(member, None) is None:
            return self._encoder.copy()
        self._writes = None
        self._hub.split(self._address, self, member)
        if not self._members:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._on_empty()
            return self._encoder
        return self._encoder.copy()


class Broadcasts:
    """The broadcasts of a process, by channel and dialect, while somebody is in them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: dict[tuple[Address, Dialect], Broadcast] = {}

    def __len__(self) -> int:
        return len(self._open)

    def join(
        self,
        address: Address,
        dialect: Dialect,
        member: Member,
        encoder: WireEncoder,
        *,
        write: WriteFrames,
        every: float,
    ) -> Broadcast | None:
        """Go on together with others who are as far, or first; None: the others are elsewhere."""
        key = (address, dialect)
        broadcast = self._open.get(key)
        if broadcast is not None:
            return broadcast if broadcast.join(member, encoder, write) else None
        broadcast = Broadcast(self._hub, address, encoder, every=every, on_empty=partial(self._open.pop, key))
        if not broadcast.join(member, encoder, write):
            return None
        self._open[key] = broadcast
        return broadcast
