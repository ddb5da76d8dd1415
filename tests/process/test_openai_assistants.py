"""The Assistants API, by OpenAI's own client: what was written waits for a run, a run is an ordinary turn, and all of
it is seen at every other door.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest

from tests.process.openai_desk import NESTED, WANTS_LOOKUP, OpenAiDesk, openai_desk
from turnkeep.simulator import Fault

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.xdist_group("openai assistants"),  # the client's part of them takes a second to load
]


class Desk:
    """Short words for what these tests say."""

    def __init__(self, desk: OpenAiDesk, assistant_id: str) -> None:
        self.house = desk
        self.assistant_id = assistant_id
        self.threads = desk.client.beta.threads
        self.assistants = desk.client.beta.assistants

    async def thread(self, *texts: str) -> str:
        made = await self.threads.create(messages=[{"role": "user", "content": text} for text in texts])
        return str(made.id)

    async def say(self, thread_id: str, text: str) -> Any:
        return await self.threads.messages.create(thread_id, role="user", content=text)

    async def run(self, thread_id: str, **options: Any) -> Any:
        return await self.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=self.assistant_id, **options)

    async def said(self, thread_id: str) -> list[tuple[str, str]]:
        """Who said what, oldest first."""
        messages = [message async for message in self.threads.messages.list(thread_id, order="asc")]
        return [(message.role, message.content[0].text.value) for message in messages]

    async def answer(self, thread_id: str) -> str:
        return (await self.said(thread_id))[-1][1]


@asynccontextmanager
async def assistants_desk(store: str = "memory:", **settings: Any) -> AsyncIterator[Desk]:
    async with openai_desk(store, **settings) as desk:
        made = await desk.client.beta.assistants.create(model="gpt-4o-mini", instructions="Be kind.", tools=NESTED)
        yield Desk(desk, made.id)


def new_listener() -> Any:
    """Hears what a run says, as a program of OpenAI's own does."""

    class Listener(openai.AsyncAssistantEventHandler):
        def __init__(self) -> None:
            super().__init__()
            self.events: list[str] = []
            self.text = ""

        async def on_event(self, event: Any) -> None:
            self.events.append(event.event.removeprefix("thread."))

        async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
            self.text += delta.value

    return Listener()


async def test_an_assistant_is_made_changed_listed_and_deleted() -> None:
    async with assistants_desk() as desk:
        made = await desk.assistants.create(model="gpt-4o", name="ada", temperature=0.2, metadata={"a": "b"})
        changed = await desk.assistants.update(made.id, instructions="Be brief.", tools=NESTED)
        assert (changed.name, changed.instructions, changed.temperature) == ("ada", "Be brief.", 0.2)
        assert changed.tools[0].function.name == "lookup"
        assert (await desk.assistants.retrieve(made.id)).metadata == {"a": "b"}
        ids = [one.id async for one in desk.assistants.list(limit=1)]
        assert ids[0] == made.id
        assert len(ids) == 3
        assert (await desk.assistants.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError, match="No assistant found with id"):
            await desk.assistants.retrieve(made.id)


async def test_messages_wait_for_a_run_however_long_it_takes() -> None:
    async with assistants_desk(window=0.01, max_wait=0.02) as desk:
        thread_id = await desk.thread("My name is Ada.")
        await desk.say(thread_id, "What is my name?")
        await asyncio.sleep(0.3)
        assert len(desk.house.server.simulator.ledger) == 0
        run = await desk.run(thread_id)
        assert (run.status, run.usage.total_tokens > 0, run.last_error) == ("completed", True, None)
        assert await desk.answer(thread_id) == "Your name is Ada."
        assert len(desk.house.server.simulator.ledger) == 1
        async with desk.house.server.http.get(f"{desk.house.server.url}/api/channels/{thread_id}/messages") as page:
            kinds = [item["kind"] for item in (await page.json())["items"]]
        assert kinds == ["user", "user", "user", "assistant"]  # the run itself is a message without words


async def test_lists_are_read_page_by_page_from_either_end() -> None:
    async with assistants_desk() as desk:
        thread_id = await desk.thread(*(str(number) for number in range(7)))
        ids = [one.id async for one in desk.threads.messages.list(thread_id, limit=2)]
        ascending = [one.id async for one in desk.threads.messages.list(thread_id, limit=3, order="asc")]
        assert ids == ascending[::-1]
        page = await desk.threads.messages.list(thread_id, limit=2, before=ids[5])
        assert [one.id for one in page.data] == ids[3:5]
        with pytest.raises(openai.NotFoundError):
            await desk.threads.messages.list(thread_id, after="msg_none")


