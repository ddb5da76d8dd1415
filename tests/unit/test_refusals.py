"""A refusal teaches what its server takes, and never takes away what the answer is about."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest

from tests.rows import each_row
from turnkeep import toml
from turnkeep.messages import AssistantItem
from turnkeep.models.capabilities import MODELS_REMEMBERED, Capabilities, Lesson, Lessons
from turnkeep.models.refusals import lessons_in
from turnkeep.models.responses import input_items

TABLE = toml.parse((resources.files("turnkeep.models") / "refusals.toml").read_text("utf-8"))["refusal"]
SAID = [(rule, said) for rule in TABLE for said in rule["said"]]
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [],
    "stream": True,
    "stream_options": {},
    "temperature": 0.3,
    "top_p": 0.5,
    "presence_penalty": 0.1,
    "max_tokens": 5,
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"additionalProperties": False, "required": []}}}
    ],
}


START = Capabilities(takes_developer_role=True)


def first(said: str, body: dict[str, Any] = BODY) -> Lesson | None:
    """The first lesson that changes anything."""
    return next((lesson for lesson in lessons_in(said, body) if lesson.apply(START) != START), None)


@each_row(("rule", "said"), SAID, ids=[said[:60] for _, said in SAID])
def test_each_sentence_that_servers_say_teaches_what_its_rule_says(rule: dict[str, Any], said: str) -> None:
    body = {**BODY, "max_tokens": 2_000_000} if "limit" in rule else BODY
    lesson = first(f"the provider answered 400 invalid_request_error: {said} (request req_1)", body)
    assert lesson is not None
    assert lesson.remember == rule.get("remember", True)
    if "then" in rule:
        assert lesson.changes == rule["then"]


@each_row("rule", TABLE, ids=[str(rule.get("then", rule["says"]))[:60] for rule in TABLE])
def test_each_rule_changes_what_exists(rule: dict[str, Any]) -> None:
    assert rule["said"]
    assert [bool(rule.get(name)) for name in ("then", "field", "limit")].count(True) == 1
    Lesson(rule.get("then", {})).apply(Capabilities())


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("Unknown parameter: 'stream_options'.", {"drops": {"stream_options"}}),
        ("Model grok-4.6 does not support parameter presencePenalty.", {"drops": {"presence_penalty"}}),
        (
            'Unknown name "presence_penalty": Cannot find field.\nUnknown name "top_p": Cannot find field.',
            {"drops": {"presence_penalty", "top_p"}},
        ),
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'", {"takes_max_completion_tokens": True}),
        ("Unknown name \"additionalProperties\" at 'tools[0]'", {"drops_keywords": {"additionalProperties"}}),
        ("tools.0.function.strict: Extra inputs are not permitted", {"takes_strict_tools": False}),
        ("messages.2.assistant.reasoning_content: Extra inputs are not permitted", {"takes_thoughts": False}),
        ("property 'reasoning_details' is unsupported", {"takes_thoughts": False}),
        # sentences of no rule: what counts is that one of our fields is named and refused
        ("Unrecognized key(s) in object: 'stream_options'", {"drops": {"stream_options"}}),
        ('Unrecognized key: "stream_options"', {"drops": {"stream_options"}}),
        ("Unknown key: presence_penalty", {"drops": {"presence_penalty"}}),
        ("stream_options is not allowed when stream is false", {"drops": {"stream_options"}}),
        ("Unsupported parameter(s): `presence_penalty`, `top_p`", {"drops": {"presence_penalty", "top_p"}}),
        ("This model does not support 'temperature'.", {"drops": {"temperature"}}),
        ("`presence_penalty` is currently not supported.", {"drops": {"presence_penalty"}}),
        ("property stream_options should not exist", {"drops": {"stream_options"}}),
        ('Unknown name "additionalProperties" at tools[0]', {"drops_keywords": {"additionalProperties"}}),
    ],
)
def test_a_field_that_was_called_unknown_is_left_out(said: str, changes: dict[str, Any]) -> None:
    lesson = first(said)
    assert lesson is not None
    assert lesson.changes == changes


@pytest.mark.parametrize(
    "said",
    [
        "Unknown parameter: 'tools'.",
        "Unknown parameter: 'messages[1].content'.",
        "Unknown parameter: 'response_format'.",
        "property 'model' is unsupported",
        "The model `x` does not exist.",
        "temperature must be strictly positive",
        "Your account balance is not enough.",
        "Something went wrong.",
        "",
    ],
)
def test_what_the_answer_is_about_is_never_left_out(said: str) -> None:
    assert first(said, {**BODY, "response_format": {}}) is None


def test_what_was_learned_of_one_model_is_not_believed_of_another_and_memory_has_an_end() -> None:
    lessons = Lessons(Capabilities())
    lessons.keep("a", Lesson({"takes_images": False}))
    lessons.keep("a", Lesson({"drops": {"top_p"}}))
    assert lessons.capabilities.get("a", lessons.start) == Capabilities(takes_images=False, drops=frozenset({"top_p"}))
    assert lessons.capabilities.get("b", lessons.start) == Capabilities()
    for n in range(MODELS_REMEMBERED):
        lessons.keep(str(n), Lesson({"takes_files": False}))
    assert len(lessons.capabilities) == MODELS_REMEMBERED
    assert lessons.capabilities.get("a", lessons.start) == Capabilities()


def test_a_phase_that_another_server_gave_is_left_out_where_it_is_unknown() -> None:
    body = {"model": "m", "input": [{"type": "message", "role": "assistant", "content": "a", "phase": "commentary"}]}
    lesson = first("Unknown parameter: 'input[0].phase'.", body)
    assert lesson is not None
    caps = lesson.apply(Capabilities())
    assert input_items([AssistantItem("a", phase="commentary")], caps) == [
        {"type": "message", "role": "assistant", "content": "a"}
    ]


def test_a_value_that_is_refused_teaches_nothing_of_other_values() -> None:
    lesson = first("presence_penalty: 3 is not supported, it must be between -2 and 2")
    assert lesson == Lesson({"drops": {"presence_penalty"}}, remember=False)
