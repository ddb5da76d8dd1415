"""Every model server that has a name here, through everything that a conversation may bring.

One cell of the table is one thread: plain, a burst, one and two calls, thoughts, a past that another server made
(pictures, its ids, its signatures, interrupted turns), an overflow, a cut stream, a rate limit with its wait, a wrong
key and an empty account. OpenAI and Azure are asked over Responses as well. What a server cannot have is missing in its
dialect, and `docs/how-to/models.md` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.contract.canned import Canned, canned
from tests.dialect_of_responses import FIELDS, ResponsesServer
from tests.dialects import DIALECTS, THOUGHT, Server
from tests.patience import PATIENCE
from tests.scenario.house import TestHouse, opened
from turnkeep.events import Event
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Item,
    OutputItem,
    Part,
    ProviderData,
    ReasoningItem,
    SystemItem,
    UserItem,
    text_content,
)
from turnkeep.models.capabilities import known_servers
from turnkeep.store.values import TranscriptEntry
from turnkeep.testing.fake_clock import FakeClock, settle
from turnkeep.tools.tool import tool

Spoken = tuple[str, str]
"""A server and the protocol in which it is asked."""

RESPONSES: list[Spoken] = [(name, "responses") for name in FIELDS]
ALL: list[Spoken] = [*((name, "chat") for name in sorted(DIALECTS)), *RESPONSES]
SERVERS = pytest.mark.parametrize("spoken", ALL, ids=[" over ".join(spoken) for spoken in ALL])
ELSEWHERE = "models.example/v1"
LESSONS = 5


@tool(effect="pure")
def look_up(city: str) -> str:
    """What is known of a city."""
    return f"sunny in {city}"


FOREIGN: list[Item] = [
    UserItem((Part("text", "what is this?"), Part("image", data={"image_url": "https://pictures/1"}))),
    ReasoningItem({"reasoning_content": "a cat?"}, ELSEWHERE),
    CallItem("functions.look_up:0", "look_up<|channel|>commentary", '{"city":', ProviderData(ELSEWHERE, {"x": "y"})),
    OutputItem("functions.look_up:0", ""),
    AssistantItem("a cat"),
    SystemItem("be kind"),
    UserItem(text_content("never answered")),
    CallItem("call_abcdef123456", "look_up", "{}"),
    OutputItem("call_abcdef123456", "outcome unknown", "unknown"),
]


def imitated(spoken: Spoken) -> Server:
    return ResponsesServer(spoken[0]) if spoken[1] == "responses" else Server(spoken[0])


def house(server: Canned, spoken: Spoken, *, tools: Sequence[Any] = (look_up,), **settings: Any) -> Any:
    name, protocol = spoken
    values: dict[str, Any] = {
        "openai_base_url": server.url,
        "model_api": protocol,
        "openai_model": "m",
        "model_capabilities": name,
        **settings,
    }
    return opened(tools=tools, **values)


async def final(desk: TestHouse, channel: str, *texts: str, **wishes: Any) -> Event:
    """The final event of these messages, sent at once."""
    async with desk.stream(channel) as stream:
        receipts = await desk.send_all(channel, texts, **wishes)
        await desk.queue.flush(channel)
        return (await desk.settled(stream, receipts[-1].message_id))[-1]


def asked_for(server: Canned, text: str) -> int:
    """How many requests held this text."""
    return sum(text in str(visit.body) for visit in server.visits)


def test_every_server_of_the_table_is_imitated() -> None:
    assert set(DIALECTS) == set(known_servers()) - {"compatible"}


@pytest.mark.daily(rows=3)  # some of each dialect
@SERVERS
async def test_a_server_answers_in_every_turn_of_a_conversation(spoken: Spoken) -> None:
    there = imitated(spoken)
    async with canned(there.answer) as server, house(server, spoken) as desk:
        await _plain_and_burst(desk, server)
        await _tools_and_thoughts(desk, there)
        await desk.queue.store.append(desk.address("foreign"), [TranscriptEntry(item, tokens=5) for item in FOREIGN])
        for text in ("and now?", "and then [tools 1]", "fine?"):
            event = await final(desk, "foreign", text)
            assert event.kind == "completed", event
        assert (await final(desk, "cut", "[cut] this")).text == "fine"
        words = [(await final(desk, "long", f"{n} " + "word " * 500)).kind for n in range(5)]
        assert words == ["completed"] * 5
        items = [item for channel in ("t1", "foreign") for item in await desk.transcript(channel)]
    await _goes_on_elsewhere(items, spoken)


async def _plain_and_burst(desk: TestHouse, server: Canned) -> None:
    event = await final(desk, "plain", "hello")
    assert (event.kind, event.text) == ("completed", "fine")
    assert asked_for(server, "hello") <= 1 + LESSONS
    event = await final(desk, "burst", *(f"part {n}" for n in range(5)), window=60, max_wait=60)
    assert (event.kind, len(event.message_ids)) == ("completed", 5)
    kinds = [item.kind for item in await desk.transcript("burst") if item.kind != "reasoning"]
    assert kinds == ["user"] * 5 + ["assistant"]


async def _tools_and_thoughts(desk: TestHouse, there: Server) -> None:
    thinks = there.dialect.thought is not None
    assert (await final(desk, "t1", "go [tools 1]")).text == "fine sunny in A"
    assert (await final(desk, "t1", "go [tools 2]")).text == "fine sunny in A sunny in B"
    assert (await final(desk, "t1", "go on")).text == "fine"
    event = await final(desk, "think", "[think] about it")
    assert event.text == "fine"
    thoughts = [item.text for item in await desk.transcript("think") if isinstance(item, ReasoningItem)]
    assert thoughts == ([THOUGHT] if thinks and there.dialect.thought != "reasoning_details" else thoughts)
    assert len(thoughts) == thinks
    calls = [item for item in await desk.transcript("t1") if isinstance(item, CallItem)]
    assert [call.arguments for call in calls] == ['{"city":"A"}', '{"city":"A"}', '{"city":"B"}']


async def _goes_on_elsewhere(items: list[Item], spoken: Spoken) -> None:
    """What this server left in a transcript is taken by another."""
    other = ALL[(ALL.index(spoken) + 7) % len(ALL)]
    async with canned(imitated(other).answer) as server, house(server, other) as desk:
        await desk.queue.store.append(desk.address("moved"), [TranscriptEntry(item, tokens=5) for item in items])
        for text in ("hello", "go [tools 2]", "bye"):
            event = await final(desk, "moved", text)
            assert event.kind == "completed", (other, event)


async def test_a_picture_that_nobody_answered_is_of_the_past_as_well() -> None:
    async with canned(Server("deepseek").answer) as server, house(server, ("deepseek", "chat")) as desk:
        await desk.queue.store.append(desk.address("c"), [TranscriptEntry(FOREIGN[0], tokens=5)])
        assert (await final(desk, "c", "hello?")).text == "fine"
        assert (await final(desk, "d", "hello [tools 1]")).text == "fine sunny in A"


@pytest.mark.parametrize("spoken", [("ollama", "chat"), ("openai", "responses")])
async def test_results_are_told_in_the_order_of_the_calls_whichever_ended_first(spoken: Spoken) -> None:
    """Who has no ids takes the first result for that of the first call."""
    is_known = asyncio.Event()

    @tool(name="look_up", effect="pure")
    async def look_up_last_first(city: str) -> str:
        """What is known of a city."""
        if city == "A":
            await is_known.wait()
            for _ in range(100):  # turns of the loop: the other result is written down meanwhile, in memory
                await asyncio.sleep(0)
        is_known.set()
        return f"sunny in {city}"

    async with canned(imitated(spoken).answer) as server, house(server, spoken, tools=[look_up_last_first]) as desk:
        assert (await final(desk, "c", "go [tools 2]")).text == "fine sunny in A sunny in B"
        outputs = [item.output for item in await desk.transcript("c") if isinstance(item, OutputItem)]
        assert outputs == ["sunny in B", "sunny in A"]


# ---------------------------------------------------------------- troubles, all servers at once


def with_trouble(trouble: str) -> list[Spoken]:
    return [spoken for spoken in ALL if getattr(imitated(spoken).dialect, trouble) is not None]


RATES = with_trouble("rate")


@pytest.mark.daily(rows=4)  # some of each dialect
@pytest.mark.parametrize("spoken", RATES, ids=[" over ".join(spoken) for spoken in RATES])
async def test_a_rate_limit_is_waited_for_as_long_as_the_server_says(spoken: Spoken) -> None:
    there, clock = imitated(spoken), FakeClock()
    async with (
        canned(there.answer) as server,
        house(server, spoken, clock=clock, window=0, max_wait=0) as desk,
        desk.stream("rate") as stream,
    ):
        receipt = await desk.send("rate", "[rate] this")
        await _waits(desk, "rate", clock.now() + there.dialect.wait)
        asked = asked_for(server, "[rate] this")
        clock.advance(there.dialect.wait - 0.25)
        await settle()
        assert asked_for(server, "[rate] this") == asked <= 1 + LESSONS
        async with asyncio.timeout(PATIENCE):
            while asked_for(server, "[rate] this") == asked:
                clock.advance(0.25)
                await asyncio.sleep(0.01)
        event = (await desk.settled(stream, receipt.message_id))[-1]
    assert (event.kind, event.text) == ("completed", "fine")
    assert asked < asked_for(server, "[rate] this") <= asked + 1 + LESSONS


async def _waits(desk: TestHouse, channel: str, until: float) -> None:
    """Until the thread waits for this moment."""
    async with asyncio.timeout(PATIENCE):
        while (thread := await desk.queue.store.thread(desk.address(channel))) is None or thread.due != until:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("trouble", "code"), [("key", "credentials_refused"), ("credit", "quota_exhausted")])
async def test_a_refused_key_and_an_empty_account_make_messages_wait(trouble: str, code: str) -> None:
    async def waits(spoken: Spoken) -> tuple[list[str], bool]:
        async with canned(imitated(spoken).answer) as server, house(server, spoken) as desk:
            receipt = await desk.send("c", f"[{trouble}] this")
            async with asyncio.timeout(PATIENCE):
                while not (circuits := await desk.queue.store.circuits()):
                    await asyncio.sleep(0.02)
            record = await desk.queue.store.message(desk.address("c"), receipt.message_id)
            return [c.fault.code for c in circuits], record is not None and record.status not in ("dead", "answered")

    names = with_trouble(trouble)
    found = dict(zip(names, await asyncio.gather(*map(waits, names)), strict=True))
    assert found == dict.fromkeys(names, ([code], True))
