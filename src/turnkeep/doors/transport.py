"""HTTP and WebSocket connections that cost little before they have asked for anything.

uvicorn speaks the protocols; here is what it leaves open: how long a request may take to arrive,
and that nothing is read from a peer that does not read. How much is parsed at a turn of the loop:
`backlog`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, MutableMapping
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CONT, DATA_OPCODES, Frame
from websockets.protocol import OPEN

from turnkeep.doors.backlog import Backlog, Rota, Valve
from turnkeep.doors.peers import Peers, forwarded_in

# uvicorn waits for a head for ever: one byte now and then would keep a connection (slowloris).
HEAD_TIMEOUT = 10.0
"""Seconds in which a request has to arrive, up to the end of its headers."""
BODY_TIMEOUT = 30.0
"""Seconds in which the rest of it has to arrive."""
# Closed at once, the answer itself may be lost to a reset by the peer's system (RFC 9112, 9.6).
LINGER = 2.0
"""Seconds for the rest of a body that nobody waits for any more."""
LARGEST_HEAD = 32_768
"""Bytes of a request line and headers."""
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


class CountingParser(h11.Connection):
    """Counts the pieces of bodies, which may be one byte each."""

    pieces = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if type(event) is h11.Data:
            self.pieces += 1
        return event


class HttpTransport(H11Protocol):
    """One HTTP connection. It waits until a request is whole, and whenever one has been answered."""

    transport: Valve  # type: ignore[assignment]

    def __init__(self, *args: Any, peers: Peers, rota: Rota, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn: CountingParser = CountingParser(h11.SERVER, LARGEST_HEAD)
        self._peers = peers
        self._rota = rota
        self._deadline: asyncio.TimerHandle | None = None
        self._stage: object = None
        self._is_over = False
        self._disconnect: asyncio.Event | None = None
        self._early: bytes | None = None
        """What was read in the lobby, unparsed; None: it is inside."""
        self._named_by: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        valve = Valve(transport)
        super().connection_made(valve)  # type: ignore[arg-type]
        host = self.client[0] if self.client else ""
        # By its peer until a head names another: before that nothing of it is believed.
        self._backlog = Backlog(valve, self._parse, self._rota, host)
        place = self._peers.enter(self, host)
        if place == "inside":
            self._watch()
        elif place == "lobby":
            self._early = b""
            self._expect(HEAD_TIMEOUT)
        else:
            self.drop()

    def admit(self) -> None:
        early, self._early = self._early or b"", None
        self._watch()
        self.transport.release("lobby")
        self._backlog.take(early)

    def connection_lost(self, exc: Exception | None) -> None:
        # First, so that the place is free whatever uvicorn does with a request in progress.
        self._leave()
        super().connection_lost(exc)

    def drop(self) -> None:
        self.transport.abort()

    def stand_aside(self) -> asyncio.Event:
        """What is done for it can be left undone, if somebody else has no room: it is set once it
        is lost.
        """
        self._peers.wait(self)
        self._disconnect = asyncio.Event()
        if self._is_over:
            self._disconnect.set()
        return self._disconnect

    def _leave(self) -> None:
        """The connection is lost, or a socket's from now on."""
        self._is_over = True
        if self._disconnect is not None:
            self._disconnect.set()
        self._backlog.end()
        self._peers.leave(self)
        if self.scope is not None:
            self.scope["state"].pop(CONNECTION, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        if event.http_version != b"1.1":  # uvicorn would say that it was, and hide a proxy of the old kind
            self.send_400_response("A socket is opened with HTTP/1.1.")
            return
        self._leave()
        super().handle_websocket_upgrade(event)

    def data_received(self, data: bytes) -> None:
        if self._early is None:
            self._backlog.take(data)
        else:
            self._ask(self._early + data)

    def _ask(self, data: bytes) -> None:
        """Something came in the lobby: it is read by us if there is room, and nothing more before
        there is.
        """
        self.transport.hold("lobby")
        self._early = data
        if self._peers.ask(self, self._peers.sender(self._backlog.host, forwarded_in(data))):
            self.admit()
        # A lobby that buffered more than a head would be a way to fill the memory without being let
        # in.
        elif len(data) > LARGEST_HEAD:
            self._late()

    def _parse(self, data: bytes) -> int:
        self.conn.pieces = 0
        super().data_received(data)
        # The first piece is what every honest body has.
        return max(0, self.conn.pieces - 1)

    def handle_events(self) -> None:
        if self.conn.their_state is h11.IDLE and not is_head(self.conn.trailing_data[0]):
            self.send_400_response("Invalid HTTP request received.")
            return
        super().handle_events()
        if self.scope is not None:
            self.scope["state"][CONNECTION] = self
            self._name()
        self._watch()

    def _name(self) -> None:
        """Each request of a proxy may be another's."""
        if self.headers is not self._named_by and self.client is not None:
            self._named_by = self.headers
            self._backlog.host = sender_of(self._peers, self.client[0], self.headers)
            self._peers.name(self, self._backlog.host)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """What is waited for decides how long."""
        is_answered = self.cycle is not None and self.cycle.response_complete
        stage = (self.conn.their_state, is_answered)
        # The deadline of a stage runs from its beginning: were it set anew by each byte, it would
        # never come.
        if stage == self._stage or self._is_over:
            return
        self._stage = stage
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self.conn.their_state is h11.IDLE:
            self._expect(HEAD_TIMEOUT)
            self._peers.wait(self)
        elif self.conn.their_state is h11.SEND_BODY:
            self._expect(LINGER if is_answered else BODY_TIMEOUT)
            self._peers.wait(self) if is_answered else self._peers.work(self)
        else:
            self._peers.work(self)

    def _expect(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        """Tell somebody who has said anything, and hang up."""
        if self._early:
            self.transport.write(NO_ROOM)
        has_begun = self.conn.trailing_data[0] or self.conn.their_state is h11.SEND_BODY
        if has_begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            self.transport.write(TIMED_OUT)
        self.transport.close()


BAD_UPGRADE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
NO_ROOM = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


# h11 takes a bare LF and folded lines, as old servers did (RFC 9112, 2.2 and 5.2); proxies may not.
_LENIENT = re.compile(rb"(?<!\r)\n|\r\n[ \t]|\A[ \t]")


def is_head(data: bytes) -> bool:
    """Whether this may be the beginning of a request: its lines end as they have to, none goes on
    in the next, and it is not too long. Who is lenient here reads other requests than the proxy
    before him.
    """
    head = data.partition(b"\r\n\r\n")[0]
    return len(head) <= LARGEST_HEAD and _LENIENT.search(head) is None


class SocketTransport(WebSocketsSansIOProtocol):
    """One WebSocket. It waits until somebody says who it is (`know`)."""

    transport: Valve  # type: ignore[assignment]

    def __init__(self, *args: Any, peers: Peers, rota: Rota, **options: Any) -> None:
        super().__init__(*args, **options)
        self._peers = peers
        self._rota = rota
        self.scope = {"state": {}}  # type: ignore[typeddict-item]  # until there is one
        self._read_limit = self.conn.max_message_size
        # A stranger's first frame is a credential; what is larger costs memory for somebody
        # unknown.
        self.conn.max_message_size = UNKNOWN_READ_LIMIT
        self._fragments = self._size = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        valve = transport if isinstance(transport, Valve) else Valve(transport)
        super().connection_made(valve)  # type: ignore[arg-type]
        address = get_remote_addr(valve)  # type: ignore[arg-type]
        host = address[0] if address else ""
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
        self.conn.events.clear()  # and what refers to itself: see `Backlog.end`
        self.conn.parser.close()
        self.scope["state"].pop(CONNECTION, None)

    def drop(self) -> None:
        self.transport.abort()

    def know(self) -> None:
        """Somebody has shown who it is: what it sends may be as large as ours is, and it does not
        have to make room.
        """
        self.conn.max_message_size = self._read_limit
        self._peers.work(self)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the system has not taken yet."""
        return self.transport.inner.get_write_buffer_size()

    def refuse(self) -> None:
        """The upgrade was answered with a refusal, which uvicorn takes for an application that
        forgot to answer.
        """
        self.handshake_complete = True

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        self.scope["state"][CONNECTION] = self
        self._backlog.host = sender_of(self._peers, self._backlog.host, self.scope.get("headers", ()))
        self._peers.name(self, self._backlog.host)

    def data_received(self, data: bytes) -> None:
        self._backlog.take(data)

    def _parse(self, data: bytes) -> int:
        self.conn.receive_data(data)
        frames = len(self.conn.events)
        if self.conn.handshake_exc is not None and not frames:
            # no request came of it, and uvicorn would neither answer, nor close, nor be able to end with it
            self.transport.write(BAD_UPGRADE)
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
        # Not closed yet, so that whoever floods keeps this one connection busy instead of a new
        # one.
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
        self.transport.hold("peer")

    def resume_writing(self) -> None:
        super().resume_writing()
        self.transport.release("peer")

    def keepalive_timeout(self) -> None:
        """The pong of a slow peer waits with all else that it sends; that it takes nothing is seen
        by others.
        """
        if self.transport.holds("peer") and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()


def sender_of(peers: Peers, host: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    return peers.sender(host, (value for name, value in headers if name == b"x-forwarded-for"))


FAULTS_OF_PEERS = ("Invalid HTTP request", "Invalid UTF-8 sequence", "Unsupported upgrade", "No supported WebSocket")


def is_no_fault_of_a_peer(record: logging.LogRecord) -> bool:
    """A filter of uvicorn's log: whoever sends garbage would fill the disk with it, a line or a
    traceback for each.
    """
    return not record.getMessage().startswith(FAULTS_OF_PEERS)


CONNECTION = "turnkeep.connection"
"""The connection, in the state of a socket's scope."""


def transport_of(scope: MutableMapping[str, Any]) -> SocketTransport | None:
    """The connection of a socket; another server than ours has none."""
    connection = scope.get("state", {}).get(CONNECTION)
    return connection if isinstance(connection, SocketTransport) else None


def stand_aside(scope: MutableMapping[str, Any]) -> asyncio.Event | None:
    """Let the connection of a request make room for another while nothing but a refusal is to be
    told. What is set once it had to; None where the server is not ours.
    """
    connection = scope.get("state", {}).get(CONNECTION)
    return connection.stand_aside() if isinstance(connection, HttpTransport) else None


def transports(peers: Peers) -> tuple[Any, Any]:
    """What uvicorn makes of each connection, and of each that is upgraded to a socket."""
    rota = Rota()
    return partial(HttpTransport, peers=peers, rota=rota), partial(SocketTransport, peers=peers, rota=rota)
