"""Both models against the simulator: whole tool loops, every dialect, every fault, and what the other side saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.asking import PROTOCOLS, ask, finish_of, items_of, text_of
from tests.patience import PATIENCE
from turnkeep.errors import (
    AnswerMalformed,
    ContextTooLong,
    CredentialsRefused,
    ModelError,
    ModelGone,
    ModelRateLimited,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    QuotaExhausted,
    UnansweredCall,
)
from turnkeep.messages import AssistantItem, CallItem, Item, OutputItem, ReasoningItem, UserItem, text_content
from turnkeep.models import Provider, open_model
from turnkeep.models.model import Began, Delta, Model, ModelRequest, StreamPart, ToolSpec
from turnkeep.models.past import pair
from turnkeep.simulator import QUIRKS, Options, Simulator, StreamPace, serve

WEATHER = ToolSpec(
    "get_weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)
LABELS = {"turnkeep_run": "run_1", "turnkeep_thread": "thread_1", "turnkeep_tenant": "Zürich & Söhne, 50%"}


class House:
    """A simulator and how to ask it."""

    def __init__(self, simulator: Simulator, url: str) -> None:
        self.simulator = simulator
        self.url = url

    def model(self, kind: Any, quirk: str = "", **settings: Any) -> Model:
        url = self.url.replace("/v1", f"/quirk/{quirk}/v1") if quirk else self.url
        settings = {"first_event_timeout": 20.0, "idle_timeout": 20.0, "api_key": "sk-simulator", **settings}
        return open_model(Provider(url, **settings), kind)

    async def ask(self, kind: str, text: str, quirk: str = "", **settings: Any) -> list[StreamPart]:
        return await ask(self.model(kind, quirk, **settings), asking(text))


def asking(text: str, *more: Item, **fields: Any) -> ModelRequest:
    items = [UserItem(text_content(text)), *more]
    return ModelRequest("gpt-6-luna", items, **{"tools": (WEATHER,), "labels": LABELS, **fields})


@pytest.fixture
async def house() -> AsyncIterator[House]:
    simulator = Simulator(seed=11, options=Options(split=True, keep_bodies=True))
    async with serve(simulator) as url:
        yield House(simulator, url)


# ---------------------------------------------------------------- answers


@PROTOCOLS
async def test_an_answer_is_streamed_whole_and_counted(house: House, kind: str) -> None:
    parts = await house.ask(kind, "[[say:Grüß Gott 👋🏽, 世界 and more]]")
    assert isinstance(parts[0], Began)
    assert parts[0].request_id is not None
    assert text_of(parts) == "Grüß Gott 👋🏽, 世界 and more"
    assert items_of(parts) == [AssistantItem(text_of(parts), phase=said_phase(parts))]
    finish = finish_of(parts)
    assert (finish.reason, finish.usage.requests, finish.usage.estimated) == ("stop", 1, 0)
    assert finish.usage.output_tokens > 0
    (exchange,) = house.simulator.ledger
    assert exchange.outcome == "completed"
    assert (exchange.run, exchange.thread, exchange.tenant) == tuple(LABELS.values())


def said_phase(parts: list[StreamPart]) -> str | None:
    (item,) = items_of(parts)
    assert isinstance(item, AssistantItem)
    return item.phase


@PROTOCOLS
async def test_a_tool_loop_goes_to_its_end_on_replayed_items(house: House, kind: str) -> None:
    """Reasoning, two calls at once, their outputs, the answer: every request is complete in itself."""
    request = asking("[[reason]] what is the weather in Paris and Oslo?", parameters={"reasoning": {"effort": "low"}})
    model = house.model(kind)
    parts: list[StreamPart] = []
    for _ in range(4):
        parts = [part async for part in model.stream(request)]
        items = items_of(parts)
        outputs = [OutputItem(item.call_id, f"sunny {item.call_id}") for item in items if isinstance(item, CallItem)]
        request = replace(request, items=pair([*request.items, *items, *outputs]))
        if finish_of(parts).reason == "stop":
            break
    await model.close()
    calls = [item for item in request.items if isinstance(item, CallItem)]
    assert [call.arguments for call in calls] == ['{"city":"Paris"}', '{"city":"Oslo"}']
    assert all(f"sunny {call.call_id}" in text_of(parts) for call in calls)
    assert any(isinstance(item, ReasoningItem) for item in request.items) == (kind != "chat")
    assert [exchange.outcome for exchange in house.simulator.ledger] == ["completed"] * 2


@PROTOCOLS
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[refuse:I will not.]]", "refusal"),
        ("[[words:40]] [[length:5]]", "length"),
        ("[[words:40]] [[filter:5]]", "filter"),
        ("[[call:get_weather {}]]", "calls"),
    ],
)
async def test_an_answer_ends_for_the_reason_that_it_ended(house: House, kind: str, text: str, reason: str) -> None:
    parts = await house.ask(kind, text)
    if kind == "anthropic" and reason == "filter":  # has one word for both
        reason = "refusal"
    assert finish_of(parts).reason == reason
    if reason in ("length", "filter"):
        assert [item.interrupted for item in items_of(parts) if isinstance(item, AssistantItem)] == [True]


# ---------------------------------------------------------------- dialects

BROKEN = {"gateway": ModelError, "dropped": AnswerMalformed}


DIALECTS = [
    (kind, name)
    for name, quirk in QUIRKS.items()
    for kind in ("chat", "responses")
    if name not in BROKEN and (kind == "chat" or quirk.responses)
]


@pytest.mark.parametrize(("kind", "quirk"), DIALECTS)
async def test_every_dialect_says_the_same(house: House, kind: str, quirk: str) -> None:
    settings: dict[str, Any] = {"api_key": "other"}
    if quirk == "strict":
        settings["capabilities"] = {"takes_stream_options": False, "takes_metadata": False, "takes_store": False}
    said = await house.ask(kind, "[[say:one two three]]", quirk, **settings)
    assert text_of(said) == "one two three"
    assert finish_of(said).reason == "stop"
    both = '[[call:get_weather {"city":"Oslo"}]] [[call:get_weather {"city":"Rome"}]]'
    asked = await house.ask(kind, both, quirk, **settings)
    calls = [item for item in items_of(asked) if isinstance(item, CallItem)]
    assert [call.arguments.replace(" ", "") for call in calls] == ['{"city":"Oslo"}', '{"city":"Rome"}']
    assert len({call.call_id for call in calls}) == 2
    assert finish_of(asked).reason == "calls"


@pytest.mark.parametrize("quirk", sorted(BROKEN))
async def test_a_broken_dialect_is_a_failure(house: House, quirk: str) -> None:
    with pytest.raises(BROKEN[quirk]):
        await house.ask("chat", "hello", quirk, api_key="other")


# ---------------------------------------------------------------- faults

FAULTS: list[tuple[str, type[ModelError]]] = [
    ("429 retry_after=3", ModelRateLimited),
    ("429 code=slow_down", ModelRateLimited),
    ("quota", QuotaExhausted),
    ("429 code=credit_balance_exhausted", QuotaExhausted),
    ("500", ModelUnavailable),
    ("503", ModelUnavailable),
    ("401", CredentialsRefused),
    ("403", CredentialsRefused),
    ("model_not_found", ModelGone),
    ("context_length_exceeded", ContextTooLong),
    ("conversation_locked", ModelRateLimited),
    ("poison", ModelRefused),
    ("refuse", ModelUnavailable),
    ("html", AnswerMalformed),
    ("html status=502", ModelUnavailable),
    ("lost", ModelUnavailable),
    ("cut after=3", ModelUnavailable),
    ("cut after=3 how=reset", ModelUnavailable),
    ("truncate after=3", AnswerMalformed),
    ("garbage after=3", AnswerMalformed),
    ("hang", ModelTimedOut),
    ("stall after=3", ModelTimedOut),
    ("error after=3 code=server_error", ModelUnavailable),
    ("error after=3 code=rate_limit_exceeded", ModelRateLimited),
    ("failed after=3 code=insufficient_quota", QuotaExhausted),
    ("early-error code=context_length_exceeded", ContextTooLong),
    ("early-error code=insufficient_quota", QuotaExhausted),
]


@pytest.mark.daily(rows=3)  # each fault by one of the protocols
@PROTOCOLS
@pytest.mark.parametrize(("fault", "error"), FAULTS, ids=[name for name, _ in FAULTS])
async def test_every_fault_is_raised_as_what_it_means(
    house: House, kind: str, fault: str, error: type[ModelError]
) -> None:
    patience: dict[str, Any] = {}
    if error is ModelTimedOut:
        patience = {"first_event_timeout": 0.4, "idle_timeout": 0.4}
    with pytest.raises(error) as caught:
        await house.ask(kind, f"[[words:9]] [[fault:{fault}]]", **patience)
    assert type(caught.value) is error
    if "retry_after" in fault:
        assert caught.value.retry_after == 3.0
    assert len(house.simulator.ledger) == 1, "nothing is sent twice"


@PROTOCOLS
@pytest.mark.parametrize("fault", ["unknown after=3", "late"])
async def test_what_is_strange_but_harmless_changes_nothing(house: House, kind: str, fault: str) -> None:
    parts = await house.ask(kind, f"[[say:one two three]] [[fault:{fault}]]")
    assert text_of(parts) == "one two three"
    assert finish_of(parts).reason == "stop"


@PROTOCOLS
async def test_an_unpaired_request_is_refused_as_one_and_the_paired_one_is_answered(house: House, kind: str) -> None:
    request = asking("hello", CallItem("call_1", "get_weather", "{}"), UserItem(text_content("and?")))
    with pytest.raises(UnansweredCall):
        await ask(house.model(kind), request)
    parts = await ask(house.model(kind), replace(request, items=pair(request.items)))
    assert finish_of(parts).reason == "stop"


# ---------------------------------------------------------------- leaving


@PROTOCOLS
async def test_the_other_side_sees_at_once_that_the_reader_left(house: House, kind: str) -> None:
    house.simulator.pace = StreamPace(token=0.05)
    model = house.model(kind)
    async with aclosing(model.stream(asking("[[words:2000]]"))) as stream:
        async for part in stream:
            if isinstance(part, Delta):
                break
    async with asyncio.timeout(PATIENCE):
        while not house.simulator.ledger.closed_by_client:
            await asyncio.sleep(0.01)
    await model.close()
    (exchange,) = house.simulator.ledger
    assert exchange.outcome == "closed_by_client"


@PROTOCOLS
async def test_many_streams_at_once_do_not_mix(house: House, kind: str) -> None:
    model = house.model(kind)

    async def one(number: int) -> str:
        text = f"answer number {number} of forty"
        return text_of([part async for part in model.stream(asking(f"[[say:{text}]]"))])

    said = await asyncio.gather(*(one(number) for number in range(40)))
    await model.close()
    assert said == [f"answer number {number} of forty" for number in range(40)]
