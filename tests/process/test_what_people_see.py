"""No door tells more of a turn than its tools and its assistant let people see."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from tests.patience import PATIENCE
from tests.process.callers import SECRET, token
from tests.process.served import Served, served
from turnkeep.tools.tool import Tool, tool

WITHHELD = ("ARGUMENT-OF-NAME", "OUTPUT-OF-NAME", "OUTPUT-OF-ARGUMENTS", "THOUGHT-OF-THE-MODEL")
SHOWN = ("ARGUMENT-OF-ARGUMENTS", "ARGUMENT-OF-ALL", "OUTPUT-OF-ALL")
MESSAGE = {"message": "go on", "message_id": "u1"}
SAYS = "[[reason:THOUGHT-OF-THE-MODEL]]" + "".join(
    f' [[call:show_{show} {{"word": "ARGUMENT-OF-{show.upper()}"}}]]' for show in ("name", "arguments", "all")
)
DOORS = {
    "transcript": ("GET", "/api/channels/c/messages", None),
    "events": ("GET", "/api/channels/c/events?events=all&after={start}", None),
    "chat": ("GET", "/api/chat/c?level=7", None),
    "chat again": ("POST", "/api/chat?level=7", {"id": "c", "messages": [{"id": "u1", "role": "user", "parts": []}]}),
    "agent": ("GET", "/api/agui?threadId=c", None),
    "agent again": ("POST", "/api/agui", {"threadId": "c", "messages": [{"id": "u1", "role": "user", "content": ""}]}),
}


def showing(show: Any) -> Tool:
    @tool(name=f"show_{show}", effect="pure", show=show)
    def act(word: str) -> str:
        """Act."""
        return word.replace("ARGUMENT", "OUTPUT", 1)

    return act


async def read(
    house: Served, http: aiohttp.ClientSession, method: str, path: str, body: Any, *, awaited: Sequence[str]
) -> str:
    """What a door says; of a stream what comes up to these words and until nothing comes for a while."""
    async with http.request(method, house.url + path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        text = b""
        while True:
            try:
                is_whole = all(word.encode() in text for word in awaited)
                async with asyncio.timeout(0.3 if is_whole else PATIENCE):
                    piece = await answer.content.readany()
            except TimeoutError:
                return text.decode()
            if not piece:
                return text.decode()
            text += piece


@pytest.mark.parametrize("shows_thoughts", [False, True])
async def test_no_door_tells_more_than_tools_and_assistant_let_people_see(shows_thoughts: bool) -> None:
    tools = [showing(show) for show in ("name", "arguments", "all")]
    withheld = WITHHELD[:3] if shows_thoughts else WITHHELD
    async with served(tools=tools, auth="on", jwt_secret=SECRET, tenant_tools={}) as house:
        house.simulator.script.rule = lambda prompt: SAYS + " [[say:done]]"
        fields = {"show_reasoning": shows_thoughts, "parameters": {"reasoning": {"effort": "low", "summary": "auto"}}}
        made = await house.queue.assistants.create("default", fields, now=0.0)
        await house.queue.assistants.use("default", made.assistant_id)
        people = {"Authorization": f"Bearer {token(tenant='default', scope='send read')}"}
        manager = {"Authorization": f"Bearer {token(tenant='default')}"}
        async with aiohttp.ClientSession(headers=people) as http:
            async with http.post(f"{house.url}/api/channels/c/messages", json=MESSAGE) as sent:
                assert sent.status == 202
            address = house.queue.address("c")
            async with asyncio.timeout(PATIENCE):
                while (record := await house.queue.store.message(address, "u1")) is None or not record.settled_at:
                    await asyncio.sleep(0.02)
            start = f"{(await house.queue.store.read(address)).epoch}:0"
            for name, (method, path, body) in DOORS.items():
                told = await read(house, http, method, path.format(start=start), body, awaited=SHOWN)
                assert [word for word in withheld if word in told] == [], name
                assert [word for word in SHOWN if word not in told] == [], name
                assert ("THOUGHT" in told) == (shows_thoughts and not name.startswith("agent")) or name == "agent again"
        async with aiohttp.ClientSession(headers=manager) as http:
            told = await read(house, http, "GET", "/api/channels/c/messages", None, awaited=(*WITHHELD, *SHOWN))
            assert [word for word in (*WITHHELD, *SHOWN) if word not in told] == []
