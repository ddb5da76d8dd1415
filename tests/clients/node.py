"""A program of Node that drives a client: told what to do line by line in JSON, it answers each line with one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.services.programs import packages, program

HERE = Path(__file__).parent
PATIENCE = 60.0


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
                answer.set_exception(RuntimeError("the program of Node has ended"))


@contextlib.asynccontextmanager
async def driver(dialect: str, script: str) -> AsyncIterator[Driver]:
    """`script` of the folder of a dialect, running beside its packages."""
    packages(HERE / dialect)
    process = await asyncio.create_subprocess_exec(
        program("node"), script, cwd=HERE / dialect, limit=1 << 24,
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
