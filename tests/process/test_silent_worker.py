"""A worker that is killed in the middle of an answer, with the settings as they come: whoever watches is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.patience import SOON, until
from tests.process.fleet import PACE, fleet, next_frame
from tests.services import RedisServer
from turnkeep.simulator import Simulator, serve

pytestmark = pytest.mark.slow


Proof = Callable[[str, str], None]


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
