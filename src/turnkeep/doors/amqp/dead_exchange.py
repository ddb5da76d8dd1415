"""Where AMQP messages go that cannot be taken: the dead exchange, as they came, with
the reason in headers.

They go over a connection of their own, because a broker that takes no more (an alarm) reads nothing
from a connection that publishes, not even acknowledgements. What cannot be parked now is tried
again, with jitter, and stays unacknowledged: it keeps a place of the prefetch, and concerns no
other message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq.abc import DeliveredMessage

from turnkeep.backoff import Backoff
from turnkeep.broker import CONNECTION_ERRORS, RPC_TIMEOUT, BrokerNames, cancellation_first, connect, hang_up
from turnkeep.errors import TurnkeepError
from turnkeep.lean_dataclass import dataclass
from turnkeep.telemetry import Meter, get_log

log = get_log(__name__)

REASON, DETAILS = "turnkeep-reason", "turnkeep-details"
"""Headers of a message in the dead queue: a code, and a sentence."""
PART_FOR_HEADERS = 8
"""One part in so many of the broker's largest frame is for a message's own headers: all properties
are one frame.
"""
# AMQP 0-9-1, 4.2.5.3: a short string has one byte for its length.
LONGEST_PROPERTY = 255
"""Bytes of a property, and of a header's name, in UTF-8."""
AT_ONCE = 16
"""Copies that wait for their confirm: more would keep more bodies in memory at once."""

Settle = Callable[[Sequence[DeliveredMessage]], Awaitable[None]]


# By identity: two deliveries with the same bytes are still two to acknowledge.
@dataclass(frozen=True, slots=True, eq=False)
class DeadMessage:
    """A delivery that cannot be taken, and why."""

    delivery: DeliveredMessage
    why: TurnkeepError


class DeadQueue:
    """Parks what it is given, in the background, while `run` runs. Bounded by the
    prefetch of who consumes.
    """

    def __init__(self, url: str, names: BrokerNames, *, meter: Meter, again: Backoff) -> None:
        self._exchange = DeadExchange(url, names)
        self._meter = meter
        self._again = again
        self._waiting: deque[DeadMessage] = deque()
        self._some = asyncio.Event()

    def add(self, dead: DeadMessage) -> None:
        log.warning(
            "amqp_message_refused", code=dead.why.code, reason=str(dead.why)[:200], bytes=len(dead.delivery.body)
        )
        self._waiting.append(dead)
        self._some.set()

    async def run(self, settle: Settle) -> None:
        """Park until cancelled; `settle` acknowledges what the broker has confirmed. Raises what
        `settle` raises.
        """
        failures = 0
        async with self._exchange:
            while True:
                await self._some.wait()
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                durable = await self._park_all(some)
                self._waiting.extend(dead for dead in some if dead not in durable)
                if not self._waiting:
                    self._some.clear()
                if durable:
                    await settle([dead.delivery for dead in durable])
                failures = 0 if len(durable) == len(some) else failures + 1
                if failures:
                    await asyncio.sleep(self._again.after(failures))

    async def _park_all(self, some: Sequence[DeadMessage]) -> list[DeadMessage]:
        """Those that are in the dead queue now."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._park(dead)) for dead in some]
        return [dead for dead, task in zip(some, tasks, strict=True) if task.result()]

    async def _park(self, dead: DeadMessage) -> bool:
        try:
            await self._exchange.park(dead)
        except Exception as error:  # whatever it is, it concerns this message alone
            log.warning("amqp_not_parked", error=failure_text(error), waiting=len(self._waiting) + 1)
            return False
        self._meter.count("amqp_messages", outcome=dead.why.code)
        return True


class DeadExchange:
    """The dead exchange, over a connection that is opened when it is needed. Enter it before use."""

    def __init__(self, url: str, names: BrokerNames) -> None:
        self._url = url
        self._names = names
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._most_headers = 0
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self) -> DeadExchange:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._drop()

    async def park(self, dead: DeadMessage) -> None:
        """Publish and wait for the confirm. If the exchange leads nowhere, straight to the dead
        queue.

        Raises one of `BROKEN` when the broker has not confirmed it, whatever the reason.
        """
        try:
            with cancellation_first():
                channel = await self._open()
                message = _dead_letter_message(dead, self._most_headers)
                # Not asked for again: it was declared or found when the consumer began.
                exchange = await channel.get_exchange(self._names.dead_exchange, ensure=False)
                try:
                    # Without `mandatory` a broker confirms what no queue took, and the message is gone.
                    await exchange.publish(message, self._names.routing_key, mandatory=True, timeout=RPC_TIMEOUT)
                except PublishError:
                    log.warning("amqp_dead_exchange_unbound", exchange=self._names.dead_exchange)
                    default = channel.default_exchange
                    await default.publish(message, self._names.dead_queue, mandatory=True, timeout=RPC_TIMEOUT)
        except DeliveryError as error:
            raise ConnectionRefusedError("the broker refuses it, is the dead queue full or absent?") from error
        except TimeoutError:
            await self._drop()
            raise TimeoutError(f"no confirm within {RPC_TIMEOUT:.0f} s, has the broker an alarm?") from None
        except CONNECTION_ERRORS:
            await self._drop()
            raise

    async def _open(self) -> AbstractChannel:
        async with self._one_at_a_time:
            if self._channel is None:
                self._connection = await connect(self._url, "turnkeep dead letters")
                channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
                largest = (await channel.get_underlay_channel()).connection.connection_tune.frame_max
                self._most_headers = largest // PART_FOR_HEADERS
                self._channel = channel
            return self._channel

    async def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await hang_up(connection)


def _dead_letter_message(dead: DeadMessage, most_headers: int) -> aio_pika.Message:
    """The same body, the properties that say what it is, and the reason."""
    properties = dead.delivery.header.properties
    reason = {REASON: dead.why.code, DETAILS: str(dead.why)[:500]}
    reason["turnkeep-routing-key"] = dead.delivery.routing_key or ""
    return aio_pika.Message(
        dead.delivery.body,
        headers=_writable_headers(properties.headers or {}, most_headers) | reason,
        # Persistent: it is the only copy once its delivery is acknowledged.
        delivery_mode=2,
        message_id=_if_it_fits(properties.message_id),
        content_type=_if_it_fits(properties.content_type),
        content_encoding=_if_it_fits(properties.content_encoding),
        correlation_id=_if_it_fits(properties.correlation_id),
        timestamp=properties.timestamp,
    )


def _writable_headers(headers: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Headers that can be written again; all or none, at most so many bytes."""
    writable = {key: value for key, value in headers.items() if _if_it_fits(key) and _is_plain(value)}
    size = sum(len(key.encode()) + len(str(value).encode()) for key, value in writable.items())
    return writable if size <= most else {}


def _if_it_fits(text: str | None) -> str | None:
    """Text that was no UTF-8 is longer now than what came."""
    return text if text is not None and len(text.encode()) <= LONGEST_PROPERTY else None


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < 2**31)


def failure_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
