"""Checks of the bodies of POST /v1/messages: what the platform refuses, the simulator refuses
in the same words.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from turnkeep.simulator.problems import MessageProblem
from turnkeep.simulator.prompt import Json
from turnkeep.simulator.prompt_cache import blocks_of

# Closed, as the platform's is: it is how a misspelt parameter is noticed at all.
PARAMETERS = frozenset(
    (
        *("model", "messages", "max_tokens", "system", "tools", "tool_choice", "stream", "stop_sequences", "metadata"),
        *("thinking", "output_config", "service_tier", "cache_control", "container", "context_management"),
        *("mcp_servers", "inference_geo", "speed", "temperature", "top_p", "top_k", "diagnostics"),
    )
)
SAMPLING = ("temperature", "top_p", "top_k")
THOUGHTS = ("thinking", "redacted_thinking")
MARKS = 4
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_GENERATION = re.compile(r"claude(?:-[a-z]+)*-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")


def generation(model: str) -> tuple[int, int]:
    """Which Claude a name means: one without a number is of the newest, a model of somebody else
    takes everything.
    """
    if "claude" not in model:
        return 4, 6
    match = _GENERATION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else (99, 0)


def signature(thinking: str) -> str:
    """What proves that a thought was thought here."""
    # A digest of the thought: a client that drops or changes a letter of it is found out.
    return "EqoB" + base64.b64encode(hashlib.sha256(thinking.encode()).digest()).decode()


def bad(message: str) -> MessageProblem:
    return MessageProblem(400, message)


def message_body(body: object, version: str) -> Json:
    """A body for POST /v1/messages, or the `MessageProblem` with it."""
    if not isinstance(body, dict):
        raise bad("Input should be a valid dictionary")
    for name in body:
        if name not in PARAMETERS or (name in SAMPLING and version >= "2026-10-21"):
            raise bad(f"{name}: Extra inputs are not permitted")
    for name, kind, phrase in (("model", str, "string"), ("max_tokens", int, "integer"), ("messages", list, "list")):
        if body.get(name) is None:
            raise bad(f"{name}: Field required")
        if not isinstance(body[name], kind):
            raise bad(f"{name}: Input should be a valid {phrase}")
    if body["max_tokens"] < 1:
        raise bad("max_tokens: Input should be greater than or equal to 1")
    _check_thinking(body)
    _check_tools(body)
    _check_messages(body)
    if (marks := sum(1 for _ in _cache_marks(body))) > MARKS:
        raise bad(f"A maximum of {MARKS} blocks with cache_control may be provided. Found {marks}.")
    return body


def _check_thinking(body: Json) -> None:
    thinking = body.get("thinking") or {"type": "disabled"}
    model, kind = body["model"], thinking.get("type")
    if kind == "enabled":
        if generation(model) >= (4, 7):
            raise bad(
                '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
                '"output_config.effort" to control thinking behavior.'
            )
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or budget < 1024:
            raise bad("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        if budget >= body["max_tokens"]:
            raise bad("`max_tokens` must be greater than `thinking.budget_tokens`.")
    elif kind == "adaptive" and generation(model) < (4, 6):
        raise bad("adaptive thinking is not supported on this model")
    sampling = [name for name in SAMPLING if body.get(name) is not None]
    if sampling and generation(model) >= (4, 7):
        raise bad(f"`{sampling[0]}` is deprecated for this model.")
    if kind in ("enabled", "adaptive"):
        if body.get("temperature") not in (None, 1):
            raise bad("`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.")
        if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
            raise bad("Thinking may not be enabled when tool_choice forces tool use.")


def _check_tools(body: Json) -> None:
    for at, tool in enumerate(body.get("tools") or ()):
        name = tool.get("name")
        if name is None:
            raise bad(f"tools.{at}.name: Field required")
        if not _NAME.fullmatch(name):
            raise bad(f"tools.{at}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if tool.get("type", "custom") == "custom" and (tool.get("input_schema") or {}).get("type") != "object":
            raise bad(f"tools.{at}.custom.input_schema.type: Field required")


def _check_messages(body: Json) -> None:
    messages = body["messages"]
    if not messages:
        raise bad("messages: at least one message is required")
    if messages[0].get("role") != "user":
        raise bad('messages: first message must use the "user" role')
    for at, message in enumerate(messages):
        if message.get("role") not in ("user", "assistant"):
            raise bad(f'messages: Unexpected role "{message.get("role")}". Allowed roles are "user" or "assistant".')
        blocks = blocks_of(message.get("content"))
        if not blocks and at < len(messages) - 1:
            raise bad(
                f"messages.{at}: all messages must have non-empty content except for the optional final assistant "
                "message"
            )
        for index, block in enumerate(blocks):
            _check_block(message["role"], block, f"messages.{at}.content.{index}")
    _check_pairs(messages)
    _check_end(body)


def _check_block(role: str, block: Mapping[str, Any], where: str) -> None:
    kind = str(block.get("type"))
    if kind in _CHECKS:
        _CHECKS[kind](block, where)
    speaker = _SPEAKERS.get(kind, role)
    if role != speaker:
        raise bad(f"{where}: `{kind}` blocks can only be in `{speaker}` messages")


def _check_text(block: Mapping[str, Any], _: str) -> None:
    if not block.get("text"):
        raise bad("messages: text content blocks must be non-empty")
    if not block["text"].strip():
        raise bad("messages: text content blocks must contain non-whitespace text")


def _check_call(block: Mapping[str, Any], where: str) -> None:
    for name, pattern, form in (("id", _ID, "^[a-zA-Z0-9_-]+$"), ("name", _NAME, "^[a-zA-Z0-9_-]{1,128}$")):
        if not pattern.fullmatch(str(block.get(name))):
            raise bad(f"{where}.tool_use.{name}: String should match pattern '{form}'")
    if not isinstance(block.get("input"), dict):
        raise bad(f"{where}.tool_use.input: Input should be a valid dictionary")


def _check_thought(block: Mapping[str, Any], where: str) -> None:
    if block.get("signature") != signature(str(block.get("thinking"))):
        raise bad(f"{where}: Invalid `signature` in `thinking` block")


def _check_sealed(block: Mapping[str, Any], where: str) -> None:
    if not str(block.get("data")).startswith("EmwK"):
        raise bad(f"{where}: Invalid `data` in `redacted_thinking` block")


_CHECKS: Mapping[str, Callable[[Mapping[str, Any], str], None]] = {
    "text": _check_text,
    "tool_use": _check_call,
    "thinking": _check_thought,
    "redacted_thinking": _check_sealed,
}
_SPEAKERS = {**dict.fromkeys(("tool_use", *THOUGHTS), "assistant"), "tool_result": "user"}


def _check_pairs(messages: Sequence[Mapping[str, Any]]) -> None:
    waiting: list[str] = []
    for at, message in enumerate(messages):
        blocks = blocks_of(message.get("content"))
        results = [block["tool_use_id"] for block in blocks if block.get("type") == "tool_result"]
        if strange := [call_id for call_id in results if call_id not in waiting]:
            raise bad(
                f"messages.{at}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {strange[0]}. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
        if missing := [call_id for call_id in waiting if call_id not in results]:
            raise bad(
                f"messages.{at - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message."
            )
        if len(set(results)) < len(results):
            raise bad(f"messages.{at}: each tool_use must have a single result")
        waiting = [block["id"] for block in blocks if block.get("type") == "tool_use"]
        if len(set(waiting)) < len(waiting):
            raise bad(f"messages.{at}: `tool_use` ids must be unique")
    if waiting:
        raise bad(
            f"messages.{len(messages) - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(waiting)}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
            "message."
        )


def _check_end(body: Json) -> None:
    messages = body["messages"]
    last = blocks_of(messages[-1]["content"])
    if messages[-1]["role"] == "assistant":
        # A turn that paused is sent back as it was to be gone on with: that is no prefill.
        goes_on = any(str(block.get("type")).startswith(("server_tool", "web_")) for block in last[-2:])
        if generation(body["model"]) >= (4, 6) and not goes_on:
            raise bad(
                "This model does not support assistant message prefill. The conversation must end with a user message."
            )
        return
    manual = (body.get("thinking") or {}).get("type") == "enabled"
    if manual and len(messages) > 1 and last and last[0].get("type") == "tool_result":
        first = blocks_of(messages[-2]["content"])[0].get("type")
        if first not in THOUGHTS:
            raise bad(
                f"messages.{len(messages) - 2}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{first}`. When `thinking` is enabled, a final `assistant` message must start with a thinking block "
                "(preceeding the lastmost set of `tool_use` and `tool_result` blocks)."
            )


def _cache_marks(body: Json) -> Iterator[Mapping[str, Any]]:
    contents = [message["content"] for message in body["messages"]]
    for blocks in (body.get("tools"), body.get("system"), *contents):
        yield from (block for block in blocks_of(blocks) if block.get("cache_control"))
