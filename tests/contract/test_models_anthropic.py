"""What is made of the events of Anthropic's Messages, and what is sent there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.asking import ask, finish_of, items_of, opened, recorded, sent_by, text_of, told_by
from tests.contract.canned import Visit, canned
from turnkeep.errors import AnswerMalformed, ModelRateLimited
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Citation,
    HostedItem,
    Item,
    OutputItem,
    Part,
    ReasoningItem,
    SystemItem,
    UserItem,
    item_from_json,
    item_to_json,
    text_content,
)
from turnkeep.models import Provider, open_model
from turnkeep.models.anthropic import AnthropicModel
from turnkeep.models.anthropic_request import messages, parameters, request_body, without
from turnkeep.models.capabilities import capabilities_of
from turnkeep.models.fit import fit
from turnkeep.models.model import Began, ModelRequest, ReasoningDelta, ToolSpec
from turnkeep.models.past import pair
from turnkeep.simulator.message_checks import message_body
from turnkeep.usage import Usage

SITE = "models.example/v1"
USER = UserItem(text_content("hello"))
CLAUDE = "claude-sonnet-5-5"
OLDER = "claude-haiku-4-5"
TOOL = ToolSpec("look", "Looks", {"type": "object", "properties": {}})
ENABLED = {"type": "enabled", "budget_tokens": 2048}


async def of(name: str) -> list[Any]:
    return await told_by(recorded(name), "anthropic")


CAPS = capabilities_of(Provider("https://api.anthropic.com/v1"), "anthropic")


def body_of(request: ModelRequest, site: str = SITE) -> dict[str, Any]:
    """The request as it is sent to this site."""
    return request_body(fit(request, CAPS, site).request)


def sent(*items: Item, **values: Any) -> dict[str, Any]:
    return body_of(ModelRequest(**{"model": CLAUDE, "items": items, **values}))


def turns_at(site: str, *items: Item) -> list[dict[str, Any]]:
    return messages(fit(ModelRequest(CLAUDE, items), CAPS, site).request.items)[1]


# ---------------------------------------------------------------- answers


async def test_usage_counts_what_was_read_from_the_cache_and_written_to_it_as_input() -> None:
    assert finish_of(await of("anthropic-text")).usage == Usage(
        requests=1, input_tokens=1234, cached_tokens=1024, cache_write_tokens=128, output_tokens=37
    )
    usage = finish_of(await of("anthropic-thinking-tools")).usage
    assert (usage.output_tokens, usage.reasoning_tokens) == (96, 64)


async def test_thoughts_text_and_parallel_calls_come_in_the_order_of_the_provider() -> None:
    parts = await of("anthropic-thinking-tools")
    thought, sealed, said, *calls = items_of(parts)
    assert isinstance(thought, ReasoningItem)
    assert thought.text == "Two cities are asked for; I call the tool twice."
    assert thought.raw["signature"] == "EqoBCkgIBxABGAIiQK9u4R2vZ0XnT5lq=="
    assert isinstance(sealed, ReasoningItem)
    assert sealed.raw["type"] == "redacted_thinking"
    assert said == AssistantItem("Let me look.")
    assert calls == [
        CallItem("toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather", '{"city":"Zürich","unit":"c"}'),
        CallItem("toolu_01A9pQ77Zb", "get_weather", '{"city":"Oslo","unit":"c"}'),
    ]
    assert text_of(parts) == "Let me look."
    assert "".join(part.text for part in parts if isinstance(part, ReasoningDelta)) == thought.text
    assert finish_of(parts).reason == "calls"


async def test_a_search_and_its_sources_are_items() -> None:
    parts = await of("anthropic-search-citations")
    before, search, found, said = items_of(parts)
    assert before == AssistantItem("I will look that up.")
    assert isinstance(search, HostedItem)
    assert (search.name, search.text) == ("web_search", "do otters hold hands")
    assert isinstance(found, HostedItem)
    assert found.raw["content"][0]["encrypted_content"].startswith("Eqgf")
    assert isinstance(said, AssistantItem)
    assert said.text == "Yes: sea otters hold hands, so that they do not drift apart."
    (citation,) = said.citations
    assert said.text[citation.start : citation.end] == "sea otters hold hands"
    assert (citation.url, citation.title) == ("https://otters.example/hands", "Otters and their hands")
    assert citation.quote == "Sea otters hold hands while they sleep."
    assert text_of(parts) == before.text + said.text


@pytest.mark.xdist_group("anthropic")  # it takes a second to load
@pytest.mark.daily(rows=3, turn=1)  # the one with thoughts and tools in it
@pytest.mark.parametrize("name", ["anthropic-text", "anthropic-thinking-tools", "anthropic-search-citations"])
async def test_a_recorded_answer_means_the_same_to_the_official_client(name: str) -> None:
    from anthropic import AsyncAnthropic

    async def answer(visit: Visit) -> None:
        visit.whole(recorded(name))

    asked: Any = [{"role": "user", "content": "hello"}]
    async with (
        canned(answer) as server,
        AsyncAnthropic(base_url=server.url.removesuffix("/v1"), api_key="k", max_retries=0) as client,
        client.messages.stream(model="m", max_tokens=9, messages=asked) as stream,
    ):
        final = await stream.get_final_message()
    parts = await of(name)
    blocks: list[Any] = final.content
    assert text_of(parts) == "".join(block.text for block in blocks if block.type == "text")
    assert finish_of(parts).usage.output_tokens == final.usage.output_tokens
    theirs = [block.model_dump(exclude_none=True) for block in blocks]
    outputs = [OutputItem(item.call_id, "x") for item in items_of(parts) if isinstance(item, CallItem)]
    turn = turns_at(items_site(parts), USER, *items_of(parts), *outputs, USER)[1]
    assert [pruned(block) for block in turn["content"]] == merged([pruned(block) for block in theirs])


def items_site(parts: list[Any]) -> str:
    return next((item.site for item in items_of(parts) if isinstance(item, ReasoningItem | HostedItem)), SITE) or SITE


def pruned(block: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing."""
    return {name: value for name, value in block.items() if value not in (None, [], {}) or name == "input"}


