"""The socket door, `/ws`: subscribe, send, stop; everything streams out in the seed dialect.

A socket is connecting, open or closing. While it is open one task reads; what is to be written
(`PeerWriter`) goes straight to the system while it takes it, else it waits within a bound. On our
own server there is no task for it: the transport says when it takes more; another server than ours
is written to by a task. A slow reader first gets merged frames, then is closed with 4008 and may
resume from its last offset: nothing is lost, and nobody else notices.

A `SocketChannel` is one subscription: while the socket keeps up, its frames are those of the
broadcast, encoded once for all. A socket that is behind, and the past, have an encoder of their
own, because text is merged for them.

Close codes: 1008 a message in too many fragments or without an end, 1009 frame too large, 1011
something broke (come back), 1012 restart (come back), 4401 not authenticated (any more), 4403 not
allowed (any more), 4408 too many sockets, 4008 too slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from turnkeep.application import Application
from turnkeep.auth.limits import Holder, Limits, holder
from turnkeep.auth.principals import Access, Principal
from turnkeep.doors.socket.broadcast import Broadcast, Broadcasts, Payload, WriteFrames
from turnkeep.doors.socket.socket_actions import NOT_AUTHENTICATED, Subscription, error_frame, perform
from turnkeep.doors.socket.socket_watch import SocketWatch
from turnkeep.doors.socket_transport import SocketTransport, transport_of
from turnkeep.errors import InvalidMessage, TooManyRequests, TurnkeepError
from turnkeep.events import Event
from turnkeep.inputs import read_json
from turnkeep.messages import Address
from turnkeep.subscription import SubscriptionStart
from turnkeep.telemetry import get_log
from turnkeep.wire import Dialect, Frame, WireEncoder, frame_bytes

log = get_log(__name__)

CLOSE_AFTER = 10.0
"""Seconds in which a peer for whom something waits takes nothing."""
READ_LIMIT = 2_000_000
"""Bytes of a frame that are read at all, or those of `TURNKEEP_MAX_FRAME_BYTES` where that is more."""
LAST_WORD = 1.0
"""Seconds for the close frame to a peer that does not read."""

RESTART = 1012

EVERY = 0.05
"""Seconds between two cumulative frames of one channel."""
BROKEN = 1011
BROKEN_REASON = "something went wrong, resume from the last offset"

MERGE_ABOVE = 64_000
"""Unsent bytes from which on text is merged."""
CLOSE_ABOVE = 800_000
"""Unsent bytes that are kept for a socket at most; frames of one event that find nothing before
them may be more.
"""

TOO_SLOW = 4008
ABNORMAL = 1006


class Socket:
    """One open connection, and what it is subscribed to."""

    __slots__ = (
        "_broadcasts", "_channels", "_loop", "_watch", "_websocket", "_writer", "application", "limits", "principal",
    )  # fmt: skip

    def __init__(
        self,
        websocket: WebSocket,
        principal: Principal,
        *,
        application: Application,
        broadcasts: Broadcasts,
        limits: Limits,
        watch: SocketWatch,
    ) -> None:
        self._websocket = websocket
        self.principal = principal
        self.application = application
        self._broadcasts = broadcasts
        self.limits = limits
        self._watch = watch
        self._channels: dict[str, SocketChannel] = {}
        self._writer = PeerWriter(websocket)
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Read and write until one side ends the connection."""
        patience = asyncio.timeout(None)
        try:
            async with patience:
                self._writer.patience = patience
                await self._converse()
        except TimeoutError:
            if not patience.expired():
                raise
            await self._say_last_word()
        finally:
            self._writer.patience = None
            await self._leave()

    async def _converse(self) -> None:
        if not self._writer.needs_task:
            with contextlib.suppress(WebSocketDisconnect, WebSocketDisconnected, SocketEnded):
                await self._read()
            return
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write())
                await self._read()
                # It waits for something that may never come: only the reader learns that it is over.
                writing.cancel()
        except* (WebSocketDisconnect, WebSocketDisconnected, SocketEnded):
            pass  # one task may write what another has closed

    @property
    def access(self) -> Access:
        return self._watch.access

    def change_principal(self, principal: Principal) -> None:
        """Go on with this credential."""
        self._watch.change_principal(self, principal)

    def close(self, code: int, reason: str) -> None:
        """Ask for the end; what waits is not written any more."""
        self._writer.close(code, reason)

    async def _leave(self) -> None:
        for channel in list(self._channels.values()):
            channel.leave()
            await self.application.hub.unsubscribe(channel.address, channel)

    async def _write(self) -> None:
        await self._writer.run()
        raise SocketEnded

    def look(self, now: float) -> None:
        """Cut the connection to a peer that does not read."""
        writer = self._writer
        owes = writer.is_behind or writer.is_stuck()
        if owes and writer.closing is None and now - writer.moved_at > CLOSE_AFTER:
            self._cut()

    @property
    def count_unsent(self) -> Callable[[], int]:
        return self._writer.count_unsent

    def expel(self, reason: str) -> None:
        """Close it, because its credential is over."""
        self.close(NOT_AUTHENTICATED, reason)

    def _cut(self) -> None:
        """A peer that does not read cannot be told: the connection is dropped."""
        log.info("slow_client_closed", unsent=self._writer.size)
        self.application.meter.count("slow_clients")
        self._writer.close(TOO_SLOW, "too slow, resume from the last offset")
        self._writer.end_within(0.0)

    async def _say_last_word(self) -> None:
        with contextlib.suppress(TimeoutError, WebSocketDisconnected):  # it may be closing already
            async with asyncio.timeout(LAST_WORD):
                if self._writer.needs_task:
                    await self._websocket.close(TOO_SLOW, "too slow, resume from the last offset")

    async def _read(self) -> None:
        while True:
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                return
            await self._answer(event)

    async def _answer(self, event: Mapping[str, Any]) -> None:
        """One frame in; whatever is wrong with it comes back as a typed error frame."""
        request: dict[str, Any] = {}
        try:
            text = event.get("text")
            if text is None:
                raise InvalidMessage("binary frames are not taken, send JSON as text")
            request = read_json(text, limit=self.limits.frame_bytes)
            await perform(self, request)
        except TurnkeepError as error:
            # Refusals are told the later the more there are, so that guessing and flooding cost who
            # does it.
            await self.limits.hold_back(self._holder)
            self.send(error_frame(error, request, at=self.application.clock.now()))
        except SocketEnded:
            raise
        except Exception:
            # A mistake of ours ends one request: the other channels of this socket go on.
            log.exception("request_broke", door="websocket")
            self.send(error_frame(TurnkeepError(), request, at=self.application.clock.now()))

    @property
    def _holder(self) -> Holder:
        client = self._websocket.client
        return holder(self.principal, client.host if client else None)

    @property
    def addresses(self) -> Collection[Address]:
        return [channel.address for channel in self._channels.values()]

    async def subscribe(self, subscription: Subscription) -> None:
        """Follow a channel; one that is followed already begins anew. Raises `TooManyRequests`."""
        address = subscription.address
        if address.channel in self._channels:
            await self.unsubscribe(address.channel)
        if len(self._channels) >= self.limits.channels_per_socket:
            raise TooManyRequests(f"this socket has {len(self._channels)} channels, unsubscribe from one first")
        channel = SocketChannel(
            address,
            subscription.dialect,
            subscription.first_frame,
            writer=self._writer,
            broadcasts=self._broadcasts,
        )
        self._channels[address.channel] = channel
        try:
            await self.application.hub.subscribe(
                address, channel, after=subscription.after, epoch=subscription.epoch, history=subscription.history
            )
        except BaseException:
            self._channels.pop(address.channel).leave()
            raise
        channel.join()

    async def unsubscribe(self, channel: str) -> None:
        """Safe to repeat."""
        former = self._channels.pop(channel, None)
        if former is not None:
            former.leave()
            await self.application.hub.unsubscribe(former.address, former)

    def send(self, *frames: Frame) -> None:
        # Encoded at once and not when it is written: only of bytes is it known how much waits.
        self._writer.write(Payload([frame_bytes(frame) for frame in frames]))


