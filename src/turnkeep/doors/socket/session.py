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
from collections.abc import Callable, Collection, Sequence

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from turnkeep.application import Application
from turnkeep.auth.limits import Holder, Limits, holder
from turnkeep.auth.principals import Access, Principal
from turnkeep.doors.socket.socket_actions import NOT_AUTHENTICATED, Subscription, answer_requests
from turnkeep.doors.socket.socket_watch import SocketWatch
from turnkeep.doors.socket.writers import CLOSE_AFTER, TOO_SLOW, Broadcast, Broadcasts, Payload, PeerWriter, SocketEnded
from turnkeep.errors import NotAuthenticated, TooManyRequests
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.subscription import SubscriptionStart
from turnkeep.telemetry import get_log
from turnkeep.wire import Dialect, Frame, WireEncoder

log = get_log(__name__)

READ_LIMIT = 2_000_000
"""Bytes of a frame that are read at all, or those of `TURNKEEP_MAX_FRAME_BYTES` where that is more."""
LAST_WORD = 1.0
"""Seconds for the close frame to a peer that does not read."""

RESTART = 1012

EVERY = 0.05
"""Seconds between two cumulative frames of one channel."""
BROKEN = 1011
BROKEN_REASON = "something went wrong, resume from the last offset"


class Socket:
    """One open connection, and what it is subscribed to."""

    __slots__ = (
        "_broadcasts", "_channels", "_loop", "_watch", "_websocket", "application", "limits", "principal", "writer",
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
        self.writer = PeerWriter(websocket)
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Read and write until one side ends the connection."""
        patience = asyncio.timeout(None)
        try:
            async with patience:
                self.writer.patience = patience
                await self._converse()
        except TimeoutError:
            if not patience.expired():
                raise
            await self._say_last_word()
        finally:
            self.writer.patience = None
            await self._leave()

    async def _converse(self) -> None:
        if not self.writer.needs_task:
            with contextlib.suppress(WebSocketDisconnect, WebSocketDisconnected, SocketEnded):
                await answer_requests(self, self._websocket)
            return
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write())
                await answer_requests(self, self._websocket)
                # It waits for something that may never come: only the reader learns that it is over.
                writing.cancel()
        except* (WebSocketDisconnect, WebSocketDisconnected, SocketEnded):
            pass  # one task may write what another has closed

    @property
    def access(self) -> Access:
        return self._watch.credentials.access

    def change_principal(self, principal: Principal) -> None:
        """Go on with this credential."""
        self._watch.credentials.change_principal(self, principal)

    def close(self, code: int, reason: str) -> None:
        """Ask for the end; what waits is not written any more."""
        self.writer.close(code, reason)

    async def _leave(self) -> None:
        for channel in list(self._channels.values()):
            channel.leave()
            await self.application.hub.unsubscribe(channel.address, channel)

    async def _write(self) -> None:
        await self.writer.run()
        raise SocketEnded

    def look(self, now: float) -> None:
        """Cut the connection to a peer that does not read."""
        writer = self.writer
        owes = writer.is_behind or writer.is_stuck()
        if owes and writer.closing is None and now - writer.moved_at > CLOSE_AFTER:
            self._cut()

    @property
    def count_unsent(self) -> Callable[[], int]:
        return self.writer.count_unsent

    def expel(self, reason: NotAuthenticated) -> None:
        """Close it, because its credential is over."""
        self.close(NOT_AUTHENTICATED, str(reason)[:100])

    def _cut(self) -> None:
        """A peer that does not read cannot be told: the connection is dropped."""
        log.info("slow_client_closed", unsent=self.writer.size)
        self.application.meter.count("slow_clients")
        self.writer.close(TOO_SLOW, "too slow, resume from the last offset")
        self.writer.end_within(0.0)

    async def _say_last_word(self) -> None:
        with contextlib.suppress(TimeoutError, WebSocketDisconnected):  # it may be closing already
            async with asyncio.timeout(LAST_WORD):
                if self.writer.needs_task:
                    await self._websocket.close(TOO_SLOW, "too slow, resume from the last offset")

    @property
    def holder(self) -> Holder:
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
            writer=self.writer,
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
