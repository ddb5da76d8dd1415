"""Vercel's AI SDK, majors 5, 6 and 7, as `useChat` holds it: unmodified, against a service."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.clients.node import Driver
from tests.process.served import Served, served
from turnkeep.messages import AssistantItem, UserItem, content_text
from turnkeep.simulator import Fault
from turnkeep.tools.tool import Tool, tool

MAJORS = [5, 6, 7]
KEYS = itertools.count()


@tool(effect="pure", show="all")
def look(amount: int) -> str:
    """Look."""
    return f"saw {amount}"


@tool(effect="pure")
def secret(word: str) -> str:
    """Look at what nobody else may see."""
    return f"{word} is hidden"


@tool(needs_approval=True, self_approval=True, show="all")
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@tool(client_side=True, show="all")
def place() -> str:
    """Where the user is."""
    return ""


TOOLS: list[Tool] = [look, secret, pay, place]


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


async def transcript(house: Served, channel: str) -> list[str]:
    history = await house.queue.store.history(house.queue.address(channel))
    items = [entry.item for entry in history.entries]
    return [
        item.text if isinstance(item, AssistantItem) else content_text(item.content)
        for item in items
        if isinstance(item, AssistantItem | UserItem)
    ]


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


@pytest.mark.parametrize("major", MAJORS)
async def test_a_burst_of_a_stock_chat_is_one_turn_behind_all_its_messages(chats: Driver, major: int) -> None:
    async with served(window=0.3, max_wait=2.0) as house:
        chat = await opened(chats, house, major)
        told = await chats.ask("burst", key=chat, texts=["one", "two", "three [[say:all three]]"])
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


@pytest.mark.parametrize("major", [6, 7])
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
    async with asyncio.timeout(10):
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
        sending = asyncio.ensure_future(chats.ask("send", key=chat, id="u1", text="[[words:400]] [[pace:10]]"))
        await _until_said(chats, chat)
        async with house.http.post(f"{house.url}/api/chat/c/stop") as answer:
            assert await answer.json() == {"cancelled": True}
        told = await sending
        assert (told["status"], told["errors"]) == ("ready", [])
        [answer] = shown(told["messages"][-1])
        assert answer
        assert (await transcript(house, "c"))[-1].startswith(answer.strip()[:20])


async def _until_said(chats: Driver, chat: str) -> None:
    async with asyncio.timeout(20):
        while True:
            told = await chats.ask("look", key=chat)
            if told["messages"] and told["messages"][-1]["role"] == "assistant" and shown(told["messages"][-1]):
                return
            await asyncio.sleep(0.02)
