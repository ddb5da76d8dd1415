"""Sinks deliver at least once, in channel order, and a bad receiver is nobody's trouble but its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE, until
from tests.process.served import served
from tests.scenario.house import TestHouse, answered, gate_answers, opened
from tests.scenario.hubs import QUICKLY, WEBHOOK_SECRET, Hub, hub, receiver
from turnkeep.doors import other_systems as doors_outside
from turnkeep.doors.other_systems import receivers
from turnkeep.errors import ConfigurationError, NotFound, ThreadQuarantined
from turnkeep.outbound.forwarder import Forwarder, SinkReceiver
from turnkeep.outbound.relay import Relay
from turnkeep.outbound.webhook import Webhook
from turnkeep.store.sinks import Delivery

GOLDEN = Path(__file__).parents[1] / "data/golden/seed-frames.jsonl"


@contextlib.asynccontextmanager
async def forwarding(house: TestHouse, *receivers: SinkReceiver) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Forwarders of these receivers run until the end of the block."""
    async with asyncio.TaskGroup() as group:
        forwarders = [Forwarder(house.queue.store, one, queue=house.queue.name, rules=QUICKLY) for one in receivers]
        for forwarder in forwarders:
            await house.queue.store.open_sink(forwarder.sink)
        tasks = [group.create_task(forwarder.run()) for forwarder in forwarders]
        yield tasks
        for task in tasks:
            task.cancel()


# ---------------------------------------------------------------- relay


async def test_the_relay_tells_a_turn_as_the_seed_did(store: str) -> None:
    async with opened(store) as house, hub() as there, forwarding(house, Relay(there.url, house.queue.store)):
        await answered(house, "c1", "[[say:one two three]] hello")
        await until(lambda: bool(there.frames) and there.frames[-1]["payload"].get("action") == "unsubscribe")

    subscription = {"channel": "subscription", "payload": {"action": "subscribe", "channel": "c1"}}
    assert there.frames[0] == subscription
    assert there.frames[-1] == {"channel": "subscription", "payload": {"action": "unsubscribe", "channel": "c1"}}
    told = there.payloads("c1")
    assert [p["status"] for p in told][:1] == ["started"]
    assert [p["status"] for p in told].count("completed") == 1
    seeds = {(p["type"], p["status"]): list(p) for p in _seed_payloads()}
    for payload in told:
        form = seeds[payload["type"], payload["status"]]
        assert list(payload)[: len(form)] == form


def _seed_payloads() -> list[dict[str, Any]]:
    frames = [json.loads(json.loads(line)["frame"]) for line in GOLDEN.read_text().splitlines()]
    return [frame["payload"] for frame in frames if "status" in frame["payload"]]


async def test_the_text_grows_and_the_final_frame_holds_it_whole(store: str) -> None:
    async with opened(store) as house, hub() as there, forwarding(house, Relay(there.url, house.queue.store)):
        await answered(house, "c1", "hello")
        await until(lambda: len(there.finals("c1")) == 1)
    texts = [p["message"] for p in there.payloads("c1") if p["type"] == "response"]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert texts[-1] == there.finals("c1")[0]["message"]


async def test_a_server_that_echoes_everything_does_not_stop_the_relay(store: str) -> None:
    async with (
        opened(store) as house,
        hub(echoes=True) as there,
        forwarding(house, Relay(there.url, house.queue.store)),
    ):
        for number in range(10):
            await answered(house, f"c{number}", "hello")
        await until(lambda: all(len(there.finals(f"c{number}")) == 1 for number in range(10)))
    assert there.connections == 1


async def test_a_server_that_is_away_stops_no_run_and_gets_everything_later(store: str) -> None:
    async with opened(store) as house, hub() as there:
        await there.stop()
        async with forwarding(house, Relay(there.url, house.queue.store)):
            for number in range(5):
                await answered(house, f"c{number}", "hello")
            await there.start()
            await until(lambda: all(len(there.finals(f"c{number}")) == 1 for number in range(5)))


