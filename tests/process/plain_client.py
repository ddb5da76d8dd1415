"""A client as the documents have it, and what it was told: it subscribes without wishes, and reads every frame."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection

from tests.patience import PATIENCE, until
from tests.process.served import Served


@dataclass
class PlainClient:
    socket: ClientConnection
    frames: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    async def subscribe(self, *channels: str) -> None:
        """The first subscription of each channel is answered before this returns."""
        for channel in channels:
            self.frames.setdefault(channel, [])
            await self.socket.send(json.dumps({"action": "subscribe", "channel": channel}))
        await until(lambda: all(self.of_status(channel, "subscribed") for channel in channels))

    async def read(self) -> None:
        async for text in self.socket:
            frame = json.loads(text)
            self.frames.setdefault(frame.get("channel", ""), []).append(frame)

    def of_status(self, channel: str, status: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames[channel] if frame["status"] == status]

    def answers(self, channel: str) -> list[dict[str, Any]]:
        """What the documents' client appends to the conversation."""
        return [f for f in self.frames[channel] if f["type"] == "response" and f["status"] == "completed"]

    def errors(self, channel: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames[channel] if frame["type"] == "error"]

    def settled_ids(self, channel: str) -> set[str]:
        """Messages whose turn has ended."""
        ended = [*self.answers(channel), *self.errors(channel)]
        return {message_id for frame in ended for message_id in frame["message_ids"]}

    async def until_settled(self, channel: str, *message_ids: str, patience: float = PATIENCE) -> None:
        await until(lambda: set(message_ids) <= self.settled_ids(channel), patience=patience)


@contextlib.asynccontextmanager
async def plain_client(server: Served, *channels: str) -> AsyncIterator[PlainClient]:
    """Subscribed to these when this begins."""
    async with server.socket() as socket, asyncio.TaskGroup() as group:
        client = PlainClient(socket)
        reading = group.create_task(client.read())
        await client.subscribe(*channels)
        yield client
        reading.cancel()
