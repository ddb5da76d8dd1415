"""WebSocket connections of our own server: what uvicorn leaves open of them.

How long a message may take, how many fragments it may have, that nothing is read from a peer that
does not read, and that frames which are ready are written past the protocol.

What an open socket waits with (`ReaderQueue`, `Gate`) holds nothing while nothing happens: a
thousand sockets are idle for an hour and write for a second, and the queue and the event of
asyncio, which each begin with an empty deque, would hold four megabytes.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import CONT, DATA_OPCODES, Frame
from websockets.http11 import Request, Response
from websockets.protocol import OPEN

from turnkeep.doors.backlog import Backlog, Rota, Valve
from turnkeep.doors.peers import Peers, sender_of
from turnkeep.doors.ping_wheel import PingWheel
from turnkeep.doors.request_refusals import NO_REQUEST, handshake_refusal

T = TypeVar("T")

FRAME_TIMEOUT = 30.0
"""Seconds in which a message that has begun has to be whole."""
# Each fragment costs as much as a frame, whatever it holds; the protocol sets no bound.
FRAGMENTS = 64
"""Fragments of any size that a message may have; more, if they have FRAGMENT_BYTES on average."""
FRAGMENT_BYTES = 512
UNKNOWN_READ_LIMIT = 16_384
"""Bytes of a message from somebody who has shown no credential."""
POLICY_VIOLATION = 1008

AFTER_FAULT = 1.0
"""Seconds after which a socket that breaks these rules is closed."""

PING_HEAD, PONG_HEAD = b"\x89\x04", b"\x8a\x84"
"""Of a ping of four bytes, and of what a client answers: its mask and the four bytes come after it."""
PONG_SIZE = 10
EARLY = 0.05
"""Seconds by which a look at a pong may come too early: by a whole interval it would be too late."""

REJECTION = "Failed to open a WebSocket connection: "
"""What the reason of the parser stands behind."""

CONNECTION = "turnkeep.connection"
"""The connection, in the state of a socket's scope."""


class ReaderQueue(Generic[T]):
    """An `asyncio.Queue` from which one task reads. It refuses nothing: what bounds it is the valve of
    the connection (`backlog.Valve`), because a frame that was read cannot be given back.

    While one item waits here, nothing is read of the connection: uvicorn pauses with each message
    and resumes when the last one is taken. What can still come is what one read of the system had
    in it, and at most `backlog.PIECES` frames of that in a second.
    """

    __slots__ = ("_arrival", "_items")

    def __init__(self) -> None:
        self._items: deque[T] | None = None
        self._arrival: asyncio.Future[None] | None = None

    def put_nowait(self, item: T) -> None:
        if self._items is None:
            self._items = deque()
        self._items.append(item)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def empty(self) -> bool:
        return self._items is None

    async def get(self) -> T:
        """The oldest. What has come stays for the next reader, if this one is cancelled."""
        while self._items is None:
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        item = self._items.popleft()
        if not self._items:
            self._items = None
        return item


