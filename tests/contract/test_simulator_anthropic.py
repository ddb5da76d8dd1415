"""Anthropic's official client works against the simulator as against the platform."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.late_import import late_import
from turnkeep.simulator import Fault, Simulator, serve
from turnkeep.testing.fake_clock import FakeClock

if TYPE_CHECKING:
    import anthropic
else:
    anthropic = late_import("anthropic")  # takes a second to load

pytestmark = pytest.mark.xdist_group("anthropic")  # they share what was loaded

MODEL = "claude-sonnet-5-5"
OLDER = "claude-haiku-4-5"
WEATHER: Any = {
    "name": "get_weather",
    "description": "Weather",
    "input_schema": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}


class Bench:
    def __init__(self, simulator: Simulator, client: anthropic.AsyncAnthropic) -> None:
        self.simulator, self.client = simulator, client

    async def ask(self, *said: Any, **more: Any) -> anthropic.types.Message:
        """Whole turns, the user's first; a text or blocks each."""
        roles = ("user", "assistant")
        messages: Any = [{"role": roles[at % 2], "content": content} for at, content in enumerate(said)]
        settings: dict[str, Any] = {"model": MODEL, "max_tokens": 4096, **more}
        message: anthropic.types.Message = await self.client.messages.create(messages=messages, **settings)
        return message

    async def failure(self, *said: Any, **more: Any) -> anthropic.APIStatusError:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await self.ask(*said, **more)
        return caught.value


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    simulator = Simulator(seed=1, clock=FakeClock())
    async with (
        serve(simulator) as url,
        anthropic.AsyncAnthropic(
            base_url=url.removesuffix("/v1"), api_key="sk-ant-test", auth_token=None, max_retries=0, timeout=30
        ) as client,
    ):
        yield Bench(simulator, client)


def kinds(message: anthropic.types.Message) -> list[str]:
    return [block.type for block in message.content]


def result(call: Any, text: str) -> Any:
    return {"type": "tool_result", "tool_use_id": call.id, "content": text}


async def test_an_answer_whole(bench: Bench) -> None:
    message = await bench.ask("hello")
    assert isinstance(message.content[0], anthropic.types.TextBlock)
    assert "hello" in message.content[0].text
    assert (message.stop_reason, message.model, message.role) == ("end_turn", MODEL, "assistant")
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


async def test_a_streamed_answer_is_the_whole_one(bench: Bench) -> None:
    text = ""
    messages: Any = [{"role": "user", "content": "[[words:30]]"}]
    async with bench.client.messages.stream(model=MODEL, max_tokens=4096, messages=messages) as stream:
        async for piece in stream.text_stream:
            text += piece
        final = await stream.get_final_message()
    assert len(text.split()) == 30
    assert isinstance(final.content[0], anthropic.types.TextBlock)
    assert final.content[0].text == text
    assert final.usage.output_tokens == 30


async def test_a_tool_loop_with_two_calls(bench: Bench) -> None:
    asked = await bench.ask("weather in Paris and Rome?", tools=[WEATHER])
    assert asked.stop_reason == "tool_use"
    assert [call.input for call in asked.content] == [{"location": "Paris"}, {"location": "Rome"}]  # type: ignore[union-attr]
    results = [result(call, f"{n} degrees") for n, call in enumerate(asked.content)]
    told = await bench.ask("weather in Paris and Rome?", asked.content, results, tools=[WEATHER])
    assert isinstance(told.content[0], anthropic.types.TextBlock)
    assert "0 degrees" in told.content[0].text
    assert "1 degrees" in told.content[0].text


async def test_a_streamed_call_has_its_arguments(bench: Bench) -> None:
    messages: Any = [{"role": "user", "content": "weather in Oslo"}]
    async with bench.client.messages.stream(model=MODEL, max_tokens=4096, messages=messages, tools=[WEATHER]) as stream:
        final = await stream.get_final_message()
    assert final.content[0].input == {"location": "Oslo"}  # type: ignore[union-attr]


async def test_thoughts_go_back_with_their_signature(bench: Bench) -> None:
    first = "[[reason:I should look.]] weather in Oslo"
    asked = await bench.ask(first, tools=[WEATHER], thinking=THINKING, model=OLDER)
    assert kinds(asked) == ["thinking", "tool_use"]
    results = [result(asked.content[1], "snow")]
    told = await bench.ask(first, asked.content, results, tools=[WEATHER], thinking=THINKING, model=OLDER)
    assert told.stop_reason == "end_turn"

    asked.content[0].thinking += "!"  # type: ignore[union-attr]
    error = await bench.failure(first, asked.content, results, tools=[WEATHER], thinking=THINKING, model=OLDER)
    assert "Invalid `signature` in `thinking` block" in error.message
    error = await bench.failure(first, asked.content[1:], results, tools=[WEATHER], thinking=THINKING, model=OLDER)
    assert "Expected `thinking` or `redacted_thinking`, but found `tool_use`" in error.message


async def test_sealed_thoughts(bench: Bench) -> None:
    message = await bench.ask(
        "ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING_46C9 hello", thinking={"type": "adaptive"}
    )
    assert kinds(message) == ["redacted_thinking", "text"]


