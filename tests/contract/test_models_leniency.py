"""What servers really send: what only decorates never fails an answer, what carries meaning is read or refused clearly.

One table for all readers. The remarks name where a form was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.contract.asking import HELLO, finish_of, items_of, text_of, told_by
from tests.contract.canned import DONE, choice, event
from turnkeep.errors import AnswerMalformed, AnswerUnreadable, ModelError
from turnkeep.messages import AssistantItem, CallItem, ReasoningItem
from turnkeep.models.model import ModelRequest, ReasoningDelta, ToolSpec

TOOLS = tuple(ToolSpec(name, "Does something.", {"type": "object", "properties": {}}) for name in ("look_up", "clock"))
ASKED = ModelRequest("m", HELLO.items, tools=TOOLS)


class Chat:
    """Streams of Chat Completions."""

    kind = "chat"

    def text(self, text: object, **more: Any) -> bytes:
        return event({"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more})

    def raw_text(self, escaped: bytes, more: bytes = b"") -> bytes:
        return event(b'{"choices":[{"index":0,"delta":{"content":"' + escaped + b'"}' + more + b"}]}")

    def end(self, text: str) -> bytes:
        return event({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + DONE

    def body(self, text: str) -> bytes:
        message = {"role": "assistant", "content": text}
        return orjson.dumps({"object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop"}]})


class Responses:
    """Streams of the Responses API."""

    kind = "responses"

    def text(self, text: object, **more: Any) -> bytes:
        return event({"type": "response.output_text.delta", "delta": text, **more}, "response.output_text.delta")

    def raw_text(self, escaped: bytes, more: bytes = b"") -> bytes:
        return event(b'{"type":"response.output_text.delta","delta":"' + escaped + b'"' + more + b"}")

    def end(self, text: str) -> bytes:
        item = {"type": "message", "id": "m1", "content": [{"type": "output_text", "text": text}]}
        done = event({"type": "response.output_item.done", "output_index": 0, "item": item})
        return done + event({"type": "response.completed", "response": {"id": "r", "output": [item]}})

    def body(self, text: str) -> bytes:
        item = {"type": "message", "content": [{"type": "output_text", "text": text}]}
        return orjson.dumps({"object": "response", "id": "r", "status": "completed", "output": [item]})


class Messages:
    """Streams of Anthropic's Messages."""

    kind = "anthropic"

    def text(self, text: object, **more: Any) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return event({"type": "content_block_delta", "index": 0, "delta": delta, **more}, "content_block_delta")

    def raw_text(self, escaped: bytes, more: bytes = b"") -> bytes:
        head = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
        return event(head + escaped + b'"}' + more + b"}")

    def end(self, text: str) -> bytes:
        return event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}) + event({"type": "message_stop"})

    def body(self, text: str) -> bytes:
        blocks = [{"type": "text", "text": text}]
        return orjson.dumps({"type": "message", "id": "m", "content": blocks, "stop_reason": "end_turn"})


PROTOCOL = pytest.mark.parametrize("say", [Chat(), Responses(), Messages()], ids=["chat", "responses", "messages"])
Say = Chat | Responses | Messages


def with_between(*frames: bytes) -> Callable[[Say], bytes]:
    return lambda say: say.text("a") + b"".join(frames) + say.text("b") + say.end("ab")


