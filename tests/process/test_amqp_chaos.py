"""P1, P2, P3 through RabbitMQ, with connections cut, the broker and workers killed, and the store away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractExchange
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from tests.contract.broker import Broker, broker
from tests.patience import until
from tests.process.programs import Server, until_answered
from tests.services import RabbitServer, RedisServer
from tests.services.tcp_proxy import TcpProxy
from turnkeep.messages import Address, UserItem, content_text
from turnkeep.simulator import Simulator, serve
from turnkeep.store import open_store

NAME = "chaos"
CHAOS_PATIENCE = 400.0
"""Seconds for all answers, while brokers and workers are killed."""
QUICK = {"TURNKEEP_WINDOW": "0.2", "TURNKEEP_MAX_WAIT": "1", "TURNKEEP_MODEL_API": "responses"}
LOST: Any = (*CONNECTION_EXCEPTIONS, TimeoutError)


class Publisher:
    """Publishes with confirms over a connection of its own; what was not confirmed is published again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._exchange: AbstractExchange | None = None
        self._one_at_a_time = asyncio.Lock()
        self.repeats = 0

    async def publish(self, body: bytes) -> None:
        while True:
            exchange = await self._open()
            try:
                message = aio_pika.Message(body, delivery_mode=2)
                await exchange.publish(message, f"{NAME}_key", mandatory=True, timeout=30)
                return
            except LOST:
                self.repeats += 1
                if self._exchange is exchange:
                    self._exchange = None

    async def _open(self) -> AbstractExchange:
        async with self._one_at_a_time:
            while self._exchange is None:
                try:
                    connection = await aio_pika.connect(self._url, timeout=5)
                    channel = await connection.channel(on_return_raises=True)
                    self._exchange = await channel.get_exchange(f"{NAME}_exchange", ensure=False)
                except LOST:
                    await asyncio.sleep(0.2)
            return self._exchange

    async def send_all(self, channel: str, count: int, source: random.Random, spread: float) -> None:
        for number in range(count):
            await asyncio.sleep(source.uniform(0, spread))
            await self.publish(json.dumps(numbered(channel, number)).encode())


def numbered(channel: str, number: int) -> dict[str, str]:
    return {"channel": channel, "message_id": f"{channel}-{number}", "message": f"{channel} says {number}"}


def garbage(number: int) -> bytes:
    """Each different from every other, each wrong in one of six ways."""
    kinds = (
        "not json {}",
        "[{}]",
        '{{"message_id": "{}"}}',
        '{{"channel": {}}}',
        '"{}"',
        '{{"channel": "c", "n": {}}}',
    )
    return kinds[number % len(kinds)].format(number).encode()


@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(1500)
async def test_what_rabbitmq_confirmed_is_answered_once_in_order_whatever_is_cut_or_killed(
    rabbit_installed: str,
    rabbit_server: RabbitServer,
    tmp_path: Path,
    size: Callable[[int, int], int],
    proof: Callable[[str, str], None],
) -> None:
    channels, each, bad = size(20, 500), size(10, 20), size(30, 1_000)
    cuts, kills, broker_kills = size(3, 10), size(1, 10), size(0, 1)
    source = random.Random(5)
    simulator = Simulator()
    broker_of_this = RabbitServer(program=rabbit_installed) if broker_kills else contextlib.nullcontext(rabbit_server)
    async with broker_of_this as rabbit, TcpProxy("127.0.0.1", rabbit.port) as proxy:
        async with broker(rabbit.url(), NAME) as client:
            await _clean(client)
        if broker_kills:
            await asyncio.to_thread(rabbit.settle)
        async with serve(simulator) as model, aiohttp.ClientSession() as http:
            server = Server(["serve"], tmp_path, _environment(proxy, model))
            server.start()
            try:
                await server.answers(http, patience=240)
                publisher = Publisher(rabbit.url())
                async with asyncio.TaskGroup() as group:
                    for number in range(channels):
                        group.create_task(publisher.send_all(f"c{number}", each, source, size(4, 90) / each))
                    group.create_task(_publish_garbage(publisher, bad, size(4, 90)))
                    await _break(server, http, proxy, rabbit, source, ["cut"] * cuts, ["kill"] * kills, broker_kills)
                await until_answered(server, http, channels * each, patience=CHAOS_PATIENCE)
                await _until_taken(rabbit)
                server.send(signal.SIGTERM)  # what is answered is acknowledged before it ends
                await asyncio.to_thread(server.wait)
            finally:
                server.kill9()
        async with broker(rabbit.url(), NAME) as client:
            parked = await client.parked()
            left = await client.waiting(f"{NAME}_queue")
    lost, twice, out_of_order, dead = await _counted(f"sqlite:{tmp_path}/.turnkeep/turnkeep.db", channels, each)
    bodies = Counter(message.body for message in parked)
    proof(
        "amqp chaos",
        f"sent {channels * each} over {channels} channels | connection cut {cuts} | broker killed {broker_kills} "
        f"| workers killed {kills} | lost {lost} | twice {twice} | out of order {out_of_order} | dead {dead} "
        f"| garbage {bad}, parked {len(bodies)} of it, {len(parked) - len(bodies)} of them again "
        f"| published again {publisher.repeats} | left in the queue {left}",
    )
    assert (lost, twice, out_of_order, dead, left) == (0, 0, 0, 0, 0)
    assert set(bodies) == {garbage(number) for number in range(bad)}
    assert all(message.headers["turnkeep-reason"] == "invalid_message" for message in parked)


