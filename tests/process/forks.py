"""Commands of turnkeep as processes of their own, each forked from one that has imported everything.

All they share is that Python has its modules, which takes longer to come by than what most of them do. The forking
process has no threads, opens nothing, and says which of its children have ended.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.patience import PATIENCE
from tests.services.process import watch

PROGRAM = """
import json, os, signal, sys
import turnkeep.cli
from importlib import import_module
for verb in turnkeep.cli.VERBS.values():
    import_module(verb.module)
for name in MODULES:
    import_module(name)

numbers = {}

def reap(*_):
    try:
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            os.write(1, f"ended {numbers.pop(ended[0])} {os.waitstatus_to_exitcode(ended[1])}\\n".encode())
    except ChildProcessError:
        pass

def become(told):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setsid()
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    for number, (path, flags) in enumerate(told["streams"]):
        handle = os.open(path, flags, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = open(0)
    sys.argv = ["turnkeep", *told["arguments"]]
    return turnkeep.cli.main(told["arguments"])

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, reap)
for number, line in enumerate(sys.stdin):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # that one has begun is said before that it has ended
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = become(json.loads(line))
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    numbers[child] = number
    os.write(1, f"began {number} {child}\\n".encode())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
"""
MODULES = (
    "turnkeep.doors.http.endpoint", "turnkeep.doors.server", "turnkeep.doors.app", "turnkeep.store.sqlite",
    "turnkeep.store.redis", "turnkeep.simulator", "turnkeep.models", "turnkeep.runs.worker", "turnkeep.composition",
    "turnkeep.doors.amqp.consumer", "uvloop", "websockets", "aiohttp", "aio_pika",
)  # fmt: skip

Stream = tuple[Path, int]


class Fork:
    """One of them, as `subprocess.Popen` has it."""

    def __init__(self, number: int, pid: int, forks: Forks) -> None:
        self.pid = pid
        self._number = number
        self._forks = forks
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.code_of(self._number, 0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._forks.code_of(self._number, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("turnkeep", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Fork:
    """A command in this folder, in a session of its own; what it says is appended to the file `log` there."""
    (folder / "log").touch()
    log = (folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    process = Forks.shared().start(arguments, folder, environment, [(Path(os.devnull), os.O_RDONLY), log, log])
    watch(process)
    return process


class Forks:
    """The process that forks."""

    _shared: ClassVar[Forks | None] = None

    def __init__(self) -> None:
        program = PROGRAM.replace("MODULES", repr(MODULES))
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._asking = threading.Lock()
        self._news = threading.Condition()
        self._count = 0
        self._pids: dict[int, int] = {}
        self._codes: dict[int, int] = {}
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self._end)

    @classmethod
    def shared(cls) -> Forks:
        if cls._shared is None:
            cls._shared = cls()
        return cls._shared

    def start(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], streams: Sequence[Stream]
    ) -> Fork:
        told = {
            "arguments": list(arguments), "folder": str(folder), "environment": dict(environment),
            "streams": [(str(path), flags) for path, flags in streams],
        }  # fmt: skip
        assert self._process.stdin is not None
        with self._asking:
            number, self._count = self._count, self._count + 1
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
        with self._news:
            if not self._news.wait_for(lambda: number in self._pids, PATIENCE):
                raise TimeoutError("the process that forks says nothing")
            return Fork(number, self._pids.pop(number), self)

    def code_of(self, number: int, timeout: float | None) -> int | None:
        """How it has ended; None if it has not within this time."""
        with self._news:
            self._news.wait_for(lambda: number in self._codes, timeout)
            return self._codes.get(number)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, number, figure = line.split()
            with self._news:
                (self._pids if what == "began" else self._codes)[int(number)] = int(figure)
                self._news.notify_all()

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