ANSWERS: dict[str, tuple[Callable[[Say], bytes], str]] = {
    # heartbeats of relays: NousResearch/hermes-agent#111887, omnigent-ai/omnigent#1474
    "empty frames": (with_between(b"data:\n\n", b"data: \n\n", b"data\n\n", b"\n\n"), "ab"),
    "comments": (with_between(b": OPENROUTER PROCESSING\n\n", b":\n\n"), "ab"),
    "words as heartbeats": (with_between(b"data: ping\n\n", b"data: [keepalive]\n\n", b"data: OK\n\n"), "ab"),
    "named heartbeats": (with_between(b"event: ping\ndata: {}\n\n", b"event: ping\n\n", b"retry: 10\n\n"), "ab"),
    "values that are no object": (
        with_between(*(event(v) for v in (b"null", b"17", b'"x"', b"true", b"[]", b"{}"))),
        "ab",
    ),
    "events nobody knows": (with_between(event({"type": "response.new_thing", "object": "x", "payload": [1]})), "ab"),
    # Python servers: NVIDIA-NeMo/RL#2962, huggingface/trl#6693
    "numbers that JSON has not": (
        lambda say: say.raw_text(b"a", b',"logprobs":[NaN,-Infinity,Infinity]') + say.end("a"),
        "a",
    ),
    "raw control characters": (lambda say: say.raw_text(b"a\tb\x01") + say.end("a\tb\x01"), "a\tb\x01"),
    # ids as numbers: Kilo-Org/kilocode#5816, anomalyco/opencode#25786
    "odd decoration": (
        lambda say: say.text("a", id=17, model=["m"], service_tier={"a": 1}, created="now") + say.end("a"),
        "a",
    ),
    # elizaOS/eliza#30904, elie222/rakazo#416
    "an emoji in two escapes": (
        lambda say: say.raw_text(rb"hi \ud83d") + say.raw_text(rb"\ude00!") + say.end("hi 😀!"),
        "hi 😀!",
    ),
    "an emoji in two frames with a heartbeat between": (
        lambda say: say.raw_text(rb"\ud83d") + b"data:\n\n" + say.raw_text(rb"\udca1 idea") + say.end("💡 idea"),
        "💡 idea",
    ),
    "half an emoji alone": (
        lambda say: say.raw_text(rb"a\ud83d") + say.text("b") + say.raw_text(rb"c\ude00") + say.end("a�bc�"),
        "a�bc�",
    ),
    # byte-wise tokens of ggml and text-generation servers
    "a character in two halves of bytes": (
        lambda say: say.raw_text(b"a\xf0\x9f") + say.raw_text(b"\x98\x80b") + say.end("a😀b"),
        "a😀b",
    ),
    "a broken byte": (lambda say: say.raw_text(b"a\xffb") + say.end("a�b"), "a�b"),
    # openai/openai-node#2725, google-gemini/gemini-cli#29059, agentjido/req_llm#462
    "a last frame without its blank line": (lambda say: (say.text("a") + say.end("a")).rstrip(b"\n"), "a"),
    "a last frame that is cut off": (lambda say: say.text("a") + say.end("a") + b'data: {"choi', "a"),
    "two events on one line": (
        lambda say: (
            say.text("a").rstrip(b"\n")
            + say.text("b").replace(b"data: ", b"").partition(b"{")[1]
            + say.text("b").partition(b"{")[2]
            + say.end("ab")
        ),
        "ab",
    ),
    "events without blank lines": (
        lambda say: (say.text("a") + say.text("b")).replace(b"\n\n", b"\n") + b"\n" + say.end("ab"),
        "ab",
    ),
    "carriage returns": (lambda say: (say.text("a") + say.end("a")).replace(b"\n", b"\r\n"), "a"),
    # lidge-jun/opencodex#3770, webbrain-one/webbrain#50
    "one JSON body": (lambda say: say.body("whole"), "whole"),
    "one JSON body behind blanks": (lambda say: b"\n  " + say.body("whole") + b"\n", "whole"),
    "one JSON body as an event": (lambda say: event(say.body("whole")), "whole"),
    "lines of JSON": (
        lambda say: b"\n".join(
            line.removeprefix(b"data: ") for line in (say.text("a") + say.end("a")).split(b"\n") if line[:5] == b"data:"
        ),
        "a",
    ),
    "a number as text": (lambda say: say.text("it is ") + say.text(42) + say.end("it is 42"), "it is 42"),
    "no text in a frame": (lambda say: say.text(None) + say.text("") + say.text("a") + say.end("a"), "a"),
    "another mark of the end": (lambda say: say.text("a") + say.end("a").replace(b"[DONE]", b'"[done]"'), "a"),
}


@PROTOCOL
@pytest.mark.parametrize("case", ANSWERS)
async def test_what_only_decorates_never_fails_an_answer(say: Say, case: str) -> None:
    build, text = ANSWERS[case]
    parts = await told_by(build(say), say.kind)
    assert text_of(parts) == text
    assert [item.text for item in items_of(parts) if isinstance(item, AssistantItem)] == [text]
    assert finish_of(parts).reason == "stop"


