"""`turnkeep serve --processes N`: one port, several processes, and nothing lost when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import FULL
from tests.patience import PATIENCE, until
from tests.process.programs import Program, Server
from tests.services import RedisServer, lives

COUNT = 3 if FULL else 2
PEOPLE, TURNS = 6, 3
QUIET = {"TURNKEEP_WINDOW": "0.05", "TURNKEEP_LEASE": "2", "TURNKEEP_CHANNEL_RATE": "0", "TURNKEEP_USER_RATE": "0"}
pytestmark = [
    pytest.mark.xdist_group("several processes"),  # they share a service
    pytest.mark.prove,  # of three processes: every day there are two
]

RUNS = re.compile(r'^turnkeep_runs_total\{verdict="commit"\} (\S+)$', re.MULTILINE)


class SeveralProcesses(Server):
    """The parent; `children` are asked of the system."""

    @property
    def children(self) -> set[int]:
        assert self.process is not None
        return children_of(self.process.pid)

    async def serves(self, http: aiohttp.ClientSession, count: int = COUNT) -> None:
        """Wait until so many children have opened everything."""
        async with asyncio.timeout(PATIENCE):
            while self.log.count("listening on") < 1:
                assert self.process is not None
                assert self.process.poll() is None, self.log[-2000:]
                await asyncio.sleep(0.05)
            while len(self.children) != count:
                await asyncio.sleep(0.05)
        await self.answers(http)


def children_of(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return set()


@pytest.fixture(
    scope="module",
    # reason: of processes on one Redis tells test_roles every day
    params=["sqlite", pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.only_in_prove])],
)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeveralProcesses]:
    environment = dict(QUIET)
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_process")
        environment["REDIS_URL"] = redis.fresh().url()
    folder = tmp_path_factory.mktemp(f"several-{request.param}")
    server = SeveralProcesses(["serve", "--processes", str(COUNT), "--simulator"], folder, environment)
    server.start()
    yield server
    server.send(signal.SIGTERM)
    assert server.wait() == 0, server.log[-2000:]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    # a connection for each request: the next one may be taken by another process
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


async def send(service: Server, http: aiohttp.ClientSession, channel: str, message_id: str) -> None:
    """As clients do: again under the same id until there is a receipt."""
    body = {"message_id": message_id, "message": "hello [[words:5]] [[pace:20]]"}
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.post(f"{service.url}/api/channels/{channel}/messages", json=body) as told:
                    if told.status in (200, 202):
                        return
            await asyncio.sleep(0.02)


async def ask(service: Server, http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(f"{service.url}{path}") as told:
        assert told.status == 200
        return await (told.json() if path.startswith("/api") else told.text())


async def runs_shown(service: Server, http: aiohttp.ClientSession) -> float:
    found = RUNS.search(await ask(service, http, "/metrics"))
    return float(found[1]) if found else 0.0


async def answered(service: Server, http: aiohttp.ClientSession, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await ask(service, http, "/api/queue"))["completedCount"] < count:
            await asyncio.sleep(0.05)


async def test_a_process_that_is_killed_under_load_loses_nothing(
    service: SeveralProcesses, http: aiohttp.ClientSession
) -> None:
    await service.serves(http)
    before, done = service.children, (await ask(service, http, "/api/queue"))["completedCount"]
    victim = min(before)

    async def person(number: int) -> None:
        for turn in range(TURNS):
            await send(service, http, f"k{number}", f"k{number}-{turn}")
            if (number, turn) == (3, 1):
                signal_to(victim, signal.SIGKILL)

    await asyncio.gather(*[person(number) for number in range(PEOPLE)])
    await answered(service, http, done + PEOPLE * TURNS)
    await until(lambda: len(service.children) == COUNT and victim not in service.children)
    for number in range(PEOPLE):
        entries = await transcript(service, http, f"k{number}")
        said = [entry["message_id"] for entry in entries if entry["kind"] == "user"]
        assert said == [f"k{number}-{turn}" for turn in range(TURNS)]
        assert entries[-1]["kind"] == "assistant"
    assert (await ask(service, http, "/api/queue"))["completedCount"] == done + PEOPLE * TURNS
    assert before - {victim} <= service.children


async def transcript(service: Server, http: aiohttp.ClientSession, channel: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = (await ask(service, http, f"/api/channels/{channel}/messages"))["items"]
    return entries


async def test_a_scrape_tells_of_all_processes_also_of_those_that_have_ended(
    service: SeveralProcesses, http: aiohttp.ClientSession
) -> None:
    await service.serves(http)
    begun = await runs_shown(service, http)
    for number in range(6):
        await send(service, http, f"s{number}", f"s{number}")
    await until_shown(service, http, begun + 6)
    assert {await runs_shown(service, http) for _ in range(8)} == {begun + 6}
    victim = min(service.children)
    signal_to(victim, signal.SIGKILL)
    await until(lambda: len(service.children) == COUNT and victim not in service.children)
    await service.answers(http)
    assert await runs_shown(service, http) == begun + 6


async def until_shown(service: Server, http: aiohttp.ClientSession, runs: float) -> None:
    async with asyncio.timeout(PATIENCE):
        while await runs_shown(service, http) < runs:
            await asyncio.sleep(0.05)


async def test_a_hangup_exchanges_all_processes_while_messages_are_taken(
    service: SeveralProcesses, http: aiohttp.ClientSession
) -> None:
    await service.serves(http)
    before, refused, count = service.children, Counter[int](), 0
    service.send(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE):
        while before & service.children:
            body = {"message_id": f"h{count}", "message": "hello"}
            # a connection that waited in the old process when it closed may be cut: it is made again, as by any client
            with contextlib.suppress(aiohttp.ClientError):
                async with http.post(f"{service.url}/api/channels/h{count}/messages", json=body) as told:
                    refused[told.status] += told.status not in (200, 202)
            count += 1
            await asyncio.sleep(0.02)
    assert +refused == Counter()
    assert count > 0
    await until(lambda: len(service.children) == COUNT)
    await service.answers(http)


def signal_to(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)


async def test_a_parent_that_is_killed_leaves_nobody_behind(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    server = SeveralProcesses(["serve", "--processes", "2", "--simulator"], tmp_path, QUIET)
    server.start()
    await server.serves(http, 2)
    orphans = server.children
    server.kill9()
    await until(lambda: not any(map(lives, orphans)))


async def test_a_second_signal_ends_all_at_once(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    server = SeveralProcesses(["serve", "--processes", "2", "--simulator"], tmp_path, {**QUIET, "TURNKEEP_DRAIN": "50"})
    server.start()
    await server.serves(http, 2)
    children = server.children
    await send_long(server, http)
    server.send(signal.SIGTERM)
    await until(lambda: server.log.count('"draining"') >= 1)
    server.send(signal.SIGTERM)
    server.wait()
    await until(lambda: not any(map(lives, children)))


async def send_long(server: Server, http: aiohttp.ClientSession) -> None:
    body = {"message_id": "long", "message": "[[words:400]] [[pace:100]]"}
    async with http.post(f"{server.url}/api/channels/long/messages", json=body) as told:
        assert told.status == 202
    async with asyncio.timeout(PATIENCE):
        while (await ask(server, http, "/api/queue"))["activeCount"] < 1:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TURNKEEP_STORE": "memory:"}, "several processes share nothing in memory"),
        ({"TURNKEEP_AUTH": "on"}, "credentials are asked for, but no model is set"),
    ],
    ids=["memory", "what a child refuses"],
)
def test_what_is_set_up_wrongly_is_said_once_and_ends_the_service(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    program = Program(["serve", "--processes", "3", "--port", "0"], tmp_path, environment)
    program.start()
    assert program.wait() == 2
    assert program.log.count(words) == 1
