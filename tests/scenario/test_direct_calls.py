"""A direct call is a turn like any other: it never races a queued run, loses nothing and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.scenario.house import TestHouse, gate_answers, opened
from turnkeep.errors import (
    BudgetSpent,
    ConfigurationError,
    InvalidMessage,
    ModelGone,
    ModelRefused,
    ModelUnavailable,
    ThreadBusy,
    TooManySteps,
)
from turnkeep.messages import Address, AssistantItem, Item, content_text
from turnkeep.runs.budget import _STARTS
from turnkeep.service import Chunk, ContentChunk, OpenAIService, RetryConfig, create_openai_config
from turnkeep.simulator import Exchange, Fault, Options, Simulator, StreamPace, serve
from turnkeep.store import Store, open_store
from turnkeep.testing.fake_clock import FakeClock


@pytest.fixture(autouse=True)
def one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Midnight begins a new budget, also between two calls of a test."""
    monkeypatch.setitem(_STARTS, "day", "a day without an end")


QUICK = RetryConfig(max_retries=2, initial_delay=0.01, max_delay=0.02)
FEW_WORDS = StreamPace(token=0.02)
TODAY = FakeClock(datetime(2026, 11, 20, tzinfo=UTC).timestamp())
"""Before the models that are asked for here end."""


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@dataclass
class Direct:
    """A service, its simulator, and what was asked of it."""

    service: OpenAIService
    simulator: Simulator
    store: Store

    @property
    def exchanges(self) -> list[Exchange]:
        return list(self.simulator.ledger)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [exchange.body for exchange in self.exchanges]

    async def chunks(self, messages: list[dict[str, Any]], session: str | None = None, **more: Any) -> list[Chunk]:
        return [chunk async for chunk in self.service.stream_completion(messages, session, **more)]

    async def transcript(self, session: str) -> list[Item]:
        return [entry.item for entry in (await self.store.history(place(session))).entries]

    async def outcomes(self, session: str) -> list[str]:
        return [e.outcome or "dead" for e in (await self.store.read(place(session))).events if e.is_final]


def place(session: str) -> Address:
    return Address("default", "assistant", session)


Open = Callable[..., contextlib.AbstractAsyncContextManager[Direct]]


@pytest.fixture
def direct(store: str) -> Open:
    """A service on an empty store."""

    @contextlib.asynccontextmanager
    async def make(
        *, pace: StreamPace | None = None, options: Options | None = None, **more: Any
    ) -> AsyncIterator[Direct]:
        simulator, kept = Simulator(pace=pace, options=options or Options(keep_bodies=True)), open_store(store)
        await kept.open()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(kept.close)
            url = await stack.enter_async_context(serve(simulator))
            given: dict[str, Any] = {"api_key": "sk-simulator", "base_url": url, "store": kept, "retries": QUICK}
            async with OpenAIService(create_openai_config(**{**given, "clock": TODAY, **more})) as service:
                yield Direct(service, simulator, kept)

    return make


def text_of(chunks: list[Chunk]) -> str:
    text = ""
    for chunk in chunks:
        if chunk.type == "content":
            text = chunk.content if chunk.replaces else text + chunk.content
    return text


# ---------------------------------------------------------------- with and without memory


async def test_a_call_without_a_session_remembers_nothing(direct: Open, tmp_path: Path) -> None:
    async with direct(store=f"sqlite:{tmp_path / 'never.db'}") as house:
        await house.service.complete([user("My name is Ada")])
        answer = await house.service.complete([user("What is my name?")])
        [desk] = house.service._runners.values()
        assert (await desk.context.store.counts()).threads == 0
    assert answer.content == "You have not told me your name yet."
    assert not (tmp_path / "never.db").exists(), "a store is opened for sessions only"


