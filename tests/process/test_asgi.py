"""Mounted in somebody's application: who is let in, how the queue is found, and what is changed over either door."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import aiohttp
import pytest
import uvicorn
import websockets
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

import turnkeep.asgi
from tests.late_import import late_import
from tests.patience import PATIENCE
from tests.process.served import ask, heard, served
from tests.scenario.house import QUICK
from tests.services import free_port
from turnkeep import AssistantMessageQueue
from turnkeep.asgi import Principal
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.errors import ConfigurationError
from turnkeep.simulator import Simulator, serve

if TYPE_CHECKING:
    import fastapi
else:
    fastapi = late_import("fastapi")  # takes half a second to load


@contextlib.asynccontextmanager
async def running(application: ASGIApp) -> AsyncIterator[str]:
    """Under uvicorn in this process; yields its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, port=port, log_config=None, ws="websockets-sansio"))
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server._serve())
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True


@pytest.fixture
async def queue() -> AsyncIterator[AssistantMessageQueue]:
    async with serve(Simulator()) as url:
        settings: dict[str, Any] = {**QUICK, "model_api": "responses", "message_delay": None}
        yield AssistantMessageQueue(store="memory:", base_url=url, openai_api_key="sk-test", **settings)


async def who(connection: HTTPConnection) -> Principal | None:
    user = connection.headers.get("x-user")
    return Principal(subject=user, scopes=frozenset({"send", "read"}), channels=(f"{user}:*",)) if user else None


async def test_a_mounted_application_knows_people_by_the_one_around_it(queue: AssistantMessageQueue) -> None:
    application = fastapi.FastAPI(lifespan=turnkeep.asgi.lifespan(queue))
    application.mount("/chat", turnkeep.asgi.app(queue, access=who))
    ann = {"X-User": "ann"}
    async with running(application) as url, aiohttp.ClientSession(f"{url}/chat/") as http:
        assert await status(http, "api/channels/ann:1/messages", {}) == 401
        assert await status(http, "api/channels/bob:1/messages", ann) == 403
        assert await status(http, "api/channels/ann:1/messages", ann) == 202
        async with http.post("api/tickets", headers=ann) as told:
            ticket = (await told.json())["ticket"]
        offered = [websockets.Subprotocol("turnkeep"), websockets.Subprotocol(f"ticket.{ticket}")]
        async with websockets.connect(f"{url.replace('http', 'ws')}/chat/ws", subprotocols=offered) as socket:
            frame = {"action": "subscribe", "channel": "ann:1"}
            assert (await ask(socket, frame | {"channel": "bob:1"}))["code"] == "not_allowed"
            assert (await ask(socket, frame))["status"] == "subscribed"  # last: from now on the answer is told


async def status(http: aiohttp.ClientSession, path: str, headers: dict[str, str]) -> int:
    async with http.post(path, json={"message": "hello", "message_id": "m"}, headers=headers) as told:
        return told.status


async def test_without_a_word_on_access_only_this_machine_is_answered(queue: AssistantMessageQueue) -> None:
    async with running(turnkeep.asgi.app(queue)) as url, aiohttp.ClientSession(f"{url}/") as http:
        assert await status(http, "api/channels/c/messages", {}) == 202
        assert await status(http, "api/channels/c/messages", {"X-Forwarded-For": "127.0.0.1"}) == 403
        assert await status(http, "api/channels/c/messages", {"X-Forwarded-For": "203.0.113.9"}) == 403


async def test_a_key_that_was_made_is_asked_for(queue: AssistantMessageQueue) -> None:
    await queue.open()
    await ApiKeys(queue.store).create(tenant="default", name="app", scopes=["send"])
    async with running(turnkeep.asgi.app(queue)) as url, aiohttp.ClientSession(f"{url}/") as http:
        assert await status(http, "api/channels/c/messages", {"X-Forwarded-For": "203.0.113.7"}) == 401
        assert await status(http, "api/channels/c/messages", {}) == 401


async def test_behind_a_proxy_a_key_is_asked_for_also_of_the_first_who_come(queue: AssistantMessageQueue) -> None:
    proxied = {"X-Forwarded-For": "203.0.113.7"}
    async with running(turnkeep.asgi.app(queue)) as url, aiohttp.ClientSession(f"{url}/") as http:
        assert await status(http, "api/channels/c/messages", proxied) == 403
        await ApiKeys(queue.store).create()
        async with asyncio.timeout(PATIENCE):  # what was read of the keys stays for FRESH seconds
            while (told := await status(http, "api/channels/c/messages", proxied)) == 403:
                await asyncio.sleep(0.1)
        assert told == 401


