"""A caller that names a call which begins something may send it again: it has begun it once, and is told the same.

Each request that makes a thread, a turn or an item is in a table here; those that change what is there are in
`test_idempotency_keys`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.patience import PATIENCE, until
from tests.process.openai_desk import FLAT, NESTED, WANTS_LOOKUP
from tests.process.served import Served, served
from tests.scenario.house import gate_answers
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.clock import SystemClock
from turnkeep.store.operations import RESULT_LIFETIME

Body = dict[str, Any]
USER, SAID = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "Who is there?"}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


class Ask(NamedTuple):
    """A request that is answered."""

    path: str
    body: Body
    headers: Mapping[str, str] = {}


ASKS = {
    "a response": Ask(RESPONSES, {"input": "hello"}),
    "a response with a past": Ask(RESPONSES, {"input": [USER, SAID, {"role": "user", "content": "Ada"}]}),
    "a response to two messages": Ask(RESPONSES, {"input": [USER, {"role": "user", "content": "more"}]}),
    "a response that is not kept": Ask(RESPONSES, {"input": "hello", "store": False}),
    "a response in a conversation": Ask(RESPONSES, {"input": "hello", "conversation": "c"}),
    "two messages in a conversation": Ask(
        RESPONSES, {"input": [USER, {"role": "user", "content": "more"}], "conversation": "c"}
    ),
    "a past in a conversation": Ask(
        RESPONSES, {"input": [USER, SAID, {"role": "user", "content": "Ada"}], "conversation": "c"}
    ),
    "a chat": Ask(CHAT, {"messages": [USER]}),
    "a chat with a past": Ask(CHAT, {"messages": [USER, SAID, {"role": "user", "content": "Ada"}]}),
    "a chat in a conversation": Ask(CHAT, {"messages": [USER]}, {"X-Conversation-Id": "c"}),
    "a title beside a conversation": Ask(CHAT, {"messages": [USER]}, {"X-Conversation-Id": "c", "X-Task": "title"}),
}  # fmt: skip
MOST_TURNS = {name: 2 if "two messages" in name else 1 for name in ASKS}
"""Two messages are one turn, unless a busy machine takes longer over the second than their window."""
ALONE = ("a response that is not kept", "a chat", "a chat with a past", "a title beside a conversation")
PACED = "[[pace:1]] [[words:20]]"


class Told(NamedTuple):
    """What an answer says: its id and its text, or how it was refused."""

    status: int
    name: str
    text: str


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url())
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'queue.db'}"


@pytest_asyncio.fixture
async def house(place: str) -> AsyncIterator[Served]:
    async with served(place) as house:
        await house.queue.open()
        yield house


async def tell(house: Served, ask: Ask, *, key: str = "k1", stream: bool = False, **more: Any) -> Told:
    default = await house.queue.assistants.default("default")
    assert default is not None
    body = {"model": default.assistant_id, **ask.body, "stream": stream, **more.pop("body", {})}
    headers = {"Idempotency-Key": key, **ask.headers, **more}
    async with house.http.post(house.url + ask.path, json=body, headers=headers) as reply:
        text = await reply.text()
    if reply.status != 200:
        return Told(reply.status, json.loads(text)["error"]["code"], text)
    return _streamed(text) if stream else _whole(json.loads(text))


def _whole(form: Body) -> Told:
    if "choices" in form:
        return Told(200, form["id"], form["choices"][0]["message"]["content"])
    return Told(200, form["id"], "".join(part["text"] for item in form["output"] for part in item["content"]))


def _streamed(text: str) -> Told:
    frames = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    if ends := [frame["response"] for frame in frames if frame.get("type") == "response.completed"]:
        return _whole(ends[-1])
    deltas = [choice["delta"].get("content") or "" for frame in frames for choice in frame["choices"]]
    return Told(200, frames[0]["id"], "".join(deltas))


def paced(ask: Ask) -> Ask:
    """The same, with an answer that stands still in its middle until its gate is open."""
    if "input" in ask.body:
        value = ask.body["input"]
        last = PACED if isinstance(value, str) else [*value[:-1], {"role": "user", "content": PACED}]
        return ask._replace(body={**ask.body, "input": last})
    return ask._replace(body={"messages": [*ask.body["messages"][:-1], {"role": "user", "content": PACED}]})


async def threads(house: Served) -> int:
    return len([record async for record in house.queue.store.scan()])


async def waiting(house: Served) -> int:
    """Messages that nobody has answered."""
    return (await house.queue.store.counts()).open_messages


async def items(house: Served) -> list[str]:
    """Kinds of all that stands in transcripts."""
    store = house.queue.store
    records = [record async for record in store.scan()]
    return [entry.item.kind for one in records for entry in (await store.history(one.address)).entries]


# ---------------------------------------------------------------- answers


@pytest.mark.daily(rows=11)  # all take one way
@pytest.mark.parametrize("stream", [False, True], ids=["waited for", "streamed"])
@pytest.mark.parametrize("name", ASKS)
async def test_a_settled_answer_is_told_again(house: Served, name: str, stream: bool) -> None:
    first = await tell(house, ASKS[name], stream=stream)
    before, requests = await items(house), len(house.simulator.ledger)

    again = [await tell(house, ASKS[name], stream=way) for way in (stream, not stream)]

    assert first.status == 200
    assert first.text
    assert again == [first, first]
    assert requests <= MOST_TURNS[name]
    assert (len(house.simulator.ledger), await threads(house), await items(house)) == (requests, 1, before)
    assert await waiting(house) == 0


@pytest.mark.daily(rows=11)  # all take one way
@pytest.mark.parametrize("stream", [False, True], ids=["waited for", "streamed"])
@pytest.mark.parametrize("name", ASKS)
async def test_an_answer_in_progress_is_told_to_both(house: Served, name: str, stream: bool) -> None:
    gate, ask = gate_answers(house.simulator), paced(ASKS[name])
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(tell(house, ask, stream=stream))
        await until(lambda: house.simulator.ledger)
        watching = house.queue.hub.subscribers
        again = tasks.create_task(tell(house, ask, stream=not stream))
        await until(lambda: house.queue.hub.subscribers > watching)
        gate.set()

    assert first.result().status == 200
    assert again.result() == first.result()
    assert len(house.simulator.ledger) <= MOST_TURNS[name]
    assert await threads(house) == 1


@pytest.mark.daily(rows=5)  # all take one way
@pytest.mark.parametrize("name", ASKS)
async def test_two_at_once_are_one(house: Served, name: str) -> None:
    told = await asyncio.gather(*(tell(house, ASKS[name], stream=way) for way in (False, True, False)))

    assert told[0].status == 200
    assert len(set(told)) == 1
    assert len(house.simulator.ledger) <= MOST_TURNS[name]
    assert await threads(house) == 1
    assert (await items(house)).count("user") == MOST_TURNS[name] + ("past" in name)


@pytest.mark.daily(rows=7)  # all take one way
@pytest.mark.parametrize("name", ASKS)
async def test_another_text_under_the_name_is_refused_and_touches_nothing(house: Served, name: str) -> None:
    ask = ASKS[name]
    first = await tell(house, ask)
    before, requests = await items(house), len(house.simulator.ledger)
    field = "input" if "input" in ask.body else "messages"
    other = [{"role": "user", "content": "earlier"}, {"role": "user", "content": "other"}]

    refused = await tell(house, ask, body={field: other})

    assert (refused.status, refused.name) == (409, "message_conflict"), refused
    assert await tell(house, ask) == first
    assert (len(house.simulator.ledger), await threads(house), await items(house)) == (requests, 1, before)


@pytest.mark.daily(rows=5)  # all take one way
@pytest.mark.parametrize("name", ALONE)
async def test_who_hung_up_in_the_middle_is_told_by_the_repeat(house: Served, name: str) -> None:
    gate, ask = gate_answers(house.simulator), paced(ASKS[name])
    first = asyncio.create_task(tell(house, ask, stream=True))
    await until(lambda: len(house.simulator.ledger) == 1)
    first.cancel()
    await asyncio.wait([first])
    gate.set()

    again = await tell(house, ask)

    assert again.status == 200
    assert again.text
    assert (len(house.simulator.ledger), await threads(house)) == (1, 1)


@pytest.mark.daily(rows=6)  # all take one way
@pytest.mark.parametrize("name", ALONE)
async def test_what_is_not_kept_goes_with_its_name(house: Served, name: str) -> None:
    await tell(house, ASKS[name])

    [record] = [record async for record in house.queue.store.scan()]
    assert record.expires_at - record.active_at == pytest.approx(RESULT_LIFETIME)


@pytest.mark.daily(rows=11)  # all take one way
@pytest.mark.parametrize("name", ASKS)
async def test_what_was_forgotten_meanwhile_is_not_asked_again(house: Served, name: str) -> None:
    await tell(house, ASKS[name])
    [record] = [record async for record in house.queue.store.scan()]
    await house.queue.store.forget(record.address)
    requests = len(house.simulator.ledger)

    again = await tell(house, ASKS[name])

    assert (again.status, len(house.simulator.ledger)) == (404, requests), again
    assert await threads(house) == 0


@pytest.mark.daily(rows=3)  # all take one way
async def test_outputs_without_a_name_forget_the_chat_as_ever(house: Served) -> None:
    caller = CALLERS["a chat"]
    first = await request(house, caller, caller.question)
    gate_answers(house.simulator).set()
    await request(house, caller, caller.outputs(first), key=None)

    again = await tell(house, Ask(CHAT, caller.question))

    assert (again.status, len(house.simulator.ledger), await threads(house)) == (404, 2, 0), again


class Caller(NamedTuple):
    """Who runs functions of his own: his question, and the request that gives their outputs."""

    path: str
    question: Body
    outputs: Callable[[Body], Body]
    headers: Mapping[str, str] = {}


def calls_of(form: Body) -> list[Body]:
    if "choices" in form:
        return list(form["choices"][0]["message"]["tool_calls"])
    return [item for item in form["output"] if item["type"] == "function_call"]


def resent(form: Body) -> Body:
    calls = calls_of(form)
    output = {"role": "tool", "tool_call_id": calls[0]["id"], "content": "42"}
    return {"messages": [LOOKUP, {"role": "assistant", "content": None, "tool_calls": calls}, output], "tools": NESTED}


def output_item(form: Body) -> list[Body]:
    return [{"type": "function_call_output", "call_id": calls_of(form)[0]["call_id"], "output": "42"}]


LOOKUP = {"role": "user", "content": f"{WANTS_LOOKUP} [[pace:1]]"}
CALLERS = {
    "a chat": Caller(CHAT, {"messages": [LOOKUP], "tools": NESTED}, resent),
    "a chat in a conversation": Caller(
        CHAT, {"messages": [LOOKUP], "tools": NESTED}, resent, {"X-Conversation-Id": "c"}
    ),
    "a response": Caller(
        RESPONSES, {"input": [LOOKUP], "tools": FLAT},
        lambda form: {"input": output_item(form), "previous_response_id": form["id"]},
    ),
    "a response in a conversation": Caller(
        RESPONSES, {"input": [LOOKUP], "tools": FLAT, "conversation": "c"},
        lambda form: {"input": output_item(form), "conversation": "c"},
    ),
}  # fmt: skip


@pytest.mark.daily(rows=6)  # all take one way
@pytest.mark.parametrize("is_settled", [False, True], ids=["goes on", "is settled"])
@pytest.mark.parametrize("name", CALLERS)
async def test_an_answer_of_calls_is_told_again_when_its_turn(house: Served, name: str, is_settled: bool) -> None:
    caller, gate = CALLERS[name], gate_answers(house.simulator)
    first = await request(house, caller, caller.question)
    answer = asyncio.create_task(request(house, caller, caller.outputs(first), "k2"))
    async with asyncio.timeout(PATIENCE):
        await until(lambda: len(house.simulator.ledger) == 2)
        if is_settled:
            gate.set()
            await answer

        again = await request(house, caller, caller.question)

        gate.set()
        assert timeless(again) == timeless(first)
        assert calls_of(first)
        given = await answer
        assert timeless(await request(house, caller, caller.outputs(first), "k2")) == timeless(given)
    assert (len(house.simulator.ledger), await threads(house)) == (2, 1)


async def request(house: Served, caller: Caller, body: Body, key: str | None = "k1") -> Body:
    default = await house.queue.assistants.default("default")
    assert default is not None
    headers = {**({} if key is None else {"Idempotency-Key": key}), **caller.headers}
    async with house.http.post(
        house.url + caller.path, json={"model": default.assistant_id, **body}, headers=headers
    ) as reply:
        form: Body = await reply.json()
    assert reply.status == 200, form
    return form


def timeless(form: Body) -> Body:
    """Without when it says that it was made, which is now."""
    return {name: value for name, value in form.items() if name not in ("created", "created_at", "completed_at")}


@pytest.mark.daily(rows=3)  # all take one way
@pytest.mark.parametrize("stream", [False, True], ids=["waited for", "streamed"])
async def test_outputs_of_a_run_are_given_once(house: Served, stream: bool) -> None:
    default = await house.queue.assistants.default("default")
    assert default is not None
    thread = {"messages": [{"role": "user", "content": WANTS_LOOKUP}]}
    _, run = await post(
        house, "/v1/threads/runs", {"assistant_id": default.assistant_id, "thread": thread, "tools": NESTED}
    )
    url = f"{house.url}/v1/threads/{run['thread_id']}/runs/{run['id']}"

    async def reach(status: str) -> Body:
        async with asyncio.timeout(PATIENCE):
            while True:
                async with house.http.get(url) as reply:
                    form: Body = await reply.json()
                if form["status"] == status:
                    return form
                await asyncio.sleep(0.01)

    action = (await reach("requires_action"))["required_action"]
    call_id = action["submit_tool_outputs"]["tool_calls"][0]["id"]

    async def give(output: str, key: str | None = "k2") -> int:
        body = {"tool_outputs": [{"tool_call_id": call_id, "output": output}], "stream": stream}
        headers = {} if key is None else {"Idempotency-Key": key}
        async with house.http.post(f"{url}/submit_tool_outputs", json=body, headers=headers) as reply:
            await reply.read()
        return reply.status

    answers = [await give("42"), await give("42")]
    await reach("completed")

    assert [*answers, await give("42")] == [200] * 3
    assert [await give("43"), await give("42", key=None)] == [400] * 2  # as ever: these are no repeats
    assert len(house.simulator.ledger) == 2


@pytest.mark.daily(rows=5)  # all take one way
@pytest.mark.parametrize("name", ["a response", "a chat", "a chat in a conversation"])
async def test_a_failure_is_told_again(house: Served, name: str) -> None:
    ask = ASKS[name]
    field = "input" if "input" in ask.body else "messages"
    body = {field: [{"role": "user", "content": "[[fault:400]] hello"}]}
    first = await tell(house, ask, body=body)
    requests = len(house.simulator.ledger)

    assert first.status == 502, first
    assert await tell(house, ask, body=body) == first
    assert (len(house.simulator.ledger), await threads(house)) == (requests, 1)


@pytest.mark.daily(rows=5)  # all take one way
@pytest.mark.parametrize("name", ["a response in a conversation", "a chat in a conversation"])
async def test_an_answer_is_told_again_when_its_conversation_has_gone_on(house: Served, name: str) -> None:
    first = await tell(house, ASKS[name])
    past = {"role": "assistant", "content": first.text}
    more = {"messages": [USER, past, {"role": "user", "content": "more"}]}
    await tell(house, ASKS["a chat in a conversation"], key="k2", body=more)

    assert await tell(house, ASKS[name]) == first
    assert len(house.simulator.ledger) == 2


@pytest.mark.daily(rows=3)  # all take one way
async def test_an_answer_made_anew_is_refused_when_its_conversation_has_gone_on(house: Served) -> None:
    ask = ASKS["a chat in a conversation"]
    await tell(house, ask)
    anew = await tell(house, ask, key="k2")
    past = {"role": "assistant", "content": anew.text}
    await tell(house, ask, key="k3", body={"messages": [USER, past, {"role": "user", "content": "more"}]})
    before = await items(house)

    again = await tell(house, ask, key="k2")

    assert (again.status, again.name) == (409, "conflict")
    assert (len(house.simulator.ledger), await items(house)) == (3, before)


WRONG = {
    "no words": [{"role": "user", "content": ""}],
    "an unknown part": [{"role": "user", "content": [{"type": "nonsense"}]}],
    "a wrong past": [{"role": "user", "content": [{"type": "image_url"}]}, SAID, USER],
    "nothing to answer": [USER, SAID],
}


@pytest.mark.daily(rows=9)  # all take one way
@pytest.mark.parametrize("content", WRONG)
@pytest.mark.parametrize("name", ["a response", "a chat"])
async def test_what_is_wrong_makes_no_thread(house: Served, name: str, content: str) -> None:
    field = "input" if name == "a response" else "messages"

    refused = await tell(house, ASKS[name], body={field: WRONG[content]})

    assert refused.status == 400, refused
    assert await threads(house) == 0
    assert (await tell(house, ASKS[name])).status == 200  # the name is free


@pytest.mark.daily(rows=4)  # all take one way
@pytest.mark.parametrize(("key", "status"), [("k" * 512, 200), ("é%00/..;", 200), ("k" * 513, 400), ("", 400)])
async def test_a_key_is_any_text_of_512_characters(house: Served, key: str, status: int) -> None:
    answers = {await tell(house, ASKS["a response"], key=key) for _ in range(2)}

    assert [one.status for one in answers] == [status]


async def test_a_name_that_was_used_a_day_ago_is_refused_as_long_as_its_message_is_known() -> None:
    clock = LeapingClock()
    async with served(clock=clock) as house:
        first = await tell(house, ASKS["a chat"])
        again = []
        for hours in (23, 25, 7 * 24):
            clock.ahead += hours * 3600.0
            again.append(await tell(house, ASKS["a chat"]))

        assert again[0] == first
        assert (again[1].status, len(house.simulator.ledger)) == (404, 2), again
        assert again[2].status == 200


class LeapingClock(SystemClock):
    """The machine's, so many seconds ahead."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def elapsed(self) -> float:
        return super().elapsed() + self.ahead


