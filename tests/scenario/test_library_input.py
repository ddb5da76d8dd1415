"""What no door takes is not taken from Python either: a typed error, nothing stored, and the house goes on."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from tests.scenario.house import opened
from turnkeep import AssistantMessageQueue, ConversationManager, OpenAIService, create_openai_config
from turnkeep.assistant_input import assistant_fields
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.errors import ConfigurationError, InvalidMessage, MessageTooLarge, NotFound
from turnkeep.messages import Part

WRONG: list[dict[str, Any]] = [
    {"text": ""},
    {"text": "  \n"},
    {"text": None},
    {"text": 5},
    {"text": b"hi"},
    {"text": "a\0b"},
    {"text": "\ud800"},
    {"text": ()},
    {"text": (Part("image", data={"url": "https://pictures.example/1.png"}),)},
    {"thread_id": ""},
    {"thread_id": 5},
    {"thread_id": None},
    {"thread_id": "x" * 513},
    {"thread_id": "subscription"},
    {"message_id": ""},
    {"message_id": 5},
    {"message_id": "m" * 513},
    {"instructions": 5},
    {"window": "1"},
    {"window": "1", "not_before": 1.0},
    {"window": math.nan},
    {"window": -5},
    {"max_wait": math.inf},
    {"not_before": "tomorrow"},
    {"on_busy": "bogus"},
    {"flush": "yes"},
    {"metadata": 5},
    {"metadata": {"a": 5}},
    {"metadata": {5: "a"}},
    {"colour": "red"},
]


@pytest.mark.daily(rows=3)  # all take one way
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: " ".join(f"{k}={v!r:.20}" for k, v in wrong.items()))
async def test_a_message(wrong: dict[str, Any]) -> None:
    async with opened() as house:
        call = {"thread_id": "c", "text": "hi", **wrong}
        with pytest.raises(InvalidMessage):
            await house.queue.add_message_to_thread(call.pop("thread_id"), call.pop("text"), **call)

        assert await house.queue.store.thread(house.address("c")) is None
        assert await house.queue.ask("c", "and now [[say:fine]]") == "fine"


async def test_a_message_that_is_too_large() -> None:
    async with opened(max_message_bytes=1_000) as house:
        with pytest.raises(MessageTooLarge, match="has 1001 bytes, at most 1000"):
            await house.queue.ask("c", "x" * 1_001)


async def test_the_length_of_a_text_is_its_own() -> None:
    async with opened(max_message_bytes=1_000, worker=False) as house:
        for text in ("x" * 1_000, '"' * 1_000, "\n" * 999 + "x", "é" * 500):
            await house.queue.add_message_to_thread("c", text)
        with pytest.raises(MessageTooLarge):
            await house.queue.add_message_to_thread("c", "é" * 501)


async def test_what_is_asked_of_a_thread() -> None:
    async with opened() as house:
        queue: Any = house.queue
        await queue.ask("c", "hello [[say:fine]]")
        for change in ({"options": {"window": "x"}}, {"options": 5}, {"metadata": 5}, {"metadata": {"a": 5}}):
            with pytest.raises(InvalidMessage):
                await queue.change_thread("c", **change)
        with pytest.raises(InvalidMessage):
            await queue.list_messages("c", limit=-1)
        with pytest.raises(InvalidMessage):
            await queue.submit_tool_outputs("c", [{"output": "x"}])
        with pytest.raises(NotFound):
            await queue.submit_tool_outputs("c", [{"tool_call_id": "call_x", "output": "x"}])
        for name in ("", 5, "x" * 513):
            with pytest.raises(InvalidMessage):
                await queue.get_thread(name)
            with pytest.raises(InvalidMessage):
                await queue.create_thread(name or "\0")


async def test_a_queue_belongs_to_its_event_loop(tmp_path: Path) -> None:
    def use() -> tuple[str, str]:
        queue = AssistantMessageQueue(store=tmp_path / "turnkeep.db", message_delay=0.0)
        queue.start_worker()
        asyncio.run(queue.ask("c", "hello [[say:fine]]"))
        with pytest.raises(ConfigurationError) as told:
            asyncio.run(queue.ask("c", "and now?"))
        asyncio.run(queue.close())
        again = AssistantMessageQueue(store=tmp_path / "turnkeep.db", message_delay=0.0)

        async def ask() -> str:
            async with again:
                again.start_worker()
                return await again.ask("c", "and now? [[say:fine again]]")

        return str(told.value), asyncio.run(ask())

    said, answer = await asyncio.to_thread(use)

    assert "event loop that has ended" in said
    assert answer == "fine again"


async def test_a_direct_call(tmp_path: Path) -> None:
    async with OpenAIService(create_openai_config(store=f"sqlite:{tmp_path / 'turnkeep.db'}")) as service:
        call: Any = service.complete
        for messages in ("hello", None, 5, {"role": "user", "content": "hello"}, [5], [], ["hello"]):
            with pytest.raises(InvalidMessage):
                await call(messages)
        for session in ("", 5, "x" * 513):
            with pytest.raises(InvalidMessage):
                await call([{"role": "user", "content": "hello"}], session)
        with pytest.raises(ConfigurationError, match="parameters"):
            service.register_tool({"type": "function", "function": {"name": "t", "parameters": 5}})
        assert (await call([{"role": "user", "content": "hello [[say:fine]]"}])).content == "fine"


async def test_a_memory() -> None:
    for wrong in ({"ttl": math.nan}, {"ttl": -1}, {"max_messages": 0}, {"max_tokens": math.inf}):
        given: Any = wrong
        with pytest.raises(ConfigurationError):
            ConversationManager(store="memory:", **given)
    memory = ConversationManager(store="memory:")
    await memory.add_message("s", {"role": "user", "content": "hello"})
    await memory.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await memory.get_conversation("s")


async def test_a_key(store: str) -> None:
    async with opened(store) as house:
        keys: Any = ApiKeys(house.queue.store)
        now = house.queue.clock.now()
        for wrong in ({"tenant": ""}, {"channels": [""]}, {"expires_at": now - 1}, {"expires_at": math.nan}):
            with pytest.raises(InvalidMessage):
                await keys.create(**wrong)
        assert await keys.list() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "\udcff"},
        {"model": ""},
        {"tools": ["\udcff"]},
        {"tools": "web_search"},
        {"tools": [{}]},
        {"tools": [{"type": 5}]},
        {"tools": [["web_search"]]},
        {"tools": [{"type": "mcp", "server_label": "\udcff"}]},
        {"tools": [5]},
        {"tools": [{"type": "mcp", "authorization": "[secret]"}]},
        {"parameters": {"text": "x"}},
        {"parameters": {"reasoning": 5}},
        {"parameters": {"text": {"format": "json"}}},
        {"parameters": {"response_format": []}},
        {"parameters": {"stop": "\udcff"}},
        {"metadata": {"a": {"b": 1}}},
        {"colour": "red"},
    ],
    ids=str,
)
def test_an_assistant(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        assistant_fields(fields)


@pytest.mark.parametrize("model_api", ["responses", "chat"])
async def test_parameters_of_a_wrong_form_are_refused_once_and_the_next_message_is_answered(model_api: str) -> None:
    async with opened(model_api=model_api) as house, house.stream("c") as stream:
        assistants, own = house.queue.assistants, house.queue.assistant
        await assistants.change("default", own.assistant_id, {"parameters": {"text": "x", "reasoning": 5}})
        await house.send("c", "hello", "m1")
        dead = (await house.settled(stream, "m1"))[-1]
        assert (dead.kind, dead.error.code if dead.error else None, dead.attempt) == ("dead", "model_refused", 1)
        await assistants.change("default", own.assistant_id, {"parameters": {}})
        await house.send("c", "hello [[say:fine]]", "m2")
        assert (await house.settled(stream, "m2"))[-1].text == "fine"
