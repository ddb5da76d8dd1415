"""A worker alone can be looked at: probes, measurements, and a board on which nothing stays empty."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.patience import PATIENCE
from tests.process.command import Desk
from tests.process.fleet import Worker
from tests.process.programs import Server, running
from tests.services import free_port
from tests.services.prometheus import PrometheusServer
from turnkeep.simulator import Simulator, serve

BOARD = Path(__file__).parents[2] / "deploy/grafana-dashboard.json"
TOOLS = '''
from turnkeep import tool


@tool
async def look(place: str) -> str:
    """Look at a place."""
    return place
'''
WORDS = (
    "hello",
    'look [[call:look {"place": "here"}]]',
    "dies [[fault:500 times=99]]",
    "waits [[fault:429 times=1 retry_after=0.1]]",
)
"""What makes something of everything that is measured: answers, a tool, a dead letter, a wait."""


@dataclass
class Apart:
    """A gateway and a worker with a port, as two processes on one store that asks for credentials."""

    gateway: Server
    worker: Worker
    port: int
    key: str
    http: aiohttp.ClientSession

    @property
    def status(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def metrics(self, url: str) -> str:
        async with self.http.get(f"{url}/metrics", headers={"Authorization": f"Bearer {self.key}"}) as answer:
            assert answer.status == 200
            return await answer.text()

    async def say(self, channel: str, text: str) -> None:
        async with self.http.post(
            f"{self.gateway.url}/api/channels/{channel}/messages",
            json={"message": text},
            headers={"Authorization": f"Bearer {self.key}"},
        ) as answer:
            assert answer.status == 202

    def listening(self, channel: str) -> Any:
        """Somebody who is told what happens there."""
        bearer = {"Authorization": f"Bearer {self.key}"}
        return self.http.get(f"{self.gateway.url}/api/channels/{channel}/events", headers=bearer)


@asynccontextmanager
async def apart(folder: Path) -> AsyncIterator[Apart]:
    port = free_port()
    (folder / "tools.py").write_text(TOOLS)
    async with serve(Simulator()) as model, aiohttp.ClientSession() as http:
        environment = {
            "TURNKEEP_STORE": f"sqlite:{folder}/store.db", "OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-test",
            "TURNKEEP_AUTH": "on", "TURNKEEP_WINDOW": "0", "TURNKEEP_MAX_ATTEMPTS": "2",
            "TURNKEEP_BACKOFF_DELAY": "0.1", "TURNKEEP_CHANNEL_RATE": "0", "TURNKEEP_USER_RATE": "0",
        }  # fmt: skip
        places = [folder / "gateway", folder / "worker"]
        for place in places:
            place.mkdir()
        key = Desk(places[0], environment).run("keys", "create", "--scopes", "admin,send,read", "--json").json["key"]
        gateway = Server(["serve", "--role", "gateway"], places[0], environment)
        worker = Worker(["worker", "--port", str(port), "--tools", f"{folder}/tools.py"], places[1], environment)
        async with running(gateway), running(worker):
            await gateway.answers(http)
            await worker.works()
            yield Apart(gateway, worker, port, key, http)


async def test_a_worker_shows_whether_it_lives_and_what_waits(tmp_path: Path) -> None:
    async with apart(tmp_path) as house:
        for path in ("/healthz", "/readyz"):
            async with house.http.get(house.status + path) as answer:
                assert answer.status == 200
        async with house.http.get(f"{house.status}/metrics") as answer:
            assert answer.status == 401, "figures are for who may see them"
        async with house.http.post(f"{house.status}/api/channels/c/messages", json={"message": "hello"}) as answer:
            assert answer.status == 404, "nothing can be sent to a worker"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await house.http.ws_connect(f"{house.status}/ws")
        assert refused.value.status == 404, "and nothing is opened there"

        await house.say("c", "hello")
        async with asyncio.timeout(PATIENCE):
            while 'turnkeep_runs_total{verdict="commit"} 1.0' not in (told := await house.metrics(house.status)):
                await asyncio.sleep(0.05)
        assert 'turnkeep_queue_waiting_threads{queue="assistant"} 0.0' in told
        assert 'turnkeep_queue_waiting_threads{queue="assistant"} 0.0' in await house.metrics(house.gateway.url)


async def test_a_port_that_is_taken_is_said_before_anything_is_claimed(tmp_path: Path) -> None:
    async with apart(tmp_path) as house:
        other = tmp_path / "other"
        other.mkdir()
        second = Desk(other, dict(house.worker.environment)).run("worker", "--port", str(house.port))
    assert second.code == 2
    assert f"port {house.port} on 127.0.0.1 is taken" in second.err


@pytest.mark.timeout(180)
async def test_every_panel_of_the_board_is_filled_with_gateway_and_worker_apart(tmp_path: Path) -> None:
    panels = [panel for panel in json.loads(BOARD.read_text())["panels"] if panel.get("targets")]
    async with apart(tmp_path) as house:
        addresses = [f"127.0.0.1:{house.gateway.port}", f"127.0.0.1:{house.port}"]
        async with PrometheusServer(addresses, house.key) as prometheus, house.listening("c0"):
            empty, end = panels, asyncio.get_running_loop().time() + PATIENCE
            while empty and asyncio.get_running_loop().time() < end:
                await burden(house)
                await asyncio.sleep(0.5)
                empty = [panel for panel in empty if not await asyncio.to_thread(is_filled, prometheus, panel)]
    assert [panel["title"] for panel in empty] == []


async def burden(house: Apart) -> None:
    """Something of each kind, and somebody who is refused."""
    for place, text in enumerate(WORDS):
        await house.say(f"c{place}", text)
    async with house.http.get(f"{house.gateway.url}/api/queue", headers={"Authorization": "Bearer wrong"}) as answer:
        assert answer.status == 401


def is_filled(prometheus: PrometheusServer, panel: dict[str, Any]) -> bool:
    """Whether one of its expressions has a figure, as Grafana would ask for it."""
    expressions = [target["expr"] for target in panel["targets"]]
    ready = [text.replace("$job", ".*").replace("$__rate_interval", "30s") for text in expressions]
    return any(not math.isnan(float(one["value"][1])) for text in ready for one in prometheus.ask(text))
