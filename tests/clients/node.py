"""A program of Node or Python that drives a client: told what to do line by line in JSON, it answers each with one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from tests.services.programs import older_packages, packages, program

HERE = Path(__file__).parent


class Driver:
    """One process of Node, for as many clients as a file of tests needs: starting one takes longer than a test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0

    async def ask(self, act: str, **about: Any) -> Any:
        """What the program answers to this act; several may be under way. Its error is raised."""
        self._count += 1
        number, answer = self._count, asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        line = json.dumps({"number": number, "act": act, **about})
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            answer = self._answers.pop(told["number"])
            if answer.done():
                continue
            if "error" in told:
                answer.set_exception(RuntimeError(told["error"]))
            else:
                answer.set_result(told.get("answer"))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(RuntimeError("the program has ended"))


@contextlib.asynccontextmanager
async def driver(dialect: str, script: str) -> AsyncIterator[Driver]:
    """`script` of the folder of a dialect, running beside its packages."""
    packages(HERE / dialect)
    async with _driving([program("node"), script], HERE / dialect) as told:
        yield told


@contextlib.asynccontextmanager
async def python_driver(dialect: str, script: str, *, older: bool) -> AsyncIterator[Driver]:
    """The same in Python: beside the packages of the tests, or with the older ones of the folder before them."""
    places = [str(older_packages(HERE / dialect))] if older else []
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(places)}
    async with _driving([sys.executable, script], HERE / dialect, environment) as told:
        yield told


@contextlib.asynccontextmanager
async def _driving(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Driver]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, limit=1 << 24, env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told = Driver(process)
    listening = asyncio.get_running_loop().create_task(told.listen())
    try:
        yield told
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        listening.cancel()
