"""The AMQP door: messages from RabbitMQ, taken in durably before they are acknowledged.

* What arrives together is accepted in one call of the store, in the order of its delivery, then acknowledged. A
  delivery that comes again is absorbed by its `message_id`.
* What cannot be taken (garbage, no id, an id with another text, an unknown thread, a full channel, what is beyond the
  rate of its channel or tenant, a new thread of a tenant that has all it may) is published to the dead exchange with
  the reason, and acknowledged when the broker has confirmed that; until then it waits, alone. Nothing is ever requeued
  by us.
* While the store does not take messages, nothing is acknowledged, so that the broker stops to deliver after `PREFETCH`
  messages; after `HOLD` seconds they are given back, once, and the door stays shut until the store can write again.
* A lost connection is made again, with jitter, for as long as the process lives.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, DeliveredMessage

from turnkeep.application import Application
from turnkeep.auth.limits import Limits
from turnkeep.auth.principals import Principal
from turnkeep.backoff import Backoff
from turnkeep.broker import (
    CONNECTION_ERRORS,
    RPC_TIMEOUT,
    BrokerNames,
    broker_of,
    cancellation_first,
    connect,
    hang_up,
    identity,
    settle_topology,
)
from turnkeep.doors.amqp.dead_exchange import DeadMessage, DeadQueue, failure_text
from turnkeep.errors import (
    InvalidMessage,
    OutcomeUnknown,
    StoreError,
    StoreFull,
    StoreUnavailable,
    ThreadNotFound,
    ThreadQuarantined,
    TooManyRequests,
    TurnkeepError,
)
from turnkeep.inputs import OURS, read_channel, read_json, read_message
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Message
from turnkeep.settings import Settings
from turnkeep.store.values import Receipt
from turnkeep.telemetry import get_log

log = get_log(__name__)

PREFETCH = 500
"""Deliveries that are on their way into the store at most."""
HOLD = 120.0
"""Seconds for which deliveries wait for the store; far less than the broker's own limit of 30
minutes.
"""
RECONNECT = Backoff(delay=0.5, cap=5.0)
PATIENCE = Backoff(delay=0.05, cap=2.0)

TYPES = ("", "application/json", "text/json", "text/plain", "application/octet-stream")
ENCODINGS = ("", "utf-8", "utf8", "identity", "binary", "8bit", "us-ascii")

Acceptance = Receipt | TurnkeepError


@dataclass(frozen=True, slots=True)
class Intake:
    """Turns deliveries into messages, strictly."""

    queue: str
    tenants: dict[str, str]
    vhost: str
    user: str
    frame_bytes: int
    message_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Intake:
        vhost, user = identity(settings.rabbitmq_url or "")
        limits = settings.max_frame_bytes, settings.max_message_bytes
        return cls(settings.queue, settings.amqp_tenants, vhost, user, *limits)

    def read(self, delivery: DeliveredMessage) -> Message:
        """Raises `InvalidMessage` and `MessageTooLarge`. The property `message-id` stands in for a
        missing field.
        """
        properties = delivery.header.properties
        _check_form(properties)
        body = read_json(delivery.body, limit=self.frame_bytes)
        # A reply exchange that is bound to the queue we read from would have us answer ourselves
        # for ever.
        if all(name in body for name in OURS):
            raise InvalidMessage("this is an answer of ours and no message, do not send answers back")
        address = Address(self.tenant(properties.user_id), self.queue, read_channel(body))
        if body.get("message_id") is None and properties.message_id:
            body["message_id"] = properties.message_id
        # An id that is made here would be another one at each redelivery, and the
        # message be taken twice.
        return read_message(body, address, limit=self.message_bytes, mint=False)

    def tenant(self, user_id: str | None) -> str:
        """By the sender (the broker has checked that property), the virtual host, or the user we
        connect as.
        """
        for name in (user_id, self.vhost, self.user):
            if name and name in self.tenants:
                return self.tenants[name]
        return "default"


def _check_form(properties: Any) -> None:
    kind = (properties.content_type or "").partition(";")[0].strip().lower()
    if kind not in TYPES and not kind.endswith("+json"):
        raise InvalidMessage(f"the content type {kind[:80]!r} is not taken, send application/json")
    encoding = (properties.content_encoding or "").strip().lower()
    if encoding not in ENCODINGS:
        raise InvalidMessage(f"the content encoding {encoding[:80]!r} is not taken, send UTF-8")


class _BrokerGone(ConnectionError):
    """the channel or its consumer is gone"""


class _GivenBack(Exception):
    """the store took nothing for too long"""


INTERRUPTIONS: tuple[type[BaseException], ...] = (*CONNECTION_ERRORS, StoreError, _GivenBack)


class AmqpDoor:
    """Takes messages from one AMQP queue while `run` runs."""

    def __init__(self, application: Application, *, reconnect: Backoff = RECONNECT, hold: float = HOLD) -> None:
        self._application = application
        self._url = application.settings.rabbitmq_url or ""
        self._names = BrokerNames.of(application.settings)
        self._intake = Intake.of(application.settings)
        self._limits = Limits.of_broker(application.settings, application.store)
        self._reconnect = reconnect
        self._hold = hold
        self._failures = 0
        self._consumer: _Consumer | None = None
        self.consuming = asyncio.Event()
        """Set while a consumer is open."""

    @property
    def unsettled_count(self) -> int:
        """Deliveries that are neither in the store nor in the dead queue yet."""
        return len(self._consumer.unsettled_tags) if self._consumer is not None else 0

    async def run(self) -> None:
        """Connect, take, and connect again, until cancelled. Nothing that happens here ends the
        other doors.
        """
        while True:
            try:
                # Before a connection is made: 500 deliveries would come to somebody who can only
                # give them back.
                await self._application.store.check()
                await self._connect()
            except INTERRUPTIONS as error:
                self._failures += 1
                log.warning(
                    "amqp_interrupted", broker=broker_of(self._url), error=failure_text(error), times=self._failures
                )
            except Exception as error:
                self._failures += 1
                log.exception(
                    "amqp_broke", broker=broker_of(self._url), error=failure_text(error), times=self._failures
                )
            await asyncio.sleep(self._reconnect.after(self._failures))

    async def _connect(self) -> None:
        """The life of one connection."""
        connection = await connect(self._url, f"turnkeep {self._application.name}")
        try:
            with cancellation_first():
                topology = await settle_topology(connection, self._names)
            log.info(
                "amqp_connected", queue=self._names.queue, waiting=topology.waiting, created=topology.created_names
            )
            await self._consume(connection)
        finally:
            self.consuming.clear()
            await hang_up(connection)

    async def _consume(self, connection: AbstractConnection) -> None:
        # Nothing is published here; what is parked has a connection of its own (`dead_exchange`).
        with cancellation_first():
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(PREFETCH)
            consumer = self._consumer = _Consumer(await channel.get_underlay_channel())
        channel.close_callbacks.add(consumer.on_close)
        parking = DeadQueue(self._url, self._names, meter=self._application.meter, again=self._reconnect)
        with cancellation_first():
            await consumer.start(self._names.queue)
        self.consuming.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(parking.run(consumer.acknowledge))
                group.create_task(self._accept_batches(consumer, parking))
        except ExceptionGroup as errors:
            # `run` looks at the kind of the error, and of the two tasks one has failed
            # and one was cancelled.
            raise errors.exceptions[0] from None

    async def _accept_batches(self, consumer: _Consumer, parking: DeadQueue) -> None:
        while True:
            batch = await consumer.next()
            inputs = [await self._check_rate(self._read(delivery)) for delivery in batch]
            outcomes = await self._outcomes(inputs)
            durable = []
            for delivery, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, TurnkeepError):
                    parking.add(DeadMessage(delivery, outcome))
                else:
                    durable.append(delivery)
            await consumer.acknowledge(durable)
            self._application.meter.count("amqp_messages", len(durable), outcome="accepted")
            self._failures = 0

    def _read(self, delivery: DeliveredMessage) -> Message | TurnkeepError:
        try:
            return self._intake.read(delivery)
        except TurnkeepError as error:
            return error

    async def _check_rate(self, message: Message | TurnkeepError) -> Message | TurnkeepError:
        """What is beyond a rate is refused, unless we have it: a delivery may come again.
        Raises `StoreError`.
        """
        if not isinstance(message, Message):
            return message
        try:
            self._limits.check_rate(Principal(message.address.tenant), message.address)
        except TooManyRequests as error:
            return (
                error if await self._application.store.message(message.address, message.message_id) is None else message
            )
        return message

    async def _outcomes(self, inputs: Sequence[Message | TurnkeepError]) -> list[Acceptance]:
        """One per delivery, in their order; a receipt says that it is in the store."""
        receipts = iter(await self._accept([one for one in inputs if isinstance(one, Message)]))
        return [next(receipts) if isinstance(one, Message) else one for one in inputs]

    async def _accept(self, messages: Sequence[Message]) -> list[Acceptance]:
        """One outcome per message. What one of them does to the store does not concern its
        neighbours.
        """
        try:
            return await self._patiently(messages)
        except _GivenBack:
            raise
        except Exception as error:
            if len(messages) == 1:
                return [_as_refusal(error)]
        # One by one: a message that breaks the operation would come back with its
        # neighbours for ever.
        return [outcome for message in messages for outcome in await self._accept([message])]

    async def _patiently(self, messages: Sequence[Message]) -> list[Acceptance]:
        """Again and again while the store is away or full. Raises `_GivenBack` when
        that takes too long.
        """
        loop = asyncio.get_running_loop()
        until, failures = loop.time() + self._hold, 0
        while True:
            try:
                return await self._accept_now(messages)
            except (StoreUnavailable, StoreFull, OutcomeUnknown) as error:
                failures += 1
                log.warning("amqp_store_down", error=str(error), waiting=len(messages), times=failures)
                if loop.time() > until:
                    raise _GivenBack(f"the store took no messages for {self._hold:.0f} s: {error}") from error
            await asyncio.sleep(PATIENCE.after(failures))

    async def _accept_now(self, messages: Sequence[Message]) -> list[Acceptance]:
        """A channel that names a thread must exist already; all others are created where their
        tenant has room.
        """
        outcomes: list[Acceptance] = []
        most = self._application.settings.amqp_max_inbox
        may_create = {message.address: await self._limits.creates(message.address) for message in messages}
        # Neighbours together and never sorted: within a channel the order of delivery is the order
        # of turns.
        for create, some in itertools.groupby(messages, lambda message: may_create[message.address]):
            outcomes += await self._application.accept(list(some), create=create, max_inbox=most)
        threads = self._limits.threads
        return [
            threads.refusal() if isinstance(outcome, ThreadNotFound) and not message.address.names_thread else outcome
            for message, outcome in zip(messages, outcomes, strict=True)
        ]


def _as_refusal(error: Exception) -> TurnkeepError:
    """Why this one message stays out. Raises what is no message's fault."""
    if isinstance(error, StoreError) and not isinstance(error, ThreadQuarantined):
        raise error
    if isinstance(error, TurnkeepError):
        return error
    log.exception("amqp_message_broke", exc_info=error)
    # The name alone: the text of an error nobody foresaw may quote the message, and this
    # is kept in headers.
    return TurnkeepError(f"{type(error).__name__} while the message was accepted")


