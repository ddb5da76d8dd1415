"""HTTP connections that cost little before they have asked for anything.

uvicorn speaks the protocol; here is what it leaves open: how long a request may take to arrive, what is
answered to what is none (`request_refusals`), and that nothing is read from a peer that does not
read. How much is parsed at a turn of the loop: `backlog`. What becomes a socket: `socket_transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from http import HTTPStatus
from typing import Any, NoReturn, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from turnkeep.doors.backlog import Backlog, Rota, Valve
from turnkeep.doors.peers import Peers, forwarded_in, sender_of
from turnkeep.doors.ping_wheel import PingWheel
from turnkeep.doors.request_refusals import (
    ADDRESS_TOO_LONG,
    CODING_NOT_TAKEN,
    HEAD_TOO_LARGE,
    LARGEST_HEAD,
    LONGEST_UPGRADE_LINE,
    METHOD_NOT_TAKEN,
    MOST_HEADERS,
    NO_REQUEST,
    NO_ROOM,
    OLD_UPGRADE,
    REQUEST_TIMED_OUT,
    VERSION_NOT_TAKEN,
    RequestRefusal,
)
from turnkeep.doors.socket_transport import CONNECTION, SocketTransport

# uvicorn waits for a head for ever: one byte now and then would keep a connection (slowloris).
HEAD_TIMEOUT = 10.0
"""Seconds in which a request has to arrive, up to the end of its headers."""
BODY_TIMEOUT = 30.0
"""Seconds in which the rest of it has to arrive."""
# Closed at once, the answer itself may be lost to a reset by the peer's system (RFC 9112, 9.6).
LINGER = 2.0
"""Seconds for the rest of what nobody waits for any more."""
VERSIONS = (b"1.1", b"1.0")
CONTINUE = b"HTTP/1.1 100 "
"""What an answer to `Expect: 100-continue` begins with, before the answer itself."""
LENGTH = b"\r\ncontent-length: "
BODY_HEADERS = (b"content-length", b"transfer-encoding")
CLOSE_HEADER = (b"connection", b"close")

# h11 takes a bare LF and folded lines, as old servers did (RFC 9112, 2.2 and 5.2); proxies may not.
_LENIENT = re.compile(rb"(?<!\r)\n|\r\n[ \t]|\A[ \t]")

FAULTS_OF_PEERS = (
    "Invalid HTTP request", "Invalid UTF-8 sequence", "Unsupported upgrade", "No supported WebSocket",
    "opening handshake failed",
)  # fmt: skip
PieceWriter = Callable[[bytes], Awaitable[None]]


class StrictParser(h11.Connection):
    """Takes no head that two programs read differently, or that is larger than is read here, counts the
    pieces of bodies, which may be one byte each, and says that it closes behind a body that may not come.
    """

    pieces = 0
    refusal = NO_REQUEST
    """What is answered once it has raised."""

    def next_event(self) -> Any:
        # Here, where every head comes by: also that of a request behind a body that nobody waited for.
        if self.their_state is h11.IDLE and (refusal := refusal_of_head(self.trailing_data[0])) is not None:
            self._refuse(refusal)
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.refusal = CODING_NOT_TAKEN if error.error_status_hint == HTTPStatus.NOT_IMPLEMENTED else NO_REQUEST
            raise
        if type(event) is h11.Data:
            self.pieces += 1
        elif type(event) is h11.Request:
            if event.http_version not in VERSIONS:
                self._refuse(VERSION_NOT_TAKEN)
            if len(event.headers) > MOST_HEADERS:
                self._refuse(HEAD_TOO_LARGE)
        return event

    def send(self, event: Any) -> Any:
        # Who asks leave to send a body and is answered instead may send it, or the next request: nothing
        # that comes can be told apart (RFC 9110, 10.1.1).
        if self.they_are_waiting_for_100_continue and type(event) is h11.Response:
            headers = [*(header for header in event.headers if header != CLOSE_HEADER), CLOSE_HEADER]
            event = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
        return super().send(event)

    def _refuse(self, refusal: RequestRefusal) -> NoReturn:
        self.refusal = refusal
        raise h11.RemoteProtocolError(refusal.sentence, error_status_hint=refusal.status)


class AnswerWriter:
    """The connection, as uvicorn writes one answer to it. A head that says a length waits for the body, up to
    the next turn of the loop: each write is a call of the system, and a packet that wakes the peer.
    """

    __slots__ = ("_has_begun", "_head", "_on_close", "_valve")

    def __init__(self, valve: Valve, on_close: Callable[[], None]) -> None:
        self._valve = valve
        self._on_close = on_close
        self._head = b""
        self._has_begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._valve, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif not self._has_begun and not data.startswith(CONTINUE):
            self._has_begun = True
            if LENGTH in data:
                self._head = data
                asyncio.get_running_loop().call_soon(self._flush)
                return
        self._valve.write(data)

    def close(self) -> None:
        """A body that never came, of an application that broke: its head has gone out all the same."""
        self._flush()
        self._on_close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class HttpTransport(H11Protocol):
    """One HTTP connection. It waits until a request is whole, and whenever one has been answered."""

    transport: Valve  # type: ignore[assignment]

    def __init__(self, *args: Any, peers: Peers, rota: Rota, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn: StrictParser = StrictParser(h11.SERVER, LARGEST_HEAD)
        self._peers = peers
        self._rota = rota
        self._deadline: asyncio.TimerHandle | None = None
        self._stage: object = None
        self._is_over = False
        self._is_refused = False
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
        admission = self._peers.enter(self, host)
        if admission == "inside":
            self._watch()
        elif admission == "lobby":
            self._early = b""
            self._expect(HEAD_TIMEOUT)
        else:
            self.drop()

    def admit(self) -> None:
        early, self._early = self._early or b"", None
        self._watch()
        self.transport.release("lobby")
        self._backlog.feed(early)

    def connection_lost(self, exc: Exception | None) -> None:
        # First, so that the place is free whatever uvicorn does with a request in progress.
        self._leave()
        super().connection_lost(exc)
        if (cycle := cast("Any", self.cycle)) is not None:
            cycle.transport = self.transport  # not its writer, which refers to this: the collector would be left both

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
        self._stop_waiting()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        if (refusal := refusal_of_upgrade(event)) is not None:
            self._refuse(refusal)
        else:
            self._leave()
            super().handle_websocket_upgrade(event)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._early is None:
            self._backlog.feed(data)
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
        # A lobby that buffered more than a head would be a way to fill the memory
        # without being let in.
        elif len(data) > LARGEST_HEAD:
            self._refuse(refusal_of_size(data) or NO_ROOM)

    def send_400_response(self, msg: str) -> None:
        """uvicorn has seen that something is no request: a head, or a piece of a body."""
        self._refuse(self.conn.refusal)

    def _refuse(self, refusal: RequestRefusal) -> None:
        """Answer so, if no answer has begun, and hang up. What still comes is dropped for a while: a reset
        would take the answer away from a peer who is still sending.
        """
        if self._is_refused or self.transport.is_closing():
            return
        cycle: Any = self.cycle
        is_in_hand = cycle is not None and not cycle.response_complete
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            (cycle.transport if is_in_hand else self.transport).close()
            return
        if is_in_hand:  # whoever answers it has nobody to answer any more, nor to give leave to send a body
            cycle.disconnected, cycle.waiting_for_100_continue = True, False
            cycle.message_event.set()
        self.transport.write(refusal.message)
        self._end_writing()

    def _close_behind_answer(self) -> None:
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self._end_writing()
        else:
            self.transport.close()

    def _end_writing(self) -> None:
        self._is_refused = True
        with contextlib.suppress(OSError):  # of a peer who is gone; some loops say so
            if self.transport.can_write_eof():
                self.transport.write_eof()
        self._drop_the_rest()

    def _drop_the_rest(self) -> None:
        self._backlog.end()
        if self._early is not None:
            self._early = b""
            self._peers.withdraw(self)
        self._peers.wait(self)
        self.transport.release("lobby")
        self.transport.release("application")
        self._stop_waiting()
        self._expect(LINGER)

    def shutdown(self) -> None:
        if self._is_refused:  # h11 was not told, and would take the end for a mistake
            self.transport.close()
        else:
            super().shutdown()

    def _parse(self, data: bytes) -> int:
        self.conn.pieces = 0
        super().data_received(data)
        # The first piece is what every honest body has.
        return max(0, self.conn.pieces - 1)

    def handle_events(self) -> None:
        super().handle_events()
        # Not of one that has just become a socket's: its scope would hold it for as long as it is open.
        if self.scope is not None and not self._is_over:
            self.scope["state"][CONNECTION] = self
            self._name()
        cycle: Any = self.cycle
        if cycle is not None and cycle.transport is self.transport:  # of a request that has just come
            cycle.transport = AnswerWriter(self.transport, self._close_behind_answer)
        self._watch()

    def _name(self) -> None:
        """Each request of a proxy may be another's."""
        if self.headers is not self._named_by and self.client is not None:
            self._named_by = self.headers
            self._backlog.host = sender_of(self._peers, self.client[0], self.headers)
            self._peers.name(self, self._backlog.host)

    @property
    def has_whole_body(self) -> bool:
        """Whether all of the request that is being answered is here."""
        return not self.cycle.more_body

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    async def write_piece(self, data: bytes) -> None:
        """A piece of an answer whose head is out, in chunks: h11 notes nothing of it between the head
        and the end. It waits for a peer that reads slowly, and is left out where nobody is there.
        """
        cycle = self.cycle
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected or self.transport.inner.is_closing():
            # so that a stream which never waits is ended, instead of holding up the loop
            await asyncio.sleep(0)
        elif data:  # an empty chunk would be the end (RFC 9112, 7.1)
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _watch(self) -> None:
        """What is waited for decides how long."""
        is_answered = self.cycle is not None and self.cycle.response_complete
        stage = (self.conn.their_state, is_answered)
        # The deadline of a stage runs from its beginning: were it set anew by each byte, it would
        # never come.
        if stage == self._stage or self._is_over or self._is_refused:
            return
        self._stage = stage
        self._stop_waiting()
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

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        """Tell somebody who has said anything, and hang up."""
        if self._early:
            self._refuse(NO_ROOM)
        elif not self._is_refused and (self.conn.trailing_data[0] or self.conn.their_state is h11.SEND_BODY):
            self._refuse(REQUEST_TIMED_OUT)
        else:
            self.transport.close()


