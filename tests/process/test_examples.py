"""The examples do what they say: run as they are, against a service with a simulator behind it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import expect

from tests.contract.broker import Broker, broker
from tests.patience import PATIENCE, until
from tests.process.browser import browsing, new_page
from tests.process.served import Served, served
from tests.services import RabbitServer, free_port
from tests.services.programs import packages, program

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def node() -> str:
    return program("node")


@pytest.fixture(scope="session")
def built(node: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples with their packages from npm, compiled: once for all workers, in the folder above theirs."""
    packages(EXAMPLES)
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    place = shared / "examples"
    with (shared / "examples.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not (place / "compiled").exists():
            compile_examples(node, place)
    return place


def compile_examples(node: str, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)  # what another worker left that failed in the middle
    shutil.copytree(EXAMPLES, place, ignore=shutil.ignore_patterns("node_modules"))
    (place / "node_modules").symlink_to(EXAMPLES / "node_modules")
    compiler = str(place / "node_modules" / "typescript" / "bin" / "tsc")
    done = subprocess.run([node, compiler], cwd=place, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout
    (place / "compiled").touch()


@pytest.fixture
async def rabbit(rabbit_server: RabbitServer, amqp_name: str) -> AsyncIterator[Broker]:
    async with broker(rabbit_server.url(), amqp_name) as client:
        yield client


async def run(*command: str, **environment: str) -> str:
    """The output of a program that ends well."""
    process = await _start(command, environment)
    try:
        async with asyncio.timeout(PATIENCE):
            out, errors = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def _start(command: tuple[str, ...], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    values = {"PATH": os.environ["PATH"], **environment}
    return await asyncio.create_subprocess_exec(*command, env=values, stdout=pipe, stderr=pipe)


def names(rabbit: Broker) -> dict[str, str]:
    """As variables."""
    return {name.upper(): value for name, value in rabbit.names.items()}


def settings(rabbit: Broker) -> dict[str, Any]:
    return dict(rabbit.names)


# ---------------------------------------------------------------- producers


async def test_a_plain_producer_publishes_a_message_that_is_answered(rabbit: Broker) -> None:
    async with served(**settings(rabbit)) as server:
        await until(lambda: _bound(rabbit))
        message_id = await run(sys.executable, str(EXAMPLES / "producer.py"), "c", "hello", **names(rabbit))
        await until(lambda: _answered(server, "c", message_id.strip()))


async def test_a_convex_action_is_well_typed_and_what_it_publishes_is_answered(
    built: Path, node: str, rabbit: Broker
) -> None:
    async with served(**settings(rabbit)) as server:
        await until(lambda: _bound(rabbit))
        program = str(built / "dist/convex/main.js")
        for _ in range(2):
            await run(node, program, "convex_id_12345", "message_id_1", "hello", **names(rabbit))
        await until(lambda: _answered(server, "convex_id_12345", "message_id_1"))
        counts = await server.queue.store.counts()
        assert counts.completed == 1


async def _bound(rabbit: Broker) -> bool:
    try:
        return await rabbit.waiting(rabbit.names["queue_name"]) == 0
    except rabbit.absent:
        return False


async def _answered(server: Served, channel: str, message_id: str) -> bool:
    record = await server.queue.store.message(server.queue.address(channel), message_id)
    return record is not None and record.status == "answered"


# ---------------------------------------------------------------- clients on Node


@pytest.mark.parametrize("way", ["events", "socket"])
async def test_a_client_with_nothing_but_node_shows_the_growing_answer(node: str, way: str) -> None:
    async with served() as server:
        flags, option = (["--experimental-websocket", "--no-warnings"], ["--socket"]) if way == "socket" else ([], [])
        program = [node, *flags, str(EXAMPLES / "node/chat.mjs"), *option]
        assert await run(*program, "c", "hello [[say:good morning to you]]", TURNKEEP_URL=server.url) == (
            "good morning to you\n"
        )


@pytest.mark.timeout(180)
async def test_an_express_application_sends_streams_and_answers(built: Path, node: str) -> None:
    port = free_port()
    async with served() as server, aiohttp.ClientSession() as http:
        environment = {"TURNKEEP_URL": server.url, "PORT": str(port)}
        process = await _start((node, str(built / "express/server.mjs")), environment)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE):
                assert b"listening" in await process.stdout.readline()
            base = f"http://127.0.0.1:{port}/chat/c"
            async with http.get(f"{base}/stream") as stream:
                assert await stream.content.readline() == b"retry: 1000\n"
                async with http.post(base, json={"text": "hello [[say:good morning]]", "id": "m1"}) as told:
                    assert told.status == 202
                    assert (await told.json())["message_id"] == "m1"
                async with asyncio.timeout(PATIENCE):
                    while b"good morning" not in await stream.content.readline():
                        pass
            async with http.get(f"{base}/answer", params={"text": "again [[say:good evening]]"}) as told:
                assert await told.json() == {"answer": "good evening"}
        finally:
            process.kill()
            await process.wait()


async def test_a_nest_provider_sends_and_hears_the_answer(built: Path, node: str) -> None:
    async with served() as server:
        program = str(built / "dist/nestjs/main.js")
        said = await run(
            node, "--experimental-websocket", "--no-warnings", program, "c", "hi [[say:hello]]", TURNKEEP_URL=server.url
        )
        assert said == "hello\n"


# ---------------------------------------------------------------- a browser


WATCH = """() => {
  window.shown = [];
  const answer = document.getElementById("answer");
  new MutationObserver(() => shown.push(answer.textContent)).observe(answer, { childList: true });
}"""


async def test_a_browser_client_shows_the_growing_answer_and_the_final_text(chromium_path: Path) -> None:
    assert len((EXAMPLES / "browser.html").read_text().splitlines()) <= 30
    async with served(origins=("null",)) as server, browsing(chromium_path) as browser:
        page = await new_page(browser)
        socket = server.url.replace("http", "ws") + "/ws"
        await page.goto(f"{(EXAMPLES / 'browser.html').as_uri()}?server={socket}&channel=c")
        await page.wait_for_function("socket.readyState === WebSocket.OPEN", timeout=PATIENCE * 1000)
        await page.evaluate(WATCH)
        await page.fill("#text", "tell me [[words:40]] [[pace:50]]")
        await page.press("#text", "Enter")
        await expect(page.locator("#answers p")).to_have_count(1, timeout=PATIENCE * 1000)
        await expect(page.locator("#answer")).to_be_empty()
        final = await page.locator("#answers p").text_content() or ""
        assert len(final.split()) == 40
        grown = [text for text in await page.evaluate("shown") if text]
        assert len(set(grown)) >= 2
        assert all(longer.startswith(text) for text, longer in pairwise([*grown, final]))
