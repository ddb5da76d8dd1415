"""What every model promises, kept over real sockets against servers that behave and servers that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.contract.canned import Canned, Visit, canned
from turnkeep.errors import (
    AnswerMalformed,
    ConfigurationError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    QuotaExhausted,
)
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Item,
    OutputItem,
    Part,
    ReasoningItem,
    SystemItem,
    UserItem,
    text_content,
)
from turnkeep.models import Endpoint, ModelPool, open_model
from turnkeep.models.base import Began, Delta, Finish, ItemDone, Model, ModelRequest, StreamPart, ToolSpec
from turnkeep.models.chat import ChatModel
from turnkeep.models.responses import ResponsesModel
from turnkeep.usage import Usage

STREAMS = Path(__file__).parents[1] / "data" / "streams"
KEY = "sk-proj-Zx81kd72hs9Q"
HELLO = ModelRequest("gpt-6-luna", [UserItem(text_content("hello"))])
PROTOCOLS = pytest.mark.parametrize("kind", ["responses", "chat"])
GOOD = {"responses": "responses-text", "chat": "chat-text"}
TEXT = {
    "responses": 'Grüß Gott 👋🏽, 世界!\n\nIt says "data: {}"\\n.',
    "chat": "The café öffnet um 9 ☕️.",
}


def recorded(name: str) -> bytes:
    return (STREAMS / f"{name}.sse").read_bytes()


def opened(server: Canned, kind: Any, **settings: Any) -> Model:
    settings = {"first_event_timeout": 20.0, "idle_timeout": 20.0, "api_key": KEY, "simulated": True, **settings}
    return open_model(Endpoint(server.url, **settings), kind)


async def ask(model: Model, request: ModelRequest = HELLO) -> list[StreamPart]:
    try:
        async with asyncio.timeout(60):
            return [part async for part in model.stream(request)]
    finally:
        await model.close()


async def told_by(stream: bytes, kind: str, request: ModelRequest = HELLO, **settings: Any) -> list[StreamPart]:
    """All parts that a model makes of one recorded answer."""

    async def answer(visit: Visit) -> None:
        visit.whole(stream, x_request_id="req_1")

    async with canned(answer) as server:
        return await ask(opened(server, kind, **settings), request)


async def sent_by(kind: str, request: ModelRequest, **settings: Any) -> Visit:
    """The request that a model sends."""

    async def answer(visit: Visit) -> None:
        visit.whole(recorded(GOOD[kind]))

    async with canned(answer) as server:
        await ask(opened(server, kind, **settings), request)
        return server.last


def text_of(parts: list[StreamPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Delta))


def items_of(parts: list[StreamPart]) -> list[Item]:
    return [part.item for part in parts if isinstance(part, ItemDone)]


def finish_of(parts: list[StreamPart]) -> Finish:
    assert isinstance(parts[-1], Finish)
    assert sum(isinstance(part, Finish) for part in parts) == 1
    return parts[-1]


# ---------------------------------------------------------------- the contract, in both protocols


@PROTOCOLS
async def test_an_answer_begins_once_then_gives_text_and_items_and_finishes_last(kind: str) -> None:
    parts = await told_by(recorded(GOOD[kind]), kind)
    assert isinstance(parts[0], Began)
    assert sum(isinstance(part, Began) for part in parts) == 1
    assert text_of(parts) == TEXT[kind]
    (item,) = items_of(parts)
    assert isinstance(item, AssistantItem)
    assert item.text == TEXT[kind]
    assert finish_of(parts).reason == "stop"
    assert finish_of(parts).model == "gpt-6-luna-2026-09-22"
    assert finish_of(parts).tier == "default"


@PROTOCOLS
async def test_the_beginning_carries_the_names_and_limits_that_the_provider_gave(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded(GOOD[kind]), X_Request_Id="req_7", X_RateLimit_Remaining_Tokens="99")

    async with canned(answer) as server:
        parts = await ask(opened(server, kind))
    began = parts[0]
    assert isinstance(began, Began)
    assert began.request_id == "req_7"
    assert began.rate == {"x-ratelimit-remaining-tokens": "99"}
    assert began.response_id == {"responses": "resp_68f1c0de7b1c8191a6d0b1f2c3d4e5f60a1b2c3d4e5f6071"}.get(
        kind, "chatcmpl-CqZ0kTq4uS1mX"
    )


@PROTOCOLS
async def test_every_token_is_given_as_soon_as_it_is_here(kind: str) -> None:
    """The server says the next piece only after the client has shown the one before."""
    shown = asyncio.Event()
    pieces = recorded(GOOD[kind]).split(b"\n\n")

    async def answer(visit: Visit) -> None:
        visit.begin()
        for piece in pieces[:-1]:
            visit.say(piece + b"\n\n")
            if b'"content":"The"' in piece or b'delta":"Gr"' in piece:
                await shown.wait()
        visit.end()

    async with canned(answer) as server:
        model = opened(server, kind)
        async for part in model.stream(HELLO):
            if isinstance(part, Delta):
                shown.set()
        await model.close()
    assert shown.is_set()


@PROTOCOLS
async def test_an_answer_cut_into_single_bytes_is_the_same_answer(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        stream = recorded(GOOD[kind])
        for place in range(len(stream)):
            visit.say(stream[place : place + 1])
            if place % 512 == 0:
                await asyncio.sleep(0)
        visit.end()

    async with canned(answer) as server:
        parts = await ask(opened(server, kind))
    assert parts[1:] == (await told_by(recorded(GOOD[kind]), kind))[1:]


@PROTOCOLS
async def test_a_connection_serves_again_after_a_finished_answer(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded(GOOD[kind]))

    async with canned(answer) as server:
        model = opened(server, kind)
        for _ in range(3):
            finish_of([part async for part in model.stream(HELLO)])
        await model.close()
        assert [visit.connection for visit in server.visits] == [1, 1, 1]


@PROTOCOLS
async def test_a_server_that_keeps_the_connection_open_after_the_end_holds_nobody_up(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind]))
        await visit.left.wait()

    async with canned(answer) as server:
        parts = await ask(opened(server, kind))
        await asyncio.wait_for(server.last.left.wait(), 20)
    assert finish_of(parts).reason == "stop"


@PROTOCOLS
async def test_closing_the_iterator_closes_the_connection(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind])[:-300])
        await visit.left.wait()

    async with canned(answer) as server:
        model = opened(server, kind)
        async with aclosing(model.stream(HELLO)) as stream:
            async for part in stream:
                if isinstance(part, Delta):
                    break
        await asyncio.wait_for(server.last.left.wait(), 20)
        await model.close()


@PROTOCOLS
@pytest.mark.parametrize("moment", ["before the head", "between events"])
async def test_cancelling_the_reader_closes_the_connection(kind: str, moment: str) -> None:
    arrived = asyncio.Event()

    async def answer(visit: Visit) -> None:
        if moment == "between events":
            visit.begin()
            visit.say(recorded(GOOD[kind])[:-300])
        arrived.set()
        await visit.left.wait()

    async def read(stream: AsyncGenerator[StreamPart, None]) -> None:
        async for _ in stream:
            pass

    async with canned(answer) as server:
        model = opened(server, kind)
        task = asyncio.create_task(read(model.stream(HELLO)))
        await arrived.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.last.left.wait(), 20)
        await model.close()


@PROTOCOLS
async def test_nothing_is_sent_twice(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(b"", status=500)

    async with canned(answer) as server:
        with pytest.raises(ModelUnavailable):
            await ask(opened(server, kind))
        assert len(server.visits) == 1


# ---------------------------------------------------------------- failures, in both protocols

ERROR = orjson.dumps({"error": {"message": f"bad key {KEY}", "type": "invalid_request_error", "code": "bad"}})


@PROTOCOLS
async def test_a_refusal_is_classified_and_scrubbed(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(ERROR, status=400, content_type="application/json", x_request_id="req_9")

    async with canned(answer) as server:
        with pytest.raises(ModelRefused, match="req_9") as caught:
            await ask(opened(server, kind))
    assert KEY not in str(caught.value)


@PROTOCOLS
async def test_a_rate_limit_says_when_to_come_back(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(b"{}", status=429, content_type="application/json", Retry_After="12")

    async with canned(answer) as server:
        with pytest.raises(ModelRateLimited) as caught:
            await ask(opened(server, kind))
    assert caught.value.retry_after == 12.0


@PROTOCOLS
async def test_an_error_page_that_never_ends_does_not_hold_up_the_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnkeep.models.http.ERROR_BODY_TIME", 0.1)

    async def answer(visit: Visit) -> None:
        visit.begin(503, "text/html")
        visit.say(b"<html>")
        await visit.left.wait()

    async with canned(answer) as server:
        with pytest.raises(ModelUnavailable):
            await ask(opened(server, kind))
        await asyncio.wait_for(server.last.left.wait(), 20)


@PROTOCOLS
async def test_a_redirect_is_not_followed(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(b"", status=307, Location="http://127.0.0.1:9/other")

    async with canned(answer) as server:
        with pytest.raises(ModelError, match="redirect") as caught:
            await ask(opened(server, kind))
        assert caught.value.code == "endpoint_blocked"


@PROTOCOLS
async def test_a_clean_end_without_a_terminal_event_is_a_failure(kind: str) -> None:
    stream = recorded(GOOD[kind])
    end = stream.index(b"event: response.completed") if kind == "responses" else stream.index(b'"stop"') - 300
    with pytest.raises(AnswerMalformed, match="ended without"):
        await told_by(stream[:end], kind)


@PROTOCOLS
async def test_an_empty_stream_is_a_failure(kind: str) -> None:
    with pytest.raises(AnswerMalformed):
        await told_by(b"data: [DONE]\n\n", kind)


@PROTOCOLS
async def test_a_connection_that_breaks_in_the_middle_is_a_failure(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind])[:900])
        await asyncio.sleep(0.05)
        visit.cut()

    async with canned(answer) as server:
        with pytest.raises(ModelUnavailable, match="lost the connection"):
            await ask(opened(server, kind))


@PROTOCOLS
async def test_nobody_listening_is_a_failure(kind: str) -> None:
    async def answer(visit: Visit) -> None: ...

    async with canned(answer) as server:
        model = opened(server, kind)
    with pytest.raises(ModelUnavailable, match="no connection to 127"):
        await ask(model)


@PROTOCOLS
async def test_something_that_is_not_http_is_a_failure(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    async with canned(answer) as server:
        with pytest.raises(AnswerMalformed, match="does not speak HTTP"):
            await ask(opened(server, kind))


@PROTOCOLS
@pytest.mark.parametrize(
    "said",
    [
        "data: {broken\n\n",
        "data: 17\n\n",
        "data: \xff\xfe\n\n",
        'data: {"type":"response.output_text.delta","choices":7}\n\n',
        'data: {"type":"response.output_item.done","item":3,"choices":[4]}\n\n',
    ],
    ids=["no json", "a number", "no utf-8", "delta without text", "item that is none"],
)
async def test_garbage_in_the_stream_is_a_failure(kind: str, said: str) -> None:
    with pytest.raises(AnswerMalformed):
        await told_by(recorded(GOOD[kind])[:900].rpartition(b"\n\n")[0] + b"\n\n" + said.encode("latin-1"), kind)


@PROTOCOLS
async def test_an_error_in_a_stream_that_began_well_is_raised(kind: str) -> None:
    stream = recorded(GOOD[kind])[:1500].rpartition(b"\n\n")[0]
    said = b'\n\ndata: {"error":{"code":"insufficient_quota","message":"no credit"}}\n\n'
    with pytest.raises(QuotaExhausted, match="no credit"):
        await told_by(stream + said, kind)


@PROTOCOLS
async def test_a_page_instead_of_a_stream_is_a_failure(kind: str) -> None:
    with pytest.raises(AnswerMalformed, match="a page instead of a stream"):
        await told_by(b"<!doctype html><title>Sign in</title>", kind)


@PROTOCOLS
async def test_one_json_body_instead_of_a_stream_is_a_failure(kind: str) -> None:
    with pytest.raises(AnswerMalformed, match="one JSON body"):
        await told_by(b'{"id":"x","choices":[]}', kind)


@PROTOCOLS
async def test_an_error_body_under_status_200_is_the_error_that_it_names(kind: str) -> None:
    with pytest.raises(ModelRateLimited):
        await told_by(b'{"error":{"code":429,"message":"wait"}}', kind)


# ---------------------------------------------------------------- watchdogs


@PROTOCOLS
@pytest.mark.parametrize("head", [False, True], ids=["no head", "head only"])
async def test_a_server_that_never_answers_is_given_up(kind: str, head: bool) -> None:
    async def answer(visit: Visit) -> None:
        if head:
            visit.begin()
        await visit.left.wait()

    async with canned(answer) as server:
        with pytest.raises(ModelTimedOut, match="no answer from"):
            await ask(opened(server, kind, first_event_timeout=0.2))
        await asyncio.wait_for(server.last.left.wait(), 20)


@PROTOCOLS
async def test_a_server_that_falls_silent_is_given_up(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind])[:900])
        await visit.left.wait()

    async with canned(answer) as server:
        with pytest.raises(ModelTimedOut, match=r"fell silent for 0\.2 s"):
            await ask(opened(server, kind, idle_timeout=0.2))
        await asyncio.wait_for(server.last.left.wait(), 20)


@PROTOCOLS
async def test_pings_are_a_sign_of_life(kind: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.begin()
        for _ in range(12):
            visit.say(": ping\n\n")
            await asyncio.sleep(0.1)
        visit.say(recorded(GOOD[kind]))
        visit.end()

    async with canned(answer) as server:
        parts = await ask(opened(server, kind, idle_timeout=0.6))
    assert finish_of(parts).reason == "stop"


@PROTOCOLS
async def test_a_slow_reader_is_not_taken_for_a_silent_server(kind: str) -> None:
    gate = asyncio.Event()

    async def answer(visit: Visit) -> None:
        visit.begin()
        visit.say(recorded(GOOD[kind])[:1500])
        await gate.wait()
        visit.say(recorded(GOOD[kind])[1500:])
        visit.end()

    async with canned(answer) as server:
        model = opened(server, kind, idle_timeout=0.4)
        parts: list[StreamPart] = []
        async for part in model.stream(HELLO):
            if not parts:
                await asyncio.sleep(1.0)
                gate.set()
            parts.append(part)
        await model.close()
    assert finish_of(parts).reason == "stop"


# ---------------------------------------------------------------- what is sent, in both protocols

SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
TOOL = ToolSpec("look", "Looks.", SCHEMA, strict=True)
LOOSE = replace(TOOL, name="guess", strict=False)
SEALED = {"type": "reasoning", "id": "rs_1", "status": "completed", "encrypted_content": "gAAA", "summary": []}
TRANSCRIPT: list[Item] = [
    SystemItem("be kind"),
    UserItem(text_content("hello"), message_id="m1"),
    ReasoningItem(SEALED),
    AssistantItem("let me look", phase="commentary"),
    CallItem("c1", "look", '{"a":1}'),
    CallItem("c2", "look", '{"a":'),
    OutputItem("c1", "one"),
    OutputItem("c2", "two", "error"),
    AssistantItem("", interrupted=True),
    AssistantItem("done", phase="final_answer"),
]
FULL = ModelRequest(
    "gpt-6-luna",
    TRANSCRIPT,
    instructions="be brief",
    tools=(TOOL, LOOSE),
    parameters={
        "temperature": 0.3,
        "max_output_tokens": 100,
        "presence_penalty": 0.1,
        "reasoning": {"effort": "low"},
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "name": "look"},
        "stream": False,
        "vendor_option": 1,
        "top_p": None,
    },
    labels={"turnkeep_run": "run_1", "turnkeep_thread": "thread_1"},
    cache_key="thread_1",
    user="u-hash",
)


async def test_a_responses_request_is_stateless_and_complete() -> None:
    visit = await sent_by("responses", FULL)
    assert visit.path == "/v1/responses"
    assert visit.body == {
        "model": "gpt-6-luna",
        "input": [
            {"type": "message", "role": "developer", "content": "be kind"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
            {"type": "reasoning", "encrypted_content": "gAAA", "summary": []},
            {"type": "message", "role": "assistant", "content": "let me look", "phase": "commentary"},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": '{"a":'},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": "two"},
            {"type": "message", "role": "assistant", "content": "done", "phase": "final_answer"},
        ],
        "instructions": "be brief",
        "tools": [
            {
                "type": "function",
                "name": "look",
                "description": "Looks.",
                "parameters": TOOL.parameters,
                "strict": True,
            },
            {
                "type": "function",
                "name": "guess",
                "description": "Looks.",
                "parameters": TOOL.parameters,
                "strict": False,
            },
        ],
        "max_output_tokens": 100,
        "reasoning": {"effort": "low"},
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "name": "look"},
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "stream_options": {"include_obfuscation": False},
        "metadata": {"turnkeep_run": "run_1", "turnkeep_thread": "thread_1"},
        "prompt_cache_key": "thread_1",
        "safety_identifier": "u-hash",
    }


async def test_a_chat_request_to_openai_is_not_stored_and_asks_for_usage() -> None:
    visit = await sent_by("chat", FULL)
    assert visit.path == "/v1/chat/completions"
    assert visit.headers["x-turnkeep-run"] == "run_1"
    function = {"name": "look", "description": "Looks.", "parameters": SCHEMA}
    assert visit.body == {
        "model": "gpt-6-luna",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": "hello"},
            {
                "role": "assistant",
                "content": "let me look",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
                    {
                        "id": "c2",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"malformed":"{\\"a\\":"}'},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "assistant", "content": "done"},
        ],
        "tools": [
            {"type": "function", "function": {**function, "strict": True}},
            {"type": "function", "function": {**function, "name": "guess"}},
        ],
        "max_completion_tokens": 100,
        "reasoning_effort": "low",
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "stream": True,
        "store": False,
        "stream_options": {"include_usage": True},
        "prompt_cache_key": "thread_1",
        "safety_identifier": "u-hash",
    }


async def test_a_compatible_server_gets_only_what_all_of_them_take() -> None:
    visit = await sent_by("chat", replace(FULL, items=[FULL.items[1]]), simulated=False)
    assert visit.body["messages"][0] == {"role": "system", "content": "be brief"}
    assert visit.body["max_tokens"] == 100
    assert visit.body["temperature"] == 0.3
    assert visit.body["vendor_option"] == 1
    assert visit.body["presence_penalty"] == 0.1
    assert visit.body["stream_options"] == {"include_usage": True}
    assert not {"store", "metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier"} & set(visit.body)


async def test_what_a_server_takes_can_be_overridden() -> None:
    settings = {"takes_stream_options": False, "takes_store": True, "takes_developer_role": True}
    visit = await sent_by("chat", FULL, simulated=False, capabilities=settings)
    assert "stream_options" not in visit.body
    assert visit.body["store"] is False
    assert visit.body["messages"][0]["role"] == "developer"


@PROTOCOLS
async def test_a_model_that_reasons_gets_a_temperature_only_without_effort(kind: str) -> None:
    async def sends(model: str, **parameters: Any) -> bool:
        request = ModelRequest(model, HELLO.items, parameters={"temperature": 0.3, **parameters})
        return "temperature" in (await sent_by(kind, request)).body

    assert not await sends("gpt-6-luna")
    assert not await sends("gpt-6-luna", reasoning={"effort": "low"})
    assert await sends("gpt-6-luna", reasoning={"effort": "none"})
    assert await sends("gpt-6-luna", reasoning_effort="none")
    assert await sends("gpt-4o-mini")


@PROTOCOLS
async def test_a_model_that_does_not_reason_is_not_asked_to(kind: str) -> None:
    body = (await sent_by(kind, replace(FULL, model="gpt-4o-mini"))).body
    assert not {"reasoning", "reasoning_effort", "include"} & set(body)
    assert body["temperature"] == 0.3


@PROTOCOLS
async def test_choices_of_tools_are_not_sent_without_tools(kind: str) -> None:
    body = (await sent_by(kind, replace(FULL, tools=()))).body
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)


async def test_the_names_of_either_protocol_may_be_used_for_parameters() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    request = replace(
        HELLO,
        tools=(TOOL,),
        parameters={
            "max_tokens": 5,
            "reasoning_effort": "high",
            "verbosity": "low",
            "response_format": form,
            "tool_choice": {"type": "function", "function": {"name": "look"}},
        },
    )
    body = (await sent_by("responses", request)).body
    assert body["max_output_tokens"] == 5
    assert body["reasoning"] == {"effort": "high"}
    assert body["text"] == {"verbosity": "low", "format": {"type": "json_schema", "name": "x", "schema": {}}}
    assert body["tool_choice"] == {"type": "function", "name": "look"}
    body = (
        await sent_by("chat", replace(request, parameters={"text": body["text"], "reasoning": body["reasoning"]}))
    ).body
    assert body["response_format"] == form
    assert body["verbosity"] == "low"
    assert body["reasoning_effort"] == "high"


async def test_images_and_files_pass_through() -> None:
    image = Part("image", data={"image_url": "https://pictures/1", "detail": "low"})
    file = Part("file", data={"file_id": "file_1"})
    request = ModelRequest("gpt-6-luna", [UserItem((Part("text", "what?"), image, file))])
    (message,) = (await sent_by("responses", request)).body["input"]
    assert message["content"] == [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": "https://pictures/1", "detail": "low"},
        {"type": "input_file", "file_id": "file_1"},
    ]
    (message,) = (await sent_by("chat", request)).body["messages"]
    assert message["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "https://pictures/1", "detail": "low"}},
        {"type": "file", "file": {"file_id": "file_1"}},
    ]


async def test_reasoning_that_holds_nothing_to_send_back_is_left_out() -> None:
    empty = ReasoningItem({"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": None})
    body = (await sent_by("responses", ModelRequest("gpt-6-luna", [*HELLO.items, empty, AssistantItem("hi")]))).body
    assert [item["type"] for item in body["input"]] == ["message", "message"]


@PROTOCOLS
async def test_each_request_carries_who_asks_and_a_name_of_its_own(kind: str) -> None:
    settings = {"organisation": "org-1", "project": "proj_1", "headers": {"X-Gateway": "team"}}
    first = (await sent_by(kind, HELLO, **settings)).headers
    second = (await sent_by(kind, HELLO, **settings)).headers
    assert first["authorization"] == f"Bearer {KEY}"
    assert (first["openai-organization"], first["openai-project"], first["x-gateway"]) == ("org-1", "proj_1", "team")
    assert first["user-agent"].startswith("turnkeep/")
    assert first["accept-encoding"] == "identity"
    assert first["x-client-request-id"] != second["x-client-request-id"]


@PROTOCOLS
async def test_half_a_surrogate_pair_does_not_stop_a_message(kind: str) -> None:
    request = replace(HELLO, items=[UserItem(text_content("a\ud83db")), *HELLO.items], parameters={"stop": ("x",)})
    visit = await sent_by(kind, request)
    assert "a?b" in orjson.dumps(visit.body).decode()


@PROTOCOLS
async def test_a_large_request_is_sent_whole(kind: str) -> None:
    text = "é" * 1_500_000
    visit = await sent_by(kind, replace(HELLO, items=[UserItem(text_content(text))]))
    assert text in orjson.dumps(visit.body).decode()


# ---------------------------------------------------------------- Responses


async def test_usage_of_a_response_counts_what_was_cached_written_and_thought() -> None:
    finish = finish_of(await told_by(recorded("responses-text"), "responses"))
    assert finish.usage == Usage(
        requests=1, input_tokens=1234, cached_tokens=1024, cache_write_tokens=128, output_tokens=37
    )
    finish = finish_of(await told_by(recorded("responses-tools-reasoning"), "responses"))
    assert (finish.usage.output_tokens, finish.usage.reasoning_tokens) == (96, 64)


async def test_reasoning_text_and_parallel_calls_come_in_the_order_of_the_provider() -> None:
    parts = await told_by(recorded("responses-tools-reasoning"), "responses")
    reasoning, said, *calls = items_of(parts)
    assert isinstance(reasoning, ReasoningItem)
    assert reasoning.raw["encrypted_content"].startswith("gAAAA")
    assert said == AssistantItem("Let me look.", phase="commentary")
    assert calls == [
        CallItem("call_J4kZtQ0vN2", "get_weather", '{"city":"Zürich","unit":"c"}'),
        CallItem("call_P9sLwE7mB1", "get_weather", '{"city":"Oslo","unit":"c"}'),
    ]
    assert text_of(parts) == "Let me look."
    assert finish_of(parts).reason == "calls"


async def test_a_seal_that_comes_with_the_terminal_event_is_put_on_its_reasoning() -> None:
    parts = await told_by(recorded("responses-azure-late-seal"), "responses")
    reasoning, call = items_of(parts)
    assert isinstance(reasoning, ReasoningItem)
    assert reasoning.raw["encrypted_content"] == "gAAAAABsealedlate=="
    assert call == CallItem("call_azure000001", "lookup", '{"id":7}')
    assert finish_of(parts).reason == "calls"


async def test_a_refusal_is_shown_and_named() -> None:
    parts = await told_by(recorded("responses-refusal"), "responses")
    assert text_of(parts) == "I'm sorry, I can't help with that."
    assert items_of(parts) == [AssistantItem("I'm sorry, I can't help with that.")]
    assert finish_of(parts).reason == "refusal"


async def test_an_answer_cut_at_the_limit_is_marked_as_interrupted() -> None:
    parts = await told_by(recorded("responses-incomplete"), "responses")
    assert items_of(parts) == [AssistantItem("Once upon a", interrupted=True)]
    assert finish_of(parts).reason == "length"


async def test_an_answer_stopped_by_a_filter_says_so() -> None:
    stream = recorded("responses-incomplete").replace(b'"max_output_tokens"}', b'"content_filter"}')
    assert finish_of(await told_by(stream, "responses")).reason == "filter"


async def test_no_credit_after_status_200_is_no_credit() -> None:
    with pytest.raises(QuotaExhausted):
        await told_by(recorded("responses-error-after-200"), "responses")


async def test_a_failed_response_is_classified_with_its_time_to_wait() -> None:
    with pytest.raises(ModelRateLimited) as caught:
        await told_by(recorded("responses-failed"), "responses")
    assert caught.value.retry_after == 1.2


async def test_unknown_events_and_a_done_mark_change_nothing() -> None:
    stream = recorded("responses-text")
    place = stream.index(b"event: response.output_item.added")
    odd = b'event: response.dreaming\ndata: {"type":"response.dreaming","delta":"zzz"}\n\ndata: [DONE]\n\n'
    parts = await told_by(stream[:place] + odd + stream[place:] + odd, "responses")
    assert parts == await told_by(stream, "responses")


async def test_events_without_names_are_read_by_their_type() -> None:
    stream = b"\n".join(line for line in recorded("responses-text").split(b"\n") if not line.startswith(b"event:"))
    assert await told_by(stream, "responses") == await told_by(recorded("responses-text"), "responses")


@pytest.mark.parametrize("left_out", [b"output_item.done", b"output_text.delta", b"response.created"])
async def test_what_a_sloppy_server_leaves_out_is_taken_from_what_comes_later(left_out: bytes) -> None:
    blocks = recorded("responses-text").split(b"\n\n")
    stream = b"\n\n".join(block for block in blocks if left_out not in block.split(b"\n")[0])
    parts = await told_by(stream, "responses")
    assert isinstance(parts[0], Began)
    assert text_of(parts) == TEXT["responses"]
    assert items_of(parts) == [AssistantItem(TEXT["responses"], phase="final_answer")]


async def test_a_call_that_was_cut_off_is_not_a_call() -> None:
    stream = recorded("responses-tools-reasoning")
    stream = stream.replace(b"response.completed", b"response.incomplete").replace(
        b'"type":"function_call","status":"completed"', b'"type":"function_call","status":"incomplete"'
    )
    parts = await told_by(stream, "responses")
    assert [item.kind for item in items_of(parts)] == ["reasoning", "assistant"]
    assert finish_of(parts).reason == "length"


async def test_without_usage_the_request_is_marked_as_estimated() -> None:
    stream = b'data: {"type":"response.completed","response":{"id":"r","usage":null,"output":[]}}\n\n'
    assert finish_of(await told_by(stream, "responses")).usage == Usage(requests=1, estimated=1)


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
        parts = await ask(opened(server, "chat"))
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


# ---------------------------------------------------------------- endpoints and the pool


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://api.openai.com/v1", ResponsesModel),
        ("https://eu.api.openai.com/v1", ResponsesModel),
        ("https://res.openai.azure.com/openai/v1", ResponsesModel),
        ("http://localhost:11434/v1", ChatModel),
        ("https://api.openai.com.evil.example/v1", ChatModel),
    ],
)
def test_the_protocol_follows_from_the_host(url: str, kind: type) -> None:
    assert type(open_model(Endpoint(url))) is kind


def test_the_simulator_is_spoken_to_like_openai() -> None:
    assert type(open_model(Endpoint("http://127.0.0.1:8090/v1", simulated=True))) is ResponsesModel
    assert type(open_model(Endpoint("http://127.0.0.1:8090/v1", api_key="sk-simulator"))) is ResponsesModel
    assert type(open_model(Endpoint("https://api.openai.com/v1"), "chat")) is ChatModel


def test_an_endpoint_shows_no_secret() -> None:
    endpoint = Endpoint(api_key=KEY, headers={"api-key": "hidden-1"}, proxy="http://u:hidden-2@proxy:1")
    for text in (repr(endpoint), endpoint.name):
        assert KEY not in text
        assert "hidden" not in text


def test_the_name_of_an_endpoint_tells_keys_and_hosts_apart() -> None:
    one = Endpoint("https://a.example/v1", api_key="k-1")
    assert one.name == replace(one, idle_timeout=1).name
    assert one.name.startswith("a.example#")
    others = [
        replace(one, api_key="k-2"),
        replace(one, base_url="https://b.example/v1"),
        replace(one, project="p"),
        replace(one, headers={"api-key": "k-3"}),
    ]
    assert len({one.name, *(other.name for other in others)}) == 5
    assert ResponsesModel(one).endpoint == one.name


@pytest.mark.parametrize("url", ["", "api.openai.com", "ftp://x/v1", "https://", "https://u:p@h/v1", "http://[bad/v1"])
def test_an_address_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base url"):
        Endpoint(url)


def test_a_key_with_a_line_break_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError, match="one line") as caught:
        Endpoint(api_key="sk-abc\n")
    assert "sk-abc" not in str(caught.value)


def test_an_unknown_capability_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="takes_store"):
        open_model(Endpoint("http://localhost/v1", capabilities={"takes_magic": True}))


async def test_a_query_in_the_base_url_stays() -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded("chat-text"))

    async with canned(answer) as server:
        await ask(open_model(Endpoint(f"{server.url}/?api-version=v1"), "chat"))
        assert server.last.path == "/v1/chat/completions?api-version=v1"


async def test_a_pool_opens_one_model_for_each_endpoint_and_closes_them() -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded("chat-text"))

    async with canned(answer) as server:
        pool = ModelPool()
        endpoint = Endpoint(server.url)
        model = pool.get(endpoint)
        assert pool.get(Endpoint(server.url)) is model
        assert pool.get(replace(endpoint, api_key="other")) is not model
        assert pool.get(endpoint, "responses") is not model
        finish_of([part async for part in model.stream(HELLO)])
        await pool.close()
        await asyncio.wait_for(server.last.left.wait(), 20)
        assert pool.get(endpoint) is not model
