"""The journal: nothing is believed before it is written, and every attempt folds the same state from it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.runs.stage import HERE, ONE, LostReply, Stage, journal_of
from turnkeep.errors import OutcomeUnknown, StoreMisconfigured, StoreUnavailable
from turnkeep.messages import AssistantItem, CallItem, Message, OutputItem, UserItem, text_content
from turnkeep.runs.journal import Journal, OpenResponse, Step, join_texts, retry_until_answered, user_item
from turnkeep.store.values import Claim, Record
from turnkeep.usage import Usage

CALLS = (CallItem("c1", "pay", "{}"), CallItem("c2", "book", "{}"))


def step(*items: Any, text: str = "", ending: Any = "stop", model: str = "model-1") -> Step:
    return Step(items, text, ONE, ending, model)


async def fresh(stage: Stage, *message_ids: str) -> tuple[Claim, Journal]:
    claim = (await stage.lease(*(message_ids or ("m1",)))).claim
    return claim, journal_of(stage, claim)


async def write_everything(journal: Journal, steered: Message | None = None) -> None:
    """Everything that a journal may hold."""
    await journal.write_response(OpenResponse("resp_1", "model-1"))
    await journal.write_step(step(*CALLS, text="I look.", ending="calls"))
    await journal.write_started(["c1"])
    await journal.write_output(OutputItem("c1", "paid"))
    if steered is not None:
        await journal.write_steered([steered])
    await journal.write_response(OpenResponse("resp_2", "model-2"))


def state_of(journal: Journal) -> dict[str, Any]:
    return {
        "items": journal.items,
        "texts": journal.texts,
        "usage": journal.usage,
        "steps": journal.steps,
        "model": journal.model,
        "ending": journal.ending,
        "response": journal.open_response,
        "started": journal.started_calls,
        "steered": journal.steered_ids,
        "transcript": journal.transcript,
        "calls": journal.open_calls,
        "final": journal.is_final,
    }


async def records_of(stage: Stage) -> tuple[Record, ...]:
    """What the store has, as the next claimant gets it."""
    await asyncio.sleep(3601.0)
    [claim] = await stage.store.claim(owner="next", limit=1, lease=30.0)
    return claim.journal


async def test_a_new_attempt_folds_what_the_one_before_has_written_to_the_same_state() -> None:
    stage = Stage()
    _, journal = await fresh(stage)
    await stage.say("m2", on_busy="steer")
    [steered] = await stage.store.offer_steering(journal.claim)
    await write_everything(journal, steered)

    await asyncio.sleep(3601.0)
    [claim] = await stage.store.claim(owner="next", limit=1, lease=30.0)

    assert state_of(Journal(stage.store, claim)) == state_of(journal)


async def test_each_kind_of_record_changes_what_it_stands_for() -> None:
    stage = Stage()
    _, journal = await fresh(stage)
    await stage.say("m2", on_busy="steer")
    [steered] = await stage.store.offer_steering(journal.claim)

    await write_everything(journal, steered)

    assert state_of(journal) == {
        "items": [*CALLS, OutputItem("c1", "paid"), user_item(steered)],
        "texts": ["I look."],
        "usage": ONE,
        "steps": 1,
        "model": "model-1",
        "ending": None,
        "response": OpenResponse("resp_2", "model-2"),
        "started": {"c1"},
        "steered": {"m2"},
        "transcript": [*journal.first_messages, *CALLS, OutputItem("c1", "paid"), user_item(steered)],
        "calls": [CALLS[1]],
        "final": False,
    }
    assert [item.message_id for item in journal.first_messages] == ["m1"]


async def test_records_are_numbered_from_0_without_a_gap_and_go_on_where_they_ended() -> None:
    stage = Stage()
    _, journal = await fresh(stage)
    await journal.write_step(step(CALLS[0], ending="calls"))
    await journal.write_started(["c1"])
    first = await records_of(stage)

    await asyncio.sleep(31.0)
    [claim] = await stage.store.claim(owner="third", limit=1, lease=3600.0)
    await Journal(stage.store, claim).write_output(OutputItem("c1", "paid"))

    assert [record["n"] for record in first] == [0, 1]
    assert [record["n"] for record in await records_of(stage)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("ending", "final"),
    [("stop", True), ("length", True), ("filter", True), ("refusal", True), ("calls", False), ("pause", False)],
)
async def test_only_an_ending_that_answers_is_final(ending: str, final: bool) -> None:
    _, journal = await fresh(Stage())
    assert journal.is_final is False

    await journal.write_step(step(ending=ending))

    assert journal.is_final is final


async def test_a_step_closes_the_response_it_came_from_and_None_does_so_without_one() -> None:
    _, journal = await fresh(Stage())

    await journal.write_response(OpenResponse("r", "m"))
    await journal.write_step(step(text="done"))
    after_step = journal.open_response
    await journal.write_response(OpenResponse("r2", "m"))
    opened = journal.open_response
    await journal.write_response(None)

    assert (after_step, opened, journal.open_response) == (None, OpenResponse("r2", "m"), None)


async def test_usage_and_texts_of_all_steps_add_up() -> None:
    _, journal = await fresh(Stage())

    for text in ("one", "", "two"):
        await journal.write_step(step(text=text, model=f"model of {text}"))

    assert (journal.usage, journal.steps, journal.text) == (ONE + ONE + ONE, 3, "one\n\ntwo")
    assert journal.model == "model of two"


def test_texts_are_joined_without_the_silent_ones() -> None:
    assert join_texts(["a", "", "b"]) == "a\n\nb"
    assert join_texts([""]) == ""


async def test_a_message_becomes_an_item_with_all_that_its_turn_needs() -> None:
    message = Message(
        HERE, "m1", text_content("hi"), instructions="be kind", user_instructions="in French", model="model-2",
        parameters={"temperature": 0}, metadata={"user": "u"}, arrival=5.0,
    )  # fmt: skip

    assert user_item(message) == UserItem(
        text_content("hi"), "m1", 5.0, "be kind", {"user": "u"}, "in French", "model-2", {"temperature": 0}
    )
    assert user_item(Message(HERE, "m1", text_content("hi"))).metadata is None


# ---------------------------------------------------------------- writing


async def test_nothing_is_believed_or_told_before_the_store_has_it() -> None:
    stage = Stage()
    claim, _ = await fresh(stage)
    heard: list[Record] = []
    journal = journal_of(stage, claim, tell=heard.append)
    stage.store.stumbles["journal"] += [60.0]

    writing = asyncio.create_task(journal.write_step(step(AssistantItem("hi"), text="hi")))
    await asyncio.sleep(30.0)
    before = (journal.steps, list(heard))
    await writing

    assert before == (0, [])
    assert journal.steps == 1
    assert [record["type"] for record in heard] == ["step"]


@pytest.mark.parametrize(
    "stumble", [StoreUnavailable("away"), LostReply(OutcomeUnknown("lost"))], ids=["before", "after"]
)
async def test_a_record_is_written_once_however_often_it_has_to_be_sent(stumble: Any) -> None:
    stage = Stage()
    _, journal = await fresh(stage)
    stage.store.stumbles["journal"] += [stumble] * 5

    await journal.write_step(step(text="hi"))

    assert len(stage.store.about("journal")) == 6
    assert (journal.steps, len(await records_of(stage))) == (1, 1)


async def test_records_that_are_written_together_keep_the_order_in_which_they_came() -> None:
    stage = Stage()
    _, journal = await fresh(stage)
    stage.store.stumbles["journal"] += [3.0, None, 1.0]

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(journal.write_output(OutputItem(f"c{number}", "x")))

    assert [item.call_id for item in journal.items] == [f"c{number}" for number in range(5)]  # type: ignore[union-attr]
    assert [record["n"] for record in await records_of(stage)] == [0, 1, 2, 3, 4]


async def test_what_a_stopped_run_was_writing_is_written_to_its_end_but_a_call_has_not_begun() -> None:
    stage = Stage()
    claim, _ = await fresh(stage)
    heard: list[Record] = []
    journal = journal_of(stage, claim, tell=heard.append)
    await journal.write_step(step(*CALLS, ending="calls"))
    stage.store.stumbles["journal"] += [60.0]
    tasks = [
        asyncio.create_task(journal.write_output(OutputItem("c2", "booked"))),
        asyncio.create_task(journal.write_started(["c1"])),
    ]
    await asyncio.sleep(1.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    await journal.finish()
    await journal.finish()

    assert [record["type"] for record in await records_of(stage)] == ["step", "output", "started"]
    assert [record["type"] for record in heard] == ["step", "output", "started"]
    assert (journal.started_calls, [call.call_id for call in journal.open_calls]) == (set(), ["c1"])


async def test_finishing_writes_the_last_step_before_what_was_being_written_behind_it() -> None:
    stage = Stage()
    _, journal = await fresh(stage)
    await journal.write_step(step(), is_last=True)
    stage.store.stumbles["journal"] += [60.0]
    writing = asyncio.create_task(journal.write_response(OpenResponse("r", "m")))
    await asyncio.sleep(1.0)
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing

    async with asyncio.timeout(60.0):
        await journal.finish()

    assert [record["type"] for record in await records_of(stage)] == ["step", "response"]


async def test_finishing_forgets_only_the_calls_that_were_being_started() -> None:
    stage = Stage()
    _, journal = await fresh(stage)
    await journal.write_step(step(*CALLS, ending="calls"))
    await journal.write_started(["c1"])
    stage.store.stumbles["journal"] += [60.0]
    writing = asyncio.create_task(journal.write_started(["c2"]))
    await asyncio.sleep(1.0)
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing

    await journal.finish()

    assert journal.started_calls == {"c1"}


async def test_a_repeated_operation_waits_a_little_and_gives_its_result() -> None:
    tries: list[float] = []
    clock = asyncio.get_running_loop().time

    async def act() -> str:
        tries.append(clock())
        if len(tries) < 20:
            raise StoreUnavailable("away")
        return "done"

    assert await retry_until_answered(act) == "done"
    assert len(tries) == 20
    assert 0.0 < tries[-1] - tries[0] <= 20.0
    assert len(set(tries)) > 10


async def test_an_error_that_no_repetition_mends_is_raised_at_once() -> None:
    tries: list[Callable[[], None]] = []

    async def act() -> None:
        tries.append(lambda: None)
        raise StoreMisconfigured("eviction is on")

    with pytest.raises(StoreMisconfigured):
        await retry_until_answered(act)
    assert len(tries) == 1


def test_usage_of_a_record_without_any_is_none() -> None:
    assert Usage.from_json({}) == Usage()


async def test_a_record_of_a_later_version_has_its_place_and_changes_nothing_else() -> None:
    stage = Stage()
    lease = await stage.lease("m1")
    strange = {"n": 0, "type": "something new"}
    await stage.store.journal(lease.claim, [strange])
    journal = journal_of(stage, replace(lease.claim, journal=(strange,)))

    assert state_of(journal) == state_of(journal_of(stage, lease.claim))
    await journal.write_step(step(text="hi"))
    assert [record["n"] for record in await records_of(stage)] == [0, 1]
