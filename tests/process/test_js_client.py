"""The client in JavaScript: small, typed, and at home on a network that fails."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.patience import until
from tests.process.programs import Server
from tests.process.served import served
from tests.services import free_port
from tests.services.programs import packages, program
from tests.services.tcp_proxy import TcpProxy
from turnkeep.simulator import Simulator, StreamPace, serve

pytestmark = pytest.mark.xdist_group("js client")  # they share packages that one installs

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "js"
DRIVERS = ROOT / "tests" / "clients" / "library"


@pytest.fixture(scope="module")
def node() -> str:
    """Node, with the packages of the drivers, and ours as npm would install it."""
    packages(DRIVERS)
    place = DRIVERS / "node_modules" / "turnkeep-client"
    place.mkdir(exist_ok=True)
    for name in ("package.json", *json.loads((CLIENT / "package.json").read_text())["files"]):
        shutil.copy(CLIENT / name, place)
    return program("node")


@contextlib.asynccontextmanager
async def driver(node: str, name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(node, str(DRIVERS / name), *arguments, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def told_by(process: asyncio.subprocess.Process) -> dict[str, Any]:
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    told: dict[str, Any] = json.loads(out)
    return told


def test_it_is_small_and_needs_nothing(proof: Callable[[str, str], None]) -> None:
    size = {name: len(gzip.compress((CLIENT / name).read_bytes())) for name in ("turnkeep.js", "react.js")}
    proof("js client", " | ".join(f"{name} {count / 1000:.1f} kB gzipped" for name, count in size.items()))
    assert size["turnkeep.js"] <= 8_000
    assert "import " not in (CLIENT / "turnkeep.js").read_text().replace("// ", "")
    assert "dependencies" not in json.loads((CLIENT / "package.json").read_text())


def test_a_program_in_typescript_type_checks(node: str) -> None:
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.iterable"]
    compiler = str(DRIVERS / "node_modules" / "typescript" / "bin" / "tsc")
    command = [node, compiler, *options, "--skipLibCheck", str(DRIVERS / "sample.ts")]
    done = subprocess.run(command, cwd=DRIVERS, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout) == (0, "")


async def test_a_page_shows_what_is_said_and_sends_what_an_earlier_page_has_left(node: str) -> None:
    async with served() as there, driver(node, "page.mjs", there.url) as process:
        told = await told_by(process)
    assert told["grew"] >= 2
    assert [role for role, *_ in told["live"]] == ["user", "assistant", "user", "user", "assistant"]
    assert {state for role, _, state in told["live"] if role == "user"} == {"answered"}
    assert told["live"][-1][1] == "second\nthird"
    assert told["reloaded"][-1] == ["assistant", "fourth"]
    assert [text for _, text in told["reloaded"][:5]] == [text for _, text, _ in told["live"]]
    assert told["outbox"] == 0


async def test_a_page_ends_with_the_same_whatever_comes_first_transcript_or_frames(node: str) -> None:
    async with driver(node, "orders.mjs") as process:
        told = await told_by(process)
    assert told["count"] > 1000
    assert told["wrong"] == []
    assert json.loads(told["wanted"])[0] == [
        ["user", "one", "answered"], ["assistant", "first", None], ["user", "two", "answered"],
        ["assistant", "same", None], ["assistant", "same", "ann"], ["user", "four", "dead"],
        ["user", "five", "answered"], ["assistant", "same", "ann"],
    ]  # fmt: skip


async def test_a_lost_answer_is_asked_for_again_only_where_that_makes_nothing_twice(node: str) -> None:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split()[1].decode())
        if asked.count(asked[-1]) > 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, driver(node, "lost.mjs", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as process:
        told = await told_by(process)
    assert told == {"made": "outcome_unknown", "cancelled": {}}
    assert asked == ["/api/threads", "/api/channels/c/cancel", "/api/channels/c/cancel"]


async def test_only_a_message_that_was_sent_before_is_asked_after(node: str) -> None:
    async with served() as there, TcpProxy("127.0.0.1", URL(there.url).port or 0) as proxy:
        proxy.cut_before_reply(b"GET /api/channels/c/messages")  # each such request is a cut
        for cuts in (0, 1):
            async with driver(node, "ask.mjs", f"http://127.0.0.1:{proxy.port}") as process:
                assert await told_by(process) == {"answer": "fine", "repeated": bool(cuts)}
            assert proxy.cuts == cuts


def open_streams(folder: Path) -> set[str]:
    """The channels whose streams the page has had open."""
    names = folder / "storage.live"
    return set(names.read_text().splitlines()) if names.exists() else set()


@pytest.mark.prove
@pytest.mark.timeout(3000)
async def test_what_a_closed_page_has_left_is_answered_once_and_each_stream_is_whole_through_every_kill(
    node: str, tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    kills, channels, each = size(1, 50), size(4, 100), size(6, 100)
    source, port, meanwhile = random.Random(6), free_port(), 0
    arguments = (f"http://127.0.0.1:{port}", str(tmp_path / "storage"), str(channels), str(each))
    async with driver(node, "burst.mjs", "write", *arguments) as process:
        assert await process.wait() == 0

    quick = {f"TURNKEEP_{name}_RATE": "0" for name in ("CHANNEL", "USER", "TENANT", "REQUEST", "TENANT_REQUEST")}
    async with (
        serve(Simulator(pace=StreamPace(first=0.05, token=0.1))) as model,
        aiohttp.ClientSession() as http,
    ):
        environment = {**quick, "TURNKEEP_WINDOW": "0.2", "TURNKEEP_MAX_BATCH": "2", "OPENAI_BASE_URL": model,
                       "OPENAI_API_KEY": "sk-test", "TURNKEEP_MODEL_API": "responses"}  # fmt: skip
        server = Server(["dev"], tmp_path, environment, port=port)
        try:
            async with driver(node, "burst.mjs", "read", *arguments) as process, asyncio.timeout(size(110, 2900)):
                telling = asyncio.ensure_future(told_by(process))
                for number in range(kills + 1):
                    server.start()
                    await server.answers(http)
                    if number < kills:
                        await until(lambda: len(open_streams(tmp_path)) == channels)
                        await asyncio.sleep(source.uniform(0, size(1, 20) * 0.3))
                        meanwhile += not telling.done()
                        await asyncio.to_thread(server.kill9)
                told = await telling
        finally:
            server.kill9()
    proof(
        "js client",
        f"kills {kills}, {meanwhile} of them before the end | "
        f"sent {channels * each} | settled {told['settled']} | twice {told['twice']} | "
        f"streams torn {told['torn']} | frames twice {told['repeats']} | left in the outbox {told['left']}",
    )
    wanted = {"settled": channels * each, "twice": 0, "torn": 0, "repeats": 0, "left": 0, "refused": 0}
    assert {name: told[name] for name in wanted} == wanted
    assert told["away"] > 0
