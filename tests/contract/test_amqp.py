"""The AMQP door against a real RabbitMQ: what it takes, what it parks, and what it never does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from tests.contract.broker import GARBAGE, Broker, amqp_house, broker
from tests.patience import until
from tests.services import RabbitServer
from turnkeep.auth import limits
from turnkeep.broker import BrokerNames, Sight, inspect, settle_topology
from turnkeep.errors import Rejection, StoreUnavailable, ThreadQuarantined
from turnkeep.messages import Message
from turnkeep.settings import Settings
from turnkeep.store.values import Receipt


@pytest.fixture
async def rabbit(rabbit_server: RabbitServer, amqp_name: str) -> AsyncIterator[Broker]:
    async with broker(rabbit_server.url(), amqp_name) as client:
        yield client


def said(channel: str, number: int, **more: Any) -> dict[str, Any]:
    return {"channel": channel, "message_id": f"{channel}-{number}", "message": f"word {number}", **more}


def reason(message: AbstractIncomingMessage) -> str:
    return str(message.headers["turnkeep-reason"])


# ---------------------------------------------------------------- what is at the broker


async def test_a_classic_queue_of_the_seed_is_used_as_it_is(rabbit: Broker) -> None:
    await rabbit.declare_as_the_seed_did()
    async with amqp_house(rabbit.names) as house:
        await rabbit.publish(said("c", 1), priority=3)
        await until(lambda: house.messages("c"))
        assert await house.messages("c") == ["c-1"]
        await rabbit.publish(b"no json")
        await until(lambda: rabbit.waiting(f"{rabbit.name}_queue_failed"))
    await rabbit.declare_as_the_seed_did()  # the broker would refuse if anything had changed


async def test_a_topic_exchange_is_used_with_the_bindings_it_has(rabbit: Broker) -> None:
    topic = await rabbit.channel.declare_exchange(rabbit.names["exchange_name"], "topic", durable=True)
    queue = await rabbit.channel.declare_queue(rabbit.names["queue_name"], durable=True)
    await queue.bind(topic, "chat.*")
    async with amqp_house(rabbit.names) as house:
        await rabbit.publish(said("c", 1), key="chat.europe")
        await rabbit.publish(said("c", 2))
        await until(lambda: _has(house, "c", ["c-1", "c-2"]))
    await rabbit.channel.declare_exchange(rabbit.names["exchange_name"], "topic", durable=True)


async def test_where_nothing_is_a_durable_exchange_and_quorum_queues_are_made(rabbit: Broker) -> None:
    async with amqp_house(rabbit.names) as house:
        await rabbit.publish(said("c", 1))
        await until(lambda: house.messages("c"))
    names = rabbit.names
    await rabbit.channel.declare_exchange(names["exchange_name"], "direct", durable=True)
    await rabbit.channel.declare_exchange(f"{names['exchange_name']}_dlx", "direct", durable=True)
    quorum: dict[str, Any] = {"x-queue-type": "quorum"}
    await rabbit.channel.declare_queue(f"{names['queue_name']}_failed", durable=True, arguments=quorum)
    again = await settle_topology(rabbit.connection, BrokerNames(names["exchange_name"], names["queue_name"], "k"))
    assert again.created_names == ()
    assert len(again.existing_names) == 4


async def test_an_exchange_of_the_producer_gets_our_queue(rabbit: Broker) -> None:
    await rabbit.channel.declare_exchange(rabbit.names["exchange_name"], "direct", durable=True)
    async with amqp_house(rabbit.names) as house:
        await rabbit.publish(said("c", 1))
        await until(lambda: house.messages("c"))


async def test_a_look_tells_queue_and_type_and_makes_nothing(rabbit: Broker) -> None:
    settings = Settings.load(**rabbit.names)
    names = BrokerNames.of(settings)
    nothing = await inspect(settings)
    assert set(nothing.absent) == {names.exchange, names.queue, names.dead_exchange, names.dead_queue}
    assert await inspect(settings) == nothing

    await rabbit.declare_as_the_seed_did()
    await rabbit.publish(said("c", 1))
    await rabbit.publish(said("c", 2))
    assert await inspect(settings) == Sight("classic", 2, 0, 0, ())
    await rabbit.declare_as_the_seed_did()  # the broker would refuse if anything had changed


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"x-queue-type": "quorum", "x-delivery-limit": 7, "x-dead-letter-exchange": "elsewhere"}, "quorum"),
        ({"x-queue-type": "stream", "x-max-length-bytes": 5_000_000_000}, "stream"),
        ({"x-expires": 90_000, "x-max-length": 7, "x-overflow": "reject-publish"}, "classic"),
        ({"x-single-active-consumer": True, "x-max-length-bytes": 7}, "classic"),
        ({}, "classic"),
    ],
)
async def test_a_look_tells_the_type_whatever_the_arguments(
    rabbit: Broker, arguments: dict[str, Any], kind: str
) -> None:
    await rabbit.channel.declare_queue(rabbit.names["queue_name"], durable=True, arguments=arguments)
    assert (await inspect(Settings.load(**rabbit.names))).kind == kind


async def test_a_virtual_host_that_is_not_there_is_named(rabbit: Broker) -> None:
    wrong = {"rabbitmq_url": rabbit.url.rpartition("/")[0] + "/nowhere"}
    with pytest.raises(ConnectionRefusedError, match="no virtual host 'nowhere' for the user 'guest'"):
        await inspect(Settings.load(**rabbit.names | wrong))


# ---------------------------------------------------------------- taking


async def test_messages_of_a_channel_keep_the_order_in_which_they_were_published(rabbit: Broker) -> None:
    async with amqp_house(rabbit.names) as house:
        for number in range(200):
            await rabbit.publish(said(f"c{number % 4}", number))
        for channel in range(4):
            wanted = [f"c{channel}-{number}" for number in range(channel, 200, 4)]
            await until(lambda c=f"c{channel}", w=wanted: _has(house, c, w))


async def test_what_arrives_together_is_accepted_in_one_call(rabbit: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async with amqp_house(rabbit.names) as house:
        sizes: list[int] = []
        accept, free = house.queue.store.accept, asyncio.Event()

        async def slowly(messages: Sequence[Message], **options: Any) -> list[Receipt | Rejection]:
            sizes.append(len(messages))
            await free.wait()
            return await accept(messages, **options)

        monkeypatch.setattr(house.queue.store, "accept", slowly)
        await rabbit.publish(said("c", 0))
        await until(lambda: _true(sizes == [1]))
        await rabbit.publish_all([said("c", number) for number in range(1, 50)])
        await until(lambda: _unsettled(house, 50))
        free.set()
        await until(lambda: _open(house, 50))
        assert len(sizes) <= 4


async def test_nothing_is_acknowledged_before_it_is_in_the_store(
    rabbit: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with amqp_house(rabbit.names) as house:
        stuck = asyncio.Event()

        async def never(messages: Sequence[Message], **options: Any) -> list[Receipt | Rejection]:
            stuck.set()
            await asyncio.Event().wait()
            return []

        monkeypatch.setattr(house.queue.store, "accept", never)
        await rabbit.publish_all([said("c", number) for number in range(20)])
        await stuck.wait()
    await until(lambda: _ready(rabbit, 20))


async def test_a_repeated_message_is_absorbed_and_another_text_is_parked(rabbit: Broker) -> None:
    async with amqp_house(rabbit.names) as house:
        await rabbit.publish(said("c", 1))
        await rabbit.publish(said("c", 1))
        await rabbit.publish(said("c", 1) | {"message": "something else"})
        await rabbit.publish(said("c", 2))
        await until(lambda: _has(house, "c", ["c-1", "c-2"]))
        [parked] = await rabbit.parked(1)
        assert reason(parked) == "message_conflict"
        assert json.loads(parked.body)["message"] == "something else"


async def test_the_property_message_id_stands_in_for_a_missing_field(rabbit: Broker) -> None:
    async with amqp_house(rabbit.names) as house:
        await rabbit.publish({"channel": "c", "message": "hello"}, message_id="p-1")
        await until(lambda: _has(house, "c", ["p-1"]))


async def test_an_unknown_thread_is_parked_and_a_known_one_is_answered(rabbit: Broker) -> None:
    async with amqp_house(rabbit.names) as house:
        thread = await house.queue.create_thread()
        await rabbit.publish(said(thread.thread_id, 1))
        await rabbit.publish(said("thread_nobody", 1))
        await rabbit.publish(said("c", 1))
        await until(lambda: _has(house, "c", ["c-1"]))
        await until(lambda: _has(house, thread.address.channel, [f"{thread.thread_id}-1"]))
        assert [reason(one) for one in await rabbit.parked(1)] == ["thread_not_found"]


async def test_a_full_channel_parks_what_is_too_much(rabbit: Broker) -> None:
    async with amqp_house(rabbit.names, amqp_max_inbox=3) as house:
        for number in range(5):
            await rabbit.publish(said("c", number))
        await rabbit.publish(said("d", 1))
        await until(lambda: _has(house, "d", ["d-1"]))
        await until(lambda: _has(house, "c", ["c-0", "c-1", "c-2"]))
        assert [reason(one) for one in await rabbit.parked(2)] == ["inbox_full"] * 2


@pytest.mark.parametrize(("setting", "others"), [("amqp_channel_rate", True), ("amqp_tenant_rate", False)])
async def test_what_is_beyond_a_rate_is_parked_and_a_repeat_is_not(
    rabbit: Broker, setting: str, *, others: bool
) -> None:
    """`amqp_channel_rate`, `amqp_tenant_rate`."""
    rate: dict[str, Any] = {setting: "3/600"}
    async with amqp_house(rabbit.names, **rate) as house:
        for number in range(3):
            await rabbit.publish(said("c", number))
        await until(lambda: _has(house, "c", ["c-0", "c-1", "c-2"]))
        for number in range(5):
            await rabbit.publish(said("c", number))
        await rabbit.publish(said("d", 1))
        parked = await rabbit.parked(2 if others else 3)
        assert {reason(one) for one in parked} == {"too_many_requests"}
        assert {json.loads(one.body)["message_id"] for one in parked} == (
            {"c-3", "c-4"} if others else {"c-3", "c-4", "d-1"}
        )
        assert await house.messages("c") == ["c-0", "c-1", "c-2"]
        if others:
            await until(lambda: _has(house, "d", ["d-1"]))


async def test_a_tenant_that_has_all_its_threads_gets_no_more_by_amqp(
    rabbit: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_SOON", 0.0)
    async with amqp_house(rabbit.names, max_threads=1) as house:
        await rabbit.publish(said("c", 0))
        await until(lambda: _has(house, "c", ["c-0"]))
        await rabbit.publish(said("d", 0))
        assert [reason(one) for one in await rabbit.parked(1)] == ["too_many_requests"]
        await rabbit.publish(said("c", 1))
        await until(lambda: _has(house, "c", ["c-0", "c-1"]))


@pytest.mark.parametrize(("tenants", "tenant"), [({}, "default"), ({"/": "acme"}, "acme"), ({"guest": "bees"}, "bees")])
async def test_the_tenant_follows_from_virtual_host_and_user(
    rabbit: Broker, tenants: dict[str, str], tenant: str
) -> None:
    async with amqp_house(rabbit.names, amqp_tenants=tenants) as house:
        await rabbit.publish(said("c", 1) | {"tenant": "mallory"})
        await until(lambda: house.messages("c", tenant))


# ---------------------------------------------------------------- garbage


async def test_every_kind_of_garbage_is_parked_once_with_its_reason(rabbit: Broker, size: Any, proof: Any) -> None:
    kinds = size(len(GARBAGE), 1_000)
    async with amqp_house(rabbit.names) as house:
        for number in range(kinds):
            body, properties = GARBAGE[number % len(GARBAGE)]
            await rabbit.publish(body + b" " * (number // len(GARBAGE)), **_without_id(properties))
        await rabbit.publish(said("good", 1))
        await until(lambda: _has(house, "good", ["good-1"]), patience=60)
        await until(lambda: _empty(rabbit))
        assert (await house.counts())["open"] == 1
        parked = await rabbit.parked(kinds)
    assert len(parked) == kinds
    assert {reason(one) for one in parked} <= {"invalid_message", "message_too_large"}
    assert all(one.headers["turnkeep-details"] for one in parked)
    assert not any(one.expiration for one in parked)
    assert {one.body.rstrip() for one in parked} == {body.rstrip() for body, _ in GARBAGE}
    proof("amqp garbage", f"{kinds} messages parked with their reason, 0 redelivered, 1 good one accepted")


def _without_id(properties: dict[str, Any]) -> dict[str, Any]:
    """Messages of the tests' client have an id of their own: these get one that is no good."""
    return {"message_id": "x" * 200, **properties}


