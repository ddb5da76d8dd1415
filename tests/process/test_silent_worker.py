"""A worker that is killed in the middle of an answer: whoever watches is told, also who comes when it is gone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.patience import PATIENCE, SOON, until
from tests.process.fleet import PACE, fleet, next_frame
from tests.process.served import Served, served
from tests.services import RedisServer
from turnkeep.events import TurnFault, delta
from turnkeep.messages import Message, text_content
from turnkeep.simulator import Simulator, serve
from turnkeep.store.values import Failure

Proof = Callable[[str, str], None]


@pytest.mark.slow
@pytest.mark.prove
@pytest.mark.timeout(300)
async def test_an_answer_goes_on_soon_after_its_worker_was_killed(
    redis_server: RedisServer, tmp_path: Path, proof: Proof
) -> None:
    simulator = Simulator()
    redis_server.fresh()
    async with (
        serve(simulator) as model,
        fleet(tmp_path, redis_server.url(), model, workers=1) as many,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{many.gateways[0].url}/ws") as socket,
    ):
        await socket.send_json({"action": "subscribe", "channel": "c"})
        await many.send("c", "m1", f"{PACE.format(words=200, milliseconds=50)} hello")
        await until(lambda: bool(simulator.ledger.open()), patience=60.0)
        await next_frame(socket, lambda frame: frame["status"] == "in_progress")
        killed_at = time.monotonic()
        await asyncio.to_thread(many.workers[0].kill9)
        many.workers[0].start()

        silent = await next_frame(socket, lambda frame: frame.get("reason") == "silent")
        assert silent["status"] == "processing"
        assert silent["message"]
        await next_frame(socket, lambda frame: frame["status"] == "started")
        took = time.monotonic() - killed_at

    proof("silent worker", f"lease as it comes | answer goes on {took:.1f} s after the kill")
    assert took <= SOON


async def from_a_socket(server: Served) -> str:
    async with server.socket() as socket:
        await socket.send('{"action": "subscribe", "channel": "c"}')
        async for text in socket:
            if (frame := json.loads(text)).get("reason") == "silent":
                return str(frame["run_id"])
    raise AssertionError("the socket has ended")


async def from_a_stream(server: Served) -> str:
    async with server.http.get(f"{server.url}/api/channels/c/events") as told:
        async for line in told.content:
            if line.startswith(b"data: ") and (frame := json.loads(line[6:])).get("reason") == "silent":
                return str(frame["run_id"])
    raise AssertionError("the stream has ended")


async def from_the_queue(server: Served) -> str:
    async for event in server.queue.events("c"):
        if event.error is not None and event.error.code == "silent":
            return str(event.run_id)
    raise AssertionError("the events have ended")


async def test_who_comes_when_the_worker_is_gone_is_told_at_every_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first there, and those who come when he was told."""
    monkeypatch.setattr("turnkeep.hub.SILENCE", 0.1)
    doors = (from_a_socket, from_a_stream, from_the_queue)
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        address, store = server.queue.address("c"), server.queue.store
        for first in doors:
            await store.accept([Message(address, f"m-{first.__name__}", text_content("hello"), flush=True)])
            [claim] = await store.claim(owner="gone", limit=1, lease=3_600.0)
            await store.publish(claim, 0, [delta("half", claim.run_id, claim.attempt)])
            for come in (first, *doors):
                assert await come(server) == claim.run_id
            await store.fail(claim, Failure(TurnFault("internal_error", "It broke."), None))


async def test_who_comes_beside_others_who_were_told_is_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnkeep.hub.SILENCE", 0.1)
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        address, store = server.queue.address("c"), server.queue.store
        await store.accept([Message(address, "m1", text_content("hello"), flush=True)])
        [claim] = await store.claim(owner="gone", limit=1, lease=3_600.0)
        async with server.queue.events("c") as events:
            async for event in events:
                if event.error is not None:
                    break
            for come in (from_a_socket, from_a_stream, from_the_queue):
                assert await come(server) == claim.run_id
            assert events.ready() == [], "nobody is told twice"
