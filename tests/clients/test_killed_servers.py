"""A server is killed in the middle of a stream: what every client ends with is what the transcript has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clients.node import Driver
from tests.patience import PATIENCE
from tests.process.programs import Server
from turnkeep.simulator import Simulator, StreamPace, serve

MAJORS = [5, 6, 7]
WORDS = 120
QUICK = {
    "TURNKEEP_WINDOW": "0.1", "TURNKEEP_MAX_WAIT": "0.5", "TURNKEEP_CHANNEL_RATE": "0", "TURNKEEP_USER_RATE": "0",
    "OPENAI_API_KEY": "sk-test", "TURNKEEP_MODEL_API": "responses",
}  # fmt: skip


@asynccontextmanager
async def killable(folder: Path, http: aiohttp.ClientSession) -> AsyncIterator[Server]:
    """A server of one process on SQLite, with a model that talks slowly."""
    async with serve(Simulator(pace=StreamPace(first=0.05, token=0.03))) as model:
        server = Server(["dev"], folder, {**QUICK, "OPENAI_BASE_URL": model})
        server.start()
        try:
            await server.answers(http)
            yield server
        finally:
            server.kill9()


async def restarted(server: Server, http: aiohttp.ClientSession) -> None:
    await asyncio.to_thread(server.kill9)
    server.start()
    await server.answers(http)


def text_of(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["parts"] if part["type"] == "text")


async def until_shown(chats: Driver, key: str, length: int) -> None:
    """Until the message was taken in, and so much of its answer is shown."""
    async with asyncio.timeout(PATIENCE):
        while True:
            told = await chats.ask("look", key=key)
            answers = [message for message in told["messages"] if message["role"] == "assistant"]
            if told["data"] and sum(len(text_of(answer)) for answer in answers) >= length:
                return
            await asyncio.sleep(0.01)


async def loaded(server: Server, http: aiohttp.ClientSession, chat_id: str) -> list[dict[str, Any]]:
    async with http.get(f"{server.url}/api/chat/{chat_id}") as answer:
        messages: list[dict[str, Any]] = (await answer.json())["messages"]
        return messages


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("chats")
async def test_chats_end_with_what_the_transcript_has_wherever_the_server_was_killed(
    chats: Driver, tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    kills, exact = size(2, 20), 0
    async with aiohttp.ClientSession() as http, killable(tmp_path, http) as server:
        for number in range(kills):
            keys = {major: f"{number}-{major}" for major in MAJORS}
            for major, key in keys.items():
                await chats.ask("open", key=key, major=major, url=server.url, id=key)
            sending = [
                asyncio.ensure_future(chats.ask("send", key=key, id="u1", text=f"[[words:{WORDS}]]"))
                for key in keys.values()
            ]
            # from before the first word to near the last one
            for key in keys.values():
                await until_shown(chats, key, number * WORDS * 5 // kills)
            await restarted(server, http)
            assert [(await one)["status"] for one in sending] == ["error"] * 3
            # at once: who comes back when the answer has ended loads it with the page
            recoveries = [_recovers(chats, server, http, major=major, key=key) for major, key in keys.items()]
            exact += sum(await asyncio.gather(*recoveries))
    proof("chats of killed servers", f"kills {kills} | answers {3 * kills} | equal to the transcript {exact}")
    assert exact == 3 * kills


async def _recovers(chats: Driver, server: Server, http: aiohttp.ClientSession, *, major: int, key: str) -> bool:
    """Goes on where it is (a page that was loaded anew, in major 5), until it has the answer."""
    if major == 5:
        await chats.ask(
            "open", key=f"{key}-again", major=5, url=server.url, id=key, messages=await loaded(server, http, key)
        )
        key, chat_id = f"{key}-again", key
    else:
        chat_id = key
    told = await chats.ask("resume", key=key)
    assert told["status"] == "ready", told["errors"]
    [_, answer] = await loaded(server, http, chat_id)
    assert len(text_of(answer).split()) >= WORDS
    return [m["id"] for m in told["messages"]] == ["u1", answer["id"]] and text_of(told["messages"][1]) == text_of(
        answer
    )


async def seen(agents: Driver, key: str) -> str:
    """The answer as TanStack's client has it."""
    told = await agents.ask("see", key=key)
    answers = [message for message in told["messages"] if message["role"] == "assistant"]
    return "".join(part["content"] for answer in answers for part in answer["parts"] if part["type"] == "text")


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("agents")
async def test_agents_end_with_what_the_transcript_has_wherever_the_server_was_killed(
    agents: Driver, tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    """TanStack's client comes back by itself, with the id of the last event that it has seen."""
    kills, exact = size(2, 20), 0
    async with aiohttp.ClientSession() as http, killable(tmp_path, http) as server:
        for number in range(kills):
            key = f"k{number}"
            await agents.ask("chat", key=key, url=server.url, thread=key)
            sending = asyncio.ensure_future(agents.ask("send", key=key, text=f"[[words:{WORDS}]]"))
            async with asyncio.timeout(PATIENCE):
                while len(await seen(agents, key)) < 1 + number * WORDS * 5 // kills:
                    await asyncio.sleep(0.01)
            await restarted(server, http)
            told = await sending
            answer = await seen(agents, key)
            exact += told["errors"] == [] and answer == text_of((await loaded(server, http, key))[1])
    proof("agents of killed servers", f"kills {kills} | equal to the transcript {exact}")
    assert exact == kills
