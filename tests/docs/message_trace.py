"""Which files and lines of turnkeep one message runs through, from the socket to its final frame: JSON on the output.

python -m tests.docs.message_trace STORE

A process of its own, because `sys.settrace` would slow whatever else runs. The turn before warms up: what is
imported, opened and looked up once is no part of a message's path. The simulator is none either: it is the model.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp

import turnkeep
from tests.services import free_port
from turnkeep import AssistantMessageQueue
from turnkeep.doors.server import listening
from turnkeep.settings import Settings

PACKAGE = str(Path(turnkeep.__file__).parent) + "/"
PATIENCE = 30.0


class Recorder:
    """Executed lines by file of the package, while `is_on`."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = defaultdict(set)
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> Recorder | None:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE):
            return None
        # A frame that began before keeps its tracer, so that the long-lived loops are seen from their next line on.
        if self.is_on:
            self.lines[name.removeprefix(PACKAGE)].add(frame.f_lineno)
        return self


async def turn(socket: aiohttp.ClientWebSocketResponse, message_id: str) -> None:
    await socket.send_json({"channel": "c", "message_id": message_id, "message": "Hello there, tell me something"})
    while True:
        frame = await socket.receive_json(timeout=PATIENCE)
        if (frame.get("type"), frame.get("status")) == ("response", "completed"):
            return


async def trace(store: str, recorder: Recorder) -> None:
    settings = Settings.load(port=free_port(), window=0.2, max_wait=0.4, store=store)
    queue = AssistantMessageQueue.from_settings(settings)
    async with (
        listening(queue) as url,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/ws") as socket,
    ):
        await socket.send_json({"action": "subscribe", "channel": "c"})
        await turn(socket, "warm")
        recorder.is_on = True
        await turn(socket, "m1")
        recorder.is_on = False


def main(store: str) -> None:
    recorder = Recorder()
    threading.settrace(recorder)
    sys.settrace(recorder)
    asyncio.run(trace(store, recorder))
    sys.settrace(None)
    print(json.dumps({file: len(lines) for file, lines in recorder.lines.items() if not file.startswith("simulator/")}))


if __name__ == "__main__":
    main(sys.argv[1])