def _environment(proxy: TcpProxy, model: str, **more: str) -> dict[str, str]:
    return {
        **QUICK,
        "RABBITMQ_URL": f"amqp://guest:guest@127.0.0.1:{proxy.port}/",
        "EXCHANGE_NAME": f"{NAME}_exchange",
        "QUEUE_NAME": f"{NAME}_queue",
        "ROUTING_KEY": f"{NAME}_key",
        "OPENAI_BASE_URL": model,
        "OPENAI_API_KEY": "sk-test",
        **more,
    }


async def _publish_garbage(publisher: Publisher, count: int, seconds: float) -> None:
    for number in range(count):
        await publisher.publish(garbage(number))
        await asyncio.sleep(seconds / count)


async def _break(
    server: Server,
    http: aiohttp.ClientSession,
    proxy: TcpProxy,
    rabbit: RabbitServer,
    source: random.Random,
    cuts: list[str],
    kills: list[str],
    broker_kills: int,
) -> None:
    """Everything in a random order, while messages are on their way."""
    plan = [*cuts, *kills, *["broker"] * broker_kills]
    source.shuffle(plan)
    for what in plan:
        await asyncio.sleep(source.uniform(0.3, 1.0))
        if what == "cut":
            proxy.cut_all()
        elif what == "kill":
            await asyncio.to_thread(server.kill9)
            await asyncio.to_thread(server.start)
            await server.answers(http, patience=240)
        else:
            await asyncio.to_thread(rabbit.kill9)
            await asyncio.to_thread(rabbit.start)


async def _until_taken(rabbit: RabbitServer) -> None:
    """The broker has nothing any more: neither what waits (the last garbage may be behind the last answer) nor what it
    has delivered and not heard of. After a cut that is also what was answered long ago, and comes again; who ends
    before he has acknowledged it leaves it there.
    """
    async with broker(rabbit.url(), NAME) as client:  # asked first: `ctl` boots an Erlang for its one question
        await until(lambda: _none_waits(client), patience=CHAOS_PATIENCE)
    await until(lambda: _is_empty(rabbit), patience=CHAOS_PATIENCE, every=0.5)


async def _none_waits(client: Broker) -> bool:
    return await client.waiting(f"{NAME}_queue") == 0


async def _is_empty(rabbit: RabbitServer) -> bool:
    listed = await asyncio.to_thread(rabbit.ctl, "list_queues", "name", "messages")
    return dict(line.split() for line in listed.splitlines() if line).get(f"{NAME}_queue") == "0"


async def _counted(url: str, channels: int, each: int, **options: Any) -> tuple[int, int, int, int]:
    """Lost, twice, channels out of order, dead letters: from the transcripts that were committed."""
    store = open_store(url, **options)
    await store.open()
    lost = twice = out_of_order = 0
    for number in range(channels):
        history = await store.history(Address("default", "assistant", f"c{number}"))
        said = [content_text(e.item.content) for e in history.entries if isinstance(e.item, UserItem)]
        wanted = [numbered(f"c{number}", n)["message"] for n in range(each)]
        once = Counter(said)
        lost += sum(once[text] == 0 for text in wanted)
        twice += sum(count > 1 for count in once.values())
        out_of_order += said != wanted
    dead = (await store.counts()).dead_letters
    await store.close()
    return lost, twice, out_of_order, dead


@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_messages_that_wait_in_rabbitmq_while_redis_is_down_are_all_answered(
    rabbit_server: RabbitServer,
    redis_installed: str,
    tmp_path: Path,
    size: Callable[[int, int], int],
    proof: Callable[[str, str], None],
) -> None:
    channels, each, seconds = size(30, 250), size(10, 20), size(3, 30)
    simulator = Simulator()
    async with (
        RedisServer(program=redis_installed, appendonly="always") as redis,
        TcpProxy("127.0.0.1", rabbit_server.port) as proxy,
        serve(simulator) as model,
        aiohttp.ClientSession() as http,
    ):
        environment = _environment(proxy, model, REDIS_URL=redis.url(), REDIS_PREFIX="chaos:")
        async with broker(rabbit_server.url(), NAME) as client:
            await _clean(client)
        server = Server(["serve"], tmp_path, environment)
        server.start()
        try:
            await server.answers(http, patience=240)
            await asyncio.to_thread(redis.kill9)
            publisher = Publisher(rabbit_server.url())
            async with asyncio.TaskGroup() as group:
                for number in range(channels):
                    group.create_task(publisher.send_all(f"c{number}", each, random.Random(number), 0.01))
            await asyncio.sleep(seconds)
            await asyncio.to_thread(redis.start)
            await until_answered(server, http, channels * each, patience=CHAOS_PATIENCE)
            await _until_taken(rabbit_server)
        finally:
            server.kill9()
        async with broker(rabbit_server.url(), NAME) as client:
            parked, left = await client.parked(), await client.waiting(f"{NAME}_queue")
        lost, twice, out_of_order, dead = await _counted(redis.url(), channels, each, prefix="chaos:")
    proof(
        "redis down",
        f"{channels * each} messages waited for {seconds} s | dead-lettered {len(parked)} | lost {lost} "
        f"| twice {twice} | out of order {out_of_order} | dead {dead} | left in the queue {left}",
    )
    assert (len(parked), lost, twice, out_of_order, dead, left) == (0, 0, 0, 0, 0, 0)


async def _clean(client: Broker) -> None:
    """The shared broker may know these names from before."""
    for queue in (f"{NAME}_queue", f"{NAME}_queue_failed"):
        await client.channel.queue_delete(queue)
    await client.declare_as_the_seed_did()
