"""What no client of a front end would send: every odd body is a refusal in a sentence, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.process.served import served
from turnkeep.messages import Message, text_content
from turnkeep.store.values import HeldCall

USER = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
SAYS = {"id": "u1", "role": "user", "content": "hi"}
LONG = "x" * 600


def says(**fields: Any) -> dict[str, Any]:
    """A conversation of AG-UI with one message."""
    return {"threadId": "c", "messages": [{**SAYS, **fields}]}


def asks(**fields: Any) -> dict[str, Any]:
    """A chat with one message."""
    return {"id": "c", "messages": [{**USER, **fields}]}


def resumes(**fields: Any) -> dict[str, Any]:
    return {"threadId": "c", "messages": [], "resume": [fields]}


CHATS: dict[str, Any] = {
    "nothing": {}, "no messages": {"id": "c"}, "messages of another kind": {"id": "c", "messages": {"a": 1}},
    "none": {"id": "c", "messages": []}, "a text": {"id": "c", "messages": ["hi"]}, "no id": {"messages": [USER]},
    "an id of another kind": {"id": 5, "messages": [USER]}, "a reserved id": {"id": "subscription", "messages": [USER]},
    "a long id": {"id": LONG, "messages": [USER]}, "a message with a long id": asks(id=LONG),
    "a message with an empty id": asks(id=""),
    "a message without an id": {"id": "c", "messages": [{"role": "user", "parts": []}]},
    "a role of nobody": asks(role="operator"),
    "parts that are none": asks(parts=5),
    "a part that is none": asks(parts=["x"]),
    "a part of no type": asks(parts=[{"type": 5}]),
    "nothing said": asks(parts=[]),
    "a text that is none": asks(parts=[{"type": "text", "text": {"a": 1}}]),
    "a file of nowhere": asks(parts=[{"type": "file"}]),
    "a file within": asks(parts=[{"type": "file", "url": "http://localhost/x"}]),
    "a trigger": {"id": "c", "messages": [USER], "trigger": "delete"},
    "a window": {"id": "c", "messages": [USER], "window": "soon"},
    "an id of nothing": {"id": "c", "messages": [USER], "messageId": 5},
    "only the assistant": {"id": "c", "messages": [{**USER, "role": "assistant"}], "trigger": "regenerate-message"},
    "one of two": {"id": "c", "messages": [USER, {**USER, "id": "u2", "parts": []}]},
    "a decision about nothing": {"id": "c", "messages": [{"id": "a", "role": "assistant", "parts": [
        {"type": "dynamic-tool", "toolCallId": "c1", "state": "approval-responded", "approval": {"approved": True}}]}]},
    "a decision with a long id": {"id": "c", "messages": [{"id": "a", "role": "assistant", "parts": [
        {"type": "dynamic-tool", "toolCallId": LONG, "state": "output-available", "output": 2**80}]}]},
}  # fmt: skip
RUNS: dict[str, Any] = {
    "nothing": {}, "no messages": {"threadId": "c"}, "a thread of another kind": {"threadId": [], "messages": [SAYS]},
    "messages of another kind": {"threadId": "c", "messages": "hi"},
    "a message without an id": {"threadId": "c", "messages": [{"role": "user", "content": "hi"}]},
    "a long id": says(id=LONG),
    "nothing said": says(content=""),
    "a part that is none": says(content=[5]),
    "a part without a source": says(content=[{"type": "image"}]),
    "a source within": {"threadId": "c", "messages": [
        {**SAYS, "content": [{"type": "image", "source": {"type": "url", "value": "http://localhost/x"}}]}]},
    "a sound": says(content=[{"type": "audio", "source": {}}]),
    "tools of another kind": {"threadId": "c", "messages": [SAYS], "tools": {"a": 1}},
    "a tool without a name": {"threadId": "c", "messages": [SAYS], "tools": [{"description": "x"}]},
    "a tool with a schema that is none": says() | {"tools": [{"name": "x", "parameters": 5}]},
    "a resumption of nothing": resumes(interruptId="i", status="resolved"),
    "a resumption without an id": resumes(status="resolved"),
    "a resumption of another kind": resumes(interruptId={}, status="resolved"),
    "one of two": {"threadId": "c", "messages": [SAYS, {**SAYS, "id": "u2", "content": ""}]},
    "an output of nothing": says(role="tool", toolCallId="c1", content="5"),
    "a call id of another kind": says(role="tool", toolCallId=["c1"]),
}  # fmt: skip
QUERIES = (
    "runId=",
    "runId=x",
    "runId=run_1.%2F%2F",
    "runId=run_1.\u00fc",
    "runId=run_1.Yw",
    "threadId=",
    "",
    f"threadId={LONG}",
)


@pytest.mark.parametrize("path", ["/api/chat", "/api/agui"])
async def test_an_odd_body_is_refused_in_a_sentence_and_leaves_nothing(path: str) -> None:
    bodies = CHATS if path == "/api/chat" else RUNS
    async with served(role="gateway", request_rate="0", tenant_request_rate="0") as house:
        for name, body in bodies.items():
            async with house.http.post(house.url + path, json=body) as answer:
                told = await answer.text()
                assert 400 <= answer.status < 500, (name, answer.status, told)
                assert len(told) > 10, name
        assert [record async for record in house.queue.store.scan()] == []


async def test_an_odd_question_about_a_run_is_refused() -> None:
    async with served(role="gateway") as house:
        for query in QUERIES:
            async with house.http.get(f"{house.url}/api/agui?{query}") as answer:
                assert 400 <= answer.status < 500, (query, answer.status, await answer.text())


async def test_odd_messages_of_the_past_are_not_looked_at() -> None:
    """A client sends all its history along: what is not new may be anything."""
    odd = [
        {"id": "a1", "role": "assistant", "toolCalls": 5}, {"id": "a2", "role": "assistant", "toolCalls": [{"id": {}}]},
        {"id": "x", "role": "activity", "content": {"a": [1]}},
        {"id": "t", "role": "tool", "toolCallId": "c", "content": None},
    ]  # fmt: skip
    async with served() as house:
        body = {"threadId": "c", "messages": [*odd, SAYS]}
        for _ in range(2):
            async with house.http.post(house.url + "/api/agui", json=body) as answer:
                assert answer.status == 200
                assert "RUN_FINISHED" in await answer.text()


NO_YES: list[Any] = [False, None, "true", "false", "yes", 1, 0, [True], {"approved": True}]


async def test_nothing_but_true_approves_a_call() -> None:
    """Whatever else a page decides is a no, for `"false"` is true to many a language; an output is no decision."""
    async with served(role="gateway") as house:
        store, address = house.queue.store, house.queue.address("c")
        await house.queue.accept([Message(address, "u1", text_content("hi"))])
        await store.flush(address)
        [claim] = await store.claim(owner="tests", limit=1, lease=30.0, queues=(house.queue.name,))
        names = [f"{door}{number}" for door in ("chat", "agent") for number in range(len(NO_YES))]
        # one that nobody decides about: what is held stays held
        calls = [HeldCall(one, "pay", "{}", one, self_approval=True) for one in [*names, "last"]]
        await store.hold(claim, calls, expires_in=600.0)
        for number, said in enumerate(NO_YES):
            tool = {"type": "dynamic-tool", "toolCallId": f"chat{number}", "state": "approval-responded"}
            answer_parts = [tool | {"approval": {"id": "a", "approved": said}}]
            chat = {"id": "c", "messages": [USER, {"id": "a", "role": "assistant", "parts": answer_parts}]}
            async with house.http.post(house.url + "/api/chat", json=chat) as answer:
                assert answer.status == 200, await answer.text()
            resumption = {"interruptId": f"agent{number}", "status": "resolved", "payload": {"approved": said}}
            run = {"threadId": "c", "messages": [SAYS], "resume": [resumption]}
            async with house.http.post(house.url + "/api/agui", json=run) as answer:
                assert "more calls wait" in await answer.text()
        gives: dict[str, dict[str, Any]] = {
            "/api/agui": says(role="tool", toolCallId="last", content="yes"),
            "/api/chat": {"id": "c", "messages": [USER, {"id": "a", "role": "assistant", "parts": [
                {"type": "dynamic-tool", "toolCallId": "last", "state": "output-available", "output": "yes"}]}]},
        }  # fmt: skip
        for path, body in gives.items():
            async with house.http.post(house.url + path, json=body) as answer:
                assert (answer.status, "takes no output" in await answer.text()) == (400, True), path
        record = await store.thread(address)
        assert record is not None
        assert {call.call_id: call.decision for call in record.calls} == {
            **dict.fromkeys(names, "denied"),
            "last": None,
        }
