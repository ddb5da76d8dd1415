"""The official client works against the simulator as against the platform."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import ResponseFunctionToolCall

from tests.patience import PATIENCE
from turnkeep.simulator import Fault, Options, Simulator, StreamPace, serve
from turnkeep.testing.fake_clock import FakeClock

MODEL = "gpt-4o-mini"
PARAMETERS = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
WEATHER: Any = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": PARAMETERS}
CHAT_WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}


@dataclass
class Bench:
    simulator: Simulator
    client: AsyncOpenAI
    url: str

    def options(self, **changes: Any) -> None:
        self.simulator.options = self.simulator.options.but(changes)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    simulator = Simulator(seed=1, clock=FakeClock())
    async with (
        serve(simulator) as url,
        AsyncOpenAI(base_url=url, api_key="sk-test", max_retries=0, timeout=30) as client,
    ):
        yield Bench(simulator, client, url)


async def failure(bench: Bench, text: str, **more: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await bench.client.responses.create(model=MODEL, input=text, **more)
    return caught.value


# ---------------------------------------------------------------- responses


async def test_an_answer_whole(bench: Bench) -> None:
    response = await bench.client.responses.create(model=MODEL, input="hello", metadata={"a": "b"})
    assert "hello" in response.output_text
    assert (response.status, response.model, response.metadata) == ("completed", MODEL, {"a": "b"})
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


async def test_an_answer_streamed(bench: Bench) -> None:
    numbers, text = [], ""
    stream = await bench.client.responses.create(model=MODEL, input="hello", stream=True)
    async for event in stream:
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            text += event.delta
    assert numbers == list(range(len(numbers)))
    assert event.type == "response.completed"
    assert event.response.output_text == text


async def test_the_stream_helper_accumulates(bench: Bench) -> None:
    async with bench.client.responses.stream(model=MODEL, input="[[reason]] [[words:30]]") as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert len(final.output_text.split()) == 30
    assert [item.type for item in final.output] == ["reasoning", "message"]


async def test_a_tool_loop_by_chain(bench: Bench) -> None:
    asked = await bench.client.responses.create(model=MODEL, input="weather in Paris and Rome?", tools=[WEATHER])
    calls = [item for item in asked.output if isinstance(item, ResponseFunctionToolCall)]
    assert [call.arguments for call in calls] == ['{"location":"Paris"}', '{"location":"Rome"}']
    outputs: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{n} degrees"}
        for n, call in enumerate(calls)
    ]
    told = await bench.client.responses.create(
        model=MODEL, previous_response_id=asked.id, input=outputs, tools=[WEATHER]
    )
    assert "0 degrees" in told.output_text
    assert "1 degrees" in told.output_text


async def test_a_tool_loop_by_replay(bench: Bench) -> None:
    history: list[Any] = [{"role": "user", "content": "[[reason]] weather in Oslo"}]
    asked = await bench.client.responses.create(model=MODEL, input=history, tools=[WEATHER], store=False)
    assert asked.output[0].type == "reasoning"
    assert asked.output[0].encrypted_content
    history += [item.model_dump(exclude_none=True) for item in asked.output]
    call = asked.output[1]
    assert isinstance(call, ResponseFunctionToolCall)
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "snow"})
    told = await bench.client.responses.create(model=MODEL, input=history, tools=[WEATHER], store=False)
    assert "snow" in told.output_text


async def test_a_call_without_output_is_refused_in_the_known_words(bench: Bench) -> None:
    asked = await bench.client.responses.create(model=MODEL, input="[[call:f]]")
    call = asked.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    error = await failure(bench, "and now?", previous_response_id=asked.id)
    assert isinstance(error, openai.BadRequestError)
    assert error.body == {
        "message": f"No tool output found for function call {call.call_id}.",
        "type": "invalid_request_error",
        "param": "input",
        "code": None,
    }


async def test_reasoning_has_to_come_back_with_its_call(bench: Bench) -> None:
    asked = await bench.client.responses.create(model=MODEL, input="[[reason]] [[call:f]]")
    thought, call = asked.output
    items: Any = [
        {"role": "user", "content": "x"},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": getattr(call, "call_id", ""), "output": "y"},
    ]
    with pytest.raises(openai.BadRequestError, match=f"without its required 'reasoning' item: '{thought.id}'"):
        await bench.client.responses.create(model=MODEL, input=items)


async def test_instructions_are_not_inherited(bench: Bench) -> None:
    first = await bench.client.responses.create(model=MODEL, input="hi", instructions="be brief")
    second = await bench.client.responses.create(model=MODEL, input="ho", previous_response_id=first.id)
    assert (first.instructions, second.instructions) == ("be brief", None)


async def test_responses_are_kept_listed_deleted_and_expire(bench: Bench) -> None:
    create = bench.client.responses
    kept = await create.create(model=MODEL, input="one")
    assert (await create.retrieve(kept.id)).output_text == kept.output_text
    listed = await create.input_items.list(kept.id)
    assert [item.type for item in listed.data] == ["message"]
    await create.delete(kept.id)
    with pytest.raises(openai.NotFoundError):
        await create.retrieve(kept.id)
    old = await create.create(model=MODEL, input="two")
    assert isinstance(bench.simulator.clock, FakeClock)
    bench.simulator.clock.advance(31 * 86400)
    error = await failure(bench, "three", previous_response_id=old.id)
    assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")


async def test_what_is_not_stored_cannot_be_continued(bench: Bench) -> None:
    loose = await bench.client.responses.create(model=MODEL, input="one", store=False)
    error = await failure(bench, "two", previous_response_id=loose.id)
    assert error.code == "previous_response_not_found"


async def test_tokens_are_counted_and_inputs_compacted(bench: Bench) -> None:
    counted = await bench.client.responses.input_tokens.count(model=MODEL, input="hello")
    whole = await bench.client.responses.create(model=MODEL, input="hello")
    assert whole.usage is not None
    assert counted.input_tokens == whole.usage.input_tokens
    compacted = await bench.client.responses.compact(model=MODEL, input="hello")
    assert [item.type for item in compacted.output] == ["message", "compaction"]


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter", "max_messages"])
async def test_incomplete_answers(bench: Bench, reason: str) -> None:
    response = await bench.client.responses.create(model=MODEL, input=f"[[incomplete:{reason}]]")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == reason


async def test_a_structured_answer_is_parsed(bench: Bench) -> None:
    from pydantic import BaseModel

    class Trip(BaseModel):
        city: str
        days: int

    parsed = await bench.client.responses.parse(model=MODEL, input="5 days", text_format=Trip)
    assert parsed.output_parsed == Trip(city="5 days", days=5)


# ---------------------------------------------------------------- conversations


async def test_a_conversation_grows_with_its_responses(bench: Bench) -> None:
    conversations = bench.client.conversations
    talk = await conversations.create(metadata={"k": "v"}, items=[{"role": "user", "content": "my name is Ada"}])
    await bench.client.responses.create(model=MODEL, input="hello", conversation=talk.id)
    answer = await bench.client.responses.create(model=MODEL, input="what is my name?", conversation=talk.id)
    assert answer.output_text == "Your name is Ada."
    newest = await conversations.items.list(talk.id, limit=2)
    assert [getattr(item, "role", None) for item in newest.data] == ["assistant", "user"]
    everything = [item async for item in conversations.items.list(talk.id, limit=2, order="asc")]
    assert [getattr(item, "role", None) for item in everything] == ["user", "user", "assistant", "user", "assistant"]
    assert (await conversations.update(talk.id, metadata={"k": "w"})).metadata == {"k": "w"}
    first = everything[0].id
    assert first is not None
    await conversations.items.delete(first, conversation_id=talk.id)
    with pytest.raises(openai.NotFoundError):
        await conversations.items.retrieve(first, conversation_id=talk.id)
    await conversations.delete(talk.id)
    with pytest.raises(openai.NotFoundError):
        await conversations.retrieve(talk.id)


async def test_at_most_twenty_items_at_once(bench: Bench) -> None:
    items: Any = [{"role": "user", "content": str(n)} for n in range(21)]
    with pytest.raises(openai.BadRequestError) as caught:
        await bench.client.conversations.create(items=items)
    assert caught.value.code == "array_above_max_length"
    talk = await bench.client.conversations.create(items=items[:20])
    with pytest.raises(openai.BadRequestError):
        await bench.client.conversations.items.create(talk.id, items=items)


async def test_the_lock_of_a_conversation(bench: Bench) -> None:
    talk = await bench.client.conversations.create()
    bench.simulator.pace = StreamPace(token=1.0)
    bench.options(lock_release_delay=5)
    stream = await bench.client.responses.create(model=MODEL, input="first", conversation=talk.id, stream=True)
    error = await failure(bench, "second", conversation=talk.id)
    assert error.status_code == 400
    assert error.body == {
        "message": "Another process is currently operating on this conversation. Please retry in a few seconds.",
        "type": "invalid_request_error",
        "param": "conversation",
        "code": "conversation_locked",
    }
    clock = bench.simulator.clock
    assert isinstance(clock, FakeClock)
    while bench.simulator.ledger.open_count:
        await clock.run(1.0)
    await _read(stream)
    assert (await failure(bench, "third", conversation=talk.id)).code == "conversation_locked"
    clock.advance(5)
    bench.simulator.pace = StreamPace()
    await bench.client.responses.create(model=MODEL, input="fourth", conversation=talk.id)


@pytest.mark.parametrize(("mode", "kinds"), [("discard", []), ("orphan", ["message", "function_call"]), ("finish", 3)])
async def test_three_ends_of_an_aborted_stream(bench: Bench, mode: str, kinds: Any) -> None:
    bench.options(on_abort=mode)
    talk = await bench.client.conversations.create()
    bench.simulator.pace = StreamPace(token=1.0)
    clock = bench.simulator.clock
    assert isinstance(clock, FakeClock)
    text = '[[call:f {"a": "a long argument"}]] [[call:g {"a": "a long argument"}]]'
    stream = await bench.client.responses.create(model=MODEL, input=text, conversation=talk.id, stream=True)
    await clock.run(1.0)  # the first call is written, the second has begun
    response_id = ""
    async for event in stream:
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.output_item.done":
            break
    await stream.close()
    await _quiet(bench)
    await clock.run(60.0)
    listed = await bench.client.conversations.items.list(talk.id, order="asc")
    found = [item.type for item in listed.data]
    assert found == (["message", "function_call", "function_call"] if kinds == 3 else kinds)
    status = (await bench.client.responses.retrieve(response_id)).status
    assert status == ("cancelled" if mode == "orphan" else "completed")


async def test_items_appear_after_a_lag(bench: Bench) -> None:
    bench.options(persistence_lag=2)
    talk = await bench.client.conversations.create()
    await bench.client.responses.create(model=MODEL, input="x", conversation=talk.id)
    assert (await bench.client.conversations.items.list(talk.id)).data == []
    assert isinstance(bench.simulator.clock, FakeClock)
    bench.simulator.clock.advance(2)
    assert len((await bench.client.conversations.items.list(talk.id)).data) == 2


# ---------------------------------------------------------------- background


async def test_a_background_response_runs_by_itself(bench: Bench) -> None:
    bench.options(queue_delay=5)
    made = await bench.client.responses.create(model=MODEL, input="long work", background=True)
    assert made.status == "queued"
    clock = bench.simulator.clock
    assert isinstance(clock, FakeClock)
    await clock.run(5.0)
    await _quiet(bench)
    done = await bench.client.responses.retrieve(made.id)
    assert done.status == "completed"
    assert "long work" in done.output_text


async def test_a_background_stream_is_resumed_after_a_cut(bench: Bench) -> None:
    text = "[[words:20]] [[fault:cut after=5]]"
    stream = await bench.client.responses.create(model=MODEL, input=text, background=True, stream=True)
    seen: list[Any] = []
    with pytest.raises(openai.APIConnectionError):
        await _collect(stream, seen)
    made = seen[0].response.id
    last = seen[-1].sequence_number
    await _collect(await bench.client.responses.retrieve(made, stream=True, starting_after=last), seen)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    assert "".join(getattr(e, "delta", "") for e in seen) == seen[-1].response.output_text


async def test_a_stream_is_too_old_after_five_minutes(bench: Bench) -> None:
    made = await bench.client.responses.create(model=MODEL, input="x", background=True, stream=True)
    (first, *_) = [event async for event in made]
    assert first.type == "response.created"
    assert isinstance(bench.simulator.clock, FakeClock)
    bench.simulator.clock.advance(301)
    with pytest.raises(openai.BadRequestError, match="more than 5 minutes old"):
        await bench.client.responses.retrieve(first.response.id, stream=True)


async def test_a_background_response_is_cancelled_once_and_for_all(bench: Bench) -> None:
    bench.simulator.pace = StreamPace(token=1.0)
    made = await bench.client.responses.create(model=MODEL, input="[[words:500]]", background=True)
    assert (await bench.client.responses.cancel(made.id)).status == "cancelled"
    assert (await bench.client.responses.cancel(made.id)).status == "cancelled"
    assert (await bench.client.responses.retrieve(made.id)).status == "cancelled"
    assert [exchange.outcome for exchange in bench.simulator.ledger] == ["cancelled"]


async def test_only_background_responses_can_be_cancelled_or_resumed(bench: Bench) -> None:
    made = await bench.client.responses.create(model=MODEL, input="x")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await bench.client.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError, match="cannot be streamed"):
        await bench.client.responses.retrieve(made.id, stream=True)


async def test_no_background_in_europe(bench: Bench) -> None:
    bench.options(region="eu")
    assert (await failure(bench, "x", background=True)).param == "background"


# ---------------------------------------------------------------- chat


async def test_chat_whole_and_streamed(bench: Bench) -> None:
    create = bench.client.chat.completions.create
    whole = await create(model=MODEL, messages=[{"role": "user", "content": "hello"}])
    text, usage = "", None
    stream = await create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content
    assert usage == whole.usage


async def test_a_chat_tool_loop(bench: Bench) -> None:
    create = bench.client.chat.completions.create
    messages: list[Any] = [{"role": "user", "content": "weather in Paris and Rome"}]
    asked = await create(model=MODEL, messages=messages, tools=[CHAT_WEATHER])
    assert asked.choices[0].finish_reason == "tool_calls"
    messages.append(asked.choices[0].message.model_dump(exclude_none=True))
    with pytest.raises(openai.BadRequestError, match="must be followed by tool messages"):
        await create(model=MODEL, messages=[*messages, {"role": "user", "content": "x"}], tools=[CHAT_WEATHER])
    for call in asked.choices[0].message.tool_calls or ():
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"warm {call.id}"})
    told = await create(model=MODEL, messages=messages, tools=[CHAT_WEATHER])
    assert all(message["content"] in (told.choices[0].message.content or "") for message in messages[2:])


async def test_the_chat_helper_accumulates_calls(bench: Bench) -> None:
    messages: list[Any] = [{"role": "user", "content": '[[call:f {"a": 1}]] [[call:g {"b": 2}]]'}]
    async with bench.client.chat.completions.stream(model=MODEL, messages=messages) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == [("f", '{"a": 1}'), ("g", '{"b": 2}')]


async def test_quirks_have_their_own_address(bench: Bench) -> None:
    async with bench.client.with_options(base_url=bench.url.replace("/v1", "/quirk/no-usage/v1")) as strange:
        whole = await strange.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    assert whole.usage is None


async def test_a_stateless_server_refuses_state(bench: Bench) -> None:
    bench.options(quirk="openrouter")
    assert (await failure(bench, "x", store=True)).code == "unsupported_parameter"


async def test_metadata_may_need_store(bench: Bench) -> None:
    bench.options(metadata_needs_store=True)
    with pytest.raises(openai.BadRequestError, match="only allowed when 'store' is enabled"):
        await bench.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], metadata={"a": "b"}
        )


async def test_models_have_an_end(bench: Bench) -> None:
    models = {model.id: model async for model in bench.client.models.list()}
    assert models["gpt-4o-mini"].shutdown_date == "2027-01-14"
    assert models["gpt-6-luna"].shutdown_date is None
    assert (await bench.client.models.retrieve("gpt-6-luna")).id == "gpt-6-luna"
    with pytest.raises(openai.NotFoundError):
        await bench.client.models.retrieve("gpt-1")


# ---------------------------------------------------------------- errors


@pytest.mark.daily(rows=3)  # each is tried by our own client, too
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("400", openai.BadRequestError),
        ("401", openai.AuthenticationError),
        ("403", openai.PermissionDeniedError),
        ("404", openai.NotFoundError),
        ("409", openai.ConflictError),
        ("422", openai.UnprocessableEntityError),
        ("429", openai.RateLimitError),
        ("quota", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("503", openai.InternalServerError),
        ("model_not_found", openai.NotFoundError),
        ("context_length_exceeded", openai.BadRequestError),
        ("refuse", openai.APIConnectionError),
        ("lost", openai.APIConnectionError),
        ("cut", openai.APIConnectionError),
    ],
)
@pytest.mark.parametrize("surface", ["responses", "chat"])
async def test_faults_are_the_clients_exceptions(
    bench: Bench, surface: str, kind: str, error: type[openai.APIError]
) -> None:
    bench.simulator.faults.append(Fault(kind))
    asking: Any = bench.client.responses.create(model=MODEL, input="x")
    if surface == "chat":
        asking.close()
        asking = bench.client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    with pytest.raises(error):
        await asking


async def test_a_hang_is_a_timeout(bench: Bench) -> None:
    bench.simulator.faults.append(Fault("hang"))
    with pytest.raises(openai.APITimeoutError):
        await bench.client.with_options(timeout=0.2).responses.create(model=MODEL, input="x")
    await _quiet(bench)
    assert [exchange.fault for exchange in bench.simulator.ledger.closed_by_client] == ["hang"]


async def test_rate_limits_carry_their_headers(bench: Bench) -> None:
    bench.simulator.faults.append(Fault("429", code="slow_down", retry_after=3))
    error = await failure(bench, "x")
    assert (error.code, error.type) == ("slow_down", "rate_limit_error")
    assert error.response.headers["retry-after"] == "3"
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.request_id
    raw = await bench.client.responses.with_raw_response.create(model=MODEL, input="x")
    assert int(raw.headers["x-ratelimit-remaining-requests"]) > 0


async def test_the_clients_own_retries_are_seen(bench: Bench) -> None:
    bench.simulator.faults.append(Fault("500", times=2, headers={"retry-after-ms": "1"}))
    patient = bench.client.with_options(max_retries=2)
    assert (await patient.responses.create(model=MODEL, input="x")).status == "completed"
    assert [exchange.status for exchange in bench.simulator.ledger] == [500, 500, 200]
    bench.simulator.faults.append(Fault("500", headers={"x-should-retry": "false"}))
    with pytest.raises(openai.InternalServerError):
        await patient.responses.create(model=MODEL, input="y")
    assert len(bench.simulator.ledger) == 4


async def test_requests_per_minute_are_limited(bench: Bench) -> None:
    bench.options(requests_per_minute=2)
    for _ in range(2):
        await bench.client.responses.create(model=MODEL, input="x")
    error = await failure(bench, "x")
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    assert isinstance(bench.simulator.clock, FakeClock)
    bench.simulator.clock.advance(60)
    await bench.client.responses.create(model=MODEL, input="x")


async def test_keys_are_checked_where_some_are_given(bench: Bench) -> None:
    bench.options(api_keys=["sk-test"])
    await bench.client.responses.create(model=MODEL, input="x")
    async with bench.client.with_options(api_key="sk-other") as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.responses.create(model=MODEL, input="x")
    assert caught.value.code == "invalid_api_key"


async def test_context_has_a_length(bench: Bench) -> None:
    bench.options(context_tokens=50)
    await bench.client.responses.create(model=MODEL, input="short")
    error = await failure(bench, "long " * 100)
    assert (error.status_code, error.code) == (400, "context_length_exceeded")
    await bench.client.responses.create(model=MODEL, input="long " * 100, truncation="auto")


async def test_failures_within_a_stream(bench: Bench) -> None:
    async def last(text: str) -> Any:
        stream = await bench.client.responses.create(model=MODEL, input=text, stream=True)
        return [event async for event in stream][-1]

    assert (await last("a [[fault:failed code=server_error]]")).type == "response.failed"
    error = await last("b [[fault:error code=rate_limit_exceeded after=2]]")
    assert (error.type, error.code) == ("error", "rate_limit_exceeded")
    early = await last("c [[fault:early-error code=insufficient_quota]]")
    assert (early.type, early.response.error.code) == ("response.failed", "insufficient_quota")
    assert (await last("d [[fault:truncate after=2]]")).type == "response.output_text.delta"
    assert (await last("e [[fault:unknown]]")).type == "response.completed"
    assert [exchange.outcome for exchange in bench.simulator.ledger] == [
        *("failed", "failed", "failed", "truncated", "completed")
    ]


async def test_chat_errors_within_a_stream_are_raised(bench: Bench) -> None:
    text = "x [[fault:error code=server_error after=1]]"
    stream = await bench.client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], stream=True
    )
    with pytest.raises(openai.APIError) as caught:
        await _read(stream)
    assert caught.value.code == "server_error"


async def test_split_streams_read_the_same() -> None:
    text = "[[say:ünïcödé 🎈 twice]]"
    async with (
        serve(Simulator(seed=5, options=Options(split=True))) as url,
        AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client,
    ):
        stream = await client.responses.create(model=MODEL, input=text, stream=True)
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "ünïcödé 🎈 twice"


async def _read(stream: Any) -> None:
    async for _ in stream:
        pass


async def _collect(stream: Any, seen: list[Any]) -> None:
    async for event in stream:
        seen.append(event)


async def _quiet(bench: Bench) -> None:
    async with asyncio.timeout(PATIENCE):
        await bench.simulator.ledger.quiet()


async def test_a_search_of_the_provider_and_what_it_cites(bench: Bench) -> None:
    response = await bench.client.responses.create(model=MODEL, input="[[search:otters]] [[say:They hold hands.]]")
    assert [item.type for item in response.output] == ["web_search_call", "message"]
    cited: Any = response.output[1]
    assert cited.content[0].annotations[0].url == "https://simulator.example/otters"
    messages: Any = [{"role": "user", "content": "[[search:otters]] [[say:They hold hands.]]"}]
    chat = await bench.client.chat.completions.create(model=MODEL, messages=messages)
    assert chat.choices[0].message.annotations is not None
    assert chat.choices[0].message.annotations[0].url_citation.url == "https://simulator.example/otters"
