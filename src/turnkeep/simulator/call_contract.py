"""The contract of tool calls: each has exactly one output, and reasoning stays with what it led to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from turnkeep.simulator.problems import (
    Problem,
    bad,
    doubled_output,
    lonely_item,
    lonely_reasoning,
    unanswered_call,
    uncalled_output,
)
from turnkeep.simulator.prompt import CALL_TYPES, OUTPUT_TYPES

ContextItem = Mapping[str, Any]


def check_items(context: Sequence[ContextItem], partners: Mapping[str, str]) -> None:
    """The whole input of a Responses request; `partners` tells which reasoning item an item came
    with.
    """
    _check_doubles(context)
    _check_calls(context)
    _check_reasoning(context, partners)


def check_messages(messages: Sequence[ContextItem]) -> None:
    """The messages of a Chat Completions request."""
    waiting: list[str] = []
    for at, message in enumerate(messages):
        # In chat all outputs follow their calls at once. Responses want them in the same request
        # only.
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                raise _stray_tool(at)
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            raise _missing_outputs(waiting)
        waiting = [call["id"] for call in message.get("tool_calls") or ()]
    if waiting:
        raise _missing_outputs(waiting)


def _check_doubles(context: Sequence[ContextItem]) -> None:
    counts = Counter(item["id"] for item in context if item.get("id") is not None)
    for item_id, count in counts.items():
        if count > 1:
            message = f"Duplicate item found with id {item_id}. Remove duplicate items from your input and try again."
            raise bad(message, "input")


def _check_calls(context: Sequence[ContextItem]) -> None:
    calls: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    for item in context:
        if item.get("type") in CALL_TYPES:
            calls[item["call_id"]] += 1
        elif item.get("type") in OUTPUT_TYPES:
            call_id = item["call_id"]
            if not calls[call_id]:
                raise uncalled_output(call_id)
            outputs[call_id] += 1
            if outputs[call_id] > calls[call_id]:
                raise doubled_output(call_id)
    for call_id, count in calls.items():
        if outputs[call_id] < count:
            raise unanswered_call(call_id)


def _check_reasoning(context: Sequence[ContextItem], partners: Mapping[str, str]) -> None:
    present: set[str] = set()
    for at, item in enumerate(context):
        item_id = item.get("id")
        if item.get("type") == "reasoning":
            if item_id is not None:
                present.add(item_id)
            # Who stores a call without the thought before it is refused from then on
            # (openai-agents-js#929), until the pair is whole again.
            _check_follower(context, at)
        elif item_id is not None and item_id in partners and partners[item_id] not in present:
            raise lonely_item(item["type"], item_id, partners[item_id])


def _check_follower(context: Sequence[ContextItem], at: int) -> None:
    rest = (item for item in context[at + 1 :] if item.get("type") != "reasoning")
    follower = next(rest, None)
    led_somewhere = follower is not None and (
        follower.get("type") in CALL_TYPES
        or (follower.get("type") == "message" and follower.get("role") == "assistant")
    )
    if not led_somewhere:
        raise lonely_reasoning(context[at].get("id") or "rs_unknown")


def _stray_tool(at: int) -> Problem:
    message = (
        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
    )
    return bad(message, f"messages.[{at}].role")


def _missing_outputs(waiting: Sequence[str]) -> Problem:
    message = (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(waiting)}"
    )
    return bad(message, "messages")
