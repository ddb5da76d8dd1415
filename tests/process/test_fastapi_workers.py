"""One FastAPI application in four processes on one store: a message comes in through one, its run is in whichever has a
slot, sockets are in any, and one of the four is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets

from tests.patience import PATIENCE
from tests.services import free_port
from turnkeep.simulator import Simulator, serve

HERE = Path(__file__).parent


# reason: of processes on one Redis tells test_roles every day
@pytest.fixture(params=["sqlite", pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.only_in_prove])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'turnkeep.db'}"
    return str(request.getfixturevalue("redis_server").url())


@contextlib.asynccontextmanager
async def workers(store: str, model: str, folder: Path) -> AsyncIterator[str]:
    """Four processes behind one port; yields its URL."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"], "TURNKEEP_STORE": store, "OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-test",
        "TURNKEEP_MODEL_API": "responses", "TURNKEEP_LEASE": "2", "TURNKEEP_CHANNEL_RATE": "0",
    }  # fmt: skip
    program = launched(port, folder, environment)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def launched(port: int, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = ["-m", "uvicorn", "fastapi_workers:app", "--app-dir", str(HERE), "--workers", "4", "--port", str(port)]
    # else its supervisor kills who says nothing for five seconds, as a process on a busy machine may
    command += ["--timeout-worker-healthcheck", f"{PATIENCE:.0f}"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


async def processes(http: aiohttp.ClientSession, url: str, count: int) -> set[int]:
    """The ids of so many of them, once they answer."""
    found: set[int] = set()
    async with asyncio.timeout(90):
        while len(found) < count:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{url}/pid") as told:
                    found.add(int(await told.text()))
            await asyncio.sleep(0.01)
    return found


class Reader:
    """A client that comes back with its position when its connection is lost, and shows what it is told to."""

    def __init__(self, url: str, channel: str) -> None:
        self._url = url.replace("http", "ws") + "/chat/ws"
        self._channel = channel
        self.text = ""
        self.offsets: list[int] = []
        self.epoch = ""
        self.returns = -1
        self.begun = asyncio.Event()
        self.subscribed = asyncio.Event()

    async def read(self) -> str:
        """Until the answer is complete; what it said in the end."""
        while True:
            with contextlib.suppress(OSError, websockets.WebSocketException):
                async with websockets.connect(self._url) as socket:
                    self.returns += 1
                    await socket.send(json.dumps(self._subscription()))
                    async for text in socket:
                        if (ended := self._take(json.loads(text))) is not None:
                            return ended
            await asyncio.sleep(0.05)

    def _subscription(self) -> dict[str, Any]:
        frame = {"action": "subscribe", "channel": self._channel, "text": "delta"}
        return frame | ({"offset": self.offsets[-1], "epoch": self.epoch} if self.offsets else {})

    def _take(self, frame: dict[str, Any]) -> str | None:
        assert frame["type"] != "error", frame
        if frame["status"] == "subscribed":
            self.epoch = self.epoch or frame["epoch"]
            self.offsets = self.offsets or [frame["offset"]]
            self.subscribed.set()
            return None
        if "offset" in frame:
            self.offsets.append(frame["offset"])
            self.epoch = frame["epoch"]
        if frame.get("snapshot"):
            self.text = frame["message"]
        elif frame["status"] == "started":
            self.text = ""
        elif frame["status"] == "in_progress":
            self.text += frame["delta"]
            self.begun.set()
        return str(frame["message"]) if frame["status"] == "completed" and frame["type"] == "response" else None


@pytest.mark.prove
@pytest.mark.timeout(300)
async def test_any_process_takes_answers_and_streams_and_one_may_die(
    store: str, tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    channels = [f"c{n}" for n in range(size(6, 40))]
    simulator = Simulator()
    connector = aiohttp.TCPConnector(force_close=True)  # every request reaches whichever process takes it
    async with (
        serve(simulator) as model,
        workers(store, model, tmp_path) as url,
        aiohttp.ClientSession(connector=connector) as http,
    ):
        pids = await processes(http, url, 3)
        readers = [Reader(url, channel) for channel in channels for _ in range(2)]
        async with asyncio.timeout(180), asyncio.TaskGroup() as group:
            reading = [group.create_task(reader.read()) for reader in readers]
            for reader in readers:
                await reader.subscribed.wait()
            for channel in channels:
                said = {"message": f"tell {channel} [[words:120]] [[pace:25]]", "message_id": channel}
                async with http.post(f"{url}/chat/api/channels/{channel}/messages", json=said) as told:
                    assert told.status == 202
            await readers[0].begun.wait()
            os.kill(min(pids), signal.SIGKILL)

        for reader, task in zip(readers, reading, strict=True):
            assert reader.text == task.result() != ""
            falls = [(a, b) for a, b in itertools.pairwise(reader.offsets) if b < a]
            assert falls == []  # the first two frames of a new attempt are one event
    assert simulator.ledger.overlaps() == []
    assert simulator.ledger.answered_twice() == {}
    assert simulator.ledger.lost_messages([f"tell {channel} [[words:120]] [[pace:25]]" for channel in channels]) == []
    returns = sum(reader.returns for reader in readers)
    proof("four FastAPI workers, one killed", f"answers {len(channels)} | sockets {len(readers)} | returns {returns}")
