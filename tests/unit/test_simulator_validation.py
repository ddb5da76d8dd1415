"""What the platform refuses is refused in its words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rows import each_row
from turnkeep.simulator import call_contract, response_checks
from turnkeep.simulator.problems import Problem
from turnkeep.simulator.responses_api import choice_of, shape_of

CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "done"}
USER = {"type": "message", "role": "user", "content": "hi"}
ANSWER = {"type": "message", "role": "assistant", "content": "ho"}


def refused(body: dict[str, Any], **strict: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        response_checks.response_body({"model": "gpt-4o-mini", "input": "x"} | body, strict_models=False, **strict)
    return caught.value


def chat_refused(body: dict[str, Any], rejects: frozenset[str] = frozenset()) -> Problem:
    full = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]} | body
    with pytest.raises(Problem) as caught:
        response_checks.chat_body(full, strict_models=False, rejects=rejects)
    return caught.value


def test_an_ordinary_request_passes() -> None:
    body = {
        "model": "gpt-4o-mini",
        "input": [USER, CALL, OUTPUT, ANSWER],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "temperature": 0.5,
        "metadata": {"turnkeep_run": "run_1"},
        "store": False,
    }
    assert response_checks.response_body(body, strict_models=False) is body


@each_row(
    ("body", "param", "code"),
    [
        ({"colour": 1}, "colour", "unknown_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 7}, "model", "invalid_type"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"top_p": -1}, "top_p", "decimal_below_min_value"),
        ({"max_output_tokens": 5}, "max_output_tokens", "integer_below_min_value"),
        ({"model": "gpt-3.5-turbo"}, None, "model_not_found"),
        ({"model": "gpt-6-luna", "temperature": 1}, "temperature", "unsupported_parameter"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [{"type": "function", "name": "no spaces"}]}, "tools[0].name", "invalid_value"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {"k" * 65: "x"}}, "metadata keys", "string_above_max_length"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, None, "mutually_exclusive_parameters"),
        ({"metadata": [1]}, "metadata", "invalid_type"),
        ({"store": 1}, "store", "invalid_type"),
        ({"max_tool_calls": True}, "max_tool_calls", "invalid_type"),
        ({"tools": ["search"]}, "tools[0]", "invalid_type"),
        ({"tools": [{"name": "f"}]}, "tools[0].type", "missing_required_parameter"),
        ({"tools": [{"type": "function", "name": "f", "parameters": []}]}, "tools[0].parameters", "invalid_type"),
    ],
)
def test_wrong_parameters_are_named(body: dict[str, Any], param: str | None, code: str) -> None:
    problem = refused(body)
    assert (problem.param, problem.code) == (param, code)


def test_sampling_is_taken_without_reasoning() -> None:
    body = {"model": "gpt-6-luna", "input": "x", "temperature": 1, "reasoning": {"effort": "none"}}
    assert response_checks.response_body(body, strict_models=False) is body


def test_strict_schemas_must_be_closed_and_complete() -> None:
    tool: dict[str, Any] = {"type": "function", "name": "f", "strict": True, "parameters": {"type": "object"}}
    assert "additionalProperties" in refused({"tools": [tool]}).message
    tool["parameters"] |= {"properties": {"a": {}}, "required": [], "additionalProperties": False}
    assert "Missing 'a'" in refused({"tools": [tool]}).message


@pytest.mark.parametrize("item", [5, {"type": {}}, {"role": "user"}, {"role": "wizard", "content": "x"}, {}])
def test_items_that_are_none_are_refused(item: object) -> None:
    with pytest.raises(Problem) as caught:
        response_checks.items([item])
    assert (caught.value.param or "").startswith("input[0]")


def test_content_parts_belong_to_their_role() -> None:
    with pytest.raises(Problem, match="Supported values are: 'output_text' and 'refusal'"):
        response_checks.items([{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}])


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (7, "input"),
        (["x"], "input[0]"),
        ([OUTPUT | {"output": 7}], "input[0].output"),
        ([USER | {"content": ["x"]}], "input[0].content[0]"),
        ([USER | {"content": [{"type": "input_text"}]}], "input[0].content[0].text"),
    ],
)
def test_wrong_items_are_named(value: object, param: str) -> None:
    with pytest.raises(Problem) as caught:
        response_checks.items(value)
    assert caught.value.param == param


def test_no_input_is_no_items() -> None:
    assert response_checks.items(None) == []


def test_a_list_that_is_too_long_says_by_how_much() -> None:
    response_checks.check_items_limit([USER] * 20, 20)
    with pytest.raises(Problem, match="maximum length 20, but got an array with length 21") as caught:
        response_checks.check_items_limit([USER] * 21, 20)
    assert caught.value.code == "array_above_max_length"


def test_ids_begin_with_their_kind() -> None:
    with pytest.raises(Problem, match="Expected an ID that begins with 'fc'"):
        response_checks.items([CALL | {"id": "call_1"}])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]}, "messages[0].tool_calls"),
        ({"tools": []}, "tools"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"n": 2}, "n"),
        ({"input": "x"}, "input"),
        ({"messages": None}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": {"id": "c"}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": ["c"]}]}, "messages[0].tool_calls[0].id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_wrong_chat_requests_are_named(body: dict[str, Any], param: str) -> None:
    assert chat_refused(body).param == param


def test_a_strict_server_refuses_what_it_does_not_know() -> None:
    assert chat_refused({"store": False}, rejects=frozenset(("store",))).code == "unknown_parameter"


# ---------------------------------------------------------------- pairing


def pairing_refused(*items: dict[str, Any], partners: dict[str, str] | None = None) -> str:
    with pytest.raises(Problem) as caught:
        call_contract.check_items(items, partners or {})
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "input", None)
    return caught.value.message


def test_a_call_needs_its_output() -> None:
    assert pairing_refused(USER, CALL) == "No tool output found for function call call_1."


def test_an_output_needs_its_call() -> None:
    message = "No tool call found for function call output with call_id call_1."
    assert pairing_refused(USER, OUTPUT) == message
    assert pairing_refused(OUTPUT, CALL, OUTPUT) == message


def test_a_call_has_one_output_only() -> None:
    assert "call_1" in pairing_refused(CALL, OUTPUT, OUTPUT)


def test_items_come_once() -> None:
    twin = CALL | {"id": "fc_1"}
    message = "Duplicate item found with id fc_1. Remove duplicate items from your input and try again."
    assert pairing_refused(twin, OUTPUT, twin, OUTPUT) == message


def test_reasoning_needs_what_follows_it() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    message = "Item 'rs_1' of type 'reasoning' was provided without its required following item."
    assert pairing_refused(USER, thought) == message
    assert pairing_refused(thought, USER) == message
    call_contract.check_items([thought, CALL, OUTPUT], {})
    call_contract.check_items([thought, thought | {"id": "rs_2"}, ANSWER], {})


def test_a_call_needs_the_reasoning_it_came_with() -> None:
    message = "Item 'fc_1' of type 'function_call' was provided without its required 'reasoning' item: 'rs_1'."
    assert pairing_refused(CALL | {"id": "fc_1"}, OUTPUT, partners={"fc_1": "rs_1"}) == message


def test_chat_calls_are_answered_before_anything_else() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "a"}, {"id": "b"}]}
    tool = {"role": "tool", "tool_call_id": "a", "content": "x"}
    call_contract.check_messages([call, tool | {"tool_call_id": "b"}, tool])
    with pytest.raises(Problem, match="did not have response messages: b"):
        call_contract.check_messages([call, tool, {"role": "user", "content": "x"}])
    with pytest.raises(Problem, match="did not have response messages: a, b"):
        call_contract.check_messages([call])
    with pytest.raises(Problem, match="must be a response to a preceeding message"):
        call_contract.check_messages([{"role": "user", "content": "x"}, tool])


# ---------------------------------------------------------------- wishes for the answer


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        ("required", "required"),
        ({"type": "function", "name": "f"}, "=f"),
        ({"type": "function", "function": {"name": "f"}}, "=f"),
        ({"type": "function"}, "auto"),
        (None, "auto"),
    ],
)
def test_a_choice_of_tools_is_read_in_the_forms_of_both_protocols(value: object, choice: str) -> None:
    assert choice_of(value) == choice


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ({"type": "json_schema", "schema": {"type": "object"}}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, {"type": "object"}),
        ({"type": "json_schema", "schema": "object"}, None),
        ({"type": "json_object"}, {"type": "object", "properties": {"answer": {"type": "string"}}}),
        ({"type": "text"}, None),
        ({}, None),
    ],
)
def test_a_shape_of_the_answer_is_read_in_the_forms_of_both_protocols(form: dict[str, Any], shape: object) -> None:
    assert shape_of(form) == shape
