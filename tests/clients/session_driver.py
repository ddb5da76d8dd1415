"""A program of Node or Python for a session, whatever the loops of its tests: to start one takes longer than a test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tests.clients.node import HERE, Driver
from tests.patience import PATIENCE
from tests.services.programs import older_packages, packages, program


class SessionDriver(Driver):
    """As `Driver`, with a thread that listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._program = process
        self._futures: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        threading.Thread(target=self._listen, daemon=True).start()

    async def ask(self, act: str, **about: Any) -> Any:
        number, answer = next(self._numbers), Future[Any]()
        self._futures[number] = answer
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps({"number": number, "act": act, **about}) + "\n")
        self._program.stdin.flush()
        async with asyncio.timeout(PATIENCE):
            return await asyncio.wrap_future(answer)

    def _listen(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            told = json.loads(line)
            answer = self._futures.pop(told["number"])
            if not answer.set_running_or_notify_cancel():
                continue
            if "error" in told:
                answer.set_exception(RuntimeError(told["error"]))
            else:
                answer.set_result(told.get("answer"))
        for answer in self._futures.values():
            if answer.set_running_or_notify_cancel():
                answer.set_exception(RuntimeError("the program has ended"))


@contextlib.contextmanager
def session_driver(dialect: str, script: str) -> Iterator[Driver]:
    """`script` of the folder of a dialect, running beside its packages."""
    packages(HERE / dialect)
    with _driving([program("node"), script], HERE / dialect) as told:
        yield told


@contextlib.contextmanager
def session_python_driver(dialect: str, script: str, *, older: bool) -> Iterator[Driver]:
    """The same in Python: beside the packages of the tests, or with the older ones of the folder before them."""
    places = [str(older_packages(HERE / dialect))] if older else []
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(places)}
    with _driving([sys.executable, script], HERE / dialect, environment) as told:
        yield told


@contextlib.contextmanager
def _driving(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Driver]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield SessionDriver(process)
        finally:
            process.kill()