@pytest.mark.daily(rows=3)  # all take one way
async def test_a_response_that_goes_on_from_another_does_so_once(house: Served) -> None:
    first = await tell(house, ASKS["a response"])
    ask = Ask(RESPONSES, {"input": "and then?", "previous_response_id": first.name})

    told = [await tell(house, ask, key="k2") for _ in range(2)]

    assert told[0].status == 200
    assert told[0] == told[1]
    assert (len(house.simulator.ledger), await threads(house)) == (2, 1)


async def test_a_thread_that_begins_at_an_earlier_response_is_one(tmp_path: Path) -> None:
    async with served(tmp_path / "queue.db", openai_history="fresh") as house:
        await house.queue.open()
        first = await tell(house, ASKS["a response"])
        told = []
        for key, text in (("k2", "and then?"), ("k3", "or else?"), ("k3", "or else?")):
            ask = Ask(RESPONSES, {"input": text, "previous_response_id": first.name})
            told.append(await tell(house, ask, key=key))
        assert told[1].status == 200
        assert told[1] == told[2] != told[0]
        assert (len(house.simulator.ledger), await threads(house)) == (3, 2)


@pytest.mark.daily(rows=3)  # all take one way
async def test_an_answer_made_anew_is_made_once(house: Served) -> None:
    ask = ASKS["a chat in a conversation"]
    first = await tell(house, ask)

    anew = [await tell(house, ask, key="k2") for _ in range(2)]

    assert anew[0] == anew[1]
    assert anew[0].name != first.name
    assert len(house.simulator.ledger) == 2