def refusal_of_head(data: bytes) -> RequestRefusal | None:
    """Why this is not the beginning of a request, which has proper lines, none of which goes on in the next,
    and a size. Who is lenient here reads other requests than the proxy before him.
    """
    if (refusal := refusal_of_size(data)) is not None:
        return refusal
    return NO_REQUEST if _LENIENT.search(data.partition(b"\r\n\r\n")[0]) else None


def refusal_of_size(data: bytes) -> RequestRefusal | None:
    """Why a head is too large, whether it is whole or not: its first line alone, or what follows it."""
    head = data.partition(b"\r\n\r\n")[0]
    if len(head) <= LARGEST_HEAD:
        return None
    return ADDRESS_TOO_LONG if len(head.lstrip(b"\r\n").partition(b"\n")[0]) > LARGEST_HEAD else HEAD_TOO_LARGE


def refusal_of_upgrade(event: h11.Request) -> RequestRefusal | None:
    """Why the parser of sockets would not take this head. Its own refusal says less, and is lost to a peer
    who is still sending.
    """
    if event.http_version != b"1.1":  # uvicorn would say that it was, and hide a proxy of the old kind
        return OLD_UPGRADE
    if event.method != b"GET":
        return METHOD_NOT_TAKEN
    if len(b"%b %b HTTP/1.1" % (event.method, event.target)) > LONGEST_UPGRADE_LINE:
        return ADDRESS_TOO_LONG
    if any(len(b"%b: %b" % header) > LONGEST_UPGRADE_LINE for header in event.headers):
        return HEAD_TOO_LARGE
    lengths = [value for name, value in event.headers if name in BODY_HEADERS]
    return NO_REQUEST if set(lengths) - {b"0"} else None


