"""Which files and lines of turnkeep one message runs through, from the socket to its final frame: JSON on the output,
0 for a file of which nothing else runs than without a message.

python -m tests.docs.message_trace STORE

A process of its own, because `sys.settrace` would slow whatever else runs. The turn before warms up: what is
imported, opened and looked up once is no part of a message's path, nor is what goes on without any message (leases,
credentials and sockets are looked at every second). The simulator is none either: it is the model.
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
from tests.patience import PATIENCE
from tests.services import free_port
from turnkeep import AssistantMessageQueue
from turnkeep.doors.server import listening
from turnkeep.settings import Settings
from turnkeep.store import record_cache

PACKAGE = str(Path(turnkeep.__file__).parent) + "/"
SILENCE = 2.5
"""Seconds in which everything that goes on without a message goes on at least once."""
MESSAGES = 5
"""What every one of them runs through is the path; what one did because the machine was busy (a wait that ran out, a
batch that came in two) is not. The words of an answer come far apart, so that no machine is so busy that two of them
are told together in every message.
"""


Lines = dict[str, set[int]]


class Recorder:
    """Executed lines by file of the package, as long as there is somewhere to put them."""

    def __init__(self) -> None:
        self.lines: Lines | None = None

    def __call__(self, frame: FrameType, event: str, _: Any) -> Recorder | None:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE):
            return None
        # A frame that began before keeps its tracer, so that the long-lived loops are seen from their next line on. A
        # frame that is only returned into by what it awaits executes none.
        if self.lines is not None and event == "line":
            self.lines[name.removeprefix(PACKAGE)].add(frame.f_lineno)
        return self


async def turn(socket: aiohttp.ClientWebSocketResponse, message_id: str) -> None:
    await socket.send_json({"channel": "c", "message_id": message_id, "message": "[[words:3]] [[pace:300]]"})
    while True:
        frame = await socket.receive_json(timeout=PATIENCE)
        if (frame.get("type"), frame.get("status")) == ("response", "completed"):
            return


async def trace(store: str, recorder: Recorder) -> tuple[Lines, Lines]:
    """What is executed while nothing is said, and for every message."""
    silence = defaultdict[str, set[int]](set)
    # Runs follow each other: traced, and on a busy machine, they are more than a second apart, and each would read
    # anew what is remembered for one.
    record_cache.FRESH = PATIENCE
    settings = Settings.load(port=free_port(), window=0.2, max_wait=0.4, store=store)
    queue = AssistantMessageQueue.from_settings(settings)
    async with (
        listening(queue) as url,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/ws") as socket,
    ):
        await socket.send_json({"action": "subscribe", "channel": "c"})
        await turn(socket, "warm")
        recorder.lines = silence
        await asyncio.sleep(SILENCE)
        traces: list[Lines] = []
        for number in range(MESSAGES):
            recorder.lines = defaultdict[str, set[int]](set)
            await turn(socket, f"m{number}")
            traces.append(recorder.lines)
        recorder.lines = None
    message = {
        file: set.intersection(*(trace[file] for trace in traces)) for file in set.intersection(*map(set, traces))
    }
    return silence, message


def main(store: str) -> None:
    recorder = Recorder()
    threading.settrace(recorder)
    sys.settrace(recorder)
    silence, message = asyncio.run(trace(store, recorder))
    sys.settrace(None)
    counts = {file: len(lines - silence[file]) for file, lines in message.items() if not file.startswith("simulator/")}
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1])