async def test_a_connection_cut_in_an_answer_loses_no_frame_of_its_text(store: str) -> None:
    async with opened(store) as house, hub() as there, forwarding(house, Relay(there.url, house.queue.store)):
        cutting = asyncio.create_task(_cut_again_and_again(there))
        for number in range(5):
            await answered(house, f"c{number}", "[[words:30]] [[pace:0.01]] a long story")
        cutting.cancel()
        await until(lambda: all(there.finals(f"c{number}") for number in range(5)))
    for number in range(5):
        transcripts = {p["message"] for p in there.finals(f"c{number}")}
        assert len(transcripts) == 1
        whole = transcripts.pop()
        assert all(whole.startswith(p["message"]) for p in there.payloads(f"c{number}") if p["status"] == "in_progress")
        offsets = [p["offset"] for p in there.payloads(f"c{number}")]
        assert offsets[-1] == max(offsets)


async def _cut_again_and_again(there: Hub) -> None:
    while True:
        await asyncio.sleep(0.03)
        there.cut()


async def test_another_process_goes_on_where_the_first_one_ended(store: str) -> None:
    async with opened(store) as house, hub() as there:
        async with forwarding(house, Relay(there.url, house.queue.store)):
            await answered(house, "c1", "hello")
            await until(lambda: len(there.finals("c1")) == 1)
        await answered(house, "c1", "hello again")
        async with forwarding(house, Relay(there.url, house.queue.store)):
            await until(lambda: len(there.finals("c1")) >= 2)
    assert len({final["offset"] for final in there.finals("c1")}) == 2


async def test_a_frame_that_the_server_does_not_take_is_parked_and_the_rest_goes_on(store: str) -> None:
    async with (
        opened(store) as house,
        hub(closes_with=("poison", 1009)) as there,
        forwarding(house, Relay(there.url, house.queue.store)),
    ):
        await answered(house, "poison", "hello")
        await answered(house, "c1", "hello")
        await until(lambda: len(there.finals("c1")) == 1)
    assert not there.payloads("poison")


