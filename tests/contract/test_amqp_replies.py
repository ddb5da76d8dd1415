"""Final events as AMQP messages, confirmed by a real RabbitMQ."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from tests.contract.broker import Broker, broker
from tests.patience import PATIENCE
from tests.scenario.house import TestHouse, opened
from tests.scenario.hubs import QUICKLY
from tests.services import RabbitServer
from tests.services.tcp_proxy import TcpProxy
from turnkeep.outbound.forwarder import Forwarder
from turnkeep.outbound.replies import ReplyExchange


@pytest.fixture
async def rabbit(rabbit_server: RabbitServer, amqp_name: str) -> AsyncIterator[Broker]:
    async with broker(rabbit_server.url(), amqp_name) as client:
        yield client


async def bound(rabbit: Broker, kind: str = "topic") -> AbstractQueue:
    """A queue that gets every reply."""
    exchange = await rabbit.channel.declare_exchange(f"{rabbit.name}_replies", kind, durable=True)
    queue = await rabbit.channel.declare_queue(f"{rabbit.name}_replies", durable=True)
    await queue.bind(exchange, "#")
    return queue


async def replies(queue: AbstractQueue, count: int) -> list[AbstractIncomingMessage]:
    found: list[AbstractIncomingMessage] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            message = await queue.get(no_ack=True, fail=False)
            if message is None:
                await asyncio.sleep(0.02)
            else:
                found.append(message)
    return found


async def answered(house: TestHouse, channel: str, message_id: str) -> None:
    async with house.stream(channel) as stream:
        await house.send(channel, "hello", message_id)
        await house.settled(stream, message_id)


@pytest.mark.parametrize("kind", ["topic", "fanout"])
async def test_every_turn_ends_in_one_reply_in_the_order_of_its_channel(rabbit: Broker, kind: str) -> None:
    queue = await bound(rabbit, kind)
    async with opened() as house, asyncio.TaskGroup() as group:
        receiver = ReplyExchange(rabbit.url, f"{rabbit.name}_replies")
        forwarder = Forwarder(house.queue.store, receiver, queue=house.queue.name, rules=QUICKLY)
        await house.queue.store.open_sink(forwarder.sink)
        running = group.create_task(forwarder.run())
        for number in range(5):
            await answered(house, "c", f"m{number}")
        found = await replies(queue, 5)
        running.cancel()
    bodies = [json.loads(message.body) for message in found]
    assert [body["message_id"] for body in bodies] == [f"m{number}" for number in range(5)]
    assert all((body["type"], body["status"], body["channel"]) == ("response", "completed", "c") for body in bodies)
    assert [message.correlation_id for message in found] == [f"m{number}" for number in range(5)]
    assert {message.routing_key for message in found} == {"c"}
    assert len({message.message_id for message in found}) == 5


async def test_a_missing_exchange_is_made_and_a_long_channel_gets_a_short_key(rabbit: Broker) -> None:
    channel = "é" * 300
    async with opened() as house, asyncio.TaskGroup() as group:
        receiver = ReplyExchange(rabbit.url, f"{rabbit.name}_replies")
        forwarder = Forwarder(house.queue.store, receiver, queue=house.queue.name, rules=QUICKLY)
        await house.queue.store.open_sink(forwarder.sink)
        running = group.create_task(forwarder.run())
        await answered(house, "first", "m0")
        await _until_there(rabbit)
        queue = await bound(rabbit)
        await answered(house, channel, "m1")
        [reply] = await replies(queue, 1)
        running.cancel()
    assert reply.routing_key == hashlib.sha256(channel.encode()).hexdigest()
    assert json.loads(reply.body)["channel"] == channel


async def test_a_reply_whose_confirm_is_lost_comes_again_with_the_same_id(
    rabbit: Broker, rabbit_server: RabbitServer
) -> None:
    queue = await bound(rabbit)
    async with TcpProxy("127.0.0.1", rabbit_server.port) as proxy, opened() as house, asyncio.TaskGroup() as group:
        url = rabbit.url.replace(str(rabbit_server.port), str(proxy.port))
        receiver = ReplyExchange(url, f"{rabbit.name}_replies")
        forwarder = Forwarder(house.queue.store, receiver, queue=house.queue.name, rules=QUICKLY)
        await house.queue.store.open_sink(forwarder.sink)
        running = group.create_task(forwarder.run())
        await answered(house, "c", "m0")
        await replies(queue, 1)
        proxy.cut_before_reply(b"m1")
        await answered(house, "c", "m1")
        twice = await replies(queue, 2)
        running.cancel()
    assert twice[0].message_id == twice[1].message_id
    assert twice[0].body == twice[1].body


async def _until_there(rabbit: Broker) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with rabbit.connection.channel() as asking:
                    await asking.get_exchange(f"{rabbit.name}_replies")
                    return
            except aio_pika.exceptions.ChannelNotFoundEntity:
                await asyncio.sleep(0.05)
