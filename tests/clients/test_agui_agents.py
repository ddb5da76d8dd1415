"""AG-UI: `HttpAgent` and TanStack's client, unmodified, against a service."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest

from tests.clients.conversation import GOLDEN, TOOLS, transcript
from tests.clients.node import Driver
from tests.patience import PATIENCE
from tests.process.served import Served, served
from turnkeep.messages import UserItem, content_text
from turnkeep.simulator import Fault

pytestmark = pytest.mark.xdist_group("agents")  # they share a program

KEYS = itertools.count()


async def opened(agents: Driver, house: Served, thread: str = "c", **options: Any) -> str:
    key = f"a{next(KEYS)}"
    await agents.ask("open", key=key, url=house.url, thread=thread, **options)
    return key


async def chat_of(agents: Driver, house: Served, thread: str = "c", **options: Any) -> str:
    key = f"t{next(KEYS)}"
    await agents.ask("chat", key=key, url=house.url, thread=thread, **options)
    return key


def said(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Role and words of every message."""
    return [(message["role"], message.get("content") or "") for message in told["messages"]]


def texts(message: dict[str, Any]) -> str:
    """The words of a message of TanStack's client."""
    return "".join(part["content"] for part in message["parts"] if part["type"] == "text")


async def test_a_message_is_answered_with_its_usage(agents: Driver) -> None:
    async with served() as house:
        agent = await opened(agents, house, "thread 1/ä")
        told = await agents.ask("say", key=agent, id="u1", text="hi [[say:hello there]]")
        assert (said(told), told["errors"]) == ([("user", "hi [[say:hello there]]"), ("assistant", "hello there")], [])
        assert told["outcomes"] == ["success"]
        assert told["types"][0] == "RUN_STARTED"
        assert told["types"][-1] == "RUN_FINISHED"


async def test_a_burst_is_one_turn_for_all_its_requests(agents: Driver) -> None:
    async with served(window=60.0, max_wait=60.0) as house:
        keys = [await opened(agents, house) for _ in range(3)]
        saying = []
        for number, key in enumerate(keys):
            saying.append(
                asyncio.ensure_future(
                    agents.ask("say", key=key, id=f"u{number}", text="two [[say:all]]" if number == 2 else "one")
                )
            )
            async with asyncio.timeout(PATIENCE):
                while len(await house.queue.store.open_messages(house.queue.address("c"))) <= number:
                    await asyncio.sleep(0.01)
        await house.queue.flush("c")
        for told in await asyncio.gather(*saying):
            assert (told["messages"][-1]["content"], told["errors"]) == ("all", [])
        assert len(list(house.simulator.ledger)) == 1


async def test_thoughts_tools_and_steps_come_in_their_order(agents: Driver) -> None:
    async with served(tools=TOOLS) as house:
        fields = {"show_reasoning": True, "parameters": {"reasoning": {"effort": "low", "summary": "auto"}}}
        made = await house.queue.assistants.create("default", fields, now=house.queue.clock.now())
        await house.queue.assistants.use("default", made.assistant_id)
        agent = await opened(agents, house)
        text = '[[reason:hm]] [[comment:Let me see.]] [[call:look {"amount": 5}]] [[call:secret {"word": "x"}]]'
        text += " [[say:done]]"
        told = await agents.ask("say", key=agent, id="u1", text=text)

        assert told["errors"] == []
        asked, *results, answer = [m for m in told["messages"][1:] if m["role"] != "reasoning"]
        calls = {call["function"]["name"]: call["function"]["arguments"] for call in asked["toolCalls"]}
        assert (asked["content"], answer["content"]) == ("Let me see.", "done")
        assert calls == {"look": '{"amount": 5}', "secret": "{}"}
        assert {result["content"] for result in results} == {"saw 5", ""}
        assert "".join(told["thoughts"]).startswith("hm")
        assert told["types"].count("STEP_STARTED") == told["types"].count("STEP_FINISHED") == 2


