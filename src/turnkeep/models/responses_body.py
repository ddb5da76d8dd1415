"""Requests to the Responses API: transcript, tools and wishes in its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Content,
    HostedItem,
    Item,
    OutputItem,
    ReasoningItem,
    SystemItem,
    UserItem,
)
from turnkeep.models.call_ids import readable_arguments
from turnkeep.models.capabilities import Capabilities
from turnkeep.models.hosted_tools import for_responses, results_of
from turnkeep.models.model import ModelRequest, ToolSpec
from turnkeep.models.pairing import pair
from turnkeep.models.parameters import origin_fields, responses_parameters


def request_body(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """The body of one request, with nothing in it that the server does not take."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": input_items(request.items, caps),
        "stream": caps.takes_stream,
        **responses_parameters(request, caps),
    }
    if request.instructions:
        body["instructions"] = request.instructions
    # Nothing is stored there, so a thought comes back, and goes back, only as a sealed whole.
    include = ["reasoning.encrypted_content"] if caps.returns_reasoning(request.model) else []
    tools = [_tool(tool) for tool in request.tools]
    if request.hosted_tools:
        tools += for_responses(request.hosted_tools)
        include += results_of(request.hosted_tools)
    if tools:
        body["tools"] = tools
    if include:
        body["include"] = include
    background = request.background and caps.takes_background
    if caps.takes_store:
        body["store"] = background  # what is not kept there cannot be gone on with
    if background:
        body["background"] = True
    if caps.takes_stream_options and caps.takes_stream:
        # Padding that hides the length of words from who watches the line: bytes without a word.
        body["stream_options"] = {"include_obfuscation": False}
    body |= origin_fields(request, caps)
    return {name: value for name, value in body.items() if name not in caps.drops}


def input_items(items: Sequence[Item], caps: Capabilities) -> list[dict[str, Any]]:
    """A transcript in the words of the API; entries that hold nothing it takes are left out.

    What a tool of the provider did goes back only by its id, to a store that holds nothing of ours:
    the answer says what was found, and reasoning that led to nothing else would be refused.
    """
    if any(item.kind == "hosted" for item in items):
        items = pair([item for item in items if item.kind != "hosted"])
    return [entry for item in items if (entry := _input_item(item, caps)) is not None]


def _input_item(item: Item, caps: Capabilities) -> dict[str, Any] | None:
    match item:
        case UserItem():
            return {"type": "message", "role": "user", "content": _content(item.content)}
        case SystemItem():
            return {"type": "message", "role": caps.system_role, "content": item.text}
        case AssistantItem():
            return _assistant_entry(item, caps) if item.text else None
        case ReasoningItem():
            return _reasoning_entry(item.raw)
        case HostedItem():
            return None
        case CallItem():
            return {
                "type": "function_call",
                "call_id": item.call_id,
                "name": item.name,
                "arguments": readable_arguments(item.arguments),
            }
        case OutputItem():
            return {"type": "function_call_output", "call_id": item.call_id, "output": item.output}


def _assistant_entry(item: AssistantItem, caps: Capabilities) -> dict[str, Any]:
    entry = {"type": "message", "role": "assistant", "content": item.text}
    return entry if item.phase is None or "phase" in caps.drops else {**entry, "phase": item.phase}


def _reasoning_entry(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """A reasoning item as it may go back: with its contents, without what points
    into the server's store.
    """
    if not raw.get("encrypted_content") and not raw.get("content"):
        return None
    return {"summary": [], **{k: v for k, v in raw.items() if v is not None and k not in ("id", "status")}}


def _content(content: Content) -> list[dict[str, Any]]:
    return [
        {"type": "input_text", "text": part.text}
        if part.type == "text"
        else {"type": f"input_{part.type}", **(part.data or {})}
        for part in content
    ]


def _tool(tool: ToolSpec) -> dict[str, Any]:
    # `strict` is always said: a server that is not told tries strict first.
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
