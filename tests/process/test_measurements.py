"""`/metrics` of a served process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tests.patience import PATIENCE
from tests.process.programs import Server


async def test_a_served_process_shows_its_measurements(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        server = Server(["dev"], tmp_path, {"TURNKEEP_WINDOW": "0"})
        server.start()
        try:
            await server.answers(http)
            async with http.post(f"{server.url}/api/channels/c/messages", json={"message": "hello [[say:hi]]"}) as told:
                assert told.status == 202
            async with asyncio.timeout(PATIENCE):
                while 'verdict="commit"' not in (text := await metrics_of(http, server)):
                    await asyncio.sleep(0.05)
        finally:
            server.kill9()
    assert "# HELP" in text
    assert "hello" not in text


async def metrics_of(http: aiohttp.ClientSession, server: Server) -> str:
    async with http.get(f"{server.url}/metrics") as told:
        assert told.status == 200
        return await told.text()
