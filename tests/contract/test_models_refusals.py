"""A request that is refused for its form is made again in the form that the server asks for, and that is remembered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.contract.asking import (
    GOOD,
    HELLO,
    OPENAI_PROTOCOLS,
    PROTOCOLS,
    TEXT,
    opened,
    parts_of,
    recorded,
    server_that,
    text_of,
)
from tests.contract.canned import Canned, Visit, canned
from turnkeep.errors import ModelError, ModelRefused
from turnkeep.messages import AssistantItem, CallItem, Item, OutputItem, Part, UserItem, text_content

IMAGE = UserItem((Part("text", "what?"), Part("image", data={"image_url": "https://pictures/1"})))
PAST: list[Item] = [IMAGE, AssistantItem("a cat"), *HELLO.items]


def without_options(body: dict[str, Any]) -> str | None:
    return "Unknown parameter: 'stream_options'." if "stream_options" in body else None


def reads_only(body: dict[str, Any]) -> str | None:
    return "this model does not support image input" if b"pictures/1" in orjson.dumps(body) else None


@OPENAI_PROTOCOLS
@pytest.mark.parametrize("status", [400, 404, 422, 500])
async def test_a_refused_field_costs_one_request_once(kind: str, status: int) -> None:
    async with server_that(without_options, kind, status) as server:
        model = opened(server, kind)
        for _ in range(3):
            assert text_of(await parts_of(model)) == TEXT[kind]
        await model.close()
    assert ["stream_options" in visit.body for visit in server.visits] == [True, False, False, False]


@OPENAI_PROTOCOLS
async def test_what_one_model_taught_is_not_believed_of_another(kind: str) -> None:
    async with server_that(lambda body: without_options(body) if body["model"] == "m" else None, kind) as server:
        model = opened(server, kind)
        for name in ("m", "n", "m"):
            await parts_of(model, replace(HELLO, model=name))
        await model.close()
    assert ["stream_options" in visit.body for visit in server.visits] == [True, False, True, False]


@PROTOCOLS
async def test_a_picture_of_the_past_is_left_out_where_it_is_refused(kind: str) -> None:
    async with server_that(reads_only, kind) as server:
        model = opened(server, kind)
        assert text_of(await parts_of(model, replace(HELLO, items=PAST))) == TEXT[kind]
        await model.close()
    assert len(server.visits) == 2


@PROTOCOLS
async def test_a_picture_of_now_is_refused_with_what_the_server_says(kind: str) -> None:
    async with server_that(reads_only, kind) as server:
        model = opened(server, kind)
        with pytest.raises(ModelRefused, match="does not support image input"):
            await parts_of(model, replace(HELLO, items=[IMAGE]))
        await model.close()
    assert len(server.visits) == 1


@PROTOCOLS
async def test_an_address_that_has_expired_is_no_lesson_for_others(kind: str) -> None:
    def expired(body: dict[str, Any]) -> str | None:
        return "Error while downloading https://pictures/1." if b"pictures/1" in orjson.dumps(body) else None

    other = UserItem((Part("image", data={"image_url": "https://pictures/2"}),))
    async with server_that(expired, kind) as server:
        model = opened(server, kind)
        await parts_of(model, replace(HELLO, items=PAST))
        await parts_of(model, replace(HELLO, items=[other, AssistantItem("a dog"), *HELLO.items]))
        await model.close()
    assert b"pictures/2" in orjson.dumps(server.last.body)


@PROTOCOLS
async def test_a_field_that_only_shapes_the_answer_is_left_out(kind: str) -> None:
    def hot(body: dict[str, Any]) -> str | None:
        return "invalid temperature: only 1 is allowed for this model" if "temperature" in body else None

    async with server_that(hot, kind) as server:
        model = opened(server, kind)
        request = replace(HELLO, model="gpt-4o", parameters={"temperature": 0.3})
        for _ in range(2):
            assert text_of(await parts_of(model, request)) == TEXT[kind]
        await model.close()
    assert ["temperature" in visit.body for visit in server.visits] == [True, False, False]


@PROTOCOLS
async def test_tools_of_the_past_are_declared_where_a_server_wants_to_know_them(kind: str) -> None:
    def wants_tools(body: dict[str, Any]) -> str | None:
        missing = "Requests which include `tool_use` or `tool_result` blocks must define tools."
        return None if "tools" in body else missing

    past: list[Item] = [*HELLO.items, CallItem("c1", "look", "{}"), OutputItem("c1", "fine")]
    async with server_that(wants_tools, kind) as server:
        model = opened(server, kind)
        await parts_of(model, replace(HELLO, items=past))
        await model.close()
    assert b'"name":"look"' in orjson.dumps(server.last.body["tools"])
    assert server.last.body["tool_choice"] in ("none", {"type": "none"})


@OPENAI_PROTOCOLS
async def test_what_did_not_help_is_not_believed(kind: str) -> None:
    refusals: list[str | None] = ["Unknown parameter: 'stream_options'.", "no", None]

    async with server_that(lambda body: refusals.pop(0), kind) as server:
        model = opened(server, kind)
        with pytest.raises(ModelRefused, match="no"):
            await parts_of(model)
        await parts_of(model)
        await model.close()
    assert ["stream_options" in visit.body for visit in server.visits] == [True, False, True]


@OPENAI_PROTOCOLS
async def test_several_lessons_are_learned_one_after_the_other_and_not_without_end(kind: str) -> None:
    fields = ["stream_options", "store", "temperature"]

    def picky(body: dict[str, Any]) -> str | None:
        return next((f"Unknown parameter: '{name}'." for name in fields if name in body), None)

    async with server_that(picky, kind) as server:
        model = opened(server, kind)
        await parts_of(model, replace(HELLO, model="gpt-4o", parameters={"temperature": 0.3}))
        await model.close()
    assert len(server.visits) == 4

    async with server_that(lambda body: f"Unknown parameter: '{max(body)}'.", kind) as server:
        model = opened(server, kind)
        with pytest.raises(ModelError):
            await parts_of(model)
        await model.close()
    assert len(server.visits) <= 6


@OPENAI_PROTOCOLS
async def test_a_refusal_inside_a_stream_teaches_as_well_until_something_was_said(kind: str) -> None:
    begun = {"responses": recorded(GOOD["responses"])[:900].rpartition(b"\n\n")[0] + b"\n\n"}
    begun["chat"] = recorded(GOOD["chat"])[:700].rpartition(b"\n\n")[0] + b"\n\n"
    said = b'data: {"error":{"code":400,"message":"Unknown parameter: \'stream_options\'."}}\n\n'
    late = [b"", begun[kind]]

    async def answer(visit: Visit) -> None:
        visit.whole(late.pop(0) + said if "stream_options" in visit.body else recorded(GOOD[kind]))

    async with canned(answer) as server:
        model = opened(server, kind)
        assert text_of(await parts_of(model)) == TEXT[kind]
        await model.close()
        model = opened(server, kind)
        with pytest.raises(ModelRefused):
            await parts_of(model)
        await model.close()
    assert len(server.visits) == 3


def test_a_burst_of_one_role_is_joined_once_a_template_asked_for_it() -> None:
    """Shown by the order of the roles, because that is what the template counts."""

    async def run() -> Canned:
        def alternates(body: dict[str, Any]) -> str | None:
            roles = [m["role"] for m in body["messages"]]
            return "Conversation roles must alternate user/assistant/..." if "user user" in " ".join(roles) else None

        burst: list[Item] = [UserItem(text_content(text)) for text in ("a", "b", "c")]
        async with server_that(alternates, "chat", 500) as server:
            model = opened(server, "chat", is_simulated=False)
            for _ in range(2):
                await parts_of(model, replace(HELLO, items=burst))
            await model.close()
            return server

    server = asyncio.run(run())
    assert [len(visit.body["messages"]) for visit in server.visits] == [3, 1, 1]
    assert server.last.body["messages"] == [{"role": "user", "content": "a\nb\nc"}]