def is_no_fault_of_a_peer(record: logging.LogRecord) -> bool:
    """A filter of uvicorn's log: whoever sends garbage would fill the disk with it, a line or a
    traceback for each.
    """
    return not record.getMessage().startswith(FAULTS_OF_PEERS)


def stand_aside(scope: MutableMapping[str, Any]) -> asyncio.Event | None:
    """Let the connection of a request make room for another while nothing but a refusal is to be
    told. What is set once it had to; None where the server is not ours.
    """
    connection = scope.get("state", {}).get(CONNECTION)
    return connection.stand_aside() if isinstance(connection, HttpTransport) else None


def has_whole_body(scope: MutableMapping[str, Any]) -> bool:
    """Whether the body of a request is here, as far as that can be told."""
    connection = scope.get("state", {}).get(CONNECTION)
    return isinstance(connection, HttpTransport) and connection.has_whole_body


def piece_writer(scope: MutableMapping[str, Any]) -> PieceWriter | None:
    """What writes the pieces of an answer without a length, after its head. None where the server is
    not ours, and where an answer has no chunks.
    """
    connection = scope.get("state", {}).get(CONNECTION)
    is_chunked = scope.get("http_version") == "1.1" and scope.get("method") != "HEAD"
    return connection.write_piece if is_chunked and isinstance(connection, HttpTransport) else None


def transports(peers: Peers) -> tuple[Any, Any]:
    """What uvicorn makes of each connection, and of each that is upgraded to a socket."""
    rota = Rota()
    sockets = partial(SocketTransport, peers=peers, rota=rota, wheel=PingWheel())
    return partial(HttpTransport, peers=peers, rota=rota), sockets
