"""A process that has nothing to do waits to be told."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp

from tests.patience import until
from tests.process.programs import Server, running

SECONDS = 5.0
MOST_WAKES = 12.0
"""A second. Five are looks whether another process has come to the file; what else looks around by itself
does so with others, at whole seconds and halves.
"""

STREAMS = 30
STREAM_WAKES = 1.0
"""A second for each: half of what they would have if each asked after its credential by itself, and far more than they
have.
"""


async def test_an_idle_service_wakes_some_times_a_second(tmp_path: Path) -> None:
    server = Server(["serve"], tmp_path, {"TURNKEEP_STORE": str(tmp_path / "a.db")})
    async with running(server):
        async with aiohttp.ClientSession() as http:
            await server.answers(http)
        process = server.process
        assert process is not None
        # not at once: it has to believe that nobody else is there; nor for sure, for a busy machine wakes it as well
        await until(lambda: is_at_rest(process.pid))


async def test_streams_in_which_nothing_happens_wake_it_hardly_more_often(tmp_path: Path) -> None:
    server = Server(["serve"], tmp_path, {"TURNKEEP_STORE": str(tmp_path / "a.db")})
    async with running(server), AsyncExitStack() as streams:
        http = await streams.enter_async_context(aiohttp.ClientSession())
        await server.answers(http)
        for number in range(STREAMS):
            path = f"{server.url}/api/channels/c{number % 3}/events"
            answer = await streams.enter_async_context(http.get(path, timeout=aiohttp.ClientTimeout(total=None)))
            assert b"subscribed" in await answer.content.readuntil(b"subscribed")
        process = server.process
        assert process is not None
        await until(lambda: is_at_rest(process.pid, MOST_WAKES + STREAMS * STREAM_WAKES))


async def is_at_rest(pid: int, most: float = MOST_WAKES) -> bool:
    before = count_wakes(pid)
    await asyncio.sleep(SECONDS)
    return (count_wakes(pid) - before) / SECONDS < most


def count_wakes(pid: int) -> int:
    """How often the threads of a process have gone to sleep."""
    lines: list[str] = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile
            lines += status.read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
