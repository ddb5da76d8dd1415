"""P9 for tools: a call that was refused has had no effect, so a fault after it takes no neighbour along."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from tests.scenario.house import opened
from turnkeep.messages import OutputItem
from turnkeep.store.values import Decision
from turnkeep.tools.tool import Tool, from_dict, tool

ran: list[Any] = []


def _stumble(value: int) -> int:
    raise LookupError(value)


@tool
def pay(amount: int) -> str:
    """Pay."""
    ran.append(amount)
    return "paid"


@tool(needs_approval=True)
def buy(amount: int) -> str:
    """Buy."""
    ran.append(amount)
    return "bought"


@tool
def odd(amount: Annotated[int, AfterValidator(_stumble)]) -> str:
    """Its own check stumbles."""
    ran.append(amount)
    return "odd"


def _declared(name: str, schema: dict[str, Any]) -> Tool:
    parameters = {"type": "object", "properties": {"name": schema}, "required": ["name"]}
    function = {"name": name, "description": "Greet somebody.", "parameters": parameters}
    return from_dict({"type": "function", "function": function, "handler": ran.append})


greet = _declared("greet", {"type": "string", "pattern": r"^\p{L}+$"})

REFUSED = {
    "arguments that do not fit": '[[call:pay {"amount": "not a number"}]]',
    "arguments of a schema that do not fit": '[[call:greet {"name": "A1"}]]',
    "a check that stumbles": '[[call:odd {"amount": 1}]]',
    "arguments that nobody need approve": '[[call:buy {"amount": []}]]',
    "no such tool": "[[call:nothing {}]]",
}


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
async def test_a_fault_after_a_refused_call_takes_no_neighbour_along(words: str) -> None:
    tools = [pay, buy, odd, greet]
    async with (
        opened("memory:", tools=tools, max_attempts=1, window=60.0, max_wait=60.0) as house,
        house.stream("c") as stream,
    ):
        house.fault(kind="500", step=1, times=1)
        await house.send_all("c", [f"first {words}", "second, a neighbour"])
        await house.queue.flush("c")

        await house.settled(stream, "m1")

        assert (ran, [letter.message.message_id for letter in await house.queue.store.dead()]) == ([], [])


async def test_a_call_that_ran_keeps_its_batch_whole() -> None:
    async with (
        opened("memory:", tools=[pay], max_attempts=1, window=60.0, max_wait=60.0) as house,
        house.stream("c") as stream,
    ):
        house.fault(kind="500", step=1, times=1)
        await house.send_all("c", ['first [[call:pay {"amount": 1}]]', "second, a neighbour"])
        await house.queue.flush("c")

        await house.settled(stream, "m1")

        assert ran == [1]
        assert [letter.message.message_id for letter in await house.queue.store.dead()] == ["m0", "m1"]


async def test_an_approved_call_whose_tool_is_gone_is_refused_and_was_no_effect(store: str) -> None:
    async with opened(store, tools=[buy], max_attempts=1) as house, house.stream("c") as stream:
        await house.send("c", '[[call:buy {"amount": 7}]]')
        await house.until(stream, lambda event: event.kind == "held")
        record = await house.queue.store.thread(house.address("c"))
        assert record is not None
        house.queue.toolbox.remove("buy")
        [call] = record.calls
        await house.queue.store.decide(house.address("c"), call.call_id, call.digest, Decision("approved", by="me"))

        await house.settled(stream, "m0")

        [output] = [item for item in await house.transcript("c") if isinstance(item, OutputItem)]
        assert (ran, output.status, output.output) == ([], "error", "error: there is no tool named 'buy'")


async def test_patterns_of_schemas_are_those_of_the_standard() -> None:
    async with opened("memory:", tools=[greet]) as house, house.stream("c") as stream:
        await house.send("c", '[[call:greet {"name": "Adaé"}]]')

        events = await house.settled(stream, "m0")

        assert (events[-1].kind, ran) == ("completed", [{"name": "Adaé"}])
