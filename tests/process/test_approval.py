"""A call waits for its approval through the death of everybody, and runs once when it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.patience import PATIENCE
from tests.process.command import Desk
from tests.process.programs import Program, Server
from tests.services.forks import start_python
from turnkeep.simulator import Simulator, StreamPace, serve

TOOLS = """
import os
from turnkeep.tools import tool

@tool(needs_approval=True)
def send_letter(to: str) -> str:
    "Send somebody a letter."
    with open({ledger!r}, "a") as ledger:
        ledger.write(to + "\\n")
    return f"sent to {{to}}"
"""

LATER = """
import runpy, sys, time
now = time.time
time.time = lambda: now() + 3600
sys.argv[0] = "turnkeep"
runpy.run_module("turnkeep", run_name="__main__")
"""
"""The program on a machine whose clock is an hour ahead. (Redis has a clock of its own, which stays.)"""

Call = dict[str, Any]
Decide = Callable[[aiohttp.ClientSession, Server, Call], Awaitable[None]]


class House:
    """The programs on one store, and what they share."""

    def __init__(self, place: str, model_url: str, folder: Path) -> None:
        tools = folder / "letters.py"
        self.ledger = folder / "ledger"
        self.ledger.touch()
        tools.write_text(TOOLS.format(ledger=str(self.ledger)))
        self.settings = {
            "TURNKEEP_STORE": place, "OPENAI_BASE_URL": model_url, "OPENAI_API_KEY": "sk-test",
            "TURNKEEP_MODEL_API": "responses", "TURNKEEP_WINDOW": "0.1", "TURNKEEP_LEASE": "2",
        }  # fmt: skip
        self.folder = folder
        self.tools = ["--tools", str(tools)]

    def programs(self, name: str) -> tuple[Server, Program]:
        """A gateway and a worker, in directories of their own."""
        for role in ("gateway", "worker"):
            (self.folder / f"{name} {role}").mkdir()
        gateway = Server(["serve", "--role", "gateway", *self.tools], self.folder / f"{name} gateway", self.settings)
        return gateway, Program(["worker", *self.tools], self.folder / f"{name} worker", self.settings)

    async def type(self, *arguments: str) -> str:
        """A command that is typed in a process of its own."""
        said = await asyncio.to_thread(Desk(self.folder, self.settings).run, *arguments)
        assert said.code == 0, said.err
        return said.out

    async def type_later(self, *arguments: str) -> None:
        """The same an hour later."""
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", LATER, *arguments], cwd=self.folder, capture_output=True, text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.settings}, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


class LaterProgram(Program):
    def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment}
        program = ["-c", LATER, *self.arguments]
        self.process = start_python(program, self.folder, environment, log=self.folder / "log")


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'turnkeep.db'}"
    return str(request.getfixturevalue("redis_server").url())


@contextlib.asynccontextmanager
async def waiting(place: str, folder: Path) -> AsyncIterator[tuple[House, Simulator, aiohttp.ClientSession, Call]]:
    """A house in which a call waits for its approval, and everybody who was at work is dead."""
    simulator = Simulator(pace=StreamPace(first=0.01, token=0.002))
    async with serve(simulator) as model_url, aiohttp.ClientSession() as http:
        house = House(place, model_url, folder)
        gateway, worker = house.programs("first")
        gateway.start()
        worker.start()
        try:
            await gateway.answers(http)
            body = {"message": '[[call:send_letter {"to": "Ana"}]]', "message_id": "m1"}
            async with http.post(f"{gateway.url}/api/channels/c/messages", json=body) as told:
                assert told.status == 202
            await until_held(http, gateway)
            calls = await house.type("actions", "list", "--json")
        finally:
            worker.kill9()
            gateway.kill9()
        yield house, simulator, http, json.loads(calls)


async def until_held(http: aiohttp.ClientSession, gateway: Server) -> None:
    async with asyncio.timeout(PATIENCE), http.get(f"{gateway.url}/api/channels/c/events") as events:
        async for line in events.content:
            if b'"calls"' in line:
                return


async def answered(house: House) -> list[dict[str, Any]]:
    """The transcript, when the message is answered."""
    async with asyncio.timeout(PATIENCE):
        while not house.ledger.read_text():
            await asyncio.sleep(0.1)
        while '"answered"' not in (traced := await house.type("trace", "m1", "--json")):
            await asyncio.sleep(0.1)
    assert json.loads(traced)["message"]["status"] == "answered"
    return list(json.loads(await house.type("threads", "show", "c", "--json"))["items"])


@pytest.mark.parametrize(
    "place",
    ["sqlite", pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.only_in_prove])],  # Redis: the next test
    indirect=True,
)
@pytest.mark.prove
async def test_an_approval_an_hour_later_from_another_process_goes_on_once(
    place: str, tmp_path: Path, proof: Callable[[str, str], None]
) -> None:
    async with waiting(place, tmp_path) as (house, simulator, _, call):
        assert house.ledger.read_text() == ""
        await house.type_later("actions", "approve", "c", call["call_id"], "--by", "Bea")
        _, ordinary = house.programs("second")
        worker = LaterProgram(ordinary.arguments, ordinary.folder, ordinary.environment)
        worker.start()
        try:
            items = await answered(house)
        finally:
            worker.kill9()
        assert house.ledger.read_text() == "Ana\n"
        assert [item["kind"] for item in items] == ["user", "call", "output", "assistant"]
        assert simulator.ledger.twice_within_a_request() == []
    when = "an hour later" if place.startswith("sqlite") else "later"
    proof(
        f"approval ({place.partition(':')[0]})",
        f"asked | gateway and worker killed | approved {when} by another process | letters sent 1",
    )


async def over_http(http: aiohttp.ClientSession, gateway: Server, call: Call) -> None:
    body = {"decision": "approved", "digest": call["digest"]}
    async with http.post(f"{gateway.url}/api/channels/c/actions/{call['call_id']}", json=body) as told:
        assert told.status == 200, await told.text()


async def over_the_socket(http: aiohttp.ClientSession, gateway: Server, call: Call) -> None:
    async with http.ws_connect(f"{gateway.url}/ws") as socket:
        await socket.send_json({"action": "decide", "channel": "c", "decision": "approved", **call_of(call)})
        async with asyncio.timeout(PATIENCE):
            assert (await socket.receive_json())["type"] != "error"


def call_of(call: Call) -> Call:
    return {"call_id": call["call_id"], "digest": call["digest"]}


async def test_a_new_gateway_takes_the_approval(place: str, tmp_path: Path) -> None:
    decide: Decide = over_http if place.startswith("sqlite") else over_the_socket
    async with waiting(place, tmp_path) as (house, _, http, call):
        gateway, worker = house.programs("second")
        gateway.start()
        worker.start()
        try:
            await gateway.answers(http)
            await decide(http, gateway, call)
            await answered(house)
        finally:
            worker.kill9()
            gateway.kill9()
        assert house.ledger.read_text() == "Ana\n"