async def test_the_queue_is_a_dependency_and_its_absence_is_said() -> None:
    queue = AssistantMessageQueue(store="memory:", preset="web")
    application = fastapi.FastAPI(lifespan=turnkeep.asgi.lifespan(queue))

    @application.get("/status")
    async def show(queue: Annotated[AssistantMessageQueue, fastapi.Depends(turnkeep.asgi.queue_of)]) -> dict[str, int]:
        return (await queue.get_queue_status()).to_json()

    async with running(application) as url, aiohttp.ClientSession() as http, http.get(f"{url}/status") as told:
        assert (await told.json())["waitingCount"] == 0
    with pytest.raises(ConfigurationError, match=r"lifespan=turnkeep.asgi.lifespan\(queue\)"):
        turnkeep.asgi.queue_of(HTTPConnection({"type": "http", "headers": []}))


async def test_a_thread_has_options_of_its_own_over_http() -> None:
    async with served() as server:
        channel = f"{server.url}/api/channels/c"
        async with server.http.post(f"{channel}/messages", json={"message": "x", "flush": True}) as told:
            assert told.status == 202
        options = {"preset": "seed", "on_busy": "reject", "max_wait": 20}
        async with server.http.patch(channel, json={"options": options}) as told:
            assert (await told.json())["options"] == {"window": 10.0, "max_wait": 20.0, "on_busy": "reject"}
        async with server.http.patch(channel, json={"metadata": {"a": "b"}}) as told:
            assert (await told.json())["options"]["on_busy"] == "reject"
        async with server.http.patch(channel, json={"options": None}) as told:
            assert set((await told.json())["options"].values()) == {None}
        refused: tuple[Any, ...] = ({"preset": "x"}, {"window": -1}, {"on_busy": "x"}, {"size": 1}, [], {"preset": 3})
        for wrong in refused:
            async with server.http.patch(channel, json={"options": wrong}) as told:
                assert told.status == 400, wrong


async def test_a_last_turn_is_answered_again_over_http_and_socket() -> None:
    async with served() as server, server.socket() as socket:
        await ask(socket, {"action": "subscribe", "channel": "c"})
        await socket.send(json.dumps({"channel": "c", "message_id": "m", "message": "go [[say:one]]"}))
        await answered(socket)
        async with server.http.post(f"{server.url}/api/channels/c/regenerate") as told:
            assert told.status == 202
            [receipt] = (await told.json())["receipts"]
        assert await answered(socket) == receipt["message_id"]
        await socket.send(json.dumps({"action": "regenerate", "channel": "c", "id": 7}))
        await answered(socket)
        items = await server.queue.list_messages("c")

    assert [item.kind for item in items] == ["user", "assistant"]
    assert len(server.simulator.ledger) == 3


async def answered(socket: Any) -> str:
    while True:
        frame = await heard(socket)
        assert frame["type"] != "error", frame
        if frame["type"] == "response" and frame["status"] == "completed":
            return str(frame["message_id"])


async def test_messages_are_edited_and_withdrawn_and_threads_paused_over_a_socket() -> None:
    async with served(window=30.0, max_wait=30.0) as server, server.socket() as socket:
        for number in "ab":
            await ask(socket, {"channel": "c", "message_id": number, "message": f"text {number}"})
        told = await ask(socket, {"action": "edit", "channel": "c", "message_id": "a", "message": "other [[say:hi]]"})
        assert (told["status"], told["message_id"], told["state"]) == ("edited", "a", "waiting")
        told = await ask(socket, {"action": "withdraw", "channel": "c", "message_id": "b"})
        assert (told["status"], told["state"]) == ("withdrawn", "withdrawn")
        assert (await ask(socket, {"action": "withdraw", "channel": "c", "message_id": "z"}))["code"] == "not_found"
        assert (await ask(socket, {"action": "pause", "channel": "nobody"}))["code"] == "thread_not_found"
        assert (await ask(socket, {"action": "pause", "channel": "c"}))["status"] == "paused"
        assert (await server.queue.get_thread("c")).paused
        assert (await ask(socket, {"action": "resume", "channel": "c"}))["status"] == "resumed"
        await ask(socket, {"action": "subscribe", "channel": "c"})
        await socket.send(json.dumps({"action": "flush", "channel": "c"}))
        await answered(socket)

    assert [exchange.new for exchange in server.simulator.ledger] == [["other [[say:hi]]"]]