async def test_a_search_of_the_server_and_what_it_cites(bench: Bench) -> None:
    message = await bench.ask("[[search:otters]] [[say:They hold hands.]]")
    assert kinds(message) == ["server_tool_use", "web_search_tool_result", "text"]
    said = message.content[2]
    assert isinstance(said, anthropic.types.TextBlock)
    assert said.citations is not None
    assert said.citations[0].type == "web_search_result_location"
    assert said.citations[0].url == "https://simulator.example/otters"
    assert message.usage.server_tool_use is not None
    assert message.usage.server_tool_use.web_search_requests == 1


async def test_a_pause_is_gone_on_with(bench: Bench) -> None:
    said = "[[search:otters]] [[pause]] [[say:They hold hands.]]"
    paused = await bench.ask(said)
    assert (paused.stop_reason, kinds(paused)) == ("pause_turn", ["server_tool_use"])
    rest = await bench.ask(said, paused.content)
    assert (rest.stop_reason, kinds(rest)) == ("end_turn", ["text"])


async def test_what_was_marked_is_read_from_the_cache_for_five_minutes(bench: Bench) -> None:
    marked: Any = [{"type": "text", "text": "rules " * 500, "cache_control": {"type": "ephemeral"}}]
    first = (await bench.ask("one", system=marked)).usage
    again = (await bench.ask("two", system=marked)).usage
    assert first.cache_creation_input_tokens == again.cache_read_input_tokens
    assert first.cache_creation_input_tokens
    assert (first.cache_read_input_tokens, again.cache_creation_input_tokens) == (0, 0)
    assert isinstance(bench.simulator.clock, FakeClock)
    bench.simulator.clock.advance(301)
    assert (await bench.ask("three", system=marked)).usage.cache_read_input_tokens == 0


async def test_tokens_are_counted_without_an_answer(bench: Bench) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    counted = await bench.client.messages.count_tokens(model=MODEL, messages=messages)
    assert counted.input_tokens > 0


async def test_the_models_are_listed(bench: Bench) -> None:
    assert MODEL in [model.id async for model in bench.client.models.list()]


async def test_a_limit_cuts_and_a_refusal_refuses(bench: Bench) -> None:
    assert (await bench.ask("[[words:30]]", max_tokens=5)).stop_reason == "max_tokens"
    refused = await bench.ask("[[refuse:No.]]")
    assert refused.stop_reason == "refusal"
    assert refused.stop_details is not None


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault("429", retry_after=7), "RateLimitError", "Rate limit"),
        (Fault("529"), "OverloadedError", "Overloaded"),
        (Fault("401"), "AuthenticationError", "invalid x-api-key"),
        (Fault("quota"), "BadRequestError", "credit balance is too low"),
        (Fault("context_length_exceeded"), "BadRequestError", "prompt is too long"),
        (Fault("model_not_found"), "NotFoundError", f"model: {MODEL}"),
        (Fault("500"), "InternalServerError", "told to answer 500"),
    ],
)
async def test_errors_in_the_words_of_the_platform(bench: Bench, fault: Fault, kind: str, words: str) -> None:
    bench.simulator.faults.append(fault)
    error = await bench.failure("hello")
    assert isinstance(error, getattr(anthropic, kind))
    assert words in error.message
    assert error.request_id
    if fault.retry_after:
        assert error.response.headers["retry-after"] == "7"


async def test_an_error_within_the_stream(bench: Bench) -> None:
    bench.simulator.faults.append(Fault("error", code="overloaded_error", message="Overloaded", after=2))
    messages: Any = [{"role": "user", "content": "[[words:30]]"}]
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        async with bench.client.messages.stream(model=MODEL, max_tokens=4096, messages=messages) as stream:
            await stream.get_final_message()


CALL: Any = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT: Any = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
MARKED: Any = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    ("said", "more", "words"),
    [
        (["hi", [CALL], "and now?"], {}, "`tool_use` ids were found without `tool_result` blocks immediately after"),
        (["hi", "hello", [RESULT]], {}, "unexpected `tool_use_id` found in `tool_result` blocks: toolu_1"),
        (["hi", [{**CALL, "id": "functions.f:0"}], [RESULT]], {}, "tool_use.id: String should match pattern"),
        (["hi", "", "again"], {}, "text content blocks must be non-empty"),
        ([" "], {}, "text content blocks must contain non-whitespace text"),
        (["hi", "so"], {}, "does not support assistant message prefill"),
        ([[MARKED] * 5], {}, "A maximum of 4 blocks with cache_control may be provided. Found 5."),
        (["hi"], {"max_tokens": 512, "thinking": THINKING, "model": OLDER}, "`max_tokens` must be greater than"),
        (["hi"], {"thinking": THINKING}, '"thinking.type.enabled" is not supported for this model'),
        (["hi"], {"extra_body": {"temperature": 1}}, "temperature: Extra inputs are not permitted"),
        (["hi"], {"extra_body": {"store": False}}, "store: Extra inputs are not permitted"),
    ],
)
async def test_what_the_platform_refuses_is_refused_in_its_words(
    bench: Bench, said: list[Any], more: dict[str, Any], words: str
) -> None:
    error = await bench.failure(*said, **more)
    assert isinstance(error, anthropic.BadRequestError)
    assert words in error.message
    assert error.type == "invalid_request_error"
