"""A canary in every secret that is set: it is in nothing that comes out."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.served import Served, ask, frames_until_final, served
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.doors.server import secrets_in
from turnkeep.simulator import Fault
from turnkeep.telemetry import configure_logging
from turnkeep.telemetry.redaction import know

CANARY = "canary9f1c7e55d2"
SECRET = f"{CANARY}-and-more-so-that-it-is-a-secret-of-32-bytes"
MODEL_KEY = f"sk-{CANARY}-key-of-the-model"
PATHS = ("/api/queue", "/api/dead", "/api/threads", "/api/channels/c/runs", "/api/channels/c/messages",
         "/api/openapi.json", "/readyz", "/metrics")  # fmt: skip


@pytest.mark.prove
async def test_a_secret_that_is_set_comes_out_nowhere(proof: Callable[[str, str], None], tmp_path: Path) -> None:
    lines = io.StringIO()
    configure_logging(level="debug", format="json")
    logging.getLogger().handlers[0].setStream(lines)  # type: ignore[attr-defined]
    out = await said_by_the_doors()
    out["doctor"] = await said_by_doctor(tmp_path)
    out["logs"] = lines.getvalue()
    found = {name: said.count(CANARY) for name, said in out.items()}
    proof("canary", f"places {len(out)} | characters {sum(map(len, out.values()))} | found {sum(found.values())}")
    assert "[secret]" in out["logs"], "nothing was there to be hidden"
    assert all(out.values())
    assert not any(found.values()), found


async def said_by_the_doors() -> dict[str, str]:
    """Everything that a run says whose provider repeats our key, and somebody logs it."""
    secrets: dict[str, Any] = dict.fromkeys(("jwt_secret", "webhook_secret", "openweather_api_key"), SECRET)
    async with served(auth="on", max_attempts=1, **{**secrets, "openai_api_key": MODEL_KEY}) as server:
        know(secrets_in(server.queue.settings))
        message = f"Incorrect key provided: {MODEL_KEY}. Authorization: Bearer {MODEL_KEY}"
        server.simulator.faults.append(Fault(kind="400", message=message))
        value, _ = await ApiKeys(server.queue.store).create(scopes=("send", "read", "admin"))
        headers = {"Authorization": f"Bearer {value}"}
        logging.getLogger("somebody.else").error("%s and %s failed", {"x-key": SECRET}, MODEL_KEY)
        out = {"frames": json.dumps(await frames_of_a_dead_message(server, headers))}
        for path in PATHS:
            async with server.http.get(server.url + path, headers=headers) as told:
                out[path] = await told.text()
        out["stream"] = await beginning_of_stream(server, headers)
        async with server.http.get(f"{server.url}/api/queue", headers={"Authorization": f"Bearer {SECRET}"}) as told:
            out["refusal"] = await told.text()
        out["settings"] = repr(server.queue.settings)
        assert "error_details" in out["frames"]
        assert value.rpartition("_")[2] not in repr(await server.queue.store.list("key", "*"))
        return out


async def frames_of_a_dead_message(server: Served, headers: dict[str, str]) -> list[Any]:
    async with server.socket(additional_headers=headers) as socket:
        await ask(socket, {"action": "subscribe", "channel": "c", "events": "all"})
        await socket.send(json.dumps({"channel": "c", "message": "hello", "message_id": "m1", "flush": True}))
        return await frames_until_final(socket, "m1")


async def beginning_of_stream(server: Served, headers: dict[str, str]) -> str:
    """All that was ever said on the channel."""
    page = await server.queue.store.read(server.queue.address("c"), after=0)
    url = f"{server.url}/api/channels/c/events?events=all&after={page.epoch}:0"
    text = ""
    async with asyncio.timeout(PATIENCE), server.http.get(url, headers=headers) as stream:
        while '"error_details"' not in text:
            text += (await stream.content.readany()).decode()
    return text


async def said_by_doctor(directory: Path) -> str:
    names = ("OPENAI_API_KEY", "TURNKEEP_JWT_SECRET", "TURNKEEP_WEBHOOK_SECRET", "OPENWEATHER_API_KEY")
    secrets = {**dict.fromkeys(names, SECRET), "REDIS_URL": f"redis://user:{SECRET}@127.0.0.1:1/0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "turnkeep", "doctor", "--offline",
        cwd=directory, env={**os.environ, **secrets}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        said, _ = await process.communicate()
    return said.decode()
