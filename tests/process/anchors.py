"""The service as others ran it before: RabbitMQ in, frames out on sockets, and a client that counts what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from tests.contract.broker import Broker
from tests.patience import PATIENCE
from tests.scenario.house import QUICK
from turnkeep.doors.server import listening
from turnkeep.messages import UserItem, content_text
from turnkeep.queue import AssistantMessageQueue
from turnkeep.settings import Settings
from turnkeep.simulator import Simulator, serve
from turnkeep.tools.toolbox import Registrable, Toolbox


@dataclass
class Listener:
    """A client as in the documents: subscribes flat, reads every frame, and shows what it is told to."""

    socket: ClientConnection
    frames: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    async def subscribe(self, *channels: str) -> None:
        """The first subscription of each channel is answered before this returns."""
        for channel in channels:
            self.frames.setdefault(channel, [])
            await self.socket.send(json.dumps({"action": "subscribe", "channel": channel}))
        await self.until(lambda: all(self.told(channel, "subscribed") for channel in channels))

    async def read(self) -> None:
        async for text in self.socket:
            frame = json.loads(text)
            self.frames.setdefault(frame.get("channel", ""), []).append(frame)

    def told(self, channel: str, status: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames[channel] if frame["status"] == status]

    def answers(self, channel: str) -> list[dict[str, Any]]:
        """What the documents' client appends to the conversation."""
        return [f for f in self.frames[channel] if f["type"] == "response" and f["status"] == "completed"]

    def errors(self, channel: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames[channel] if frame["type"] == "error"]

    def settled(self, channel: str) -> set[str]:
        """Messages whose turn has ended, by id."""
        ended = [*self.answers(channel), *self.errors(channel)]
        return {message_id for frame in ended for message_id in frame["message_ids"]}

    async def until_settled(self, channel: str, *message_ids: str, patience: float = PATIENCE) -> None:
        await self.until(lambda: set(message_ids) <= self.settled(channel), patience=patience)

    async def until(self, holds: Any, *, patience: float = PATIENCE) -> None:
        async with asyncio.timeout(patience):
            while not holds():
                await asyncio.sleep(0.01)


@dataclass
class Service:
    """One process's worth of service, open."""

    queue: AssistantMessageQueue
    simulator: Simulator
    listener: Listener

    async def said_by_user(self, channel: str) -> list[str]:
        """The committed messages of a thread, in order."""
        history = await self.queue.store.history(self.queue.address(channel))
        return [content_text(entry.item.content) for entry in history.entries if isinstance(entry.item, UserItem)]


@contextlib.asynccontextmanager
async def service(
    rabbit: Broker,
    store: str = "memory:",
    *,
    simulator: Simulator | None = None,
    model: str | None = None,
    tools: Iterable[Registrable] = (),
    **settings: Any,
) -> AsyncIterator[Service]:
    """A whole service with its AMQP door, and a client that listens. With `model` it asks a simulator that is there."""
    simulator = simulator or Simulator()
    async with contextlib.AsyncExitStack() as stack:
        asked = await stack.enter_async_context(serve(simulator)) if model is None else model
        queue = AssistantMessageQueue.from_settings(
            Settings.load(**_values(rabbit, store, asked, settings)), toolbox=Toolbox(tools)
        )
        url = await stack.enter_async_context(listening(queue))
        socket = await stack.enter_async_context(websockets.connect(url.replace("http", "ws") + "/ws", max_size=None))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        listener = Listener(socket)
        reading = group.create_task(listener.read())
        stack.callback(reading.cancel)
        yield Service(queue, simulator, listener)


def _values(rabbit: Broker, store: str, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    quick = {"port": 0, "channel_rate": "0", "user_rate": "0", "channels_per_socket": 10_000, "model_api": "responses"}
    given = {"store": store, "openai_base_url": model, "openai_api_key": "sk-test"}
    return {**QUICK, **quick, **given, **rabbit.names, **settings}


def said(channel: str, number: int, text: str = "hello") -> dict[str, Any]:
    return {"channel": channel, "message_id": f"{channel}-{number}", "message": f"{number} {text}"}