async def test_a_stream_says_what_the_transcript_holds_under_the_same_ids() -> None:
    async with assistants_desk() as desk:
        thread_id, listener = await desk.thread("[[words:60]]"), new_listener()
        stream = desk.threads.runs.stream(thread_id=thread_id, assistant_id=desk.assistant_id, event_handler=listener)
        async with stream as events:
            await events.until_done()
            final = await events.get_final_messages()
        assert [event for event in listener.events if event != "message.delta"] == [
            "run.created", "run.queued", "run.in_progress", "run.step.created", "run.step.in_progress",
            "message.created", "message.in_progress", "message.completed", "run.step.completed", "run.completed",
        ]  # fmt: skip
        (kept, *_) = (await desk.threads.messages.list(thread_id)).data
        assert (final[0].id, final[0].content[0].text.value) == (kept.id, listener.text)
        assert kept.content[0].text.value == listener.text


async def test_functions_are_run_by_the_caller_with_and_without_a_stream() -> None:
    async with assistants_desk() as desk:
        thread_id = await desk.thread(f"[[comment:Let me look.]] {WANTS_LOOKUP}")
        run = await desk.run(thread_id)
        (call,) = run.required_action.submit_tool_outputs.tool_calls
        assert (run.status, call.function.name, call.function.arguments) == ("requires_action", "lookup", '{"q":"a"}')
        with pytest.raises(openai.BadRequestError, match="Expected tool outputs for call_ids"):
            await desk.threads.runs.submit_tool_outputs(run.id, thread_id=thread_id, tool_outputs=[])
        outputs, listener = [{"tool_call_id": call.id, "output": "found"}], new_listener()
        stream = desk.threads.runs.submit_tool_outputs_stream(
            thread_id=thread_id, run_id=run.id, tool_outputs=outputs, event_handler=listener
        )
        async with stream as events:
            await events.until_done()
            final = await events.get_final_messages()
        assert listener.text == "lookup answered: found."
        messages = [one async for one in desk.threads.messages.list(thread_id, run_id=run.id, order="asc")]
        assert [one.content[0].text.value for one in messages] == ["Let me look.", listener.text]
        assert messages[1].id == final[0].id
        steps = [step async for step in desk.threads.runs.steps.list(run.id, thread_id=thread_id, order="asc")]
        assert [step.type for step in steps] == ["message_creation", "tool_calls", "message_creation"]
        assert steps[1].step_details.tool_calls[0].function.output == "found"
        assert steps[2].step_details.message_creation.message_id == messages[1].id
        again = await desk.threads.runs.steps.retrieve(steps[1].id, run_id=run.id, thread_id=thread_id)
        assert again.id == steps[1].id
        with pytest.raises(openai.BadRequestError, match='Runs in status "completed" do not accept'):
            await desk.threads.runs.submit_tool_outputs(run.id, thread_id=thread_id, tool_outputs=outputs)
        second = await desk.threads.create_and_run_poll(
            assistant_id=desk.assistant_id, thread={"messages": [{"role": "user", "content": WANTS_LOOKUP}]}
        )
        (call,) = second.required_action.submit_tool_outputs.tool_calls
        done = await desk.threads.runs.submit_tool_outputs_and_poll(
            thread_id=second.thread_id, run_id=second.id, tool_outputs=[{"tool_call_id": call.id, "output": "7"}]
        )
        assert (done.status, await desk.answer(second.thread_id)) == ("completed", "lookup answered: 7.")


async def test_strict_refuses_what_openai_refused_and_kind_answers_it_next() -> None:
    for setting in ("strict", "kind"):
        async with assistants_desk(openai_runs=setting, drain=0.0) as desk:
            thread_id = await desk.thread("[[words:3000]] [[pace:20]]")
            first = await desk.threads.runs.create(thread_id, assistant_id=desk.assistant_id)
            if setting == "strict":
                with pytest.raises(openai.BadRequestError, match=r"Can't add messages to thread_\w+ while a run run_"):
                    await desk.say(thread_id, "meanwhile")
                with pytest.raises(openai.BadRequestError, match="already has an active run"):
                    await desk.threads.runs.create(thread_id, assistant_id=desk.assistant_id)
            else:
                while (await desk.threads.runs.retrieve(first.id, thread_id=thread_id)).status == "queued":
                    await asyncio.sleep(0.02)
                await desk.say(thread_id, "meanwhile")
                second = await desk.threads.runs.create(thread_id, assistant_id=desk.assistant_id)
                await desk.threads.runs.cancel(first.id, thread_id=thread_id)
                assert (await desk.threads.runs.poll(second.id, thread_id)).status == "completed"
                assert "meanwhile" in await desk.answer(thread_id)
                runs = [run async for run in desk.threads.runs.list(thread_id)]
                assert [run.status for run in runs] == ["completed", "cancelled"]