def merged(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What found nothing to say is no block."""
    for block in blocks:
        for part in block.get("content", ()):
            part.setdefault("page_age", None)
    return blocks


async def test_an_overload_within_the_stream_is_a_time_to_wait() -> None:
    with pytest.raises(ModelRateLimited, match="Overloaded"):
        await of("anthropic-overloaded")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("something_new", "stop"),
    ],
)
async def test_an_answer_ends_for_the_reason_that_is_told(said: str, reason: str) -> None:
    stream = recorded("anthropic-text").replace(b"end_turn", said.encode())
    parts = await told_by(stream, "anthropic")
    assert finish_of(parts).reason == reason
    (item,) = items_of(parts)
    assert isinstance(item, AssistantItem)
    assert item.interrupted == (reason == "length")


async def test_a_refusal_without_a_word_is_told_by_its_explanation() -> None:
    head, tail = recorded("anthropic-text").split(b"event: content_block_start")[0], b"event: message_delta"
    end = (
        recorded("anthropic-text")
        .partition(tail)[2]
        .replace(
            b'"stop_reason":"end_turn"',
            b'"stop_reason":"refusal","stop_details":{"type":"refusal","explanation":"Not that."}',
        )
    )
    parts = await told_by(head + tail + end, "anthropic")
    assert text_of(parts) == "Not that."
    assert items_of(parts) == [AssistantItem("Not that.")]
    assert finish_of(parts).reason == "refusal"


async def test_a_call_that_was_cut_off_is_not_a_call() -> None:
    stream = recorded("anthropic-thinking-tools").replace(b'"tool_use","stop_seq', b'"max_tokens","stop_seq')
    stream = stream.replace(rb'"it\":\"c\"}"', rb'"it\":"')
    parts = await told_by(stream, "anthropic")
    assert [item.name for item in items_of(parts) if isinstance(item, CallItem)] == ["get_weather"]
    assert finish_of(parts).reason == "length"


@pytest.mark.parametrize("left_out", ["message_start", "content_block_start", "content_block_stop", "message_stop"])
async def test_what_a_sloppy_server_leaves_out_is_not_missed(left_out: str) -> None:
    blocks = recorded("anthropic-text").split(b"\n\n")
    stream = b"\n\n".join(block for block in blocks if not block.startswith(f"event: {left_out}\n".encode()))
    whole = await of("anthropic-text")
    parts = await told_by(stream, "anthropic")
    assert (text_of(parts), items_of(parts)) == (text_of(whole), items_of(whole))
    assert finish_of(parts).reason == "stop"


def told(item: Item) -> dict[str, Any]:
    """An item without the address of the server that a test has made."""
    return {name: value for name, value in item_to_json(item).items() if name not in ("site", "provider_data")}


@pytest.mark.parametrize("index", [b'"index":0', b'"index":null', b'"place":7'])
async def test_blocks_whose_numbers_say_nothing_are_read_in_their_order(index: bytes) -> None:
    for name in ("anthropic-text", "anthropic-thinking-tools", "anthropic-search-citations"):
        parts = await told_by(re.sub(rb'"index":\d', index, recorded(name)), "anthropic")
        whole = await of(name)
        assert text_of(parts) == text_of(whole)
        assert [told(item) for item in items_of(parts)] == [told(item) for item in items_of(whole)]


ODD: dict[str, tuple[bytes, bytes]] = {
    "no usage": (b'"usage":{', b'"uses":{'),
    "usage that is null": (b'"usage":{', b'"usage":null,"x":{'),
    "content that is null": (b'"content":[]', b'"content":null'),
    "citations that are null": (b'"type":"text","text":""', b'"type":"text","text":"","citations":null'),
    "a signature that never comes": (b"signature_delta", b"other_delta"),
    "a field more in everything": (b'{"type":', b'{"extra":[{"a":null}],"type":'),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("name", ["anthropic-text", "anthropic-thinking-tools", "anthropic-search-citations"])
async def test_what_only_decorates_may_be_odd(case: str, name: str) -> None:
    parts = await told_by(recorded(name).replace(*ODD[case]), "anthropic")
    whole = await of(name)
    assert text_of(parts) == text_of(whole)
    assert finish_of(parts).reason == finish_of(whole).reason
    assert [item.kind for item in items_of(parts)] == [item.kind for item in items_of(whole)]


async def test_a_call_whose_arguments_come_with_its_beginning_has_them() -> None:
    stream = recorded("anthropic-thinking-tools").replace(
        b'"name":"get_weather","input":{}', b'"name":"f","input":{"a":1}'
    )
    lines = [block for block in stream.split(b"\n\n") if b"input_json_delta" not in block]
    parts = await told_by(b"\n\n".join(lines), "anthropic")
    assert [item.arguments for item in items_of(parts) if isinstance(item, CallItem)] == ['{"a":1}'] * 2


async def test_a_call_without_a_name_is_a_failure() -> None:
    with pytest.raises(AnswerMalformed, match="without a name"):
        await told_by(recorded("anthropic-thinking-tools").replace(b'"name":"get_weather",', b""), "anthropic")


async def test_a_limit_that_is_used_up_is_waited_for_until_its_moment() -> None:
    headers: dict[str, Any] = {
        "Date": "Sun, 29 Nov 2026 10:00:00 GMT",
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-11-29T10:00:12Z",
        "anthropic-ratelimit-tokens-reset": "soon",
    }

    async def answer(visit: Visit) -> None:
        visit.whole(recorded("anthropic-text"), **headers)

    async with canned(answer) as server:
        began = (await ask(opened(server, "anthropic")))[0]
    assert isinstance(began, Began)
    assert began.wait == 12.0


# ---------------------------------------------------------------- the request


async def test_a_request_says_who_asks_in_which_version() -> None:
    visit = await sent_by("anthropic", ModelRequest(CLAUDE, [USER], labels={"turnkeep_run": "run_1"}))
    assert visit.path == "/v1/messages"
    assert visit.headers["anthropic-version"] == "2023-06-01"
    assert visit.headers["x-api-key"].startswith("sk-proj")
    assert visit.headers["x-turnkeep-run"] == "run_1"
    assert "metadata" not in visit.body
    assert visit.body["stream"] is True


@pytest.mark.parametrize(
    ("base_url", "path"),
    [("", "/v1/messages"), ("/v1", "/v1/messages"), ("/anthropic", "/anthropic/v1/messages")],
)
async def test_an_address_is_taken_with_and_without_its_version(base_url: str, path: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded("anthropic-text"))

    async with canned(answer) as server:
        url = server.url.removesuffix("/v1") + base_url
        await ask(open_model(Provider(url, api_key="sk-ant-oat-token"), "anthropic"))
    assert server.last.path == path
    assert "x-api-key" not in server.last.headers


def test_the_address_says_which_protocol_is_spoken() -> None:
    for url in ("https://api.anthropic.com", "https://api.anthropic.com/v1", "https://api.deepseek.com/anthropic"):
        assert isinstance(open_model(Provider(url)), AnthropicModel), url
    assert not isinstance(open_model(Provider("https://api.openai.com/v1")), AnthropicModel)


def test_a_burst_is_one_turn_of_the_user_with_its_messages_apart() -> None:
    body = sent(*(UserItem(text_content(word)) for word in ("one", "two", "three")))
    (turn,) = body["messages"]
    assert [block["text"] for block in turn["content"]] == ["one", "two", "three"]


def test_outputs_come_first_in_the_turn_after_their_calls() -> None:
    calls = [CallItem("a", "look", '{"x":1}'), CallItem("b", "look", "not json")]
    outputs = [OutputItem("a", "1"), OutputItem("b", "bad", "error")]
    _, asked, told = sent(USER, AssistantItem("so"), *calls, *outputs, UserItem(text_content("and?")))["messages"]
    assert [block["type"] for block in asked["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["input"] for block in asked["content"][1:]] == [{"x": 1}, {"malformed": "not json"}]
    assert [(b["type"], b.get("is_error")) for b in told["content"]] == [
        ("tool_result", None),
        ("tool_result", True),
        ("text", None),
    ]


def test_names_and_ids_of_other_servers_are_made_fit_and_stay_paired() -> None:
    body = sent(USER, CallItem("functions.look:0", "look it up", "{}"), OutputItem("functions.look:0", "x"))
    call, result = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
    assert call["name"] == "look_it_up"
    assert call["id"] == result["tool_use_id"]
    message_body(body, "2023-06-01")


def test_thoughts_go_back_word_for_word_and_only_to_where_they_came_from() -> None:
    raw = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    answered: list[Item] = [CallItem("a", "look", "{}"), OutputItem("a", "1")]
    body = sent(USER, ReasoningItem(raw, SITE), *answered)
    assert body["messages"][1]["content"][0] == raw
    for other in (ReasoningItem(raw, "elsewhere.example/v1"), ReasoningItem({"reasoning_content": "hm"}, SITE)):
        assert sent(USER, other, *answered)["messages"][1]["content"][0]["type"] == "tool_use"


async def test_everything_that_was_said_goes_back_word_for_word_through_the_store() -> None:
    parts = await of("anthropic-search-citations")
    items = [item_from_json(item_to_json(item)) for item in items_of(parts)]
    assert items == items_of(parts)
    content = turns_at(items_site(parts), USER, *items, USER)[1]["content"]
    assert [block["type"] for block in content] == [
        *("text", "server_tool_use", "web_search_tool_result", "text", "text", "text"),
    ]
    assert content[4]["citations"][0]["encrypted_index"].startswith("Eo8B")
    elsewhere = turns_at("other.example", USER, *items, USER)[1]["content"]
    assert [block["type"] for block in elsewhere] == ["text", "text"]
    assert "citations" not in elsewhere[1]


def test_the_first_and_the_last_word_are_the_users() -> None:
    for items in ([AssistantItem("welcome"), USER], [USER, AssistantItem("hm")], [], [SystemItem("rules")]):
        turns = sent(*items)["messages"]
        assert [turns[0]["role"], turns[-1]["role"]] == ["user", "user"]


def test_a_paused_answer_is_gone_on_with_as_it_is() -> None:
    search = HostedItem("web_search", {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search"}, "x", SITE)
    assert sent(USER, AssistantItem("I look."), search)["messages"][-1]["role"] == "assistant"


PICTURE = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            Part("image", data={"image_url": PICTURE}),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        ),
        (
            Part("image", data={"image_url": {"url": "https://a.example/b.png"}}),
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
        ),
        (Part("image", data={"file_id": "file_1"}), {"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
        (
            Part("file", data={"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
                "title": "a.pdf",
            },
        ),
        (
            Part("file", data={"file_data": "data:text/csv;base64,YSxi", "citations": {"enabled": True}}),
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "a,b"},
                "citations": {"enabled": True},
            },
        ),
        (Part("file", data={"file_data": PICTURE}), {"type": "image"}),
        (Part("image", data={"image_url": "data:image/heic;base64,AAAA"}), {"type": "text"}),
        (Part("file", data={"file_data": "data:application/zip;base64,AAAA", "filename": "a.zip"}), {"type": "text"}),
        (Part("image", data={}), {"type": "text"}),
    ],
)
def test_images_and_files_are_sent_where_they_can_be_read_and_named_where_not(part: Part, block: Any) -> None:
    (sent_block,) = sent(UserItem((part,)))["messages"][0]["content"]
    assert {name: sent_block[name] for name in block} == block


def test_what_is_said_by_the_system_stands_before_all() -> None:
    body = sent(SystemItem("rules"), USER, SystemItem("more"), USER, instructions="be kind")
    assert [block["text"] for block in body["system"]] == ["be kind", "rules", "more"]


def test_tools_system_and_the_last_two_turns_are_marked_for_the_cache() -> None:
    body = sent(USER, AssistantItem("a"), USER, AssistantItem("b"), USER, instructions="be kind", tools=[TOOL, TOOL])
    marked = [turn["content"][-1].get("cache_control") is not None for turn in body["messages"]]
    assert marked == [False, False, True, False, True]
    assert [("cache_control" in tool) for tool in body["tools"]] == [False, True]
    assert "cache_control" in body["system"][0]
    message_body(body, "2023-06-01")


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        (CLAUDE, {}, {"max_tokens": 16_000}),
        ("deepseek-chat", {"temperature": 0.3}, {"max_tokens": 8_192, "temperature": 0.3}),
        (OLDER, {"temperature": 1.5, "max_tokens": 99}, {"max_tokens": 99, "temperature": 1.0}),
        (CLAUDE, {"temperature": 0.3, "top_p": 1, "top_k": 5}, {"max_tokens": 16_000}),
        (
            CLAUDE,
            {"reasoning": {"effort": "high", "summary": "auto"}},
            {
                "max_tokens": 32_000,
                "thinking": {"type": "adaptive", "display": "summarized"},
                "output_config": {"effort": "high"},
            },
        ),
        (CLAUDE, {"reasoning_effort": "none"}, {"max_tokens": 16_000}),
        (
            OLDER,
            {"reasoning_effort": "high", "temperature": 0.3},
            {"max_tokens": 32_000, "thinking": {"type": "enabled", "budget_tokens": 16_000}},
        ),
        (OLDER, {"reasoning_effort": "high", "max_tokens": 500}, {"max_tokens": 500}),
        (CLAUDE, {"thinking": {"type": "adaptive"}}, {"max_tokens": 32_000, "thinking": {"type": "adaptive"}}),
        (
            CLAUDE,
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
            {
                "max_tokens": 16_000,
                "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
            },
        ),
        (CLAUDE, {"stop": "END", "seed": 5, "service_tier": "flex"}, {"max_tokens": 16_000, "stop_sequences": ["END"]}),
    ],
)
def test_parameters_in_the_words_of_this_api(model: str, given: Any, told: Any) -> None:
    request = ModelRequest(model, [USER], parameters=given)
    assert parameters(request) == told
    message_body(body_of(request), "2023-06-01")


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "function": {"name": "look"}}}, {"type": "tool", "name": "look"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "required", "reasoning_effort": "low"}, None),
    ],
)
def test_the_choice_of_a_tool(given: Any, choice: Any) -> None:
    assert sent(USER, tools=[TOOL], parameters=given).get("tool_choice") == choice
    assert "tool_choice" not in sent(USER, parameters=given)


def test_a_call_made_without_a_thought_is_answered_without_asking_for_thoughts() -> None:
    """With a budget the platform wants the thought that led to a call; another model, or a repair, has none."""
    called: list[Item] = [USER, CallItem("a", "look", "{}"), OutputItem("a", "1")]
    for asked in ({"reasoning": {"effort": "medium"}}, {"thinking": ENABLED}):
        body = sent(*called, model=OLDER, parameters=asked, tools=[TOOL])
        assert "thinking" not in body
        message_body(body, "2023-06-01")
        assert "thinking" in sent(*called, AssistantItem("b"), USER, model=OLDER, parameters=asked)


def test_tools_of_the_past_are_declared_where_none_is_offered() -> None:
    """The last step of a run offers none; Bedrock refuses calls of tools that it was not told of."""
    body = sent(USER, CallItem("a", "look", "{}"), OutputItem("a", "1"))
    assert [tool["name"] for tool in body["tools"]] == ["look"]
    assert body["tool_choice"] == {"type": "none"}
    hosted = sent(USER, CallItem("a", "look", "{}"), OutputItem("a", "1"), hosted_tools=[{"type": "web_search"}])
    assert [tool["name"] for tool in hosted["tools"]] == ["web_search"]
    assert "tool_choice" not in hosted


async def test_a_tool_is_called_by_its_own_name_whatever_name_is_sent() -> None:
    tool = ToolSpec("zoo.count", "Counts", {"type": "object", "properties": {}})

    async def answer(visit: Visit) -> None:
        name = visit.body["tools"][0]["name"].encode()
        visit.whole(recorded("anthropic-thinking-tools").replace(b"get_weather", name))

    async with canned(answer) as server:
        parts = await ask(open_model(Provider(server.url), "anthropic"), ModelRequest(CLAUDE, [USER], tools=[tool]))
    assert {item.name for item in items_of(parts) if isinstance(item, CallItem)} == {"zoo.count"}


async def test_a_field_that_is_refused_is_left_out_from_then_on() -> None:
    """A new model, or a server of this protocol, may take less; nothing was paid for the refusal."""
    words = "temperature: Extra inputs are not permitted"
    refused = orjson.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": words}})

    async def answer(visit: Visit) -> None:
        if "temperature" in visit.body:
            visit.whole(refused, status=400, content_type="application/json")
        else:
            visit.whole(recorded("anthropic-text"))

    async with canned(answer) as server:
        model = open_model(Provider(server.url), "anthropic")
        request = ModelRequest(OLDER, [USER], parameters={"temperature": 0.3})
        for _ in range(2):
            parts = [part async for part in model.stream(request)]
            assert finish_of(parts).reason == "stop"
        await model.close()
    assert ["temperature" in visit.body for visit in server.visits] == [True, False, False]


def test_where_the_effort_is_refused_the_form_of_the_answer_stays() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    body = sent(USER, parameters={"reasoning": {"effort": "low"}, "text": {"format": form}})
    assert body["output_config"] == {"effort": "low", "format": form}
    fitted = without(body, frozenset(("thinking", "output_config")))
    assert fitted["output_config"] == {"format": form}
    assert "thinking" not in fitted
    assert "output_config" not in without(sent(USER, parameters={"effort": 1}), frozenset(("output_config",)))


# ---------------------------------------------------------------- no transcript kills its thread

TEXTS = st.sampled_from(["", " ", "\n", "hi", "\ud83d", "[[reason]]"])
NAMES = st.sampled_from(["a", "functions.f:0", "", "x" * 80, "call 1"])
PARTS = st.one_of(
    st.builds(lambda text: Part("text", text), TEXTS),
    st.sampled_from([Part("image", data={"image_url": PICTURE}), Part("file", data={})]),
)
THOUGHTS = [
    {"type": "reasoning", "id": "r"},
    {"reasoning_content": "x"},
    {"type": "thinking", "thinking": "x", "signature": "forged"},
]
ELSEWHERE = st.just("elsewhere.example")
ITEMS = st.one_of(
    st.builds(UserItem, st.lists(PARTS, min_size=1, max_size=3).map(tuple)),
    st.builds(AssistantItem, TEXTS),
    st.builds(SystemItem, TEXTS),
    st.builds(
        CallItem, NAMES, st.sampled_from(["look", "look it up", "", "é"]), st.sampled_from(["{}", "", "[]", "{"])
    ),
    st.builds(OutputItem, NAMES, TEXTS),
    st.builds(ReasoningItem, st.sampled_from(THOUGHTS), ELSEWHERE),
    st.builds(HostedItem, st.just("web_search"), st.just({"type": "web_search_call"}), TEXTS, ELSEWHERE),
)


@given(
    st.lists(ITEMS, max_size=12),
    st.sampled_from([CLAUDE, OLDER, "kimi-k2"]),
    st.sampled_from([{}, {"reasoning_effort": "low"}, {"thinking": ENABLED, "max_tokens": 9000}, {"temperature": 2}]),
)
def test_every_transcript_becomes_a_request_that_is_taken(items: list[Item], model: str, given: dict[str, Any]) -> None:
    if model == CLAUDE:
        given = {name: value for name, value in given.items() if name != "thinking"}  # refused by name, not by us
    request = ModelRequest(model, pair(items), instructions=" ", tools=[TOOL], parameters=given)
    message_body(body_of(request), "2023-06-01")
    message_body(body_of(replace(request, tools=())), "2023-06-01")


def test_a_citation_without_a_site_is_shown_and_not_sent() -> None:
    item = AssistantItem("so it is", citations=(Citation(0, 2, "https://a.example"),))
    assert sent(USER, item, USER)["messages"][1]["content"] == [{"type": "text", "text": "so it is"}]
