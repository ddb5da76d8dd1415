"""Does a value fit a JSON schema? For tools that are described by a schema instead of a Python function.

Checks what tool schemas are written with: type, enum, const, required, properties, additionalProperties, items,
sizes, ranges, pattern, anyOf, oneOf, allOf, not and local references. Unknown keywords allow everything, as
JSON Schema says. Nesting beyond 64 levels is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from turnkeep.errors import BadArguments

DEEPEST = 64
LONGEST_MATCHED = 4096
"""Longer texts are not tried against a pattern: a pattern can take time that grows with the text."""

Node = Mapping[str, Any]


def fitting(schema: Node, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with top-level defaults filled in. Raises `BadArguments` with the first faults in one sentence."""
    found = [fault for _, fault in zip(range(6), faults(schema, arguments), strict=False)]
    if found:
        more = "; and more" if len(found) > 5 else ""
        raise BadArguments(f"the arguments do not fit: {'; '.join(found[:5])}{more}")
    defaults = {
        name: node["default"]
        for name, node in schema.get("properties", {}).items()
        if isinstance(node, Mapping) and "default" in node
    }
    return {**defaults, **arguments}


def faults(schema: Node, value: Any) -> Iterator[str]:
    """What does not fit, as sentences that name the place, never the value."""
    return _faults(schema, value, "arguments", schema, 0)


def _faults(node: Any, value: Any, place: str, root: Node, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        yield f"{place}: nested too deeply"
        return
    if node is False:
        yield f"{place}: not allowed"
    if not isinstance(node, Mapping):
        return
    if "$ref" in node:
        yield from _faults(_resolved(str(node["$ref"]), root), value, place, root, depth + 1)
    yield from _plain_faults(node, value, place)
    yield from _choice_faults(node, value, place, root, depth)
    if isinstance(value, Mapping):
        yield from _object_faults(node, value, place, root, depth)
    if isinstance(value, list):
        yield from _array_faults(node, value, place, root, depth)


def _resolved(reference: str, root: Node) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name, {}) if isinstance(found, Mapping) else {}
    return found


# ---------------------------------------------------------------- single values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
}

_LIMITS: tuple[tuple[str, Callable[[Any], Any | None], Callable[[Any, Any], bool], str], ...] = (
    ("minimum", lambda v: v if _is_number(v) else None, lambda v, limit: v >= limit, "is less than"),
    ("maximum", lambda v: v if _is_number(v) else None, lambda v, limit: v <= limit, "is more than"),
    ("exclusiveMinimum", lambda v: v if _is_number(v) else None, lambda v, limit: v > limit, "is not more than"),
    ("exclusiveMaximum", lambda v: v if _is_number(v) else None, lambda v, limit: v < limit, "is not less than"),
    ("minLength", lambda v: len(v) if isinstance(v, str) else None, lambda v, limit: v >= limit, "is shorter than"),
    ("maxLength", lambda v: len(v) if isinstance(v, str) else None, lambda v, limit: v <= limit, "is longer than"),
    (
        "minItems",
        lambda v: len(v) if isinstance(v, list) else None,
        lambda v, limit: v >= limit,
        "has fewer items than",
    ),
    ("maxItems", lambda v: len(v) if isinstance(v, list) else None, lambda v, limit: v <= limit, "has more items than"),
)


def _plain_faults(node: Node, value: Any, place: str) -> Iterator[str]:
    kinds = node.get("type", ())
    kinds = kinds if isinstance(kinds, list) else [kinds] if kinds else []
    if kinds and not any(_TYPES.get(kind, lambda _: True)(value) for kind in kinds):
        yield f"{place}: should be {' or '.join(kinds)}"
    if "enum" in node and not any(_same(value, choice) for choice in node["enum"]):
        yield f"{place}: should be one of {', '.join(repr(choice) for choice in node['enum'])[:500]}"
    if "const" in node and not _same(value, node["const"]):
        yield f"{place}: should be {node['const']!r}"
    for keyword, measure, fits, words in _LIMITS:
        if keyword in node and (measured := measure(value)) is not None and not fits(measured, node[keyword]):
            yield f"{place}: {words} {node[keyword]}"
    yield from _pattern_faults(node, value, place)


def _pattern_faults(node: Node, value: Any, place: str) -> Iterator[str]:
    if "pattern" not in node or not isinstance(value, str):
        return
    if len(value) > LONGEST_MATCHED:
        yield f"{place}: is longer than {LONGEST_MATCHED}"
    elif not re.search(node["pattern"], value):
        yield f"{place}: does not match {node['pattern']}"


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


# ---------------------------------------------------------------- values made of values


def _choice_faults(node: Node, value: Any, place: str, root: Node, depth: int) -> Iterator[str]:
    def fits(choice: Any) -> bool:
        return next(_faults(choice, value, place, root, depth + 1), None) is None

    for choice in node.get("allOf", ()):
        yield from _faults(choice, value, place, root, depth + 1)
    if "anyOf" in node and not any(fits(choice) for choice in node["anyOf"]):
        yield f"{place}: fits none of the allowed forms"
    if "oneOf" in node and sum(fits(choice) for choice in node["oneOf"]) != 1:
        yield f"{place}: should fit exactly one of the allowed forms"
    if "not" in node and fits(node["not"]):
        yield f"{place}: has a form that is not allowed"


def _object_faults(node: Node, value: Mapping[str, Any], place: str, root: Node, depth: int) -> Iterator[str]:
    properties = node.get("properties", {})
    rest = node.get("additionalProperties", True)
    yield from (f"{place}: {name!r} is missing" for name in node.get("required", ()) if name not in value)
    for name, child in value.items():
        if name in properties:
            yield from _faults(properties[name], child, f"{place}.{name}", root, depth + 1)
        elif rest is False:
            yield f"{place}: {name[:64]!r} is not a parameter"
        else:
            yield from _faults(rest, child, f"{place}.{name[:64]}", root, depth + 1)


def _array_faults(node: Node, value: list[Any], place: str, root: Node, depth: int) -> Iterator[str]:
    first = node.get("prefixItems", ())
    for position, child in enumerate(value):
        inner = first[position] if position < len(first) else node.get("items", {})
        yield from _faults(inner, child, f"{place}[{position}]", root, depth + 1)
    if node.get("uniqueItems") and any(child in value[:position] for position, child in enumerate(value)):
        yield f"{place}: has an item twice"
