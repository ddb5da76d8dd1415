"""Clocks of gateway and worker are set while messages wait, run and are leased: nothing waits longer than its span."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.chaos.launch import CLOCK
from tests.patience import SOON, until
from tests.process.fleet import PACE, Fleet, fleet, next_frame
from tests.process.programs import Program
from tests.services import RedisServer
from turnkeep.simulator import Simulator, serve

pytestmark = pytest.mark.slow

LAUNCH = ("tests.chaos.launch", "")
HOUR, DAY = 3_600, 86_400
SETTINGS: dict[str, Any] = {CLOCK: "clock", "TURNKEEP_WINDOW": "1", "TURNKEEP_MAX_WAIT": "2", "TURNKEEP_LEASE": "3"}

Proof = Callable[[str, str], None]


def set_clock(program: Program, seconds: int) -> None:
    """So far is its time of day off from now on; the seconds pass as they did."""
    (program.folder / "clock").write_text(str(seconds))


def set_clocks(many: Fleet, gateway: int, worker: int) -> None:
    set_clock(many.gateways[0], gateway)
    set_clock(many.workers[0], worker)


@pytest.mark.prove
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("engine", "leap"),
    [
        ("sqlite", HOUR),
        ("redis", -DAY),
        pytest.param("sqlite", -DAY, marks=pytest.mark.only_in_prove),  # each engine and each leap is there above
        pytest.param("redis", HOUR, marks=pytest.mark.only_in_prove),
    ],
)
async def test_nothing_waits_longer_than_its_span(
    engine: str, leap: int, tmp_path: Path, request: pytest.FixtureRequest, proof: Proof
) -> None:
    simulator = Simulator()
    async with (
        serve(simulator) as model,
        fleet(tmp_path, place(engine, tmp_path, request), model, modules=LAUNCH, **SETTINGS) as many,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{many.gateways[0].url}/ws") as socket,
    ):
        await socket.send_json({"action": "subscribe", "channel": "c"})
        took: dict[str, float] = {}

        async def answered(name: str) -> None:
            begun_at = time.monotonic()
            await next_frame(socket, lambda frame: frame["type"] == "response" and frame["status"] == "completed")
            took[name] = time.monotonic() - begun_at

        await many.send("c", "waits", "hello")
        set_clocks(many, leap, -leap)
        await answered("waiting")

        await many.send("c", "runs", f"{PACE.format(words=20, milliseconds=50)} hello")
        await until(lambda: bool(simulator.ledger.open()), patience=SOON)
        set_clocks(many, -leap, leap)
        await answered("running")

        await many.send("c", "leased", f"{PACE.format(words=40, milliseconds=50)} hello")
        await until(lambda: bool(simulator.ledger.open()), patience=SOON)
        await asyncio.to_thread(many.workers[0].kill9)
        set_clocks(many, leap, -leap)
        many.workers[0].start()
        await answered("leased by the dead")

    figures = " | ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
    proof("clocks that are set", f"{engine}, by {leap:+d} s: {figures}")
    assert max(took.values()) <= SOON


def place(engine: str, folder: Path, request: pytest.FixtureRequest) -> str:
    if engine == "sqlite":
        return f"sqlite:{folder}/a.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.fresh().url()
