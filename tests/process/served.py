"""A server in this process on a real socket, with plain clients for both of its doors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import websockets
from websockets.asyncio.client import ClientConnection

from tests.patience import PATIENCE
from tests.scenario.house import TestHouse, composed
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.auth.principals import Scope
from turnkeep.core_settings import Role
from turnkeep.doors.server import listening

OPEN = {"port": 0, "channel_rate": "0", "user_rate": "0", "error_rate": "0"}
"""Settings: any free port, and no limit that a test does not ask for."""


@dataclass(kw_only=True)
class Served(TestHouse):
    """A house with doors."""

    __test__ = False

    url: str
    http: aiohttp.ClientSession

    def socket(self, **options: Any) -> websockets.connect:
        return websockets.connect(self.url.replace("http", "ws") + "/ws", max_size=None, **options)


async def ask(socket: ClientConnection, frame: Any) -> dict[str, Any]:
    """Send a frame (or raw text or bytes) and read the next one."""
    await socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))
    return await heard(socket)


async def heard(socket: ClientConnection, *, patience: float = PATIENCE) -> dict[str, Any]:
    """The next frame, but for what is said beside the log while a busy machine says nothing."""
    async with asyncio.timeout(patience):
        while True:
            frame = json.loads(await socket.recv())
            assert isinstance(frame, dict)
            if frame.get("reason") != "silent":
                return frame


async def frames_until_final(socket: ClientConnection, message_id: str) -> list[dict[str, Any]]:
    """All frames up to the final one of this message."""
    frames: list[dict[str, Any]] = []
    while not (frames and frames[-1].get("message_id") == message_id and ends(frames[-1])):
        frames.append(await heard(socket))
    return frames


def ends(frame: dict[str, Any]) -> bool:
    return bool(frame.get("final_message")) or frame["type"] == "error"


@contextlib.asynccontextmanager
async def served(store: str | Path = "memory:", *, role: Role = "all", **options: Any) -> AsyncIterator[Served]:
    """A server, listening; everything ends with it. `options` are those of `composed`, and settings."""
    async with (
        composed(store, **{**OPEN, **options}) as house,
        aiohttp.ClientSession() as http,
        listening(house.queue, role) as url,
    ):
        yield Served(queue=house.queue, simulator=house.simulator, url=url, http=http)


async def bearer(server: Served, *scopes: Scope) -> dict[str, str]:
    value, _ = await ApiKeys(server.queue.store).create(scopes=scopes)
    return {"Authorization": f"Bearer {value}"}