async def test_a_run_is_stopped_in_its_middle_and_before_it_has_begun() -> None:
    async with assistants_desk() as desk:
        thread_id = await desk.thread("[[words:4000]] [[pace:20]]")
        run = await desk.threads.runs.create(thread_id, assistant_id=desk.assistant_id)
        while (await desk.threads.runs.retrieve(run.id, thread_id=thread_id)).status != "in_progress":
            await asyncio.sleep(0.02)
        assert (await desk.threads.runs.cancel(run.id, thread_id=thread_id)).status == "cancelling"
        assert (await desk.threads.runs.poll(run.id, thread_id)).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="Cannot cancel run with status 'cancelled'"):
            await desk.threads.runs.cancel(run.id, thread_id=thread_id)
        await desk.house.server.queue.store.pause(desk.house.server.queue.address(thread_id))
        waiting = await desk.threads.runs.create(thread_id, assistant_id=desk.assistant_id)
        assert waiting.status == "queued"
        assert (await desk.threads.runs.cancel(waiting.id, thread_id=thread_id)).status == "cancelled"
        assert (await desk.threads.runs.retrieve(waiting.id, thread_id=thread_id)).status == "cancelled"


async def test_a_run_that_nobody_could_answer_has_failed_and_the_thread_goes_on() -> None:
    async with assistants_desk(max_attempts=1) as desk:
        thread_id = await desk.thread("hello")
        desk.house.server.simulator.faults.append(Fault(kind="400"))
        run = await desk.run(thread_id)
        assert (run.status, run.last_error.code) == ("failed", "invalid_prompt")
        assert (await desk.run(thread_id)).status == "completed"
        assert "hello" in await desk.answer(thread_id)


async def test_an_attempt_that_fails_in_its_middle_leaves_one_whole_message() -> None:
    async with assistants_desk() as desk:
        thread_id, listener = await desk.thread("[[words:80]]"), new_listener()
        desk.house.server.simulator.faults.append(Fault(kind="cut", after=6, how="reset", times=1))
        stream = desk.threads.runs.stream(thread_id=thread_id, assistant_id=desk.assistant_id, event_handler=listener)
        async with stream as events:
            await events.until_done()
            (final,) = await events.get_final_messages()
        assert final.content[0].text.value == await desk.answer(thread_id)


async def test_what_a_run_asks_for_counts_for_it_alone() -> None:
    async with assistants_desk() as desk:
        desk.house.server.simulator.options = desk.house.server.simulator.options.but({"keep_bodies": True})
        thread_id = await desk.thread("one")
        wishes: dict[str, Any] = {"model": "gpt-4o", "temperature": 0.1, "additional_instructions": "Rhyme."}
        run = await desk.run(thread_id, **wishes, metadata={"order": "7"})
        assert (run.model.startswith("gpt-4o"), run.temperature, run.metadata) == (True, 0.1, {"order": "7"})
        await desk.run(thread_id, additional_messages=[{"role": "user", "content": "two"}])
        first, second = (exchange.body for exchange in desk.house.server.simulator.ledger)
        assert (first["temperature"], "Rhyme." in str(first["instructions"])) == (0.1, True)
        assert "Rhyme." not in str(second["instructions"])
        assert "temperature" not in second
        assert "two" in await desk.answer(thread_id)


async def test_instructions_of_a_run_stand_in_place_of_the_assistants_and_additional_ones_beside_them() -> None:
    async with assistants_desk() as desk:
        simulator = desk.house.server.simulator
        simulator.options = replace(simulator.options, keep_bodies=True)
        rows: list[tuple[dict[str, str], str]] = [
            ({}, "Be kind."),
            ({"instructions": "Rhyme."}, "Rhyme."),
            ({"additional_instructions": "Rhyme."}, "Be kind.\n\nRhyme."),
            ({"instructions": "Rhyme.", "additional_instructions": "Shout."}, "Rhyme.\n\nShout."),
        ]
        for wishes, expected in rows:
            run = await desk.run(await desk.thread("hi"), **wishes)
            assert (run.instructions, [*simulator.ledger][-1].body["instructions"]) == (expected, expected)


