"""The socket door, `/ws`: subscribe, send, stop; everything streams out in the seed dialect.

A socket is connecting, open or closing. While it is open one task reads; what is to be written goes
to the system at once, or waits within a bound (`peer_writer`). A slow reader first gets merged
frames, then is closed with 4008 and may resume from its last offset: nothing is lost, and nobody
else notices.

Close codes: 1008 a message in too many fragments or without an end, 1009 frame too large, 1011
something broke (come back), 1012 restart (come back), 4401 not authenticated (any more), 4403 not
allowed (any more), 4408 too many sockets, 4008 too slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from turnkeep.application import Application
from turnkeep.auth.limits import Holder, Limits, holder
from turnkeep.auth.principals import Access, Principal
from turnkeep.broadcast import Payload
from turnkeep.doors.json_input import read_json
from turnkeep.doors.socket.peer_writer import TOO_SLOW, PeerWriter, SocketEnded
from turnkeep.doors.socket.socket_actions import NOT_AUTHENTICATED, Subscription, error_frame, perform
from turnkeep.doors.socket.socket_channel import SocketChannel
from turnkeep.errors import InvalidMessage, TooManyRequests, TurnkeepError
from turnkeep.messages import Address
from turnkeep.telemetry import get_log
from turnkeep.wire import Frame, frame_bytes

log = get_log(__name__)

CLOSE_AFTER = 10.0
"""Seconds in which a peer for whom something waits takes nothing."""
READ_LIMIT = 2_000_000
"""Bytes of a frame that are read at all, or those of `TURNKEEP_MAX_FRAME_BYTES` where that is more."""
LAST_WORD = 1.0
"""Seconds for the close frame to a peer that does not read."""

RESTART = 1012


class Socket:
    """One open connection, and what it is subscribed to."""

    __slots__ = (
        "_channels", "_loop", "_patience", "_websocket", "_writer", "access", "application", "limits", "principal",
    )  # fmt: skip

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
        self._channels: dict[str, SocketChannel] = {}
        self._writer = PeerWriter(websocket)
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Read and write until one side ends the connection."""
        try:
            async with asyncio.timeout(None) as self._patience:
                await self._converse()
        except TimeoutError:
            if not self._patience.expired():
                raise
            await self._say_last_word()
        finally:
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
        owes = writer.closing is not None or writer.is_behind or writer.is_stuck()
        if owes and now - writer.moved_at > CLOSE_AFTER:
            self._cut(now)

    def expel(self, reason: str) -> None:
        """Close it, because its credential is over."""
        self.close(NOT_AUTHENTICATED, reason)

    def _cut(self, now: float) -> None:
        """A peer that does not read cannot be told: the connection is dropped."""
        if self._patience.when() is not None:
            return
        log.info("slow_client_closed", unsent=self._writer.size)
        self.application.meter.count("slow_clients")
        self._writer.close(TOO_SLOW, "too slow, resume from the last offset")
        self._patience.reschedule(now)

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
            broadcasts=self.application.broadcasts,
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
