"""`/v1/conversations` and the input of responses, by OpenAI's own client: threads in the words of the Responses API."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.process.openai_desk import FLAT, WANTS_LOOKUP, openai_desk


def said(items: Any) -> list[tuple[str, str]]:
    return [(item.role, item.content[0].text) if item.type == "message" else (item.type, "") for item in items]


async def test_a_conversation_is_a_thread_with_items_that_responses_go_on_with() -> None:
    async with openai_desk() as desk:
        conversations = desk.client.conversations
        past = [{"type": "message", "role": "user", "content": "I am Ann."},
                {"type": "message", "role": "assistant", "content": "Hello Ann."}]  # fmt: skip
        made = await conversations.create(items=past, metadata={"topic": "names"})
        assert (made.object, made.metadata) == ("conversation", {"topic": "names"})

        answer = await desk.client.responses.create(
            model=desk.model, input="[[say:You are Ann.]]", conversation=made.id, instructions="Be kind."
        )
        items = [item async for item in conversations.items.list(made.id, order="asc")]
        assert said(items) == [
            ("user", "I am Ann."), ("assistant", "Hello Ann."),
            ("user", "[[say:You are Ann.]]"), ("assistant", answer.output_text),
        ]  # fmt: skip
        assert len({item.id for item in items}) == 4
        newest = await conversations.items.list(made.id, limit=1)
        assert (said(newest.data), newest.has_more) == ([("assistant", answer.output_text)], True)
        assert [item.id async for item in conversations.items.list(made.id, limit=1)] == [i.id for i in items[::-1]]
        assert (await conversations.items.retrieve(items[1].id, conversation_id=made.id)).id == items[1].id

        changed = await conversations.update(made.id, metadata={"topic": "pets"})
        assert (await conversations.retrieve(made.id)).metadata == changed.metadata == {"topic": "pets"}
        assert (await conversations.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await conversations.retrieve(made.id)


async def test_items_are_written_behind_what_was_said_and_once_however_often_they_are_sent() -> None:
    async with openai_desk() as desk:
        items = desk.client.conversations.items
        made = await desk.client.conversations.create()
        new = [{"type": "message", "role": "user", "content": "one"}]
        told = await items.create(made.id, items=new)
        assert said(told.data) == [("user", "one")]
        again = await items.create(made.id, items=new, extra_headers={"x-stainless-retry-count": "1"})
        assert [item.id for item in again.data] == [item.id for item in told.data]
        assert said([item async for item in items.list(made.id)]) == [("user", "one")]


@pytest.mark.parametrize(
    "items",
    [[], [{"type": "message", "role": "system", "content": "x"}], [7], [{"type": "message", "role": "user"}],
     [{"type": "message", "role": "user", "content": "x"}] * 21],
)  # fmt: skip
async def test_items_that_are_not_taken_are_refused_and_leave_nothing(items: list[Any]) -> None:
    async with openai_desk() as desk:
        made = await desk.client.conversations.create()
        with pytest.raises(openai.APIStatusError) as caught:
            await desk.client.conversations.items.create(made.id, items=items)
        assert caught.value.status_code in (400, 501)
        assert [item async for item in desk.client.conversations.items.list(made.id)] == []


async def test_what_waits_is_taken_back_and_what_was_answered_stays() -> None:
    async with openai_desk(window=600.0, max_wait=3600.0) as desk:
        items, store = desk.client.conversations.items, desk.server.queue.store
        address = desk.server.queue.address("c1")
        body = {"message": "later", "message_id": "m1"}
        async with desk.server.http.post(f"{desk.server.url}/api/channels/c1/messages", json=body) as told:
            assert told.status == 202
        assert said([item async for item in items.list("c1")]) == [("user", "later")]
        taken = await items.delete("m1", conversation_id="c1")
        assert taken.object == "conversation"
        assert [item async for item in items.list("c1")] == []
        record = await store.message(address, "m1")
        assert record is not None
        assert record.status == "withdrawn"
        made = await desk.client.conversations.create(items=[{"type": "message", "role": "user", "content": "hi"}])
        [item] = [item async for item in items.list(made.id)]
        with pytest.raises(openai.APIStatusError, match="stays as it was said"):
            await items.delete(item.id, conversation_id=made.id)
        with pytest.raises(openai.NotFoundError):
            await items.delete("msg_0", conversation_id=made.id)


async def test_the_input_of_a_response_is_what_its_turn_was_asked() -> None:
    async with openai_desk() as desk:
        responses = desk.client.responses
        first = await responses.create(model=desk.model, input=WANTS_LOOKUP, tools=FLAT)
        assert said([one async for one in responses.input_items.list(first.id)]) == [("user", WANTS_LOOKUP)]
        output = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "found"}
        second = await responses.create(model=desk.model, input=[output], tools=FLAT, previous_response_id=first.id)
        [given] = [one async for one in responses.input_items.list(second.id)]
        assert (given.type, given.call_id, given.output) == ("function_call_output", output["call_id"], "found")
        assert said([one async for one in responses.input_items.list(first.id)]) == [("user", WANTS_LOOKUP)]

        conversation = await desk.client.conversations.create()
        third = await responses.create(model=desk.model, input="hi", conversation=conversation.id)
        kinds = [item.type async for item in desk.client.conversations.items.list(conversation.id)]
        assert kinds == ["message", "message"]
        assert third.conversation.id == conversation.id
        with pytest.raises(openai.NotFoundError):
            await responses.input_items.list("resp_00nothing_here")
