"""The socket door, `/ws`: subscribe, send, stop; everything streams out in the seed dialect.

A socket is connecting, open or closing. While it is open one task reads and one writes; what is to
be written waits in a bounded outbox. A slow reader first gets merged frames, then is closed with
4008 and may resume from its last offset: nothing is lost, and nobody else notices.

Close codes: 1008 a message in too many fragments or without an end, 1009 frame too large, 1011
something broke (come back), 1012 restart (come back), 4401 not authenticated (any more), 4403 not
allowed (any more), 4408 too many sockets, 4008 too slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from turnkeep.application import Application
from turnkeep.auth.limits import Holder, Limits, holder
from turnkeep.auth.principals import Access, Principal
from turnkeep.doors.json_input import read_json
from turnkeep.doors.socket.socket_actions import NOT_AUTHENTICATED, Subscription, error_frame, perform
from turnkeep.doors.transport import transport_of
from turnkeep.errors import InvalidMessage, NotAuthenticated, StoreError, TooManyRequests, TurnkeepError
from turnkeep.events import Event
from turnkeep.hub import SubscriptionStart
from turnkeep.messages import Address
from turnkeep.telemetry import get_log
from turnkeep.wire import Dialect, Encoder, Frame, envelope, frame_bytes

log = get_log(__name__)

MERGE_ABOVE = 64_000
"""Unsent bytes from which on text is merged."""
CLOSE_ABOVE = 800_000
"""Unsent bytes that are kept for a socket at most; frames of one event that find nothing before
them may be more.
"""
CLOSE_AFTER = 10.0
"""Seconds without any progress of a full outbox."""
EVERY = 0.05
"""Seconds between two cumulative frames of one channel."""
READ_LIMIT = 2_000_000
"""Bytes of a frame that are read at all, or those of `TURNKEEP_MAX_FRAME_BYTES` where that is more."""
LOOK_AGAIN = 0.5
"""Seconds between two looks at the peer and its credential."""
LAST_WORD = 1.0
"""Seconds for the close frame to a peer that does not read."""

TOO_SLOW, BROKEN, RESTART = 4008, 1011, 1012


@dataclass(slots=True, eq=False)
class _SocketChannel:
    """One subscription of a socket. Without an encoder until its first frame is out."""

    address: Address
    dialect: Dialect
    first_frame: Callable[[SubscriptionStart], Frame]
    encoder: Encoder | None = None
    backlog_top: int = 0
    flushed_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _Outbox:
    """Frames that wait to be written, and their bytes."""

    frames: deque[bytes] = field(default_factory=deque)
    # Of the bytes, not the characters: one of those takes up to four, and memory is what is
    # bounded.
    size: int = 0
    some: asyncio.Event = field(default_factory=asyncio.Event)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    moved_at: float = 0.0

    def has_room_for(self, frames: Sequence[bytes]) -> bool:
        # The frames of one event wait together or not at all, for whoever comes back gets them
        # together: so an empty outbox takes any event, or that one would close the socket at every
        # return.
        return not self.frames or self.size + sum(map(len, frames)) <= CLOSE_ABOVE

    def put(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.size += len(frame)
        self.some.set()
        self.empty.clear()

    def take(self) -> str:
        frame = self.frames.popleft()
        self.size -= len(frame)
        if not self.frames:
            self.empty.set()
        return frame.decode()

    def clear(self) -> None:
        self.frames.clear()
        self.size = 0
        self.empty.set()


class Socket:
    """One open connection. A subscriber of the hub for each of its channels."""

    def __init__(
        self,
        websocket: WebSocket,
        application: Application,
        principal: Principal,
        limits: Limits,
        access: Access,
    ) -> None:
        self._websocket = websocket
        self.application = application
        self.principal = principal
        self.limits = limits
        self.access = access
        self._channels: dict[str, _SocketChannel] = {}
        self._by_address: dict[Address, _SocketChannel] = {}
        self._outbox = _Outbox()
        self._closing: tuple[int, str] | None = None
        self._transport = transport_of(websocket.scope)
        self._unsent_bytes = 0
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Read and write until one side ends the connection."""
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write())
                watching = group.create_task(self._watch())
                await self._read()
                # Both wait for something that may never come: only the reader learns that it is
                # over.
                writing.cancel()
                watching.cancel()
        except* (WebSocketDisconnect, WebSocketDisconnected, _SocketClosed):
            pass  # one task may write what another has closed
        finally:
            await self._leave()

    def close(self, code: int, reason: str) -> None:
        """Ask for the end; what waits is not written any more."""
        if self._closing is None:
            self._closing, self._outbox.moved_at = (code, reason), self._loop.time()
            # Let go at once: a peer that does not read would hold it in memory until it is cut.
            self._outbox.clear()
        self._outbox.some.set()

    async def _leave(self) -> None:
        for channel in list(self._channels.values()):
            if channel.timer is not None:
                channel.timer.cancel()
            await self.application.hub.unsubscribe(channel.address, self)

    async def _write(self) -> None:
        while True:
            await self._outbox.some.wait()
            self._outbox.some.clear()
            while self._outbox.frames and self._closing is None:
                await self._websocket.send_text(self._outbox.take())
                self._outbox.moved_at = self._loop.time()
            if self._closing is not None:
                await self._websocket.close(*self._closing)
                raise _SocketClosed

    async def _watch(self) -> None:
        """Close a socket that does not read, and one whose credential is over."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            owes = self._closing is not None or self._is_behind or self._is_stuck()
            if owes and self._loop.time() - self._outbox.moved_at > CLOSE_AFTER:
                await self._cut()
            await self._look_at_credential()

    def _is_stuck(self) -> bool:
        """Whether the system holds something that the peer does not take; what has become less is
        progress.
        """
        if self._transport is None:
            return False
        # An empty outbox says nothing about the peer: what was written may stand in our own
        # transport.
        before, self._unsent_bytes = self._unsent_bytes, self._transport.unsent_bytes
        if self._unsent_bytes < before or not before:
            self._outbox.moved_at = self._loop.time()
        return self._unsent_bytes > 0

    async def _look_at_credential(self) -> None:
        try:
            await self.access.revalidate(self.principal)
        except NotAuthenticated as error:
            self.close(NOT_AUTHENTICATED, str(error)[:100])
        except StoreError as error:
            # Who was let in stays until somebody can be asked: a store that is away must not empty
            # the room.
            log.warning("credential_not_checked", error=error.code)

    async def _cut(self) -> None:
        """A peer that does not read cannot be told: the connection is dropped."""
        log.info("slow_client_closed", unsent=self._outbox.size)
        self.application.meter.count("slow_clients")
        with contextlib.suppress(TimeoutError, WebSocketDisconnected):  # it may be closing already
            async with asyncio.timeout(LAST_WORD):
                await self._websocket.close(TOO_SLOW, "too slow, resume from the last offset")
        raise _SocketClosed

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
        return self._by_address.keys()

    async def subscribe(self, subscription: Subscription) -> None:
        """Follow a channel; one that is followed already begins anew. Raises `TooManyRequests`."""
        address = subscription.address
        if address.channel in self._channels:
            await self.unsubscribe(address.channel)
        if len(self._channels) >= self.limits.channels_per_socket:
            raise TooManyRequests(f"this socket has {len(self._channels)} channels, unsubscribe from one first")
        # Before the hub is asked: it may call `on_subscription` and `deliver` before it returns.
        channel = _SocketChannel(address, subscription.dialect, subscription.first_frame)
        self._channels[address.channel] = self._by_address[address] = channel
        try:
            await self.application.hub.subscribe(
                address, self, after=subscription.after, epoch=subscription.epoch, history=subscription.history
            )
        except BaseException:
            self._forget(address.channel)
            raise

    async def unsubscribe(self, channel: str) -> None:
        """Safe to repeat."""
        former = self._forget(channel)
        if former is not None:
            await self.application.hub.unsubscribe(former.address, self)

    def _forget(self, name: str) -> _SocketChannel | None:
        channel = self._channels.pop(name, None)
        if channel is not None:
            self._by_address.pop(channel.address, None)
            if channel.timer is not None:
                channel.timer.cancel()
        return channel

    def on_subscription(self, address: Address, start: SubscriptionStart) -> None:
        channel = self._by_address.get(address)
        if channel is None:
            return
        frame = channel.first_frame(start)
        # What lies below is the past: it is told in wholes, not in the pieces in which it was
        # written.
        channel.backlog_top = start.top
        channel.encoder = Encoder(
            address, frame["thread_id"], channel.dialect, answer=start.answer, replaces=not start.is_recovered
        )
        self._tell(channel, frame)

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        """Frames for what happened. One that cannot be made ends this socket, so that its client
        comes back for it.
        """
        channel = self._by_address.get(address)
        if channel is None or channel.encoder is None or self._closing is not None:
            return
        try:
            self._encode(channel, channel.encoder, events)
        except Exception:
            self._break()

    async def room(self, address: Address) -> None:
        """The past comes as fast as it is read, or it would fill the outbox, and nobody could ever
        catch up.
        """
        channel = self._by_address.get(address)
        if channel is not None and channel.dialect.deltas:
            self._flush_now(channel)
        if self._outbox.frames:
            await self._outbox.empty.wait()

    def _break(self) -> None:
        log.exception("delivery_broke", door="websocket")
        self.close(BROKEN, "something went wrong, resume from the last offset")

    def _encode(self, channel: _SocketChannel, encoder: Encoder, events: Sequence[Event]) -> None:
        """Text at once if there was none for a while, else merged. Of an answer of the past only
        the whole, if no deltas are wanted.
        """
        for event in events:
            if event.kind == "completed" and event.offset <= channel.backlog_top and not channel.dialect.deltas:
                encoder.flush()
            if channel.dialect.deltas and not self._is_behind and event.offset > channel.backlog_top:
                self._tell(channel, *encoder.encode(event))
                self._tell(channel, *encoder.flush())
            else:
                self._tell(channel, *encoder.encode(event))
        if encoder.owes:
            self._flush_in_time(channel)

    @property
    def _is_behind(self) -> bool:
        return self._outbox.size > MERGE_ABOVE

    def _flush_in_time(self, channel: _SocketChannel) -> None:
        now = self._loop.time()
        wait = EVERY if self._is_behind else channel.flushed_at + EVERY - now
        if wait <= 0:
            self._flush_now(channel)
        elif channel.timer is None:
            channel.timer = self._loop.call_later(wait, self._timed_flush, channel)

    def _timed_flush(self, channel: _SocketChannel) -> None:
        channel.timer = None
        # Above a timer there is only the loop, which would log the error and leave a hole in the
        # stream.
        try:
            if channel.encoder is not None and channel.encoder.owes:
                self._flush_in_time(channel)
        except Exception:
            self._break()

    def _flush_now(self, channel: _SocketChannel) -> None:
        if channel.timer is not None:
            channel.timer.cancel()
            channel.timer = None
        channel.flushed_at = self._loop.time()
        if channel.encoder is not None:
            self._tell(channel, *channel.encoder.flush())

    def _tell(self, channel: _SocketChannel, *frames: Frame) -> None:
        """All frames of one event, or none: who comes back gets them together."""
        if channel.dialect.in_envelopes:
            self.send(*(envelope(channel.address.channel, one) for one in frames))
        else:
            self.send(*frames)

    def send(self, *frames: Frame) -> None:
        if self._closing is not None or not frames:
            return
        # Encoded here and not by the writer: only of bytes is it known how much waits.
        data = [frame_bytes(frame) for frame in frames]
        if not self._outbox.has_room_for(data):
            self.close(TOO_SLOW, "too slow, resume from the last offset")
            return
        if not self._outbox.frames:
            self._outbox.moved_at = self._loop.time()
        for one in data:
            self._outbox.put(one)


class _SocketClosed(Exception):
    """the socket was closed by us"""
