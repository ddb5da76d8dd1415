"""The Python examples do what they say: each is started as a program and driven from outside."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
from aiohttp import web

from tests.patience import PATIENCE
from tests.services import free_port
from turnkeep.simulator import Simulator, serve

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass
class Outside:
    """Somebody else's API that is posted to."""

    url: str = ""
    posted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.posted.append((request.path, await request.json()))
        self.news.set()
        return web.json_response({"ok": True})

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.posted) < count:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    there = Outside()
    application = web.Application()
    application.router.add_post("/{path:.*}", there.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", free_port())
    await site.start()
    there.url = site.name
    yield there
    await runner.cleanup()


@pytest.fixture
async def simulator() -> AsyncIterator[tuple[Simulator, dict[str, str]]]:
    """The model, and the environment of a program that asks it."""
    simulator = Simulator()
    async with serve(simulator) as url:
        asked = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-test", "TURNKEEP_MODEL_API": "responses"}
        yield simulator, {"PATH": os.environ["PATH"], **asked}


@contextlib.asynccontextmanager
async def started(name: str, folder: Path, environment: dict[str, str]) -> AsyncIterator[str]:
    """An application under uvicorn in a folder of its own; yields its URL."""
    port = free_port()
    command = ["-m", "uvicorn", f"{name}:app", "--app-dir", str(EXAMPLES), "--port", str(port)]
    program = launched(command, folder, environment)
    try:
        await listening(port, program)
        yield f"http://127.0.0.1:{port}"
        program.terminate()
        assert await asyncio.to_thread(program.wait, 30) in (0, -15)
    finally:
        program.kill()
        program.wait()


def launched(arguments: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, stdout=log, stderr=log)


async def listening(port: int, program: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            assert program.poll() is None, "the example has ended"
            await asyncio.sleep(0.05)


async def test_the_chat_backend_keeps_rooms_apart_and_streams_answers(
    simulator: tuple[Simulator, dict[str, str]], tmp_path: Path
) -> None:
    async with started("fastapi_chat", tmp_path, simulator[1]) as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/rooms/garden", json={"text": "hello"}) as told:
            assert told.status == 401
        async with http.post(f"{url}/login/ann") as told:
            cookie = told.cookies["session"].value
        cookies = {"session": cookie}
        http.cookie_jar.clear()

        async with websockets.connect(
            url.replace("http", "ws") + "/turnkeep/ws", additional_headers={"Cookie": f"session={cookie}"}
        ) as socket:
            await socket.send(json.dumps({"action": "subscribe", "channel": "ann:garden"}))
            assert json.loads(await socket.recv())["status"] == "subscribed"
            await socket.send(json.dumps({"action": "subscribe", "channel": "bob:garden"}))
            assert json.loads(await socket.recv())["code"] == "not_allowed"
            said = [{"text": "one [[say:good morning]]", "message_id": "a"}, {"text": "two", "message_id": "b"}]
            for body in said:
                async with http.post(f"{url}/rooms/garden", json=body, cookies=cookies) as told:
                    assert (told.status, (await told.json())["channel"]) == (202, "ann:garden")
            last = await final(socket, "b")

        assert last["message_ids"] == ["a", "b"]
        async with http.get(f"{url}/rooms/garden", cookies=cookies) as told:
            assert [item["kind"] for item in await told.json()] == ["user", "user", "assistant"]
        async with http.get(f"{url}/rooms/attic", cookies=cookies) as told:
            assert told.status == 404
        async with http.get(f"{url}/turnkeep/api/channels/ann:garden") as told:
            assert told.status == 401


async def final(socket: Any, message_id: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            frame: dict[str, Any] = json.loads(await socket.recv())
            if frame["status"] == "completed" and frame["type"] == "response" and frame["message_id"] == message_id:
                return frame


async def test_a_burst_of_updates_is_answered_to_the_chat_once_though_updates_are_repeated(
    simulator: tuple[Simulator, dict[str, str]], outside: Outside, tmp_path: Path
) -> None:
    telegram = {"TELEGRAM_API": outside.url, "TELEGRAM_TOKEN": "7:t", "TELEGRAM_SECRET": "s3"}
    async with (
        started("telegram_webhook", tmp_path, simulator[1] | telegram) as url,
        aiohttp.ClientSession(headers={"X-Telegram-Bot-Api-Secret-Token": "s3"}) as http,
    ):
        for number in (1, 1, 2, 3, 3):
            update = {"update_id": number, "message": {"chat": {"id": -77}, "text": f"part {number} [[say:all of it]]"}}
            async with http.post(f"{url}/telegram", json=update) as told:
                assert await told.json() == {"ok": True}
        async with http.post(f"{url}/telegram", json={}, headers={"X-Telegram-Bot-Api-Secret-Token": "no"}) as told:
            assert told.status == 403
        await outside.until(1)

        [exchange] = simulator[0].ledger
        assert [text[:6] for text in exchange.new] == ["part 1", "part 2", "part 3"]
        [(path, body)] = outside.posted
        assert (path, body["chat_id"]) == ("/bot7:t/sendMessage", -77)
        assert "all of it" in body["text"]


async def test_who_writes_again_interrupts_the_bot_and_only_the_whole_answer_is_posted(
    simulator: tuple[Simulator, dict[str, str]], outside: Outside, tmp_path: Path
) -> None:
    slack = {"SLACK_API": outside.url, "SLACK_TOKEN": "xoxb-1", "SLACK_SIGNING_SECRET": "s3"}
    async with started("slack_bot", tmp_path, simulator[1] | slack) as url, aiohttp.ClientSession() as http:
        assert await slacked(http, url, {"type": "url_verification", "challenge": "c"}) == (200, {"challenge": "c"})
        assert (await slacked(http, url, {"type": "url_verification"}, secret="other"))[0] == 403
        first = {"type": "message", "channel": "C1", "ts": "1.5", "text": "tell me all [[words:400]] [[pace:20]]"}
        await slacked(http, url, {"type": "event_callback", "event": first})
        async with asyncio.timeout(PATIENCE):
            while not simulator[0].ledger:
                await asyncio.sleep(0.02)
        second = {"type": "message", "channel": "C1", "ts": "2.5", "thread_ts": "1.5", "text": "no [[say:in short]]"}
        await slacked(http, url, {"type": "event_callback", "event": second})
        await outside.until(1)

        assert len(simulator[0].ledger) == 2
        assert outside.posted == [
            ("/chat.postMessage", {"channel": "C1", "thread_ts": "1.5", "text": "in short"}),
        ]


async def slacked(
    http: aiohttp.ClientSession, url: str, body: dict[str, Any], secret: str = "s3"
) -> tuple[int, dict[str, Any]]:
    raw, at = json.dumps(body), str(int(time.time()))
    signature = hmac.new(secret.encode(), f"v0:{at}:{raw}".encode(), hashlib.sha256).hexdigest()
    headers = {"X-Slack-Request-Timestamp": at, "X-Slack-Signature": f"v0={signature}"}
    async with http.post(f"{url}/slack/events", data=raw, headers=headers) as told:
        return told.status, await told.json()


async def test_functions_are_called_and_unknown_ones_come_to_the_handler(
    simulator: tuple[Simulator, dict[str, str]], tmp_path: Path
) -> None:
    text = 'How warm? [[call:get_weather {"location": "Manila"}]] [[call:get_news {}]]'
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "function_calling.py"), text),
        cwd=tmp_path, env=simulator[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        out, errors = await program.communicate()

    assert program.returncode == 0, errors.decode()
    assert "31" in out.decode()
    assert "there is no get_news" in out.decode()