class SocketChannel:
    """A subscriber of the hub. Without an encoder until its first frame is out."""

    __slots__ = (
        "_backlog_top", "_broadcast", "_broadcasts", "_encoder", "_first_frame", "_flushed_at", "_loop", "_timer",
        "_writer", "address", "dialect",
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
        self._encoder: WireEncoder | None = None
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
        self._write([encoder.encode_frame(frame)])

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        """Frames for what happened, while he is alone. One that cannot be made ends this socket, so
        that its client comes back for it.
        """
        if self._writer.closing is not None or self._encoder is None:
            return
        try:
            self._encode(self._encoder, events)
        except Exception:
            self._break()

    def fail(self) -> None:
        self._writer.close(BROKEN, BROKEN_REASON)

    async def wait_for_room(self, address: Address) -> None:
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
        write, encoder = self._writer.direct_write, self._encoder
        if encoder is None or encoder.owes or self._broadcast is not None or write is None:
            return
        every = 0.0 if self.dialect.deltas else EVERY
        self._broadcast = self._broadcasts.join(self.address, self.dialect, self, encoder, write=write, every=every)
        if self._broadcast is not None:
            self._encoder = None
            self._writer.direct_channels = (*self._writer.direct_channels, self)

    def leave(self) -> None:
        """Be told nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._part()
        self._encoder = self._first_frame = None

    def go_alone(self) -> None:
        """What comes next cannot be written: it waits, and more text is merged the longer it does."""
        self._encoder = self._part()
        self._look_later()

    def _part(self) -> WireEncoder | None:
        """Not be told with the others any more: an encoder that is as far as theirs."""
        if self._broadcast is None:
            return self._encoder
        broadcast, self._broadcast = self._broadcast, None
        self._writer.direct_channels = tuple(one for one in self._writer.direct_channels if one is not self)
        return broadcast.leave(self)

    def _encode(self, encoder: WireEncoder, events: Sequence[Event]) -> None:
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
        self.fail()


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
        self.direct_channels: tuple[SocketChannel, ...] = ()
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