@pytest.mark.daily(rows=2)  # all take one way
@pytest.mark.parametrize("name", ["a response", "a chat"])
async def test_the_name_is_of_one_credential(name: str) -> None:
    async with served(auth="on") as house:
        keys = ApiKeys(house.queue.store)
        told = []
        for tenant in ("default", "default", "rival"):
            model = (await house.queue.assistants.create(tenant, {"name": "own"}, now=1.0)).assistant_id
            value, _ = await keys.create(tenant=tenant, scopes=("send", "read", "admin"))
            told.append(await tell(house, ASKS[name], body={"model": model}, Authorization=f"Bearer {value}"))
        assert [one.status for one in told] == [200, 200, 200], told
        assert len({one.name for one in told}) == 3
        assert len(house.simulator.ledger) == 3


@pytest.mark.daily(rows=3)  # all take one way
async def test_the_name_is_of_one_door(house: Served) -> None:
    told = [await tell(house, ASKS[name]) for name in ("a response", "a chat")]
    made = [await post(house, path, {}) for path in ("/v1/threads", "/v1/conversations", "/api/threads")]

    assert [one.status for one in told] + [status for status, _ in made] == [200, 200, 200, 200, 201]
    assert (len(house.simulator.ledger), await threads(house)) == (2, 5)


