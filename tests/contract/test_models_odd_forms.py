"""What is said in a form of its own: broken characters anywhere, errors without their envelope, ends, counts, calls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from tests.contract.asking import STREAMS, finish_of, items_of, recorded, text_of, told_by
from tests.contract.canned import DONE, choice, event
from turnkeep.errors import (
    AnswerMalformed,
    CredentialsRefused,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelUnavailable,
    QuotaExhausted,
)
from turnkeep.messages import AssistantItem, CallItem, ReasoningItem, item_to_json
from turnkeep.models.model import Delta, ItemDone, ReasoningDelta, StreamPart

# ---------------------------------------------------------------- halves of characters, in every text of an event

GOLDEN = sorted(path.stem for kind in ("chat", "responses", "anthropic") for path in STREAMS.glob(f"{kind}-*.sse"))
HALF = "\ud83d"
Path = tuple[str | int, ...]
Ended = Callable[[str], bytes]


def texts_in(value: Any, path: Path = ()) -> Iterator[Path]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in pairs:
        yield from texts_in(entry, (*path, name))
    if isinstance(value, str) and path[-1] != "type":
        yield path


def halved(event: Any, path: Path) -> bytes:
    other = json.loads(json.dumps(event))
    holder = other
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] += HALF
    return json.dumps(other).encode()


def broken_streams(name: str) -> Iterator[bytes]:
    """The stream with half a character at the end of one text, for each kind of text in it."""
    blocks = recorded(name).split(b"\n\n")
    seen: set[Any] = set()
    for place, block in enumerate(blocks):
        if not (data := re.search(rb"^data: (\{.*)$", block, re.MULTILINE)):
            continue
        said = json.loads(data[1])
        for path in texts_in(said):
            kind = (said.get("type"), *("#" if isinstance(step, int) else step for step in path))
            if kind not in seen:
                seen.add(kind)
                broken = block[: data.start(1)] + halved(said, path) + block[data.end(1) :]
                yield b"\n\n".join([*blocks[:place], broken, *blocks[place + 1 :]])


def is_writable(part: StreamPart) -> bool:
    if isinstance(part, Delta | ReasoningDelta):
        return bool(part.text.encode())
    return not isinstance(part, ItemDone) or bool(orjson.dumps(item_to_json(part.item)))


@pytest.mark.daily(rows=3)  # some of each dialect
@pytest.mark.parametrize("name", GOLDEN)
async def test_half_a_character_anywhere_leaves_an_answer_that_can_be_written(name: str) -> None:
    """An answer stays one, and a refusal one too."""
    kind = name.partition("-")[0]
    is_answer = await answer_in(recorded(name), kind) is not None
    streams = list(broken_streams(name))

    parts = [await answer_in(stream, kind) for stream in streams]

    assert len(streams) >= 7
    assert [one is not None for one in parts] == [is_answer] * len(streams)
    assert all(is_writable(part) for one in parts for part in one or ())


async def answer_in(stream: bytes, kind: str) -> list[StreamPart] | None:
    """None where the server refused."""
    try:
        return await told_by(stream, kind)
    except ModelError:
        return None


def delta(index: int, kind: str, name: str, half: bytes) -> bytes:
    head = {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: "HALF"}}
    return event(orjson.dumps(head).replace(b"HALF", half))


async def test_halves_of_a_character_in_arguments_and_thoughts_are_joined() -> None:
    begun = [{"type": "thinking", "thinking": ""}, {"type": "tool_use", "name": "look"}]
    starts = [event({"type": "content_block_start", "index": n, "content_block": raw}) for n, raw in enumerate(begun)]
    thoughts = [delta(0, "thinking_delta", "thinking", half) for half in (rb"\ud83d", rb"\ude00")]
    pieces = [delta(1, "input_json_delta", "partial_json", half) for half in (rb"{\"a\":\"\ud83d", rb"\ude00\"}")]
    end = event({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}) + event({"type": "message_stop"})
    stream = b"".join([starts[0], *thoughts, starts[1], *pieces, end])
    thought, call = items_of(await told_by(stream, "anthropic"))
    assert isinstance(thought, ReasoningItem)
    assert isinstance(call, CallItem)
    assert (thought.raw["thinking"], call.arguments) == ("😀", '{"a":"😀"}')


# ---------------------------------------------------------------- errors without their envelope

COMPLAINTS: dict[str, tuple[Any, type[ModelError], str]] = {
    "vLLM": ({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}, ModelRefused, "no"),
    "FastAPI": ({"detail": "no such thing"}, ModelUnavailable, "no such thing"),
    "DashScope": ({"code": "InvalidApiKey", "message": "no", "request_id": "r"}, CredentialsRefused, "no"),
    "Zhipu": ({"code": 500, "msg": "ill", "success": False}, ModelUnavailable, "ill"),
    "Cloudflare": ({"success": False, "errors": [{"message": "ill", "code": 7009}]}, ModelUnavailable, "ill"),
    "MiniMax, account": (
        {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        QuotaExhausted,
        "balance",
    ),
    "MiniMax, rate": ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, ModelRateLimited, "rate limit"),
    "Groq": ({"x_groq": {"error": "over capacity"}}, ModelUnavailable, "over capacity"),
}


@pytest.mark.parametrize("kind", ["chat", "responses", "anthropic"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "event"])
@pytest.mark.parametrize("case", COMPLAINTS)
async def test_an_error_in_a_form_of_its_own_is_told_as_one(case: str, whole: bool, kind: str) -> None:
    said, error, words = COMPLAINTS[case]
    with pytest.raises(error, match=words):
        await told_by(orjson.dumps(said) if whole else event(said), kind)


@pytest.mark.parametrize("remark", [{"message": "processing"}, {"code": 0, "message": "ok"}, {"detail": "queued"}])
async def test_a_remark_beside_an_answer_is_no_error(remark: Any) -> None:
    stream = event(remark) + choice({"content": "a"}) + event(remark) + choice({}, "stop") + DONE
    assert text_of(await told_by(stream, "chat")) == "a"


# ---------------------------------------------------------------- ends and counts


def chat_end(reason: str) -> bytes:
    return choice({"content": "a"}) + choice({"content": "b"}, reason)


def messages_end(reason: str) -> bytes:
    said = event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ab"}})
    return said + event({"type": "message_delta", "delta": {"stop_reason": reason}})


@pytest.mark.parametrize(("kind", "ended"), [("chat", chat_end), ("anthropic", messages_end)], ids=["chat", "messages"])
@pytest.mark.parametrize(
    ("reason", "means"),
    [("max_new_tokens", "length"), ("repetition_truncation", "length"), ("token_limit", "length"), ("SPII", "filter"),
     ("length", "length"), ("content_filter", "filter"), ("sensitive", "filter"), ("model_context_window_exceeded",
     "length"), ("refusal", "refusal"), ("stop_sequence", "stop"), ("eos", "stop"),
     ("timeout", None), ("cancelled", None), ("interrupted", None), ("error", None), ("null", None), ("none", None)],
)  # fmt: skip
async def test_how_servers_call_the_end(
    reason: str, means: str | None, kind: str, ended: Callable[[str], bytes]
) -> None:
    if means is None:
        with pytest.raises(AnswerMalformed):
            await told_by(ended(reason), kind)
        return
    parts = await told_by(ended(reason), kind)
    assert finish_of(parts).reason == means
    assert items_of(parts) == [AssistantItem("ab", interrupted=means in ("length", "filter"))]


@pytest.mark.parametrize("place", ["chunk", "choice", "x_groq"])
async def test_usage_counts_wherever_it_is_told(place: str) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    body: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    holder = {"chunk": body, "choice": body["choices"][0], "x_groq": body.setdefault("x_groq", {})}[place]
    holder["usage"] = usage
    parts = await told_by(choice({"content": "a"}) + event(body) + DONE, "chat")
    assert items_of(parts) == [AssistantItem("a")]
    assert (finish_of(parts).usage.input_tokens, finish_of(parts).usage.output_tokens) == (7, 3)


# ---------------------------------------------------------------- calls in Messages


@pytest.mark.parametrize(
    ("start", "pieces", "arguments"),
    [
        ({}, ["null"], "{}"),
        ({}, ['"{\\"a\\":1}"'], '{"a":1}'),
        ({}, ["{}", '{"a":1}'], '{"a":1}'),
        ('{"a":1}', [], '{"a":1}'),
        (None, [], "{}"),
        ({"a": 1}, [], '{"a":1}'),
    ],
)
async def test_arguments_in_messages_are_read_like_those_of_chat(start: Any, pieces: list[str], arguments: str) -> None:
    block = {"type": "tool_use", "id": "t", "name": "look", "input": start}
    stream = event({"type": "content_block_start", "index": 0, "content_block": block})
    for piece in pieces:
        delta = {"type": "input_json_delta", "partial_json": piece}
        stream += event({"type": "content_block_delta", "index": 0, "delta": delta})
    stream += event({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}) + event({"type": "message_stop"})
    assert items_of(await told_by(stream, "anthropic")) == [CallItem("t", "look", arguments)]


# ---------------------------------------------------------------- whole messages in place of pieces


def messages(*contents: Any, **more: Any) -> bytes:
    return b"".join(event({"choices": [{"message": {"content": content, **more}}]}) for content in contents) + DONE


def completions(*texts: str) -> bytes:
    return b"".join(event({"choices": [{"text": text}]}) for text in texts) + DONE


IN_MESSAGES: dict[str, tuple[bytes, str]] = {
    "with what is new": (messages("He", "llo", " you"), "Hello you"),
    "with all so far": (messages("He", "Hello", "Hello you"), "Hello you"),
    "with all so far, the last once more": (messages("He", "Hello", "Hello"), "Hello"),
    "with all so far, trimmed at the end": (messages("He", "Hello\n", "Hello"), "Hello\n"),
    "with what is new, which repeats": (messages("ha", "ha", "ha", "!"), "hahaha!"),
    "with what is new, longer than what was": (messages("I", " am here", " now"), "I am here now"),
    "with all so far, and then with what is new": (messages("a", "ab", "c"), "abc"),
    "with nothing in between": (messages(None, "He", "", None, "llo", ""), "Hello"),
    "in parts, with what is new": (
        messages([{"type": "text", "text": "He"}], [{"type": "text", "text": "llo"}]),
        "Hello",
    ),
    "whole, in other words than its pieces": (
        choice({"content": " Hello"}) + choice({"content": " you "}) + messages("Hello you"),
        " Hello you ",
    ),
    "of the old protocol, with what is new": (completions("He", "llo", " you"), "Hello you"),
    "of the old protocol, with all so far": (completions("He", "Hello", "Hello you"), "Hello you"),
}


@pytest.mark.parametrize("case", IN_MESSAGES)
async def test_no_text_of_messages_is_lost_or_said_twice(case: str) -> None:
    stream, text = IN_MESSAGES[case]
    parts = await told_by(stream, "chat")
    (said,) = items_of(parts)
    assert isinstance(said, AssistantItem)
    assert said.text == text == text_of(parts)


DETAIL = {"type": "reasoning.text", "text": "hm", "signature": "s", "id": "r1"}
SOURCE = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A"}}


async def test_what_comes_again_beside_the_text_is_taken_once() -> None:
    def so_far(text: str, thought: str) -> bytes:
        beside = {"reasoning_content": thought, "reasoning_details": [DETAIL], "annotations": [SOURCE]}
        return event({"choices": [{"message": {"content": text, **beside}}]})

    parts = await told_by(so_far("", "I th") + so_far("He", "I think") + so_far("Hello", "I think") + DONE, "chat")
    thought, said = items_of(parts)
    assert isinstance(thought, ReasoningItem)
    assert isinstance(said, AssistantItem)
    assert thought.raw == {"reasoning_content": "I think", "reasoning_details": [DETAIL]}
    assert "".join(part.text for part in parts if isinstance(part, ReasoningDelta)) == "I think"
    assert (said.text, len(said.citations)) == ("Hello", 1)


async def test_thoughts_that_come_in_messages_with_what_is_new_are_kept_whole() -> None:
    stream = b"".join(
        event({"choices": [{"message": {"content": "", "reasoning_content": thought}}]})
        for thought in ("I", " th", "ink")
    )
    thought, _ = items_of(await told_by(stream + messages("Hello"), "chat"))
    assert isinstance(thought, ReasoningItem)
    assert thought.text == "I think"