async def test_a_call_without_a_session_is_told_its_whole_past(direct: Open) -> None:
    past = [user("My name is Ada"), {"role": "assistant", "content": "Hi Ada"}, user("and"), user("What is my name?")]
    async with direct() as house:
        assert (await house.service.complete(past)).content == "Your name is Ada."
        [exchange] = house.exchanges
    assert exchange.messages == [("My name is Ada", False), ("and", True), ("What is my name?", True)]


async def test_a_session_is_told_only_what_is_new(direct: Open) -> None:
    async with direct() as house:
        await house.service.complete([user("My name is Ada")], "s")
        assert (await house.service.complete([user("What is my name?")], "s")).content == "Your name is Ada."
        with pytest.raises(InvalidMessage, match="messages are what is new"):
            await house.service.complete([user("a"), {"role": "assistant", "content": "b"}, user("c")], "s")
        assert [item.kind for item in await house.transcript("s")] == ["user", "assistant"] * 2


async def test_system_messages_are_instructions_of_this_call(direct: Open) -> None:
    system = {"role": "system", "content": "Speak like a pirate."}
    async with direct() as house:
        await house.service.complete([system, user("one")], "s")
        await house.service.complete([user("two")], "s")
        assert [body.get("instructions") for body in house.bodies] == ["Speak like a pirate.", None]


@pytest.mark.parametrize(
    "messages", [[], [{"role": "system", "content": "alone"}], [{"role": "assistant", "content": "a"}]]
)
async def test_a_call_that_asks_nothing_is_refused(direct: Open, messages: list[dict[str, Any]]) -> None:
    async with direct() as house:
        with pytest.raises(InvalidMessage, match="no user message"):
            await house.service.complete(messages)
        assert house.exchanges == []


async def test_without_a_key_the_simulator_answers_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with OpenAIService(create_openai_config(store="memory:")) as service:
            assert (await service.complete([user("[[say:here]]")])).content == "here"
    assert "simulator_answers" in caplog.text


# ---------------------------------------------------------------- taking turns


