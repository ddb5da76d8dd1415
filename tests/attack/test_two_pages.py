"""Two pages of one chat: neither shows what the other one has asked for as its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.patience import PATIENCE
from tests.process.served import Served, served
from turnkeep.tools.tool import tool

WORDS = "[[call:gate {}]] [[say:done]]"


def user(message_id: str, text: str) -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


ANEW = {"id": "c", "trigger": "regenerate-message", "messages": [user("u1", WORDS)]}


async def told(house: Served, body: dict[str, Any]) -> tuple[int, str]:
    async with house.http.post(house.url + "/api/chat", json=body) as answer:
        return answer.status, await answer.text()


async def waiting(house: Served, count: int) -> None:
    """Until so many messages wait for their answer."""
    async with asyncio.timeout(PATIENCE):
        while len(await house.queue.store.open_messages(house.queue.address("c"))) != count:
            await asyncio.sleep(0.01)


def runs_of(text: str) -> list[str]:
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    return [chunk["messageId"] for chunk in chunks if chunk["type"] == "start"]


async def test_an_answer_that_is_asked_for_anew_twice_is_made_once() -> None:
    """A client that lost its connection asks again: it is told of the same answer."""
    opens = asyncio.Event()

    @tool(effect="pure")
    async def gate() -> str:
        """Opens when the test says so."""
        await opens.wait()
        return "open"

    async with served(tools=[gate]) as house:
        opens.set()
        await told(house, {"id": "c", "messages": [user("u0", "before [[say:hi]]")]})
        await told(house, {"id": "c", "messages": [user("u1", WORDS)]})
        opens.clear()
        first = asyncio.ensure_future(told(house, ANEW))
        await waiting(house, 1)
        async with house.http.post(house.url + "/api/chat", json=ANEW) as second:
            assert second.status == 200, await second.text()
            opens.set()
            text = await second.text()
        assert runs_of(text) == runs_of((await first)[1])
        assert len(await house.queue.store.runs(house.queue.address("c"))) == 3


async def test_an_answer_is_not_made_anew_while_others_wait_and_nobody_is_shown_theirs() -> None:
    async with served() as house:
        await told(house, {"id": "c", "messages": [user("u1", "one [[say:hi]]")], "flush": True})
        other = {"message": "two", "message_id": "u2", "window": 60.0, "max_wait": 60.0}
        async with house.http.post(house.url + "/api/channels/c/messages", json=other) as answer:
            assert answer.status < 300, await answer.text()
        status, text = await told(house, ANEW | {"messages": [user("u1", "one [[say:hi]]")]})
        assert (status, "Somebody has written since" in text) == (409, True), text


async def test_what_was_answered_is_known_also_when_its_id_is_forgotten() -> None:
    """A page that was left open for longer than ids are remembered does not ask the same twice."""
    async with served(dedupe=0.1) as house:
        asked = user("u1", "one [[say:hi]]")
        await told(house, {"id": "c", "messages": [asked]})
        store, address = house.queue.store, house.queue.address("c")
        async with asyncio.timeout(PATIENCE):
            while await store.message(address, "u1") is not None:
                await asyncio.sleep(0.01)
        status, text = await told(house, {"id": "c", "messages": [user("u1", "changed")], "messageId": "u1"})
        assert (status, "An earlier message was changed" in text) == (409, True), text
        status, text = await told(house, ANEW | {"messages": [asked]})
        assert (status, len(runs_of(text))) == (200, 1), text
        assert [entry.item.kind for entry in (await store.history(address)).entries] == ["user", "assistant"]