@pytest.mark.parametrize(("payload", "is_approved"), [({"approved": True}, True), (True, True), ("yes", False)])
async def test_an_approval_is_an_interrupt_and_the_next_run_goes_on(
    agents: Driver, payload: Any, is_approved: bool
) -> None:
    async with served(tools=TOOLS) as house:
        agent = await opened(agents, house)
        told = await agents.ask(
            "say", key=agent, id="u1", text='[[comment:Well.]] [[call:pay {"amount": 7}]] [[say:done]]'
        )
        [interrupt] = told["pending"]
        assert (told["outcomes"], interrupt["metadata"]["input"]) == (["interrupt"], {"amount": 7})

        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": payload}]
        told = await agents.ask("run", key=agent, resume=resume)
        assert (told["errors"], told["pending"], told["outcomes"][-1]) == ([], [], "success")
        assert [role for role, _ in said(told)] == ["user", "assistant", "tool", "assistant"]
        assert (said(told)[2][1] == "paid 7") == is_approved
        assert said(told)[3] == ("assistant", "done")


async def test_a_tool_of_the_client_gives_its_output_and_the_answer_goes_on(agents: Driver) -> None:
    async with served() as house:
        agent = await opened(agents, house)
        tools = [
            {"name": "place", "description": "Where the user is.", "parameters": {"type": "object", "properties": {}}}
        ]
        told = await agents.ask("say", key=agent, id="u1", text="[[call:place {}]] [[say:in Rome]]", tools=tools)
        [call] = told["messages"][-1]["toolCalls"]
        told = await agents.ask("give", key=agent, callId=call["id"], content="Rome")
        assert (told["errors"], said(told)[-1]) == ([], ("assistant", "in Rome"))


async def test_context_reaches_the_model_as_the_users_words_and_state_stays_the_pages(agents: Driver) -> None:
    async with served() as house:
        house.simulator.options = replace(house.simulator.options, keep_bodies=True)
        agent = await opened(agents, house, state={"open": ["a.txt"]})
        context = [{"description": "What is open", "value": "a.txt, line 7"}]
        props = {"metadata": {"page": "editor"}, "theirs": {"any": 1}}
        told = await agents.ask("say", key=agent, id="u1", text="hi", context=context, forwardedProps=props)
        assert (told["errors"], told["state"]) == ([], {"open": ["a.txt"]})
        assert told["types"][:2] == ["RUN_STARTED", "STATE_SNAPSHOT"]
        body = [*house.simulator.ledger][-1].body
        assert "a.txt, line 7" not in body["instructions"]
        assert "What is open: a.txt, line 7" in str(body["input"])
        history = await house.queue.store.history(house.queue.address("c"))
        [asked] = [entry.item for entry in history.entries if isinstance(entry.item, UserItem)]
        assert (asked.metadata, content_text(asked.content)) == ({"page": "editor"}, "hi")


@pytest.mark.parametrize(
    "about",
    [{"context": [{"value": "x"}]}, {"context": ["x"]}, {"context": [{"description": "x" * 40_000, "value": "y"}]},
     {"context": 7}, {"forwardedProps": "x"}, {"forwardedProps": {"window": "soon"}}],
)  # fmt: skip
async def test_what_cannot_be_read_of_a_run_is_refused_with_a_sentence(about: dict[str, Any]) -> None:
    async with served() as house:
        body = {"threadId": "c", "messages": [{"id": "u1", "role": "user", "content": "hi"}], **about}
        async with house.http.post(f"{house.url}/api/agui", json=body) as told:
            assert told.status == 400
            assert (await told.json())["error"]["message"]
        assert await house.queue.store.thread(house.queue.address("c")) is None


