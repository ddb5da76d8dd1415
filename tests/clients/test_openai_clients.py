"""OpenAI's clients, unmodified, at our doors: for Node the last 4.x and the newest, for Python the last 1.x and the
newest. Each is driven by a program that does what a program would do.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.clients.node import Driver
from tests.patience import PATIENCE
from tests.process.openai_desk import FLAT, NESTED, WANTS_LOOKUP
from tests.process.served import Served, served
from turnkeep.messages import AssistantItem, UserItem, content_text
from turnkeep.simulator import Fault
from turnkeep.tools.tool import Tool, tool

pytestmark = pytest.mark.xdist_group("openai clients")  # they share programs

KEYS = itertools.count()
CLIENTS = ["node-4", "node-7", "python-1", "python-3"]
NEWEST = [
    pytest.param("node-4", marks=pytest.mark.only_in_prove),  # the newest one shows the kind daily
    "node-7",
    pytest.param("python-1", marks=pytest.mark.only_in_prove),  # as above
    "python-3",
]
newest_daily = pytest.mark.parametrize("client", NEWEST, indirect=True)
THINKING = {"reasoning": {"effort": "low", "summary": "auto"}}
GOLDEN = (
    '[[reason:Hm.]] [[comment:Let me see.]] [[call:look {"amount":1}]] [[call:secret {"word":"x"}]] '
    '[[then:pay {"amount":2}]]'
)


@tool(effect="pure")
def look(amount: int) -> str:
    """Look."""
    return f"saw {amount}"


@tool(effect="pure")
def secret(word: str) -> str:
    """Look at what nobody else may see."""
    return f"{word} is hidden"


@tool(needs_approval=True, self_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


TOOLS: list[Tool] = [look, secret, pay]


class Client:
    """A version of the client at a house."""

    def __init__(self, program: Driver, major: int, house: Served, model: str) -> None:
        self._program, self._major = program, major
        self.house, self.model = house, model

    async def ask(self, act: str, **about: Any) -> Any:
        return await self._program.ask(act, url=self.house.url, major=self._major, **about)

    async def chat(self, text: str, **about: Any) -> Any:
        return await self.ask("chat", model=self.model, messages=[{"role": "user", "content": text}], **about)

    async def respond(self, text: Any, **about: Any) -> Any:
        return await self.ask("respond", model=self.model, input=text, **about)

    async def assist(self, *texts: str, **about: Any) -> Any:
        return await self.ask("assist", assistant=self.model, texts=texts, **about)

    async def words(self, channel: str) -> list[str]:
        """What the assistant said, in the transcript."""
        history = await self.house.queue.store.history(self.house.queue.address(channel))
        return [entry.item.text for entry in history.entries if isinstance(entry.item, AssistantItem)]

    async def approve(self, channel: str) -> None:
        """Somebody else decides, at another door, what the turn waits for."""
        address = self.house.queue.address(channel)
        async with asyncio.timeout(PATIENCE):
            while (record := await self.house.queue.store.thread(address)) is None or record.state != "held":
                await asyncio.sleep(0.02)
        (call,) = record.calls
        url = f"{self.house.url}/api/channels/{channel}/actions/{call.call_id}"
        body = {"decision": "approved", "digest": call.digest}
        async with self.house.http.post(url, json=body) as told:
            assert told.status == 200


@pytest.fixture(params=CLIENTS)
async def client(request: pytest.FixtureRequest, openai_programs: Callable[[str], Driver]) -> AsyncIterator[Client]:
    language, _, major = request.param.partition("-")
    running = openai_programs(f"older {language}" if major == "1" else language)
    async with served(tools=TOOLS) as house:
        assistants = house.queue.assistants
        profile = await assistants.default("default")
        assert profile is not None
        values = {"show_reasoning": True, "parameters": THINKING}
        await assistants.change("default", profile.assistant_id, values)
        yield Client(running, int(major), house, profile.assistant_id)


def break_once(house: Served) -> None:
    """The second request of the turn ends in its middle: it is made again."""
    house.simulator.faults.append(Fault(kind="cut", after=1, how="reset", times=1, step=1))


@newest_daily
async def test_models_are_listed(client: Client) -> None:
    assert await client.ask("models") == [client.model]


async def test_a_golden_turn_as_a_chat(client: Client) -> None:
    break_once(client.house)
    asking = asyncio.ensure_future(client.chat(GOLDEN, key="golden", stream=True))
    await client.approve("golden")
    told = await asking
    assert told["text"] == "\n\n".join(await client.words("golden"))
    assert told["text"].startswith("Let me see.")
    assert "pay answered: paid 2" in told["text"]
    assert (told["reason"], told["calls"], "Hm." in told["thoughts"]) == ("stop", [], True)
    whole = await client.chat("[[say:again]]", key="whole")
    assert (whole["text"], whole["metadata"]["outcome"]) == ("again", "completed")


@pytest.mark.daily(rows=2)  # the older ones here, the newest ones in what follows
async def test_a_golden_turn_as_a_response(client: Client) -> None:
    break_once(client.house)
    asking = asyncio.ensure_future(client.respond(GOLDEN, key="golden", stream=True))
    await client.approve("golden")
    told = await asking
    assert told["text"] == "\n\n".join(await client.words("golden"))
    assert (told["status"], told["calls"], told["thoughts"]) == ("completed", [], "Hm.")
    first = await client.respond(WANTS_LOOKUP, tools=FLAT)
    output = {"type": "function_call_output", "call_id": first["calls"][0]["call_id"], "output": "found"}
    second = await client.respond([output], previous=first["id"], tools=FLAT)
    assert second["text"] == "lookup answered: found."


@pytest.mark.daily(rows=2)  # the older ones here, the newest ones in what follows
async def test_a_golden_turn_as_a_run(client: Client) -> None:
    functions = [{"type": "function", **FLAT[0]}, "look", "secret", "pay"]
    await client.house.queue.assistants.change("default", client.model, {"tools": functions})
    for stream in (False, True):
        told = await client.assist(WANTS_LOOKUP, outputs={"lookup": "found"}, stream=stream)
        assert (told["status"], told["messages"][-1]) == ("completed", ["assistant", "lookup answered: found."])
        assert told["streamed"] == ("lookup answered: found." if stream else "")
    break_once(client.house)
    asking = asyncio.ensure_future(client.assist(GOLDEN, thread=await thread_of(client), stream=True))
    thread_id = (await newest(client)).address.channel
    await client.approve(thread_id)
    told = await asking
    assert (told["status"], told["events"][-1]) == ("completed", "run.completed")
    assert [text for role, text in told["messages"] if role == "assistant"] == await client.words(thread_id)


async def thread_of(client: Client) -> str:
    async with client.house.http.post(f"{client.house.url}/v1/threads", json={}) as told:
        return str((await told.json())["id"])


async def newest(client: Client) -> Any:
    records = [record async for record in client.house.queue.store.scan()]
    return max(records, key=lambda record: record.created_at)


@newest_daily
async def test_a_turn_that_is_stopped_ends_with_what_was_shown(client: Client) -> None:
    for door in ("chat", "respond"):
        mark = f"{door}-{next(KEYS)}"
        asking = asyncio.ensure_future(
            getattr(client, door)("[[words:4000]] [[pace:20]]", key=mark, stream=True, mark=mark)
        )
        while await client.ask("progress", mark=mark) < 2:
            await asyncio.sleep(0.02)
        async with client.house.http.post(f"{client.house.url}/api/channels/{mark}/cancel") as told:
            assert told.status == 200
        assert (await asking)["text"] == (await client.words(mark))[0]


@newest_daily
async def test_a_burst_of_three_is_one_turn(client: Client) -> None:
    options = {"window": 1.5, "max_wait": 10.0}
    await client.house.queue.create_thread("burst")
    async with client.house.http.patch(f"{client.house.url}/api/channels/burst", json={"options": options}) as told:
        assert told.status == 200
    texts = ("one", "two", "three")
    answers = await asyncio.gather(*(client.respond(text, key="burst") for text in texts))
    assert len({answer["text"] for answer in answers}) == 1
    assert len(answers[0]["metadata"]["covers"].split(",")) == 3
    history = await client.house.queue.store.history(client.house.queue.address("burst"))
    users = [content_text(e.item.content) for e in history.entries if isinstance(e.item, UserItem)]
    assert sorted(users) == sorted(texts)


@newest_daily
async def test_functions_of_a_chat_are_the_programs_own(client: Client) -> None:
    for stream in (False, True):
        key = f"functions-{next(KEYS)}"
        told = await client.chat(WANTS_LOOKUP, key=key, tools=NESTED, stream=stream)
        (call,) = told["calls"]
        assert (told["reason"], call["function"]["name"]) == ("tool_calls", "lookup")
        asked = {"role": "assistant", "content": None, "tool_calls": [{k: call[k] for k in ("id", "type", "function")}]}
        given = {"role": "tool", "tool_call_id": call["id"], "content": "found"}
        messages = [{"role": "user", "content": WANTS_LOOKUP}, asked, given]
        told = await client.ask("chat", model=client.model, messages=messages, key=key, tools=NESTED, stream=stream)
        assert told["text"] == "lookup answered: found."
