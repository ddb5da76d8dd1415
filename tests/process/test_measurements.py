"""`/metrics` of a served process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tests.process.programs import Server


async def test_a_served_process_shows_its_measurements(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        server = Server(["dev"], tmp_path, {"TURNKEEP_WINDOW": "0"})
        server.start()
        try:
            await server.answers(http)
            async with http.post(f"{server.url}/api/channels/c/messages", json={"message": "hello [[say:hi]]"}) as told:
                assert told.status == 202
            async with asyncio.timeout(30):
                while (await queue_of(http, server))["completedCount"] < 1:
                    await asyncio.sleep(0.05)
            async with http.get(f"{server.url}/metrics") as told:
                assert told.status == 200
                text = await told.text()
        finally:
            server.kill9()
    assert "# HELP" in text
    assert 'verdict="commit"' in text
    assert "hello" not in text


async def queue_of(http: aiohttp.ClientSession, server: Server) -> dict[str, int]:
    async with http.get(f"{server.url}/api/queue") as told:
        counts: dict[str, int] = await told.json()
        return counts
