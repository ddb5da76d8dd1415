"""The socket door, `/ws`: subscribe, send, stop; everything streams out in the seed dialect.

A socket is connecting, open or closing. While it is open one task reads and one writes; what is to be written waits
in a bounded outbox. A slow reader first gets merged frames, then is closed with 4008 and may resume from its last
offset: nothing is lost, and nobody else notices.

Close codes: 1008 a message in too many fragments or without an end, 1009 frame too large, 1011 something broke (come
back), 1012 restart (come back), 4401 not authenticated (any more), 4403 not allowed (any more), 4408 too many sockets,
4008 too slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from turnkeep.application import Application
from turnkeep.auth import authority
from turnkeep.auth.limits import Holder, Limits, holder
from turnkeep.auth.principals import LONGEST, Access, Credentials, Principal, Scope
from turnkeep.doors import acceptance
from turnkeep.doors.error_answers import error_body
from turnkeep.doors.socket.changes import ASKING, CHANGES, Caller, key_of
from turnkeep.doors.transport import transport_of
from turnkeep.errors import (
    InvalidMessage,
    NotAllowed,
    NotAuthenticated,
    StoreError,
    TooManyRequests,
    TurnkeepError,
)
from turnkeep.events import Event
from turnkeep.hub import SubscriptionStart
from turnkeep.inputs import OURS, drops_inbox, optional_text, read_channel, read_json
from turnkeep.messages import Address
from turnkeep.telemetry import get_log
from turnkeep.wire import Dialect, Encoder, Frame, envelope, frame_bytes, subscription_frame

log = get_log(__name__)

MERGE_ABOVE = 64_000
"""Unsent bytes from which on text is merged."""
CLOSE_ABOVE = 800_000
"""Unsent bytes that are kept for a socket at most; frames of one event that find nothing before them may be more."""
CLOSE_AFTER = 10.0
"""Seconds without any progress of a full outbox."""
EVERY = 0.05
"""Seconds between two cumulative frames of one channel."""
READ_LIMIT = 2_000_000
"""Bytes of a frame that are read at all, or those of `TURNKEEP_MAX_FRAME_BYTES` where that is more."""

LOOK_AGAIN = 0.5
"""Seconds between two looks at the peer and its credential."""

TOO_SLOW, BROKEN, RESTART, NOT_AUTHENTICATED, NOT_ALLOWED = 4008, 1011, 1012, 4401, 4403


@dataclass(slots=True, eq=False)
class _SocketChannel:
    """One subscription of a socket."""

    address: Address
    dialect: Dialect
    reply: Callable[[SubscriptionStart], Frame]
    encoder: Encoder | None = None
    backlog_top: int = 0
    flushed_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _Outbox:
    """Frames that wait to be written, and their bytes."""

    frames: deque[bytes] = field(default_factory=deque)
    size: int = 0
    some: asyncio.Event = field(default_factory=asyncio.Event)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    moved_at: float = 0.0

    def has_room_for(self, frames: Sequence[bytes]) -> bool:
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


@dataclass(frozen=True, slots=True)
class Action:
    """What may be asked on a socket. `scope` None: it is about no channel."""

    act: Callable[[Socket, dict[str, Any]], Awaitable[None]]
    scope: Scope | None


class Socket:
    """One open connection. A subscriber of the hub for each of its channels."""

    def __init__(
        self,
        websocket: WebSocket,
        queue: Application,
        principal: Principal,
        limits: Limits,
        access: Access,
    ) -> None:
        self._websocket = websocket
        self._queue = queue
        self._principal = principal
        self._limits = limits
        self._access = access
        self._channels: dict[str, _SocketChannel] = {}
        self._by_address: dict[Address, _SocketChannel] = {}
        self._outbox = _Outbox()
        self._closing: tuple[int, str] | None = None
        self._transport = transport_of(websocket.scope)
        self._unsent_bytes = 0
        self._loop = asyncio.get_running_loop()

    # ---------------------------------------------------------------- life

    async def serve(self) -> None:
        """Read and write until one side ends the connection."""
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write())
                watching = group.create_task(self._watch())
                await self._read()
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
            self._outbox.clear()
        self._outbox.some.set()

    async def _leave(self) -> None:
        for channel in list(self._channels.values()):
            if channel.timer is not None:
                channel.timer.cancel()
            await self._queue.hub.unsubscribe(channel.address, self)

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
        """Whether the system holds something that the peer does not take; what has become less is progress."""
        if self._transport is None:
            return False
        before, self._unsent_bytes = self._unsent_bytes, self._transport.unsent_bytes
        if self._unsent_bytes < before or not before:
            self._outbox.moved_at = self._loop.time()
        return self._unsent_bytes > 0

    async def _look_at_credential(self) -> None:
        try:
            await self._access.still(self._principal)
        except NotAuthenticated as error:
            self.close(NOT_AUTHENTICATED, str(error)[:100])
        except StoreError as error:
            log.warning("credential_not_checked", error=error.code)

    async def _cut(self) -> None:
        """A peer that does not read cannot be told: the connection is dropped."""
        log.info("slow_client_closed", unsent=self._outbox.size)
        self._queue.meter.count("slow_clients")
        with contextlib.suppress(TimeoutError, WebSocketDisconnected):  # it may be closing already
            async with asyncio.timeout(1.0):
                await self._websocket.close(TOO_SLOW, "too slow, resume from the last offset")
        raise _SocketClosed

    # ---------------------------------------------------------------- reading

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
            request = read_json(text, limit=self._limits.frame_bytes)
            await self._act(request)
        except TurnkeepError as error:
            await self._limits.hold_back(self._holder)
            self._send(self._error(error, request))
        except Exception:
            log.exception("request_broke", door="websocket")
            self._send(self._error(TurnkeepError(), request))

    async def _act(self, request: dict[str, Any]) -> None:
        name, request = _action(request, self._actions)
        action = self._actions[name]
        if action.scope is not None:
            self._principal.require(action.scope, self._address(request).channel)
        if name != "message":  # which has rates of its own
            self._limits.check_request(self._principal)
        await action.act(self, request)

    @property
    def _holder(self) -> Holder:
        client = self._websocket.client
        return holder(self._principal, client.host if client else None)

    def _once(self, request: Mapping[str, Any]) -> str | None:
        return authority.once(self._principal, key_of(request))

    def _address(self, request: Mapping[str, Any]) -> Address:
        return self._queue.address(read_channel(request), self._principal.tenant)

    # ---------------------------------------------------------------- actions

    async def _message(self, request: dict[str, Any]) -> None:
        address = self._address(request)
        message = authority.message_of(request, address, self._limits, self._principal)
        receipt = await acceptance.accept(self._queue, self._limits, self._principal, message)
        frame = self._status(request, "accepted", message_id=receipt.message_id, thread_id=receipt.thread_id)
        self._send(frame | {"receipt": receipt.to_json(), "channel": address.channel})

    async def _subscribe(self, request: dict[str, Any]) -> None:
        address = self._address(request)
        after, epoch = _position(request)
        history = _count(request, "history", 1000)
        dialect = _dialect(request)
        record = await self._queue.store.thread(address)
        thread_id = record.thread_id if record else None
        if address.channel in self._channels:
            await self._unsubscribe_from(address.channel)
        if len(self._channels) >= self._limits.channels_per_socket:
            raise TooManyRequests(f"this socket has {len(self._channels)} channels, unsubscribe from one first")
        channel = _SocketChannel(
            address, dialect, lambda start: self._subscription_reply(request, address, thread_id, start)
        )
        self._channels[address.channel] = self._by_address[address] = channel
        try:
            await self._queue.hub.subscribe(address, self, after=after, epoch=epoch, history=history)
        except BaseException:
            self._forget(address.channel)
            raise

    def _subscription_reply(
        self, request: Mapping[str, Any], address: Address, thread_id: str | None, start: SubscriptionStart
    ) -> Frame:
        return subscription_frame(address, thread_id, start, at=self._queue.clock.now()) | _echo(request)

    async def _unsubscribe(self, request: dict[str, Any]) -> None:
        address = self._address(request)
        await self._unsubscribe_from(address.channel)
        self._send(self._status(request, "unsubscribed") | {"channel": address.channel})

    async def _unsubscribe_from(self, name: str) -> None:
        channel = self._forget(name)
        if channel is not None:
            await self._queue.hub.unsubscribe(channel.address, self)

    def _forget(self, name: str) -> _SocketChannel | None:
        channel = self._channels.pop(name, None)
        if channel is not None:
            self._by_address.pop(channel.address, None)
            if channel.timer is not None:
                channel.timer.cancel()
        return channel

    async def _ping(self, request: dict[str, Any]) -> None:
        self._send(self._status(request, "pong"))

    async def _typing(self, request: dict[str, Any]) -> None:
        address = self._address(request)
        due_in = await self._queue.store.typing(address, once=self._once(request))
        self._send(self._status(request, "typing") | {"channel": address.channel, "due_in": due_in})

    async def _flush(self, request: dict[str, Any]) -> None:
        address = self._address(request)
        is_done = await self._queue.store.flush(address, once=self._once(request))
        self._send(self._status(request, "flushed") | {"channel": address.channel, "done": is_done})

    async def _cancel(self, request: dict[str, Any]) -> None:
        address = self._address(request)
        drop_inbox, once = drops_inbox(request), self._once(request)
        is_done = await authority.stop(self._queue, self._principal, address, drop_inbox=drop_inbox, once=once)
        self._send(self._status(request, "cancelling") | {"channel": address.channel, "done": is_done})

    async def _decide(self, request: dict[str, Any]) -> None:
        """Decide or submit a requested action: call_id, digest, decision (approved, denied, output), output."""
        address = self._address(request)
        once = self._once(request)
        call = await authority.decide(self._queue, self._principal, address, request, once=once)
        self._send(self._status(request, "decided") | {"channel": address.channel, "call": call})

    async def _change(self, request: dict[str, Any]) -> None:
        address = self._address(request)
        if request["action"] in ASKING:
            self._limits.check_rate(self._principal, address)
        caller = Caller(self._principal, self._limits)
        status, fields = await CHANGES[request["action"]](self._queue, caller, address, request)
        self._send(self._status(request, status) | {"channel": address.channel} | fields)

    async def _auth(self, request: dict[str, Any]) -> None:
        """Go on with a fresh credential of the same tenant; what it does not reach ends the connection."""
        credentials = Credentials(
            bearer=optional_text(request, "token", LONGEST), ticket=optional_text(request, "ticket", LONGEST)
        )
        try:
            principal = await self._access.authenticate(credentials)
            if principal.tenant != self._principal.tenant or principal.subject != self._principal.subject:
                raise NotAllowed("this credential is somebody else's")
            for address in self._by_address:
                principal.require("read", address.channel)
        except NotAuthenticated as error:
            self.close(NOT_AUTHENTICATED, str(error)[:100])
        except NotAllowed as error:
            self.close(NOT_ALLOWED, str(error)[:100])
        else:
            self._principal = principal
            self._send(self._status(request, "authenticated") | {"expires_at": principal.expires_at})

    _actions: ClassVar[Mapping[str, Action]] = {
        "auth": Action(_auth, None),
        "ping": Action(_ping, None),
        "message": Action(_message, "send"),
        "subscribe": Action(_subscribe, "read"),
        "unsubscribe": Action(_unsubscribe, "read"),
        "typing": Action(_typing, "send"),
        "flush": Action(_flush, "send"),
        "cancel": Action(_cancel, "send"),
        "decide": Action(_decide, "approve"),
        **dict.fromkeys(CHANGES, Action(_change, "send")),
    }

    @classmethod
    def actions(cls) -> Mapping[str, Action]:
        """What may be asked on a socket, and the scope each needs."""
        return cls._actions

    # ---------------------------------------------------------------- streaming

    def on_subscription(self, address: Address, start: SubscriptionStart) -> None:
        channel = self._by_address.get(address)
        if channel is None:
            return
        frame = channel.reply(start)
        channel.backlog_top = start.top
        channel.encoder = Encoder(
            address, frame["thread_id"], channel.dialect, answer=start.answer, replaces=not start.is_recovered
        )
        self._tell(channel, frame)

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        """Frames for what happened. One that cannot be made ends this socket, so that its client comes back for it."""
        channel = self._by_address.get(address)
        if channel is None or channel.encoder is None or self._closing is not None:
            return
        try:
            self._encode(channel, channel.encoder, events)
        except Exception:
            self._break()

    async def room(self, address: Address) -> None:
        """The past comes as fast as it is read, or it would fill the outbox, and nobody could ever catch up."""
        channel = self._by_address.get(address)
        if channel is not None and channel.dialect.deltas:
            self._flush_now(channel)
        if self._outbox.frames:
            await self._outbox.empty.wait()

    def _break(self) -> None:
        log.exception("delivery_broke", door="websocket")
        self.close(BROKEN, "something went wrong, resume from the last offset")

    def _encode(self, channel: _SocketChannel, encoder: Encoder, events: Sequence[Event]) -> None:
        """Text at once if there was none for a while, else merged. Of an answer of the past only the whole, if no
        deltas are wanted.
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
            self._send(*(envelope(channel.address.channel, one) for one in frames))
        else:
            self._send(*frames)

    def _send(self, *frames: Frame) -> None:
        if self._closing is not None or not frames:
            return
        data = [frame_bytes(frame) for frame in frames]
        if not self._outbox.has_room_for(data):
            self.close(TOO_SLOW, "too slow, resume from the last offset")
            return
        if not self._outbox.frames:
            self._outbox.moved_at = self._loop.time()
        for one in data:
            self._outbox.put(one)

    # ---------------------------------------------------------------- frames of our own

    def _status(
        self, request: Mapping[str, Any], status: str, *, message_id: str | None = None, thread_id: str | None = None
    ) -> Frame:
        frame: Frame = {
            "message": "",
            "timestamp": self._queue.clock.now(),
            "status": status,
            "type": "status",
            "final_message": False,
            "message_id": message_id,
            "thread_id": thread_id,
        }
        return frame | _echo(request)

    def _error(self, error: TurnkeepError, request: Mapping[str, Any]) -> Frame:
        public = error_body(error)
        message_id = request.get("message_id")
        channel = request.get("channel")
        frame: Frame = {
            "message": public["message"] if isinstance(error, InvalidMessage) else error.public,
            "timestamp": self._queue.clock.now(),
            "status": "error",
            "type": "error",
            "error_details": public["message"][:500],
            "message_id": message_id if isinstance(message_id, str) else None,
            "thread_id": None,
        }
        if isinstance(channel, str):
            frame["channel"] = channel
        return frame | {k: v for k, v in public.items() if k != "message"} | _echo(request)


