"""`/v1/models` and `/v1/chat/completions`, by OpenAI's own client: whole conversations resent, and what front ends ask
beside them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.patience import PATIENCE, until
from tests.process.openai_desk import NESTED, WANTS_LOOKUP, OpenAiDesk, answer_of, openai_desk
from tests.process.served import bearer, served
from tests.scenario.house import gate_answers
from turnkeep.simulator import Fault
from turnkeep.tools.tool import tool


@tool(effect="pure")
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


async def streamed(desk: OpenAiDesk, messages: list[Any], key: str | None = None, **options: Any) -> list[Any]:
    stream = await desk.ask(messages, key=key, stream=True, **options)
    return [chunk async for chunk in stream]


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_assistants_are_models() -> None:
    async with openai_desk() as desk:
        other = await desk.server.queue.assistants.create("default", {"name": "other"}, now=1.0)
        models = [model.id for model in (await desk.client.models.list()).data]
        assert models == [desk.model, other.assistant_id]
        assert (await desk.client.models.retrieve(other.assistant_id)).owned_by == "turnkeep"
        with pytest.raises(openai.NotFoundError, match="no assistant 'gpt-4o'"):
            await desk.client.chat.completions.create(model="gpt-4o", messages=[desk.user("hi")])


async def test_the_model_that_is_named_answers() -> None:
    async with openai_desk() as desk:
        desk.server.simulator.options = desk.server.simulator.options.but({"keep_bodies": True})
        values = {"model": "gpt-4o-mini", "instructions": "Be a pirate."}
        desk.model = (await desk.server.queue.assistants.create("default", values, now=1.0)).assistant_id
        await desk.chat("hello", key="k", temperature=0.25)
        (exchange,) = desk.server.simulator.ledger
        assert (exchange.model, exchange.body["temperature"]) == ("gpt-4o-mini", 0.25)
        assert "pirate" in str(exchange.body["instructions"])


async def test_a_question_without_a_key_stands_for_itself_and_leaves_nothing() -> None:
    async with openai_desk() as desk:
        whole = await desk.chat("My name is Ada.", "Hello Ada.", "What is my name?")
        assert answer_of(whole) == "Your name is Ada."
        assert (whole.object, whole.choices[0].finish_reason) == ("chat.completion", "stop")
        assert whole.usage.total_tokens > 0
        assert await desk.threads() == 0
        chunks = await streamed(desk, [desk.user("hello")], stream_options={"include_usage": True})
        assert chunks[0].choices[0].delta.role == "assistant"
        assert (chunks[-2].choices[0].finish_reason, chunks[-1].usage.total_tokens > 0) == ("stop", True)
        # a stream is over for its reader before what was opened for it is given back
        async with asyncio.timeout(PATIENCE):
            while await desk.threads():
                await asyncio.sleep(0.01)


async def test_a_history_that_is_resent_appends_what_is_new() -> None:
    async with openai_desk() as desk:
        first = answer_of(await desk.chat("My name is Ada.", key="k"))
        second = answer_of(await desk.chat("My name is Ada.", first, "What is my name?", key="k"))
        assert second == "Your name is Ada."
        chunks = await streamed(
            desk, [desk.user("My name is Ada."), {"role": "assistant", "content": first},
                   desk.user("What is my name?"), {"role": "assistant", "content": second}, desk.user("[[words:50]]")],
            key="k",
        )  # fmt: skip
        kinds = [item.kind for item in await desk.transcript("k")]
        assert kinds == ["user", "assistant"] * 3
        assert ("assistant", text_of(chunks)) in await desk.words("k")


async def test_a_burst_is_one_turn_and_each_post_has_its_answer() -> None:
    async with openai_desk(window=60.0, max_wait=60.0) as desk:
        store, address = desk.server.queue.store, desk.server.queue.address("k")
        posts = []
        for count in (1, 2, 3):
            messages = [desk.user(f"message {number}") for number in range(count)]
            posts.append(asyncio.ensure_future(desk.ask(messages, key="k")))
            async with asyncio.timeout(PATIENCE):
                while len(await store.open_messages(address)) < count:
                    await asyncio.sleep(0.01)
        await desk.server.queue.flush("k")
        answers = await asyncio.gather(*posts)
        assert len({answer_of(answer) for answer in answers}) == 1
        assert "3 messages together" in answer_of(answers[0])
        assert len(desk.server.simulator.ledger) == 1
        ids = answers[0].metadata["covers"].split(",")
        assert len(ids) == 3
        assert [item.message_id for item in await desk.transcript("k") if item.kind == "user"] == ids  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "texts",
    [
        ("other",),  # an edit of the first message
        ("one", "not what was said", "two"),  # an edit of the answer
        ("one", "*", "other"),  # an edit of the second message
    ],
)
async def test_a_history_that_says_otherwise_is_refused_with_a_sentence(texts: tuple[str, ...]) -> None:
    async with openai_desk() as desk:
        first = answer_of(await desk.chat("one", key="k"))
        await desk.chat("one", first, "two", key="k")
        before = await desk.transcript("k")
        with pytest.raises(openai.ConflictError, match="history that was sent is not how") as refused:
            await desk.chat(*(first if text == "*" else text for text in texts), key="k")
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert await desk.transcript("k") == before


async def test_by_setting_such_a_history_begins_a_thread_of_its_own_and_goes_on_there() -> None:
    async with openai_desk(openai_history="fresh") as desk:
        first = answer_of(await desk.chat("My name is Ada.", key="k"))
        other = answer_of(await desk.chat("My name is Bob.", key="k"))
        assert answer_of(await desk.chat("My name is Bob.", other, "What is my name?", key="k")) == "Your name is Bob."
        assert answer_of(await desk.chat("My name is Ada.", first, "What is my name?", key="k")) == "Your name is Ada."
        assert await desk.threads() == 2


async def test_the_last_answer_is_made_anew_in_its_place() -> None:
    async with openai_desk() as desk:
        first = answer_of(await desk.chat("one", key="k"))
        await desk.chat("one", first, "two", key="k")
        requests = len(desk.server.simulator.ledger)
        again = answer_of(await desk.chat("one", first, "two", key="k"))
        assert len(desk.server.simulator.ledger) == requests + 1
        assert [item.kind for item in await desk.transcript("k")] == ["user", "assistant"] * 2
        assert ("assistant", again) in await desk.words("k")


async def test_a_request_that_its_sdk_repeats_is_answered_once() -> None:
    async with openai_desk() as desk:
        first = answer_of(await desk.chat("one", key="k"))
        again = await desk.chat("one", key="k", extra_headers={"x-stainless-retry-count": "1"})
        assert answer_of(again) == first
        assert len(desk.server.simulator.ledger) == 1


async def test_who_stops_reading_goes_on_with_what_he_has_read() -> None:
    """As Open WebUI stops: it closes the connection and keeps what it has."""
    async with openai_desk() as desk:
        gate = gate_answers(desk.server.simulator)
        question = desk.user("[[words:60]] [[pace:1]]")
        stream = await desk.ask([question], key="k", stream=True)
        part = ""
        async for chunk in stream:
            part += chunk.choices[0].delta.content or ""
            if part:
                break
        await stream.close()
        gate.set()
        messages = [question, {"role": "assistant", "content": part}, desk.user("What did I say before?")]
        answer = await desk.ask(messages, key="k")
        assert answer_of(answer).startswith("Before this you said")
        kinds = [item.kind for item in await desk.transcript("k")]
        assert kinds == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    "prompt",
    [
        "### Task:\nGenerate a concise, 3-5 word title with an emoji.\n<chat_history>USER: one</chat_history>",
        "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the "
        "title itself.\n\nConversation:\nUser: one\nAI: fine",
        "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise title",
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_title_never_enters_the_conversation(prompt: str, is_first: bool) -> None:
    """As Open WebUI and LibreChat ask for one: with the key of the conversation, before or after its first turn."""
    async with openai_desk() as desk:
        headers = {"X-OpenWebUI-Chat-Id": "k"}
        first = "" if is_first else answer_of(await desk.chat("one", extra_headers=headers))
        title = await desk.ask([desk.user(prompt)], extra_headers=headers, max_completion_tokens=1000)
        assert title.choices[0].message.content
        if is_first:
            first = answer_of(await desk.chat("one", extra_headers=headers))
        await desk.chat("one", first, "two", extra_headers=headers)
        assert len(await desk.transcript("k")) == 4
        assert await desk.threads() == 1


async def test_answers_that_others_gave_in_between_are_part_of_the_conversation() -> None:
    async with openai_desk() as desk:
        answer = await desk.chat("My name is Ada.", "Hello Ada, says another model.", "What is my name?", key="k")
        assert answer_of(answer) == "Your name is Ada."
        texts = [text for _, text in await desk.words("k")]
        assert "Hello Ada, says another model." in texts


@pytest.mark.parametrize("key", ["k", None])
async def test_functions_of_the_caller_end_the_answer_and_their_outputs_go_on_with_it(key: str | None) -> None:
    async with openai_desk(tools=[double]) as desk:
        question = desk.user(WANTS_LOOKUP + ' [[then:double {"number": 4}]]')
        chunks = await streamed(desk, [question], key=key, tools=NESTED)
        delta = next(chunk.choices[0].delta for chunk in chunks if chunk.choices[0].delta.tool_calls)
        (call,) = delta.tool_calls
        assert (call.function.name, call.function.arguments) == ("lookup", '{"q":"a"}')
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        asked = {"role": "assistant", "content": None, "tool_calls": [call.model_dump(exclude={"index"})]}
        given = {"role": "tool", "tool_call_id": call.id, "content": "found it"}
        whole = await desk.ask([question, asked, given], key=key, tools=NESTED)
        assert "lookup answered: found it" in answer_of(whole)
        assert "double answered: 8" in answer_of(whole)  # of the house: it ran here, unseen
        again = await desk.ask([question, asked, given], key=key, tools=NESTED) if key else whole
        assert answer_of(again) == answer_of(whole)  # a repeat after a reply that was lost
        assert await desk.threads() == (1 if key else 0)


async def test_outputs_are_given_all_at_once_or_refused() -> None:
    async with openai_desk() as desk:
        question = desk.user('[[call:lookup {"q":"a"}]] [[call:lookup {"q":"b"}]]')
        whole = await desk.ask([question], key="k", tools=NESTED)
        message = whole.choices[0].message.model_dump(exclude_none=True)
        first, second = (
            {"role": "tool", "tool_call_id": call["id"], "content": str(number)}
            for number, call in enumerate(message["tool_calls"])
        )
        with pytest.raises(openai.BadRequestError, match="an output is missing"):
            await desk.ask([question, message, first], key="k", tools=NESTED)
        answer = await desk.ask([question, message, second, first], key="k", tools=NESTED)
        assert "lookup answered: 0. lookup answered: 1." in answer_of(answer)


async def test_a_turn_that_nobody_could_answer_is_an_error_and_may_be_asked_again() -> None:
    async with openai_desk(max_attempts=1) as desk:
        desk.server.simulator.faults.append(_fault())
        with pytest.raises(openai.APIStatusError) as failed:
            await desk.chat("hello", key="k")
        assert (failed.value.status_code, failed.value.code) == (502, "model_refused")
        desk.server.simulator.faults.append(_fault())
        with pytest.raises(openai.APIError, match="request format"):
            await streamed(desk, [desk.user("hello")], key="k")
        assert answer_of(await desk.chat("hello", key="k"))


def _fault() -> Fault:
    return Fault(kind="400")


@pytest.mark.daily(rows=2)  # all take one way
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"messages": []}, 400, "'messages' must be"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "'role' is one of"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "the last message must be a user's"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "'message'"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 400, "transcribe it"),
        ({"n": 2}, 400, "a turn has one answer"),
        ({"audio": {"voice": "alloy"}}, 400, "sound is neither"),
        ({"tools": [{"type": "function", "function": {}}]}, 400, "needs a 'name'"),
        ({"model": None}, 400, "'model' is missing"),
        ({"metadata": {"channel": ""}}, 400, "'channel'"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "c", "content": "x"}]}, 404,
         "not there"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused_in_openais_form(body: dict[str, Any], status: int, said: str) -> None:
    async with openai_desk() as desk:
        whole = {"model": desk.model, "metadata": {"channel": "k"}, "messages": [desk.user("x")], **body}
        async with desk.server.http.post(f"{desk.server.url}/v1/chat/completions", json=whole) as told:
            error = (await told.json())["error"]
        assert (told.status, set(error)) == (status, {"message", "type", "param", "code"})
        assert said in error["message"]
        assert await desk.threads() == 0


@pytest.mark.daily(rows=2)  # all take one way
@pytest.mark.parametrize("path", ["files", "files/file-1/content", "vector_stores", "embeddings", "audio/speech"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_not_offered_names_the_way_out(path: str, method: str) -> None:
    async with openai_desk() as desk, desk.server.http.request(method, f"{desk.server.url}/v1/{path}") as told:
        assert (told.status, (await told.json())["error"]["code"]) == (400, "unsupported")


async def test_who_answers_is_for_those_who_manage_and_a_channel_is_no_credential() -> None:
    async with served(auth="on") as server:
        mine = await server.queue.assistants.default("default")
        other = await server.queue.assistants.create("default", {"name": "other"}, now=1.0)
        assert mine is not None

        async def status(model: str, *scopes: Any, **more: Any) -> int:
            headers = await bearer(server, *scopes) if scopes else {}
            body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "metadata": {"channel": "k"}}
            url = f"{server.url}/v1/chat/completions"
            async with server.http.post(url, json={**body, **more}, headers=headers) as told:
                return told.status

        assert await status(mine.assistant_id, "send", "read") == 200
        assert await status(other.assistant_id, "send", "read") == 403
        assert await status(mine.assistant_id, "send") == 403
        assert await status(mine.assistant_id, "send", "read", tools=NESTED) == 403
        assert await status(mine.assistant_id, "send", "read", temperature=0.1) == 403
        assert await status(mine.assistant_id) == 401


async def test_a_page_of_a_named_origin_may_ask_by_openais_client() -> None:
    asked = "authorization,content-type,openai-beta,x-conversation-id,x-stainless-lang,x-stainless-retry-count"
    headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    async with served(origins=("https://page.example",)) as server:
        url = f"{server.url}/v1/chat/completions"
        headers["Access-Control-Request-Headers"] = asked
        async with server.http.options(url, headers=headers) as told:
            assert told.status == 200
            assert set(asked.split(",")) <= {
                name.strip().lower() for name in told.headers["Access-Control-Allow-Headers"].split(",")
            }


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "lookup"}}])
async def test_a_call_that_is_demanded_is_demanded_once(choice: Any) -> None:
    async with openai_desk() as desk:
        desk.server.simulator.options = desk.server.simulator.options.but({"keep_bodies": True})
        question = desk.user(WANTS_LOOKUP)
        asked = (await desk.ask([question], key="k", tools=NESTED, tool_choice=choice)).choices[0].message
        given = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "found"}
        messages = [question, asked.model_dump(exclude_none=True), given]
        await desk.ask(messages, key="k", tools=NESTED, tool_choice=choice)
        first, second = (exchange.body for exchange in desk.server.simulator.ledger)
        assert first["tool_choice"] in ("required", {"type": "function", "name": "lookup"})
        assert "tool_choice" not in second


@pytest.mark.parametrize("stream", [True, False])
async def test_a_question_that_stands_for_itself_ends_with_whoever_asks(stream: bool) -> None:
    """Nobody could ever ask for its answer again: it is stopped, and nothing of it stays."""
    async with openai_desk() as desk:
        asking = asyncio.ensure_future(desk.ask([desk.user("[[words:4000]] [[pace:20]]")], stream=stream))
        if stream:
            answer = await asking
            async for chunk in answer:
                if chunk.choices[0].delta.content:
                    break
            await answer.close()
        else:
            await until(lambda: len(desk.server.simulator.ledger) == 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        async with asyncio.timeout(PATIENCE):
            while await desk.threads():
                await asyncio.sleep(0.05)
        assert len(desk.server.simulator.ledger) == 1