async def test_a_stop_and_a_failure_end_a_run_as_what_they_are(agents: Driver) -> None:
    async with served(max_attempts=1) as house:
        agent = await opened(agents, house)
        saying = asyncio.ensure_future(agents.ask("say", key=agent, id="u1", text="[[words:4000]] [[pace:10]]"))
        async with asyncio.timeout(PATIENCE):
            while len((await agents.ask("look", key=agent))["messages"]) < 2:
                await asyncio.sleep(0.02)
        async with house.http.post(f"{house.url}/api/channels/c/cancel"):
            pass
        assert (await saying)["outcomes"] == ["cancelled"]

        house.simulator.faults.append(Fault("500", times=1))
        told = await agents.ask("say", key=agent, id="u2", text="hi")
        assert told["errors"][0].endswith(".")


async def test_an_agent_that_runs_again_has_the_answer_once_and_whole(agents: Driver) -> None:
    """`HttpAgent` cannot go on with a run; what it has of the answer is replaced."""
    async with served(tools=TOOLS) as house:
        agent = await opened(agents, house)
        text = '[[comment:See.]] [[call:look {"amount": 5}]] [[words:200]] [[pace:15]]'
        saying = asyncio.ensure_future(agents.ask("say", key=agent, id="u1", text=text))
        async with asyncio.timeout(PATIENCE):
            while "quick" not in str((await agents.ask("look", key=agent))["messages"]):
                await asyncio.sleep(0.02)
        await agents.ask("abort", key=agent)
        await saying
        for _ in range(2):  # while it goes on, and when it has ended
            told = await agents.ask("run", key=agent)
            assert told["errors"] == ["This operation was aborted"]
            answers = [words for role, words in said(told) if role == "assistant"]
            assert answers == (await transcript(house, "c"))[1:]
            assert [role for role, _ in said(told)] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("cut", [300, 700, 1500, 2600])
async def test_a_cut_connection_is_gone_on_with_to_the_exact_text(agents: Driver, cut: int) -> None:
    async with served(tools=TOOLS) as house:
        chat = await chat_of(agents, house, cut=cut)
        told = await agents.ask(
            "send", key=chat, text='[[comment:See.]] [[call:look {"amount": 5}]] [[words:60]] [[pace:5]]'
        )
        assert told["errors"] == []
        answer = "".join(texts(message) for message in told["messages"] if message["role"] == "assistant")
        assert answer == "".join((await transcript(house, "c"))[1:])


async def test_a_page_that_is_loaded_anew_joins_the_run_and_ends_with_all_of_it(agents: Driver) -> None:
    async with served() as house:
        first = await chat_of(agents, house)
        sending = asyncio.ensure_future(agents.ask("send", key=first, text="[[words:80]] [[pace:10]]"))
        await agents.ask("until", key=first, text="quick")
        page = await chat_of(agents, house, persistent=True)
        await agents.ask("attach", key=page)
        told = await sending
        answer = texts(told["messages"][-1])
        assert answer == (await transcript(house, "c"))[-1]
        last = answer.split()[-1]
        async with asyncio.timeout(PATIENCE):
            while texts((await agents.ask("until", key=page, text=last))["messages"][-1]) != answer:
                await asyncio.sleep(0.02)
        later = await chat_of(agents, house, persistent=True)
        await agents.ask("attach", key=later)
        assert texts((await agents.ask("until", key=later, text=last))["messages"][-1]) == answer


async def test_an_attempt_that_fails_midway_is_replaced_by_the_next_one(agents: Driver) -> None:
    async with served(max_attempts=3) as house:
        for thread in ("agent", "chat"):
            house.simulator.faults.append(Fault("cut", after=5, times=1))
            text = "[[words:30]] [[pace:5]]"
            if thread == "agent":
                told = await agents.ask("say", key=await opened(agents, house, thread), id="u1", text=text)
                answers = [words for role, words in said(told) if role == "assistant"]
            else:
                told = await agents.ask("send", key=await chat_of(agents, house, thread), text=text)
                answers = [texts(message) for message in told["messages"] if message["role"] == "assistant"]
            assert told["errors"] == []
            assert answers == (await transcript(house, thread))[1:]


