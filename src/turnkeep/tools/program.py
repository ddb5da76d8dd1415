"""A program that is started, read and surely ended: bounded in time and output, all of it gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from turnkeep.lean_dataclass import dataclass

StopProgram = Callable[[asyncio.subprocess.Process], None]
Watch = Callable[[], Awaitable[str]]
"""Returns, when a program has to end, why."""

_GRACE = 5.0
"""Seconds within which a program that was told to stop must be gone."""


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program ended.

    `exit_code` is None if it was stopped: because its time was up, or for this `reason`.
    """

    exit_code: int | None
    output: str
    reason: str = ""

    def text_for_model(self, seconds: float) -> str:
        """The output for the model, with the exit code in front unless it is 0."""
        if self.exit_code is None:
            why = f": {self.reason}" if self.reason else f" after {seconds:g} seconds"
            return f"stopped{why}; everything it started was ended\n{self.output}"
        if self.exit_code:
            # a signal as shells write it
            code = self.exit_code if self.exit_code > 0 else 128 - self.exit_code
            return f"exit code {code}\n{self.output}"
        return self.output


def kill_group(process: asyncio.subprocess.Process) -> None:
    """End a program and everything in its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def run(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: str,
    timeout: float,
    output_cap: int,
    descriptors: Sequence[int] = (),
    stop: StopProgram = kill_group,
    watch: Watch | None = None,
) -> ProgramResult:
    """Run a program with nothing to read from; output and errors are one text.

    `stop` ends it and what it has started. It is called before the first wait, so that a cancelled
    caller ends it too.
    """
    process = await _start(words, environment=environment, directory=directory, descriptors=descriptors, stop=stop)
    output = HeadAndTail(output_cap)
    is_stopped, reason = False, ""
    try:
        async with asyncio.timeout(timeout):
            reason = await _wait_for_end(process, output, watch)
    except TimeoutError:
        is_stopped = True
    finally:
        stop(process)
        await _reap(process, output)
    return ProgramResult(None if is_stopped or reason else process.returncode, output.text(), reason)


async def _wait_for_end(process: asyncio.subprocess.Process, output: HeadAndTail, watch: Watch | None) -> str:
    """Return when the program has ended ("") or has to (why)."""
    if watch is None:
        await _drain(process, output)
        return ""
    async with asyncio.TaskGroup() as group:
        end = group.create_task(_drain(process, output))
        watcher = group.create_task(_reason(watch))
        await asyncio.wait((end, watcher), return_when=asyncio.FIRST_COMPLETED)
        has_ended, reason = end.done(), watcher.result() if watcher.done() else ""
        end.cancel()
        watcher.cancel()
    return "" if has_ended else reason


async def _reason(watch: Watch) -> str:
    return await watch()


async def _drain(process: asyncio.subprocess.Process, output: HeadAndTail) -> None:
    # to the end of the pipe before the exit code: a full pipe holds a program back, and a program
    # may end before its last words are read
    await _read(process, output)
    await process.wait()


async def _start(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: str,
    descriptors: Sequence[int],
    stop: StopProgram,
) -> asyncio.subprocess.Process:
    """Start a program. A caller that is cancelled meanwhile still ends it with all it has begun.

    asyncio itself would kill only the first process then, so the start is awaited in every case.
    """
    starting = asyncio.get_running_loop().create_task(
        asyncio.create_subprocess_exec(
            *words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
            pass_fds=descriptors,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        process = await starting
        stop(process)
        await _reap(process, HeadAndTail(2))
        raise


async def _read(process: asyncio.subprocess.Process, output: HeadAndTail) -> None:
    while process.stdout is not None and (chunk := await process.stdout.read(65536)):
        output.add(chunk)


async def _reap(process: asyncio.subprocess.Process, output: HeadAndTail) -> None:
    """Wait for the end; whoever does not leave in time is killed."""
    try:
        async with asyncio.timeout(_GRACE):
            await _drain(process, output)
    except TimeoutError:
        kill_group(process)


class HeadAndTail:
    """Takes any number of bytes and remembers `cap` at most: half of the start, half of the end."""

    def __init__(self, cap: int) -> None:
        self._room = cap // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        missing = self._room - len(self._head)
        self._head += chunk[:missing]
        self._tail += chunk[missing:]
        if len(self._tail) > 2 * self._room:
            del self._tail[: -self._room]

    def text(self) -> str:
        """What is remembered, and how much is not; bytes that are no UTF-8 are replaced."""
        tail = self._tail[-self._room :]
        left_out = self.size - len(self._head) - len(tail)
        if not left_out:
            return (self._head + tail).decode("utf-8", "replace")
        head = self._head.decode("utf-8", "replace")
        return f"{head}\n[… {left_out} of {self.size} bytes left out …]\n{tail.decode('utf-8', 'replace')}"
