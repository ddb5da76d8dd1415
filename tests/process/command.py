"""`turnkeep` as one types it: in a directory of its own, with what it says on stdout and stderr kept apart."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from tests.services import free_port
from tests.services.forks import Process, start_python
from tests.services.process import COVERAGE, end_process, eventually, finish_measuring
from turnkeep.cli import server_note

PROGRAM = (sys.executable, "-m", "turnkeep")
QUICK = {"TURNKEEP_WINDOW": "0.1", "TURNKEEP_MAX_WAIT": "1", "TURNKEEP_DRAIN": "5"}


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str = ""

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """The only line of JSON."""
        [line] = self.lines
        return json.loads(line)

    @property
    def all_json(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


@dataclass
class Desk:
    """A directory in which commands are typed."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / ".turnkeep" / "turnkeep.db"

    def environment(self, changes: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), **COVERAGE, **QUICK, **self.settings, **changes}

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Said:
        """Type a command where there is no terminal. Its process is forked from one that has imported everything."""
        with tempfile.TemporaryDirectory(prefix="turnkeep-command-") as name:
            given, out, err = (Path(name, stream) for stream in ("stdin", "stdout", "stderr"))
            given.write_text(stdin)
            process = start_python(
                ["-m", "turnkeep", *arguments], self.folder, self.environment(environment),
                log=out, stdin=given, errors=err,
            )  # fmt: skip
            try:
                return Said(process.wait(PATIENCE), out.read_text(), err.read_text())
            finally:
                process.kill()
                process.wait(PATIENCE)

    def execute(self, *arguments: str, stdin: str = "", **environment: str) -> Said:
        """The same, as a program that is started anew."""
        done = subprocess.run(
            [*PROGRAM, *arguments], cwd=self.folder, env=self.environment(environment), input=stdin,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    def ask(self, *arguments: str, answer: str, **environment: str) -> Said:
        """Type a command on a terminal and answer what it asks."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*PROGRAM, *arguments], cwd=self.folder, env=self.environment({"TERM": "dumb", **environment}),
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        try:
            said = _heard(ours, until=b"[y/N]")
            os.write(ours, f"{answer}\n".encode())
            said += _heard(ours)
            return Said(process.wait(PATIENCE), said.decode().replace("\r\n", "\n"))
        finally:
            process.kill()
            process.wait(PATIENCE)
            os.close(ours)

    @contextmanager
    def running(self, *arguments: str, listens: bool = True, **environment: str) -> Iterator[Service]:
        """A command that serves, from when it listens (or only has said something) to the end of the block."""
        service = Service(self, list(arguments), free_port(), environment)
        if listens:
            service.start()
        else:
            service.begin()
            eventually(lambda: "\n" in service.log.read_text(), PATIENCE, f"{arguments} to speak", service.died)
        try:
            yield service
        finally:
            finish_measuring(service.process)
            service.kill9()


@dataclass
class Service:
    """`dev`, `serve` or nothing at all, on a port."""

    desk: Desk
    arguments: Sequence[str]
    port: int
    environment: Mapping[str, str]
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """All that it wrote since its last start, without its log lines."""
        lines = self.log.read_text(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("{"))

    @property
    def log(self) -> Path:
        return self.desk.folder / "log"

    def start(self) -> None:
        """Start it; return when it listens and has said so."""
        self.begin()
        eventually(lambda: server_note.answers(self.url), PATIENCE, f"{self.arguments} to listen", self.died)
        told = ("Ctrl-C", '{"url"')
        eventually(lambda: any(t in self.log.read_text() for t in told), PATIENCE, "its first words", self.died)

    def begin(self) -> None:
        """Start it, without waiting."""
        self.log.unlink(missing_ok=True)
        environment = self.desk.environment({"TURNKEEP_PORT": str(self.port), **self.environment})
        program = ["-m", "turnkeep", *self.arguments]
        self.process = start_python(program, self.desk.folder, environment, log=self.log)

    def died(self) -> str | None:
        if self.process is None or self.process.poll() is None:
            return None
        return f"{self.arguments} ended: {self.log.read_text()[-2000:]}"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill9(self) -> None:
        if self.process is not None:
            end_process(self.process)
            self.process = None


def _heard(terminal: int, until: bytes | None = None) -> bytes:
    """What is written to the terminal, up to a word or to the end."""
    said, end = b"", time.monotonic() + PATIENCE
    while until is None or until not in said:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError(f"heard only {said!r}")
        try:
            data = os.read(terminal, 65_536)
        except OSError:  # Linux says so when the other side is closed
            return said
        if not data:
            return said
        said += data
    return said


BUSY = "[processing] Assistant is still working on your request..."
"""Said while nothing comes for a while, as on a busy machine."""
UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
THREAD = re.compile(r"thread_[0-9a-f]{24}")
