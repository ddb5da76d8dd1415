"""What is made of Chat Completions, in the dialects that servers speak."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.contract.asking import (
    HELLO,
    ask,
    finish_of,
    items_of,
    opened,
    recorded,
    text_of,
    told_by,
)
from tests.contract.canned import Visit, canned
from turnkeep.errors import (
    AnswerMalformed,
    ModelUnavailable,
)
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    OutputItem,
)
from turnkeep.usage import Usage

# ---------------------------------------------------------------- Chat Completions and its dialects


async def test_usage_of_a_chat_answer_counts_what_was_cached_and_thought() -> None:
    finish = finish_of(await told_by(recorded("chat-text"), "chat"))
    assert finish.usage == Usage(
        requests=1, input_tokens=29, cached_tokens=16, cache_write_tokens=4, output_tokens=11, reasoning_tokens=3
    )


async def test_pieces_of_parallel_calls_are_put_together_by_their_index() -> None:
    parts = await told_by(recorded("chat-tools"), "chat")
    assert items_of(parts) == [
        CallItem("call_a1B2c3", "get_weather", '{"city": "Paris"}'),
        CallItem("call_d4E5f6", "get_time", '{"tz": "Europe/Paris"}'),
    ]
    assert finish_of(parts).reason == "calls"


async def test_azure_chunks_without_choices_or_delta_are_no_trouble() -> None:
    parts = await told_by(recorded("azure-chat-text"), "chat")
    assert items_of(parts) == [AssistantItem("Hello there")]
    assert finish_of(parts).usage == Usage(requests=1, input_tokens=9, output_tokens=3)


async def test_calls_without_an_index_are_separate_calls_whatever_the_finish_reason() -> None:
    parts = await told_by(recorded("ollama-chat-tools"), "chat")
    assert items_of(parts) == [
        CallItem("call_8c0r2bq1", "get_weather", '{"city":"Rome"}'),
        CallItem("call_1x7uw0pz", "get_weather", '{"city":"Bari"}'),
    ]
    assert finish_of(parts).reason == "calls"
    assert finish_of(parts).usage == Usage(requests=1, estimated=1)


async def test_arguments_as_objects_and_indexes_that_are_all_zero_are_understood() -> None:
    parts = await told_by(recorded("litellm-ollama-tools"), "chat")
    assert items_of(parts) == [
        CallItem("c3b2", "get_weather", '{"city":"Lyon"}'),
        CallItem("d4c1", "get_weather", '{"city":"Metz"}'),
    ]
    assert finish_of(parts).reason == "calls"


async def test_a_call_without_an_id_gets_one_and_a_missing_done_mark_is_fine() -> None:
    parts = await told_by(recorded("gemini-chat-tools"), "chat")
    said, call = items_of(parts)
    assert said == AssistantItem("On it.")
    assert isinstance(call, CallItem)
    assert call.call_id.startswith("call_")
    assert (call.name, call.arguments) == ("search", '{"q":"x"}')
    assert finish_of(parts).reason == "calls"


async def test_crlf_comments_and_reasoning_content_are_no_part_of_the_answer() -> None:
    parts = await told_by(recorded("deepseek-chat-crlf"), "chat")
    assert text_of(parts) == "Forty-two ✓"
    assert finish_of(parts).usage == Usage(requests=1, input_tokens=5, cached_tokens=2, output_tokens=9)


async def test_an_error_in_the_middle_of_a_chat_answer_is_raised() -> None:
    with pytest.raises(ModelUnavailable, match="Provider returned error"):
        await told_by(recorded("openrouter-chat-error"), "chat")


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "c", "model": "m", "choices": [choice], **fields}) + b"\n\n"


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("how", ["cut", "silence"])
async def test_a_connection_lost_after_the_finish_reason_takes_nothing_away(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnkeep.models.chat.TRIMMINGS", 0.2)

    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(chunk({"content": "all"}, "stop"))
        await asyncio.sleep(0.05)
        if how == "cut":
            visit.cut()
        await visit.left.wait()

    async with canned(answer) as server:
        parts = await ask(opened(server, "chat", idle_timeout=1000.0))
    assert items_of(parts) == [AssistantItem("all")]
    assert finish_of(parts).usage == Usage(requests=1, estimated=1)


async def test_a_done_mark_ends_an_answer_that_has_no_finish_reason() -> None:
    parts = await told_by(chunk({"content": "all"}) + DONE, "chat")
    assert finish_of(parts).reason == "stop"


async def test_half_a_call_without_a_finish_reason_is_a_failure() -> None:
    half = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"x":'}}]}
    with pytest.raises(AnswerMalformed):
        await told_by(chunk(half) + DONE, "chat")


@pytest.mark.parametrize(("word", "reason"), [("length", "length"), ("content_filter", "filter")])
async def test_a_cut_answer_is_interrupted_and_its_half_call_is_dropped(word: str, reason: str) -> None:
    half = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"x":'}}]}
    parts = await told_by(chunk({"content": "part"}) + chunk(half) + chunk({}, word) + DONE, "chat")
    assert items_of(parts) == [AssistantItem("part", interrupted=True)]
    assert finish_of(parts).reason == reason


async def test_a_finish_reason_that_admits_failure_is_a_failure() -> None:
    with pytest.raises(AnswerMalformed, match="abort"):
        await told_by(chunk({"content": "x"}) + chunk({}, "abort") + DONE, "chat")


async def test_a_chat_refusal_is_shown_and_named() -> None:
    parts = await told_by(chunk({"refusal": "No"}) + chunk({"refusal": "pe."}) + chunk({}, "stop") + DONE, "chat")
    assert text_of(parts) == "Nope."
    assert finish_of(parts).reason == "refusal"


async def test_content_in_parts_gives_its_text_only() -> None:
    content = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "hi"}]
    parts = await told_by(chunk({"content": content}, "stop") + DONE, "chat")
    assert text_of(parts) == "hi"


async def test_other_choices_are_not_the_answer() -> None:
    other = chunk({"content": "B"}).replace(b'"index":0', b'"index":1')
    assert text_of(await told_by(chunk({"content": "A"}) + other + chunk({}, "stop") + DONE, "chat")) == "A"


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        pytest.param(
            [
                {"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"x"'}},
                {"index": 0, "id": "a", "function": {"name": "look", "arguments": ":1}"}},
            ],
            [("a", "look", '{"x":1}')],
            id="id and name in every piece",
        ),
        pytest.param(
            [
                {"id": "a", "function": {"name": "look", "arguments": '{"x"'}},
                {"function": {"arguments": ":1}"}},
                {"id": "b", "function": {"name": "guess"}},
            ],
            [("a", "look", '{"x":1}'), ("b", "guess", "{}")],
            id="no index at all",
        ),
        pytest.param(
            [
                {"index": 0, "id": "", "function": {"name": "look", "arguments": {"x": 1}}},
                {"index": 0, "id": "", "function": {"name": "look", "arguments": {"x": 2}}},
            ],
            [(None, "look", '{"x":1}'), (None, "look", '{"x":2}')],
            id="whole calls, one index, no id",
        ),
        pytest.param(
            [
                {"index": 0, "function": {"name": "look", "arguments": "{}"}},
                {"index": 0, "function": {"name": "guess", "arguments": "{}"}},
            ],
            [(None, "look", "{}"), (None, "guess", "{}")],
            id="two names, one index, no id",
        ),
        pytest.param(
            [
                {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}},
                {"index": 0, "id": "b", "function": {"name": "look", "arguments": "{}"}},
            ],
            [("a", "look", "{}"), ("b", "look", "{}")],
            id="two ids, one index, one name",
        ),
        pytest.param(
            [
                {"index": 0, "id": "0", "function": {"name": "look", "arguments": "{}"}},
                {"index": 1, "id": "0", "function": {"name": "guess", "arguments": "{}"}},
            ],
            [("0", "look", "{}"), (None, "guess", "{}")],
            id="one id for two calls",
        ),
        pytest.param(
            [{"index": 0, "id": "used", "function": {"name": "look", "arguments": "{}"}}],
            [(None, "look", "{}")],
            id="an id that the transcript has already",
        ),
    ],
)
async def test_calls_are_told_apart_however_they_are_numbered(
    deltas: list[dict[str, Any]], calls: list[tuple[str | None, str, str]]
) -> None:
    request = replace(HELLO, items=[*HELLO.items, CallItem("used", "look", "{}"), OutputItem("used", "x")])
    stream = b"".join(chunk({"tool_calls": [delta]}) for delta in deltas) + chunk({}, "tool_calls") + DONE
    items = [item for item in items_of(await told_by(stream, "chat", request)) if isinstance(item, CallItem)]
    assert [(item.name, item.arguments) for item in items] == [call[1:] for call in calls]
    assert len({item.call_id for item in items} | {"used"}) == len(items) + 1
    for item, (call_id, _, _) in zip(items, calls, strict=True):
        assert call_id is None or item.call_id == call_id
