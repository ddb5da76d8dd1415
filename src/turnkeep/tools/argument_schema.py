"""Does a value fit a JSON schema?

For tools that are described by a schema instead of a Python function.

`jsonschema-rs` decides, by the draft that the schema names (2020-12 if it names none). Here
are only the bounds that hold for schemas and values of strangers, and the sentences that
the model reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from jsonschema_rs import FancyRegexOptions, ReferencingError, ValidationError, validator_for

from turnkeep.errors import BadArguments, ConfigurationError

DEEPEST = 64
"""Levels of a value.

The library recurses natively: some ten thousand levels would end the process.
"""

MOST_BACKTRACKS = 100_000
"""Steps of a pattern on one text, some 20 ms: they can grow exponentially with the text."""

MOST_FAULTS = 5
LONGEST_NAME = 64
LONGEST_CHOICE = 500
LONGEST_REASON = 300
"""Characters that a sentence takes over: names, choices and reasons are a stranger's words."""

SchemaNode = Mapping[str, Any]


class ArgumentSchema:
    """A JSON schema that was checked once. Raises `ConfigurationError` for what is no valid one.

    References must be local: nothing is fetched, neither from the network nor from files.
    """

    def __init__(self, schema: SchemaNode) -> None:
        self._defaults = _defaults(schema)
        try:
            # ECMA 262 patterns, as JSON Schema says: Python's `re` raises for `\p{L}`, and did so
            # in the middle of runs. Offline: a `$ref` must not make this process fetch an address
            # that a stranger chose.
            self._validator = validator_for(
                {"properties": {}, **schema},  # without this key the library does not name what is not allowed
                offline=True,
                pattern_options=FancyRegexOptions(backtrack_limit=MOST_BACKTRACKS),
            )
        except ValidationError as error:
            path = "".join(f"[{step!r}]" for step in error.instance_path)
            raise ConfigurationError(f"the JSON schema{path} is not valid: {error.message[:LONGEST_REASON]}") from None
        except (ReferencingError, TypeError, ValueError) as error:
            raise ConfigurationError(f"the JSON schema cannot be read: {str(error)[:LONGEST_REASON]}") from None

    def fitting(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, with top-level defaults filled in.

        Raises `BadArguments` with the first faults.
        """
        # one more than is told, to know whether there are more; a million wrong items are not
        # gone through
        first = list(islice(self.faults(arguments), MOST_FAULTS + 1))
        if first:
            more = "; and more" if len(first) > MOST_FAULTS else ""
            raise BadArguments(f"the arguments do not fit: {'; '.join(first[:MOST_FAULTS])}{more}")
        return {**self._defaults, **arguments}

    def faults(self, value: Any) -> Iterator[str]:
        """What does not fit, as sentences that name the place, never the value."""
        if _is_too_deep(value):
            yield f"arguments: nested too deeply, more than {DEEPEST} levels"
            return
        try:
            for error in self._validator.iter_errors(value):
                yield from _sentences(error)
        except ValueError:  # of texts: half of a surrogate pair is the one that JSON can write and Unicode has not
            yield "arguments: a text holds characters that are not valid Unicode"


def _defaults(schema: SchemaNode) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {k: node["default"] for k, node in properties.items() if isinstance(node, Mapping) and "default" in node}


def _is_too_deep(value: Any) -> bool:
    # level by level: a recursive walk would fall into what it is to protect from
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [child for one in level for child in _children(one)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _sentences(error: ValidationError) -> Iterator[str]:
    path = "arguments" + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step[:LONGEST_NAME]}" for step in error.instance_path
    )
    about = error.kind.as_dict()
    for name in about.get("unexpected", ()):
        yield f"{path}: {str(name)[:LONGEST_NAME]!r} is not a parameter"
    if "unexpected" not in about:
        yield f"{path}: {_WORDS.get(error.kind.name, _fits_not)(about)}"


def _fits_not(_: Mapping[str, Any]) -> str:
    return "does not fit the schema"


def _limit(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda about: f"{words} {about['limit']}"


_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "type": lambda about: f"should be {' or '.join(about['types'])}",
    "enum": lambda about: f"should be one of {', '.join(repr(choice) for choice in about['options'])[:LONGEST_CHOICE]}",
    "const": lambda about: f"should be {repr(about['expected_value'])[:LONGEST_CHOICE]}",
    "required": lambda about: f"{about['property'][:LONGEST_NAME]!r} is missing",
    "pattern": lambda about: f"does not match {about.get('pattern', 'the pattern, or takes too long to')}",
    "format": lambda about: f"should be a {about['format']}",
    "multipleOf": lambda about: f"should be a multiple of {about['multiple_of']}",
    "minimum": _limit("is less than"),
    "maximum": _limit("is more than"),
    "exclusiveMinimum": _limit("is not more than"),
    "exclusiveMaximum": _limit("is not less than"),
    "minLength": _limit("is shorter than"),
    "maxLength": _limit("is longer than"),
    "minItems": _limit("has fewer items than"),
    "maxItems": _limit("has more items than"),
    "minProperties": _limit("has fewer properties than"),
    "maxProperties": _limit("has more properties than"),
    "anyOf": lambda _: "fits none of the allowed forms",
    "oneOf": lambda _: "should fit exactly one of the allowed forms",
    "oneOfMultipleValid": lambda _: "should fit exactly one of the allowed forms",
    "oneOfNotValid": lambda _: "should fit exactly one of the allowed forms",
    "not": lambda _: "has a form that is not allowed",
    "falseSchema": lambda _: "not allowed",
    "uniqueItems": lambda _: "has an item twice",
    "contains": lambda _: "lacks an item of the form that it should contain",
    "propertyNames": lambda _: "has a property of a name that is not allowed",
}
