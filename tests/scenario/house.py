"""A whole house on memory or SQLite, with the simulator on a real socket, for the promises."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from turnkeep.clock import Clock, SystemClock
from turnkeep.composition import policies
from turnkeep.events import Event
from turnkeep.messages import Address, Item, Message, content_text, text_content
from turnkeep.queue import AssistantMessageQueue
from turnkeep.settings import Settings
from turnkeep.simulator import Fault, Simulator, serve
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Receipt
from turnkeep.streams import EventStream
from turnkeep.telemetry import SILENT, Meter
from turnkeep.tools.toolbox import Registrable, Toolbox

QUICK: dict[str, Any] = {
    "window": 0.05,
    "max_wait": 0.4,
    "backoff_delay": 0.02,
    "backoff_cap": 0.05,
    "lease": 10.0,
    "drain": 2.0,
    "concurrency": 64,
}


@dataclass
class TestHouse:
    """A queue that is open, its simulator, and short words for what the tests say."""

    __test__ = False

    queue: AssistantMessageQueue
    simulator: Simulator
    numbers: Iterable[int] = field(default_factory=itertools.count)

    def address(self, channel: str) -> Address:
        return self.queue.address(channel)

    async def send(self, channel: str, text: str, message_id: str | None = None, **wishes: Any) -> Receipt:
        message_id = message_id or f"m{next(iter(self.numbers))}"
        return await self.queue.add_message_to_thread(channel, text, message_id=message_id, **wishes)

    async def send_all(self, channel: str, texts: Iterable[str], **wishes: Any) -> list[Receipt]:
        return [await self.send(channel, text, **wishes) for text in texts]

    def stream(self, channel: str, **position: Any) -> EventStream:
        return EventStream(self.queue.hub, self.queue.store, self.address(channel), **position)

    async def until(
        self, stream: EventStream, wanted: Callable[[Event], bool], *, timeout: float = PATIENCE
    ) -> list[Event]:
        """All events up to and with the first wanted one."""
        seen: list[Event] = []
        async with asyncio.timeout(timeout):
            async for event in stream:
                seen.append(event)
                if wanted(event):
                    return seen
        raise AssertionError("a stream does not end")

    async def settled(self, stream: EventStream, message_id: str, *, timeout: float = PATIENCE) -> list[Event]:
        return await self.until(stream, lambda e: e.is_final and message_id in e.message_ids, timeout=timeout)

    async def transcript(self, channel: str) -> list[Item]:
        history = await self.queue.store.history(self.address(channel))
        return [entry.item for entry in history.entries]

    async def said_by_user(self, channel: str) -> list[str]:
        return [content_text(item.content) for item in await self.transcript(channel) if item.kind == "user"]  # type: ignore[union-attr]

    def fault(self, **fields: Any) -> None:
        self.simulator.faults.append(Fault(**fields))


def message(house: TestHouse, channel: str, text: str, message_id: str, **fields: Any) -> Message:
    return Message(house.address(channel), message_id, text_content(text), **fields)


@contextlib.asynccontextmanager
async def composed(
    store: str | Path = "memory:",
    *,
    tools: Iterable[Registrable] = (),
    simulator: Simulator | None = None,
    clock: Clock | None = None,
    meter: Meter = SILENT,
    **settings: Any,
) -> AsyncIterator[TestHouse]:
    """A house that nobody has opened yet, with its simulator at a socket. Several houses may ask one `simulator`."""
    simulator = simulator or Simulator()
    async with serve(simulator) as url:
        values = {
            **QUICK,
            "store": str(store),
            "openai_base_url": url,
            "openai_api_key": "sk-test",
            "model_api": "responses",
        }
        loaded = Settings.load(**{**values, **settings})
        engine = MemoryStore(policies(loaded, runs_kept=50), clock=clock) if clock else None
        queue = AssistantMessageQueue.from_settings(loaded, toolbox=Toolbox(tools), store=engine, meter=meter)
        yield TestHouse(queue, simulator)


@contextlib.asynccontextmanager
async def opened(
    store: str | Path = "memory:",
    *,
    worker: bool = True,
    clock: Clock | None = None,
    **options: Any,
) -> AsyncIterator[TestHouse]:
    """The house, open; everything ends with it. With a `clock` the store goes by it, in memory; `options` are those of
    `composed`, and settings.
    """
    async with composed(store, clock=clock, **options) as house:
        if worker:
            house.queue.start_worker()
        async with house.queue:
            yield house


class GatedClock(SystemClock):
    """Of a simulator: each of its waits lasts until the gate is open, whatever the pace."""

    def __init__(self, gate: asyncio.Event) -> None:
        self.gate = gate

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            await self.gate.wait()


def gate_answers(simulator: Simulator, gate: asyncio.Event | None = None) -> asyncio.Event:
    """Whatever is said at a pace (`[[pace:1]]`) stands still behind its first word, and goes on when this is set: so an
    answer is in its middle for as long as a test needs it there.
    """
    clock = GatedClock(gate or asyncio.Event())
    simulator.clock = clock
    return clock.gate


async def flush_together(queue: AssistantMessageQueue, channel: str, count: int) -> None:
    """Begin the turn of so many messages as soon as all of them wait, however long that takes."""
    async with asyncio.timeout(PATIENCE):
        while len(await queue.store.open_messages(queue.address(channel))) < count:
            await asyncio.sleep(0.005)
    await queue.flush(channel)


async def answered(house: TestHouse, channel: str, text: str) -> None:
    async with house.stream(channel) as stream:
        receipt = await house.send(channel, text)
        await house.settled(stream, receipt.message_id)
