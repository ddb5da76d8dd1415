"""`/v1/responses`, by OpenAI's own client and by the neutral schema: asked, asked in the background, read again from
any place to the character, stopped, gone on with.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import openresponses_types as schema
import pytest

from tests.patience import PATIENCE, until
from tests.process.openai_desk import FLAT, WANTS_LOOKUP, OpenAiDesk, openai_desk
from tests.scenario.house import flush_together
from turnkeep.errors import StoreUnavailable
from turnkeep.simulator import Fault

LONG = "[[words:120]] [[pace:4]]"


async def create(desk: OpenAiDesk, value: Any, **options: Any) -> Any:
    return await desk.client.responses.create(model=desk.model, input=value, **options)


async def events_of(stream: Any) -> list[Any]:
    return [event async for event in stream]


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def schema_of(kind: str) -> Any:
    # the neutral schema calls its class as older versions of OpenAI's did
    kind = kind.replace("reasoning_summary_text", "reasoning_summary")
    name = "".join(part.capitalize() for part in kind.removeprefix("response.").replace("_", ".").split("."))
    return getattr(schema, f"Response{name}StreamingEvent")


KINDS = {
    *("created", "in_progress", "completed", "incomplete", "failed", "output_item.added", "output_item.done"),
    *("content_part.added", "content_part.done", "output_text.delta", "output_text.done"),
    *("reasoning_summary_part.added", "reasoning_summary_part.done", "reasoning_summary_text.delta"),
    *("reasoning_summary_text.done", "function_call_arguments.delta", "function_call_arguments.done"),
}
"""Every event that a stream of ours can have."""
STREAMS: dict[str, tuple[str, dict[str, Any], Fault | None]] = {
    "an answer": ("hello", {}, None),
    "a call of the caller's function": (WANTS_LOOKUP, {"tools": FLAT}, None),
    "an answer that is cut off by its length": ("[[length]] [[words:9]]", {}, None),
    "a thought": ("[[reason:Hm, hm.]] hello", {}, None),
    "an attempt that is begun anew": ("[[words:30]] [[pace:5]]", {}, Fault("cut", after=5, times=1)),
    "a failure": ("hello", {}, Fault("500", times=2)),
    "one in the background": ("hello", {"background": True}, None),
}


async def test_every_event_and_object_is_of_the_neutral_schema() -> None:
    async with openai_desk(max_attempts=2) as desk:
        values = {"show_reasoning": True, "parameters": {"reasoning": {"effort": "low", "summary": "auto"}}}
        await desk.server.queue.assistants.change("default", desk.model, values)
        kinds = set()
        for name, (text, options, fault) in STREAMS.items():
            if fault is not None:
                desk.server.simulator.faults.append(fault)
            events = await streamed(desk, {"input": text, "stream": True, **options})
            assert events, name
            for event in events:
                kinds.add(event["type"].removeprefix("response."))
                schema_of(event["type"]).model_validate(event)
                if "response" in event:
                    schema.ResponseResource.model_validate(event["response"])
            url = f"{desk.server.url}/v1/responses/{events[0]['response']['id']}"
            async with desk.server.http.get(url) as told:
                schema.ResponseResource.model_validate(await told.json())
        assert kinds == KINDS


async def streamed(desk: OpenAiDesk, body: dict[str, Any]) -> list[dict[str, Any]]:
    url = f"{desk.server.url}/v1/responses"
    async with desk.server.http.post(url, json={"model": desk.model, **body}) as told:
        assert told.status == 200
        lines = [line async for line in told.content]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]


async def test_a_response_goes_on_from_the_one_before() -> None:
    async with openai_desk() as desk:
        first = await create(desk, "My name is Ada.", metadata={"about": "names"}, temperature=0.5)
        assert (first.status, first.model, first.temperature) == ("completed", desk.model, 0.5)
        assert (first.metadata["about"], first.metadata["outcome"]) == ("names", "completed")
        second = await create(desk, "What is my name?", previous_response_id=first.id)
        assert second.output_text == "Your name is Ada."
        assert (await desk.client.responses.retrieve(first.id)).output_text == first.output_text
        assert await desk.threads() == 1
        alone = await create(desk, "What is my name?", store=False)
        assert alone.output_text == "You have not told me your name yet."
        assert await desk.threads() == 1


async def test_only_the_last_response_is_gone_on_with_unless_a_fresh_thread_may_begin() -> None:
    for setting in ("refuse", "fresh"):
        async with openai_desk(openai_history=setting) as desk:
            first = await create(desk, "My name is Ada.")
            await create(desk, "My name is Bob.", previous_response_id=first.id)
            if setting == "refuse":
                with pytest.raises(openai.ConflictError, match="has gone on since"):
                    await create(desk, "What is my name?", previous_response_id=first.id)
            else:
                other = await create(desk, "What is my name?", previous_response_id=first.id)
                assert other.output_text == "Your name is Ada."
                assert await desk.threads() == 2


async def test_a_named_conversation_takes_what_is_new_and_is_the_same_on_every_door() -> None:
    async with openai_desk() as desk:
        await create(desk, "My name is Ada.", conversation="k")
        answer = await desk.ask(
            [desk.user("My name is Ada."), {"role": "assistant", "content": "*"}, desk.user("x")], key="other"
        )
        assert answer.choices
        told = await create(desk, [{"role": "user", "content": "What is my name?"}], conversation={"id": "k"})
        assert told.output_text == "Your name is Ada."
        async with desk.server.http.get(f"{desk.server.url}/api/channels/k/messages") as page:
            assert [item["kind"] for item in (await page.json())["items"]] == ["user", "assistant"] * 2


async def test_a_burst_of_three_is_one_turn() -> None:
    async with openai_desk(window=60.0, max_wait=60.0) as desk:
        texts = ("one", "two", "three")
        beginning = flush_together(desk.server.queue, "k", 3)
        *answers, _ = await asyncio.gather(*(create(desk, text, conversation="k") for text in texts), beginning)
        assert len({answer.output_text for answer in answers}) == 1
        assert len({answer.id for answer in answers}) == 3
        assert len(answers[0].metadata["covers"].split(",")) == 3
        assert len(desk.server.simulator.ledger) == 1


async def test_a_stream_of_the_background_goes_on_at_every_character() -> None:
    async with openai_desk() as desk:
        events = await events_of(await create(desk, LONG, background=True, stream=True))
        whole, response_id = events[-1].response.output_text, events[0].response.id
        assert text_of(events) == whole
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        deltas = [event for event in events if event.type == "response.output_text.delta"]
        for number in (0, deltas[0].sequence_number, deltas[0].sequence_number + 7, deltas[-1].sequence_number - 1):
            again = await events_of(
                await desk.client.responses.retrieve(response_id, stream=True, starting_after=number)
            )
            shown = max(0, number - deltas[0].sequence_number + len(deltas[0].delta))
            assert text_of(again) == whole[shown:]
            assert again[-1].type == "response.completed"
            assert {event.sequence_number for event in again[-3:]} == set(numbers[-3:])


async def test_what_runs_in_the_background_is_asked_for_stopped_and_kept() -> None:
    async with openai_desk() as desk:
        response = await create(desk, "[[words:4000]] [[pace:20]]", background=True)
        assert (response.status, response.background) == ("queued", True)
        async with asyncio.timeout(PATIENCE):
            while (await desk.client.responses.retrieve(response.id)).status != "in_progress":
                await asyncio.sleep(0.02)
        await until(lambda: len(desk.server.simulator.ledger) == 1)
        stopped = await desk.client.responses.cancel(response.id)
        assert stopped.status == "cancelled"
        assert (await desk.client.responses.retrieve(response.id)).status == "cancelled"
        waiting = await create(desk, "hello", background=True, conversation="w")
        assert (await desk.client.responses.cancel(waiting.id)).status == "cancelled"


async def test_an_attempt_that_fails_in_its_middle_is_not_shown_twice() -> None:
    async with openai_desk() as desk:
        desk.server.simulator.faults.append(Fault(kind="cut", after=6, how="reset", times=1))
        events = await events_of(await create(desk, LONG, stream=True))
        assert text_of(events) == events[-1].response.output_text
        assert len(desk.server.simulator.ledger) == 2


async def test_functions_of_the_caller_are_items_and_their_outputs_go_on() -> None:
    async with openai_desk() as desk:
        for options in ({}, {"conversation": "k"}):
            first = await create(desk, WANTS_LOOKUP, tools=FLAT, **options)
            (call,) = first.output
            assert (call.type, call.name, call.arguments) == ("function_call", "lookup", '{"q":"a"}')
            output = {"type": "function_call_output", "call_id": call.call_id, "output": "found it"}
            where = options or {"previous_response_id": first.id}
            second = await create(desk, [output], tools=FLAT, **where)
            assert second.output_text == "lookup answered: found it."
            for one in (first, second):
                again = await desk.client.responses.retrieve(one.id)
                assert [item.type for item in again.output] == [item.type for item in one.output]
                assert again.output_text == one.output_text


async def test_calls_are_streamed_and_the_helper_of_the_client_reads_them() -> None:
    async with openai_desk() as desk:
        async with desk.client.responses.stream(model=desk.model, input=WANTS_LOOKUP, tools=FLAT) as stream:
            response = await stream.get_final_response()
        assert response.output[0].arguments == '{"q":"a"}'
        async with desk.client.responses.stream(model=desk.model, input="hello") as stream:
            assert (await stream.get_final_response()).output_text.startswith("You said")


async def test_a_call_that_its_caller_names_is_taken_in_once() -> None:
    async with openai_desk() as desk:
        headers = {"Idempotency-Key": "order-7"}
        answers = [await create(desk, "hello", conversation="k", extra_headers=headers) for _ in range(2)]
        assert len({answer.id for answer in answers}) == 1
        assert len(desk.server.simulator.ledger) == 1


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"input": []}, openai.BadRequestError, "'input' must be"),
        ({"input": [{"type": "computer_call_output"}]}, openai.BadRequestError, "is not taken"),
        ({"previous_response_id": "resp_1"}, openai.NotFoundError, "there is no response"),
        ({"previous_response_id": "resp_00" + "a" * 24 + "_" + "b" * 24}, openai.NotFoundError, "No thread found"),
        ({"background": True, "store": False}, openai.BadRequestError, "'background' needs 'store'"),
        ({"prompt": {"id": "pmpt_1"}}, openai.BadRequestError, "give an assistant its instructions"),
    ],
)
async def test_what_makes_no_sense_is_refused(options: dict[str, Any], kind: type[Exception], said: str) -> None:
    async with openai_desk() as desk:
        with pytest.raises(kind, match=said):
            await create(desk, **{"value": options.pop("input", "x"), **options})
        assert await desk.threads() == 0


async def test_thoughts_are_told_where_an_assistant_shows_them_and_move_no_number_of_the_answer() -> None:
    async with openai_desk() as desk:
        numbers = []
        for shows in (True, False):
            thinking = {"reasoning": {"effort": "low", "summary": "auto"}}
            values = {"model": "gpt-6-luna", "show_reasoning": shows, "parameters": thinking}
            await desk.server.queue.assistants.change("default", desk.model, values)
            events = await events_of(await create(desk, "[[reason:Hm, hm.]] hello", stream=True))
            thoughts = "".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta")
            assert thoughts == ("Hm, hm." if shows else "")
            kinds = [item.type for item in events[-1].response.output]
            assert kinds == (["reasoning", "message"] if shows else ["message"])
            numbers.append([e.sequence_number for e in events if e.type == "response.output_text.done"])
            for event in events:
                schema_of(event.type).model_validate(event.to_dict())
            whole = await desk.ask([desk.user("[[reason:Hm, hm.]] hello")])
            assert getattr(whole.choices[0].message, "reasoning_content", "") == thoughts
            chunks = await desk.ask([desk.user("[[reason:Hm, hm.]] hello")], stream=True)
            deltas = [chunk.choices[0].delta async for chunk in chunks]
            assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == thoughts
        assert numbers[0] == numbers[1]


# ---------------------------------------------------------------- a store that fails

WAITED_FOR: dict[str, tuple[str, dict[str, Any]]] = {
    "a response": ("responses", {"input": "hello"}),
    "a response that is not kept": ("responses", {"input": "hello", "store": False}),
    "a completion": ("completions", {"messages": [{"role": "user", "content": "hello"}]}),
    "a completion in a conversation": (
        "completions", {"messages": [{"role": "user", "content": "hello"}], "metadata": {"channel": "c"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", WAITED_FOR)
async def test_what_was_taken_in_is_not_asked_again_by_itself(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's clients repeat a 503 that does not forbid it: the same question would be another turn."""
    room, body = WAITED_FOR[which]
    async with openai_desk() as desk:
        store = desk.server.queue.store
        is_here = store.message

        async def away(*_: object) -> Any:
            monkeypatch.setattr(store, "message", is_here)
            raise StoreUnavailable("10.0.0.7 is away")

        monkeypatch.setattr(store, "message", away)
        client = desk.client.with_options(max_retries=1)
        ask = client.responses.create if room == "responses" else client.chat.completions.create
        with pytest.raises(openai.InternalServerError) as refused:
            await ask(model=desk.model, **body)
    headers = refused.value.response.headers
    assert (refused.value.status_code, refused.value.code) == (503, "store_unavailable")
    assert (headers["x-should-retry"], headers.get("retry-after")) == ("false", None)
