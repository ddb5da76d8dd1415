"""What the simulated model says: steered by markers, plain about every message, the same for the same seed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeep.simulator import AnswerPlan, AnswerScript, CallStep, Refuse, Say, Think
from turnkeep.simulator.chooser import choose, example
from turnkeep.simulator.markers import parse
from turnkeep.simulator.persona import Persona, tokens_of
from turnkeep.simulator.prompt import OfferedTool, Prompt, PromptEntry, entries_of_items, entries_of_messages

WEATHER = OfferedTool(
    "get_weather", {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
)
OFFICES = OfferedTool(
    "get_available_offices",
    {"type": "object", "properties": {"city": {"type": "string"}, "capacity": {"type": "integer"}}},
)


def asked(*texts: str, tools: tuple[OfferedTool, ...] = (), **more: object) -> Prompt:
    return Prompt(tuple(PromptEntry("user", text) for text in texts), tools=tools, **more)  # type: ignore[arg-type]


def plan(prompt: Prompt, seed: int = 0, script: AnswerScript | None = None) -> AnswerPlan:
    return Persona(seed, script or AnswerScript()).plan(prompt)


def said(prompt: Prompt, seed: int = 0) -> str:
    (part,) = plan(prompt, seed).parts
    assert isinstance(part, Say)
    return part.text


def called(prompt: Prompt) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in plan(prompt).calls]


def test_every_message_of_the_turn_is_acknowledged() -> None:
    text = said(asked("buy milk", "and eggs", "no, six eggs"))
    assert all(part in text for part in ("buy milk", "and eggs", "no, six eggs", "3 messages"))


def test_messages_of_answered_turns_are_not_repeated() -> None:
    prompt = Prompt((PromptEntry("user", "old"), PromptEntry("assistant", "fine"), PromptEntry("user", "fresh")))
    assert "fresh" in said(prompt)
    assert "old" not in said(prompt)


def test_the_same_seed_says_the_same() -> None:
    texts = [f"message {n}" for n in range(30)]
    assert [said(asked(text), seed=3) for text in texts] == [said(asked(text), seed=3) for text in texts]
    assert [said(asked(text), seed=3) for text in texts] != [said(asked(text), seed=4) for text in texts]


def test_it_remembers_a_name_and_what_was_said() -> None:
    before = (PromptEntry("user", "Hi, my name is Ada"), PromptEntry("assistant", "Hello"))
    assert said(Prompt((*before, PromptEntry("user", "what is my name?")))) == "Your name is Ada."
    assert "my name is Ada" in said(Prompt((*before, PromptEntry("user", "what did I say?"))))


def test_say_and_words_decide_the_text() -> None:
    assert said(asked("x [[say:hello, world]] y")) == "hello, world"
    assert len(said(asked("[[words:12]]")).split()) == 12


def test_refusing_and_reasoning_are_parts_of_their_own() -> None:
    assert [type(part) for part in plan(asked("[[reason]] [[refuse:No.]]")).parts] == [Think, Refuse]


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("[[length]]", "max_output_tokens"),
        ("[[filter]]", "content_filter"),
        ("[[incomplete:max_messages]]", "max_messages"),
        ("[[incomplete:steered]]", "steered"),
    ],
)
def test_an_answer_can_stop_short_for_each_reason(marker: str, reason: str) -> None:
    full = said(asked("[[say:one two three four]]"))
    short = plan(asked(f"[[say:one two three four]] {marker}"))
    assert short.incomplete == reason
    assert isinstance(short.parts[-1], Say)
    assert short.parts[-1].text == "one two"
    assert full.startswith(short.parts[-1].text)


def test_the_token_limit_cuts_the_answer() -> None:
    short = plan(asked("[[words:50]]", max_tokens=5))
    assert short.incomplete == "max_output_tokens"
    assert isinstance(short.parts[-1], Say)
    assert len(short.parts[-1].text.split()) == 5


def test_pace_can_be_steered() -> None:
    steered = plan(asked("[[pace:250]] [[ttft:1000]]"))
    assert (steered.first, steered.token) == (1.0, 0.25)


# ---------------------------------------------------------------- calls


def test_call_markers_are_parallel_calls_then_come_the_rounds() -> None:
    text = '[[call:a {"x": [[1]]}]] [[call:b]] [[then:c {"y": 2}]]'
    first = (PromptEntry("user", text),)
    assert called(Prompt(first)) == [("a", {"x": [[1]]}), ("b", {})]
    second = (
        *first,
        PromptEntry("call", "{}", "call_11111111aa", "a"),
        PromptEntry("call", "{}", "call_11111111bb", "b"),
        PromptEntry("output", "A", "call_11111111aa"),
        PromptEntry("output", "B", "call_11111111bb"),
    )
    assert called(Prompt(second)) == [("c", {"y": 2})]
    third = (*second, PromptEntry("call", "{}", "call_22222222cc", "c"), PromptEntry("output", "C", "call_22222222cc"))
    assert all(f"{name} answered: {name.upper()}" in said(Prompt(third)) for name in "abc")


def test_interleaved_outputs_count_as_one_round() -> None:
    entries = (
        PromptEntry("user", "[[call:a]] [[call:b]] [[then:c]]"),
        PromptEntry("call", "{}", "call_11111111aa", "a"),
        PromptEntry("output", "A", "call_11111111aa"),
        PromptEntry("call", "{}", "call_11111111bb", "b"),
        PromptEntry("output", "B", "call_11111111bb"),
    )
    assert called(Prompt(entries)) == [("c", {})]


def test_a_message_that_joins_later_has_its_own_calls() -> None:
    entries = (
        PromptEntry("user", "[[call:a]]"),
        PromptEntry("call", "{}", "call_11111111aa", "a"),
        PromptEntry("output", "A", "call_11111111aa"),
        PromptEntry("user", "[[call:b]]"),
    )
    assert called(Prompt(entries)) == [("b", {})]


def test_text_beside_calls_closes_no_turn() -> None:
    entries = (
        PromptEntry("user", "[[comment:Looking.]] [[call:a]]"),
        PromptEntry("assistant", "Looking."),
        PromptEntry("call", "{}", "call_11111111aa", "a"),
        PromptEntry("output", "A", "call_11111111aa"),
    )
    assert Prompt(entries).open_messages()[0].rounds == 1
    assert "a answered: A" in said(Prompt(entries))
    assert [type(part) for part in plan(Prompt(entries[:1])).parts] == [Say, CallStep]


def test_loop_never_ends() -> None:
    entries: tuple[PromptEntry, ...] = (PromptEntry("user", "[[loop]]"),)
    for n in range(12):
        (call,) = plan(Prompt(entries, tools=(WEATHER,))).calls
        assert call.name == "get_weather"
        call_id = f"call_{n:08d}"
        entries = (*entries, PromptEntry("call", "{}", call_id, call.name), PromptEntry("output", "again", call_id))


def test_the_worst_is_everything_bad_at_once() -> None:
    calls = plan(asked("[[worst]]", tools=(WEATHER,))).calls
    assert len(calls) == 50
    assert "drop_all_tables" in {call.name for call in calls}
    assert max(len(call.arguments) for call in calls) >= 1_000_000
    ids = [call.call_id for call in calls if call.call_id is not None]
    assert len(ids) > len(set(ids))
    with pytest.raises(ValueError, match="Unterminated"):
        [json.loads(call.arguments) for call in calls]


def test_one_kind_of_the_worst() -> None:
    assert [call.name for call in plan(asked("[[worst:unknown]]")).calls] == ["drop_all_tables"]
    assert len(plan(asked("[[worst:many]]")).calls) == 50


# ---------------------------------------------------------------- choosing tools


def test_plainly_named_tools_are_called_with_sensible_arguments() -> None:
    tools = (WEATHER, OFFICES)
    assert called(asked("What is the weather in New York?", tools=tools)) == [("get_weather", {"location": "New York"})]
    assert called(asked("I need offices for 20 people in Makati", tools=tools)) == [
        ("get_available_offices", {"city": "Makati", "capacity": 20})
    ]


def test_several_places_are_several_calls() -> None:
    assert called(asked("weather in Paris and London", tools=(WEATHER,))) == [
        ("get_weather", {"location": "Paris"}),
        ("get_weather", {"location": "London"}),
    ]


@pytest.mark.parametrize("text", ["hello", "whether it rains", "tell me of Paris"])
def test_other_texts_call_nothing(text: str) -> None:
    assert plan(asked(text, tools=(WEATHER, OFFICES))).calls == []


def test_the_choice_of_the_caller_counts() -> None:
    assert choose((WEATHER,), "weather in Paris", "none") == []
    assert [name for name, _ in choose((WEATHER, OFFICES), "hello", "required")] == ["get_weather"]
    assert [name for name, _ in choose((WEATHER, OFFICES), "hello", "=get_available_offices")] == [OFFICES.name]


def test_required_arguments_are_always_there() -> None:
    (call,) = choose((WEATHER,), "weather please", "auto")
    assert json.loads(call[1]) == {"location": "weather please"}


def test_a_structured_answer_fits_its_schema() -> None:
    shape = {
        "type": "object",
        "properties": {
            "mood": {"type": "string", "enum": ["good", "bad"]},
            "count": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "note": {"type": ["string", "null"]},
        },
    }
    answer = json.loads(said(asked("a bad day, 3 times", shape=shape)))
    assert answer == {"mood": "bad", "count": 3, "tags": ["a bad day, 3 times"], "note": "a bad day, 3 times"}
    assert example({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "x") is True


# ---------------------------------------------------------------- scripts


def test_a_script_replies_in_order_then_by_default() -> None:
    persona = Persona(0, AnswerScript(["[[say:one]]", AnswerPlan((Say("two"),))], default="[[say:more]]"))
    texts = [part.text for _ in range(4) for part in persona.plan(asked("x")).parts if isinstance(part, Say)]
    assert texts == ["one", "two", "more", "more"]


def test_a_rule_comes_first_and_may_pass() -> None:
    script = AnswerScript(rule=lambda prompt: "[[say:ruled]]" if "rule" in prompt.entries[0].text else None)
    assert plan(asked("rule"), script=script).parts == (Say("ruled", "final_answer"),)
    assert "plain" in str(plan(asked("plain"), script=script).parts)


# ---------------------------------------------------------------- markers and tokens


def test_what_is_no_marker_stays_text() -> None:
    assert parse("a [[wiki]] link and [[say:open") == ((), "a [[wiki]] link and [[say:open")
    assert parse('[[call:x {"a": ]] b') == ((), '[[call:x {"a": ]] b')


def test_fault_markers_have_parameters() -> None:
    (marker,), rest = parse("please [[fault:429 times=2 code=slow_down]] answer")
    assert (marker.text, dict(marker.parameters)) == ("429", {"times": "2", "code": "slow_down"})
    assert rest == "please answer"


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    markers, rest = parse(text)
    if not markers:
        assert rest == text.strip()


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


def test_both_protocols_are_read_as_one() -> None:
    items = entries_of_items(
        [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "done"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "ok"}]},
        ]
    )
    messages = entries_of_messages(
        [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "input_image"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "done"},
            {"role": "assistant", "content": "ok"},
        ]
    )
    assert items == messages