def _action(request: dict[str, Any], actions: Mapping[str, Action]) -> tuple[str, dict[str, Any]]:
    """The name of the action and its fields, in either form. Raises `InvalidMessage`."""
    if request.get("channel") == "subscription" and isinstance(request.get("payload"), dict):
        payload = request["payload"]
        if payload.get("action") not in ("subscribe", "unsubscribe"):
            raise InvalidMessage("on the channel 'subscription' the action must be subscribe or unsubscribe")
        return payload["action"], payload | {"_enveloped": True}
    name = request.get("action")
    if name is None and not any(ours in request for ours in OURS):
        name = "message"
    if not isinstance(name, str) or name not in actions:
        raise InvalidMessage(f"unknown action, expected one of {', '.join(sorted(actions))}")
    return name, request


class _SocketClosed(Exception):
    """the socket was closed by us"""


def _echo(request: Mapping[str, Any]) -> Frame:
    request_id = request.get("id")
    return {"id": request_id} if isinstance(request_id, str | int) and not isinstance(request_id, bool) else {}


def _position(request: Mapping[str, Any]) -> tuple[int | None, str | None]:
    if request.get("offset") is None:
        return None, None
    offset = _count(request, "offset", 1 << 53)
    if request.get("epoch") == "":  # as it was told before the channel had a log
        return offset, ""
    return offset, optional_text(request, "epoch", 200)


def _count(request: Mapping[str, Any], name: str, largest: int) -> int:
    value = request.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InvalidMessage(f"'{name}' must be a whole number from 0 to {largest}")
    return value


def _dialect(request: Mapping[str, Any]) -> Dialect:
    for name, choices in (("text", ("delta", "full", None)), ("events", ("all", None))):
        if request.get(name) not in choices:
            raise InvalidMessage(f"'{name}' must be one of {', '.join(str(a) for a in choices if a)}")
    return Dialect(request.get("text") == "delta", request.get("events") == "all", bool(request.get("_enveloped")))
