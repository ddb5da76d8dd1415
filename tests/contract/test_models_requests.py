"""What is sent: everything that counts, and nothing that the server does not take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.contract.asking import (
    GOOD,
    HELLO,
    KEY,
    OPENAI_PROTOCOLS,
    PROTOCOLS,
    ask,
    opened,
    recorded,
    sent_by,
)
from tests.contract.canned import Visit, canned
from turnkeep.errors import ModelRefused
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Item,
    OutputItem,
    Part,
    ProviderData,
    ReasoningItem,
    SystemItem,
    UserItem,
    text_content,
)
from turnkeep.models.model import ModelRequest, ToolSpec

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
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": '{"malformed":"{\\"a\\":"}'},
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
    }


async def test_a_compatible_server_gets_only_what_all_of_them_take() -> None:
    visit = await sent_by("chat", replace(FULL, items=[FULL.items[1]]), is_simulated=False)
    assert visit.body["messages"][0] == {"role": "system", "content": "be brief"}
    assert visit.body["max_tokens"] == 100
    assert visit.body["temperature"] == 0.3
    assert visit.body["vendor_option"] == 1
    assert visit.body["presence_penalty"] == 0.1
    assert visit.body["stream_options"] == {"include_usage": True}
    assert not {"store", "metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier"} & set(visit.body)


async def test_what_a_server_takes_can_be_overridden() -> None:
    settings = {"takes_stream_options": False, "takes_store": True, "takes_developer_role": True}
    visit = await sent_by("chat", FULL, is_simulated=False, capabilities=settings)
    assert "stream_options" not in visit.body
    assert visit.body["store"] is False
    assert visit.body["messages"][0]["role"] == "developer"


@OPENAI_PROTOCOLS
async def test_a_model_that_reasons_gets_a_temperature_only_without_effort(kind: str) -> None:
    async def sends(model: str, **parameters: Any) -> bool:
        request = ModelRequest(model, HELLO.items, parameters={"temperature": 0.3, **parameters})
        return "temperature" in (await sent_by(kind, request)).body

    assert not await sends("gpt-6-luna")
    assert not await sends("gpt-6-luna", reasoning={"effort": "low"})
    assert await sends("gpt-6-luna", reasoning={"effort": "none"})
    assert await sends("gpt-6-luna", reasoning_effort="none")
    assert await sends("gpt-4o-mini")


@OPENAI_PROTOCOLS
async def test_a_model_that_does_not_reason_is_not_asked_to(kind: str) -> None:
    body = (await sent_by(kind, replace(FULL, model="gpt-4o-mini"))).body
    assert not {"reasoning", "reasoning_effort", "include"} & set(body)
    assert body["temperature"] == 0.3


@OPENAI_PROTOCOLS
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


async def test_an_image_that_chat_cannot_take_is_refused_with_the_reason() -> None:
    request = ModelRequest("gpt-6-luna", [UserItem((Part("image", data={"file_id": "file_1"}),))])
    (message,) = (await sent_by("responses", request)).body["input"]
    assert message["content"] == [{"type": "input_image", "file_id": "file_1"}]
    with pytest.raises(ModelRefused, match="image_url"):
        await sent_by("chat", request)


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


async def test_what_a_server_attached_goes_back_to_it_word_for_word_and_to_no_other() -> None:
    async def messages(site: str) -> list[dict[str, Any]]:
        data = ProviderData(site, {"extra_content": {"n": [1.5, None]}, "function": {"thought_signature": "c2ln"}})
        items: list[Item] = [
            *HELLO.items,
            ReasoningItem({"reasoning_content": "hm", "reasoning_details": [{"index": 0}]}, site),
            AssistantItem("let me look", provider_data=ProviderData(site, {"thought_signature": "dGV4dA=="})),
            CallItem("c1", "look", "{}", data),
            OutputItem("c1", "fine"),
        ]

        async def answer(visit: Visit) -> None:
            visit.whole(recorded(GOOD["chat"]))

        async with canned(answer) as server:
            own = server.url.removeprefix("http://")
            items = [_at(item, own) for item in items] if site == "here" else items
            await ask(opened(server, "chat", is_simulated=False), replace(HELLO, items=items))
            return list(server.last.body["messages"])

    _, asked, _ = await messages("here")
    assert asked == {
        "role": "assistant",
        "content": "let me look",
        "reasoning_content": "hm",
        "reasoning_details": [{"index": 0}],
        "thought_signature": "dGV4dA==",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "look", "arguments": "{}", "thought_signature": "c2ln"},
                "extra_content": {"n": [1.5, None]},
            }
        ],
    }
    _, asked, _ = await messages("elsewhere.example/v1")
    function = {"name": "look", "arguments": "{}"}
    assert asked == {
        "role": "assistant",
        "content": "let me look",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


def _at(item: Item, site: str) -> Item:
    """The item as if it came from this site."""
    match item:
        case ReasoningItem():
            return replace(item, site=site)
        case AssistantItem() | CallItem() if item.provider_data:
            return replace(item, provider_data=replace(item.provider_data, site=site))
    return item
