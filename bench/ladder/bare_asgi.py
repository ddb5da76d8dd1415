"""The floor of a run over HTTP: an ASGI program that answers POST with recorded frames, one `send` for each.

bare_asgi.py PORT FRAMES        FRAMES: a file of JSON, the frames of one answer
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

FRAMES: list[bytes] = []


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for frame in FRAMES:
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    FRAMES += [frame.encode() for frame in json.loads(Path(sys.argv[2]).read_text())]
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off", access_log=False, loop="uvloop")
