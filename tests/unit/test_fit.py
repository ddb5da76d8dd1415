"""A committed transcript can never kill its thread: whatever it holds, each server takes the request made of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.imitations import RULES, refusal
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
    content_text,
    text_content,
)
from turnkeep.models.capabilities import Capabilities, capabilities_of
from turnkeep.models.chat_body import request_body
from turnkeep.models.classify import classify
from turnkeep.models.exchange import MOST_LESSONS
from turnkeep.models.fit import EMPTY, NO_FILE, NO_IMAGE, NO_OUTPUT, ToolNames, fit
from turnkeep.models.model import ModelRequest, ToolSpec
from turnkeep.models.past import pair
from turnkeep.models.provider import Provider
from turnkeep.models.refusals import lessons_in

SITE = "here.example/v1"
ELSEWHERE = "there.example/v1"
IMAGE = Part("image", data={"image_url": "https://pictures/1"})
FILE = Part("file", data={"file_id": "file_1"})


def user(text: str, *parts: Part) -> UserItem:
    return UserItem((*text_content(text), *parts))


def fitted(items: list[Item], tools: tuple[ToolSpec, ...] = (), **caps: Any) -> list[Item]:
    request = ModelRequest("m", items, tools=tools)
    return list(fit(request, Capabilities(**caps), SITE).request.items)


# ---------------------------------------------------------------- what is always done

PAST: list[Item] = [user("one", IMAGE, FILE), AssistantItem("two"), user("three")]


def test_what_fits_already_comes_back_as_it_is() -> None:
    items = [*PAST, CallItem("c1", "look", "{}"), OutputItem("c1", "fine")]
    assert fitted(items) == items


def test_blank_turns_are_left_out_or_get_a_word() -> None:
    items: list[Item] = [
        user(" \n"),
        AssistantItem("\n\n"),
        CallItem("c1", "look", "{}"),
        OutputItem("c1", ""),
        SystemItem(" "),
        AssistantItem(""),
    ]
    assert fitted(items) == [user(EMPTY), items[2], OutputItem("c1", NO_OUTPUT)]


def test_a_thought_that_leads_to_a_blank_text_leads_nowhere() -> None:
    items: list[Item] = [user("a"), ReasoningItem({"reasoning_content": "hm"}, SITE), AssistantItem("\n"), user("b")]
    assert fitted(items) == [items[0], items[3]]


def test_names_and_ids_get_the_form_that_all_servers_take() -> None:
    calls: list[Item] = [CallItem("x" * 50, "look_up<|channel|>commentary", "{}"), OutputItem("x" * 50, "fine")]
    call, output = fitted(calls)
    assert isinstance(call, CallItem)
    assert isinstance(output, OutputItem)
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}", call.name)
    assert len(call.call_id) <= 40
    assert output.call_id == call.call_id
    assert fitted(calls) == [call, output], "the same each time"


@pytest.mark.parametrize(("form", "pattern"), [("nine", "[a-zA-Z0-9]{9}"), ("word", "[a-zA-Z0-9_-]{1,40}")])
def test_ids_stay_apart_in_every_form(form: Any, pattern: str) -> None:
    ids = ["functions.look_up:0", "functions.look_up:1", "abcdefghi", "call_1", "é"]
    items: list[Item] = [CallItem(call_id, "look", "{}") for call_id in ids]
    made = [item.call_id for item in fitted(items, call_ids=form) if isinstance(item, CallItem)]
    assert all(re.fullmatch(pattern, call_id) for call_id in made)
    assert len(set(made)) == len(ids)
    assert made[2] == "abcdefghi"


def test_names_of_tools_go_there_and_back() -> None:
    ours = ["look_up", "3d", "files.read", "files_read", "x" * 70, "grüße"]
    names = ToolNames.of(ours)
    assert all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}", name) for name in names.names_sent.values())
    assert len(set(names.names_sent.values())) == len(ours)
    assert [names.here(names.there(name)) for name in ours] == ours


@pytest.mark.parametrize(
    "spelled",
    ["look_up<|channel|>commentary", " look_up\n", "functions.look_up", "functions.look_up:0", "default_api.look_up"],
)
def test_what_models_put_around_a_name_is_taken_off_if_that_names_a_tool(spelled: str) -> None:
    assert ToolNames.of(["look_up"]).here(spelled) == "look_up"
    assert ToolNames.of(["other"]).here(spelled) == spelled


def test_what_was_attached_goes_back_to_its_site_alone() -> None:
    there, here = ProviderData(ELSEWHERE, {"x": 1}), ProviderData(SITE, {"x": 1})
    items: list[Item] = [
        user("one"),
        ReasoningItem({"reasoning_content": "hm"}, ELSEWHERE),
        ReasoningItem({"reasoning_content": "hm"}, SITE),
        CallItem("c1", "look", "{}", there),
        CallItem("c2", "look", "{}", here),
        OutputItem("c1", "fine"),
        OutputItem("c2", "fine"),
    ]
    assert fitted(items) == [items[0], items[2], CallItem("c1", "look", "{}"), *items[4:]]
    assert fitted(items, takes_thoughts=False)[1:3] == [
        CallItem("c1", "look", "{}"),
        CallItem("c2", "look", "{}"),
    ]


# ---------------------------------------------------------------- what some servers want


def test_pictures_of_the_past_become_a_word_and_those_of_now_stay() -> None:
    items = [*PAST[:2], user("and this?", IMAGE)]
    first, _, last = fitted(items, takes_images=False, takes_files=False)
    assert isinstance(first, UserItem)
    assert content_text(first.content) == f"one\n{NO_IMAGE}\n{NO_FILE}"
    assert last == items[2]


def test_neighbours_of_one_role_become_one_and_the_user_begins() -> None:
    items: list[Item] = [
        AssistantItem("hello"),
        user("a"),
        user("b"),
        AssistantItem("c"),
        AssistantItem("d"),
        user("e"),
    ]
    first, hello, both, said, last = fitted(items, takes_consecutive_roles=False)
    assert [item.kind for item in (first, hello, both, said, last)] == ["user", "assistant"] * 2 + ["user"]
    assert isinstance(both, UserItem)
    assert content_text(both.content) == "a\nb"
    assert said == AssistantItem("c\n\nd")


def test_system_messages_are_told_where_they_are_taken() -> None:
    request = ModelRequest("m", [user("a"), SystemItem("later"), user("b")], instructions="first")
    early = fit(request, Capabilities(takes_late_system=False), SITE).request
    assert (early.instructions, [item.kind for item in early.items]) == ("first\n\nlater", ["user", "user"])
    none = fit(request, Capabilities(takes_system_role=False), SITE).request
    assert none.instructions is None
    assert isinstance(none.items[0], UserItem)
    assert content_text(none.items[0].content) == "first\n\nlater\n\na"


def test_a_word_stands_between_a_tool_and_the_user_where_it_must() -> None:
    items: list[Item] = [user("a"), CallItem("c", "look", "{}"), OutputItem("c", "x"), user("b")]
    assert [item.kind for item in fitted(items, takes_user_after_tool=False)] == [
        "user", "call", "output", "assistant", "user",
    ]  # fmt: skip


def test_tools_that_were_called_are_declared_where_none_is_offered() -> None:
    request = ModelRequest("m", [user("a"), CallItem("c", "look", "{}"), OutputItem("c", "x"), user("b")])
    declared = fit(request, Capabilities(wants_declared_tools=True), SITE).request
    assert [tool.name for tool in declared.tools] == ["look"]
    assert declared.parameters == {"tool_choice": "none"}
    assert fit(request, Capabilities(), SITE).request.tools == []


def test_keywords_of_schemas_go_and_properties_of_their_names_stay() -> None:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"additionalProperties": {"type": "object", "additionalProperties": {"type": "string"}}},
    }
    request = ModelRequest("m", [user("a")], tools=(ToolSpec("look", "Looks.", schema, strict=True),))
    caps = Capabilities(drops_keywords=frozenset({"additionalProperties"}), takes_strict_tools=False)
    (tool,) = fit(request, caps, SITE).request.tools
    assert tool.parameters == {"type": "object", "properties": {"additionalProperties": {"type": "object"}}}
    assert not tool.strict


# ---------------------------------------------------------------- any transcript at any server

WORDS = st.sampled_from(["", " \n", "hello", "x" * 300, "<|im_end|>", "grüße 👋"])
IDS = st.sampled_from(["call_abcdef123456", "functions.look_up:0", "abcdefghi", "é€", "y" * 60, "0"])
NAMES = st.sampled_from(["look_up", "look_up<|channel|>commentary", "3d", "a.b", "z" * 80, ""])
ARGUMENTS = st.sampled_from(["{}", '{"a":1}', '{"a":', "null", "[1]", "5"])
DATA = st.sampled_from(
    [
        None,
        ProviderData(ELSEWHERE, {"extra_content": {"google": {"thought_signature": "x"}}}),
        ProviderData(SITE, {"new": 1}),
    ]
)
THOUGHTS = st.sampled_from(
    [
        ReasoningItem({"type": "reasoning", "encrypted_content": "gA"}),
        ReasoningItem({"reasoning_content": "hm"}, ELSEWHERE),
        ReasoningItem({"type": "thinking", "thinking": "hm", "signature": "s"}, ELSEWHERE),
        ReasoningItem({"reasoning_content": "hm"}, SITE),
    ]
)
PARTS = st.lists(
    st.one_of(
        WORDS.map(lambda text: Part("text", text)), st.sampled_from([IMAGE, Part("image", data={"file_id": "f"})])
    ),
    min_size=1,
    max_size=3,
).map(tuple)
ITEMS: st.SearchStrategy[Item] = st.one_of(
    PARTS.map(UserItem),
    WORDS.map(SystemItem),
    WORDS.map(AssistantItem),
    THOUGHTS,
    st.builds(CallItem, IDS, NAMES, ARGUMENTS, DATA),
    st.builds(OutputItem, IDS, WORDS),
)
STEPS: st.SearchStrategy[Item] = st.one_of(
    st.builds(lambda text: ReasoningItem({"reasoning_content": text}, SITE), st.sampled_from(["hm", "so"])),
    st.builds(CallItem, st.sampled_from("abc"), st.just("look_up"), st.just("{}")),
    st.builds(OutputItem, st.sampled_from("abc"), st.just("x")),
)
"""Much denser than any items: thoughts between calls of one step."""
SERVERS = sorted(RULES)


def taken_after(server: str, request: ModelRequest) -> int:
    """How many refusals it takes until the server takes the request. What it refuses for good fails the test."""
    endpoint = Provider("https://models.example/v1", capabilities={"server": server})
    caps = capabilities_of(endpoint, "chat")
    put: Callable[[Capabilities], Any] = lambda caps: request_body(fit(request, caps, SITE).request, caps)  # noqa: E731
    for refusals in range(MOST_LESSONS + 1):
        body = put(caps)
        said = refusal(server, body)
        if said is None:
            return refusals
        error = classify(400, {}, {"error": {"message": said, "type": "invalid_request_error"}})
        better = (lesson.apply(caps) for lesson in lessons_in(str(error), body))
        caps = next((other for other in better if put(other) != body), caps)
        assert put(caps) != body, f"{server} refuses for good: {said}"
    raise AssertionError(f"{server} refuses again and again")


@pytest.mark.slow  # random transcripts for each server
def test_no_transcript_makes_a_thread_unanswerable_anywhere(size: Callable[[int, int], int]) -> None:
    @settings(max_examples=size(60, 2_000), deadline=None, database=None)
    @given(
        st.one_of(st.lists(ITEMS, max_size=12), st.lists(STEPS, max_size=9)),
        st.booleans(),
        st.sampled_from(["be brief", None]),
    )
    def holds(items: list[Item], offers: bool, instructions: str | None) -> None:
        tools = (ToolSpec("look_up", "Looks.", {"type": "object", "properties": {}}, strict=True),) if offers else ()
        parameters = {"temperature": 0.3, "presence_penalty": 0.1, "max_output_tokens": 5}
        request = ModelRequest(
            "m",
            pair([*items, user("and now?")]),
            instructions=instructions,
            tools=tools,
            parameters=parameters,
            current=1,
        )
        for server in SERVERS:
            assert taken_after(server, request) <= MOST_LESSONS

    holds()


def test_calls_of_one_step_are_told_one_after_the_other_with_the_thoughts_before_each() -> None:
    a, b = (CallItem(name, "look", "{}") for name in "ab")
    one, two = OutputItem("a", "1"), OutputItem("b", "2")
    thoughts = [ReasoningItem({"reasoning_content": text}, SITE) for text in ("hm", "so")]
    items: list[Item] = [user("x"), thoughts[0], a, thoughts[1], b, one, two]
    assert fitted(items, takes_calls_together=False) == [user("x"), thoughts[0], a, one, thoughts[1], b, two]
    assert fitted(items) == items
