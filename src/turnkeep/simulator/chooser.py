"""A small rule-based choice of tools, so that demonstrations work without markers.

A tool is called when a message names every telling word of its name: "weather in Paris" calls
`get_weather`, "offices for 20 people in Makati" calls `get_available_offices`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from turnkeep.simulator.prompt import OfferedTool

# Half of all tools begin with these words: they say nothing of what a tool is for.
_IDLE = frozenset(
    (
        *("get", "list", "find", "fetch", "search", "show", "check", "lookup", "info"),
        *("available", "current", "all", "the", "a", "of", "for", "by", "in"),
    )
)
_PLACES = frozenset(("location", "city", "place", "area", "where", "address", "town", "destination"))
_PLACE = re.compile(r"\b(?:in|at|near|for|around)\s+((?:[A-Z][\w.'-]*)(?:(?:\s+|,\s*)[A-Z][\w.'-]*)*)")
_MORE = re.compile(r"\s*(?:,|and|or)\s+((?:[A-Z][\w.'-]*)(?:\s+[A-Z][\w.'-]*)*)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

Call = tuple[str, str]


def choose(tools: Sequence[OfferedTool], text: str, choice: str) -> list[Call]:
    """Calls for one user message: name and arguments as JSON. Empty when no tool is meant or
    allowed.
    """
    if choice == "none" or not tools:
        return []
    if choice.startswith("="):
        return [call for tool in tools if tool.name == choice[1:] for call in _calls(tool, text)]
    words = _stems(text)
    matches = [tool for tool in tools if (name := _stems(tool.name) - _IDLE) and name <= words]
    if not matches and choice == "required":
        matches = list(tools[:1])
    return [call for tool in matches for call in _calls(tool, text)]


def example(schema: Mapping[str, Any], text: str) -> Any:
    """A value that fits a JSON schema, filled from the text where that is plain."""
    if "enum" in schema:
        return _of_enum(schema["enum"], text)
    if "anyOf" in schema:
        return example(schema["anyOf"][0], text)
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {name: example(part, text) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {}), text)]
    simple: dict[str, Any] = {"integer": _number(text, 1), "number": _number(text, 1), "boolean": True, "null": None}
    return simple.get(kind, text)


def _calls(tool: OfferedTool, text: str) -> list[Call]:
    places = _places(text) or [""]
    # Two cities in one message are two calls, as a model would make them.
    takes_place = any(_is_place(name) for name in tool.parameters.get("properties", {}))
    return [_call(tool, text, place) for place in (places if takes_place else places[:1])]


def _call(tool: OfferedTool, text: str, place: str) -> Call:
    properties: Mapping[str, Mapping[str, Any]] = tool.parameters.get("properties", {})
    mandatory = set(tool.parameters.get("required", ()))
    arguments: dict[str, Any] = {}
    for name, schema in properties.items():
        value = _argument(name, schema, text, place=place)
        # What is neither required nor said is left out: an invented value is one nobody asked for.
        if value is None and name in mandatory:
            value = example(schema, text)
        if value is not None:
            arguments[name] = value
    return tool.name, orjson.dumps(arguments).decode()


def _argument(name: str, schema: Mapping[str, Any], text: str, *, place: str) -> Any:
    """A value that the text plainly gives, else None."""
    if "enum" in schema:
        return next((value for value in schema["enum"] if str(value).lower() in text.lower()), None)
    kinds = schema.get("type")
    if _is_place(name):
        return place or None
    if "integer" in (kinds or ()) or "number" in (kinds or ()):
        return _number(text, None)
    return None


def _of_enum(values: Sequence[Any], text: str) -> Any:
    return next((value for value in values if str(value).lower() in text.lower()), values[0] if values else None)


def _places(text: str) -> list[str]:
    first = _PLACE.search(text)
    if first is None:
        return []
    places, at = [first.group(1)], first.end()
    while more := _MORE.match(text, at):
        places.append(more.group(1))
        at = more.end()
    return [place.strip(" .,'-") for place in places]


def _is_place(name: str) -> bool:
    return bool(_stems(name) & _PLACES)


def _number(text: str, default: int | None) -> int | float | None:
    match = _NUMBER.search(text)
    if match is None:
        return default
    return float(match.group()) if "." in match.group() else int(match.group())


def _stems(text: str) -> set[str]:
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", text)
    return {_stem(part.lower()) for part in parts}


def _stem(word: str) -> str:
    for ending, instead in (("ies", "y"), ("ses", "s"), ("s", "")):
        if len(word) > 3 and word.endswith(ending) and not word.endswith("ss"):
            return word.removesuffix(ending) + instead
    return word
