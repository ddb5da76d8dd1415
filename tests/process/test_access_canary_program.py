"""A server with a secret in every setting that takes one, whose every outside is away: no secret is in what it tells.

It is asked by its model for the environment, in its sandbox, and for the weather; its traces go to a collector here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import websockets
from aiohttp import web
from pydantic import SecretStr

from tests.process.command import Desk
from tests.process.programs import Server
from tests.process.served import heard
from tests.services import free_port
from turnkeep.settings import Settings
from turnkeep.simulator import Fault, Simulator, serve
from turnkeep.tools.sandbox import probe

CANARY = "canary5b2e90ac17"
ADDRESSES = ("REDIS_URL", "RABBITMQ_URL", "WEBSOCKET_URL", "TURNKEEP_WEBHOOK_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Settings whose address may hold a password; a proxy for the model may too, and is left to the doctor."""
PATHS = ("/", "/dashboard", "/healthz", "/readyz", "/metrics", "/api/openapi.json", "/api/queue", "/api/dead",
         "/api/threads", "/api/assistants", "/api/session", "/api/channels/c/messages", "/api/channels/c/runs",
         "/api/channels/c/messages/m0", "/api/channels/c")  # fmt: skip
VERBS = ("doctor --offline", "doctor --json --offline", "keys list", "queue status", "queue dead list --json",
         "threads list --json", "threads export", "assistants list --json", "trace m0", "actions list")  # fmt: skip
LOOK = "env; set; cat /proc/*/environ; cat ../.env .env ~/.env; printenv; true"
QUESTIONS = {
    "the provider repeats the key": "[[say:hello]] fail-me",
    "the sandbox is asked for the environment": f"[[call:execute_bash {json.dumps({'command': LOOK})}]]",
    "the weather service repeats its key": '[[call:get_weather {"city": "Paris"}]]',
    "a file above the workspace is read": '[[call:read_file {"path": "../secret.env"}]]',
}


def secret(name: str) -> str:
    return f"{CANARY}-{name.lower().replace('_', '-')}-and-so-on-to-32-bytes"


def names_of_secrets() -> list[str]:
    """Environment names of every setting that is a secret by its type."""
    fields = Settings.model_fields.values()
    secret_ones = [one for one in fields if SecretStr in getattr(one.annotation, "__args__", ())]
    return [str(one.validation_alias.choices[0]) for one in secret_ones]  # type: ignore[union-attr]


@dataclass
class Outside:
    """A weather service that repeats the query it was asked with, and a collector of traces."""

    url: str = ""
    traces: list[bytes] = field(default_factory=list)

    async def weather(self, request: web.Request) -> web.Response:
        return web.Response(status=401, text=f"wrong key in {request.url}", headers={"x-asked": str(request.url)})

    async def collect(self, request: web.Request) -> web.Response:
        self.traces.append(await request.read())
        return web.Response()


@contextlib.asynccontextmanager
async def outsides() -> AsyncIterator[Outside]:
    outside = Outside()
    application = web.Application()
    application.router.add_get("/weather", outside.weather)
    application.router.add_post("/v1/traces", outside.collect)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    outside.url = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield outside
    finally:
        await runner.cleanup()


def environment(model_url: str, outside: Outside, folder: Path) -> dict[str, str]:
    away = free_port()
    schemes = {"REDIS_URL": "redis", "RABBITMQ_URL": "amqp", "WEBSOCKET_URL": "ws", "TURNKEEP_WEBHOOK_URL": "http"}
    addresses = {name: f"{scheme}://user:{secret(name)}@127.0.0.1:{away}/x" for name, scheme in schemes.items()}
    otel = f"http://user:{secret('OTEL_EXPORTER_OTLP_ENDPOINT')}@{outside.url}"
    return {
        **{name: secret(name) for name in names_of_secrets()},
        **addresses,
        "OTEL_EXPORTER_OTLP_ENDPOINT": otel,
        "TURNKEEP_STORE": "turnkeep.db",
        "TURNKEEP_TENANT_TOOLS": "{}",
        "TURNKEEP_STORE_KEYS": f"k1:{CANARY.ljust(43, 'A')}=",
        "TURNKEEP_WEBHOOK_SECRET": f"whsec_{CANARY}{'a' * 24}",
        "TURNKEEP_WEBHOOK_ALLOW_PRIVATE": "true",
        "TURNKEEP_AMQP_REPLY_EXCHANGE": "replies",
        "OPENAI_BASE_URL": model_url,
        "OPENAI_API_KEY": f"sk-{secret('OPENAI_API_KEY')}",
        "TURNKEEP_MODEL_API": "responses",
        "TURNKEEP_OPENWEATHER_URL": f"http://{outside.url}/weather",
        "TURNKEEP_WORKSPACE": str(folder / "work"),
        "TURNKEEP_ALLOW_BASH": "true" if probe().refusal is None else "false",
        "TURNKEEP_WINDOW": "0",
        "TURNKEEP_MAX_ATTEMPTS": "1",
        "TURNKEEP_LOG_LEVEL": "debug",
        "TURNKEEP_LOG_FORMAT": "json",
    }