CHAT_ANSWERS: dict[str, tuple[bytes, str, str]] = {
    "another index": (choice({"content": "a"}, index=1) + choice({}, "stop", index=1) + DONE, "a", "stop"),
    "two choices, the first counts": (
        choice({"content": "a"}) + choice({"content": "x"}, index=1) + choice({}, "stop") + DONE,
        "a",
        "stop",
    ),
    "one choice outside a list": (
        event({"choices": {"delta": {"content": "a"}, "finish_reason": "stop"}}) + DONE,
        "a",
        "stop",
    ),
    "choices that are none": (
        event({"choices": None}) + event({"choices": [None]}) + choice({"content": "a"}, "stop") + DONE,
        "a",
        "stop",
    ),
    "a message instead of a delta": (event({"choices": [{"message": {"content": "a"}}]}) + DONE, "a", "stop"),
    "the whole message after its pieces": (
        choice({"content": "a"}) + event({"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}),
        "ab",
        "stop",
    ),
    # Perplexity
    "the message so far beside each delta": (
        choice({"content": "a"}, message={"content": "a"})
        + choice({"content": "b"}, "stop", message={"content": "ab"}),
        "ab",
        "stop",
    ),
    "text of the old protocol": (event({"choices": [{"text": "a", "finish_reason": "stop"}]}), "a", "stop"),
    "a delta that is a text": (choice("a") + choice({}, "stop"), "a", "stop"),
    # Mistral's Magistral
    "thoughts and words in parts": (
        choice({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]})
        + choice({"content": [{"type": "text", "text": "a"}, "b", {"text": "c"}]}, "stop"),
        "abc",
        "stop",
    ),
    "an end told by usage alone": (
        choice({"content": "a"}) + event({"choices": [], "usage": {"prompt_tokens": 1}}),
        "a",
        "stop",
    ),
    "an end told by its mark alone": (choice({"content": "a"}) + DONE, "a", "stop"),
    "an odd finish reason": (choice({"content": "a"}) + choice({}, {"type": "stop"}), "a", "stop"),
    "Anthropic's finish reason": (choice({"content": "a"}) + choice({}, "max_tokens"), "a", "length"),
    "Gemini's finish reason": (choice({"content": "a"}) + choice({}, "content_filter: RECITATION"), "a", "filter"),
    "Zhipu's finish reason": (choice({"content": "a"}) + choice({}, "sensitive"), "a", "filter"),
    "Mistral's finish reason": (choice({"content": "a"}) + choice({}, "model_length"), "a", "length"),
    "Bedrock's finish reason": (choice({"content": "a"}) + choice({}, "guardrail_intervened"), "a", "filter"),
    "a reason nobody knows": (choice({"content": "a"}) + choice({}, "eos_token"), "a", "stop"),
    "calls that are none": (choice({"content": "a", "tool_calls": [None, {}, {"index": 0}]}, "stop"), "a", "stop"),
}


@pytest.mark.parametrize("case", CHAT_ANSWERS)
async def test_shapes_of_chat_answers_are_read(case: str) -> None:
    stream, text, reason = CHAT_ANSWERS[case]
    parts = await told_by(stream, "chat")
    assert text_of(parts) == text
    assert [item.text for item in items_of(parts) if isinstance(item, AssistantItem)] == [text]
    assert finish_of(parts).reason == reason


COMPLETED = event({"type": "response.completed", "response": {"id": 5, "model": 5, "output": []}})
MESSAGE = {"type": "message", "id": "m1", "content": "a"}
ITEM = event({"type": "response.output_item.done", "output_index": "0", "item": MESSAGE})
RESPONSES_ANSWERS: dict[str, tuple[bytes, str, str]] = {
    "an event told by its name": (event({"delta": "a"}, "response.output_text.delta") + COMPLETED, "a", "stop"),
    "words without an item": (event({"type": "response.output_text.delta", "delta": "a"}) + COMPLETED, "a", "stop"),
    "a content that is a text": (ITEM + COMPLETED, "a", "stop"),
    "an end told by its mark alone": (ITEM + DONE, "a", "stop"),
    "an end of another name": (
        event({"type": "response.done", "response": {"status": "completed", "output": [MESSAGE]}}),
        "a",
        "stop",
    ),
    "one item outside a list": (
        event({"type": "response.completed", "response": {"output": MESSAGE}}),
        "a",
        "stop",
    ),
    "items that are none": (
        event({"type": "response.output_item.done", "item": 5})
        + event({"type": "response.completed", "response": {"output": [None, 7, MESSAGE]}}),
        "a",
        "stop",
    ),
    "an incomplete response by its status": (
        event({"type": "response.completed", "response": {"status": "incomplete", "output": [MESSAGE]}}),
        "a",
        "length",
    ),
    "odd details": (
        event({"type": "response.incomplete", "response": {"incomplete_details": "x", "output": [MESSAGE]}}),
        "a",
        "length",
    ),
}


@pytest.mark.parametrize("case", RESPONSES_ANSWERS)
async def test_shapes_of_responses_are_read(case: str) -> None:
    stream, text, reason = RESPONSES_ANSWERS[case]
    parts = await told_by(stream, "responses")
    assert text_of(parts) == text
    assert [item.text for item in items_of(parts) if isinstance(item, AssistantItem)] == [text]
    assert finish_of(parts).reason == reason


# ---------------------------------------------------------------- calls


def piece(name: Any = None, arguments: Any = None, call_id: Any = None, index: Any = 0, **more: Any) -> dict[str, Any]:
    given = {"name": name, "arguments": arguments}
    function = {key: value for key, value in given.items() if value is not None}
    told = {"index": index, "id": call_id, "function": function, **more}
    return {key: value for key, value in told.items() if value is not None}


A, B = '{"city":"A"}', '{"city":"B"}'
LOOK_A, LOOK_B, CLOCK = ("look_up", A), ("look_up", B), ("clock", "{}")
CALLS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]]]] = {
    # NousResearch/hermes-agent#62937, su-kaka/gcli2api#406, dyedd/lens#49
    "whole calls on one index without ids": ([piece("look_up", A), piece("look_up", B)], [LOOK_A, LOOK_B]),
    "the same with ids that are empty": (
        [piece("look_up", A, ""), piece("look_up", B, ""), piece("clock", "{}", "")],
        [LOOK_A, LOOK_B, CLOCK],
    ),
    "a name with each piece": ([piece("look_up", '{"ci'), piece("look_up", 'ty":"A"}')], [LOOK_A]),
    "a name and an id with each piece": (
        [piece("look_up", '{"ci', "a"), piece("look_up", 'ty":"A"}', "a"), piece("look_up", "", "a")],
        [LOOK_A],
    ),
    # BerriAI/litellm#4537
    "an empty object before the real one": ([piece("look_up", "{}", "a"), piece(None, A)], [LOOK_A]),
    "an empty object before the pieces of the real one": (
        [piece("look_up", "{}", "a"), piece(None, '{"ci'), piece(None, 'ty":"A"}')],
        [LOOK_A],
    ),
    "an empty object, and the real one with name and id": (
        [piece("look_up", "{}", "a"), piece("look_up", A, "a")],
        [LOOK_A],
    ),
    "an empty object glued to the real one": ([piece("look_up", "{}" + A, "a")], [LOOK_A]),
    "arguments once more at the end": (
        [piece("look_up", '{"ci', "a"), piece(None, 'ty":"A"}'), piece(None, A)],
        [LOOK_A],
    ),
    "the whole call once more at the end": ([piece("look_up", A, "a"), piece("look_up", A, "a")], [LOOK_A]),
    "arguments that repeat what was said": (
        [piece("look_up", '{"ci', "a"), piece(None, '{"city":"A'), piece(None, A)],
        [LOOK_A],
    ),
    "a name in two pieces": ([piece("look", None, "a"), piece("_up"), piece(None, A)], [LOOK_A]),
    "a name that grows": ([piece("lo", None, "a"), piece("look"), piece("look_up", A)], [LOOK_A]),
    "two names that exist": ([piece("look_up", None, "a"), piece("clock")], [("look_up", "{}"), CLOCK]),
    # agno-agi/agno#4631, pydantic/pydantic-ai#1802, langchain-ai/langchain#34190
    **{
        f"no arguments as {none!r}": ([piece("clock", none, "a")], [CLOCK])
        for none in ("null", "", "None", '""', "[]", " ")
    },
    "no arguments at all": ([piece("clock", None, "a")], [CLOCK]),
    "arguments encoded twice": ([piece("look_up", '"{\\"city\\":\\"A\\"}"', "a")], [LOOK_A]),
    "arguments as an object": ([piece("look_up", {"city": "A"}, "a")], [LOOK_A]),
    "arguments as an object, twice": (
        [piece("look_up", {"city": "A"}), piece("look_up", {"city": "B"})],
        [LOOK_A, LOOK_B],
    ),
    "nested arguments in pieces that look alike": (
        [piece("look_up", '{"a":', "a"), piece(None, '{"a":1}}')],
        [("look_up", '{"a":{"a":1}}')],
    ),
    "an id that is a number": ([piece("look_up", A, 5)], [LOOK_A]),
    "an index that is a text": ([piece("look_up", '{"ci', "a", "0"), piece(None, 'ty":"A"}', None, 0)], [LOOK_A]),
    "an index that is none": ([piece("look_up", A, "a", [1]), piece("clock", "{}", "b", None)], [LOOK_A, CLOCK]),
    "a call without a function around it": ([{"index": 0, "id": "a", "name": "look_up", "arguments": A}], [LOOK_A]),
    "something behind the arguments is left to the tool": (
        [piece("look_up", A + "</tool_call>", "a")],
        [("look_up", A + "</tool_call>")],
    ),
    "glued arguments without a name are left to the tool": (
        [piece("look_up", A, "a"), piece(None, B)],
        [("look_up", A + B)],
    ),
}


