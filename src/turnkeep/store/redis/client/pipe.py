"""One connection to Redis: the commands of a loop tick in one write, replies in their order.

Guarantees: a command whose reply is lost ends with `OutcomeUnknown`, one that was never written
with `StoreUnavailable`; a server that has commands to answer and says nothing for `timeout` loses
the connection; what is in flight is bounded. There is no reconnecting here and nothing is ever sent
twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import hiredis

from turnkeep.errors import OutcomeUnknown, StoreError, StoreUnavailable

Argument = bytes | str | int | float
Reply = Any
"""What hiredis makes of a reply; a refusal of the server is a `Refusal`, not raised."""

IN_FLIGHT = 8_192
"""Commands that may wait for their reply; more wait for `room`."""


class Refusal(Exception):
    """An error reply."""


class Pipe(asyncio.Protocol):
    """One connection, taken over from whoever opened it with `take_over`."""

    def __init__(self, *, timeout: float = 5.0, in_flight: int = IN_FLIGHT) -> None:
        self.greeted_sockets: set[int] = set()
        """Partitions that know which server this connection leads to."""
        self.loaded_scripts: set[Argument] = set()
        """Digests of the scripts that its server knows."""
        self.server = b""
        self.opener: object = None
        """Whoever opened the transport, kept from being collected."""
        self._timeout = timeout
        self._in_flight = in_flight
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=Refusal)
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._batch: list[bytes] = []
        self._batch_size = 0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._silent_since = self._loop.time()
        self._room: deque[asyncio.Future[None]] = deque()
        self._is_paused = False
        self._closed_because: str | None = None

    def send(self, *command: Argument) -> asyncio.Future[Reply]:
        """Queue a command for this tick. The reply may be a `Refusal`; awaiting it may raise."""
        # Said before anything is queued: of a command that was never taken in, nobody has to wonder
        # whether it happened.
        if self._closed_because is not None:
            raise StoreUnavailable(self._closed_because)
        reply: asyncio.Future[Reply] = self._loop.create_future()
        if not self._batch:
            # Not written here: whoever else gives an order in this tick shares the system call.
            self._loop.call_soon(self._flush)
        self._batch.append(hiredis.pack_command(command))  # type: ignore[arg-type]  # a union is as good
        self._batch_size += 1
        if not self._waiting:
            # The timer of an earlier command may be due before the write, at this turn of the loop.
            self._silent_since = self._loop.time()
        self._waiting.append(reply)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._look_for_silence)
        return reply

    @property
    def is_open(self) -> bool:
        return self._closed_because is None

    @property
    def is_full(self) -> bool:
        return self._is_paused or len(self._waiting) >= self._in_flight

    def is_at_hand(self, partition: int) -> bool:
        """Whether nothing has to be done before a command on this partition is sent."""
        return (
            self._closed_because is None
            and not self._is_paused
            and len(self._waiting) < self._in_flight
            and partition in self.greeted_sockets
        )

    async def room(self) -> None:
        """Return when commands may be sent again, or when the connection is lost."""
        while self.is_full and self.is_open:
            waits: asyncio.Future[None] = self._loop.create_future()
            self._room.append(waits)
            await waits

    def close(self, because: str = "the connection was closed") -> None:
        """Cut the connection; what is in flight is lost."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(because)

    def _flush(self) -> None:
        # uvloop raises for a write between the end of a connection and `connection_lost`. The batch
        # stays as it is, so that `_fail` knows that these commands were never sent.
        if self._transport is not None and self._transport.is_closing():
            return  # the word of it is on its way, and tells those who wait that nothing was sent
        if self._transport is not None and self._batch and not self._transport.is_closing():
            # Anew, not from `send` on: the time that this process took between the two is its own.
            if len(self._waiting) == self._batch_size:
                self._silent_since = self._loop.time()
            self._transport.write(b"".join(self._batch))
        self._batch.clear()
        self._batch_size = 0

    def _look_for_silence(self) -> None:
        """The only timer. A server that answers is not silent, however long the last command waits: to
        cut an overloaded one off and ask again would be more load.
        """
        self._timer = None
        if not self._waiting:
            return
        deadline = self._silent_since + self._timeout
        if deadline <= self._loop.time():
            self.close(f"the server was silent for {self._timeout:g} s")
        else:
            self._timer = self._loop.call_at(deadline, self._look_for_silence)

    def take_over(self, transport: asyncio.Transport) -> None:
        """Speak on an open transport from now on."""
        self._transport = transport
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self._silent_since = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._answer(reply)
        # IndexError: a reply to a question that nobody asked. All that follow would answer the
        # wrong one, so the connection goes.
        except (hiredis.ProtocolError, UnicodeDecodeError, IndexError):
            self.close("the server sent what is no reply")
        if self._room and not self.is_full:
            self._make_room()

    def _answer(self, reply: Reply) -> None:
        waiting = self._waiting.popleft()
        # Who was cancelled left its place in the queue: taking it out would shift
        # the replies of others.
        if not waiting.done():
            waiting.set_result(reply)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._make_room()

    def _make_room(self) -> None:
        while self._room:
            waits = self._room.popleft()
            if not waits.done():
                waits.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost ({exc or 'closed by the server'})")

    def eof_received(self) -> bool:
        return False

    def _fail(self, because: str) -> None:
        if self._closed_because is not None:
            return
        self._closed_because = because
        if self._timer is not None:
            self._timer.cancel()
        # The border between what may have happened and what did not: only the last batch can be
        # unsent, because each is written whole.
        sent_count = len(self._waiting) - self._batch_size
        for place, waiting in enumerate(self._waiting):
            if not waiting.done():
                waiting.set_exception(_loss(because) if place < sent_count else StoreUnavailable(because))
                waiting.exception()  # whoever stopped waiting is not to be warned
        self._waiting.clear()
        self._make_room()


def _loss(because: str) -> StoreError:
    return OutcomeUnknown(f"{because}, the reply is lost; the operation is safe to repeat")


def transport_of(writer: asyncio.StreamWriter) -> asyncio.Transport:
    return cast(asyncio.Transport, writer.transport)
