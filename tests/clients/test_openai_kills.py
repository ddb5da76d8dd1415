"""The server is killed while OpenAI's clients hear an answer: what they have in the end is what the transcript has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clients.node import Driver, driver, python_driver
from tests.process.programs import Server, running
from turnkeep.simulator import Simulator, serve

pytestmark = pytest.mark.slow

ANSWER = "[[words:60]] [[pace:15]]"
DOORS = ("chat", "respond", "assist")


@asynccontextmanager
async def program_of(client: str) -> AsyncIterator[tuple[Driver, int]]:
    language, _, major = client.partition("-")
    starting = (
        driver("openai", "doors.mjs") if language == "node" else python_driver("openai", "doors.py", older=major == "1")
    )
    async with starting as program:
        yield program, int(major)


class Listener:
    """A client that hears answers of a server that is killed."""

    def __init__(self, program: Driver, server: Server, http: aiohttp.ClientSession, **about: Any) -> None:
        self._program, self._server, self._http = program, server, http
        self._about = {"url": server.url, "stream": True, "patient": True, **about}
        self.model = ""

    async def begin(self) -> None:
        await self._server.answers(self._http)
        (self.model,) = await self._program.ask("models", **{k: self._about[k] for k in ("url", "major")})

    async def hear(self, door: str, mark: str, kill_after: int) -> tuple[str, str]:
        """What the client has of an answer, and what the transcript has."""
        asking = asyncio.ensure_future(self._ask(door, mark))
        while not asking.done() and await self._program.ask("progress", mark=mark) < kill_after:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self._server.kill9)
        self._server.start()
        await self._server.answers(self._http)
        told = await asking
        if door == "assist":
            mark = told["thread"]
            assert told["status"] == "completed"
        text = told["messages"][-1][1] if door == "assist" else told["text"]
        return text, await self._transcript(mark)

    async def _ask(self, door: str, mark: str) -> Any:
        about = {**self._about, "mark": mark}
        if door == "chat":
            messages = [{"role": "user", "content": ANSWER}]
            return await self._program.ask("chat", model=self.model, messages=messages, key=mark, **about)
        if door == "respond":
            return await self._program.ask(
                "respond", model=self.model, input=ANSWER, key=mark, background=True, **about
            )
        return await self._program.ask("assist", assistant=self.model, texts=[ANSWER], **about)

    async def _transcript(self, channel: str) -> str:
        async with self._http.get(f"{self._server.url}/api/channels/{channel}/messages") as told:
            items = (await told.json())["items"]
        (text,) = [item["text"] for item in items if item["kind"] == "assistant"]
        return str(text)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "client",
    [
        pytest.param("node-4", marks=pytest.mark.only_in_prove),  # the newest one shows the kind daily
        "node-7",
        pytest.param("python-1", marks=pytest.mark.only_in_prove),  # as above
        pytest.param("python-3", marks=pytest.mark.only_in_prove),  # as above; test_openai_clients asks it daily
    ],
)
async def test_the_client_has_what_the_transcript_has_wherever_the_server_dies(
    client: str, tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    points, source, wrong = size(3, 60), random.Random(client), 0
    simulator = Simulator()
    async with serve(simulator) as model, program_of(client) as (program, major), aiohttp.ClientSession() as http:
        environment = {
            "OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-test", "TURNKEEP_MODEL_API": "responses",
            "TURNKEEP_WINDOW": "0.02", "TURNKEEP_MAX_DEATHS": "100",
        }  # fmt: skip
        server = Server(["serve"], tmp_path, environment)
        async with running(server):
            listener = Listener(program, server, http, major=major)
            await listener.begin()
            for point in range(points):
                kill_after = source.randrange(1, 12)
                text, kept = await listener.hear(DOORS[point % len(DOORS)], f"p{point}", kill_after)
                wrong += text != kept
    proof(f"openai {client} through kills", f"kills {points} | answers unlike the transcript {wrong}")
    assert wrong == 0
