"""Subscriptions: connections of their own on which servers tell of events and hints.

No task runs here: who waits for something calls `tend`, which opens lost connections again.
Guarantees: `listen` returns when the server has acknowledged, or when it is clear that it cannot
listen now; after a lost connection every listener is told that it may have missed something.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import hiredis

from turnkeep.backoff import Backoff
from turnkeep.errors import StoreError, StoreUnavailable
from turnkeep.store.redis.client.cures import Cure, cure_of
from turnkeep.store.redis.client.dialing import Dialer, ServerAddress, open_transport
from turnkeep.store.redis.client.link import redirect
from turnkeep.store.redis.client.pipe import Refusal
from turnkeep.store.redis.client.topology import ServerTopology

_AGAIN = Backoff(delay=0.05, cap=1.0)


class Listener(Protocol):
    """Who wants to hear a channel."""

    def on_message(self, channel: bytes, data: bytes) -> None:
        """A message; must not block."""
        ...

    def on_gap(self, channel: bytes) -> None:
        """Messages may have been lost, or are not heard now."""
        ...


class SubscriberConnection(asyncio.Protocol):
    """One connection that listens; silence is broken by a ping, and ends it when not answered."""

    def __init__(
        self,
        endpoint: ServerAddress,
        *,
        silence: float,
        tell: Callable[[bytes, bytes], None],
        lose: Callable[[SubscriberConnection, list[bytes]], None],
    ) -> None:
        self.endpoint = endpoint
        self.channels: set[bytes] = set()
        """Channels that the server has acknowledged."""
        self.opener: object = None
        self.server = b""
        self.refusal = ""
        self._silence = silence
        self._tell = tell
        self._lose = lose
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=Refusal)
        self._requests: deque[bytes] = deque()
        self._acknowledgements: dict[bytes, asyncio.Future[bool]] = {}
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._was_heard = True

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def take_over(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_protocol(self)
        # A subscriber only listens: a peer that vanished without a word would never be noticed.
        self._timer = self._loop.call_later(self._silence, self._look)

    def ask(self, command: str, channel: bytes) -> asyncio.Future[bool]:
        """Subscribe; True when acknowledged, False when refused or lost."""
        acknowledgement: asyncio.Future[bool] = self._loop.create_future()
        if not self.is_open:
            acknowledgement.set_result(False)
            return acknowledgement
        # Redis answers a refusal without the channel, in order: the queue tells which one it means.
        self._acknowledgements[channel] = acknowledgement
        self._requests.append(channel)
        self.write(command, channel)
        return acknowledgement

    def write(self, *command: str | bytes) -> None:
        if self._transport is not None and self.is_open:  # uvloop raises for one that is closed
            self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # a union is as good

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _look(self) -> None:
        if not self._was_heard:
            self.close()
            return
        self._was_heard = False
        self.write("PING")
        self._timer = self._loop.call_later(self._silence, self._look)

    def data_received(self, data: bytes) -> None:
        self._was_heard = True
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError:
            self.close()

    def _take(self, reply: Any) -> None:
        if isinstance(reply, Refusal):
            self.refusal = str(reply)
            if self._requests:
                self._settle(self._requests[0], is_acknowledged=False)
        elif reply[0] in (b"message", b"smessage"):
            self._tell(reply[1], reply[2])
        elif reply[0] in (b"subscribe", b"ssubscribe"):
            self.channels.add(reply[1])
            self._settle(reply[1], is_acknowledged=True)
        elif reply[0] == b"sunsubscribe" and reply[1] in self.channels:
            # A cluster unsubscribes by itself when the slot leaves the node.
            self.channels.discard(reply[1])  # its slot moves to another node
            self._lose(self, [reply[1]])

    def _settle(self, channel: bytes, *, is_acknowledged: bool) -> None:
        if channel in self._requests:
            self._requests.remove(channel)
        waiting = self._acknowledgements.pop(channel, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(is_acknowledged)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for channel in list(self._requests):
            self._settle(channel, is_acknowledged=False)
        channels, self.channels = list(self.channels), set()
        self._lose(self, channels)


class Subscriptions:
    """All subscriptions of one engine."""

    def __init__(self, topology: ServerTopology, dialer: Dialer, *, timeout: float) -> None:
        self._topology = topology
        self._dialer = dialer
        self._timeout = timeout
        self._command = "SSUBSCRIBE" if topology.publish == "SPUBLISH" else "SUBSCRIBE"
        self._listeners: dict[bytes, set[Listener]] = {}
        self._unheard: set[bytes] = set()
        self._was_missed: set[bytes] = set()
        self._connections: dict[ServerAddress, SubscriberConnection] = {}
        self._connection_of: dict[bytes, SubscriberConnection] = {}
        self._tending = asyncio.Lock()
        self._failures = 0
        self._not_before = 0.0
        self._is_closed = False

    @property
    def is_whole(self) -> bool:
        """Whether every channel that somebody listens to is heard now."""
        return not self._unheard

    async def listen(self, channel: bytes, listener: Listener) -> None:
        """Hear a channel from the return of this call on, or get a gap when it is heard later."""
        # Registered before the server is asked: what comes right after
        # the acknowledgement has somebody.
        is_first = channel not in self._listeners
        self._listeners.setdefault(channel, set()).add(listener)
        if is_first:
            self._unheard.add(channel)
        if channel in self._unheard:
            await self.tend()
        # It read the log, if at all, before it was heard: whoever follows has to
        # read once more then.
        if channel in self._unheard:
            self._was_missed.add(channel)

    def leave(self, channel: bytes, listener: Listener) -> None:
        listeners = self._listeners.get(channel, set())
        listeners.discard(listener)
        if listeners or channel not in self._listeners:
            return
        del self._listeners[channel]
        self._unheard.discard(channel)
        self._was_missed.discard(channel)
        connection = self._connection_of.pop(channel, None)
        if connection is not None and channel in connection.channels:
            connection.channels.discard(channel)
            connection.write(self._command.replace("SUBSCRIBE", "UNSUBSCRIBE"), channel)

    async def tend(self) -> bool:
        """Try to hear what is not heard; True when everything is. Many may call it at once."""
        async with self._tending:
            if self._is_closed:
                raise StoreUnavailable("the store is closed")
            loop = asyncio.get_running_loop()
            # All who wait call this: one of them tries, and no sooner than the pause
            # after the last failure.
            if not self._unheard or loop.time() < self._not_before:
                return self.is_whole
            channels = set(self._unheard)
            await self._hear_all(channels)
            # Who came meanwhile is no failure: it would wait for the pause, and a worker that has just
            # started would not hear of its first message. It asks next, itself: asked for in the same
            # turn, a thousand who come one after the other would keep the first waiting for the last.
            if self._unheard & channels:  # tried again after a moment; listeners poll meanwhile
                self._failures += 1
                self._not_before = loop.time() + _AGAIN.after(self._failures)
            else:
                self._failures = 0
            return self.is_whole

    async def _hear_all(self, channels: Iterable[bytes]) -> None:
        """Each server by itself: one that cannot be reached does not keep the others unheard."""
        by_server: dict[ServerAddress, list[bytes]] = {}
        with contextlib.suppress(StoreError):
            for channel in channels:
                by_server.setdefault(await self._topology.find(channel), []).append(channel)
        # At the same time: a node of a cluster that is silent takes its whole timeout.
        async with asyncio.TaskGroup() as group:
            for endpoint, there in by_server.items():
                group.create_task(self._hear(endpoint, there))

    async def _hear(self, endpoint: ServerAddress, channels: list[bytes]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connection_to(endpoint)
                requests = [(channel, connection.ask(self._command, channel)) for channel in channels]
                for channel, acknowledgement in requests:
                    if await acknowledgement:
                        self._now_heard(channel, connection)
                    else:
                        self._look_elsewhere(channel, connection)
        except (StoreError, TimeoutError):
            for channel in channels:
                self._topology.forget(channel)

    def _now_heard(self, channel: bytes, connection: SubscriberConnection) -> None:
        self._unheard.discard(channel)
        self._connection_of[channel] = connection
        if channel in self._was_missed:
            self._was_missed.discard(channel)
            self._tell_missed(channel)

    def _tell_missed(self, channel: bytes) -> None:
        for listener in list(self._listeners.get(channel, ())):
            listener.on_gap(channel)

    def _look_elsewhere(self, channel: bytes, connection: SubscriberConnection) -> None:
        self._topology.forget(channel)
        # A slot that moved is no failure, so there is nothing to pause for.
        if cure_of(connection.refusal) is Cure.FOLLOW:
            self._topology.note_move(*redirect(connection.refusal, connection.endpoint))
            self._not_before = 0.0

    async def _connection_to(self, endpoint: ServerAddress) -> SubscriberConnection:
        connection = self._connections.get(endpoint)
        if connection is None or not connection.is_open:
            connection = SubscriberConnection(endpoint, silence=self._timeout, tell=self._tell, lose=self._on_loss)
            await open_transport(self._dialer, endpoint, connection)
            try:
                await self._topology.confirm(endpoint)
            except BaseException:
                connection.close()
                raise
            self._connections[endpoint] = connection
        return connection

    def _tell(self, channel: bytes, data: bytes) -> None:
        for listener in list(self._listeners.get(channel, ())):
            listener.on_message(channel, data)

    def _on_loss(self, connection: SubscriberConnection, channels: list[bytes]) -> None:
        if self._is_closed:
            return
        # The pause belongs to the tries of before: this connection worked until now.
        self._not_before = 0.0
        for channel in channels:
            self._topology.forget(channel)
            if channel in self._listeners:
                self._unheard.add(channel)
                self._was_missed.add(channel)
                self._tell_missed(channel)

    def close(self) -> None:
        self._is_closed = True
        for connection in self._connections.values():
            connection.close()
        self._listeners.clear()
        self._unheard.clear()
