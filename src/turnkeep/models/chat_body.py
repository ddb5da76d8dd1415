"""Requests in the words of Chat Completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from turnkeep.errors import ModelRefused
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Content,
    Item,
    OutputItem,
    ReasoningItem,
    SystemItem,
    UserItem,
    content_text,
)
from turnkeep.models.capabilities import Capabilities
from turnkeep.models.exchange import origin_fields
from turnkeep.models.model import ModelRequest, ToolSpec, chat_parameters
from turnkeep.models.past import readable_arguments

BLANK_THOUGHT = " "
"""For calls without their thought: Kimi refuses an empty text and takes a blank."""

SIGNATURE = {"extra_content": {"google": {"thought_signature": "skip_thought_signature_validator"}}}
"""What Gemini documents for calls that it did not make."""


def request_body(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """The body of one request, with nothing in it that the server does not take."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages(request.instructions, request.items, caps),
        "stream": caps.takes_stream,
    }
    if request.parameters:
        body |= chat_parameters(request, caps)
    if tools := [*(_tool(tool) for tool in request.tools), *(dict(tool) for tool in request.hosted_tools)]:
        body["tools"] = tools
    if caps.takes_store:
        body["store"] = False
    if caps.takes_stream_options and caps.takes_stream:
        # A stream has no usage unless it is asked for.
        body["stream_options"] = {"include_usage": True}
    body |= origin_fields(request, caps)
    return {name: value for name, value in body.items() if name not in caps.drops}


def messages(instructions: str | None, items: Sequence[Item], caps: Capabilities) -> list[dict[str, Any]]:
    """A transcript in the words of the API: thoughts and calls belong to the assistant's message
    around them.
    """
    result: list[dict[str, Any]] = []
    if instructions:
        result.append({"role": caps.system_role, "content": instructions})
    for item in items:
        match item:
            case UserItem():
                result.append({"role": "user", "content": _content(item.content)})
            case SystemItem():
                result.append({"role": caps.system_role, "content": item.text})
            # With a type it is an item of another protocol, which no message has a place for.
            case ReasoningItem() if "type" not in item.raw:
                _add_thought(result, item)
            case AssistantItem() if item.text:
                _add_text(result, item)
            case CallItem():
                _open_message(result).setdefault("tool_calls", []).append(_call(item))
            case OutputItem():
                result.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
    return [_complete(message, caps) if "tool_calls" in message else message for message in result]


def _add_thought(result: list[dict[str, Any]], item: ReasoningItem) -> None:
    """Open the message that a thought leads to; one to nothing, or amid calls, goes."""
    last = result[-1] if result else {}
    if last.get("role") == "assistant" and "tool_calls" in last:
        return
    # A message without content, which two thoughts in a row would leave, is refused for good.
    if last.get("role") == "assistant" and last["content"] is None:
        result.pop()
    result.append({"role": "assistant", "content": None, **item.raw})


def _open_message(result: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message that a call belongs to."""
    if not result or result[-1]["role"] != "assistant":
        result.append({"role": "assistant", "content": None})
    return result[-1]


def _add_text(result: list[dict[str, Any]], item: AssistantItem) -> None:
    fields = item.provider_data.fields if item.provider_data else {}
    last = result[-1] if result else {}
    if last.get("role") == "assistant" and last["content"] is None and "tool_calls" not in last:
        last |= {**fields, "content": item.text}
    else:
        result.append({**fields, "role": "assistant", "content": item.text})


def _complete(message: dict[str, Any], caps: Capabilities) -> dict[str, Any]:
    """A message that calls, with what the server wants to find in it."""
    if caps.wants_thoughts and not message.get("reasoning_content"):
        message["reasoning_content"] = BLANK_THOUGHT
    if caps.wants_signatures and not any("signature" in orjson.dumps(call).decode() for call in message["tool_calls"]):
        message["tool_calls"][0] |= SIGNATURE
    if message["content"] is None and not caps.takes_null_content:
        message["content"] = ""
    return message


def _call(item: CallItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": readable_arguments(item.arguments)}
    call = {"id": item.call_id, "type": "function", "function": function}
    if item.provider_data is None:
        return call
    fields = item.provider_data.fields
    inner = fields.get("function")
    return {**fields, **call, "function": {**inner, **function} if isinstance(inner, Mapping) else function}


def _content(content: Content) -> str | list[dict[str, Any]]:
    if all(part.type == "text" for part in content):
        return content_text(content)
    return [_part(part.type, part.text, part.data or {}) for part in content]


def _part(kind: str, text: str, data: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "text":
        return {"type": "text", "text": text}
    if kind == "file":
        return {"type": "file", "file": dict(data)}
    image = data.get("image_url")
    if image is None:
        raise ModelRefused(f"Chat Completions takes an image by its 'image_url', not by {', '.join(data) or 'nothing'}")
    if isinstance(image, str):
        image = {"url": image, **({"detail": data["detail"]} if "detail" in data else {})}
    return {"type": "image_url", "image_url": image}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    # Several servers refuse a blank text; all take none.
    if not tool.description.strip():
        del function["description"]
    return {"type": "function", "function": {**function, "strict": True} if tool.strict else function}
