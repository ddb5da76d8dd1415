"""A plain AMQP client of the tests: declares what others declared before us, publishes, and reads what was parked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from tests.patience import PATIENCE, until
from tests.scenario.house import opened
from turnkeep.backoff import Backoff
from turnkeep.doors.amqp.consumer import AmqpDoor
from turnkeep.queue import AssistantMessageQueue
from turnkeep.simulator import Simulator

GARBAGE: list[tuple[bytes, dict[str, Any]]] = [
    (b"", {}),
    (b"not json", {}),
    (b"\xff\xfe\x00", {}),
    (b"[1, 2]", {}),
    (b'"text"', {}),
    (b"null", {}),
    (b"{}", {}),
    (b'{"channel": "c"}', {}),
    (b'{"channel": 5, "message_id": "m", "message": "x"}', {}),
    (b'{"channel": "", "message_id": "m", "message": "x"}', {}),
    (b'{"channel": "c", "message_id": 7, "message": "x"}', {}),
    (b'{"channel": "c", "message_id": "m", "message": "  "}', {}),
    (b'{"channel": "c", "message_id": "m", "message": {"a": 1}}', {}),
    (b'{"channel": "c", "message_id": "m", "message": "\\ud800"}', {}),
    (b'{"channel": "c\\u0000", "message_id": "m", "message": "x"}', {}),
    (b'{"channel": "subscription", "message_id": "m", "message": "x"}', {}),
    (b'{"channel": "c", "channel": "d", "message_id": "m", "message": "x"}', {}),
    (b'{"channel": "c", "message_id": "m", "message": NaN}', {}),
    (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, {}),
    (b'{"channel": "c", "message_id": "m", "message": "' + b"x" * 1_000_000 + b'"}', {}),
    (b'{"channel": "c", "message_id": "m", "message": "' + b"x" * 300_000 + b'"}', {}),
    (b'{"channel": "c", "message_id": "m", "message": "x"}', {"content_type": "application/xml"}),
    (b'{"channel": "c", "message_id": "m", "message": "x"}', {"content_encoding": "gzip"}),
    (b'{"channel": "c", "message_id": "m", "message": "x", "window": -1}', {}),
    (b"oops", {"headers": {"x": "y" * 60_000}}),
    (b"oops", {"headers": {"deep": {"er": [1, {"a": None}]}, "n": 2**60}}),
    (b"oops", {"expiration": 3_600_000, "user_id": "guest"}),
]

RECONNECT = Backoff(delay=0.02, cap=0.2)


@dataclass
class Broker:
    """One connection to the broker, and the names of one test."""

    url: str
    name: str
    connection: AbstractConnection
    channel: AbstractChannel

    @property
    def names(self) -> dict[str, Any]:
        """As settings."""
        return {
            "rabbitmq_url": self.url,
            "exchange_name": f"{self.name}_exchange",
            "queue_name": f"{self.name}_queue",
            "routing_key": f"{self.name}_key",
        }

    absent = aio_pika.exceptions.ChannelNotFoundEntity
    """What `waiting` raises for a queue that is not there."""

    async def publish(self, body: Any, *, key: str | None = None, **properties: Any) -> None:
        """Publish with a confirm; what is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        exchange = await self.channel.get_exchange(self.names["exchange_name"], ensure=False)
        message = aio_pika.Message(data, delivery_mode=2, **properties)
        await exchange.publish(message, key or self.names["routing_key"], mandatory=True)

    async def publish_to(self, queue: str, body: bytes) -> None:
        """Straight into a queue, past all exchanges."""
        await self.channel.default_exchange.publish(aio_pika.Message(body), queue, mandatory=True)

    async def publish_all(self, bodies: Sequence[Any], **properties: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for body in bodies:
                group.create_task(self.publish(body, **properties))

    async def waiting(self, queue: str) -> int:
        """Messages that are ready in a queue."""
        async with self.connection.channel() as channel:
            return (await channel.get_queue(queue)).declaration_result.message_count or 0

    async def parked(self, at_least: int = 0) -> list[AbstractIncomingMessage]:
        """Take everything out of the dead queue, once so many are there: what was answered may overtake them."""
        await until(lambda: self._has_parked(at_least))
        queue = await self.channel.get_queue(f"{self.name}_queue_failed", ensure=False)
        found = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append(message)
        return found

    async def _has_parked(self, at_least: int) -> bool:
        return at_least == 0 or await self.waiting(f"{self.name}_queue_failed") >= at_least

    async def declare_as_the_seed_did(self) -> None:
        """A classic queue with priorities, a time to live and a dead-letter argument, on a direct exchange."""
        names = self.names
        direct = await self.channel.declare_exchange(names["exchange_name"], "direct", durable=True)
        dead = await self.channel.declare_exchange(f"{names['exchange_name']}_dlx", "direct", durable=True)
        failed = await self.channel.declare_queue(f"{names['queue_name']}_failed", durable=True)
        await failed.bind(dead, names["routing_key"])
        arguments: dict[str, Any] = {
            "x-max-priority": 10,
            "x-message-ttl": 3_600_000,
            "x-dead-letter-exchange": f"{names['exchange_name']}_dlx",
        }
        queue = await self.channel.declare_queue(names["queue_name"], durable=True, arguments=arguments)
        await queue.bind(direct, names["routing_key"])


@contextlib.asynccontextmanager
async def broker(url: str, name: str) -> AsyncIterator[Broker]:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        yield Broker(url, name, connection, channel)


@dataclass
class AmqpHouse:
    """A queue that is open with its AMQP door, and the simulator behind it."""

    queue: AssistantMessageQueue
    door: AmqpDoor
    simulator: Simulator

    async def messages(self, channel: str, tenant: str = "default") -> list[str]:
        """Ids of open messages, then nothing: for houses without a worker."""
        address = self.queue.address(channel, tenant)
        return [record.message_id for record in await self.queue.store.open_messages(address)]

    async def counts(self) -> Mapping[str, int]:
        counts = await self.queue.store.counts()
        return {"open": counts.open_messages, "completed": counts.completed, "failed": counts.failed}


@contextlib.asynccontextmanager
async def amqp_house(
    names: Mapping[str, Any], store: str = "memory:", *, worker: bool = False, hold: float = 60.0, **settings: Any
) -> AsyncIterator[AmqpHouse]:
    """The door runs and consumes when this begins."""
    async with opened(store, worker=worker, **names, **settings) as house, asyncio.TaskGroup() as group:
        door = AmqpDoor(house.queue, reconnect=RECONNECT, hold=hold)
        running = group.create_task(door.run())
        async with asyncio.timeout(PATIENCE):
            await door.consuming.wait()
        yield AmqpHouse(house.queue, door, house.simulator)
        running.cancel()
