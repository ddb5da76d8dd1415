"""Anthropic answers a whole house: thoughts, sources and pauses come through a run, and the cache is used."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.scenario.house import TestHouse, opened
from turnkeep.messages import AssistantItem, HostedItem, ReasoningItem
from turnkeep.simulator import Fault, Simulator, serve
from turnkeep.tools.tool import tool

CLAUDE = "claude-sonnet-5-5"
OLDER = "claude-haiku-4-5"


@tool(effect="pure")
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


@contextlib.asynccontextmanager
async def answered_by_claude(store: str = "memory:", **settings: Any) -> AsyncIterator[TestHouse]:
    """A house that only Anthropic answers."""
    simulator = Simulator()
    async with serve(simulator) as url:
        values = {
            "openai_base_url": None,
            "openai_api_key": None,
            "model_api": "auto",
            "openai_model": CLAUDE,
            "anthropic_base_url": url.removesuffix("/v1"),
            "anthropic_api_key": "sk-ant-test",
            **settings,
        }
        async with opened(store, **values) as house:
            simulator.options = simulator.options.but({"keep_bodies": True})
            yield TestHouse(house.queue, simulator)


async def prefer(house: TestHouse, **parameters: Any) -> None:
    """Let the assistant answer with these parameters."""
    profile = await house.queue.assistants.default("default")
    assert profile is not None
    await house.queue.assistants.change("default", profile.assistant_id, {"parameters": parameters})


async def test_a_burst_is_answered_with_its_price(store: str) -> None:
    async with answered_by_claude(store, window=60.0, max_wait=60.0) as house, house.stream("c") as stream:
        await house.send_all("c", ["one", "two"])
        await house.send("c", "three", flush=True)
        events = await house.settled(stream, "m2")
        assert "First: “one”. Then: “two”. And last: “three”." in events[-1].text
        usage = events[-1].usage
        assert usage is not None
        assert usage.cost is not None
        assert usage.cost > 0
        (exchange,) = house.simulator.ledger
        assert (exchange.surface, exchange.model) == ("messages", CLAUDE)


async def test_thoughts_go_through_a_tool_loop_unchanged_and_a_later_turn_too(store: str) -> None:
    """The simulator refuses a thought whose signature does not fit it, and a call without its thought."""
    async with answered_by_claude(store, tools=[double], openai_model=OLDER) as house, house.stream("c") as stream:
        await prefer(house, reasoning={"effort": "low"})
        await house.send("c", '[[reason:It is a sum.]] [[call:double {"number": 21}]]', "m0")
        events = await house.settled(stream, "m0")
        assert "42" in events[-1].text
        await house.send("c", "and again?", "m1")
        events = await house.settled(stream, "m1")
        assert events[-1].outcome == "completed"
        items = await house.transcript("c")
        thoughts = [item.text for item in items if isinstance(item, ReasoningItem)]
        assert thoughts[0] == "It is a sum."
        assert {exchange.outcome for exchange in house.simulator.ledger} == {"completed"}


async def test_a_pause_of_the_provider_is_no_end(store: str) -> None:
    async with answered_by_claude(store) as house, house.stream("c") as stream:
        await house.send("c", "[[search:otters]] [[pause]] [[say:They hold hands.]]", "m0")
        events = await house.settled(stream, "m0")
        assert events[-1].text == "They hold hands."
        assert events[-1].outcome == "completed"
        assert len(house.simulator.ledger) == 2
        kinds = [item.kind for item in await house.transcript("c")]
        assert kinds == ["user", "hosted", "assistant"]


async def test_a_search_and_its_sources_stand_in_the_transcript_and_go_back(store: str) -> None:
    async with answered_by_claude(store) as house, house.stream("c") as stream:
        await house.send("c", "[[search:otters]] [[say:They hold hands.]]", "m0")
        await house.settled(stream, "m0")
        await house.send("c", "thanks", "m1")
        await house.settled(stream, "m1")
        _, search, found, said, *_ = await house.transcript("c")
        assert isinstance(search, HostedItem)
        assert isinstance(found, HostedItem)
        assert isinstance(said, AssistantItem)
        assert said.citations[0].url == "https://simulator.example/otters"
        last = list(house.simulator.ledger)[-1]
        sent = last.body["messages"][1]["content"]
        assert [block["type"] for block in sent] == ["server_tool_use", "web_search_tool_result", "text"]
        assert sent[2]["citations"][0]["encrypted_index"]


async def test_what_was_said_before_is_read_from_the_cache() -> None:
    async with answered_by_claude(instructions="rules " * 400) as house, house.stream("c") as stream:
        usages = []
        for number in range(3):
            await house.send("c", f"message {number}", f"m{number}")
            usages += [event.usage for event in await house.settled(stream, f"m{number}") if event.usage]
        usage = usages[-1]
        assert usage.cached_tokens > 0.8 * usage.input_tokens
        assert usage.cache_write_tokens > 0


async def test_an_overloaded_provider_uses_no_attempt() -> None:
    async with answered_by_claude(max_attempts=1) as house, house.stream("c") as stream:
        house.simulator.faults.append(Fault("529", times=2, retry_after_ms=50))
        await house.send("c", "hello", "m0")
        events = await house.settled(stream, "m0")
        assert events[-1].outcome == "completed"
        assert [event.kind for event in events if event.kind in ("waiting", "retrying")] == ["waiting"] * 2


async def test_models_named_claude_are_asked_at_anthropic_and_all_others_elsewhere() -> None:
    async with answered_by_claude() as house, opened() as other:
        settings = house.queue.settings.model_copy(
            update={"openai_base_url": other.queue.settings.openai_base_url, "model_api": "responses"}
        )
        async with (
            opened(
                openai_base_url=settings.openai_base_url,
                anthropic_base_url=settings.anthropic_base_url,
                anthropic_api_key="sk-ant-test",
            ) as both,
            both.stream("c") as stream,
        ):
            profile = await both.queue.assistants.default("default")
            assert profile is not None
            for number, model in enumerate([CLAUDE, "gpt-6-luna", CLAUDE]):
                await both.queue.assistants.change("default", profile.assistant_id, {"model": model})
                await both.send("c", f"to {model} {number} [[reason]]", f"m{number}")
                events = await both.settled(stream, f"m{number}")
                assert events[-1].outcome == "completed"
            assert [exchange.model for exchange in house.simulator.ledger] == [CLAUDE] * 2
            assert [exchange.model for exchange in other.simulator.ledger] == ["gpt-6-luna"]
