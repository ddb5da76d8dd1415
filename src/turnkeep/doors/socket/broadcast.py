"""What happens on a channel in bytes, made once for all sockets that keep up.

Sockets that follow one channel in one dialect and have come equally far share one encoder (`Broadcast`):
an event is encoded once, and the same bytes are written to each of them. Whoever falls behind goes
on with a copy of his own, because what he gets is merged, and joins the others again when he has
caught up. Streams of server-sent events have an encoder each (`event_stream`): what is written to
them goes through ASGI, which costs more than the encoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from turnkeep.events import Event
from turnkeep.hub import Hub
from turnkeep.messages import Address
from turnkeep.subscription import Subscriber
from turnkeep.telemetry import get_log
from turnkeep.wire import Dialect, WireEncoder

log = get_log(__name__)

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
