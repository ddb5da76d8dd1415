"""Thoughts, sources and the provider's own tools: the same items whichever protocol told of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.asking import HELLO, finish_of, items_of, recorded, sent_by, text_of, told_by
from tests.contract.canned import choice, event
from turnkeep.errors import ModelRefused
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Citation,
    HostedItem,
    ReasoningItem,
    item_from_json,
    item_to_json,
)
from turnkeep.models.model import ModelRequest, ReasoningDelta, ToolSpec

TOOL = ToolSpec("look", "Looks", {"type": "object", "properties": {}})


def thoughts_of(parts: list[Any]) -> str:
    return "".join(part.text for part in parts if isinstance(part, ReasoningDelta))


async def test_what_openai_ran_and_cited_is_told_in_order() -> None:
    parts = await told_by(recorded("responses-hosted-citations"), "responses")
    reasoning, *hosted, said = items_of(parts)
    assert isinstance(reasoning, ReasoningItem)
    assert reasoning.text == "**Looking it up**\n\nI search first.\n\nThen I compute."
    assert thoughts_of(parts).replace("\n", "") == reasoning.text.replace("\n", "")
    assert [(item.name, item.text) for item in hosted if isinstance(item, HostedItem)] == [
        ("web_search", "do otters hold hands"),
        ("file_search", "otters; hands"),
        ("code_interpreter", "print(6*7)"),
        ("image_generation", "two otters"),
        ("mcp_list_tools", "zoo"),
        ("mcp", "zoo: count"),
    ]
    assert isinstance(said, AssistantItem)
    assert said.citations == (
        Citation(0, 22, "https://otters.example/hands", "Otters and their hands"),
        Citation(title="otters.pdf", file_id="file_7"),
        Citation(27, 35, title="plot.png", file_id="cfile_1"),
    )
    assert text_of(parts) == said.text == "Sea otters hold hands. See the file."
    assert said.text[0:22] == "Sea otters hold hands."
    assert finish_of(parts).reason == "stop"
    assert [item_from_json(item_to_json(item)) for item in items_of(parts)] == items_of(parts)


async def test_thoughts_calls_and_sources_of_a_chat_are_told() -> None:
    parts = await told_by(recorded("openrouter-chat-reasoning-tools-citations"), "chat")
    thought, said, *calls = items_of(parts)
    assert isinstance(thought, ReasoningItem)
    assert thought.text == thoughts_of(parts) == "I search and call twice."
    assert isinstance(said, AssistantItem)
    assert said.citations == (Citation(0, 18, "https://otters.example/hands", "Otters and their hands"),)
    assert [call.arguments for call in calls if isinstance(call, CallItem)] == ['{"city":"Oslo"}', '{"city":"Rome"}']


ANNOTATION = {"type": "url_citation", "url_citation": {"url": "https://a.example", "start_index": 0, "end_index": 1}}
SOURCES: dict[str, tuple[bytes, tuple[Citation, ...]]] = {
    # docs.perplexity.ai: with every chunk, the newest counts
    "a list of addresses": (
        choice({"content": "a"}, "stop").replace(b'{"choices"', b'{"citations":["https://a.example"],"choices"'),
        (Citation(url="https://a.example"),),
    ),
    "a list of results": (
        event({"choices": [], "search_results": [{"url": "https://a.example", "title": "A", "date": None}]})
        + choice({"content": "a"}, "stop"),
        (Citation(url="https://a.example", title="A"),),
    ),
    "annotations of a whole message": (
        event({"choices": [{"message": {"content": "a", "annotations": [ANNOTATION]}, "finish_reason": "stop"}]}),
        (Citation(0, 1, "https://a.example"),),
    ),
    "odd annotations": (
        choice(
            {"content": "a", "annotations": [None, 5, {}, {"type": "url_citation"}, {"type": 7, "url": [1]}]}, "stop"
        ),
        (),
    ),
    "annotations that are no list": (choice({"content": "a", "annotations": {"x": 1}}, "stop"), ()),
    "places that make no sense": (
        choice({"content": "a", "annotations": [{"url": "u", "start_index": "x", "end_index": True}]}, "stop"),
        (Citation(url="u"),),
    ),
}


@pytest.mark.parametrize("case", SOURCES)
async def test_sources_are_found_wherever_a_chat_server_tells_them(case: str) -> None:
    stream, citations = SOURCES[case]
    (said,) = items_of(await told_by(stream, "chat"))
    assert isinstance(said, AssistantItem)
    assert (said.text, said.citations) == ("a", citations)


async def test_an_approval_that_nobody_could_give_is_told() -> None:
    asked = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "zoo", "name": "feed", "arguments": "{}"}
    with pytest.raises(ModelRefused, match="zoo asks for an approval"):
        await told_by(event({"type": "response.output_item.done", "item": asked}), "responses")


SEARCH = {"type": "web_search", "filters": {"allowed_domains": ["a.example"]}, "user_location": {"type": "approximate"}}


@pytest.mark.parametrize(
    ("kind", "hosted", "told"),
    [
        ("responses", SEARCH, SEARCH),
        (
            "anthropic",
            SEARCH,
            {
                "type": "web_search_20250305",
                "name": "web_search",
                "user_location": {"type": "approximate"},
                "allowed_domains": ["a.example"],
            },
        ),
        ("responses", {"type": "code_interpreter"}, {"type": "code_interpreter", "container": {"type": "auto"}}),
        ("anthropic", {"type": "code_interpreter"}, {"type": "code_execution_20250825", "name": "code_execution"}),
        ("responses", {"type": "web_search_20260209", "name": "web_search", "max_uses": 3}, {"type": "web_search"}),
        ("responses", {"type": "mcp", "server_label": "zoo"}, {"type": "mcp", "server_label": "zoo"}),
        ("chat", {"type": "openrouter:web_search"}, {"type": "openrouter:web_search"}),
    ],
)
async def test_tools_of_the_provider_are_asked_for_in_its_words(kind: str, hosted: Any, told: Any) -> None:
    request = ModelRequest("gpt-6-luna", HELLO.items, tools=[TOOL], hosted_tools=[hosted])
    asked = (await sent_by(kind, request)).body["tools"]
    assert {name: value for name, value in asked[-1].items() if name != "cache_control"} == told
    assert len(asked) == 2
    alone = (await sent_by(kind, ModelRequest("gpt-6-luna", HELLO.items, hosted_tools=[hosted]))).body["tools"]
    assert len(alone) == 1


async def test_the_results_of_tools_are_asked_for_with_them() -> None:
    hosted = [{"type": "web_search"}, {"type": "file_search"}, {"type": "code_interpreter"}, {"type": "mcp"}]
    body = (await sent_by("responses", ModelRequest("gpt-4o-mini", HELLO.items, hosted_tools=hosted))).body
    assert body["include"] == [
        "web_search_call.action.sources",
        "file_search_call.results",
        "code_interpreter_call.outputs",
    ]
