"""The step loop: what the model is told, what subscribers see of its answer, and what is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.runs.stage import (
    HERE,
    MODEL,
    ONE,
    RULES,
    BackgroundScript,
    Line,
    ScriptedModel,
    Stage,
    asks,
    says,
    words,
)
from turnkeep.errors import (
    AnswerMalformed,
    ContextTooLong,
    ModelError,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    ResponseLost,
    UnansweredCall,
)
from turnkeep.messages import AssistantItem, CallItem, HostedItem, OutputItem, ReasoningItem, UserItem, text_content
from turnkeep.models.model import Began, Delta, Finish, ItemDone, ModelRequest, OnText, ReasoningDelta, StreamPart
from turnkeep.runs.answer import LEAST_OUTPUT, MOST_RESUMES, OF_A_USER
from turnkeep.runs.answer_contract import AnswerRules
from turnkeep.runs.outcomes import Verdict
from turnkeep.runs.run_context import RunRules
from turnkeep.store.values import Commit, Failure, TranscriptEntry
from turnkeep.tools.tool import tool
from turnkeep.usage import Usage

KNOWN = "gpt-4o-mini"
"""A model whose context and limit of an answer the table names: 128,000 and 16,384."""


@tool(effect="pure")
async def look(amount: int) -> str:
    """Look."""
    return f"saw {amount}"


LOOK = ("c1", "look", '{"amount": 5}')


def rules(**fields: Any) -> RunRules:
    return replace(RULES, answer=AnswerRules(**fields))


def code(verdict: Verdict) -> str:
    return verdict.fault.code if isinstance(verdict, Failure) else type(verdict).__name__


async def screen_events(stage: Stage) -> list[tuple[str, str]]:
    """What subscribers are told of the answer: its kind and text."""
    return [(e.kind, e.text) for e in await stage.events() if e.kind in ("responding", "delta", "snapshot")]


async def text_of(stage: Stage) -> str:
    """What a subscriber who has followed along has on the screen before the end."""
    text = ""
    for event in await stage.events():
        if event.kind == "delta":
            text += event.text
        elif event.kind in ("snapshot", "started"):
            text = event.text
    return text


# ---------------------------------------------------------------- what the model is told


async def test_a_request_holds_the_batch_the_past_the_instructions_and_who_asks() -> None:
    stage = Stage(says("first"), says("second"), tools=[look])
    await stage.assistant(model=MODEL, instructions="Be kind.", parameters={"temperature": 0.5}, tools=["look"])
    await stage.play("m1")
    verdict = await stage.play("m2", "m3")

    request = stage.model.requests[1]
    assert isinstance(verdict, Commit)
    assert [type(item).__name__ for item in request.items] == ["UserItem", "AssistantItem", "UserItem", "UserItem"]
    assert (request.model, request.current, request.instructions) == (MODEL, 2, "Be kind.")
    assert request.past is not None, "the words of the past are remembered, and not looked at again"
    assert list(request.past.items) == list(request.items[:2])
    assert (request.parameters, [t.name for t in request.tools]) == ({"temperature": 0.5}, ["look"])
    assert (request.background, request.response_id) == (False, None)
    claim = stage.run.claim  # type: ignore[union-attr]
    assert request.cache_key == claim.thread_id
    assert request.labels == {
        "turnkeep_run": claim.run_id, "turnkeep_thread": claim.thread_id, "turnkeep_tenant": "default",
        "turnkeep_attempt": "1",
    }  # fmt: skip


async def test_wishes_of_messages_are_told_once_each_and_the_last_word_counts() -> None:
    stage = Stage()
    await stage.assistant(model=MODEL, instructions="Be kind.", parameters={"temperature": 1, "top_p": 1})
    for number, wishes in enumerate[dict[str, Any]]([
        {"instructions": "In French."}, {"instructions": "Short."}, {"instructions": "In French."},
        {"user_instructions": "Rhyme."}, {"user_instructions": "Rhyme."}, {"parameters": {"temperature": 0}},
        {"parameters": {"temperature": 2, "seed": 7}}, {},
    ]):  # fmt: skip
        await stage.say(f"m{number}", **wishes)

    await stage.perform(await stage.lease())

    [request] = stage.model.requests
    assert request.instructions == "Be kind.\n\nIn French.\n\nShort."
    assert request.items[0] == UserItem(text_content(f"{OF_A_USER}\nRhyme."))
    assert len(request.items) == 9
    assert request.current == 8
    assert request.parameters == {"temperature": 2, "top_p": 1, "seed": 7}


async def test_what_is_left_of_a_pruned_past_is_told_with_the_instructions() -> None:
    stage = Stage(says("first"), says("second"))
    await stage.play("m1")
    await stage.store.compact(HERE, through_turn=1, summary="They greeted.")
    await stage.play("m2")

    assert stage.model.requests[1].instructions == (
        "Reply to all messages logically.\n\nSummary of the conversation so far:\nThey greeted."
    )
    assert len(stage.model.requests[1].items) == 1


@pytest.mark.parametrize(("steps", "offered"), [(1, [0]), (2, [1, 0]), (3, [1, 1, 0])])
async def test_at_the_last_permitted_step_the_model_has_no_tools_left(steps: int, offered: list[int]) -> None:
    stage = Stage(*[asks((f"c{n}", *LOOK[1:])) for n in range(steps)], tools=[look], rules=rules(max_steps=steps))

    verdict = await stage.play()

    assert [len(request.tools) for request in stage.model.requests] == offered
    assert code(verdict) == "too_many_steps"


CHOICES = {
    "any call": "required",
    "a certain call": {"type": "function", "name": "look"},
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
async def test_a_call_that_is_demanded_is_demanded_until_it_was_made(choice: Any) -> None:
    """Demanded again, there would never be an answer."""
    stage = Stage(asks(LOOK), says("done"), tools=[look])
    await stage.say("m1", parameters={"tool_choice": choice, "temperature": 0.5})

    await stage.perform(await stage.lease())

    first, second = (request.parameters for request in stage.model.requests)
    assert (first, second) == ({"tool_choice": choice, "temperature": 0.5}, {"temperature": 0.5})


async def test_a_call_that_is_demanded_is_still_demanded_of_a_model_that_only_paused() -> None:
    stage = Stage(says("Let me think.", reason="pause"), asks(LOOK), says("done"), tools=[look])
    await stage.say("m1", parameters={"tool_choice": "required"})

    await stage.perform(await stage.lease())

    choices = [request.parameters.get("tool_choice") for request in stage.model.requests]
    assert choices == ["required", "required", None]


@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_a_choice_that_demands_no_call_stays_for_the_whole_run(choice: str) -> None:
    stage = Stage(asks(LOOK), says("done"), tools=[look])
    await stage.say("m1", parameters={"tool_choice": choice})

    await stage.perform(await stage.lease())

    assert [request.parameters for request in stage.model.requests] == [{"tool_choice": choice}] * 2


async def test_hosted_tools_of_the_assistant_go_along() -> None:
    stage = Stage()
    await stage.assistant(model=MODEL, tools=[{"type": "web_search"}])

    await stage.play()

    assert list(stage.model.requests[0].hosted_tools) == [{"type": "web_search"}]


# ---------------------------------------------------------------- how much of the past


async def add_turns(stage: Stage, turns: int, tokens: int) -> None:
    """So many turns, each with so many tokens as the store counts."""
    for number in range(turns):
        entries = [
            TranscriptEntry(UserItem(text_content(f"u{number}")), tokens=0),
            TranscriptEntry(AssistantItem(f"a{number}"), tokens),
        ]
        await stage.store.append(HERE, entries)


PASTS = {
    "all of it fits": ({}, 5, 1000, MODEL, 5),
    "what the rules allow": ({"history_tokens": 2500}, 5, 1000, MODEL, 2),
    "nothing is allowed": ({"history_tokens": 0}, 5, 1000, MODEL, 0),
    "what an unknown model is believed to take": ({"history_tokens": 500_000}, 150, 1000, MODEL, 119),
    "more room for the answer": ({"history_tokens": 500_000, "output_tokens": 20_000}, 150, 1000, MODEL, 107),
    "never more than a quarter of it for the answer": (
        {"history_tokens": 500_000, "output_tokens": 90_000}, 150, 1000, MODEL, 95,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("limits", "turns", "tokens", "model", "told"), PASTS.values(), ids=PASTS)
async def test_the_newest_turns_that_fit_are_told(
    limits: dict[str, int], turns: int, tokens: int, model: str, told: int
) -> None:
    stage = Stage(rules=rules(**limits))
    await add_turns(stage, turns, tokens)

    await stage.play()

    [request] = stage.model.requests
    past = [item.text for item in request.items if isinstance(item, AssistantItem)]
    assert past == [f"a{number}" for number in range(turns - told, turns)]


async def test_the_batch_takes_room_from_the_past() -> None:
    stage = Stage(rules=rules(history_tokens=500_000))
    await add_turns(stage, 150, 1000)
    await stage.say("m1", "word " * 20_000)

    await stage.perform(await stage.lease())

    past = [item for item in stage.model.requests[0].items if isinstance(item, AssistantItem)]
    assert len(past) == pytest.approx(99, abs=1)


async def test_a_request_that_is_too_long_is_made_once_more_with_a_quarter_of_the_past() -> None:
    stage = Stage([ContextTooLong("too long", window=100_000)], says("answer"), rules=rules(history_tokens=10_000))
    await add_turns(stage, 10, 1000)

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    lengths = [sum(isinstance(i, AssistantItem) for i in request.items) for request in stage.model.requests]
    assert lengths == [10, 2]


async def test_a_second_refusal_for_length_ends_the_run() -> None:
    stage = Stage([ContextTooLong("too long")], [ContextTooLong("still")])

    verdict = await stage.play()

    assert code(verdict) == "context_too_long"
    assert len(stage.model.requests) == 2


async def test_what_a_refusal_has_taught_spares_the_next_turns_the_detour() -> None:
    stage = Stage([ContextTooLong("too long", window=9_000)], rules=rules(history_tokens=500_000, output_tokens=1000))
    await add_turns(stage, 60, 1000)

    await stage.play("m1")
    await stage.play("m2")

    lengths = [sum(isinstance(i, AssistantItem) for i in request.items) for request in stage.model.requests]
    assert lengths == [60, 7, 7 + 1]
    assert stage.house.contexts.learned_sizes.get(MODEL) == 9_000


async def test_of_what_the_table_says_and_a_refusal_taught_the_smaller_counts() -> None:
    model = ScriptedModel([ContextTooLong("no", window=6_000)], says("answer"), says("more"))
    stage = Stage(model=model, rules=rules(history_tokens=500_000, output_tokens=1000))
    stage.models[KNOWN] = model
    await stage.assistant(model=KNOWN, parameters={"max_tokens": 4_000})
    await add_turns(stage, 10, 1000)

    await stage.play("m1")
    stage.house.contexts.learned_sizes[KNOWN] = 900_000
    await stage.play("m2")

    lengths = [sum(isinstance(i, AssistantItem) for i in request.items) for request in model.requests]
    assert lengths[1] < 6
    assert lengths[2] >= 10


@pytest.mark.parametrize("error", [ContextTooLong("too long"), UnansweredCall("call c9")])
async def test_what_a_refused_request_had_shown_is_not_part_of_the_answer(error: Exception) -> None:
    stage = Stage([Began(None), *words("half "), error], says("whole"))

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.text == "whole"


async def test_a_provider_that_misses_an_output_is_asked_once_more_without_reasoning_of_others() -> None:
    stage = Stage([UnansweredCall("call c9 has none")], says("answer"))
    thought = ReasoningItem({"type": "reasoning"}, "elsewhere")
    turn = (UserItem(text_content("u")), thought, AssistantItem("a"))
    await stage.store.append(HERE, [TranscriptEntry(item) for item in turn])

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    kinds = [[item.kind for item in request.items] for request in stage.model.requests]
    assert kinds == [["user", "reasoning", "assistant", "user"], ["user", "assistant", "user"]]
    assert [request.past is None for request in stage.model.requests] == [False, True]


async def test_a_provider_that_misses_an_output_again_ends_the_run() -> None:
    assert code(await Stage([UnansweredCall("c")], [UnansweredCall("c")]).play()) == "unanswered_call"


LIMITS = {
    "no limit was set": ({}, None),
    "one that fits": ({"max_tokens": 4_000}, None),
    "just what the model gives": ({"max_tokens": 16_384}, None),
    "more than the model gives": ({"max_tokens": 16_385}, 16_384),
}


@pytest.mark.parametrize(("parameters", "lowered"), LIMITS.values(), ids=LIMITS)
async def test_a_limit_of_the_answer_is_lowered_to_what_the_model_gives_and_said(
    parameters: dict[str, Any], lowered: int | None, log_lines: Any
) -> None:
    stage = Stage()
    stage.models[KNOWN] = stage.model
    await stage.assistant(model=KNOWN, parameters=parameters)

    await stage.play()

    [request] = stage.model.requests
    assert request.parameters == (parameters if lowered is None else {"max_output_tokens": lowered})
    lines = [line for line in log_lines() if line["event"] == "max_tokens_lowered"]
    assert [(line["asked"], line["left"]) for line in lines] == ([] if lowered is None else [(16_385, lowered)])
    assert len(stage.run.answering.prompt.warnings) == len(lines)  # type: ignore[union-attr]


async def test_a_limit_is_lowered_to_what_the_window_leaves_but_never_to_nothing() -> None:
    stage = Stage()
    stage.models[KNOWN] = stage.model
    await stage.assistant(model=KNOWN, parameters={"max_tokens": 10_000})
    await stage.say("m1", "word " * 120_000)

    await stage.perform(await stage.lease())

    limit = stage.model.requests[0].parameters["max_output_tokens"]
    assert 7_000 < limit < 8_500

    await stage.say("m3", "word " * 140_000)
    await stage.perform(await stage.lease())
    assert stage.model.requests[1].parameters["max_output_tokens"] == LEAST_OUTPUT


async def test_of_a_model_that_no_table_knows_no_limit_is_changed() -> None:
    stage = Stage()
    await stage.assistant(model=MODEL, parameters={"max_tokens": 10**9})

    await stage.play()

    assert stage.model.requests[0].parameters == {"max_tokens": 10**9}


# ---------------------------------------------------------------- what is shown


async def test_two_steps_of_an_answer_stand_apart() -> None:
    stage = Stage(asks(LOOK, text="I look."), says("Five it is"), tools=[look])

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.text == await text_of(stage) == "I look.\n\nFive it is"
    assert [kind for kind, _ in await screen_events(stage)] == ["responding", "delta", "responding", *["delta"] * 4]
    responding = [event for event in await stage.events() if event.kind == "responding"]
    assert {(e.message_ids, e.run_id, e.attempt) for e in responding} == {(("m1",), stage.run.claim.run_id, 1)}  # type: ignore[union-attr]


async def test_thoughts_are_no_part_of_the_answer_and_items_keep_their_order() -> None:
    thought, hosted = ReasoningItem({"type": "reasoning"}), HostedItem("web_search", {})
    stage = Stage([
        Began(None), ReasoningDelta("hm"), ItemDone(thought), ItemDone(hosted), Delta("yes"),
        ItemDone(AssistantItem("yes")), Finish("stop", ONE),
    ])  # fmt: skip

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert [entry.item for entry in verdict.entries][1:] == [thought, hosted, AssistantItem("yes")]
    assert await text_of(stage) == "yes"


async def test_the_first_text_is_timed_once() -> None:
    stage = Stage([Began(None), 3.0, *says("a")[1:-1], ItemDone(CallItem(*LOOK)), Finish("calls", ONE)],
                  [Began(None), 5.0, *says("b")[1:]], tools=[look])  # fmt: skip

    await stage.play()

    assert stage.meter.observed("first_token_seconds") == pytest.approx([3.0])


async def test_an_attempt_that_goes_on_begins_with_what_the_finished_steps_have_shown() -> None:
    stage = Stage(asks(LOOK, text="I look."), [ModelUnavailable("503")], says("Five it is"), tools=[look])
    await stage.play("m1")
    await asyncio.sleep(5.0)
    [lease] = await stage.keeper.claim(1, None)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert verdict.text == await text_of(stage) == "I look.\n\nFive it is"
    assert [text for kind, text in await screen_events(stage) if kind == "snapshot"] == ["I look."]
    assert [o.output for o in stage.model.requests[-1].items if isinstance(o, OutputItem)] == ["saw 5"]


# ---------------------------------------------------------------- silence is no answer


@dataclass(frozen=True)
class Silence:
    items: Sequence[Any]
    reason: Any
    code: str
    text: str = ""


SILENCES = {
    "nothing": Silence([], "stop", "answer_malformed"),
    "blanks": Silence([], "stop", "answer_malformed", "  \n"),
    "a thought alone": Silence([ReasoningItem({})], "stop", "answer_malformed"),
    "calls without any": Silence([], "calls", "answer_malformed"),
    "a refusal without a reason": Silence([], "refusal", "model_refused"),
    "cut off": Silence([], "length", "Commit"),
    "filtered": Silence([], "filter", "Commit"),
    "a refusal in words": Silence([AssistantItem("No.")], "refusal", "Commit", "No."),
    "a search without words": Silence([HostedItem("web_search", {})], "stop", "Commit"),
}


@pytest.mark.parametrize("silence", SILENCES.values(), ids=SILENCES)
async def test_silence_is_no_answer(silence: Silence) -> None:
    said: list[Line] = words(silence.text) if silence.text else []
    stage = Stage([Began(None), *said, *map(ItemDone, silence.items), Finish(silence.reason, ONE)])

    assert code(await stage.play()) == silence.code


@pytest.mark.parametrize(
    ("items", "sentence"),
    [([], "the model answered with nothing"), ([ReasoningItem({})], "the model answered with a thought alone")],
)
async def test_silence_is_told_in_words(items: Sequence[Any], sentence: str) -> None:
    stage = Stage([Began(None), *map(ItemDone, items), Finish("stop", ONE)])

    verdict = await stage.play()

    assert isinstance(verdict, Failure)
    assert verdict.fault.details == sentence
    assert stage.store.about("journal") == [], "where nothing is worked out in the background, nothing has ended there"


async def test_after_an_earlier_step_has_spoken_a_silent_one_is_an_end() -> None:
    stage = Stage(asks(LOOK, text="I look."), [Began(None), Finish("stop", ONE)], tools=[look])

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.text == "I look."


async def test_a_stream_without_its_finish_is_a_bug_of_the_client(log_lines: Any) -> None:
    stage = Stage([Began(None), *words("half")])

    assert code(await stage.play()) == "run_broke"
    assert "run_broke" in [line["event"] for line in log_lines()]


async def test_a_model_that_pauses_is_asked_again_with_what_it_has_said() -> None:
    stage = Stage(says("I begin", reason="pause"), says("and end"))

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.text == "I begin\n\nand end"
    assert [item.kind for item in stage.model.requests[1].items] == ["user", "assistant"]


# ---------------------------------------------------------------- what it used


async def test_tokens_that_the_provider_does_not_tell_are_counted_here() -> None:
    stage = Stage(says("one two three", usage=Usage(requests=1)))

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    usage = verdict.usage
    assert (usage.requests, usage.estimated, usage.unpriced) == (1, 1, 1)
    assert usage.input_tokens == stage.run.answering.prompt.input_tokens(stage.model.requests[0])  # type: ignore[union-attr]
    assert 3 <= usage.output_tokens <= 12


async def test_a_step_is_measured_by_kind_model_and_seconds() -> None:
    told = Usage(1, 100, 40, 8, 20, 6)
    stage = Stage([Began(None), 4.0, *says("good day", usage=told)[1:]])

    await stage.play()

    meter = stage.meter
    kinds = {labels["kind"]: value for name, value, labels in meter.counts if name == "tokens"}
    assert kinds == {"input": 100, "cached": 40, "cache_write": 8, "output": 20, "reasoning": 6}
    assert meter.total("model_requests", model=MODEL, outcome="ok") == 1
    assert meter.observed("model_seconds") == pytest.approx([4.0])
    assert meter.observed("tokens_per_second") == pytest.approx([5.0])
    assert (meter.total("unpriced_requests"), meter.total("estimated_requests")) == (1, 0)
    assert "cost_nano" in [name for name, _, _ in meter.counts]


@pytest.mark.parametrize(("usage", "seconds"), [(Usage(1, 5), 1.0), (Usage(1, 5, output_tokens=3), 0.0)])
async def test_a_speed_is_measured_only_where_there_is_one(usage: Usage, seconds: float) -> None:
    pause: list[Line] = [seconds] if seconds else []
    stage = Stage([Began(None), *pause, *says("x", usage=usage)[1:]])

    await stage.play()

    assert stage.meter.observed("tokens_per_second") == []


async def test_the_name_that_the_provider_gives_is_the_one_that_answered() -> None:
    stage = Stage([*says("x")[:-1], Finish("stop", ONE, model="model-1-2026-01-01")])

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.model == "model-1-2026-01-01"


async def test_a_failed_request_is_counted_by_its_error() -> None:
    stage = Stage([ModelTimedOut("silent")])

    await stage.play()

    assert stage.meter.total("model_requests", model=MODEL, outcome="model_timed_out") == 1


# ---------------------------------------------------------------- steering


def sends(stage: Stage, message_id: str, **fields: Any) -> Any:
    return lambda: stage.say(message_id, **{"on_busy": "steer", **fields})


async def test_what_is_said_during_a_call_is_taken_in_before_the_next_step() -> None:
    stage = Stage(tools=[look])
    stage.model.script.extend([[sends(stage, "m2"), *asks(LOOK)], says("to both")])

    verdict = await stage.play("m1")

    assert isinstance(verdict, Commit)
    assert [item.kind for item in stage.model.requests[1].items] == ["user", "call", "output", "user"]
    assert [await stage.status("m1"), await stage.status("m2")] == ["answered", "answered"]
    assert "steered" in await stage.kinds()


@pytest.mark.parametrize("hint", [True, False])
async def test_before_the_end_steering_is_asked_for_only_on_a_hint(hint: bool) -> None:
    stage = Stage()
    lease = await stage.lease("m1")

    async def meanwhile() -> None:
        await stage.say("m2", on_busy="steer")
        lease.wants_steering = hint

    stage.model.script.extend([[Began(None), meanwhile, *says("one")[1:]], says("two")])

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert verdict.text == ("one\n\ntwo" if hint else "one")
    assert await stage.status("m2") == ("answered" if hint else "waiting")
    assert len(stage.store.about("offered")) == (2 if hint else 0)


async def test_a_hint_without_a_message_changes_nothing() -> None:
    stage = Stage(says("one"))
    lease = await stage.lease("m1")
    lease.wants_steering = True

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert [record["type"] for [record] in stage.store.about("journal")] == ["step"]


# ---------------------------------------------------------------- asked again within the run


async def test_a_failed_request_is_made_again_as_often_as_the_rules_say_and_nothing_is_shown_twice(
    log_lines: Any,
) -> None:
    def again(error: ModelError, failures: int) -> float | None:
        return 2.0 * failures if failures < 3 and not isinstance(error, ModelRefused) else None

    stage = Stage(
        [Began(None), *words("half ", "an"), ModelUnavailable("503")], [ModelTimedOut("x")], says("a whole one"),
        rules=rules(again=again),
    )  # fmt: skip

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.text == await text_of(stage) == "a whole one"
    assert [text for kind, text in await screen_events(stage) if kind == "snapshot"] == [""]
    repeated = [(line["failures"], line["delay"]) for line in log_lines() if line["event"] == "request_repeated"]
    assert repeated == [(1, 2.0), (2, 4.0)]
    assert stage.meter.observed("run_seconds") == pytest.approx([6.0])


async def test_a_request_is_not_made_again_for_ever() -> None:
    stage = Stage(
        *[[ModelUnavailable("503")]] * 9, rules=rules(again=lambda error, failures: 1.0 if failures < 4 else None)
    )

    assert code(await stage.play()) == "model_unavailable"
    assert len(stage.model.requests) == 4


async def test_what_earlier_steps_have_shown_stays_when_a_request_is_made_again() -> None:
    stage = Stage(
        asks(LOOK, text="I look."), [Began(None), *words("ha"), ModelUnavailable("503")], says("Five it is"),
        tools=[look], rules=rules(again=lambda error, failures: 1.0),
    )  # fmt: skip

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.text == await text_of(stage) == "I look.\n\nFive it is"


# ---------------------------------------------------------------- in the background


def response(*lines: Line, response_id: str = "resp_1") -> list[Line]:
    return [Began(response_id), *lines]


async def alone(*script: Sequence[Line], **options: Any) -> tuple[Stage, BackgroundScript]:
    model = BackgroundScript(*script)
    stage = Stage(model=model, **options)
    await stage.assistant(model=MODEL, background=True)
    return stage, model


async def test_what_has_begun_in_the_background_is_journalled_before_anything_is_shown() -> None:
    stage, model = await alone(says("an answer", response_id="resp_1"))
    await stage.play()

    assert [record["type"] for [record] in stage.store.about("journal")] == ["response"]
    assert model.requests[0].background is True
    assert [request.response_id for request in model.requests] == [None]


@pytest.mark.parametrize("assistant", [True, False])
@pytest.mark.parametrize("works_alone", [True, False])
async def test_the_background_is_used_only_where_assistant_and_server_agree(assistant: bool, works_alone: bool) -> None:
    stage, model = await alone(says("x", response_id="resp_1"))
    model.in_background = works_alone
    await stage.assistant(model=MODEL, background=assistant)

    await stage.play()

    assert model.requests[0].background is (assistant and works_alone)
    assert ("response" in [record["type"] for [record] in stage.store.about("journal")]) is (assistant and works_alone)


async def test_a_response_without_a_name_is_not_journalled() -> None:
    stage, _ = await alone(says("x", response_id=None))

    await stage.play()

    assert stage.store.about("journal") == []


BREAKS = [ModelUnavailable("cut"), ModelTimedOut("silent"), AnswerMalformed("cut")]


@pytest.mark.parametrize("error", BREAKS)
async def test_a_broken_stream_is_gone_on_with_and_nothing_is_shown_twice(error: Exception, log_lines: Any) -> None:
    stage, model = await alone(
        response(*words("good ", "d"), error), [*says("good day to you", response_id="resp_1")],
    )  # fmt: skip

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.text == await text_of(stage) == "good day to you"
    assert [kind for kind, _ in await screen_events(stage)].count("snapshot") == 0
    assert [request.response_id for request in model.requests] == [None, "resp_1"]
    assert [line["resumes"] for line in log_lines() if line["event"] == "response_resumed"] == [1]


async def test_a_broken_second_step_is_gone_on_with_behind_the_first() -> None:
    stage, _ = await alone(
        asks(LOOK, text="I look."), response(*words("Five ", "i"), BREAKS[0]), says("Five it is", response_id="resp_1"),
        tools=[look],
    )  # fmt: skip

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert verdict.text == await text_of(stage) == "I look.\n\nFive it is"


async def test_another_attempt_shows_again_what_it_goes_on_with() -> None:
    stage, model = await alone(response(*words("good "), 600.0), says("good day", response_id="resp_1"))
    lease = await stage.lease("m1")
    running = asyncio.create_task(stage.perform(lease))
    await asyncio.sleep(5.0)
    stage.keeper.drain()
    await running
    [lease] = await stage.keeper.claim(1, None)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert verdict.text == await text_of(stage) == "good day"
    assert [request.response_id for request in model.requests] == [None, "resp_1"]


async def test_a_stream_that_always_breaks_ends_the_attempt_and_not_the_response() -> None:
    stage, model = await alone(*[response(BREAKS[0])] * 20)

    verdict = await stage.play()

    assert code(verdict) == "model_unavailable"
    assert len(model.requests) == 1 + MOST_RESUMES
    assert model.cancellations == []


async def test_a_response_that_is_gone_is_asked_for_anew() -> None:
    stage, model = await alone(response(BREAKS[0]), [ResponseLost("gone")], says("anew"))

    verdict = await stage.play()

    assert code(verdict) == "model_unavailable"
    assert [record["type"] for [record] in stage.store.about("journal")] == ["response", "response"]

    await asyncio.sleep(5.0)
    [lease] = await stage.keeper.claim(1, None)
    verdict = await stage.perform(lease)
    assert isinstance(verdict, Commit)
    assert [request.response_id for request in model.requests] == [None, "resp_1", None]


async def test_a_response_that_an_earlier_attempt_has_begun_and_that_is_gone_is_asked_for_anew_at_once() -> None:
    stage, model = await alone(response(600.0), [ResponseLost("gone")], says("anew"))
    lease = await stage.lease("m1")
    running = asyncio.create_task(stage.perform(lease))
    await asyncio.sleep(5.0)
    stage.keeper.drain()
    await running
    [lease] = await stage.keeper.claim(1, None)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert [request.response_id for request in model.requests] == [None, "resp_1", None]


async def test_an_answer_of_the_background_that_is_none_is_not_gone_on_with() -> None:
    stage, model = await alone(response(Finish("stop", ONE)), says("a real one", response_id="resp_2"))

    verdict = await stage.play()

    assert code(verdict) == "answer_malformed"
    types = [record["type"] for [record] in stage.store.about("journal")]
    assert types == ["response", "response"]
    await asyncio.sleep(5.0)
    [lease] = await stage.keeper.claim(1, None)
    assert isinstance(await stage.perform(lease), Commit)
    assert [request.response_id for request in model.requests] == [None, None]


# ---------------------------------------------------------------- how its text arrives


class PushingScript(ScriptedModel):
    """One that hands text on at the moment it arrives."""

    async def push(self, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
        async for part in self.stream(request):
            if isinstance(part, Delta):
                on_text(part.text)
            else:
                yield part


class AtOnce(ScriptedModel):
    """One whose whole answer comes in one piece, so that nothing is waited for between two parts of it."""

    on_part: Callable[[StreamPart], object] = id

    async def push(self, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
        for part in [part async for part in self.stream(request)]:
            self.on_part(part)
            if isinstance(part, Delta):
                on_text(part.text)
            else:
                yield part


async def test_first_words_go_out_before_the_rest_of_what_came_with_them_is_read() -> None:
    model = AtOnce(says("good day"))
    stage = Stage(model=model)
    out: dict[type[StreamPart], int] = {}
    model.on_part = lambda part: out.setdefault(type(part), len(stage.store.publications))

    await stage.play("m1")

    assert (out[Delta], out[Finish]) == (0, 1)


async def test_text_that_a_model_pushes_is_shown_as_that_which_is_read() -> None:
    stages = [Stage(model=model(says("good day"))) for model in (ScriptedModel, PushingScript)]
    for stage in stages:
        await stage.play("m1")

    kinds = [await stage.kinds() for stage in stages]
    assert kinds[0] == kinds[1]
    assert "delta" in kinds[0]
