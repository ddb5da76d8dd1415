"""Python programs as processes of their own, forked from one that has imported what they import.

A start costs a fork, not the half second of processor time that the imports take; all that a program shares with others
is that Python has its modules. `dev.py prove` starts each anew, and every run does so a few times: `Desk.execute`, the
children of a service of several processes, the tests of the installation, of late loading and of the examples.

Guarantees: nothing that was started here outlives the test process, however that dies. Calls may come from any thread.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.patience import PATIENCE
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
        try:
            self.pid = int(self._line(PATIENCE))
        except BaseException:
            connection.close()
            raise

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
    """The process that forks. It is one for all workers of a run, from when the first of them needs it: what it has
    imported takes a second and 140 MB. It ends with the last of them, and what a worker has started with that worker.
    """

    folder: ClassVar[Path | None] = None
    """Where the workers of this run find it; None: in a folder of its own."""
    _shared: ClassVar[ForkServer | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "socket")
        self._folder = folder
        self._owner = str(os.getpid())
        self._process: subprocess.Popen[bytes] | None = None
        self._join()

    def _join(self) -> None:
        """Be a member, of the one that is there, or of a new one."""
        with (self._folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                self._membership = self._connected()
            except OSError:  # nobody has started it, or all who used it have gone, or it has died
                if self._process is not None:
                    self._process.wait(PATIENCE)
                Path(self.path).unlink(missing_ok=True)
                self._process = launched(self._folder)
                self._membership = self._connected()
            self._membership.sendall(json.dumps({"member": self._owner}).encode() + b"\n")
        atexit.register(self._membership.close)

    @classmethod
    def shared(cls) -> ForkServer:
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls(cls.folder or made_folder())
            return cls._shared

    def start(self, order: Mapping[str, object]) -> Fork:
        try:
            connection = self._connected()
        except OSError:  # it has died, with all that it had started
            with self._lock:
                self._join()
            connection = self._connected()
        connection.sendall(json.dumps({**order, "owner": self._owner}).encode() + b"\n")
        return Fork(connection)

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            raise
        return connection


def launched(folder: Path) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **COVERAGE}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.services.fork_server", str(folder)], cwd=CHECKOUT, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"ready\n", "the process that forks programs did not start"
    return process


def made_folder() -> Path:
    """A folder in which the workers of a run meet; it is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="turnkeep-forks-"))
    (folder / "maker").write_text(str(os.getpid()))
    atexit.register(remove_folder, folder)
    return folder


def remove_folder(folder: Path) -> None:
    """Not before the process that forks has ended: what measures it writes a file then."""
    if not folder.exists():
        return
    with (folder / "alive").open("w") as handle:
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
