"""What made earlier services repeat, lose or stop, done to this one: one committed answer per message, at most one
error frame per turn, the other channels unaffected, poison parked with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.contract.broker import Broker, broker
from tests.patience import until
from tests.process.plain_client import PlainClient, plain_client
from tests.process.programs import Server
from tests.process.served import Served, served
from tests.scenario.house import flush_together, gate_answers
from tests.scenario.hubs import hub
from tests.services import RabbitServer
from turnkeep.messages import Address, UserItem, content_text
from turnkeep.simulator import Fault, Simulator, StreamPace, serve
from turnkeep.store import open_store
from turnkeep.tools.tool import tool


@pytest.fixture
async def rabbit(rabbit_server: RabbitServer, amqp_name: str) -> AsyncIterator[Broker]:
    async with broker(rabbit_server.url(), amqp_name) as client:
        await client.declare_as_the_seed_did()
        yield client


def said(channel: str, number: int, text: str = "hello") -> dict[str, Any]:
    return {"channel": channel, "message_id": f"{channel}-{number}", "message": f"{number} {text}"}


async def check_quiet_end(rabbit: Broker, house: Served, client: PlainClient, answered: dict[str, int]) -> None:
    """Nothing waits anywhere, nothing was parked, and each channel has so many messages, each once and in order."""
    await until(lambda: _is_empty(rabbit))
    assert await rabbit.parked() == []
    for channel, count in answered.items():
        texts = await house.said_by_user(channel)
        assert [text.split()[0] for text in texts] == [str(number) for number in range(count)]
        assert client.errors(channel) == []
    assert house.simulator.ledger.overlaps() == []
    assert house.simulator.ledger.twice_within_a_request() == []


async def _is_empty(rabbit: Broker) -> bool:
    return await rabbit.waiting(rabbit.names["queue_name"]) == 0


# ---------------------------------------------------------------- several messages, several workers


async def test_two_messages_of_one_channel_become_one_turn(rabbit: Broker) -> None:
    async with served(**rabbit.names, window=60.0, max_wait=60.0) as house, plain_client(house, "c") as client:
        await rabbit.publish_all([said("c", 0), said("c", 1)])
        await flush_together(house.queue, "c", 2)
        await client.until_settled("c", "c-0", "c-1")
        assert len(client.answers("c")) == 1
        assert len(house.simulator.ledger) == 1
        await check_quiet_end(rabbit, house, client, {"c": 2})


async def test_two_messages_of_a_new_channel_at_two_workers_make_one_thread(rabbit: Broker, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'turnkeep.db'}"
    simulator = Simulator()
    async with (
        served(store, simulator=simulator, **rabbit.names) as one,
        served(store, simulator=simulator, **rabbit.names) as other,
        plain_client(one, "c") as here,
        plain_client(other, "c") as there,
    ):
        await rabbit.publish_all([said("c", 0), said("c", 1)])
        await here.until_settled("c", "c-0", "c-1")
        await there.until_settled("c", "c-0", "c-1")
        threads = [record.thread_id async for record in one.queue.store.scan()]
        assert len(threads) == 1
        assert here.errors("c") == there.errors("c") == []
        assert sorted(await one.said_by_user("c")) == ["0 hello", "1 hello"]


async def test_six_messages_of_one_channel_at_four_workers_are_all_answered(rabbit: Broker, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'turnkeep.db'}"
    simulator = Simulator(pace=StreamPace(first=0.05))
    async with (
        served(store, simulator=simulator, **rabbit.names) as one,
        served(store, simulator=simulator, **rabbit.names),
        served(store, simulator=simulator, **rabbit.names),
        served(store, simulator=simulator, **rabbit.names),
        plain_client(one, "c") as client,
    ):
        for number in range(6):
            await rabbit.publish(said("c", number))
        await client.until_settled("c", *(f"c-{number}" for number in range(6)))
        assert sorted(await one.said_by_user("c")) == [f"{number} hello" for number in range(6)]
        assert client.errors("c") == []
        assert await rabbit.parked() == []
        assert simulator.ledger.overlaps() == []


# ---------------------------------------------------------------- killed workers


@pytest.mark.parametrize("finishes", [True, False], ids=["model finishes meanwhile", "model still runs"])
async def test_a_worker_killed_in_an_answer_answers_once_after_its_restart(
    rabbit: Broker, tmp_path: Path, finishes: bool
) -> None:
    simulator = Simulator(pace=StreamPace(first=0.3, token=0.02))
    async with serve(simulator) as model, aiohttp.ClientSession() as http:
        server = Server(["serve"], tmp_path, _environment(rabbit, model))
        server.start()
        try:
            await server.answers(http)
            await rabbit.publish(said("c", 0, "[[words:60]]"))
            await until(lambda: len(simulator.ledger) == 1)
            await asyncio.to_thread(server.kill9)
            if finishes:
                await until(lambda: not simulator.ledger.open())
            await asyncio.to_thread(server.start)
            await server.answers(http)
            await until(lambda: _completed(server, http, 1), patience=60)
        finally:
            server.kill9()
    assert await rabbit.parked() == []
    await _check_once(tmp_path, {"c": 1})
    assert simulator.ledger.twice_within_a_request() == []


def _environment(rabbit: Broker, model: str) -> dict[str, str]:
    names = {name.upper(): value for name, value in rabbit.names.items()}
    quick = {"TURNKEEP_WINDOW": "0.05", "TURNKEEP_MAX_WAIT": "0.4", "TURNKEEP_MODEL_API": "responses"}
    return {**names, **quick, "OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-test"}


async def _completed(server: Server, http: aiohttp.ClientSession, count: int) -> bool:
    try:
        async with http.get(f"{server.url}/api/queue") as told:
            return bool((await told.json())["completedCount"] >= count)
    except aiohttp.ClientError:
        return False


async def _check_once(folder: Path, answered: dict[str, int]) -> None:
    """In the file that a killed server left: each message once, in order, one completed event per turn, none dead."""
    store = open_store(f"sqlite:{folder}/.turnkeep/turnkeep.db")
    await store.open()
    try:
        for channel, count in answered.items():
            address = Address("default", "assistant", channel)
            history = await store.history(address)
            said_by_user = [content_text(e.item.content) for e in history.entries if isinstance(e.item, UserItem)]
            assert [text.split()[0] for text in said_by_user] == [str(number) for number in range(count)]
            page = await store.read(address)
            covered = [one for event in page.events if event.kind == "completed" for one in event.message_ids]
            assert covered == [f"{channel}-{number}" for number in range(count)]
        assert (await store.counts()).dead_letters == 0
    finally:
        await store.close()


# ---------------------------------------------------------------- long answers, tools, failures of the model


async def test_an_answer_longer_than_the_heartbeat_is_given_once(
    rabbit: Broker, size: Callable[[int, int], int]
) -> None:
    heartbeat, seconds = size(1, 15), size(5, 50)
    simulator = Simulator(pace=StreamPace(first=0.1, token=seconds / 50))
    names = {**rabbit.names, "rabbitmq_url": f"{rabbit.url}?heartbeat={heartbeat}"}
    async with (
        served(simulator=simulator, idle_timeout=60.0, **names) as house,
        plain_client(house, "long", "short") as client,
    ):
        await rabbit.publish(said("long", 0, "[[words:50]]"))
        await rabbit.publish(said("short", 0, "[[say:done]] [[pace:0]]"))
        await client.until_settled("short", "short-0")
        assert client.answers("long") == []
        await client.until_settled("long", "long-0", patience=seconds * 3)
        assert len(client.answers("long")) == 1
        await check_quiet_end(rabbit, house, client, {"long": 1, "short": 1})


async def test_an_answer_with_a_tool_is_given_once_and_stops_nobody(rabbit: Broker) -> None:
    running, called = asyncio.Event(), 0

    @tool
    async def look_up(name: str) -> str:
        """Look something up.

        Args:
            name: What to look up.
        """
        nonlocal called
        called += 1
        await running.wait()
        return f"{name} is found"

    async with served(**rabbit.names, tools=[look_up]) as house, plain_client(house, "c", "d") as client:
        await rabbit.publish(said("c", 0, '[[call:look_up {"name": "it"}]]'))
        await until(lambda: client.of_status("c", "processing"))
        await rabbit.publish(said("d", 0))
        await client.until_settled("d", "d-0")
        running.set()
        await client.until_settled("c", "c-0")
        assert called == 1
        assert len(client.answers("c")) == 1
        await check_quiet_end(rabbit, house, client, {"c": 1, "d": 1})


@pytest.mark.daily(rows=2)  # all take one way
@pytest.mark.parametrize("kind", ["failed", "error", "cut", "truncate", "429", "500"])
async def test_a_failure_of_the_model_that_passes_is_not_even_told(rabbit: Broker, kind: str) -> None:
    async with served(**rabbit.names) as house, plain_client(house, "c", "d") as client:
        house.simulator.faults.append(_fault(kind, times=2))
        await rabbit.publish(said("c", 0, "broken [[words:60]]"))
        await rabbit.publish(said("d", 0))
        await client.until_settled("c", "c-0")
        await client.until_settled("d", "d-0")
        assert len(client.answers("c")) == 1
        await check_quiet_end(rabbit, house, client, {"c": 1, "d": 1})


@pytest.mark.parametrize("kind", ["failed", "error", "cut", "500"])
async def test_a_failure_that_stays_is_told_once_and_parked_with_its_reason(rabbit: Broker, kind: str) -> None:
    async with served(**rabbit.names) as house, plain_client(house, "c", "d") as client:
        house.simulator.faults.append(_fault(kind, times=None))
        await rabbit.publish(said("c", 0, "broken [[words:60]]"))
        await rabbit.publish(said("d", 0))
        await client.until_settled("c", "c-0")
        await client.until_settled("d", "d-0")
        assert client.answers("c") == []
        [error] = client.errors("c")
        assert error["message"]
        assert error["error_details"]
        [letter] = await house.queue.store.dead()
        assert (letter.message.message_id, letter.fault.code) == ("c-0", error["code"])
        assert await rabbit.parked() == []


def _fault(kind: str, times: int | None) -> Fault:
    after = {"cut": 40}.get(kind, 0)
    return Fault(kind=kind, times=times, match="broken", after=after, retry_after=0.05 if kind == "429" else None)


# ---------------------------------------------------------------- RabbitMQ and the receiver of frames


@pytest.mark.only_in_prove  # test_amqp_chaos kills a broker every day
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_rabbitmq_restarted_in_an_answer_repeats_nothing(rabbit_installed: str) -> None:
    async with RabbitServer(program=rabbit_installed) as server:
        simulator = Simulator(pace=StreamPace(first=0.2, token=0.02))
        async with broker(server.url(), "restart") as rabbit:
            await rabbit.declare_as_the_seed_did()
            async with (
                served(simulator=simulator, **rabbit.names) as house,
                plain_client(house, "a", "b", "c") as client,
            ):
                for channel in ("a", "b", "c"):
                    await rabbit.publish(said(channel, 0, "[[words:50]]"))
                await until(lambda: len(simulator.ledger) >= 1)
                await asyncio.to_thread(server.restart)
                for channel in ("a", "b", "c"):
                    await client.until_settled(channel, f"{channel}-0")
                async with broker(server.url(), "restart") as again:
                    await again.publish(said("a", 1))
                    await client.until_settled("a", "a-1")
                    assert [len(client.answers(channel)) for channel in ("a", "b", "c")] == [2, 1, 1]
                    await check_quiet_end(again, house, client, {"a": 2, "b": 1, "c": 1})


async def test_a_receiver_of_frames_that_is_away_is_no_condition_of_an_answer(rabbit: Broker) -> None:
    async with hub() as there:
        await there.stop()
        async with served(**rabbit.names, websocket_url=there.url) as house, plain_client(house, "c") as client:
            await rabbit.publish(said("c", 0))
            await client.until_settled("c", "c-0")
            await there.start()
            await until(lambda: len(there.finals("c")) == 1)
            await check_quiet_end(rabbit, house, client, {"c": 1})


async def test_a_receiver_that_echoes_frames_delays_nothing(rabbit: Broker) -> None:
    async with (
        hub(echoes=True) as there,
        served(**rabbit.names, websocket_url=there.url) as house,
        plain_client(house, "c") as client,
    ):
        for number in range(10):
            await rabbit.publish(said("c", number))
            await client.until_settled("c", f"c-{number}")
        await until(lambda: len(there.finals("c")) == 10)
        assert there.connections == 1
        await check_quiet_end(rabbit, house, client, {"c": 10})


# ---------------------------------------------------------------- poison


@pytest.mark.daily(rows=2)  # test_amqp has all kinds
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "this is not JSON"),
        (b"\xff\xfe", "this is not JSON"),
        (b"[1, 2]", "expected a JSON object"),
        (b'{"message_id": "m", "message": "x"}', "Missing required 'channel' field"),
        (b'{"channel": 5, "message_id": "m", "message": "x"}', "Invalid 'channel' field"),
        (b'{"channel": "c", "message_id": 5, "message": "x"}', "'message_id' must be a text"),
        (b'{"channel": "c", "message_id": "m"}', "Invalid or missing 'message' field"),
        (b'{"channel": "c", "message_id": "m", "message": ""}', "Invalid or missing 'message' field"),
    ],
)
async def test_poison_is_parked_with_its_reason_and_the_next_message_is_answered(
    rabbit: Broker, body: bytes, reason: str
) -> None:
    async with served(**rabbit.names) as house, plain_client(house, "good") as client:
        await rabbit.publish(body)
        await rabbit.publish(said("good", 0))
        await client.until_settled("good", "good-0")
        [parked] = await rabbit.parked(1)
        assert parked.body == body
        assert parked.headers["turnkeep-reason"] == "invalid_message"
        assert str(parked.headers["turnkeep-details"]).startswith(reason)


async def test_an_id_is_missing_only_where_the_property_is_missing_too(rabbit: Broker) -> None:
    async with served(**rabbit.names) as house, plain_client(house, "c") as client:
        await rabbit.publish({"channel": "c", "message": "0 hello"}, message_id="from the property")
        await client.until_settled("c", "from the property")


# ---------------------------------------------------------------- many at once


@pytest.mark.parametrize("channels", [8, pytest.param(200, marks=pytest.mark.only_in_prove)])
async def test_channels_do_not_wait_for_each_other(rabbit: Broker, channels: int) -> None:
    """Every model call stays open until all are: one after the other would never end."""
    simulator = Simulator(pace=StreamPace(first=1.0))
    gate, names = gate_answers(simulator), [f"c{number}" for number in range(channels)]
    async with (
        served(simulator=simulator, concurrency=256, channels_per_socket=200, **rabbit.names) as house,
        plain_client(house, *names) as client,
    ):
        await rabbit.publish_all([said(name, 0) for name in names])
        await until(lambda: simulator.ledger.open_count == channels)
        gate.set()
        for name in names:
            await client.until_settled(name, f"{name}-0")
            assert len(client.answers(name)) == 1
        await check_quiet_end(rabbit, house, client, dict.fromkeys(names, 1))