# ---------------------------------------------------------------- threads and items

Make = Callable[[str], tuple[str, Body]]

MAKES: dict[str, Make] = {
    "a thread of ours": lambda _: ("/api/threads", {"metadata": {"a": "1"}}),
    "a thread": lambda _: ("/v1/threads", {"metadata": {"a": "1"}}),
    "a thread with messages": lambda _: ("/v1/threads", {"messages": [USER, {**USER, "content": "more"}]}),
    "a conversation": lambda _: ("/v1/conversations", {"metadata": {"a": "1"}}),
    "a conversation with items": lambda _: ("/v1/conversations", {"items": [USER, SAID]}),
    "a message": lambda thread: (f"/v1/threads/{thread}/messages", USER),
    "words of the assistant": lambda thread: (f"/v1/threads/{thread}/messages", SAID),
    "items": lambda thread: (f"/v1/conversations/{thread}/items", {"items": [USER, SAID]}),
    "items of the assistant": lambda thread: (f"/v1/conversations/{thread}/items", {"items": [SAID]}),
}


async def post(house: Served, path: str, body: Body, key: str = "k1") -> tuple[int, Body]:
    async with house.http.post(house.url + path, json=body, headers={"Idempotency-Key": key}) as reply:
        return reply.status, await reply.json()


