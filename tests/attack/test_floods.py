"""Whoever floods, with whatever: the service answers everybody else as before.

Each flood comes from a process of its own and shows a key that is right and may do little, which reaches further than
none; by TCP, and through nginx with the configuration of deploy/nginx.conf.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets

from tests.attack.flooder import KINDS
from tests.conftest import FULL
from tests.process.command import Desk, Service
from tests.services import NginxServer
from tests.services.process import end_process, eventually, spawn

ROOT = Path(__file__).parents[2]
HOW_MANY = {"idle": 1_500, "heads": 500, "bodies": 300, "streams": 1_500, "partial_frames": 60}
"""Connections of a flood at full size; 8 of those that pour as fast as they can."""
NOBODY_ELSE = "127.0.0.2"
"""Where the others come from: nginx counts the connections of an address."""
SETTINGS = {
    "TURNKEEP_AUTH": "on", "TURNKEEP_CHANNEL_RATE": "0", "TURNKEEP_USER_RATE": "0", "TURNKEEP_WINDOW": "0",
    "TURNKEEP_MAX_WAIT": "0", "TURNKEEP_MAX_CONNECTIONS": "1000", "TURNKEEP_SOCKETS_PER_USER": "400",
}  # fmt: skip


@dataclass
class Felt:
    """What somebody else noticed: how long `/healthz` took, and the first piece of an answer, in seconds."""

    health: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def health_p99(self) -> float:
        return sorted(self.health)[int(len(self.health) * 0.99)]

    @property
    def first_typical(self) -> float:
        return statistics.median(self.first)


@contextlib.contextmanager
def flooded(kind: str, address: str, count: int, folder: Path, key: str | None) -> Iterator[None]:
    place = folder / f"flood-{kind}"
    place.mkdir()
    command = [sys.executable, "-m", "tests.attack.flooder", kind, address, str(count), *([key] if key else [])]
    process = spawn(command, {"PYTHONPATH": str(ROOT)}, place)
    try:
        eventually(lambda: "up" in (place / "log").read_text(), 60, f"the flood of {kind}")
        yield
    finally:
        end_process(process)


@contextlib.asynccontextmanager
async def somebody(url: str, key: str | None) -> AsyncIterator[tuple[aiohttp.ClientSession, Any]]:
    """A client with a session and a socket, as anybody has."""
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(local_addr=(NOBODY_ELSE, 0), force_close=True)
    socket = websockets.connect(
        url.replace("http", "ws") + "/ws", additional_headers=bearer, local_addr=(NOBODY_ELSE, 0), max_size=None
    )
    async with aiohttp.ClientSession(connector=connector, headers=bearer) as http, socket as opened:
        yield http, opened


async def feel(url: str, key: str | None, rounds: int) -> Felt:
    """Ask for health on new connections all the while, and for some answers on one socket."""
    felt = Felt()
    async with asyncio.timeout(120), somebody(url, key) as (http, socket), asyncio.TaskGroup() as group:
        asking = group.create_task(look(http, url, felt))
        for number in range(rounds):
            channel = f"c-{time.monotonic_ns()}-{number}"
            await socket.send(json.dumps({"action": "subscribe", "channel": channel, "text": "delta"}))
            begun = time.monotonic()
            await socket.send(json.dumps({"channel": channel, "message": "Hello there", "flush": True}))
            while not is_text_of(channel, json.loads(await socket.recv())):
                pass
            felt.first.append(time.monotonic() - begun)
            await socket.send(json.dumps({"action": "unsubscribe", "channel": channel}))
        # an answer may come before the first look has
        while not (felt.health or felt.failures):
            await asyncio.sleep(0.01)
        asking.cancel()
    return felt


def is_text_of(channel: str, frame: dict[str, Any]) -> bool:
    """A piece of this answer; what is left of the one before may still come."""
    return "delta" in frame and frame["channel"] == channel


async def look(http: aiohttp.ClientSession, url: str, felt: Felt) -> None:
    while True:
        begun = time.monotonic()
        try:
            async with http.get(f"{url}/healthz") as told:
                if told.status != 200:
                    felt.failures.append(str(told.status))
        except aiohttp.ClientError as error:
            felt.failures.append(repr(error))
        felt.health.append(time.monotonic() - begun)
        await asyncio.sleep(0.02)


def judge(kind: str, calm: Felt, felt: Felt, proof: Callable[[str, str], None], through: str) -> None:
    times = felt.first_typical / calm.first_typical
    proof(
        f"flood of {kind} {through}",
        f"looks {len(felt.health)} | failed {len(felt.failures)} | healthz p99 {felt.health_p99 * 1000:.0f} ms "
        f"(calm {calm.health_p99 * 1000:.0f}) | first token {times:.2f}x",
    )
    assert not felt.failures, felt.failures[:3]
    if FULL:
        assert felt.health_p99 <= 0.1
        assert times <= 2.0


def count_of(kind: str, size: Callable[[int, int], int]) -> int:
    return size(HOW_MANY.get(kind, 8) // 4, HOW_MANY.get(kind, 8))


Sized = Callable[[int, int], int]
Proof = Callable[[str, str], None]


@contextlib.contextmanager
def guarded_service(folder: Path) -> Iterator[tuple[Service, str, str]]:
    """A service that asks for credentials, with the key of an enemy and that of somebody else."""
    desk = Desk(folder, SETTINGS)
    enemy, other = [
        str(json.loads(desk.run("keys", "create", "--name", name, "--scopes", "send,read", "--json").out)["key"])
        for name in ("enemy", "other")
    ]
    with desk.running("serve", "--simulator") as service:
        yield service, enemy, other


async def flood_all(url: str, keys: tuple[str, str], folder: Path, size: Sized, proof: Proof, through: str) -> None:
    enemy, other = keys
    calm = await feel(url, other, size(2, 40))
    for kind in KINDS:
        with flooded(kind, url.removeprefix("http://"), count_of(kind, size), folder, enemy):
            judge(kind, calm, await feel(url, other, size(1, 40)), proof, through)


@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_no_flood_is_felt_by_others(tmp_path: Path, size: Sized, proof: Proof) -> None:
    with guarded_service(tmp_path) as (service, *keys):
        await flood_all(service.url, (keys[0], keys[1]), tmp_path, size, proof, "by TCP")


@pytest.mark.only_in_prove  # the same floods come by TCP, above
@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_no_flood_through_nginx_is_felt_by_others(tmp_path: Path, nginx: str, size: Sized, proof: Proof) -> None:
    with guarded_service(tmp_path) as (service, *keys), NginxServer(nginx, documented(service)) as proxy:
        await flood_all(proxy.url, (keys[0], keys[1]), tmp_path, size, proof, "through nginx")


def documented(service: Service) -> str:
    """The configuration that is shipped, on a port of our own and without TLS."""
    text = (ROOT / "deploy/nginx.conf").read_text()
    lines = [line for line in text.splitlines() if "ssl_certificate" not in line]
    return (
        "\n".join(lines)
        .replace("listen 443 ssl;", "listen 127.0.0.1:@PORT@;")
        .replace("server 127.0.0.1:8080;", f"server 127.0.0.1:{service.port};")
    )