@pytest.mark.daily(rows=3)  # all take one way
@pytest.mark.parametrize(
    "properties",
    [
        b"\x80\x00\x02\xff\xfe",  # a content type that is no UTF-8
        b"\x00\x40\x7f\xff\xff\xff\xff\xff\xff\xff",  # a timestamp beyond all years
        b"\x20\x00\x00\x00\x00\x05\x02\xff\xfet\x01",  # a header name that is no UTF-8
        b"\x80\x00\xc8" + b"\xe9" * 200,  # Latin-1 that is too long as UTF-8
        b"\x20\x00\x00\x00\x00\xcb\xc8" + b"\xe9" * 200 + b"t\x01",
    ],
    ids=["content type", "timestamp", "headers", "long content type", "long header name"],
)
@pytest.mark.parametrize("body", [json.dumps(said("odd", 1)).encode(), b"garbage"], ids=["good", "garbage"])
async def test_properties_that_cannot_be_decoded_do_not_stop_the_door(
    rabbit: Broker, properties: bytes, body: bytes
) -> None:
    async with amqp_house(rabbit.names) as house:
        await _publish_raw(rabbit, body, properties)
        await rabbit.publish(said("good", 1))
        await until(lambda: _has(house, "good", ["good-1"]))
        await until(lambda: _settled(house, rabbit))
        await until(lambda: _empty(rabbit))


