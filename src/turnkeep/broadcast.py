"""What happens on a channel in the words of a dialect, put into bytes once for everybody who keeps up.

A dialect is a `DialectEncoder`. Subscribers of one channel and dialect that have come equally far share
one (`Broadcast`): an event is encoded once, and the same bytes are written to each of them. Whoever
falls behind goes on with a copy of his own, because what he gets is merged, and joins the others
again when he has caught up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Protocol, Self

from turnkeep.events import Event
from turnkeep.messages import Address


class DialectEncoder(Protocol):
    """One channel in one dialect: events in, messages out, each of them bytes.

    A message is one text frame of a socket, or one event of an SSE stream with its blank line. An
    encoder begins with the answer that was shown before its first event (`SubscriptionStart`), is
    given every event of the channel in the order of the log, and knows nothing of who reads it. It
    may keep text back (`owes`) until `flush`, so that several deltas become one message.
    """

    @property
    def owes(self) -> bool:
        """There is text that `flush` would tell."""
        ...

    @property
    def state(self) -> Hashable:
        """Where it is in the log, and what it knows: equal in encoders that owe nothing and would say
        the same of every event to come.
        """
        ...

    def encode(self, event: Event) -> list[bytes]:
        """The messages of an event; text that was kept back comes first."""
        ...

    def flush(self) -> list[bytes]:
        """All text that was kept back."""
        ...

    def copy(self) -> Self:
        """One that goes on from here by itself."""
        ...


def websocket_frame(message: bytes) -> bytes:
    """One whole text frame of a server (RFC 6455, 5.2), which masks nothing."""
    size = len(message)
    if size < 126:
        return b"\x81%c%b" % (size, message)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), message)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), message)


class Payload:
    """The messages of some events, and the same as frames of a WebSocket.

    Made once, however many they are written to.
    """

    __slots__ = ("frames", "messages")

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.messages = messages
        # At once and as an attribute: it is read for each member, and a property is a call.
        self.frames = b"".join([websocket_frame(message) for message in messages])
        """Text frames, as they go over the line."""


NOTHING = Payload(())


class Member(Protocol):
    """One subscriber of a broadcast."""

    def receive(self, payload: Payload) -> None:
        """Take what all are told. May not wait, and raises nothing: the others come after him."""
        ...


class Broadcast:
    """One channel in one dialect, for all of a process who are equally far.

    `every`: seconds between two messages of text; 0: each delta at once. Members hand on each delivery
    of the hub (`deliver`), and are told what comes of it, also a little later (`Member.receive`).
    """

    __slots__ = (
        "_encoder",
        "_events",
        "_every",
        "_flushed_at",
        "_is_broken",
        "_loop",
        "_members",
        "_on_empty",
        "_timer",
    )

    def __init__(self, encoder: DialectEncoder, every: float, on_empty: Callable[[], object]) -> None:
        self._encoder = encoder
        self._every = every
        self._on_empty = on_empty
        self._members: dict[Member, None] = {}
        self._events: Sequence[Event] = ()
        self._is_broken = False
        self._flushed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def deliver(self, events: Sequence[Event]) -> None:
        """Tell all members of this delivery of the hub, which gives it to each of them, one after the
        other: the first call tells all. Raises, for each, where it cannot be put into this dialect.
        """
        if events is not self._events and not self._is_latest(events):
            # Before it is tried: what failed has moved the encoder, and fails for all.
            self._events, self._is_broken = events, True
            payload = self._encode(events)
            self._is_broken = False
            self._send(payload)
        elif self._is_broken:
            raise RuntimeError("these events could not be put into this dialect")

    @property
    def latest(self) -> Sequence[Event]:
        """The delivery that all members were told of last."""
        return self._events

    def _is_latest(self, events: Sequence[Event]) -> bool:
        """Whether they were told before, and somebody cut them out of another list."""
        # By identity: a notice beside the log has the position of the event before it.
        if not self._events or events[-1] is not self._events[-1]:
            return False
        if len(events) != len(self._events):
            raise RuntimeError("a member of this broadcast is elsewhere in the log than the others")
        return True

    def _send(self, payload: Payload) -> None:
        """The loop that fan-out is made of: one call for each member."""
        if payload.messages:
            for member in tuple(self._members):
                member.receive(payload)

    def _encode(self, events: Sequence[Event]) -> Payload:
        encoder, messages = self._encoder, list[bytes]()
        for event in events:
            messages += encoder.encode(event)
            if not self._every and encoder.owes:
                messages += encoder.flush()
        if encoder.owes:
            messages += self._flush_in_time()
        return Payload(messages) if messages else NOTHING

    def _flush_in_time(self) -> list[bytes]:
        """At once after a silence, else merged until the time has come."""
        wait = self._flushed_at + self._every - self._loop.time()
        if wait <= 0:
            return self._flush()
        if self._timer is None:
            self._timer = self._loop.call_later(wait, self._tell)
        return []

    def _flush(self) -> list[bytes]:
        self._flushed_at = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._encoder.flush()

    def _tell(self) -> None:
        """What was kept back, to all."""
        self._send(Payload(self._flush()))

    def join(self, member: Member, encoder: DialectEncoder) -> bool:
        """Share the encoder from here on, if it would say the same as this one, which owes nothing.

        Never in the middle of a delivery, which has not come to all members yet.
        """
        # What is kept back is not told twice: it is told to the others before somebody is one of them.
        if self._encoder.owes:
            self._tell()
        if encoder is not self._encoder and encoder.state != self._encoder.state:
            return False
        self._members[member] = None
        return True

    def leave(self, member: Member) -> DialectEncoder:
        """An encoder of the member's own, as far as he is."""
        self._members.pop(member, None)
        if not self._members:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._on_empty()
            return self._encoder
        return self._encoder.copy()


class Broadcasts:
    """The broadcasts of a process, by channel and dialect, while somebody is in them."""

    def __init__(self) -> None:
        self._open: dict[tuple[Address, Hashable], Broadcast] = {}

    def __len__(self) -> int:
        return len(self._open)

    def join(
        self, address: Address, dialect: Hashable, member: Member, encoder: DialectEncoder, *, every: float
    ) -> Broadcast | None:
        """Go on together with others who are as far, or first; None: the others are elsewhere."""
        key = (address, dialect)
        broadcast = self._open.get(key)
        if broadcast is None:
            broadcast = self._open[key] = Broadcast(encoder, every, partial(self._open.pop, key))
        return broadcast if broadcast.join(member, encoder) else None