def bearer() -> dict[str, str]:
    claims = {"sub": "olga", "aud": "turnkeep", "exp": time.time() + 600, "channels": ["*"], "scope": "send read admin"}
    return {"Authorization": f"Bearer {jwt.encode(claims, secret('TURNKEEP_JWT_SECRET'), algorithm='HS256')}"}


def test_every_setting_that_takes_a_secret_is_known_to_this_test() -> None:
    assert {"OPENAI_API_KEY", "TURNKEEP_JWT_SECRET", "TURNKEEP_WEBHOOK_SECRET", "OPENWEATHER_API_KEY"} <= set(
        names_of_secrets()
    )


@pytest.mark.prove
@pytest.mark.timeout(240)
async def test_a_program_with_a_secret_in_every_setting_tells_none(
    tmp_path: Path, proof: Callable[[str, str], None]
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "secret.env").write_text(f"A={secret('file')}\n")
    simulator = Simulator()
    simulator.faults.append(Fault(kind="400", match="fail-me", message=f"wrong key sk-{secret('OPENAI_API_KEY')}"))
    async with serve(simulator) as model_url, outsides() as outside, aiohttp.ClientSession() as http:
        settings = environment(model_url, outside, tmp_path)
        server = Server(["serve"], tmp_path, settings)
        server.start()
        try:
            await server.answers(http)
            out = await said_by(server, http)
            out |= await asyncio.to_thread(said_by_verbs, tmp_path, settings)
        finally:
            server.send(signal.SIGTERM)
            await asyncio.to_thread(server.wait)
        out["logs"] = server.log
        out["traces"] = b"".join(outside.traces).decode("latin-1")
        out["model"] = "".join(repr(exchange) for exchange in simulator.ledger)
    found = {place: said.count(CANARY) for place, said in out.items() if CANARY in said}
    planted = sum(CANARY in value for value in settings.values()) + 1
    sizes = f"characters {sum(map(len, out.values()))}"
    proof("canary program", f"secrets planted {planted} | places {len(out)} | {sizes} | found {sum(found.values())}")
    assert found == {}
    assert "run_settled" in out["logs"]
    assert "[secret]" in out["logs"], "nothing was there to be hidden"
    has_bash = probe().refusal is None
    for asked in ("refuses the API key", "leads upwards", *(("HOSTNAME=workspace",) if has_bash else ())):
        assert asked in out["/api/channels/c/messages"], "the tools were not asked"
    assert "invoke_agent" in out["traces"]
    assert "error_details" in out["frames"]
    assert all(out.values())


async def said_by(server: Server, http: aiohttp.ClientSession) -> dict[str, str]:
    """Frames of every question, and what every route answers, to us and to nobody."""
    out = {"frames": json.dumps(await frames(server))}
    for path in PATHS:
        async with http.get(server.url + path, headers=bearer()) as told:
            out[path] = f"{told.status} {dict(told.headers)} {await told.text()}"
        wrong = {"Authorization": f"Bearer {secret('TURNKEEP_JWT_SECRET')}"}
        async with http.get(server.url + path, headers=wrong) as told:
            out[f"{path} refused"] = f"{told.status} {dict(told.headers)} {await told.text()}"
    return out


async def frames(server: Server) -> list[dict[str, Any]]:
    """Everything that is told on the socket, until each question has its end; what is held is approved."""
    told: list[dict[str, Any]] = []
    url = server.url.replace("http", "ws") + "/ws"
    async with websockets.connect(url, additional_headers=bearer(), max_size=None) as socket:
        await socket.send(json.dumps({"action": "subscribe", "channel": "c", "events": "all"}))
        for number, text in enumerate(QUESTIONS.values()):
            await socket.send(json.dumps({"channel": "c", "message_id": f"m{number}", "message": text}))
            while not _ends(told[-1] if told else {}, f"m{number}"):
                told.append(await heard(socket, patience=60))
                for call in told[-1].get("calls", []) if told[-1].get("status") == "processing" else []:
                    decision = {"call_id": call["call_id"], "digest": call["digest"], "decision": "approved"}
                    await socket.send(json.dumps({"action": "decide", "channel": "c", **decision}))
    return told


def _ends(frame: Mapping[str, Any], message_id: str) -> bool:
    is_end = frame.get("final_message") or (frame.get("type") == "error" and "run_id" in frame)
    return bool(is_end) and frame.get("message_id") == message_id


def said_by_verbs(folder: Path, settings: dict[str, str]) -> dict[str, str]:
    out = {}
    proxied = {**settings, "TURNKEEP_MODEL_PROXY": f"http://user:{secret('proxy')}@127.0.0.1:9"}
    for verb in VERBS:
        said = Desk(folder, proxied).run(*verb.split())
        out[verb] = f"{said.code} {said.out} {said.err}"
    return out