@pytest.mark.daily(rows=7)  # all take one way
@pytest.mark.parametrize("name", MAKES)
async def test_what_is_made_is_made_once(house: Served, name: str) -> None:
    thread = (await house.queue.create_thread()).thread_id
    path, body = MAKES[name](thread)
    first = await post(house, path, body)
    before = await threads(house), await items(house)

    again = await post(house, path, body)
    [one, other] = await asyncio.gather(post(house, path, body), post(house, path, body))

    assert first[0] in (200, 201), first
    assert again == one == other == first
    assert (await threads(house), await items(house)) == before
    assert (await post(house, path, body, "k2"))[1] != first[1]


@pytest.mark.daily(rows=7)  # all take one way
@pytest.mark.parametrize("name", MAKES)
async def test_two_that_make_at_once_make_one(house: Served, name: str) -> None:
    thread = (await house.queue.create_thread()).thread_id
    path, body = MAKES[name](thread)

    told = await asyncio.gather(*(post(house, path, body) for _ in range(3)))

    assert told[0][0] in (200, 201), told
    assert [one[1].get("id") for one in told] == [told[0][1].get("id")] * 3
    count = 1 if "role" in body else len(body.get("messages", [])) + len(body.get("items", []))
    assert len(await items(house)) == count
    assert await threads(house) == (1 if thread in path else 2)


