"""What may be set of an assistant, read as strictly as all that comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeep.assistants import FIELDS, FUNCTION, MASK
from turnkeep.errors import InvalidMessage
from turnkeep.inputs import MAX_MODEL, MAX_NAMES, clean_text, free_object, optional_flag, optional_text, read_function
from turnkeep.models.model import wrong_form

MAX_ASSISTANT_INSTRUCTIONS = 100_000
ASSISTANT_TEXTS = (("model", MAX_MODEL), ("name", MAX_MODEL), ("instructions", MAX_ASSISTANT_INSTRUCTIONS))


def assistant_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an assistant, checked. Raises `InvalidMessage`."""
    if strangers := set(body) - set(FIELDS):
        raise InvalidMessage(f"an assistant has no field {', '.join(sorted(strangers))[:200]}")
    values: dict[str, Any] = {}
    for name, longest in ASSISTANT_TEXTS:
        if (text := optional_text(body, name, longest)) is not None:
            values[name] = text
    if "tools" in body:
        values["tools"] = _tools(body["tools"])
    if "fallbacks" in body:
        values["fallbacks"] = _names("fallbacks", body["fallbacks"])
    values |= {name: optional_flag(body, name) for name in ("background", "show_reasoning") if name in body}
    values |= {name: free_object(name, body[name]) for name in ("parameters", "metadata") if name in body}
    if wrong := wrong_form(values.get("parameters", {})):
        raise InvalidMessage(wrong)
    if not all(isinstance(text, str) for text in values.get("metadata", {}).values()):
        raise InvalidMessage("'metadata' must hold texts")
    return values


def _tools(value: object) -> list[Any] | None:
    """Names of tools here, and objects for those that run at the provider."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise InvalidMessage(
            f"'tools' must be a list of at most {MAX_NAMES} names, and of objects for tools of the provider"
        )
    provider_tools = [free_object("tools", tool) for tool in value if not isinstance(tool, str)]
    if not all(isinstance(tool.get("type"), str) and tool["type"] for tool in provider_tools):
        raise InvalidMessage('a tool of the provider must have a type, as {"type": "web_search"}')
    # Somebody sends back what he was shown: the mask would be stored in place of the key.
    if any(MASK in tool.values() for tool in provider_tools):
        raise InvalidMessage(f"a tool of the provider holds {MASK!r} where something was not shown: give it again")
    for tool in provider_tools:
        if tool["type"] == FUNCTION:
            read_function(tool.get("function", tool))
    _names("tools", [tool for tool in value if isinstance(tool, str)])
    return value


def _names(name: str, value: object) -> list[str]:
    if (
        not isinstance(value, list)
        or len(value) > MAX_NAMES
        or not all(isinstance(v, str) and 0 < len(v) <= MAX_MODEL for v in value)
    ):
        raise InvalidMessage(f"'{name}' must be a list of names")
    return [clean_text(name, one) for one in value]