class _Consumer:
    """Deliveries of one channel, in order, as many at once as there are. Bounded by the prefetch of
    the channel.
    """

    def __init__(self, channel: AbstractChannel) -> None:
        self.unsettled_tags: set[int] = set()
        """Tags of what was delivered and not acknowledged."""
        self._channel = channel
        self._waiting: list[DeliveredMessage] = []
        self._some = asyncio.Event()
        self._end_reason: str | None = None

    async def start(self, queue: str) -> None:
        self._channel.on_consumer_cancel_callbacks.add(self._on_cancel)
        await self._channel.basic_consume(queue, self._enqueue, timeout=RPC_TIMEOUT)

    async def next(self) -> Sequence[DeliveredMessage]:
        """What has been delivered since the last call, at least one. Raises `_BrokerGone`."""
        await self._some.wait()
        self._some.clear()
        if self._end_reason is not None:
            raise _BrokerGone(self._end_reason)
        batch, self._waiting = self._waiting, []
        return batch

    async def acknowledge(self, some: Sequence[DeliveredMessage]) -> None:
        """With one frame where nothing before the last of them waits, else one by one."""
        tags = sorted(one.delivery_tag for one in some if one.delivery_tag is not None)
        if not tags:
            return
        self.unsettled_tags.difference_update(tags)
        # `multiple` settles everything up to the tag: also what waits to be parked,
        # which would be lost.
        if not any(tag < tags[-1] for tag in self.unsettled_tags):
            await self._channel.basic_ack(tags[-1], multiple=True)
            return
        for tag in tags:
            await self._channel.basic_ack(tag)

    async def _enqueue(self, delivery: DeliveredMessage) -> None:
        if delivery.delivery_tag is not None:
            self.unsettled_tags.add(delivery.delivery_tag)
        self._waiting.append(delivery)
        self._some.set()

    def on_close(self, _: Any, error: BaseException | None = None) -> None:
        self._end(f"the channel is closed: {error!r}")

    async def _on_cancel(self, _: Any) -> None:
        self._end("the broker has cancelled the consumer")

    def _end(self, reason: str) -> None:
        self._end_reason = self._end_reason or reason
        self._some.set()
