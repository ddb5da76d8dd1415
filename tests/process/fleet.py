"""Gateways and workers as processes of their own on one store, and people who talk to them through every cut."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.patience import PATIENCE, until
from tests.process.listener import Listener
from tests.process.programs import Program, Server
from tests.services.process import finish_measuring
from turnkeep.simulator import Exchange, Simulator

PACE = "[[words:{words}]] [[pace:{milliseconds}]]"


@dataclass
class Worker(Program):
    """`turnkeep worker`, which says in its log that it waits for work."""

    lives: int = 0

    def start(self) -> None:
        self.lives += 1
        super().start()

    async def works(self, patience: float = PATIENCE) -> None:
        """Wait until it claims."""
        async with asyncio.timeout(patience):
            while self.log.count("waiting for work") < self.lives:
                assert self.process is not None
                assert self.process.poll() is None, self.log[-3000:]
                await asyncio.sleep(0.02)


@dataclass
class Fleet:
    """Processes that share a store."""

    gateways: list[Server]
    workers: list[Worker]
    http: aiohttp.ClientSession
    refused: Counter[int] = field(default_factory=Counter)
    """Answers to senders by status, other than receipts; 0: none came."""

    @property
    def programs(self) -> list[Program]:
        return [*self.gateways, *self.workers]

    async def start(self) -> None:
        for program in self.programs:
            program.start()
        async with asyncio.TaskGroup() as group:
            for gateway in self.gateways:
                group.create_task(gateway.answers(self.http))
            for worker in self.workers:
                group.create_task(worker.works())

    async def send(self, channel: str, message_id: str, text: str) -> None:
        """Send until there is a receipt, through whichever gateway takes it."""
        for gateway in itertools.cycle(self.gateways):
            if await self.offer(gateway, channel, message_id, text) in (200, 202):
                return
            await asyncio.sleep(0.05)

    async def offer(self, gateway: Server, channel: str, message_id: str, text: str) -> int:
        """Send once: the status, 0 when no answer came."""
        url = f"{gateway.url}/api/channels/{channel}/messages"
        patience = aiohttp.ClientTimeout(30)
        status = 0
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.post(url, json={"message_id": message_id, "message": text}, timeout=patience) as told:
                status = told.status
                if status == 503:
                    assert "Retry-After" in told.headers
                assert status in (200, 202, 429, 503), (status, await told.text())
        if status not in (200, 202):
            self.refused[status] += 1
        return status


@contextlib.asynccontextmanager
async def fleet(
    folder: Path,
    store: str,
    model: str,
    *,
    gateways: int = 1,
    workers: int = 1,
    modules: tuple[str, ...] = ("turnkeep",),
    **settings: str,
) -> AsyncIterator[Fleet]:
    """All of them started and ready; killed in the end."""
    environment = {
        "TURNKEEP_STORE": store, "OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-test",
        "TURNKEEP_MODEL_API": "responses", "TURNKEEP_WINDOW": "0", "TURNKEEP_CHANNEL_RATE": "0",
        "TURNKEEP_USER_RATE": "0", "TURNKEEP_BACKOFF_DELAY": "0.1", "TURNKEEP_MAX_DEATHS": "100", **settings,
    }  # fmt: skip
    doors = [Server(["serve", "--role", "gateway"], folder / f"gateway{n}", environment) for n in range(gateways)]
    hands = [Worker(["worker"], folder / f"worker{n}", environment) for n in range(workers)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        started = Fleet(doors, hands, http)
        for program in started.programs:
            program.folder.mkdir()
            program.modules = modules
        try:
            await started.start()
            yield started
        finally:
            for program in started.programs:
                finish_measuring(program.process)
                program.kill9()


# ---------------------------------------------------------------- people


class Crowd:
    """People, one on each channel, who say something, hear the whole answer, and say the next."""

    def __init__(self, fleet: Fleet, channels: int, *, words: int = 20, milliseconds: int = 20) -> None:
        self.fleet = fleet
        self.channels = [f"c{number}" for number in range(channels)]
        self.marks = PACE.format(words=words, milliseconds=milliseconds)
        self.leaving = asyncio.Event()
        self.said = 0
        self.listeners = [
            Listener(_rotated([gateway.url for gateway in fleet.gateways], n), self.channels[n : n + 50])
            for n in range(0, channels, 50)
        ]

    def listener(self, channel: str) -> Listener:
        return next(one for one in self.listeners if channel in one.channels)

    @contextlib.asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        """They talk while this is entered; at its end each hears his last answer and goes."""
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(listener.run()) for listener in self.listeners]
            async with asyncio.TaskGroup() as talks:
                for listener in self.listeners:
                    await listener.heard_of_all()
                for channel in self.channels:
                    talks.create_task(self._talk(channel))
                yield
                self.leaving.set()
            for task in listening:
                task.cancel()

    async def _talk(self, channel: str) -> None:
        listener = self.listener(channel)
        for number in itertools.count():
            if self.leaving.is_set():
                return
            message_id = f"{channel}-{number}"
            self.said += 1
            await self.fleet.send(channel, message_id, f"{channel} says {number} {self.marks}")
            await listener.answer(channel, message_id)


def _rotated(urls: Sequence[str], by: int) -> list[str]:
    by = (by // 50) % len(urls)
    return [*urls[by:], *urls[:by]]


async def next_frame(socket: Any, wanted: Any) -> dict[str, Any]:
    """The next frame like this."""
    async with asyncio.timeout(PATIENCE):
        while True:
            frame: dict[str, Any] = json.loads((await socket.receive()).data)
            if "status" in frame and wanted(frame):
                return frame


async def until_taken_over(worker: Worker, simulator: Simulator) -> list[float]:
    """Kill it and start it again: for each of its runs the seconds until the model was asked anew."""
    before = {exchange.n for exchange in simulator.ledger.open()}
    killed_at = time.time()
    await asyncio.to_thread(worker.kill9)
    worker.start()
    cut = await cut_off(simulator, before)
    await until(lambda: all(followed(e, simulator) for e in cut), patience=PATIENCE)
    await worker.works()
    return [next(arrivals(e, simulator)).arrived - killed_at for e in cut]


async def cut_off(simulator: Simulator, before: set[int]) -> list[Exchange]:
    """The requests of the dead, whose connections the system closes; none if nothing ran there."""

    def closed() -> list[Exchange]:
        return [e for e in simulator.ledger if e.n in before and e.outcome == "closed_by_client"]

    with contextlib.suppress(TimeoutError):
        await until(lambda: bool(closed()), patience=5)
    await asyncio.sleep(0.1)
    return closed()


def arrivals(cut: Exchange, simulator: Simulator) -> Iterator[Exchange]:
    return (e for e in simulator.ledger if e.run == cut.run and e.n > cut.n)


def followed(cut: Exchange, simulator: Simulator) -> bool:
    return any(True for _ in arrivals(cut, simulator))