async def test_calls_of_one_session_take_turns(
    direct: Open, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    count = size(12, 100)
    texts = [f"question {n}" for n in range(count)]
    async with direct(pace=StreamPace(token=0.001)) as house:
        answers = await asyncio.gather(*(house.service.complete([user(t)], "s", wait=60.0) for t in texts))
        assert house.simulator.ledger.overlaps() == []
        assert house.simulator.ledger.lost_messages(texts) == []
        assert house.simulator.ledger.answered_twice() == {}
        said = [content_text(i.content) for i in await house.transcript("s") if i.kind == "user"]  # type: ignore[union-attr]
    assert sorted(said) == sorted(texts)
    assert all(f"“{text}”" in answer.content for text, answer in zip(texts, answers, strict=True))
    proof("direct calls", f"{count} at once on one session: 0 overlaps, 0 lost, 0 answered twice")


async def test_a_call_waits_for_a_queued_run_or_is_told_that_the_thread_is_busy(store: str) -> None:
    async with opened(store) as house:
        config = create_openai_config(
            api_key="sk-test", base_url=_url(house), store=house.queue.store, model_api="responses"
        )
        async with OpenAIService(config) as service, house.stream("c") as events:
            gate = gate_answers(house.simulator)
            await house.send("c", "queued [[pace:1]] [[words:3]]", "m1")
            await house.until(events, lambda e: e.kind == "delta")
            with pytest.raises(ThreadBusy):
                await service.complete([user("now")], "c", wait=0)
            with pytest.raises(ThreadBusy, match="for all of"):
                await service.complete([user("soon")], "c", wait=0.05)
            gate.set()
            answer = await service.complete([user("later")], "c")
            assert "“later”" in answer.content
        assert await house.said_by_user("c") == ["queued [[pace:1]] [[words:3]]", "later"]
        assert house.simulator.ledger.overlaps() == []


def _url(house: TestHouse) -> str:
    assert house.queue.settings.openai_base_url is not None
    return house.queue.settings.openai_base_url


async def test_what_waits_on_the_thread_is_answered_along(store: str) -> None:
    async with opened(store, worker=False, window=60.0, max_wait=60.0) as house:
        config = create_openai_config(
            api_key="sk-test", base_url=_url(house), store=house.queue.store, model_api="responses"
        )
        await house.send("c", "waiting", "m1")
        async with OpenAIService(config) as service:
            answer = await service.complete([user("direct")], "c")
        assert "First: “waiting”. And last: “direct”." in answer.content
        record = await house.queue.store.message(house.address("c"), "m1")
        assert record is not None
        assert record.status == "answered"


async def test_what_waits_on_the_thread_outlives_a_call_that_fails(store: str) -> None:
    async with opened(store, worker=False, window=60.0, max_wait=60.0) as house:
        config = create_openai_config(
            api_key="sk-test", base_url=_url(house), store=house.queue.store, model_api="responses", retries=0
        )
        await house.send("c", "waiting", "m1")
        house.fault(kind="poison", match="bad")
        async with OpenAIService(config) as service:
            with pytest.raises(ModelRefused):
                await service.complete([user("bad")], "c")
        house.simulator.faults.clear()
        async with house.stream("c") as events:
            house.queue.start_worker()
            await house.settled(events, "m1")
        assert (await house.queue.store.counts()).open_messages == 0
        assert await house.said_by_user("c") == ["waiting"], "what the caller was told has failed is not tried again"


# ---------------------------------------------------------------- leaving early


async def test_leaving_early_cancels_and_keeps_what_was_shown(direct: Open) -> None:
    async with direct(pace=FEW_WORDS) as house:
        shown = ""
        async with aclosing(house.service.stream_completion([user("[[words:2000]]")], "s")) as chunks:
            async for chunk in chunks:
                shown += text_of([chunk])
                if shown.count(" ") > 5:
                    break
        [_, said] = await house.transcript("s")
        assert isinstance(said, AssistantItem)
        assert said.interrupted
        assert said.text.startswith(shown)
        assert said.text.count(" ") < 1000
        assert await house.outcomes("s") == ["cancelled"]
        await _until(lambda: len(house.simulator.ledger.closed_by_client) == 1)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


async def test_a_plain_break_cancels_too(direct: Open) -> None:
    async with direct(pace=FEW_WORDS) as house:
        async for chunk in house.service.stream_completion([user("[[words:2000]]")], "s"):
            if chunk.type == "content":
                break
        gc.collect()
        await _until(lambda: len(house.simulator.ledger.closed_by_client) == 1)
        answer = await house.service.complete([user("and now?")], "s")
        assert "“and now?”" in answer.content
        assert await house.outcomes("s") == ["cancelled", "completed"]


async def test_a_cancelled_caller_cancels_its_call(direct: Open) -> None:
    async with direct(pace=FEW_WORDS) as house:
        calling = asyncio.ensure_future(house.service.complete([user("[[words:2000]]")], "s"))
        await _until(lambda: any(exchange.sent > 3 for exchange in house.exchanges))
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        assert await house.outcomes("s") == ["cancelled"]


async def test_closing_the_service_cancels_what_is_in_progress(direct: Open) -> None:
    async with direct(pace=FEW_WORDS) as house:
        answering = asyncio.ensure_future(house.service.complete([user("[[words:2000]]")], "s"))
        await _until(lambda: any(exchange.sent > 3 for exchange in house.exchanges))
        await house.service.close()
        answer = await answering
        assert answer.metadata.finish_reason == "cancelled"
        assert answer.content.startswith("the quick")
        with pytest.raises(ConfigurationError, match="closed"):
            await house.service.complete([user("too late")])


# ---------------------------------------------------------------- failures


async def test_an_answer_cut_off_begins_anew_and_replaces_what_was_shown(direct: Open) -> None:
    async with direct() as house:
        house.simulator.faults.append(Fault("cut", after=5))
        chunks = await house.chunks([user("[[words:12]]")], "s")
    assert [chunk for chunk in chunks if isinstance(chunk, ContentChunk) and chunk.replaces] == [
        ContentChunk("", replaces=True)
    ]
    assert text_of(chunks) == "the quick brown fox jumps over the lazy dog while seven patient"
    assert [chunk.type for chunk in chunks].count("done") == 1


async def test_retries_end_and_the_session_is_free_again(direct: Open) -> None:
    async with direct() as house:
        house.simulator.faults.append(Fault("500", times=3))
        [chunk] = await house.chunks([user("one")], "s")
        assert chunk.type == "error"
        assert isinstance(chunk.error, ModelUnavailable)
        assert len(house.exchanges) == 3
        assert "“two”" in (await house.service.complete([user("two")], "s")).content
        assert [i.kind for i in await house.transcript("s")] == ["user", "assistant"], "what failed is not remembered"
        [letter] = await house.store.dead()
        assert letter.message.text == "one"


async def test_errors_that_stay_the_same_are_not_retried(direct: Open) -> None:
    async with direct() as house:
        house.simulator.faults.append(Fault("poison"))
        with pytest.raises(ModelRefused):
            await house.service.complete([user("bad")])
        assert len(house.exchanges) == 1


async def test_a_rate_limit_is_waited_out(direct: Open) -> None:
    async with direct() as house:
        house.simulator.faults.append(Fault("429", times=2, retry_after_ms=20.0))
        assert "“hi”" in (await house.service.complete([user("hi")], "s")).content
        assert len(house.exchanges) == 3


async def test_a_model_that_has_gone_since_is_named_with_its_successor(direct: Open) -> None:
    async with direct(model="gpt-4o") as house:
        house.simulator.faults.append(Fault("model_not_found"))
        with pytest.raises(ModelGone, match="use gpt-6-luna"):
            await house.service.complete([user("hi")])


async def test_a_conversation_too_long_for_the_model_is_pruned_once(direct: Open) -> None:
    past = [message for n in range(30) for message in (user(f"question {n}"), {"role": "assistant", "content": f"{n}"})]
    async with direct() as house:
        house.simulator.faults.append(Fault("context_length_exceeded"))
        answer = await house.service.complete([*past, user("last")])
        first, second = house.exchanges
    assert "“last”" in answer.content
    assert len(first.messages) == 31
    assert 1 < len(second.messages) < 12


# ---------------------------------------------------------------- tools


LOOK = {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}


async def test_tool_calls_and_results_come_as_they_happen(direct: Open) -> None:
    async with direct() as house:
        house.service.register_tool({"type": "function", "function": LOOK, "handler": lambda _: {"seen": 7}})
        chunks = await house.chunks([user("[[comment:Looking.]] [[call:look {}]]")], "s")
    kinds = [chunk.type for chunk in chunks if chunk.type != "content"]
    assert kinds == ["tool_call", "tool_result", "done"]
    call = next(chunk.tool_call for chunk in chunks if chunk.type == "tool_call")
    result = next(chunk.tool_result for chunk in chunks if chunk.type == "tool_result")
    assert (call.name, call.arguments, result.id, json.loads(result.output)) == ("look", "{}", call.id, {"seen": 7})
    assert text_of(chunks).startswith("Looking.")


async def test_a_tool_without_a_handler_is_the_callers(direct: Open) -> None:
    asked = user("[[call:look {}]]")
    async with direct() as house:
        house.service.register_tool({"type": "function", "function": LOOK})
        first = await house.service.complete([asked])
        [call] = first.tool_calls
        assert (first.metadata.finish_reason, call.output) == ("tool_calls", None)
        written = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        done: list[dict[str, Any]] = [
            {"role": "assistant", "content": None, "tool_calls": [written]},
            {"role": "tool", "tool_call_id": call.id, "content": "a castle"},
        ]
        second = await house.service.complete([asked, *done])
    assert second.content == "look answered: a castle."
    assert second.metadata.usage.requests == 1


async def test_an_endless_loop_of_tools_ends(direct: Open) -> None:
    async with direct(max_steps=3) as house:
        house.service.register_tool({"type": "function", "function": LOOK, "handler": lambda _: "again"})
        with pytest.raises(TooManySteps):
            await house.service.complete([user("[[loop:look {}]]")], "s")
        assert len(house.exchanges) <= 4


# ---------------------------------------------------------------- limits and money


async def test_max_tokens_are_lowered_to_what_the_model_gives(direct: Open) -> None:
    async with direct(model="gpt-4o", max_tokens=20_000) as house:
        answer = await house.service.complete([user("hi")])
        assert house.bodies[0]["max_output_tokens"] == 16_384
    [warning] = answer.metadata.warnings
    assert warning.startswith("max_tokens was lowered from 20000 to 16384")


async def test_that_max_tokens_were_lowered_is_said_once_however_many_steps_there_are(direct: Open) -> None:
    async with direct(model="gpt-4o", max_tokens=20_000) as house:
        house.service.register_tool({"type": "function", "function": LOOK, "handler": lambda _: "there"})
        answer = await house.service.complete([user("[[call:look {}]] and tell")])
        assert len(house.exchanges) > 1
    assert len(answer.metadata.warnings) == 1


async def test_max_tokens_are_lowered_to_what_the_window_leaves(direct: Open, tmp_path: Path) -> None:
    facts = tmp_path / "facts.toml"
    facts.write_text('[models."small"]\ncontext = 1000\noutput = 900\n[prices."small"]\ninput = 1\noutput = 1\n')
    async with direct(model="small", max_tokens=900, price_file=facts, model_api="responses") as house:
        await house.service.complete([user("hello " * 300)])
        sent = house.bodies[0]["max_output_tokens"]
    assert 600 < sent < 700


async def test_parameters_reach_the_model(direct: Open) -> None:
    async with direct(model="gpt-4o", max_tokens=100, temperature=0.3) as house:
        await house.service.complete([user("hi")])
        assert {"max_output_tokens": 100, "temperature": 0.3}.items() <= house.bodies[0].items()
    async with direct(model="gpt-4o", max_tokens=100, presence_penalty=0.5) as house:
        await house.service.complete([user("hi")])
        assert house.exchanges[0].surface == "chat", "penalties exist there only"
        assert {"max_completion_tokens": 100, "presence_penalty": 0.5}.items() <= house.bodies[0].items()


async def test_what_a_call_costs_is_said_or_unknown(direct: Open) -> None:
    async with direct(model="gpt-4o") as house:
        metadata = (await house.service.complete([user("hi")])).metadata
        assert metadata.cost == pytest.approx(
            (metadata.usage.input_tokens * 2.5 + metadata.usage.output_tokens * 10) / 1e6
        )
    async with direct(model="nobody-knows-it") as house:
        assert (await house.service.complete([user("hi")])).metadata.cost is None


async def test_a_spent_budget_refuses_politely(direct: Open) -> None:
    async with direct(model="gpt-4o", max_tokens=100, tenant_budget=0.0011) as house:
        await house.service.complete([user("hi")], "s")
        with pytest.raises(BudgetSpent):
            await house.service.complete([user("hi")], "s")
        assert len(house.exchanges) == 1


async def test_calls_with_and_without_a_session_spend_the_same_budget(direct: Open) -> None:
    async with direct(model="gpt-4o", max_tokens=100, tenant_budget=0.0011) as house:
        await house.service.complete([user("hi")])
        with pytest.raises(BudgetSpent):
            await house.service.complete([user("hi")], "s")
        with pytest.raises(BudgetSpent):
            await house.service.complete([user("hi")])
        assert len(house.exchanges) == 1


async def test_a_budget_without_a_price_is_refused_at_once(direct: Open) -> None:
    async with direct(model="nobody-knows-it", tenant_budget=1.0) as house:
        with pytest.raises(ConfigurationError, match="no price of nobody-knows-it is known"):
            await house.service.complete([user("hi")], "s")
