"""Programs are read within a cap and surely ended."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeep.tools.program import HeadAndTail, ProgramResult, run


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(2, 64))
def test_head_and_tail_are_remembered_and_nothing_else(chunks: list[bytes], cap: int) -> None:
    whole = b"".join(chunks).replace(b"\xff", b"x")
    collected = HeadAndTail(cap)
    position = 0
    for chunk in chunks:
        collected.add(whole[position : position + len(chunk)])
        position += len(chunk)

    text = collected.text()

    assert collected.size == len(whole)
    if len(whole) <= cap // 2 * 2:
        assert text == whole.decode("utf-8", "replace")
    else:
        room = cap // 2
        assert text.startswith(whole[:room].decode("utf-8", "replace"))
        assert text.endswith(whole[-room:].decode("utf-8", "replace"))
        assert f"{len(whole) - 2 * room} of {len(whole)} bytes left out" in text


async def started(*words: str, timeout: float = 30.0) -> ProgramResult:
    return await run(words, environment={"A": "b"}, directory="/", timeout=timeout, output_cap=1000)


async def test_output_errors_and_exit_code_are_told() -> None:
    finished = await started("/bin/sh", "-c", "echo out; echo err >&2; echo $A; pwd; exit 3")

    assert finished == ProgramResult(3, "out\nerr\nb\n/\n")
    assert finished.text_for_model(1) == "exit code 3\nout\nerr\nb\n/\n"


async def test_there_is_nothing_to_read() -> None:
    assert await started("/bin/sh", "-c", "cat; echo end") == ProgramResult(0, "end\n")


async def test_a_signal_is_told_as_shells_do() -> None:
    finished = await started("/bin/sh", "-c", "kill -9 $$")

    assert finished.text_for_model(1) == "exit code 137\n"


@contextmanager
def watched() -> Iterator[tuple[int, int]]:
    """A pipe that a program inherits: it ends when the program and all its children are gone."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)


async def test_a_program_that_takes_too_long_is_stopped_with_its_children() -> None:
    words = ("/bin/sh", "-c", "sleep 1000 & sleep 1000")
    with watched() as (reading, writing):
        finished = await run(words, environment={}, directory="/", timeout=0.5, output_cap=100, descriptors=(writing,))
        os.close(writing)

        assert finished == ProgramResult(None, "")
        assert finished.text_for_model(0.5).startswith("stopped after 0.5 seconds")
        assert await asyncio.to_thread(os.read, reading, 1) == b""


async def test_a_cancelled_caller_ends_the_program() -> None:
    """Written to by its path: dash knows descriptors of one digit only."""
    with watched() as (reading, writing):
        words = ("/bin/sh", "-c", f"echo x > /dev/fd/{writing}; sleep 1000 & sleep 1000")
        work = run(words, environment={}, directory="/", timeout=1000, output_cap=100, descriptors=(writing,))
        task = asyncio.create_task(work)
        assert await asyncio.to_thread(os.read, reading, 10) == b"x\n"
        os.close(writing)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await asyncio.to_thread(os.read, reading, 1) == b""


@pytest.mark.parametrize("turns", range(6))
async def test_a_caller_that_is_cancelled_during_the_start_ends_the_program(turns: int) -> None:
    with watched() as (reading, writing):
        words = ("/bin/sh", "-c", "sleep 1000 & sleep 1000")
        work = run(words, environment={}, directory="/", timeout=1000, output_cap=100, descriptors=(writing,))
        task = asyncio.create_task(work)
        for _ in range(turns):
            await asyncio.sleep(0)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        os.close(writing)

        assert await asyncio.to_thread(os.read, reading, 1) == b""


async def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        await started("/nowhere/program")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="confinement is for Linux")
def test_the_launcher_needs_only_the_standard_library_and_refuses_with_a_code() -> None:
    import subprocess

    from turnkeep.tools import confine

    plan = '{"groups": ["/nowhere/cgroup.procs"], "limits": {}, "bubblewrap": false, "programs": true}'
    done = subprocess.run(
        [sys.executable, "-I", "-S", confine.__file__, plan], capture_output=True, text=True, check=False, env={}
    )

    assert done.returncode == confine.CONFINE_FAILED
    assert "cannot confine" in done.stderr
