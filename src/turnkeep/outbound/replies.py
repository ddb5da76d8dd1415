"""The reply exchange: every final frame as one AMQP message, confirmed by the broker.

The body is the last frame of the turn in the seed dialect, the routing key is the channel (or, when
that is longer than a routing key may be, its SHA-256 in hex), `correlation-id` the newest message
id, and `message-id` the same for every repeat. An existing exchange is used as it is; else a
durable topic exchange is made.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Self

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange
from aio_pika.exceptions import ChannelNotFoundEntity

from turnkeep.broker import CONNECTION_ERRORS, RPC_TIMEOUT, cancellation_first, connect, hang_up
from turnkeep.outbound.parking import Away, DeliveryFailure
from turnkeep.outbound.webhook import event_id
from turnkeep.store.sinks import Delivery
from turnkeep.wire import Dialect, Encoder, dumps

LONGEST_KEY = 255
"""Bytes of a routing key, and of a property."""


class ReplyExchange:
    """Delivers to the exchange `name` of the broker at `url`. Enter it before use."""

    kind = "reply"
    tenant: str | None = None
    finals = True

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._connection: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None
        # Partitions, and what is parked of each, deliver at the same time over one connection.
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._drop()

    def wants(self, delivery: Delivery) -> bool:
        return delivery.event.is_final

    async def deliver(self, deliveries: Sequence[Delivery]) -> int:
        """All of them, in order; the broker confirms each."""
        exchange = await self._reach()
        try:
            for delivery in deliveries:
                message = _message(delivery)
                with cancellation_first():
                    await exchange.publish(message, _key(delivery), mandatory=False, timeout=RPC_TIMEOUT)
        except CONNECTION_ERRORS as error:
            await self._drop()
            raise DeliveryFailure(f"{type(error).__name__}: {error}") from error
        return len(deliveries)

    async def _reach(self) -> AbstractExchange:
        try:
            with cancellation_first():
                return await self._open()
        except CONNECTION_ERRORS as error:
            await self._drop()
            raise Away(f"{type(error).__name__}: {error}") from error

    async def _open(self) -> AbstractExchange:
        async with self._one_at_a_time:
            if self._exchange is None:
                self._connection = await connect(self._url, "turnkeep reply")
                await self._find_or_make(self._connection)
                channel = await self._connection.channel(publisher_confirms=True)
                self._exchange = await channel.get_exchange(self._name, ensure=False)
            return self._exchange

    async def _find_or_make(self, connection: AbstractConnection) -> None:
        try:
            # Declared with another type than it has, an exchange is refused; so it is
            # looked at first.
            async with connection.channel() as asking:
                await asking.get_exchange(self._name)
        except ChannelNotFoundEntity:
            async with connection.channel() as making:
                await making.declare_exchange(self._name, "topic", durable=True, timeout=RPC_TIMEOUT)

    async def _drop(self) -> None:
        connection, self._connection, self._exchange = self._connection, None, None
        if connection is not None:
            await hang_up(connection)


def _message(delivery: Delivery) -> aio_pika.Message:
    frame = Encoder(delivery.address, delivery.thread_id, Dialect()).encode(delivery.event)[0]
    # A final event is one frame; `more` would make a client wait for another.
    frame.pop("more", None)
    newest = delivery.event.message_ids[-1] if delivery.event.message_ids else ""
    return aio_pika.Message(
        dumps(frame).encode(),
        content_type="application/json",
        delivery_mode=2,
        message_id=event_id(delivery),
        # A property holds no more; without it the message still arrives.
        correlation_id=newest if len(newest.encode()) <= LONGEST_KEY else None,
        headers={"tenant": delivery.address.tenant},
    )


def _key(delivery: Delivery) -> str:
    channel = delivery.address.channel
    if len(channel.encode()) <= LONGEST_KEY:
        return channel
    return hashlib.sha256(channel.encode()).hexdigest()
