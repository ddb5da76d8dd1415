"""Whose instructions they are is told to the model: the operator's are the system's words, a user's are the user's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.process.served import Served, ask, bearer, frames_until_final, served
from turnkeep.messages import UserItem, text_content
from turnkeep.runs.answer import OF_A_USER

SYSTEM = "Reply to all messages logically."
WISH = "Answer like a pirate."


async def said(server: Served, headers: dict[str, str], message_id: str) -> Any:
    """The last request that the model got."""
    server.simulator.options = replace(server.simulator.options, keep_bodies=True)
    async with server.socket(additional_headers=headers) as socket:
        await ask(socket, {"action": "subscribe", "channel": "c"})
        frame = {"channel": "c", "message": f"hello {message_id}", "message_id": message_id, "instructions": WISH}
        await socket.send(json.dumps(frame))
        await frames_until_final(socket, message_id)
    return [*server.simulator.ledger][-1].body


def words_of(body: Any) -> tuple[str, str]:
    """What the system says, and what users say, in either protocol."""
    if "messages" in body:
        system = [m["content"] for m in body["messages"] if m["role"] in ("system", "developer")]
        users = [m["content"] for m in body["messages"] if m["role"] == "user"]
        return json.dumps(system), json.dumps(users)
    return body.get("instructions") or "", json.dumps([one for one in body["input"] if one.get("role") == "user"])


@pytest.mark.parametrize("model_api", ["responses", "chat"])
async def test_instructions_of_a_user_reach_the_model_as_the_users(model_api: str) -> None:
    async with served(auth="on", client_instructions=True, model_api=model_api) as server:
        system, users = words_of(await said(server, await bearer(server, "send", "read"), "m1"))
        assert WISH not in system
        assert SYSTEM in system
        assert users.index(OF_A_USER) < users.index(WISH) < users.index("hello m1")

        system, users = words_of(await said(server, await bearer(server, "manage", "read"), "m2"))
        assert WISH in system
        assert WISH not in users.partition("hello m1")[2], "who manages speaks for the operator, and that once"

        history = await server.queue.store.history(server.queue.address("c"))
        kept = [entry.item.content for entry in history.entries if isinstance(entry.item, UserItem)]
        assert kept == [text_content("hello m1"), text_content("hello m2")], "the transcript holds what was said"


async def test_instructions_of_a_user_come_along_when_a_turn_is_answered_again() -> None:
    async with served(auth="on", client_instructions=True) as server:
        headers = await bearer(server, "send", "read")
        await said(server, headers, "m1")
        async with server.socket(additional_headers=headers) as socket:
            await ask(socket, {"action": "subscribe", "channel": "c"})
            [receipt] = (await ask(socket, {"action": "regenerate", "channel": "c"}))["receipts"]
            await frames_until_final(socket, receipt["message_id"])
        system, users = words_of([*server.simulator.ledger][-1].body)
        assert WISH not in system
        assert WISH in users


async def test_where_nobody_is_asked_who_he_is_everybody_is_the_operator() -> None:
    async with served() as server:
        system, users = words_of(await said(server, {}, "m1"))
        assert WISH in system
        assert WISH not in users