def calls_of(parts: list[Any]) -> list[tuple[str, str]]:
    return [(item.name, item.arguments) for item in items_of(parts) if isinstance(item, CallItem)]


@pytest.mark.parametrize("case", CALLS)
async def test_calls_are_read_as_they_were_meant(case: str) -> None:
    pieces, calls = CALLS[case]
    stream = b"".join(choice({"tool_calls": [each]}) for each in pieces) + choice({}, "tool_calls") + DONE
    parts = await told_by(stream, "chat", ASKED)
    assert calls_of(parts) == calls
    assert finish_of(parts).reason == "calls"
    assert len({item.call_id for item in items_of(parts) if isinstance(item, CallItem)}) == len(calls)


async def test_one_call_that_stands_alone_is_a_call() -> None:
    assert calls_of(await told_by(choice({"tool_calls": piece("look_up", A)}, "tool_calls"), "chat", ASKED)) == [LOOK_A]


async def test_the_old_form_of_a_call_is_a_call() -> None:
    stream = (
        choice({"function_call": {"name": "look_up", "arguments": '{"ci'}})
        + choice({"function_call": {"arguments": 'ty":"A"}'}})
        + choice({}, "function_call")
    )
    assert calls_of(await told_by(stream, "chat", ASKED)) == [LOOK_A]