class Gate:
    """An `asyncio.Event` that is set nearly always."""

    __slots__ = ("_opening",)

    def __init__(self) -> None:
        self._opening: asyncio.Future[None] | None = None
        """Somebody waits for it; None: it is open."""

    def set(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.set_result(None)

    def clear(self) -> None:
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        while self._opening is not None:
            # one who is cancelled must not take the gate from the others
            await asyncio.wait([self._opening])


class TransportUser(Protocol):
    """Whoever writes to a socket."""

    def on_writable(self) -> None:
        """The system takes more."""
        ...

    def on_unwritable(self) -> None:
        """It takes no more for now, or the connection is about to be closed."""
        ...

    def on_lost(self) -> None:
        """Nothing can be written any more."""
        ...


class SocketTransport(WebSocketsSansIOProtocol):
    """One WebSocket. It waits until somebody says who it is (`know`)."""

    # Those of uvicorn and of asyncio too: a name in the class stands before the dict of an instance, which
    # stays empty then. It would be an eighth of what an idle socket holds.
    __slots__ = (
        "_application", "_backlog", "_deadline", "_fragments", "_inner", "_is_full", "_peers", "_ping_at",
        "_read_limit", "_request", "_rota", "_serving", "_size", "_user", "_wheel",
        "app", "app_state", "asgi_version", "client", "close_sent", "close_timeout", "close_timer", "config", "conn",
        "connections", "curr_msg_data_type", "default_headers", "disconnected", "frames", "handshake_complete",
        "handshake_initiated", "initial_response", "last_ping_rtt", "logger", "loop", "pending_ping_payload",
        "ping_interval", "ping_sent_at", "ping_timeout", "ping_timer", "pong_timer", "queue", "read_paused", "request",
        "response", "root_path", "scheme", "scope", "server", "tasks", "transport", "writable", "write",
    )  # fmt: skip
    transport: Valve  # type: ignore[assignment]

    def __init__(self, *args: Any, peers: Peers, rota: Rota, wheel: PingWheel, **options: Any) -> None:
        super().__init__(*args, **options)
        self._wheel = wheel
        self._ping_at = 0.0
        self._application, self.app = self.app, self._serve_to_the_end
        self._serving: Callable[[], Awaitable[None]] | None = None
        self._request: Request | None = None
        self.queue = ReaderQueue()  # type: ignore[assignment]  # with all that is asked of it
        self.writable = Gate()  # type: ignore[assignment]
        self._peers = peers
        self._rota = rota
        self.scope = {"state": {}}  # type: ignore[typeddict-item]  # until there is one
        self._read_limit = self.conn.max_message_size
        # A stranger's first frame is a credential; what is larger costs memory for
        # somebody unknown.
        self.conn.max_message_size = UNKNOWN_READ_LIMIT
        self._fragments = self._size = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._user: TransportUser | None = None
        self._is_full = False

    def connection_made(self, transport: Any) -> None:
        valve = transport if isinstance(transport, Valve) else Valve(transport)
        super().connection_made(valve)  # type: ignore[arg-type]
        address = get_remote_addr(valve)  # type: ignore[arg-type]
        host = address[0] if address else ""
        self._inner = valve.inner
        self.write = valve.inner.write
        """The system's own, which asks nothing: for whoever knows that it `is_writable`."""
        valve.on_end = self._tell_unwritable
        self._backlog = Backlog(valve, self._parse, self._rota, host)
        if self._peers.enter(self, host) != "inside":
            self.drop()

    def admit(self) -> None:
        """It is never in the lobby: the connection that it was made of has left its place."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._backlog.end()
        self._peers.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        super().connection_lost(exc)
        self.transport.on_end = None
        self.app = self._application
        self.conn.events.clear()  # and what refers to itself: see `Backlog.end`
        self.conn.parser.close()
        self.scope["state"].pop(CONNECTION, None)
        if self._user is not None:
            self._user.on_lost()
            self._user = None

    def drop(self) -> None:
        self.transport.abort()

    def know(self) -> None:
        """Somebody has shown who it is: what it sends may be as large as ours is, and it does not
        have to make room.
        """
        self.conn.max_message_size = self._read_limit
        self._peers.work(self)

    async def _serve_to_the_end(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)
        del scope, receive, send
        if self._serving is not None:
            # Taken from here: it holds this connection, and both would be left to the collector.
            serving, self._serving = self._serving, None
            await serving()

    def go_on(self, websocket: WebSocket, serve: Callable[[WebSocket], Awaitable[None]]) -> None:
        """Have the accepted socket served as soon as the application has returned. While it is open
        nothing is held of what it took to open it: its headers, and the fifteen calls from the
        connection to here.
        """
        scope = {"type": "websocket", "client": websocket.scope["client"], "state": {CONNECTION: self}}
        self.scope, self.response = scope, None  # type: ignore[assignment]  # that both were there once
        if self._request is not None:
            # The parser, a generator, holds the request for as long as it reads.
            self._request.headers.clear()
            self._request = None
        bare = WebSocket(scope, self.receive, self.send)  # type: ignore[arg-type]
        bare.client_state = bare.application_state = WebSocketState.CONNECTED
        self._serving = partial(serve, bare)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the system has not taken yet."""
        return self._inner.get_write_buffer_size()

    @property
    def count_unsent(self) -> Callable[[], int]:
        """Tells `unsent_bytes`, without a call in Python."""
        return self._inner.get_write_buffer_size

    def attach(self, user: TransportUser) -> None:
        """Tell this one from now on what becomes of what it writes."""
        self._user = user

    @property
    def is_writable(self) -> bool:
        """It is open, and the system takes what is written."""
        return not (self._is_full or self.close_sent or self._inner.is_closing())

    def write_frames(self, data: bytes) -> bool:
        """Write whole frames, ready for the line, past the protocol: nothing of them depends on its
        state (no compression, no mask), and preparing them anew for each socket is what fan-out would
        cost. False: nothing was written, because the system takes no more, or it is over.
        """
        if self._is_full or self.close_sent or self._inner.is_closing():
            return False
        self.write(data)
        return True

    def end(self, code: int, reason: str) -> None:
        """Say that it is over; whoever does not answer is cut a little later, whatever is unsent."""
        if self.close_sent or self._inner.is_closing() or self.conn.state is not OPEN:
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:  # the answer to it has to be read
            self.read_paused = False
            self.transport.resume_reading()
        # Not `close`, which waits for the peer to take what was written.
        self.close_timer = self.loop.call_later(self.close_timeout, self.drop)

    def refuse(self) -> None:
        """The upgrade was answered with a refusal, which uvicorn takes for an application that
        forgot to answer.
        """
        self.handshake_complete = True

    def handle_connect(self, event: Any) -> None:
        # What its parser refuses is text. No longer than it asks: the dict of an open socket stays small.
        self.conn.reject = refused_handshake  # type: ignore[method-assign]
        super().handle_connect(event)
        del self.conn.reject
        self._request = event
        self.scope["state"][CONNECTION] = self
        self._backlog.host = sender_of(self._peers, self._backlog.host, self.scope.get("headers", ()))
        self._peers.name(self, self._backlog.host)

    def data_received(self, data: bytes) -> None:
        if len(data) != PONG_SIZE or not self._is_pong(data):
            self._backlog.feed(data)

    def _is_pong(self, data: bytes) -> bool:
        """Whether this is the answer to our ping, between two messages: nearly all that an idle socket
        says, and the parser would be most of what it costs.
        """
        payload = self.pending_ping_payload
        if payload is None or data[:2] != PONG_HEAD or self._deadline is not None or self.transport.is_held:
            return False
        mask, body = int.from_bytes(data[2:6], "big"), int.from_bytes(data[6:], "big")
        if body ^ mask != int.from_bytes(payload, "big"):
            return False
        self._note_pong()
        return True

    def _parse(self, data: bytes) -> int:
        self.conn.receive_data(data)
        frames = len(self.conn.events)
        if self.conn.handshake_exc is not None and not frames:
            # no request came of it, and uvicorn would neither answer, nor close, nor be able to end with it
            self.transport.write(NO_REQUEST.message)
            self.transport.close()
            return 0
        if self.conn.parser_exc is None and self._has_too_many_fragments():
            self._fail("too many fragments in a message")
        elif self.conn.parser_exc is not None:
            self._hang_up()
        else:
            self.handle_events()
            self._watch()
        return frames

    def _has_too_many_fragments(self) -> bool:
        for event in self.conn.events:
            if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
                if event.opcode is not CONT:
                    self._fragments = self._size = 0
                self._fragments += 1
                self._size += len(event.data)
                if self._fragments > FRAGMENTS and self._size < self._fragments * FRAGMENT_BYTES:
                    return True
        return False

    def _watch(self) -> None:
        """A message that has begun ends in time."""
        is_partial = bool(self.conn.reader.buffer) or self.conn.current_size is not None
        if is_partial and self._deadline is None:
            self._deadline = self.loop.call_later(FRAME_TIMEOUT, self._late)
        elif not is_partial and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.transport.is_closing() or self.close_sent:
            return
        if self.conn.state is not OPEN or self.transport.is_held:
            self._watch()  # it is we who do not read
            return
        self._fail("this message does not come to its end")

    def _fail(self, reason: str) -> None:
        """Hear nothing more, and say so a little later: whoever floods would be back at once."""
        self._backlog.end()
        # Not closed yet, so that whoever floods keeps this one connection busy instead
        # of a new one.
        self.transport.hold("fault")
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(AFTER_FAULT, self._fail_now, reason)

    def _fail_now(self, reason: str) -> None:
        self._deadline = None
        self.conn.fail(POLICY_VIOLATION, reason)
        self._hang_up()

    def _hang_up(self) -> None:
        """Say why, where the upgrade was answered already."""
        if self.conn.close_sent is not None:
            self.handle_parser_exception()
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_full = True
        self.transport.hold("peer")
        self._tell_unwritable()

    def _tell_unwritable(self) -> None:
        if self._user is not None:
            self._user.on_unwritable()

    def eof_received(self) -> None:
        self.transport.close()  # as the system does for itself, but told before

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_full = False
        self.transport.release("peer")
        if self._user is not None:
            self._user.on_writable()

    def schedule_ping(self) -> None:
        if self.ping_interval is not None:
            self._ping_at = self._wheel.add(self, self.ping_interval)

    def send_keepalive_ping(self) -> None:
        """Ping it, or close it where the last ping was not answered in time: one look for both, where
        uvicorn has a timer for each answer.
        """
        if self.close_sent or self._inner.is_closing():
            return
        if self.pending_ping_payload is None:
            self.pending_ping_payload = payload = random.getrandbits(32).to_bytes(4, "big")
            self.ping_sent_at = self.loop.time()
            self.write(PING_HEAD + payload)
        # The pong of a slow peer waits with all else that it sends; that it takes nothing is seen by
        # others.
        elif self._is_pong_late() and not self.transport.holds("peer"):
            self.keepalive_timeout()
            return
        self.schedule_ping()

    def _is_pong_late(self) -> bool:
        return self.ping_timeout is not None and self.loop.time() - self.ping_sent_at >= self.ping_timeout - EARLY

    def handle_pong(self, event: Frame) -> None:
        if bytes(event.data) == self.pending_ping_payload:
            self._note_pong()

    def _note_pong(self) -> None:
        self.pending_ping_payload = None
        self.last_ping_rtt = self.loop.time() - self.ping_sent_at

    def stop_keepalive(self) -> None:
        self._wheel.remove(self, self._ping_at)
        super().stop_keepalive()


def refused_handshake(status: int, text: str) -> Response:
    """As `ServerProtocol.reject`, in the form of all other refusals."""
    reason = text.removeprefix(REJECTION).partition(".\n")[0]
    refusal = handshake_refusal(status, reason)
    headers = Headers([(name.decode(), value.decode()) for name, value in refusal.headers])
    return Response(refusal.status, refusal.status.phrase, headers, refusal.body)


def transport_of(scope: MutableMapping[str, Any]) -> SocketTransport | None:
    """The connection of a socket; another server than ours has none."""
    connection = scope.get("state", {}).get(CONNECTION)
    return connection if isinstance(connection, SocketTransport) else None
