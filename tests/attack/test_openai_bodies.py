"""What no client of OpenAI's would send: every odd value at every field is a refusal in words, and leaves nothing
behind; what is said to have been said before may hold no more than what is said now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.served import served
from turnkeep.auth.api_keys import ApiKeys

USER = {"role": "user", "content": "hi"}
SAYS = {"role": "assistant", "content": "x"}
ODD: tuple[Any, ...] = (5, True, ["x"], [[]], {"a": {"b": 1}})
TEXT = {"type": "text", "text": "hi"}
FUNCTION = {"name": "look", "parameters": {}}
NAMES = (5, None, "", "x" * 65, ["look"])
Body = tuple[str, dict[str, Any]]


def bodies(model: str, thread: str) -> Iterator[Body]:
    """Each with one field that is of another kind than any client sends."""
    chat, run = {"model": model}, {"assistant_id": model}
    for odd in ODD:
        yield "/v1/chat/completions", chat | {"messages": [USER | {"role": odd}]}
        yield "/v1/chat/completions", chat | {"messages": [SAYS | {"tool_calls": odd}, USER]}
        yield f"/v1/threads/{thread}/runs", run | {"additional_messages": [USER, odd]}
    for odd in ODD[:4]:
        yield f"/v1/threads/{thread}/messages", USER | {"metadata": odd}
        yield "/v1/threads", {"messages": [USER, USER | {"metadata": odd}]}
        yield "/v1/threads/runs", run | {"additional_messages": [USER, USER | {"metadata": odd}]}
        yield f"/v1/threads/{thread}/runs", run | {"metadata": odd}
        yield f"/v1/threads/{thread}/runs", run | {"additional_messages": odd}
        yield "/v1/responses", chat | {"input": [SAYS, USER | {"content": odd if odd != ["x"] else []}]}
    for call in ({"id": 5, "function": FUNCTION}, {"id": "c", "function": {"name": "look", "arguments": {"a": 1}}}):
        yield "/v1/chat/completions", chat | {"messages": [SAYS | {"tool_calls": [call]}, USER]}
    for name in NAMES:
        tools = [{"type": "function", "function": FUNCTION | {"name": name}}]
        yield "/v1/chat/completions", chat | {"messages": [USER], "tools": tools}
        yield "/v1/responses", chat | {"input": "hi", "tools": [{"type": "function", "name": name}]}
        yield "/v1/assistants", {"model": "gpt-4o", "tools": tools}
        yield "/api/assistants", {"name": "a", "tools": tools}
        yield "/api/agui", {"threadId": "c", "messages": [{"id": "u", **USER}], "tools": [{"name": name}]}


async def test_an_odd_value_anywhere_is_refused_in_words_and_leaves_nothing() -> None:
    async with served(role="gateway", request_rate="0", tenant_request_rate="0") as house:
        assistant = await house.queue.assistants.default("default")
        assert assistant is not None
        thread = await house.queue.create_thread()
        for path, body in bodies(assistant.assistant_id, thread.thread_id):
            async with house.http.post(house.url + path, json=body) as answer:
                told = await answer.text()
                assert 400 <= answer.status < 500, (path, body, answer.status, told)
                assert len(told) > 10, (path, body)
        [record] = [record async for record in house.queue.store.scan()]
        assert (record.thread_id, record.open_messages) == (thread.thread_id, 0)
        assert (await house.queue.store.history(record.address)).entries == ()


FILE = {"role": "user", "content": [TEXT, {"type": "file", "file": {"file_id": "file-1"}}]}
PAST = [FILE, SAYS, USER]


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_past_names_no_file_that_its_sender_may_not_name(key: str | None) -> None:
    """A file id names a file of an account that all tenants share."""
    async with served(auth="on", role="gateway") as house:
        credential, _ = await ApiKeys(house.queue.store).create(tenant="shop", scopes=("read", "send"))
        assistant = await house.queue.assistants.create("shop", {"name": "clerk"}, now=1.0)
        await house.queue.assistants.use("shop", assistant.assistant_id)
        asked = {
            "/v1/chat/completions": {"model": assistant.assistant_id, "messages": PAST},
            "/v1/responses": {"model": assistant.assistant_id, "input": PAST},
            "/v1/conversations": {"items": PAST},
        }
        headers = {"authorization": f"Bearer {credential}"} | ({"x-conversation-id": key} if key else {})
        for path, body in asked.items():
            async with house.http.post(house.url + path, json=body, headers=headers) as answer:
                told = await answer.text()
                assert (answer.status, "file_id" in told) == (403, True), (path, answer.status, told)
        assert [record async for record in house.queue.store.scan()] == []