async def test_calls_in_one_json_body_are_calls() -> None:
    message = {"content": None, "tool_calls": [piece("look_up", A, "a", None), piece("look_up", B, "b", None)]}
    body = orjson.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    assert calls_of(await told_by(body, "chat", ASKED)) == [LOOK_A, LOOK_B]


@pytest.mark.parametrize("arguments", [A, {"city": "A"}, '"{\\"city\\":\\"A\\"}"'], ids=str)
@pytest.mark.parametrize("call_id", ["c", 5, None])
async def test_calls_of_responses_are_read_as_they_were_meant(arguments: Any, call_id: Any) -> None:
    item = {"type": "function_call", "call_id": call_id, "name": "look_up", "arguments": arguments}
    stream = event({"type": "response.output_item.done", "item": item}) + COMPLETED
    assert calls_of(await told_by(stream, "responses", ASKED)) == [LOOK_A]


# ---------------------------------------------------------------- what was attached


async def test_what_a_server_attaches_to_a_call_is_kept_with_it() -> None:
    signed = piece("look_up", '{"ci', "a", extra_content={"google": {"thought_signature": "c2ln"}})
    signed["function"]["thought_signature"] = "inner"
    stream = choice({"tool_calls": [signed]}) + choice({"tool_calls": [piece(None, 'ty":"A"}')]}) + choice({}, "stop")
    (call,) = items_of(await told_by(stream, "chat", ASKED))
    assert isinstance(call, CallItem)
    assert call.provider_data is not None
    assert call.provider_data.site.startswith("127.0.0.1")
    assert call.provider_data.fields == {
        "extra_content": {"google": {"thought_signature": "c2ln"}},
        "function": {"thought_signature": "inner"},
    }


async def test_thoughts_are_kept_as_they_go_back_and_shown_on_the_way() -> None:
    first = {"type": "reasoning.text", "index": 0, "text": "h", "format": "anthropic-claude-v1"}
    stream = (
        choice({"role": "assistant", "reasoning": "h", "reasoning_details": [first], "channel": "analysis"})
        + choice({"reasoning": "m", "reasoning_details": [{**first, "text": "m", "signature": "c2ln"}]})
        + choice({"reasoning_details": [{"type": "reasoning.encrypted", "index": 1, "data": "eA==", "id": "rs"}]})
        + choice({"content": "fine"}, "stop")
    )
    parts = await told_by(stream, "chat")
    thought, answer = items_of(parts)
    assert isinstance(thought, ReasoningItem)
    assert thought.raw == {
        "reasoning_details": [
            {**first, "text": "hm", "signature": "c2ln"},
            {"type": "reasoning.encrypted", "index": 1, "data": "eA==", "id": "rs"},
        ]
    }
    assert thought.site is not None
    assert answer == AssistantItem("fine")
    assert [part.text for part in parts if isinstance(part, ReasoningDelta)] == ["h", "m"]


