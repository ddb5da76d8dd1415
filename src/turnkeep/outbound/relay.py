"""The relay: a client of somebody's own WebSocket server, to which every frame is sent in an
envelope.

As services before this one did it: on the channel ``subscription`` it announces each channel before
its first frame and takes leave of it after the last, and frames are ``{"channel": C, "payload":
{…}}``. Differences: one connection for everything, what the server sends is read and dropped, and a
batch counts as delivered when the server has answered a ping sent after it. Text that waits is
merged: one cumulative frame per channel and page.

It carries the default tenant alone: the envelope has no place for another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect

from turnkeep.errors import ConfigurationError, ThreadQuarantined
from turnkeep.events import Answer
from turnkeep.messages import DEFAULT_TENANT, Address
from turnkeep.outbound.greeting import HEADER, Greeting
from turnkeep.outbound.parking import Away, DeliveryFailure
from turnkeep.store.contract import Store
from turnkeep.store.sinks import Delivery
from turnkeep.telemetry import get_log
from turnkeep.wire import DETAIL_KINDS, Dialect, Encoder, Frame, dumps, envelope

log = get_log(__name__)

OPEN_TIMEOUT = 10.0
ANSWER_TIMEOUT = 10.0
LARGEST_FRAME = 4_000_000
"""Bytes of a frame of the server that are read, to be dropped."""


class Relay:
    """Delivers to the server at `url`. Enter it before use."""

    kind = "relay"
    tenant: str | None = DEFAULT_TENANT
    finals = False

    def __init__(self, url: str, store: Store) -> None:
        self._url = url
        self._store = store
        self._greeting = Greeting(store)
        self._connection: ClientConnection | None = None
        # Partitions, and what is parked of each, deliver at the same time over one connection.
        self._one_at_a_time = asyncio.Lock()
        self._group = asyncio.TaskGroup()
        self._encoders: dict[Address, Encoder] = {}
        self._announced_channels: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self._drop()
        await self._group.__aexit__(*exc)

    def wants(self, delivery: Delivery) -> bool:
        return delivery.address.tenant == DEFAULT_TENANT and delivery.event.kind not in DETAIL_KINDS

    async def deliver(self, deliveries: Sequence[Delivery]) -> int:
        connection = await self._reach()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                for text in await self._texts(deliveries):
                    await connection.send(text)
                # Frames have no receipt in this protocol; a ping sent after them is
                # answered after them.
                await (await connection.ping())
        except websockets.ConnectionClosed as error:
            self._drop()
            raise DeliveryFailure(f"the server closed: {error}") from error
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            self._drop()
            raise DeliveryFailure(f"{type(error).__name__}: {error}") from error
        return len(deliveries)

    async def _reach(self) -> ClientConnection:
        try:
            return await self._open()
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            self._drop()
            raise Away(f"{type(error).__name__}: {error}") from error

    async def _open(self) -> ClientConnection:
        async with self._one_at_a_time:
            if self._connection is None:
                connection = await self._connect()
                await self._check_not_ourselves(connection)
                self._group.create_task(self._read(connection))
                self._connection = connection
                log.info("relay_connected", server=urlsplit(self._url).hostname)
            return self._connection

    async def _connect(self) -> ClientConnection:
        try:
            return await connect(
                self._url,
                open_timeout=OPEN_TIMEOUT,
                close_timeout=1.0,
                max_size=LARGEST_FRAME,
                compression=None,
                proxy=None,
            )
        except ValueError as error:  # it sends us on to what is no address
            raise Away(f"the server cannot be reached: {error}") from error

    async def _check_not_ourselves(self, connection: ClientConnection) -> None:
        instance = connection.response.headers.get(HEADER) if connection.response else None
        if instance and instance == await self._greeting.instance():
            await connection.close()
            raise ConfigurationError(
                "WEBSOCKET_URL is this very service: nothing needs to be relayed, subscribe to its /ws instead"
            )

    async def _read(self, connection: ClientConnection) -> None:
        """Drop what the server sends, so that its answers to pings come through."""
        try:
            async for _ in connection:
                pass
        except websockets.WebSocketException as error:
            log.warning("relay_disconnected", reason=str(error)[:200])
        finally:
            await connection.close()
            if self._connection is connection:
                self._drop()

    def _drop(self) -> None:
        """Begin anew: another connection, and the text so far from the log."""
        connection, self._connection = self._connection, None
        self._encoders.clear()
        self._announced_channels.clear()
        if connection is not None:
            # No closing handshake: a server that does not answer would hold up everything that
            # waits.
            connection.transport.abort()

    async def _texts(self, deliveries: Sequence[Delivery]) -> list[str]:
        """All frames of a page, in order; what is left of a channel's text comes at its end."""
        texts: list[str] = []
        owing: dict[Address, Encoder] = {}
        for delivery in deliveries:
            address = delivery.address
            encoder = owing[address] = await self._encoder(delivery)
            self._say(texts, address, encoder.encode(delivery.event))
            if delivery.event.is_final:
                owing.pop(address)
                self._take_leave(texts, address)
        for address, encoder in owing.items():
            self._say(texts, address, encoder.flush())
        return texts

    def _say(self, texts: list[str], address: Address, frames: Sequence[Frame]) -> None:
        if frames and address.channel not in self._announced_channels:
            self._announced_channels.add(address.channel)
            texts.append(dumps(_announcement("subscribe", address.channel)))
        texts += [dumps(envelope(address.channel, frame)) for frame in frames]

    def _take_leave(self, texts: list[str], address: Address) -> None:
        self._encoders.pop(address, None)
        if address.channel in self._announced_channels:
            self._announced_channels.discard(address.channel)
            texts.append(dumps(_announcement("unsubscribe", address.channel)))

    async def _encoder(self, delivery: Delivery) -> Encoder:
        encoder = self._encoders.get(delivery.address)
        if encoder is None:
            # Only an answer that began before us has to be looked up in the log.
            answer = Answer() if delivery.event.kind == "started" else await self._shown_before(delivery)
            encoder = Encoder(
                delivery.address, delivery.thread_id, Dialect(), answer=answer, replaces=bool(answer.text)
            )
            self._encoders[delivery.address] = encoder
        return encoder

    async def _shown_before(self, delivery: Delivery) -> Answer:
        """The answer in progress up to this event, folded from the log: somebody else
        told its beginning.

        Of a damaged thread nothing can be read; it is told from here on, and holds up no other.
        """
        answer, after = Answer(), 0
        while after < delivery.event.offset - 1:
            try:
                page = await self._store.read(delivery.address, after=after)
            except ThreadQuarantined:
                break
            for event in page.events:
                if event.offset < delivery.event.offset:
                    answer.take(event)
            if not page.events or page.epoch != delivery.event.epoch:
                break
            after = page.events[-1].offset
        return answer


def _announcement(action: str, channel: str) -> Frame:
    return {"channel": "subscription", "payload": {"action": action, "channel": channel}}
