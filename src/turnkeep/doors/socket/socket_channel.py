"""One subscription of a socket: what happens on its channel, as frames.

While the socket keeps up, its frames are those of the broadcast, encoded once for all. A socket
that is behind, and the past, have an encoder of their own, because text is merged for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from turnkeep.broadcast import Broadcast, Broadcasts, DialectEncoder, Payload
from turnkeep.doors.socket.peer_writer import PeerWriter
from turnkeep.events import Event
from turnkeep.hub import SubscriptionStart
from turnkeep.messages import Address
from turnkeep.telemetry import get_log
from turnkeep.wire import Dialect, Frame, WireEncoder

log = get_log(__name__)

EVERY = 0.05
"""Seconds between two cumulative frames of one channel."""
BROKEN = 1011


class SocketChannel:
    """A subscriber of the hub. Without an encoder until its first frame is out."""

    __slots__ = (
        "_backlog_top", "_broadcast", "_broadcasts", "_encoder", "_first_frame", "_flushed_at", "_loop", "_past",
        "_timer", "_writer", "address", "dialect",
    )  # fmt: skip

    def __init__(
        self,
        address: Address,
        dialect: Dialect,
        first_frame: Callable[[SubscriptionStart], Frame],
        *,
        writer: PeerWriter,
        broadcasts: Broadcasts,
    ) -> None:
        self.address = address
        self.dialect = dialect
        self._first_frame: Callable[[SubscriptionStart], Frame] | None = first_frame
        self._writer = writer
        self._broadcasts = broadcasts
        self._broadcast: Broadcast | None = None
        self._encoder: DialectEncoder | None = None
        self._past: Sequence[Event] = ()
        """What he was told of in company, just before he went alone."""
        self._backlog_top = 0
        self._flushed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def on_subscription(self, address: Address, start: SubscriptionStart) -> None:
        if self._first_frame is None:
            return
        frame, self._first_frame = self._first_frame(start), None
        # What lies below is the past: it is told in wholes, not in the pieces in
        # which it was written.
        self._backlog_top = start.top
        self._encoder = encoder = WireEncoder(address, frame["thread_id"], self.dialect, start)
        self._write([encoder.first_message(frame)])

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        """Frames for what happened. One that cannot be made ends this socket, so that its client
        comes back for it.
        """
        if self._writer.closing is not None:
            return
        try:
            if self._broadcast is not None:
                self._broadcast.deliver(events)
            elif self._encoder is not None and not self._was_told(events):
                self._encode(self._encoder, events)
        except Exception:
            self._break()

    def receive(self, payload: Payload) -> None:
        # What could not be written waits: from here on he is alone, and has what the others have.
        writer = self._writer
        if not writer.write_at_once(payload.frames) and not writer.write(payload):
            self._go_alone()

    def _was_told(self, events: Sequence[Event]) -> bool:
        """Whether the others were still in company when this came to all of them, before his turn."""
        past, self._past = self._past, ()
        return bool(past) and events[-1] is past[-1]

    async def room(self, address: Address) -> None:
        """The past comes as fast as it is read, or it would fill what is kept, and nobody could
        ever catch up.
        """
        if self.dialect.deltas:
            self._flush()
        await self._writer.wait_until_empty()

    def join(self) -> None:
        """Go on with the others, if there is nothing left to tell of the past and no frame waits.

        Called between deliveries, never in one.
        """
        if self._encoder is None or self._encoder.owes or self._broadcast is not None or not self._writer.is_level:
            return
        every = 0.0 if self.dialect.deltas else EVERY
        self._broadcast = self._broadcasts.join(self.address, self.dialect, self, self._encoder, every=every)
        if self._broadcast is not None:
            self._encoder = None

    def leave(self) -> None:
        """Be told nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._broadcast is not None:
            self._broadcast.leave(self)
        self._broadcast = self._encoder = self._first_frame = None

    def _go_alone(self) -> None:
        if self._broadcast is not None:
            self._past = self._broadcast.latest
            self._encoder, self._broadcast = self._broadcast.leave(self), None
            self._look_later()

    def _encode(self, encoder: DialectEncoder, events: Sequence[Event]) -> None:
        """Text at once if there was none for a while, else merged. Of an answer of the past only
        the whole, if no deltas are wanted.
        """
        for event in events:
            is_past = event.offset <= self._backlog_top
            if event.kind == "completed" and is_past and not self.dialect.deltas:
                encoder.flush()
            messages = encoder.encode(event)
            if self.dialect.deltas and not is_past and not self._writer.is_behind and encoder.owes:
                messages += encoder.flush()
            self._write(messages)
        if encoder.owes and not self._writer.is_behind and self._flushed_at + EVERY <= self._loop.time():
            self._flush()
        self._look_later()

    def _look_later(self) -> None:
        """Tell what is owed then, and go on with the others."""
        if self._timer is None:
            self._timer = self._loop.call_later(EVERY, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._encoder is None or self._writer.closing is not None:
            return
        # Above a timer there is only the loop, which would log the error and leave a
        # hole in the stream.
        try:
            # Of somebody who does not read yet more text is merged.
            if self._writer.is_behind:
                self._look_later()
                return
            self._flush()
            self.join()
        except Exception:
            self._break()

    def _flush(self) -> None:
        self._flushed_at = self._loop.time()
        if self._encoder is not None:
            self._write(self._encoder.flush())

    def _write(self, messages: Sequence[bytes]) -> None:
        if messages:
            self._writer.write(Payload(messages))

    def _break(self) -> None:
        log.exception("delivery_broke", door="websocket")
        self._writer.close(BROKEN, "something went wrong, resume from the last offset")
