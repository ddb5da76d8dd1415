"""Under load for a while: memory, tasks, descriptors and the database stay within their bounds."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.patience import PATIENCE
from tests.process.programs import Server
from turnkeep.simulator import Simulator, serve


class Watch:
    """Readings of a process, once a second."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._folder = folder
        self.rss: list[float] = []
        self.descriptors: list[int] = []
        self.database: list[int] = []

    async def run(self) -> None:
        while True:
            status = (self._proc / "status").read_text()
            kilobytes = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
            self.rss.append(int(kilobytes) / 1024)
            self.descriptors.append(len(os.listdir(self._proc / "fd")))
            self.database.append(sum(f.stat().st_size for f in self._folder.glob("turnkeep.db*") if f.is_file()))
            await asyncio.sleep(1)


async def talk(
    server: Server, http: aiohttp.ClientSession, number: int, source: random.Random, done: asyncio.Event
) -> int:
    """One person: bursts, sometimes a stop, always reading along; answers heard."""
    heard = 0
    async with http.ws_connect(f"{server.url}/ws", max_msg_size=0) as socket:
        turn = 0
        while not done.is_set():
            channel = f"c{number}-{turn // 20}"
            if turn % 20 == 0:
                await socket.send_str(json.dumps({"action": "subscribe", "channel": channel}))
            size = source.randint(1, 3)
            for place in range(size):
                message = {"channel": channel, "message_id": f"{turn}-{place}", "message": f"turn {turn} [[words:30]]"}
                await socket.send_str(json.dumps(message))
            if source.random() < 0.1:
                await socket.send_str(json.dumps({"action": "cancel", "channel": channel}))
            heard += await answered(socket, f"{turn}-{size - 1}")
            turn += 1
            await asyncio.sleep(source.uniform(0, 0.5))
    return heard


async def answered(socket: aiohttp.ClientWebSocketResponse, message_id: str) -> int:
    async with asyncio.timeout(PATIENCE):
        async for received in socket:
            frame = json.loads(received.data)
            if frame.get("final_message") and message_id in frame.get("message_ids", ()):
                return 1
            assert frame["type"] != "error", frame
    return 0


async def at_rest(server: Server, http: aiohttp.ClientSession) -> Any:
    """The counts once nothing is open: what came behind a turn that was stopped has one of its own."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with http.get(f"{server.url}/api/queue") as told:
                counts = await told.json()
            if not counts["details"]["open_messages"]:
                return counts
            await asyncio.sleep(0.05)


@pytest.mark.prove
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_busy_server_stays_within_its_bounds(
    tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    seconds, people = size(6, 600), size(6, 20)
    async with serve(Simulator()) as model, aiohttp.ClientSession() as http:
        server = Server(["dev"], tmp_path, {
            "OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-test", "TURNKEEP_MODEL_API": "responses",
            "TURNKEEP_WINDOW": "0.05", "TURNKEEP_MAX_WAIT": "0.2", "TURNKEEP_CHANNEL_RATE": "0",
            "TURNKEEP_USER_RATE": "0", "TURNKEEP_LOG_LEVEL": "warning", "TURNKEEP_THREAD_EXPIRY": "60",
        })  # fmt: skip
        server.start()
        try:
            await server.answers(http)
            assert server.process is not None
            watch, done = Watch(server.process.pid, tmp_path / ".turnkeep"), asyncio.Event()
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(watch.run())
                talking = [group.create_task(talk(server, http, n, random.Random(n), done)) for n in range(people)]
                await asyncio.sleep(seconds)
                done.set()
                await asyncio.wait(talking)
                watching.cancel()
            answers = sum(task.result() for task in talking)
            await asyncio.sleep(size(0, 20))  # kept-alive connections to the model end by themselves
            counts = await at_rest(server, http)
            left = len(os.listdir(f"/proc/{server.process.pid}/fd"))
            problems = server.log
        finally:
            server.kill9()
    third = len(watch.rss) // 3
    second, last = statistics.mean(watch.rss[third : 2 * third]), statistics.mean(watch.rss[2 * third :])
    growth = (last / second - 1) * 100
    proof(
        "soak",
        f"{seconds} s | answers {answers} | rss second third {second:.1f} MB | last third {last:.1f} MB "
        f"| growth {growth:+.1f} % | "
        f"descriptors {max(watch.descriptors)} busy, {left} after | database {watch.database[-1] / 1e6:.1f} MB | "
        f"open messages {counts['details']['open_messages']} | dead {counts['failedCount']}",
    )
    assert growth < size(60, 5)
    assert left <= watch.descriptors[0] + 10
    assert (counts["details"]["open_messages"], counts["failedCount"]) == (0, 0)
    assert "Task was destroyed" not in problems
    assert "never retrieved" not in problems
