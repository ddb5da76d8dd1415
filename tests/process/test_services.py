"""The servers that other tests lean on start, stop, die and come back as they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.services import (
    RabbitServer,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    eventually,
    free_port,
    lives,
    valkey_program,
)

ROOT = Path(__file__).parents[2]


def test_a_port_is_given_once() -> None:
    ports = {free_port() for _ in range(20)}
    assert len(ports) == 20


def test_the_shared_redis_is_empty_for_each_test(redis_server: RedisServer) -> None:
    assert redis_server.cli("DBSIZE") == 0
    redis_server.cli("SET", "left", "behind")
    assert redis_server.fresh().cli("DBSIZE") == 0


def test_valkey_is_valkey(valkey_server: RedisServer) -> None:
    assert "valkey_version" in valkey_server.cli("INFO", "SERVER")


@pytest.mark.usefixtures("redis_installed")
async def test_redis_with_fsync_keeps_its_data_over_kill_and_restart() -> None:
    async with RedisServer(appendonly="always") as server:
        server.cli("SET", "key", "kept")
        server.kill9()
        assert not server.alive
        assert server.start().cli("GET", "key") == "kept"
        assert server.restart().cli("GET", "key") == "kept"


@pytest.mark.usefixtures("redis_installed")
def test_redis_without_append_only_file_forgets() -> None:
    with RedisServer(appendonly="no") as server:
        server.cli("SET", "key", "lost")
        server.kill9()
        assert server.start().cli("GET", "key") is None


@pytest.mark.usefixtures("redis_installed")
def test_a_full_redis_says_so() -> None:
    import redis

    with RedisServer(maxmemory="100kb") as server, pytest.raises(redis.OutOfMemoryError):
        server.cli("SET", "key", "x")


@pytest.mark.usefixtures("redis_installed")
def test_a_password_is_asked_for() -> None:
    with RedisServer(password="open sesame") as server:
        assert server.cli("PING") == "PONG"
        server.password = ""
        with pytest.raises(Exception, match=r"(?i)auth"):
            server.cli("PING")


@pytest.mark.usefixtures("redis_installed")
def test_a_replica_follows_its_primary() -> None:
    with RedisServer() as primary, RedisServer(replicaof=primary) as replica:
        primary.cli("SET", "key", "copied")
        eventually(lambda: replica.cli("GET", "key") == "copied", PATIENCE, "the replica to follow")


@pytest.mark.usefixtures("redis_installed")
def test_sentinels_move_the_name_to_the_replica_when_the_primary_dies() -> None:
    with RedisSentinel() as group:
        old, replica = group.primary(), group.replica()
        assert old is not replica
        assert group.fail_over() is replica
        assert group.primary() is replica


@pytest.mark.usefixtures("redis_installed")
@pytest.mark.parametrize("program", [None, valkey_program()], ids=["redis", "valkey"])
def test_a_slot_of_a_cluster_moves_with_its_keys(program: str | None) -> None:
    import redis

    with RedisCluster(program=program) as cluster:
        slot = int(cluster.nodes[0].cli("CLUSTER", "KEYSLOT", "{a}"))
        old = cluster.owner(slot)
        new = (old + 1) % 3
        cluster.nodes[old].cli("SET", "{a}1", "here")
        cluster.open_slot(slot, new)
        with pytest.raises(redis.exceptions.AskError):
            cluster.nodes[old].cli("GET", "{a}2")
        assert cluster.move_keys(slot, new) == 1
        cluster.close_slot(slot, new)
        with pytest.raises(redis.exceptions.MovedError):
            cluster.nodes[old].cli("GET", "{a}1")
        assert cluster.nodes[new].cli("GET", "{a}1") == "here"


async def publish(server: RabbitServer, queue: str, text: bytes) -> None:
    import aio_pika

    connection = await aio_pika.connect(server.url())
    async with connection, connection.channel() as channel:
        await channel.declare_queue(queue, durable=True)
        message = aio_pika.Message(text, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue)


async def take(server: RabbitServer, queue: str) -> bytes:
    import aio_pika

    connection = await aio_pika.connect(server.url())
    async with connection, connection.channel() as channel:
        declared = await channel.declare_queue(queue, durable=True)
        message = await declared.get(timeout=PATIENCE)
        await message.ack()
        return message.body


async def test_the_shared_broker_carries_messages(rabbit_server: RabbitServer, amqp_name: str) -> None:
    await publish(rabbit_server, amqp_name, b"hello")
    assert await take(rabbit_server, amqp_name) == b"hello"


@pytest.mark.only_in_prove  # of the tools of tests; test_amqp_chaos kills one every day
async def test_a_killed_broker_comes_back_with_its_durable_messages(
    rabbit_server: RabbitServer, amqp_name: str
) -> None:
    await publish(rabbit_server, amqp_name, b"kept")
    rabbit_server.settle()
    first = rabbit_server.pid
    rabbit_server.kill9()
    assert not lives(first)
    rabbit_server.start()
    assert await take(rabbit_server, amqp_name) == b"kept"


@pytest.mark.usefixtures("rabbit_installed")
def test_an_erlang_that_dies_at_its_start_leaves_nothing_where_tests_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, here = tmp_path / "rabbitmqctl", tmp_path / "here"
    broken.write_text("#!/bin/sh\nexec erl -noinput -boot nothing\n")
    broken.chmod(0o700)
    here.mkdir()
    monkeypatch.chdir(here)
    server = RabbitServer(program=str(broken.with_name("rabbitmq-server")))
    try:
        with pytest.raises(subprocess.CalledProcessError):
            server.ctl("status")
        assert list(here.iterdir()) == []
        assert list(server.directory.glob("erl_crash*")) == []
    finally:
        server.close()


@pytest.mark.usefixtures("redis_installed")
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, None])
def test_no_server_outlives_the_test_process(death: signal.Signals | None) -> None:
    program = (
        "import sys\n"
        "from tests.services import RedisServer\n"
        "server = RedisServer().start()\n"
        "print(server.pid, server.directory, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pid, directory = process.stdout.readline().split()
        assert lives(int(pid))
        if death is not None:
            os.kill(process.pid, death)
        process.stdin.close()
        process.wait(PATIENCE)
    eventually(lambda: not lives(int(pid)) and not Path(directory).exists(), PATIENCE, "the keeper to clear up")
