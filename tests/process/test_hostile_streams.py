"""Server-sent events to whoever comes back with a position: good, lost, or none of ours."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.served import Served, served


async def first_frame(server: Served, channel: str, **headers: str) -> tuple[str, dict[str, Any]]:
    """The id and the frame of the first event."""
    lines: list[str] = []
    async with (
        asyncio.timeout(PATIENCE),
        server.http.get(f"{server.url}/api/channels/{channel}/events", headers=headers) as stream,
    ):
        assert stream.status == 200
        while not any(line.startswith("data:") for line in lines):
            lines.append((await stream.content.readline()).decode().rstrip())
    position = next((line.removeprefix("id: ") for line in lines if line.startswith("id:")), "")
    return position, json.loads(lines[-1].removeprefix("data: "))


async def test_a_stream_says_where_it_begins_and_whether_anything_is_missing() -> None:
    async with served() as server:
        await server.queue.ask("c", "hello")
        position, begun = await first_frame(server, "c")
        assert (begun["type"], begun["status"], begun["recovered"]) == ("status", "subscribed", False)
        assert position == f"{begun['epoch']}:{begun['offset']}"
        assert begun["offset"] == begun["top"] > 0

        again, returned = await first_frame(server, "c", **{"Last-Event-ID": position})
        assert (again, returned["recovered"]) == (position, True)


@pytest.mark.parametrize(("position", "begins"), [("another:1", "log"), ("{epoch}:9999", "answer"), (":7", "now")])
async def test_a_position_that_is_lost_is_told(position: str, begins: str) -> None:
    """Of another log everything was missed; a log that has lost its end still holds its last answer."""
    async with served() as server:
        await server.queue.ask("c", "hello")
        _, now = await first_frame(server, "c")
        _, begun = await first_frame(server, "c", **{"Last-Event-ID": position.format(epoch=now["epoch"])})
        assert begun["recovered"] is False
        assert begun["offset"] == {"log": 0, "answer": now["top"] - 1, "now": now["top"]}[begins]


async def test_a_position_from_before_the_first_event_misses_nothing() -> None:
    async with served() as server:
        position, _ = await first_frame(server, "c")
        await server.queue.ask("c", "hello")
        _, begun = await first_frame(server, "c", **{"Last-Event-ID": position})
        assert (begun["recovered"], begun["offset"]) == (True, 0)
