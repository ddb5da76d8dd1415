"""What a program can do with a queue is what HTTP can, and nothing of it needs the store."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from typing import Any

import pytest

from tests.patience import until
from tests.scenario.house import gate_answers, opened
from turnkeep import AssistantMessageQueue
from turnkeep.doors.http.routes import CHANNEL_ENDPOINTS, TENANT_ENDPOINTS
from turnkeep.errors import (
    Conflict,
    InvalidMessage,
    MessageFrozen,
    NoAnswer,
    NotFound,
    ThreadBusy,
    ThreadNotFound,
    TurnkeepError,
)
from turnkeep.tools import tool

METHODS = {
    "stream_events": "events",
    "send": "add_message_to_thread",
    "list_messages": "list_messages list_open_messages",
    "show_message": "get_message",
    "edit_message": "edit",
    "withdraw_message": "withdraw",
    "cancel": "cancel_run",
    "flush": "flush",
    "pause": "pause",
    "resume": "resume",
    "regenerate": "regenerate",
    "act": "decide",
    "list_runs": "list_runs",
    "show_channel": "get_thread",
    "change_channel": "change_thread",
    "forget_channel": "forget",
    "show_queue": "get_queue_status",
    "list_dead": "list_dead_letters",
    "show_dead": "get_dead_letter",
    "redrive": "redrive",
    "discard": "discard",
    "list_threads": "list_threads",
    "create_thread": "create_thread",
    "answer": "answer_as",
    "redrive_dead": "redrive",
    "discard_dead": "discard",
    "list_workers": "list_workers",
    "list_sinks": "list_sinks",
    "search": "search",
    "show_usage": "get_daily_usage",
}
"""The method for each act of HTTP; `queue.assistants` has those of assistants."""
OF_A_SERVER = {"show_metrics", "show_activity", "stream_overview", "list_recent_runs", "show_run_life"}


def test_every_act_of_http_has_its_method_with_a_docstring() -> None:
    acts = {endpoint.handler.__name__ for endpoint in (*CHANNEL_ENDPOINTS, *TENANT_ENDPOINTS)}
    acts = {act for act in acts if not act.endswith(("assistant", "assistants"))}
    assert acts - METHODS.keys() - OF_A_SERVER == set()
    for name in " ".join(METHODS.values()).split():
        assert inspect.getdoc(getattr(AssistantMessageQueue, name)), name


def test_every_method_says_what_it_is_for() -> None:
    methods = inspect.getmembers(AssistantMessageQueue, inspect.isfunction)
    silent = [name for name, method in methods if not name.startswith("_") and not inspect.getdoc(method)]
    assert silent == []


async def test_a_waiting_message_is_edited_and_withdrawn_until_a_run_has_begun(store: str) -> None:
    async with opened(store, window=30.0, max_wait=30.0) as house:
        queue = house.queue
        await queue.add_message_to_thread("c", "one [[say:fine]]", message_id="m1")
        await queue.add_message_to_thread("c", "two", message_id="m2")
        edited = await queue.edit("c", "m1", "uno [[say:fine]]")
        assert edited.message is not None
        assert edited.message.text == "uno [[say:fine]]"
        assert (await queue.withdraw("c", "m2")).status == "withdrawn"
        assert [record.message_id for record in await queue.list_open_messages("c")] == ["m1"]
        assert (await queue.typing("c") or 0) > 20

        async with queue.events("c") as events:
            assert await queue.flush("c")
            await house.settled(events, "m1")
        assert await house.said_by_user("c") == ["uno [[say:fine]]"]
        assert (await queue.get_message("c", "m1")).status == "answered"
        with pytest.raises(MessageFrozen):
            await queue.edit("c", "m1", "too late")
        with pytest.raises(InvalidMessage):
            await queue.edit("c", "m1", "")
        with pytest.raises(NotFound):
            await queue.get_message("c", "m9")
        assert await queue.typing("c") is None
        assert not await queue.flush("c")


async def test_a_paused_thread_waits_until_it_is_resumed(store: str) -> None:
    async with opened(store) as house:
        queue = house.queue
        await queue.pause("c")
        await queue.add_message_to_thread("c", "hello [[say:fine]]", message_id="m1", flush=True)
        with pytest.raises(NoAnswer):
            await queue.ask("c", "hello", timeout=0.3)
        async with queue.events("c") as events:
            await queue.resume("c")
            await house.settled(events, "m1")


async def test_a_person_answers_in_place_of_the_assistant(store: str) -> None:
    async with opened(store, worker=False) as house:
        await house.queue.create_thread("c")
        await house.queue.answer_as("c", "A person here.", author="bob")
        [said] = await house.queue.list_messages("c")
        assert (said.kind, getattr(said, "text", "")) == ("assistant", "A person here.")
        with pytest.raises(ThreadNotFound):
            await house.queue.answer_as("d", "Nobody here.", author="bob")


async def test_who_works_and_what_was_used_by_day_is_told(store: str) -> None:
    async with opened(store) as house:
        await house.queue.ask("c", "hello [[say:fine]]")
        assert all(record.to_json() for record in await house.queue.list_workers())
        assert len(await house.queue.get_daily_usage(2)) <= 2


async def test_threads_are_listed_by_their_last_activity_and_found_by_their_words(store: str) -> None:
    async with opened(store, worker=False) as house:
        queue = house.queue
        for name in ("garden", "attic", "cellar"):
            await queue.create_thread(name, metadata={"person": f"{name}er"})
            await queue.add_message_to_thread(name, "hello")
        listed = [record.address.channel for record in await queue.list_threads()]
        assert sorted(listed) == ["attic", "cellar", "garden"]
        times = [record.active_at for record in await queue.list_threads()]
        assert times == sorted(times, reverse=True)
        assert len(await queue.list_threads(limit=2)) == 2
        assert await queue.list_threads(limit=0) == []
        assert [one.address.channel for one in await queue.list_threads(search="GARDENer")] == ["garden"]
        assert await queue.list_threads(search="garden", place="paused") == []
        newest, *_ = await queue.list_threads(limit=1)
        assert len(await queue.list_threads(after=newest)) == 2
        assert await queue.list_threads(tenant="other") == []
        with pytest.raises(InvalidMessage):
            await queue.list_threads(limit=-1)
        with pytest.raises(InvalidMessage):
            await queue.search("x")
        assert await queue.list_sinks() == []


async def test_what_was_said_is_found(store: str) -> None:
    async with opened(store) as house:
        await house.queue.ask("c", "where is the needle? [[say:in the hay]]")
        assert [passage.kind for passage in await house.queue.search("needle")] == ["user"]
        assert {passage.kind for passage in await house.queue.search("the hay")} == {"user", "assistant"}
        assert await house.queue.search("haystack") == []


async def test_what_is_forgotten_is_gone_and_what_is_at_work_needs_force(store: str) -> None:
    async with opened(store, window=30.0, max_wait=30.0) as house:
        queue = house.queue
        await queue.add_message_to_thread("c", "hello")
        with pytest.raises(ThreadBusy):
            await queue.forget("c")
        assert await queue.forget("c", force=True)
        assert not await queue.forget("c")
        with pytest.raises(ThreadNotFound):
            await queue.get_thread("c")


async def test_a_dead_letter_is_listed_redriven_and_discarded(store: str) -> None:
    async with opened(store, max_attempts=1) as house:
        queue = house.queue
        house.fault(kind="400", times=2)
        for message_id in ("m1", "m2"):
            with pytest.raises(TurnkeepError):
                await queue.ask("c", "hello [[say:fine]]", message_id=message_id)
        first, second = await queue.list_dead_letters()
        assert (first.address.channel, first.message.message_id) == ("c", "m1")
        assert await queue.get_dead_letter(first.dead_id) == first
        assert await queue.list_dead_letters(after=first.dead_id) == [second]
        assert await queue.list_dead_letters(tenant="other") == []
        with pytest.raises(NotFound):
            await queue.redrive(first.dead_id, tenant="other")
        async with queue.events("c") as events:
            await queue.redrive(first.dead_id)
            assert (await house.settled(events, "m1"))[-1].text == "fine"
        await queue.discard(second.dead_id)
        assert await queue.list_dead_letters() == []
        acts: list[Any] = [queue.get_dead_letter, queue.redrive, queue.discard]
        for act in acts:
            with pytest.raises(NotFound):
                await act(second.dead_id)


async def test_what_was_used_is_told_of_a_thread_and_of_all(store: str) -> None:
    async with opened(store) as house:
        await house.queue.ask("a", "hello [[say:fine]]")
        await house.queue.ask("b", "hello [[say:fine]]")
        one, both = await house.queue.get_usage("a"), await house.queue.get_usage()
        assert one.requests == 1
        assert both.requests == 2
        assert both.output_tokens == 2 * one.output_tokens
        with pytest.raises(ThreadNotFound):
            await house.queue.get_usage("c")


@tool(needs_approval=True)
def send_invoice(to: str) -> str:
    """Send an invoice."""
    return f"sent to {to}"


async def test_a_call_is_approved_from_python(store: str) -> None:
    async with opened(store, tools=[send_invoice]) as house:
        queue = house.queue
        async with queue.events("c") as events:
            await queue.add_message_to_thread(
                "c", 'go [[call:send_invoice {"to": "ann"}]]', message_id="m1", flush=True
            )
            await house.until(events, lambda event: event.kind == "held")
            [call] = (await queue.get_thread("c")).calls
            wrong: Any = "yes"
            with pytest.raises(InvalidMessage):
                await queue.decide("c", call.call_id, wrong)
            with pytest.raises(NotFound):
                await queue.decide("c", "call_x", "approved")
            with pytest.raises(Conflict):
                await queue.decide("c", call.call_id, "approved", digest="0" * 64)
            decided = await queue.decide("c", call.call_id, "approved", digest=call.digest, by="bob")
            assert (decided.decision, decided.by) == ("approved", "bob")
            final = (await house.settled(events, "m1"))[-1]
        assert "sent to ann" in final.text


# ---------------------------------------------------------------- waiting for an answer


async def test_events_are_read_with_for_alone() -> None:
    async with opened() as house:
        await house.queue.ask("c", "hello [[say:fine]]")
        kinds = []
        async for event in house.queue.events("c", after=0, epoch=""):
            kinds.append(event.kind)
            if event.is_final:
                break
        assert (kinds[0], kinds[-1]) == ("accepted", "completed")


async def test_who_asks_without_a_worker_is_told_after_a_while_and_in_the_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnkeep.queue.answer_wait.PATIENCE", 0.05)
    async with opened(worker=False) as house:
        with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError) as told:
            await house.queue.ask("c", "hello", timeout=0.5)
        assert isinstance(told.value, NoAnswer)
        assert "no worker was started in this process, call start_worker() or run `turnkeep worker`" in str(told.value)
        assert "nobody_answers" in caplog.text
        # what was sent is safe, and a worker of another process would find it
        house.queue.start_worker()
        await until(lambda: len(house.simulator.ledger) == 1)


async def test_an_answer_in_time_warns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as house:
        with caplog.at_level(logging.WARNING):
            assert await house.queue.ask("c", "hello [[say:fine]]") == "fine"
        assert "nobody_answers" not in caplog.text


async def test_a_wait_that_ends_says_what_the_answer_waits_for() -> None:
    async with opened() as house:
        house.fault(kind="401", times=100)
        begun = time.monotonic()
        with pytest.raises(NoAnswer, match=r"it waits, because credentials_refused: "):
            await house.queue.ask("c", "hello", timeout=4.0)
        assert time.monotonic() - begun < 60


async def test_a_wait_that_ends_leaves_the_run_alone() -> None:
    async with opened() as house:
        gate, text = gate_answers(house.simulator), "hello [[words:3]] [[pace:1]]"
        async with house.queue.events("c") as events:
            await house.send("c", text, "m1", flush=True)
            await house.until(events, lambda event: event.kind == "delta")
            with pytest.raises(NoAnswer, match="still being worked on"):
                await house.queue.ask("c", text, message_id="m1", timeout=0.3)
            gate.set()
            assert (await house.settled(events, "m1"))[-1].kind == "completed"
        await asyncio.sleep(0)
