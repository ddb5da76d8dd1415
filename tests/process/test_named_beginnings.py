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
from tests.process.openai_desk import NESTED, WANTS_LOOKUP
from tests.process.served import Served, served
from tests.scenario.house import gate_answers
from turnkeep.auth.api_keys import ApiKeys
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


@pytest.mark.parametrize("name", ASKS)
async def test_two_at_once_are_one(house: Served, name: str) -> None:
    told = await asyncio.gather(*(tell(house, ASKS[name], stream=way) for way in (False, True, False)))

    assert told[0].status == 200
    assert len(set(told)) == 1
    assert len(house.simulator.ledger) <= MOST_TURNS[name]
    assert await threads(house) == 1
    assert (await items(house)).count("user") == MOST_TURNS[name] + ("past" in name)


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


@pytest.mark.parametrize("name", ALONE)
async def test_what_is_not_kept_goes_with_its_name(house: Served, name: str) -> None:
    await tell(house, ASKS[name])

    [record] = [record async for record in house.queue.store.scan()]
    assert record.expires_at - record.active_at == pytest.approx(RESULT_LIFETIME)


@pytest.mark.parametrize("name", ASKS)
async def test_what_was_forgotten_meanwhile_is_not_asked_again(house: Served, name: str) -> None:
    await tell(house, ASKS[name])
    [record] = [record async for record in house.queue.store.scan()]
    await house.queue.store.forget(record.address)
    requests = len(house.simulator.ledger)

    again = await tell(house, ASKS[name])

    assert (again.status, len(house.simulator.ledger)) == (404, requests), again
    assert await threads(house) == 0


async def test_calls_of_the_caller_are_told_again_and_their_outputs_are_given_once(house: Served) -> None:
    default = await house.queue.assistants.default("default")
    assert default is not None
    question = {"role": "user", "content": WANTS_LOOKUP}
    body = {"model": default.assistant_id, "messages": [question], "tools": NESTED}
    asked = [await post(house, CHAT, body) for _ in range(2)]
    calls = [one["choices"][0]["message"]["tool_calls"] for _, one in asked]
    assert calls[0] == calls[1]
    assert asked[0][1]["id"] == asked[1][1]["id"]

    output = {"role": "tool", "tool_call_id": calls[0][0]["id"], "content": "42"}
    said = {"role": "assistant", "content": None, "tool_calls": calls[0]}
    given = [await post(house, CHAT, {**body, "messages": [question, said, output]}, "k2") for _ in range(2)]

    assert given[0][0] == 200, given
    assert given[0][1]["choices"] == given[1][1]["choices"]
    assert (len(house.simulator.ledger), await threads(house)) == (2, 1)


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


async def test_an_answer_made_anew_is_made_once(house: Served) -> None:
    ask = ASKS["a chat in a conversation"]
    first = await tell(house, ask)

    anew = [await tell(house, ask, key="k2") for _ in range(2)]

    assert anew[0] == anew[1]
    assert anew[0].name != first.name
    assert len(house.simulator.ledger) == 2


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


@pytest.mark.parametrize("name", ["a message", "items"])
async def test_other_words_under_the_name_are_refused(house: Served, name: str) -> None:
    thread = (await house.queue.create_thread()).thread_id
    path, body = MAKES[name](thread)
    await post(house, path, body)
    before = await items(house)

    status, told = await post(house, path, {**USER, "content": "other", "items": [{**USER, "content": "other"}]})

    assert (status, told["error"]["code"]) == (409, "message_conflict")
    assert await items(house) == before


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
