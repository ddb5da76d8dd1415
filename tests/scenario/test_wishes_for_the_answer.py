"""Model, effort, format and parameters of a message count for the run that answers it; the last of a turn counts."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.served import ask, bearer, served
from tests.scenario.house import TestHouse, opened
from turnkeep.errors import InvalidMessage
from turnkeep.inputs import read_message
from turnkeep.messages import Address
from turnkeep.simulator import Fault
from turnkeep.tools.tool import tool

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SHAPE = {"type": "json_schema", "schema": SCHEMA}
HERE = Address("default", "assistant", "c")


@tool(effect="pure")
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


def bodies(house: TestHouse) -> list[Any]:
    return [exchange.body for exchange in house.simulator.ledger]


async def keep(house: TestHouse, **parameters: Any) -> None:
    house.simulator.options = house.simulator.options.but({"keep_bodies": True})
    profile = await house.queue.assistants.default("default")
    assert profile is not None
    values = {"model": "gpt-4o-mini", "parameters": parameters}
    await house.queue.assistants.change("default", profile.assistant_id, values)


async def test_what_a_message_asks_for_counts_once(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        await keep(house, truncation="auto", max_output_tokens=500)
        wishes: dict[str, Any] = {"model": "gpt-6-luna", "effort": "high", "format": SHAPE}
        await house.send("c", "a city, please", "m0", **wishes, parameters={"max_output_tokens": 900})
        events = await house.settled(stream, "m0")
        assert set(json.loads(events[-1].text)) == {"city"}
        await house.send("c", "and without", "m1")
        await house.settled(stream, "m1")
        first, second = bodies(house)
        assert (first["model"], first["reasoning"], first["max_output_tokens"]) == (
            "gpt-6-luna",
            {"effort": "high"},
            900,
        )
        assert first["text"]["format"] == {**SHAPE, "name": "answer"}
        assert (second["model"], second["truncation"], second["max_output_tokens"]) == ("gpt-4o-mini", "auto", 500)
        assert not {"reasoning", "text"} & set(second)


async def test_of_several_messages_the_last_that_asks_counts_for_each_wish_by_itself(store: str) -> None:
    async with opened(store, window=60.0, max_wait=60.0) as house, house.stream("c") as stream:
        await keep(house)
        await house.send("c", "one", "m0", model="gpt-4o", parameters={"temperature": 0.1, "top_p": 0.5})
        await house.send("c", "two", "m1", model="gpt-4.1", parameters={"temperature": 0.2})
        await house.send("c", "three", "m2")
        await house.queue.flush("c")
        await house.settled(stream, "m2")
        (body,) = bodies(house)
        assert (body["model"], body["temperature"], body["top_p"]) == ("gpt-4.1", 0.2, 0.5)


async def test_a_turn_that_is_answered_again_is_asked_for_the_same() -> None:
    async with opened() as house, house.stream("c") as stream:
        await keep(house)
        await house.send("c", "one", "m0", model="gpt-4o", parameters={"temperature": 0.1})
        await house.settled(stream, "m0")
        (receipt,) = await house.queue.store.regenerate(house.address("c"))
        await house.settled(stream, receipt.message_id)
        assert [(body["model"], body["temperature"]) for body in bodies(house)] == [("gpt-4o", 0.1)] * 2


async def test_a_message_that_steers_changes_the_steps_to_come_and_not_the_model() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    @tool(effect="pure")
    async def double_later(number: int) -> int:
        """Twice a number, when it is time."""
        begun.set()
        await gate.wait()
        return 2 * number

    async with opened(tools=[double_later]) as house, house.stream("c") as stream:
        await keep(house, temperature=0.3)
        await house.send("c", '[[call:double_later {"number": 2}]]', "m0")
        async with asyncio.timeout(PATIENCE):
            await begun.wait()  # the first step has been asked for: a wish before that would be one for it
        await house.send("c", "shorter", "m1", on_busy="steer", model="gpt-4o", parameters={"temperature": 0.1})
        gate.set()
        await house.settled(stream, "m1")
        told = [(body["model"], body["temperature"]) for body in bodies(house)]
        assert told[0] == ("gpt-4o-mini", 0.3)
        assert told[-1] == ("gpt-4o-mini", 0.1)


async def test_a_model_that_is_gone_is_replaced_by_the_assistants_own() -> None:
    async with opened() as house, house.stream("c") as stream:
        await keep(house)
        house.simulator.faults.append(Fault("model_not_found", times=None, match=lambda prompt: prompt.model == "none"))
        await house.send("c", "hello", "m0", model="none")
        events = await house.settled(stream, "m0")
        assert events[-1].outcome == "completed"
        assert [exchange.model for exchange in house.simulator.ledger] == ["none", "gpt-4o-mini"]


async def test_who_answers_at_what_price_is_for_the_operator_to_say() -> None:
    async with served(auth="on") as server:
        server.simulator.options = replace(server.simulator.options, keep_bodies=True)
        for wish in ({"model": "gpt-6-astra"}, {"effort": "max"}, {"format": SHAPE}, {"parameters": {"n": 1}}):
            frame = {"channel": "c", "message": "hello", "message_id": "m1", **wish}
            async with server.socket(additional_headers=await bearer(server, "send", "read")) as socket:
                refused = await ask(socket, frame)
            assert refused["code"] == "not_allowed"
        async with server.socket(additional_headers=await bearer(server, "manage")) as socket:
            assert (await ask(socket, {"channel": "c", "message": "hi", "message_id": "m2", "model": "m"}))[
                "type"
            ] != "error"


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"model": ""}, "'model' must be a text"),
        ({"model": 5}, "'model' must be a text"),
        ({"effort": "huge"}, "'effort' must be one of none"),
        ({"effort": "low", "parameters": {"reasoning": {}}}, "either 'effort' or 'reasoning'"),
        ({"format": "json"}, "'format' must be an object"),
        ({"format": {"type": "xml"}}, "'format' must be an object"),
        ({"format": {"type": "json_schema"}}, "must hold a 'schema'"),
        ({"format": {"type": "json_schema", "schema": []}}, "must hold a 'schema'"),
        ({"format": SHAPE, "parameters": {"text": {}}}, "either 'format' or 'text'"),
        ({"parameters": []}, "'parameters' must be an object"),
        ({"parameters": {"reasoning": 5}}, "'reasoning' must be an object"),
        ({"parameters": {"stop": "\ud800"}}, "half of a surrogate"),
        ({"parameters": {"stop": "x" * 40_000}}, "more than 32768 bytes"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_in_words(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidMessage, match=words):
        read_message({"message": "hi", **wish}, HERE, limit=256_000)


def test_a_format_is_taken_in_either_form() -> None:
    nested = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    message = read_message({"message": "hi", "format": nested}, HERE, limit=256_000)
    told = {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}
    assert message.parameters == {"text": {"format": told}}
    plain = read_message({"message": "hi", "format": {"type": "json_object"}}, HERE, limit=256_000)
    assert plain.parameters == {"text": {"format": {"type": "json_object"}}}
    assert read_message({"message": "hi", "effort": None, "format": None}, HERE, limit=256_000).parameters is None
