"""P5: a call is journalled before it runs, and an effect starts at most once."""

from __future__ import annotations

import asyncio

from tests.patience import until
from tests.scenario.house import opened
from turnkeep.messages import AssistantItem, CallItem, HostedItem, OutputItem
from turnkeep.store.values import Decision
from turnkeep.tools.tool import ToolContext, tool


@tool(effect="pure")
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


async def test_the_answer_uses_what_the_tool_gave(store: str) -> None:
    async with opened(store, tools=[double]) as house, house.stream("c") as stream:
        await house.send("c", 'compute [[call:double {"number": 21}]]')

        events = await house.settled(stream, "m0")

        assert "42" in events[-1].text
        assert [event.tools for event in events if event.kind == "processing"] == [("double",)]
        kinds = [item.kind for item in await house.transcript("c")]
        assert kinds == ["user", "call", "output", "assistant"]


async def test_parallel_calls_have_one_output_each(store: str) -> None:
    async with opened(store, tools=[double]) as house, house.stream("c") as stream:
        await house.send("c", 'compute [[call:double {"number": 1}]] [[call:double {"number": 2}]]')

        await house.settled(stream, "m0")

        items = await house.transcript("c")
        calls = [item.call_id for item in items if isinstance(item, CallItem)]
        outputs = {item.call_id: item.output for item in items if isinstance(item, OutputItem)}
        assert sorted(outputs.values()) == ["2", "4"]
        assert set(outputs) == set(calls)


async def test_a_model_that_calls_an_unknown_tool_is_told_and_answers(store: str) -> None:
    async with opened(store, tools=[double]) as house, house.stream("c") as stream:
        await house.send("c", "[[call:no_such_tool {}]]")

        events = await house.settled(stream, "m0")

        [output] = [item for item in await house.transcript("c") if isinstance(item, OutputItem)]
        assert (output.status, output.output) == ("error", "error: there is no tool named 'no_such_tool'")
        assert events[-1].kind == "completed"
        assert len(house.simulator.ledger) == 2


async def test_a_model_that_never_stops_calling_is_given_up_after_its_steps(store: str) -> None:
    async with opened(store, tools=[double]) as house, house.stream("c") as stream:
        await house.send("c", "[[loop]]")

        events = await house.settled(stream, "m0")

        assert (events[-1].kind, events[-1].error and events[-1].error.code) == ("dead", "too_many_steps")
        assert len(house.simulator.ledger) == 8
        [letter] = await house.queue.store.dead()
        assert (letter.message.message_id, letter.attempts) == ("m0", 1)


async def test_an_effect_that_was_interrupted_is_told_as_unknown_and_not_repeated() -> None:
    begun: list[str] = []
    hang = asyncio.Event()

    @tool
    async def pay(amount: int, context: ToolContext) -> str:
        """Pay somebody."""
        begun.append(context.idempotency_key)
        await hang.wait()
        return "paid"

    async with opened("memory:", tools=[pay], lease=2.0) as house, house.stream("c") as stream:
        await house.send("c", '[[call:pay {"amount": 5}]]')
        await house.until(stream, lambda event: event.kind == "processing")
        await until(lambda: bool(begun))
        [lease] = house.queue._worker.keeper.leases.values()  # type: ignore[union-attr]
        await house.queue.store.renew(lease.claim.owner, [], lease=2.0)

        events = await house.settled(stream, "m0")

        assert len(begun) == 1
        [output] = [item for item in await house.transcript("c") if isinstance(item, OutputItem)]
        assert output.status == "unknown"
        assert events[-1].kind == "completed"


async def test_a_call_that_needs_approval_waits_without_a_worker_and_goes_on_once(store: str) -> None:
    paid: list[int] = []

    @tool(needs_approval=True)
    def pay(amount: int) -> str:
        """Pay somebody."""
        paid.append(amount)
        return f"paid {amount}"

    async with opened(store, tools=[pay]) as house, house.stream("c") as stream:
        await house.send("c", '[[call:pay {"amount": 7}]]')
        [*_, _held] = await house.until(stream, lambda event: event.kind == "held")
        record = await house.queue.store.thread(house.address("c"))
        assert record is not None
        assert record.state == "held"
        assert paid == []

        [call] = record.calls
        await house.queue.store.decide(house.address("c"), call.call_id, call.digest, Decision("approved", by="me"))
        events = await house.settled(stream, "m0")

        assert paid == [7]
        assert "paid 7" in events[-1].text


async def test_a_tool_of_the_provider_is_named_beside_those_of_the_queue(store: str) -> None:
    async with opened(store, tools=[double]) as house, house.stream("c") as stream:
        house.simulator.options = house.simulator.options.but({"keep_bodies": True})
        assistants = house.queue.assistants
        profile = await assistants.default("default")
        assert profile is not None
        offered = []
        for number, tools in enumerate([["*", {"type": "web_search"}], [{"type": "web_search"}], ["double"]]):
            await assistants.change("default", profile.assistant_id, {"tools": tools})
            await house.send("c", f"[[search:otters]] [[say:number {number}]]", f"m{number}")
            await house.settled(stream, f"m{number}")
            body = list(house.simulator.ledger)[-1].body
            offered.append([tool.get("name", tool["type"]) for tool in body["tools"]])
        assert offered == [["double", "web_search"], ["web_search"], ["double"]]
        items = await house.transcript("c")
        assert [item.name for item in items if isinstance(item, HostedItem)] == ["web_search"] * 3
        assert all(item.citations for item in items if isinstance(item, AssistantItem))
