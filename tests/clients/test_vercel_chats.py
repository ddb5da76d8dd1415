"""Vercel's AI SDK, majors 5, 6 and 7, as `useChat` holds it: unmodified, against a service."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.clients.conversation import GOLDEN, TOOLS, transcript
from tests.clients.node import Driver
from tests.patience import PATIENCE
from tests.process.served import Served, served
from tests.scenario.house import flush_together
from turnkeep.simulator import Fault

pytestmark = pytest.mark.xdist_group("chats")  # they share a program

EARLIER = pytest.mark.only_in_prove  # the conversation with everything in it shows every major daily
MAJORS = [pytest.param(5, marks=EARLIER), pytest.param(6, marks=EARLIER), 7]
KEYS = itertools.count()


async def opened(chats: Driver, house: Served, major: int, chat_id: str = "c", **options: Any) -> str:
    key = f"{major}-{next(KEYS)}"
    await chats.ask("open", key=key, major=major, url=house.url, id=chat_id, **options)
    return key


def shown(message: dict[str, Any]) -> list[Any]:
    """What a page draws of a message, part by part."""
    return [drawn for part in message["parts"] if (drawn := _shown(part)) is not None]


def _shown(part: dict[str, Any]) -> Any:
    match part["type"]:
        case "text":
            return part["text"]
        case "reasoning":
            return ("thought", part["text"])
        case "dynamic-tool":
            given = part.get("output", part.get("errorText"))
            return (part["toolName"], part["state"], part.get("input"), given)
        case "source-url":
            return ("source", part["url"])
        case "step-start":
            return None
    return part["type"]


def roles(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["id"]) for message in told["messages"]]


async def loaded(house: Served, chat_id: str, major: int) -> list[dict[str, Any]]:
    """The messages with which a page begins that is loaded anew."""
    async with house.http.get(f"{house.url}/api/chat/{chat_id}", params={"level": major}) as answer:
        assert answer.status == 200
        messages: list[dict[str, Any]] = (await answer.json())["messages"]
        return messages


@pytest.mark.parametrize("major", MAJORS)
async def test_a_message_is_answered_and_a_page_that_is_loaded_anew_shows_the_same(chats: Driver, major: int) -> None:
    async with served() as house:
        chat = await opened(chats, house, major)
        told = await chats.ask("send", key=chat, id="u1", text="hi [[say:hello there]]")
        assert (told["status"], told["errors"]) == ("ready", [])
        [asked, answer] = told["messages"]
        assert (asked["id"], shown(answer)) == ("u1", ["hello there"])
        assert answer["metadata"]["covers"] == ["u1"]
        assert told["data"][0]["state"] == "accepted"

        again = await loaded(house, "c", major)
        assert [(m["role"], m["id"], shown(m)) for m in again] == [
            ("user", "u1", ["hi [[say:hello there]]"]),
            ("assistant", answer["id"], ["hello there"]),
        ]


@pytest.mark.parametrize("major", [5, 6, 7])
async def test_a_burst_of_a_stock_chat_is_one_turn_behind_all_its_messages(chats: Driver, major: int) -> None:
    async with served(window=60.0, max_wait=60.0) as house:
        chat = await opened(chats, house, major)
        said = chats.ask("burst", key=chat, texts=["one", "two", "three [[say:all three]]"])
        told, _ = await asyncio.gather(said, flush_together(house.queue, "c", 3))
        assert (told["status"], told["errors"]) == ("ready", [])
        assert [role for role, _ in roles(told)] == ["user", "user", "user", "assistant"]
        assert shown(told["messages"][-1]) == ["all three"]
        assert told["messages"][-1]["metadata"]["covers"] == ["u1", "u2", "u3"]
        assert len(list(house.simulator.ledger)) == 1


@pytest.mark.parametrize("major", MAJORS)
async def test_tools_thoughts_and_their_order_are_shown_as_tools_and_assistant_say(chats: Driver, major: int) -> None:
    async with served(tools=TOOLS) as house:
        await _assistant(house, show_reasoning=True, parameters={"reasoning": {"effort": "low", "summary": "auto"}})
        chat = await opened(chats, house, major)
        text = '[[reason:hm]] [[comment:Let me see.]] [[call:look {"amount": 5}]] [[call:secret {"word": "x"}]]'
        text += " [[say:done]]"
        told = await chats.ask("send", key=chat, id="u1", text=text)
        assert (told["status"], told["errors"], told["calls"]) == ("ready", [], [])
        parts = shown(told["messages"][-1])
        assert parts[-1] == "done"
        assert ("look", "output-available", {"amount": 5}, "saw 5") in parts
        assert ("secret", "output-available", {}, None) in parts
        assert ("thought", "hm") in parts
        assert [shown(m) for m in await loaded(house, "c", major)][-1] == parts


async def _assistant(house: Served, **fields: Any) -> None:
    made = await house.queue.assistants.create("default", fields, now=house.queue.clock.now())
    await house.queue.assistants.use("default", made.assistant_id)


@pytest.mark.parametrize("major", MAJORS[1:])
@pytest.mark.parametrize("approved", [True, False])
async def test_an_approval_is_asked_for_on_the_page_and_the_same_message_goes_on(
    chats: Driver, major: int, approved: bool
) -> None:
    async with served(tools=TOOLS) as house:
        chat = await opened(chats, house, major, automatic="approvals")
        told = await chats.ask("send", key=chat, id="u1", text='[[call:pay {"amount": 7}]] [[say:done]]')
        assert shown(told["messages"][-1]) == [("pay", "approval-requested", {"amount": 7}, None)]

        told = await chats.ask("approve", key=chat, approved=approved, reason="because")
        assert (told["status"], told["errors"]) == ("ready", [])
        assert [role for role, _ in roles(told)] == ["user", "assistant"]
        [call, text] = shown(told["messages"][-1])
        assert text == "done"
        assert call[1:] == (
            ("output-available", {"amount": 7}, "paid 7") if approved else ("output-denied", {"amount": 7}, None)
        )


@pytest.mark.parametrize("major", MAJORS)
async def test_a_tool_of_the_page_gives_its_output_and_the_answer_goes_on(chats: Driver, major: int) -> None:
    async with served(tools=TOOLS) as house:
        chat = await opened(chats, house, major, automatic="tools", tools={"place": {"city": "Rome"}})
        told = await chats.ask("send", key=chat, id="u1", text="[[call:place {}]] [[say:in Rome]]")
        told = await chats.ask("until", key=chat, text="in Rome")
        told = await chats.ask("settle", key=chat)
        assert (told["status"], told["errors"], told["calls"]) == ("ready", [], ["place"])
        assert shown(told["messages"][-1]) == [("place", "output-available", {}, {"city": "Rome"}), "in Rome"]
        assert [role for role, _ in roles(told)] == ["user", "assistant"]


@pytest.mark.parametrize("major", MAJORS)
async def test_the_last_answer_is_made_anew_in_its_place_and_an_earlier_one_is_refused(
    chats: Driver, major: int
) -> None:
    async with served() as house:
        chat = await opened(chats, house, major)
        await chats.ask("send", key=chat, id="u1", text="one")
        told = await chats.ask("send", key=chat, id="u2", text="two")
        first, last = told["messages"][1]["id"], told["messages"][3]["id"]
        for _ in range(2):
            told = await chats.ask("regenerate", key=chat)
            assert (told["errors"], [role for role, _ in roles(told)]) == ([], ["user", "assistant"] * 2)
        assert told["messages"][3]["id"] != last
        assert len(await transcript(house, "c")) == 4
        told = await chats.ask("regenerate", key=chat, messageId=first)
        assert told["status"] == "error"
        assert "Only the last answer" in told["error"]
        assert len(await transcript(house, "c")) == 4


@pytest.mark.parametrize("major", MAJORS)
async def test_an_edited_message_that_waits_is_answered_as_it_reads_now_and_one_that_was_answered_stays(
    chats: Driver, major: int
) -> None:
    async with served(window=30.0, max_wait=60.0) as house:
        async with house.http.post(f"{house.url}/api/channels/c/messages", json={"message": "one", "message_id": "u1"}):
            pass
        messages = [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": "one"}]}]
        chat = await opened(chats, house, major, messages=messages)
        editing = asyncio.ensure_future(chats.ask("send", key=chat, messageId="u1", text="ONE [[say:yes]]"))
        await _until_waiting(house, "ONE [[say:yes]]")
        await house.queue.store.flush(house.queue.address("c"))
        told = await editing
        assert shown(told["messages"][-1]) == ["yes"]

        told = await chats.ask("send", key=chat, messageId="u1", text="changed")
        assert told["status"] == "error"
        assert "An earlier message was changed" in told["error"]
        assert await transcript(house, "c") == ["ONE [[say:yes]]", "yes"]


async def _until_waiting(house: Served, text: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            records = await house.queue.store.open_messages(house.queue.address("c"))
            if any(record.message and record.message.text == text for record in records):
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("major", MAJORS)
async def test_an_error_is_a_sentence_and_the_message_can_be_tried_again(chats: Driver, major: int) -> None:
    async with served(max_attempts=1) as house:
        house.simulator.faults.append(Fault("500", times=1))
        chat = await opened(chats, house, major)
        told = await chats.ask("send", key=chat, id="u1", text="hi [[say:now]]")
        assert told["status"] == "error"
        assert told["error"].endswith(".")
        told = await chats.ask("regenerate", key=chat)
        assert (told["status"], shown(told["messages"][-1])) == ("ready", ["now"])


@pytest.mark.parametrize("major", MAJORS)
async def test_a_stop_ends_the_answer_with_what_was_said(chats: Driver, major: int) -> None:
    async with served() as house:
        chat = await opened(chats, house, major)
        sending = asyncio.ensure_future(chats.ask("send", key=chat, id="u1", text="[[words:4000]] [[pace:10]]"))
        await _until_said(chats, chat)
        async with house.http.post(f"{house.url}/api/chat/c/stop") as answer:
            assert await answer.json() == {"cancelled": True}
        told = await sending
        assert (told["status"], told["errors"]) == ("ready", [])
        [answer] = shown(told["messages"][-1])
        assert answer
        assert (await transcript(house, "c"))[-1].startswith(answer.strip()[:20])


async def _until_said(chats: Driver, chat: str, *, answers: int = 1) -> None:
    """A word of this answer is shown, and with it all that was thought before."""
    async with asyncio.timeout(PATIENCE):
        while True:
            said = [m for m in (await chats.ask("look", key=chat))["messages"] if m["role"] == "assistant"]
            if len(said) >= answers and any(isinstance(part, str) for part in shown(said[-1])):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("major", MAJORS)
async def test_an_attempt_that_fails_midway_is_followed_by_the_whole_answer(chats: Driver, major: int) -> None:
    """Major 7 takes back what was shown; the others cannot, and have the whole answer behind it."""
    async with served(max_attempts=3) as house:
        house.simulator.faults.append(Fault("cut", after=5, times=1))
        chat = await opened(chats, house, major)
        told = await chats.ask("send", key=chat, id="u1", text="[[words:30]] [[pace:5]]")
        assert (told["status"], told["errors"]) == ("ready", [])
        *half, whole = shown(told["messages"][-1])
        assert whole == (await transcript(house, "c"))[-1]
        assert (half == []) == (major == 7)
        assert whole.startswith("".join(half))
        if major < 7:
            assert "restarted" in [data["state"] for data in told["data"]]


@pytest.mark.parametrize("major", [5, pytest.param(6, marks=EARLIER), pytest.param(7, marks=EARLIER)])
async def test_a_page_that_waits_for_whole_steps_never_shows_half_an_answer(chats: Driver, major: int) -> None:
    async with served(tools=TOOLS, max_attempts=3) as house:
        house.simulator.faults.append(Fault("cut", after=5, times=1, step=1))
        chat = await opened(chats, house, major, query="&text=steps")
        text = '[[comment:Let me see.]] [[call:look {"amount": 5}]] [[words:30]] [[pace:5]]'
        told = await chats.ask("send", key=chat, id="u1", text=text)
        assert (told["status"], told["errors"]) == ("ready", [])
        assert [shown(m) for m in told["messages"]] == [shown(m) for m in await loaded(house, "c", major)]
        assert [data["state"] for data in told["data"]].count("restarted") == 0
        assert shown(told["messages"][-1])[-1] == (await transcript(house, "c"))[-1]


@pytest.mark.parametrize("major", [5, 6, 7])
async def test_a_conversation_with_everything_in_it_is_shown_alike_live_and_loaded(chats: Driver, major: int) -> None:
    """Thought, text, two tools, an approval, a retry, and a stop in the next turn."""
    async with served(tools=TOOLS, max_attempts=3) as house:
        await _assistant(house, show_reasoning=True, parameters={"reasoning": {"effort": "low", "summary": "auto"}})
        chat = await opened(chats, house, major, automatic="approvals" if major > 5 else None)
        told = await chats.ask("send", key=chat, id="u1", text=GOLDEN)
        assert told["errors"] == []
        house.simulator.faults.append(Fault("500", times=1))
        if major > 5:
            told = await chats.ask("approve", key=chat, approved=True)
        else:
            told = await _approved_elsewhere(chats, house, chat)
        assert (told["status"], told["errors"]) == ("ready", [])
        assert [shown(m) for m in told["messages"]] == [shown(m) for m in await loaded(house, "c", major)]
        parts = shown(told["messages"][-1])
        assert [part[0] for part in parts if isinstance(part, tuple) and part[0] != "thought"] == [
            "look",
            "secret",
            "pay",
        ]
        assert parts[-1] == (await transcript(house, "c"))[-1]

        sending = asyncio.ensure_future(chats.ask("send", key=chat, id="u2", text="[[words:4000]] [[pace:10]]"))
        await _until_said(chats, chat, answers=2)
        async with house.http.post(f"{house.url}/api/chat/c/stop"):
            told = await sending
        assert told["errors"] == []
        assert [shown(m) for m in told["messages"]] == [shown(m) for m in await loaded(house, "c", major)]


async def _approved_elsewhere(chats: Driver, house: Served, chat: str) -> dict[str, Any]:
    """Major 5 knows no approvals: somebody approves at another door, and the page goes on with the turn."""
    address = house.queue.address("c")
    record = await house.queue.store.thread(address)
    assert record is not None
    [call] = record.calls
    body = {"decision": "approved", "digest": call.digest}
    async with house.http.post(f"{house.url}/api/channels/c/actions/{call.call_id}", json=body) as answer:
        assert answer.status == 200
    told: dict[str, Any] = await chats.ask("resume", key=chat)
    return told


@pytest.mark.parametrize("major", MAJORS)
async def test_messages_sent_while_an_answer_streams_have_the_next_one(chats: Driver, major: int) -> None:
    async with served(window=1.0, max_wait=5.0) as house:
        chat = await opened(chats, house, major)
        first = asyncio.ensure_future(chats.ask("send", key=chat, id="u0", text="[[words:60]] [[pace:15]]"))
        await _until_said(chats, chat)
        told = await chats.ask("burst", key=chat, texts=["one", "two [[say:the next]]"])
        await first
        told = await chats.ask("settle", key=chat)
        assert told["errors"] == []
        assert [m["id"] for m in told["messages"] if m["role"] == "user"] == ["u0", "u1", "u2"]
        answers = [shown(m)[-1] for m in told["messages"] if m["role"] == "assistant"]
        assert answers == [(await transcript(house, "c"))[1], "the next"]
