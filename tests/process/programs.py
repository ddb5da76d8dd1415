"""`turnkeep` as a process of its own: started, killed, started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.patience import LONG_PATIENCE, PATIENCE, within
from tests.services import CHECKOUT, free_port
from tests.services.forks import Process, start_python
from tests.services.process import COVERAGE, finish_measuring

QUICK_ENVIRONMENT = {
    "TURNKEEP_WINDOW": "0.2",
    "TURNKEEP_MAX_WAIT": "1",
    "TURNKEEP_CHANNEL_RATE": "0",
    "TURNKEEP_USER_RATE": "0",
}


@dataclass
class Program:
    """One verb of the command line in a working directory of its own. Its log goes to a file there."""

    arguments: list[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: Process | None = None
    modules: tuple[str, ...] = ("turnkeep",)
    """What Python is told to run, before the arguments."""

    def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **COVERAGE, **self.environment}
        if self.modules != ("turnkeep",):
            environment["PYTHONPATH"] = str(CHECKOUT)
        command = ["-m", *self.modules, *self.arguments]
        self.process = start_python(command, self.folder, environment, log=self.folder / "log")

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill9(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, patience: float = PATIENCE) -> int:
        assert self.process is not None
        return self.process.wait(patience)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


@dataclass
class Server(Program):
    """A verb that listens: `dev`, or `serve`."""

    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.environment = {"TURNKEEP_PORT": str(self.port), **self.environment}
        super().start()

    async def answers(self, http: aiohttp.ClientSession, patience: float = PATIENCE) -> None:
        """Wait until it is ready. Raises when it has ended instead."""
        async with asyncio.timeout(patience):
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with http.get(f"{self.url}/readyz", timeout=aiohttp.ClientTimeout(2)) as told:
                        if told.status == 200:
                            return
                assert self.process is not None
                if self.process.poll() is not None:
                    raise RuntimeError(f"the server has ended:\n{self.log[-3000:]}")
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(program: Program) -> AsyncIterator[Program]:
    program.start()
    try:
        yield program
    finally:
        finish_measuring(program.process)
        program.kill9()


async def until_answered(
    server: Server, http: aiohttp.ClientSession, count: int, *, patience: float = LONG_PATIENCE
) -> None:
    """Wait until so many messages are answered, or dead, though the server may be killed meanwhile."""
    async with within(patience):
        while True:
            try:
                async with http.get(f"{server.url}/api/queue") as told:
                    counts = await told.json()
                if counts["completedCount"] + counts["failedCount"] >= count:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
