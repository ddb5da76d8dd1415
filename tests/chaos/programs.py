"""Processes that are killed, frozen and started again, each with its log in one folder."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.forks import Process, start_python
from tests.services.redis import redis_program

HOST = "127.0.0.1"


class StormError(Exception):
    """the storm could not begin"""


def _die_with_parent() -> None:
    """Where Linux is: be killed when whoever has started this process is gone, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass(slots=True)
class Program:
    """One process. `wanted` is false while it is meant to be dead."""

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    wanted: bool = False
    frozen: bool = False
    said_before: int = 0
    """Bytes that earlier lives have logged."""
    process: Process | None = None

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def code(self) -> int | None:
        """How it ended; negative is the signal."""
        return None if self.process is None else self.process.poll()

    def has_said(self, text: str) -> bool:
        """In this life."""
        return self.alive and text.encode() in self.log_file.read_bytes()[self.said_before :]

    def start(self) -> None:
        self.wanted, self.frozen = True, False
        self.said_before = self.log_file.stat().st_size if self.log_file.exists() else 0
        program, *arguments = self.command
        if program == sys.executable:
            self.process = start_python(arguments, self.folder, self.environment, log=self.log_file)
            return
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=dict(self.environment), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, preexec_fn=_die_with_parent,  # noqa: PLW1509 - of one thread
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.alive:
            self.process.send_signal(number)

    def freeze(self) -> None:
        self.frozen = True
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    async def end(self, patience: float) -> None:
        """Ask it to end, wait, and kill it when it does not."""
        self.wanted = False
        self.thaw()
        self.send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.alive:
                    await asyncio.sleep(0.02)
        self.bury()

    def bury(self) -> None:
        """Kill it for good, and take in its end."""
        self.wanted = False
        self.kill()
        if self.process is not None:
            self.process.wait(10)

    async def answers(self, port: int, patience: float = 60.0) -> None:
        """Wait until it listens. Raises `StormError` when it has ended instead."""
        end = asyncio.get_running_loop().time() + patience
        while asyncio.get_running_loop().time() < end:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return
            if not self.alive:
                raise StormError(f"{self.name} has ended at its start:\n{self.log[-2000:]}")
            await asyncio.sleep(0.02)
        raise StormError(f"{self.name} did not answer on port {port} for {patience} s")

    async def says(self, text: str, patience: float = 60.0) -> None:
        """Wait until it has said this in this life. Raises `StormError`."""
        end = asyncio.get_running_loop().time() + patience
        while not self.has_said(text):
            if not self.alive or asyncio.get_running_loop().time() > end:
                raise StormError(f"{self.name} does not start:\n{self.log[-2000:]}")
            await asyncio.sleep(0.02)


def redis_command(port: int, folder: Path, *, replica_of: int | None = None) -> list[str]:
    """A Redis that has on its disk whatever it has answered for, alone or as a replica of the one at that port.

    Raises `StormError` where there is none.
    """
    program = redis_program()
    if program is None or shutil.which(program) is None:
        raise StormError("there is no redis-server on this machine: install it, or use --store sqlite")
    settings = {"port": str(port), "bind": HOST, "dir": str(folder), "appendonly": "yes", "appendfsync": "always"}
    settings |= {"save": "", "maxmemory-policy": "noeviction", "repl-diskless-sync-delay": "0"}
    leader = [] if replica_of is None else ["--replicaof", HOST, str(replica_of)]
    return [program, *(word for name, value in settings.items() for word in (f"--{name}", value)), *leader]
