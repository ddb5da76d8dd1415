"""Python programs as processes of their own, forked from one that has imported what they import.

A start costs a fork, not the half second of processor time that the imports take; all that a program shares with others
is that Python has its modules. `dev.py prove` starts each anew, and every run does so a few times: `Desk.execute`, the
children of a service of several processes, the tests of the installation, of late loading and of the examples.

Guarantees: nothing that was started here outlives the test process, however that dies. Calls may come from any thread.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.services.process import COVERAGE

LONGEST = 107
"""Bytes of the path of a socket (unix(7)); a folder for temporary files may be deeper."""
FORKS = (
    os.environ.get("TURNKEEP_PROVE") != "1"
    and hasattr(os, "fork")
    and len(os.fsencode(tempfile.gettempdir())) + len("/turnkeep-forks-12345678/socket") <= LONGEST
)
OF_THE_START = ("PYTHON", "LANG", "LC_", "TZ")
"""What Python reads of its environment before anything is imported: who is told such a thing is started anew."""
CHECKOUT = Path(__file__).parents[2]


def start_python(
    program: Sequence[str], folder: Path, environment: Mapping[str, str], *, log: Path, stdin: Path = Path(os.devnull),
    errors: Path | None = None,
) -> Process:  # fmt: skip
    """Start `python PROGRAM` (`-m module …` or `-c code …`) in a session of its own. What it says is added to `log`,
    what it complains of to `errors` if that is named.
    """
    for said in (log, errors or log):
        said.touch()
    told = [name for name in environment if name.startswith(OF_THE_START) and name != "PYTHONPATH"]
    if FORKS and program[0] in ("-m", "-c") and not told:
        order = {
            "program": list(program), "folder": str(folder), "environment": dict(environment), "stdin": str(stdin),
            "stdout": str(log), "stderr": str(errors or log),
        }  # fmt: skip
        return ForkServer.shared().start(order)
    with stdin.open("rb") as given, log.open("ab") as out, (errors or log).open("ab") as err:
        return subprocess.Popen(
            [sys.executable, *program], cwd=folder, env=dict(environment), stdin=given, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip


class Fork:
    """A process as `subprocess.Popen` has them, of which another one is the parent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._heard = b""
        self.returncode: int | None = None
        self.pid = int(self._line(None))

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        if self._lock.acquire(blocking=False):  # else another thread waits for it, and hears of it first
            try:
                with contextlib.suppress(TimeoutError, BlockingIOError):
                    self._hear_the_end(0.0)
            finally:
                self._lock.release()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        try:
            with self._lock:
                return self._hear_the_end(timeout)
        except (TimeoutError, BlockingIOError):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _hear_the_end(self, timeout: float | None) -> int:
        if self.returncode is None:
            self.returncode = int(self._line(timeout))
            self._connection.close()
        return self.returncode

    def _line(self, timeout: float | None) -> bytes:
        self._connection.settimeout(timeout)
        while b"\n" not in self._heard:
            heard = self._connection.recv(64)
            if not heard:
                raise RuntimeError("the process that forks the programs of the tests has ended")
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        return line


Process = subprocess.Popen[bytes] | Fork


class ForkServer:
    """The process that forks; one for each worker of pytest, from when it is first needed."""

    _shared: ClassVar[ForkServer | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="turnkeep-forks-"))
        self._place = str(self._folder / "socket")
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), **COVERAGE}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.services.fork_server", self._place], cwd=CHECKOUT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._is_ready = False
        atexit.register(self._end)

    @classmethod
    def shared(cls) -> ForkServer:
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls()
            return cls._shared

    def start(self, order: Mapping[str, object]) -> Fork:
        self._wait_until_ready()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._place)
        connection.sendall(json.dumps(order).encode() + b"\n")
        return Fork(connection)

    def _wait_until_ready(self) -> None:
        with self._lock:
            if not self._is_ready:
                assert self._process.stdout is not None
                assert self._process.stdout.readline() == b"ready\n", "the process that forks programs did not start"
                self._is_ready = True

    def _end(self) -> None:
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)
