"""What Anthropic's platform refuses, the simulator refuses in its words: else a body that fails there passes here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rows import each_row
from turnkeep.simulator.message_checks import generation, message_body, signature
from turnkeep.simulator.problems import (
    MessageProblem,
    Problem,
    context_length_exceeded,
    conversation_locked,
    model_not_found,
    no_key,
    wrong_key,
)

VERSION = "2023-06-01"
ASKED = {"role": "user", "content": "hi"}
CALL = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "seen"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": signature("hm")}
MARKED = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}


def body(*messages: Any, model: str = "claude-sonnet-4-5", **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 4_096, "messages": list(messages) or [ASKED], **fields}


def said(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def thinks(**fields: Any) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": 2_048, **fields}}


REFUSALS: list[tuple[Any, str]] = [
    ([], "valid dictionary"),
    (body(temprature=1), "temprature: Extra inputs"),
    ({"max_tokens": 1, "messages": [ASKED]}, "model: Field required"),
    (body(max_tokens="9"), "max_tokens: Input should be a valid integer"),
    (body(max_tokens=0), "greater than or equal to 1"),
    (body(**thinks(), model="claude-opus-4-7"), '"thinking.type.enabled" is not supported'),
    (body(**thinks(budget_tokens=1)), "greater than or equal to 1024"),
    (body(**thinks(budget_tokens=4_096)), "must be greater than `thinking.budget_tokens`"),
    (body(thinking={"type": "adaptive"}), "adaptive thinking is not supported"),
    (body(top_k=1, model="claude-opus-4-7"), "`top_k` is deprecated"),
    (body(**thinks(), temperature=0.5), "`temperature` may only be set to 1"),
    (body(**thinks(), tool_choice={"type": "any"}), "tool_choice forces tool use"),
    (body(tools=[{}]), "tools.0.name: Field required"),
    (body(tools=[{"name": "a b"}]), "String should match pattern"),
    (body(tools=[{"name": "a"}]), "input_schema.type: Field required"),
    ({**body(), "messages": []}, "at least one message"),
    (body(said("assistant", THOUGHT), ASKED), 'first message must use the "user" role'),
    (body(ASKED, {"role": "system", "content": "x"}), 'Unexpected role "system"'),
    (body({"role": "user", "content": ""}), "text content blocks must be non-empty"),
    (body(said("user"), ASKED), "must have non-empty content"),
    (body({"role": "user", "content": " "}), "non-whitespace"),
    (body(said("user", CALL)), "can only be in `assistant`"),
    (body(ASKED, said("assistant", {**CALL, "id": "t 1"})), "tool_use.id"),
    (body(ASKED, said("assistant", {**CALL, "input": "{}"})), "tool_use.input"),
    (body(ASKED, said("assistant", {**THOUGHT, "thinking": "ha"}), ASKED), "Invalid `signature`"),
    (body(ASKED, said("assistant", {"type": "redacted_thinking", "data": "x"}), ASKED), "Invalid `data`"),
    (body(ASKED, said("assistant", CALL), ASKED), "without `tool_result` blocks immediately after: t1"),
    (body(ASKED, said("assistant", CALL)), "without `tool_result` blocks immediately after: t1"),
    (body(said("user", RESULT)), "unexpected `tool_use_id`"),
    (body(ASKED, said("assistant", CALL), said("user", RESULT, RESULT)), "single result"),
    (body(ASKED, said("assistant", CALL, CALL), said("user", RESULT)), "ids must be unique"),
    (body(ASKED, {"role": "assistant", "content": "I"}, model="claude-opus-4-6"), "assistant message prefill"),
    (body(ASKED, said("assistant", CALL), said("user", RESULT), **thinks()), "Expected `thinking`"),
    (body(said("user", *[MARKED] * 3), system=[MARKED, MARKED]), "A maximum of 4 blocks"),
]


@each_row(("refused", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_a_body_that_the_platform_refuses_is_refused_here(refused: Any, words: str) -> None:
    with pytest.raises(MessageProblem) as refusal:
        message_body(refused, VERSION)
    assert refusal.value.status == 400
    assert words in refusal.value.message


TAKEN: dict[str, dict[str, Any]] = {
    "a question": body(),
    "a tool that was called": body(ASKED, said("assistant", CALL), said("user", RESULT)),
    "a thought before it": body(ASKED, said("assistant", THOUGHT, CALL), said("user", RESULT), **thinks()),
    "a beginning, where the model takes one": body(ASKED, {"role": "assistant", "content": "I"}),
    "a turn that paused": body(
        ASKED, said("assistant", {"type": "server_tool_use", "id": "s1"}), model="claude-opus-4-6"
    ),
    "four marks": body(said("user", *[MARKED] * 2), system=[MARKED, MARKED]),
    "a temperature": body(temperature=0.5),
}


@pytest.mark.parametrize("taken", TAKEN.values(), ids=TAKEN)
def test_a_body_that_the_platform_takes_is_taken_as_it_is(taken: dict[str, Any]) -> None:
    assert message_body(taken, VERSION) is taken


QUOTA = Problem(429, "You exceeded your current quota.", type="insufficient_quota")
LIMITED = Problem(429, "Slow down.", headers={"retry-after": "2", "x-ratelimit-limit-requests": "5"})
TRANSLATIONS: list[tuple[Problem, int, str, str]] = [
    (QUOTA, 400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
    (context_length_exceeded(9, 8, "messages"), 400, "invalid_request_error", "too long: 9 tokens > 8 maximum"),
    (context_length_exceeded(9, 8, "input"), 400, "invalid_request_error", "too long: 1 tokens > 0 maximum"),
    (model_not_found("x"), 404, "not_found_error", "model: claude-1"),
    (conversation_locked(), 429, "rate_limit_error", "Another process is currently operating"),
    (wrong_key(), 401, "authentication_error", "invalid x-api-key"),
    (no_key(), 401, "authentication_error", "You didn't provide an API key."),
    (Problem(529, "x"), 529, "overloaded_error", "Overloaded"),
    (Problem(502, "x"), 502, "api_error", "x"),
    (LIMITED, 429, "rate_limit_error", "Slow down."),
]


@pytest.mark.parametrize(("problem", "status", "kind", "words"), TRANSLATIONS)
def test_a_problem_is_told_as_the_other_platform_tells_it(problem: Problem, status: int, kind: str, words: str) -> None:
    told = MessageProblem.of(problem, "claude-1")
    error = told.body()["error"]
    assert (told.status, error["type"]) == (status, kind)
    assert words in error["message"]
    assert "x-ratelimit-limit-requests" not in told.headers
    assert told.headers.get("retry-after") == problem.headers.get("retry-after")


@pytest.mark.parametrize(
    ("model", "number"),
    [("claude-opus-4-7", (4, 7)), ("claude-3-haiku", (3, 0)), ("claude", (99, 0)), ("gpt-6", (4, 6))],
)
def test_a_name_says_its_generation(model: str, number: tuple[int, int]) -> None:
    assert generation(model) == number