@pytest.mark.daily(rows=2)  # each address on one of two engines
@pytest.mark.parametrize("location", ["http://[::1", f"ws://{'a' * 70}.example/", "nowhere", "ws://", "http://\x7f/"])
async def test_a_server_that_sends_the_relay_to_nowhere_is_tried_again(
    store: str, location: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers, there = (
        [f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"] * 9,
        asyncio.Event(),
    )

    async def astray(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if not answers:
            there.set()
        writer.write((answers.pop() if answers else "HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n").encode())
        writer.close()

    async with await asyncio.start_server(astray, "127.0.0.1", 0) as listener, opened(store) as house:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        async with forwarding(house, Relay(url, house.queue.store)):
            await answered(house, "c1", "hello")
            async with asyncio.timeout(PATIENCE):
                await there.wait()
    assert "delivery_parked" not in caplog.text


async def test_of_a_damaged_thread_is_told_what_there_is(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(store) as house, hub() as there:
        partitions = await house.queue.store.open_sink("test")
        await answered(house, "damaged", "hello")
        pages = [await house.queue.store.deliveries("test", one, after="", limit=500) for one in partitions]
        [final] = [delivery for page in pages for delivery in page if delivery.event.is_final]

        async def read(*_: object, **__: object) -> None:
            raise ThreadQuarantined("what Redis keeps of this thread is damaged")

        monkeypatch.setattr(house.queue.store, "read", read)
        async with Relay(there.url, house.queue.store) as relay:
            assert await relay.deliver([final]) == 1
        await until(lambda: len(there.finals("damaged")) == 1)


async def test_an_event_that_breaks_its_receiver_is_parked_and_the_rest_goes_on(store: str) -> None:
    delivered: list[str] = []

    class Breaks:
        kind = "relay"
        tenant: str | None = None
        finals = True

        async def __aenter__(self) -> Breaks:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        def wants(self, delivery: Delivery) -> bool:
            return delivery.event.is_final

        async def deliver(self, deliveries: Sequence[Delivery]) -> int:
            if deliveries[0].address.channel == "poison":
                raise TypeError("string exceeds maximum length of 255 bytes")
            delivered.append(deliveries[0].address.channel)
            return 1

    async with opened(store) as house, forwarding(house, Breaks()):
        await answered(house, "poison", "hello")
        await answered(house, "c1", "hello")
        await until(lambda: delivered == ["c1"])


async def test_a_relay_that_points_at_ourselves_is_refused(store: str) -> None:
    async with served(store) as server:
        relay = Relay(server.url.replace("http", "ws") + "/ws", server.queue.store)
        forwarder = Forwarder(server.queue.store, relay, queue=server.queue.name, rules=QUICKLY)
        running = asyncio.create_task(forwarder.run())
        await server.queue.store.open_sink(forwarder.sink)
        async with server.queue.events("c1") as events:
            await server.queue.add_message_to_thread("c1", "hello", flush=True)
            async with asyncio.timeout(PATIENCE):
                async for event in events:
                    if event.is_final:
                        break
        async with asyncio.timeout(PATIENCE):
            await running
        with pytest.raises(NotFound):
            await server.queue.store.deliveries(forwarder.sink, 0, after="", limit=10)


async def test_channels_of_other_tenants_are_not_relayed(store: str) -> None:
    async with opened(store) as house, hub() as there, forwarding(house, Relay(there.url, house.queue.store)):
        await house.queue.add_message_to_thread("c1", "secret", tenant="acme", flush=True)
        await answered(house, "c2", "hello")
        await until(lambda: len(there.finals("c2")) == 1)
    assert not there.payloads("c1")


# ---------------------------------------------------------------- webhooks


async def test_a_webhook_gets_every_final_event_signed(store: str) -> None:
    async with (
        opened(store) as house,
        receiver() as there,
        forwarding(house, Webhook(there.url, WEBHOOK_SECRET, allow_private=True)),
    ):
        await answered(house, "c1", "hello")
        await until(lambda: len(there.requests) == 1)
    [(headers, body)] = there.requests
    said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    signature = base64.b64encode(hmac.new(b"0123456789abcdef", said, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{signature}"
    [event] = there.events
    assert event["type"] == "turn.completed"
    assert event["data"]["channel"] == "c1"
    assert event["data"]["outcome"] == "completed"
    assert event["data"]["message"]


async def test_while_a_secret_is_exchanged_both_sign() -> None:
    new = "whsec_" + base64.b64encode(b"fedcba9876543210").decode()
    async with (
        opened("memory:") as house,
        receiver() as there,
        forwarding(house, Webhook(there.url, f"{new} {WEBHOOK_SECRET}", allow_private=True)),
    ):
        await answered(house, "c1", "hello")
        await until(lambda: len(there.requests) == 1)
    [(headers, body)] = there.requests
    said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = [hmac.new(key, said, hashlib.sha256).digest() for key in (b"fedcba9876543210", b"0123456789abcdef")]
    assert headers["webhook-signature"].split() == [f"v1,{base64.b64encode(one).decode()}" for one in wanted]


async def test_a_receiver_that_fails_gets_the_same_event_again_and_the_next_one_after_it(store: str) -> None:
    async with (
        opened(store) as house,
        receiver(lambda number: 503 if number < 3 else 200) as there,
        forwarding(house, Webhook(there.url, WEBHOOK_SECRET, allow_private=True)),
    ):
        await answered(house, "c1", "hello")
        await answered(house, "c1", "hello again")
        await until(lambda: len(there.requests) == 5)
    ids = [headers["webhook-id"] for headers, _ in there.requests]
    assert len(set(ids[:4])) == 1
    assert ids[4] != ids[0]


async def test_a_private_address_gets_nothing_unless_it_is_allowed(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(store) as house, receiver() as there, forwarding(house, Webhook(there.url, WEBHOOK_SECRET)):
        await answered(house, "c1", "hello")
        await until(lambda: "delivery_failed" in caplog.text)
    assert "TURNKEEP_WEBHOOK_ALLOW_PRIVATE" in caplog.text
    assert there.requests == []


async def test_a_receiver_that_hangs_delays_no_run_and_no_other_sink(store: str) -> None:
    hung = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hung.wait()
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/hook"
    async with opened(store) as house, hub() as there:
        async with forwarding(
            house, Webhook(url, WEBHOOK_SECRET, allow_private=True), Relay(there.url, house.queue.store)
        ):
            for number in range(5):
                await answered(house, f"c{number}", "hello")
            await until(lambda: all(len(there.finals(f"c{number}")) == 1 for number in range(5)))
        hung.set()
    listener.close()


# ---------------------------------------------------------------- settings


async def test_settings_open_their_sinks_and_a_server_carries_them() -> None:
    async with hub() as there, receiver() as hook:
        settings: dict[str, Any] = {
            "websocket_url": there.url,
            "webhook_url": hook.url,
            "webhook_secret": WEBHOOK_SECRET,
            "webhook_allow_private": True,
        }
        async with served(**settings) as server:
            await server.queue.add_message_to_thread("c1", "hello", flush=True)
            await until(lambda: len(there.finals("c1")) == 1 and len(hook.requests) == 1)


async def test_a_sink_that_is_not_set_any_more_keeps_nothing(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'turnkeep.db'}"
    async with opened(store) as house:
        await house.queue.store.open_sink("relay:assistant")
        await answered(house, "c1", "hello")
        assert await house.queue.store.deliveries("relay:assistant", 0, after="", limit=10)
    async with opened(store) as house, doors_outside.outside(house.queue):
        await house.queue.store.open_sink("relay:assistant")
        assert await house.queue.store.deliveries("relay:assistant", 0, after="", limit=10) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"webhook_url": "https://example.org"}, "needs TURNKEEP_WEBHOOK_SECRET"),
        ({"webhook_url": "http://example.org", "webhook_secret": WEBHOOK_SECRET}, "must be https"),
        ({"webhook_url": "https://example.org", "webhook_secret": f"{WEBHOOK_SECRET} whsec_!"}, "must be base64"),
        ({"webhook_url": "https://example.org", "webhook_secret": "whsec_!"}, "must be base64"),
        ({"webhook_url": "https://example.org", "webhook_secret": "whsec_"}, "has 0 bytes"),
        ({"webhook_url": "https://example.org", "webhook_secret": "whsec_dG9vIHNob3J0"}, "has 9 bytes"),
        (
            {"webhook_url": "https://example.org", "webhook_secret": "a text of enough letters"},
            "must be whsec_ and base64",
        ),
        ({"amqp_reply_exchange": "replies"}, "needs RABBITMQ_URL"),
    ],
)
async def test_a_setting_that_cannot_work_is_told(settings: dict[str, Any], sentence: str) -> None:
    async with opened(**settings) as house:
        with pytest.raises(ConfigurationError, match=sentence):
            receivers(house.queue)


async def test_what_a_run_says_last_goes_out_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors_outside, "LAST_WORDS", 0.1)  # less than the run goes on for
    async with receiver() as inbox:
        sinks: dict[str, Any] = {
            "webhook_url": inbox.url,
            "webhook_secret": WEBHOOK_SECRET,
            "webhook_allow_private": True,
        }
        async with served(**sinks, drain=20.0) as server:
            gate = gate_answers(server.simulator)
            async with asyncio.timeout(PATIENCE), server.queue.events("c") as stream:
                text = "[[words:3]] [[pace:1]] a long story"
                await server.queue.add_message_to_thread("c", text, message_id="m1", flush=True)
                async for event in stream:
                    if event.kind == "delta":
                        break
            assert inbox.requests == []

            def go_on() -> None:
                monkeypatch.setattr(doors_outside, "LAST_WORDS", PATIENCE)  # what counts is when the run has ended
                gate.set()

            asyncio.get_running_loop().call_later(0.5, go_on)
    assert [event["type"] for event in inbox.events] == ["turn.completed"]


async def test_a_receiver_that_is_away_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors_outside, "LAST_WORDS", 0.2)
    async with receiver(lambda _: 503) as inbox:
        sinks: dict[str, Any] = {
            "webhook_url": inbox.url,
            "webhook_secret": WEBHOOK_SECRET,
            "webhook_allow_private": True,
        }
        async with asyncio.timeout(PATIENCE), served(**sinks) as server:
            await server.queue.ask("c", "hello")
    assert all(event["type"] == "turn.completed" for event in inbox.events)