async def test_a_conversation_with_everything_in_it_is_shown_alike_live_and_loaded(agents: Driver) -> None:
    """Thought, text, two tools, an approval, a retry; then a page that is loaded anew."""
    async with served(tools=TOOLS, max_attempts=3) as house:
        agent = await opened(agents, house)
        told = await agents.ask("say", key=agent, id="u1", text=GOLDEN)
        [interrupt] = told["pending"]
        house.simulator.faults.append(Fault("500", times=1))
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}]
        told = await agents.ask("run", key=agent, resume=resume)
        assert (told["errors"], told["outcomes"]) == ([], ["interrupt", "success"])
        assert ["turnkeep.waiting" in custom for custom in told["customs"]] == [True]
        words = [words for role, words in said(told) if role == "assistant" and words]
        assert words == (await transcript(house, "c"))[1:]

        page = await chat_of(agents, house, persistent=True)
        await agents.ask("attach", key=page)
        seen = await agents.ask("until", key=page, text=words[-1][-20:])
        assert "".join(texts(message) for message in seen["messages"] if message["role"] == "assistant") == "".join(
            words
        )
        calls = [
            part["name"] for message in seen["messages"] for part in message["parts"] if part["type"] == "tool-call"
        ]
        assert calls == ["look", "secret", "pay"]
        saying = asyncio.ensure_future(agents.ask("say", key=agent, id="u2", text="[[words:4000]] [[pace:10]]"))
        await _stop_once_it_speaks(agents, house, "look", agent, behind=len(told["messages"]))
        told = await saying
        assert told["outcomes"][-1] == "cancelled"
        assert said(told)[-1][1] == (await transcript(house, "c"))[-1]


async def _stop_once_it_speaks(agents: Driver, house: Served, act: str, key: str, *, behind: int) -> None:
    """Somebody stops the answer behind so many messages once something of it is shown."""
    async with asyncio.timeout(PATIENCE):
        while "quick" not in str((await agents.ask(act, key=key))["messages"][behind:]):
            await asyncio.sleep(0.02)
    async with house.http.post(f"{house.url}/api/channels/c/cancel") as told:
        assert await told.json() == {"cancelled": True}


async def test_a_chat_of_tanstack_with_everything_in_it_ends_as_the_transcript_has_it(agents: Driver) -> None:
    """Thought, text, two tools, an approval, a retry, and a stop in the next turn."""
    async with served(tools=TOOLS, max_attempts=3) as house:
        fields = {"show_reasoning": True, "parameters": {"reasoning": {"effort": "low", "summary": "auto"}}}
        made = await house.queue.assistants.create("default", fields, now=house.queue.clock.now())
        await house.queue.assistants.use("default", made.assistant_id)
        chat = await chat_of(agents, house)
        told = await agents.ask("send", key=chat, text=GOLDEN)
        assert (told["errors"], told["pending"]) == ([], 1)
        house.simulator.faults.append(Fault("500", times=1))
        await agents.ask("resolve", key=chat, approved=True)
        await _until_answered(house)
        last = (await transcript(house, "c"))[-1]
        told = await agents.ask("until", key=chat, text=last[-20:])
        assert told["errors"] == []
        parts = [part for message in told["messages"] if message["role"] == "assistant" for part in message["parts"]]
        assert [part["name"] for part in parts if part["type"] == "tool-call"] == ["look", "secret", "pay"]
        assert "hm" in "".join(part["content"] for part in parts if part["type"] == "thinking")
        words = "".join(part["content"] for part in parts if part["type"] == "text")
        assert words == "".join((await transcript(house, "c"))[1:])

        sending = asyncio.ensure_future(agents.ask("send", key=chat, text="[[words:4000]] [[pace:10]]"))
        await _stop_once_it_speaks(agents, house, "see", chat, behind=len(told["messages"]))
        told = await sending
        assert texts(told["messages"][-1]) == (await transcript(house, "c"))[-1]


async def _until_answered(house: Served) -> None:
    async with asyncio.timeout(PATIENCE):
        while (record := await house.queue.store.thread(house.queue.address("c"))) is None or record.open_messages:
            await asyncio.sleep(0.02)