async def test_a_thought_told_under_two_names_is_kept_once() -> None:
    stream = choice({"reasoning": "hm", "reasoning_content": "hm"}) + choice({"content": "fine"}, "stop")
    parts = await told_by(stream, "chat")
    (thought, _) = items_of(parts)
    assert isinstance(thought, ReasoningItem)
    assert thought.raw == {"reasoning_content": "hm"}
    assert [part.text for part in parts if isinstance(part, ReasoningDelta)] == ["hm"]


# ---------------------------------------------------------------- what is refused

BEGUN = choice({"content": "begun"})
NONSENSE: dict[str, tuple[str, bytes, type[ModelError]]] = {
    "text of an unknown form": ("chat", BEGUN + choice({"content": {"a": 1}}), AnswerUnreadable),
    "text that is a truth value": ("chat", BEGUN + choice({"content": [["a"]]}), AnswerUnreadable),
    "calls that are a number": ("chat", BEGUN + choice({"tool_calls": 5}), AnswerUnreadable),
    "a call that is a number": ("chat", BEGUN + choice({"tool_calls": [5]}), AnswerUnreadable),
    "a name that is a list": ("chat", BEGUN + choice({"tool_calls": [piece(["f"], A)]}), AnswerUnreadable),
    "choices that are a number": ("chat", event({"choices": 7}), AnswerUnreadable),
    "a call without a name": ("chat", choice({"tool_calls": [piece(None, A, "a")]}, "tool_calls"), AnswerMalformed),
    "a damaged event": ("chat", BEGUN + b'data: {"choices":[{"delta":{"content":"a\n\n' + DONE, AnswerMalformed),
    "an end without a sign": ("chat", BEGUN, AnswerMalformed),
    "a call that the model failed to write": ("chat", choice({}, "MALFORMED_FUNCTION_CALL"), AnswerMalformed),
    "a delta of an unknown form": (
        "responses",
        event({"type": "response.output_text.delta", "delta": {"a": 1}}),
        AnswerUnreadable,
    ),
    "a refusal of an unknown form": (
        "responses",
        event({"type": "response.refusal.delta", "delta": [[1]]}),
        AnswerUnreadable,
    ),
    "a call of a response without a name": (
        "responses",
        event({"type": "response.output_item.done", "item": {"type": "function_call", "call_id": "c"}}) + COMPLETED,
        AnswerMalformed,
    ),
    "a damaged event of responses": ("responses", b'data: {"type":"response.outp\n\n' + COMPLETED, AnswerMalformed),
    "a text block of an unknown form": ("anthropic", Messages().text([1]) + Messages().end(""), AnswerUnreadable),
    "a damaged event of messages": (
        "anthropic",
        b'data: {"type":"content_blo\n\n' + Messages().end(""),
        AnswerMalformed,
    ),
    "an end of messages without a sign": ("anthropic", Messages().text("begun"), AnswerMalformed),
    "a response that was cancelled": ("responses", event({"type": "response.cancelled"}), AnswerMalformed),
}


@pytest.mark.parametrize("case", NONSENSE)
async def test_what_carries_meaning_and_makes_none_is_refused(case: str) -> None:
    kind, stream, error = NONSENSE[case]
    with pytest.raises(AnswerMalformed) as caught:
        await told_by(stream, kind, ASKED)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        ("chat", choice({"content": ""}, "error", error={"code": 402, "message": "flagged upstream"})),
        ("chat", b'error: {"code":500,"message":"flagged upstream"}\n\n'),
        ("chat", event({"message": "flagged upstream"}, "error")),
        ("responses", event({"message": "flagged upstream"}, "error")),
        ("anthropic", event({"type": "error", "error": {"type": "api_error", "message": "flagged upstream"}})),
        ("anthropic", event({"message": "flagged upstream"}, "error")),
    ],
)
async def test_what_a_server_says_of_its_failure_is_told(kind: str, stream: bytes) -> None:
    with pytest.raises(ModelError, match="flagged upstream"):
        await told_by(BEGUN + stream + DONE if kind == "chat" else stream, kind)
