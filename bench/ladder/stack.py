"""The processes of a measurement: they are started here, measured here, and exactly they are ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
TURNKEEP = Path(sys.executable).with_name("turnkeep")
PATIENCE = 30.0
OPEN_WIDE = {
    "TURNKEEP_CHANNEL_RATE": "0",
    "TURNKEEP_USER_RATE": "0",
    "TURNKEEP_SOCKETS_PER_USER": "100000",
    "TURNKEEP_CONCURRENCY": "2000",
    "TURNKEEP_WINDOW": "0",
    "TURNKEEP_LOG_FORMAT": "json",
}
"""No limit of a user is in the way of a thousand callers on one machine; everything else is as delivered."""


@dataclass(frozen=True, slots=True)
class Part:
    """A running process, with its children."""

    name: str
    process: subprocess.Popen[bytes]
    port: int = 0
    log: Path = Path()

    @property
    def cpu(self) -> float:
        """Seconds of CPU, user and system, of all threads, to the nanosecond."""
        return sum(cpu_of(pid) for pid in self.pids())

    @property
    def rss(self) -> float:
        """Megabytes in memory."""
        return sum(rss_of(pid) for pid in self.pids())

    def pids(self) -> Iterator[int]:
        return family(self.process.pid)


def family(pid: int) -> Iterator[int]:
    """A process and all that it has started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from family(int(child))


def cpu_of(pid: int) -> float:
    """Not from /proc: that counts in ticks of 10 ms. Linux names the clock of a process by its number."""
    with suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def rss_of(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0.0


Cpu = Mapping[str, float]
"""Of each part by its name."""


def cpu_now(parts: Sequence[Part]) -> Cpu:
    return {part.name: part.cpu for part in parts}


def cost(before: Cpu, after: Cpu, units: float) -> Cpu:
    """Microseconds for each of so many units, by part."""
    return {name: (after[name] - before[name]) / max(1.0, units) * 1e6 for name in after}


class Stack:
    """`with Stack() as stack:` and what is started on it ends with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="turnkeep-bench-"))
        self._parts: list[Part] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            for part in self._parts:
                words = part.log.read_text(errors="replace")[-500:].strip() if part.log.name else ""
                print(f"   {part.name}: {words}", file=sys.stderr) if words else None
        for part in reversed(self._parts):
            self.end(part)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str, command: Sequence[str | Path], *, port: int = 0, env: Mapping[str, str] | None = None,
              cwd: Path | None = None) -> Part:  # fmt: skip
        """Start a program; with a port, wait until it listens there."""
        log = self.folder / f"{name}-{len(self._parts)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                list(map(str, command)), env=env, cwd=cwd or self.folder, stdout=out, stderr=subprocess.STDOUT
            )
        part = Part(name, process, port, log)
        self._parts.append(part)
        if port:
            wait_for_port(port, part)
        return part

    def end(self, part: Part) -> None:
        if part.process.poll() is None:
            part.process.send_signal(signal.SIGKILL)
        part.process.wait()

    def program(self, name: str, *arguments: str | Path) -> Part:
        """A floor or the model: a file beside this one, which takes the port first."""
        port = free_port()
        return self.start(name, [sys.executable, HERE / f"{name}.py", str(port), *arguments], port=port)

    def model(self) -> Part:
        return self.program("model_server")

    def redis(self, *more: str) -> Part:
        """An empty Redis that keeps what it says it keeps: append-only file, synced every second. The file is not
        written anew, which a child of the server does when it likes: whoever is measured then would pay for it.
        """
        # A node of a cluster listens 10,000 above as well.
        port = free_port()
        while more and not 1024 < port < 55_000:
            port = free_port()
        folder = self.folder / f"redis-{port}"
        folder.mkdir()
        options = [
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--save",
            "",
            "--auto-aof-rewrite-percentage",
            "0",
            "--loglevel",
            "warning",
            *more,
        ]
        return self.start(
            "redis", ["redis-server", *options, "--appendonly", "yes", "--appendfsync", "everysec"], port=port
        )

    def service(
        self, role: str = "all", *, model: Part | None = None, redis: Part | None = None, store: str = "", **env: str
    ) -> Part:
        """The product, as it is delivered."""
        port = free_port()
        values = {**OPEN_WIDE, "TURNKEEP_STORE": store or str(self.folder / f"{port}.db"), **env}
        if redis is not None:
            values["TURNKEEP_STORE"] = f"redis://127.0.0.1:{redis.port}/0"
        if model is not None:
            base = f"http://127.0.0.1:{model.port}/burst-1/v1"
            values |= {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": base, "TURNKEEP_MODEL_API": "responses"}
        command = [
            str(TURNKEEP),
            "serve",
            "--role",
            role,
            "--json",
            *(["--port", str(port)] if role != "worker" else []),
        ]
        part = self.start({"all": "service"}.get(role, role), command, env=environment(values),
                          port=port if role != "worker" else 0)  # fmt: skip
        wait_for_word(part)
        return part

    def apart(self, model: Part, **env: str) -> tuple[Part, list[Part]]:
        """A gateway and a worker on one Redis: where to knock, and all parts."""
        redis = self.redis()
        gateway = self.service("gateway", model=model, redis=redis, **env)
        return gateway, [gateway, self.service("worker", model=model, redis=redis, **env), redis]


def environment(values: Mapping[str, str]) -> dict[str, str]:
    """That of somebody who has set nothing else. Byte code is kept, as it is where something is installed."""
    ours = ("TURNKEEP", "OPENAI", "ANTHROPIC", "REDIS", "RABBITMQ", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(values)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, part: Part) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if part.process.poll() is not None:
            raise RuntimeError(f"{part.name} ended with code {part.process.returncode}: {last_words(part)}")
        time.sleep(0.02)
    raise RuntimeError(f"{part.name} does not listen on {port} after {PATIENCE:.0f} s")


def wait_for_word(part: Part) -> None:
    """The product says one line of JSON when everything is open."""
    end = time.monotonic() + PATIENCE
    while b'"answering"' not in part.log.read_bytes():
        if part.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{part.name} did not open: {last_words(part)}")
        time.sleep(0.02)


def last_words(part: Part) -> str:
    return part.log.read_text(errors="replace").strip()[-300:]