async def _settled(house: Any, rabbit: Broker) -> bool:
    """The odd message is taken, or parked."""
    return bool(await house.messages("odd") or await rabbit.waiting(f"{rabbit.name}_queue_failed"))


async def _publish_raw(rabbit: Broker, body: bytes, properties: bytes) -> None:
    """Publish with properties as bytes on the wire, which no client library would write."""

    class Raw(ContentHeader):
        def marshal(self) -> bytes:
            return b"\x00\x3c\x00\x00" + len(body).to_bytes(8, "big") + properties

    publish = commands.Basic.Publish(exchange=rabbit.names["exchange_name"], routing_key=rabbit.names["routing_key"])
    frames: list[Any] = [publish, Raw(body_size=len(body)), ContentBody(body)]
    async with rabbit.connection.channel(publisher_confirms=False) as channel:
        underlay: Any = await channel.get_underlay_channel()
        await underlay.write_queue.put(ChannelFrame.marshall(frames=frames, channel_number=underlay.number))


# ---------------------------------------------------------------- faults


async def test_a_store_that_is_down_stops_the_door_and_nothing_is_lost_or_requeued(
    rabbit: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with amqp_house(rabbit.names) as house:
        accept, refusals = house.queue.store.accept, 0

        async def away(messages: Sequence[Message], **options: Any) -> list[Receipt | Rejection]:
            nonlocal refusals
            refusals += 1
            if refusals <= 4:
                raise StoreUnavailable("away")
            return await accept(messages, **options)

        monkeypatch.setattr(house.queue.store, "accept", away)
        await rabbit.publish_all([said("c", number) for number in range(30)])
        await until(lambda: _open(house, 30))
        assert refusals >= 5
        assert await rabbit.parked() == []
        await until(lambda: _empty(rabbit))


async def test_a_store_that_stays_down_gives_the_messages_back_and_shuts_the_door(
    rabbit: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with amqp_house(rabbit.names, hold=0.1) as house:
        store = house.queue.store
        accept, check, down = store.accept, store.check, True

        async def accepting(messages: Sequence[Message], **options: Any) -> list[Receipt | Rejection]:
            if down:
                raise StoreUnavailable("away")
            return await accept(messages, **options)

        async def checking() -> Any:
            if down:
                raise StoreUnavailable("away")
            return await check()

        monkeypatch.setattr(store, "accept", accepting)
        monkeypatch.setattr(store, "check", checking)
        await rabbit.publish_all([said("c", number) for number in range(30)])
        await until(lambda: _ready(rabbit, 30))
        await until(lambda: _true(not house.door.consuming.is_set()))
        down = False
        await until(lambda: _open(house, 30))
        assert await rabbit.parked() == []


async def test_a_thread_that_is_damaged_does_not_stop_its_neighbours(
    rabbit: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with amqp_house(rabbit.names) as house:
        accept = house.queue.store.accept

        async def picky(messages: Sequence[Message], **options: Any) -> list[Receipt | Rejection]:
            if any(message.address.channel == "damaged" for message in messages):
                raise ThreadQuarantined("the state of this thread is damaged")
            return await accept(messages, **options)

        monkeypatch.setattr(house.queue.store, "accept", picky)
        await rabbit.publish_all([said(channel, 1) for channel in ("a", "damaged", "b")])
        await until(lambda: _open(house, 2))
        assert [reason(one) for one in await rabbit.parked(1)] == ["thread_quarantined"]


async def test_a_queue_that_is_deleted_under_us_is_made_again(rabbit: Broker) -> None:
    async with amqp_house(rabbit.names) as house:
        await rabbit.channel.queue_delete(rabbit.names["queue_name"])
        await until(lambda: _consumed(rabbit))
        await rabbit.publish(said("c", 1))
        await until(lambda: _has(house, "c", ["c-1"]))


async def test_a_parked_message_finds_its_queue_though_the_exchange_leads_nowhere(rabbit: Broker) -> None:
    async with amqp_house(rabbit.names):
        failed = await rabbit.channel.get_queue(f"{rabbit.name}_queue_failed", ensure=False)
        await failed.unbind(f"{rabbit.name}_exchange_dlx", rabbit.names["routing_key"])
        await rabbit.publish(b"garbage")
        await until(lambda: rabbit.waiting(f"{rabbit.name}_queue_failed"))


async def test_what_cannot_be_parked_waits_alone(rabbit: Broker) -> None:
    """The dead queue takes nothing: garbage stays where it is, the others are taken and none comes twice."""
    full: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    failed = await rabbit.channel.declare_queue(f"{rabbit.name}_queue_failed", durable=True, arguments=full)
    limited: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 1}
    await rabbit.channel.declare_queue(rabbit.names["queue_name"], durable=True, arguments=limited)
    async with amqp_house(rabbit.names) as house:
        await rabbit.publish(b"parked, and it is full")
        await until(lambda: rabbit.waiting(failed.name))
        good = [said("c", number) for number in range(1_200)]
        await rabbit.publish_all([*good[:100], b"garbage", *good[100:700], b"more garbage", *good[700:]])
        await until(lambda: _has(house, "c", [one["message_id"] for one in good]))
        await until(lambda: _unsettled(house, 2))
        await failed.purge()
        await until(lambda: rabbit.waiting(failed.name))
        await until(lambda: _unsettled(house, 1))
        await failed.purge()
        await until(lambda: _unsettled(house, 0))
        assert await _empty(rabbit)


@pytest.mark.only_in_prove  # a broker of its own: properties that cannot be decoded, or parked as they are, are above
async def test_headers_that_fill_a_frame_of_the_broker_are_left_behind(rabbit_installed: str, amqp_name: str) -> None:
    async with RabbitServer(program=rabbit_installed, config="frame_max = 8192\n") as server:
        await _with_small_frames(server.url(), amqp_name)


async def _with_small_frames(url: str, name: str) -> None:
    async with broker(url, name) as client, amqp_house(client.names):
        await client.publish(b"garbage", headers={"x": "y" * 7_900})
        await client.publish(b"garbage", headers={"x": "y" * 900})
        assert [one.headers.get("x") for one in await client.parked(2)] == [None, "y" * 900]


@pytest.mark.only_in_prove  # 1,200 messages, and every other test of the broker waits
async def test_a_broker_with_an_alarm_is_emptied_all_the_same(rabbit: Broker, rabbit_server: RabbitServer) -> None:
    """It reads nothing more from a connection that has published, and only who consumes can help it."""
    await rabbit.declare_as_the_seed_did()
    await rabbit.publish_all([b"garbage", *(said("c", number) for number in range(1_200))])
    rabbit_server.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        async with amqp_house(rabbit.names) as house:
            await until(lambda: _has(house, "c", [f"c-{number}" for number in range(1_200)]))
            await until(lambda: _unsettled(house, 1))
    finally:
        rabbit_server.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
    async with amqp_house(rabbit.names):
        await until(lambda: rabbit.waiting(f"{rabbit.name}_queue_failed"))


async def _unsettled(house: Any, count: int) -> bool:
    return bool(house.door.unsettled_count == count)


async def _has(house: Any, channel: str, ids: list[str]) -> bool:
    return bool(await house.messages(channel) == ids)


async def _open(house: Any, count: int) -> bool:
    return bool((await house.counts())["open"] == count)


async def _empty(rabbit: Broker) -> bool:
    return await rabbit.waiting(rabbit.names["queue_name"]) == 0


async def _ready(rabbit: Broker, count: int) -> bool:
    return await rabbit.waiting(rabbit.names["queue_name"]) == count


async def _consumed(rabbit: Broker) -> bool:
    try:
        async with rabbit.connection.channel() as channel:
            queue = await channel.get_queue(rabbit.names["queue_name"])
            return bool(queue.declaration_result.consumer_count)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False


async def _true(value: bool) -> bool:
    return value