async def test_a_past_that_was_had_elsewhere_can_be_written_into_a_thread() -> None:
    async with assistants_desk() as desk:
        past = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Hello Ada."}]
        thread = await desk.threads.create(messages=past, metadata={"from": "elsewhere"})
        await desk.say(thread.id, "What is my name?")
        await desk.run(thread.id)
        assert await desk.said(thread.id) == [
            ("user", "My name is Ada."), ("assistant", "Hello Ada."), ("user", "What is my name?"),
            ("assistant", "Your name is Ada."),
        ]  # fmt: skip
        assert (await desk.threads.update(thread.id, metadata={"a": "b"})).metadata == {"from": "elsewhere", "a": "b"}
        assert (await desk.threads.delete(thread.id)).deleted
        with pytest.raises(openai.NotFoundError, match="No thread found with id"):
            await desk.threads.retrieve(thread.id)


@pytest.mark.daily(rows=2)  # all take one way
@pytest.mark.parametrize(
    "ask",
    [
        lambda desk, thread: desk.assistants.create(model="m", tools=[{"type": "code_interpreter"}]),
        lambda desk, thread: desk.assistants.create(model="m", tools=[{"type": "file_search"}]),
        lambda desk, thread: desk.threads.create(tool_resources={"file_search": {"vector_store_ids": ["vs_1"]}}),
        lambda desk, thread: desk.threads.messages.create(
            thread, role="user", content="x", attachments=[{"file_id": "file-1", "tools": [{"type": "file_search"}]}]
        ),
        lambda desk, thread: desk.house.client.vector_stores.list(),
        lambda desk, thread: desk.house.client.files.list(),
        lambda desk, thread: desk.threads.messages.delete("msg_1", thread_id=thread),
    ],
)
async def test_files_searches_and_programs_of_openai_are_refused_with_the_way_out(ask: Any) -> None:
    async with assistants_desk() as desk:
        thread_id = await desk.thread("hello")
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(desk, thread_id)
        assert refused.value.code == "unsupported"


@pytest.mark.parametrize(
    ("ask", "kind", "said"),
    [
        (lambda d, t: d.threads.runs.create(t, assistant_id="asst_no"), openai.NotFoundError, "No assistant found"),
        (lambda d, t: d.threads.runs.retrieve("run_no", thread_id=t), openai.NotFoundError, "No run found"),
        (lambda d, t: d.threads.messages.retrieve("msg_no", thread_id=t), openai.NotFoundError, "No message found"),
        (lambda d, t: d.threads.messages.create(t, role="system", content="x"), openai.BadRequestError, "'role'"),
        (lambda d, t: d.threads.messages.create(t, role="user", content=""), openai.BadRequestError, "'message'"),
        (lambda d, t: d.threads.create(metadata={"a": 1}), openai.BadRequestError, "'metadata'"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_openais_words(ask: Any, kind: type[Exception], said: str) -> None:
    async with assistants_desk() as desk:
        thread_id = await desk.thread("hello")
        with pytest.raises(kind, match=said):
            await ask(desk, thread_id)


async def test_what_an_sdk_sends_again_by_itself_is_written_once() -> None:
    """The reply to the first request was lost: the second says that it is a retry, and nothing else."""
    retry: dict[str, Any] = {"extra_headers": {"x-stainless-retry-count": "1"}}
    async with assistants_desk() as desk:
        thread_id = await desk.thread()
        texts = ("one", "one", "two")  # the second is meant
        for text in texts:
            await desk.say(thread_id, text)
            await desk.threads.messages.create(thread_id, role="user", content=text, **retry)
        first = await desk.threads.runs.create(thread_id, assistant_id=desk.assistant_id)
        again = await desk.threads.runs.create(thread_id, assistant_id=desk.assistant_id, **retry)
        assert (again.id, (await desk.threads.runs.poll(first.id, thread_id)).status) == (first.id, "completed")
        again = await desk.threads.runs.create(thread_id, assistant_id=desk.assistant_id, **retry)
        assert (again.id, again.status) == (first.id, "completed")
        assert [text for role, text in await desk.said(thread_id) if role == "user"] == list(texts)
        responses = desk.house.client.responses
        about: dict[str, Any] = {"model": desk.assistant_id, "input": "three", "conversation": thread_id}
        answers = [await responses.create(**about, **more) for more in ({}, retry)]
        assert answers[0].id == answers[1].id
        assert len(desk.house.server.simulator.ledger) == 2