@pytest.mark.daily(rows=5)  # all take one way
@pytest.mark.parametrize("path", ["/v1/threads", "/v1/conversations", "/api/threads"])
async def test_other_metadata_under_the_name_is_another_thread(house: Served, path: str) -> None:
    first, other, again = [await post(house, path, {"metadata": {"a": value}}) for value in ("1", "2", "1")]

    assert first == again
    assert other[1]["metadata"] == {"a": "2"}
    assert await threads(house) == 2


@pytest.mark.daily(rows=5)  # all take one way
@pytest.mark.parametrize("name", ["a message", "items"])
async def test_other_words_under_the_name_are_refused(house: Served, name: str) -> None:
    thread = (await house.queue.create_thread()).thread_id
    path, body = MAKES[name](thread)
    await post(house, path, body)
    before = await items(house)

    status, told = await post(house, path, {**USER, "content": "other", "items": [{**USER, "content": "other"}]})

    assert (status, told["error"]["code"]) == (409, "message_conflict")
    assert await items(house) == before


@pytest.mark.daily(rows=5)  # all take one way
@pytest.mark.parametrize("in_thread", [False, True], ids=["with its thread", "in a thread"])
@pytest.mark.parametrize("stream", [False, True], ids=["waited for", "streamed"])
async def test_a_run_is_begun_once(house: Served, stream: bool, in_thread: bool) -> None:
    default = await house.queue.assistants.default("default")
    assert default is not None
    path = "/v1/threads/runs"
    body = {"assistant_id": default.assistant_id, "additional_messages": [USER], "stream": stream}
    if in_thread:
        path = f"/v1/threads/{(await house.queue.create_thread()).thread_id}/runs"
    else:
        body["thread"] = {"messages": [USER]}
    ids = []
    for _ in range(2):
        async with house.http.post(house.url + path, json=body, headers={"Idempotency-Key": "k1"}) as reply:
            text = await reply.text()
        assert reply.status == 200, text
        frames = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        ids.append([one["id"] for one in frames or [json.loads(text)] if one["object"] == "thread.run"][-1])
        store, [record] = house.queue.store, [record async for record in house.queue.store.scan()]
        async with asyncio.timeout(PATIENCE):
            while await store.open_messages(record.address):
                await asyncio.sleep(0.01)

    assert ids[0] == ids[1]
    assert (len(house.simulator.ledger), await threads(house)) == (1, 1)
    assert (await items(house)).count("user") == (2 if in_thread else 3)


async def test_where_no_thread_more_may_be_made_a_repeat_has_its_own(tmp_path: Path) -> None:
    async with served(tmp_path / "queue.db") as house:
        first = await tell(house, ASKS["a response"])
    async with served(tmp_path / "queue.db", max_threads=1) as house:
        refused = await tell(house, ASKS["a response"], key="k2")

        assert (first.status, refused.status) == (200, 429), refused
        assert await tell(house, ASKS["a response"]) == first
