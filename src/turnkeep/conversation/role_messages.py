"""Messages as most programs write them, ``{"role": …, "content": …}``, and what a transcript makes
of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from turnkeep.errors import InvalidMessage
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Content,
    Item,
    OutputItem,
    Part,
    SystemItem,
    UserItem,
    content_text,
    text_content,
)

ROLES = ("system", "developer", "user", "assistant", "tool")


def items_of(message: Mapping[str, Any] | Item) -> list[Item]:
    """The items that one message is. Raises `InvalidMessage`."""
    if isinstance(message, Item):
        return [message]
    if not isinstance(message, Mapping):
        raise InvalidMessage(f"a message is a role with a content, not {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InvalidMessage(f"a message has the role {', '.join(ROLES[:-1])} or tool, not {role!r}")
    if role == "user":
        return [UserItem(content_of(content))]
    text = content_text(content_of(content if content is not None or role != "assistant" else ""))
    if role == "assistant":
        calls = [_call(call) for call in message.get("tool_calls") or ()]
        # calls alone say nothing: an empty text beside them would be an answer
        return [*([AssistantItem(text)] if text or not calls else []), *calls]
    if role == "tool":
        return [OutputItem(_text_field(message, "tool_call_id", "a tool message"), text)]
    return [SystemItem(text)]


def content_of(content: object) -> Content:
    """A content given as text, or as parts in the words of either protocol.

    Raises `InvalidMessage`.
    """
    if isinstance(content, str):
        return text_content(content)
    if not isinstance(content, list | tuple) or not content:
        raise InvalidMessage("the content of a message is a text or a list of parts")
    return tuple(part if isinstance(part, Part) else _part(part) for part in content)


def messages_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """A transcript in the words of Chat Completions. Reasoning has no words there and is left out."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case UserItem():
                messages.append({"role": "user", "content": _content(item.content)})
            case SystemItem():
                messages.append({"role": "system", "content": item.text})
            case AssistantItem():
                messages.append({"role": "assistant", "content": item.text})
            case CallItem():
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                _calling_message(messages).setdefault("tool_calls", []).append(call)
            case OutputItem():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
    return messages


def _calling_message(messages: list[dict[str, Any]]) -> dict[str, Any]:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _call(call: object) -> CallItem:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidMessage('a tool call is {"id": …, "type": "function", "function": {"name": …, "arguments": …}}')
    arguments = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return CallItem(
        _text_field(call, "id", "a tool call"), _text_field(function, "name", "the function of a tool call"), text
    )


def _text_field(holder: Mapping[str, Any], name: str, what: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidMessage(f"{what} needs its {name}, a text")
    return value


def _part(part: object) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise InvalidMessage('a part of a content is an object with a "type"')
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return Part("text", part["text"])
    if kind in ("image_url", "input_image", "image"):
        return Part("image", data=_image(part))
    if kind in ("file", "input_file"):
        inner = part.get("file")
        return Part("file", data=dict(inner) if isinstance(inner, Mapping) else _rest(part))
    raise InvalidMessage(f"a content has no part of type {kind[:40]!r}; use text, image_url or file")


def _image(part: Mapping[str, Any]) -> dict[str, Any]:
    inner = part.get("image_url")
    if not isinstance(inner, Mapping):
        return _rest(part)
    return {"image_url": inner.get("url"), **{name: value for name, value in inner.items() if name != "url"}}


def _rest(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "type"}


def _content(content: Content) -> str | list[dict[str, Any]]:
    if all(part.type == "text" for part in content):
        return content_text(content)
    return [_part_in_chat(part) for part in content]


def _part_in_chat(part: Part) -> dict[str, Any]:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    data = dict(part.data or {})
    if part.type == "file":
        return {"type": "file", "file": data}
    return {"type": "image_url", "image_url": {"url": data.pop("image_url", None), **data}}
