"""A server as a child process: a port and a directory of its own, started, stopped, killed, and surely gone.

Guarantees: `start` returns when the server answers; nothing outlives the test process, however that dies (a keeper
process holds the other end of a pipe and kills what is left); two test processes on one machine never share a port.
Calls block: in a coroutine use `async with`, or `await asyncio.to_thread(server.restart)`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, Self

from tests.patience import LONG_PATIENCE, PATIENCE, less_often

PORTS = range(20_000, 30_000)  # below the ephemeral range, so that no outgoing connection takes one of ours
HOST = "127.0.0.1"
MEMORY = "/dev/shm"
ENOUGH = 1 << 30
"""Bytes free there; containers have 64 MB if nobody asks for more."""
COVERAGE = {name: os.environ[name] for name in ("COVERAGE_PROCESS_CONFIG",) if name in os.environ}
"""What a measured interpreter tells those that it starts; nothing where nobody measures."""

_taken: dict[int, IO[str]] = {}


def free_port() -> int:
    """A loopback port that no other test process uses; ours until this process ends."""
    start = random.randrange(len(PORTS))
    for step in range(len(PORTS)):
        port = PORTS[(start + step) % len(PORTS)]
        if port not in _taken and _take(port):
            return port
    raise RuntimeError(f"no free port between {PORTS.start} and {PORTS.stop}")


def hold_port() -> socket.socket:
    """A socket that holds a loopback port and does not listen: connections are refused until somebody in this process
    listens there, and may again after that. While it is open, no other takes the port: neither who wants any, nor the
    system for a connection that goes out.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio does: both have to, to share it
    holder.bind((HOST, 0))
    return holder


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended. One that ends while it is looked at may be gone behind the opening
    of its file, which is another error than that there is no file.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@atexit.register
def _give_back() -> None:
    """Else each lock would be told of as a file that nobody has closed."""
    for lock in _taken.values():
        lock.close()


def _take(port: int) -> bool:
    locks = Path(tempfile.gettempdir()) / f"turnkeep-ports-{os.getuid()}"
    locks.mkdir(exist_ok=True)
    lock = (locks / str(port)).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.bind((HOST, port))
    except OSError:
        lock.close()
        return False
    _taken[port] = lock
    return True


class _Keeper:
    """A small process that waits for the end of this one, then kills the servers and deletes the directories left."""

    PROGRAM = """
import os, shutil, signal, sys
left = set()
for line in sys.stdin:
    (left.add if line[0] == "+" else left.discard)(line[1:].strip())
for pid in filter(str.isdigit, left):
    try:
        os.killpg(int(pid), signal.SIGKILL)
    except OSError:
        pass
for path in filter(os.path.isabs, left):
    shutil.rmtree(path, ignore_errors=True)
"""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def watch(self, pid_or_directory: int | Path) -> None:
        self._tell(f"+{pid_or_directory}")

    def forget(self, pid_or_directory: int | Path) -> None:
        self._tell(f"-{pid_or_directory}")

    def _tell(self, line: str) -> None:
        if self._process is None:
            command = [sys.executable, "-I", "-c", self.PROGRAM]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
            atexit.register(self._end)
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _end(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


_keeper = _Keeper()


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder of its own, in memory where the system has some to give: what is written there waits for no disk."""
    is_roomy = os.access(MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(MEMORY).free >= ENOUGH
    folder = Path(tempfile.mkdtemp(prefix="turnkeep-", dir=MEMORY if is_roomy else None))
    _keeper.watch(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _keeper.forget(folder)


class Server:
    """One child process with a directory; stopping it keeps the data, closing it deletes them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"turnkeep-{name}-"))
        _keeper.watch(self.directory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self) -> Self:
        """Start with the data of the last stop or kill; return when it answers. Does nothing if it runs."""
        if self.alive:
            return self
        self.kill9()  # what is left of one that ended by itself
        self._process = spawn(self._command(), self._environment(), self.directory)
        try:
            eventually(self._ready, LONG_PATIENCE, f"{self.name} on port {self.port} to answer", self._died)
        except BaseException:
            self.kill9()
            raise
        return self

    def stop(self) -> None:
        """Ask it to end and wait; ask again each second (a Redis that writes refuses); kill it if it does not."""
        if self._process is not None and self.alive:
            self.thaw()
            _ask_to_end(self._process, PATIENCE)
        self.kill9()

    def kill9(self) -> None:
        """End it as a power cut would: nothing is flushed or said."""
        if self._process is not None:
            end_process(self._process)
            self._process = None

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """The process stays but does nothing: connections hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        _keeper.forget(self.directory)

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def _ready(self) -> bool:
        raise NotImplementedError

    def _died(self) -> str | None:
        return None if self.alive else f"{self.name} ended at its start:\n{self.log()[-2000:]}"


def spawn(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> subprocess.Popen[bytes]:
    """Start a child in its own session, with its output in `directory`/log, known to the keeper."""
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _keeper.watch(process.pid)
    return process


def _ask_to_end(process: subprocess.Popen[bytes], patience: float) -> None:
    for _ in range(int(patience)):
        process.terminate()
        try:
            process.wait(1.0)
            return
        except subprocess.TimeoutExpired:
            continue


class Child(Protocol):
    """A process that was started, by `subprocess` or by `forks`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...

    def terminate(self) -> None: ...


def finish_measuring(process: Child | None) -> None:
    """Of a program that is killed nobody hears what it ran: where that is measured, it is asked to end before."""
    if COVERAGE and process is not None and process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)


def end_process(process: Child) -> None:
    """Kill a process that leads a session, and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    _keeper.forget(process.pid)


def eventually(
    holds: Callable[[], bool], patience: float, what: str, hopeless: Callable[[], str | None] = lambda: None
) -> None:
    """Wait until `holds()`; give up with a sentence after `patience` seconds or as soon as it is `hopeless`."""
    end, every = time.monotonic() + patience, 0.01
    while not holds():
        reason = hopeless()
        if reason is not None:
            raise RuntimeError(reason)
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience:.0f} s for {what}")
        time.sleep(every)
        every = less_often(every)


def exchange(port: int, request: bytes, timeout: float = 1.0) -> bytes:
    """Send some bytes on a new connection and return the first that come back, none on any failure."""
    try:
        with socket.create_connection((HOST, port), timeout) as connection:
            connection.sendall(request)
            return connection.recv(256)
    except OSError:
        return b""
