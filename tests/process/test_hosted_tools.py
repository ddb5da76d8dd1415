"""Over HTTP: thoughts and sources are read without the provider's own form, keys of hosted tools are not shown."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from tests.process.served import Served, ask, frames_until_final, served

ZOO = {"type": "mcp", "server_label": "zoo", "server_url": "https://zoo.example", "authorization": "tok_live_1"}


async def called(server: Served, method: str, path: str, body: Any = None) -> Any:
    async with aiohttp.ClientSession() as http, http.request(method, f"{server.url}{path}", json=body) as told:
        assert told.status in (200, 201), await told.text()
        return await told.json()


async def test_what_opens_the_server_of_a_tool_is_not_shown_and_not_lost() -> None:
    async with served() as server:
        made = await called(server, "POST", "/api/assistants", {"tools": ["*", ZOO]})
        shown = await called(server, "GET", f"/api/assistants/{made['id']}")
        assert shown["tools"] == ["*", {**ZOO, "authorization": "[secret]"}]
        assert "tok_live_1" not in json.dumps([made, shown, await called(server, "GET", "/api/assistants")])
        kept = await server.queue.assistants.get("default", made["id"])
        assert kept.hosted_tools == (ZOO,)


async def test_a_transcript_shows_thoughts_searches_and_sources() -> None:
    async with served() as server:
        async with server.socket() as socket:
            await ask(socket, {"action": "subscribe", "channel": "c"})
            said = "[[reason:I search.]] [[search:otters]] [[say:They hold hands.]]"
            await socket.send(json.dumps({"channel": "c", "message": said, "message_id": "m1"}))
            await frames_until_final(socket, "m1")
        items = (await called(server, "GET", "/api/channels/c/messages"))["items"]
        search, answer = items[-2:]
        assert (search["kind"], search["name"], search["text"]) == ("hosted", "web_search", "otters")
        assert answer["citations"][0]["url"] == "https://simulator.example/otters"
        assert not any("raw" in item for item in items)
