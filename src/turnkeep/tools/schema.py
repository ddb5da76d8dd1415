"""JSON schemas of tool arguments: made from a function's signature, closed for strict mode.

`Signature` reads type hints and docstring and turns arguments into typed values; `strict_form`
gives the form that strict mode takes, or None where the schema does not allow it. Arguments of a
tool that has a schema and no function are checked by `argument_schema`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from turnkeep.errors import BadArguments, ConfigurationError
from turnkeep.tools.docstring import parse_docstring

Schema = dict[str, Any]
Accept = Callable[[Mapping[str, Any]], dict[str, Any]]

_CHILDREN = ("items", "additionalProperties", "not", "contains", "propertyNames")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "dependentSchemas")

# fmt: off
_STRICT_KEYWORDS = frozenset((
    "type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const", "description",
    "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems",
    "maxItems",
))
_STRICT_FORMATS = frozenset((
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid",
))
# fmt: on


class Signature:
    """What a function takes: the schema for the model, and `accept` to make values of arguments.

    A parameter annotated with `context_type` is left out of the schema; its name is `context`.
    """

    def __init__(self, function: Callable[..., Any], context_type: type) -> None:
        self._name = getattr(function, "__name__", type(function).__name__)
        self.description, parameter_words = parse_docstring(inspect.getdoc(function) or "")
        hints = _hints(function, self._name)
        parameters = list(inspect.signature(function).parameters.values())
        self.context = next((p.name for p in parameters if _is_context(hints.get(p.name), context_type)), None)
        inputs = [p for p in parameters if p.name != self.context]
        # names of our own, with aliases: pydantic takes no field `_x`, and `json` or `copy` would
        # hide its methods
        self._fields = {f"field_{index}": parameter.name for index, parameter in enumerate(inputs)}
        self._model = self._build(inputs, hints, parameter_words)
        self.parameters = plain_form(self._model.model_json_schema(by_alias=True))

    def accept(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function's types.

        Raises `BadArguments` with every fault in one sentence.
        """
        try:
            values = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            raise BadArguments(f"the arguments do not fit: {_fault_sentences(error)}") from None
        return {name: getattr(values, field) for field, name in self._fields.items()}

    def _build(
        self, parameters: list[inspect.Parameter], hints: dict[str, Any], parameter_words: Mapping[str, str]
    ) -> type[BaseModel]:
        fields: dict[str, Any] = {}
        for field, parameter in zip(self._fields, parameters, strict=True):
            fields[field] = _field(
                parameter, hints, docstring_words=parameter_words.get(parameter.name), tool=self._name
            )
        try:
            model: type[BaseModel] = create_model(
                "Arguments", __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
            )
            # asked here and now: a type without a schema is refused where the tool is made, not
            # in its first run
            model.model_json_schema()
        except PydanticUserError as error:
            raise ConfigurationError(
                f"tool {self._name!r} takes a type that has no JSON schema; use str, numbers, bool, lists, dicts,"
                " Literal, Optional or pydantic models"
            ) from error
        return model


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"tool {name!r} names a type that is not known in its module; define {error.name!r} at module level"
        ) from error


def _is_context(hint: Any, context_type: type) -> bool:
    return hint is context_type or context_type in typing.get_args(hint)


def _field(
    parameter: inspect.Parameter, hints: dict[str, Any], *, docstring_words: str | None, tool: str
) -> tuple[Any, FieldInfo]:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ConfigurationError(f"tool {tool!r} takes {parameter}; give every parameter a name of its own")
    if parameter.name not in hints:
        raise ConfigurationError(f"parameter {parameter.name!r} of tool {tool!r} has no type hint; add one")
    hint = hints[parameter.name]
    default = ... if parameter.default is parameter.empty else parameter.default
    words = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, str)), None)
    description = words or docstring_words
    extra: dict[str, Any] = {"description": description} if description else {}
    return hint, Field(default, alias=parameter.name, **extra)


def _fault_sentences(error: ValidationError) -> str:
    """The first faults, without the values: they are the model's own words."""
    faults = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'arguments'}: {fault['msg'][:200]}"
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return list_sentences(faults)


def list_sentences(sentences: list[str], most: int = 5) -> str:
    """The first few in one line, and how many more there are."""
    more = f"; and {len(sentences) - most} more" if len(sentences) > most else ""
    return "; ".join(sentences[:most]) + more


def plain_form(schema: Mapping[str, Any]) -> Schema:
    """The schema without pydantic's titles, definitions put in place unless they are recursive."""
    definitions = schema.get("$defs", {})
    recursive = {name for name in definitions if _reaches(name, name, definitions)}
    plain: Schema = _plain(dict(schema), definitions, recursive)
    if not recursive:
        plain.pop("$defs", None)
    return plain


def _plain(node: Any, definitions: Mapping[str, Any], recursive: set[str]) -> Any:
    if not isinstance(node, dict):
        return node
    name = _reference(node)
    if name in definitions and name not in recursive:
        beside = {k: v for k, v in node.items() if k != "$ref"}
        node = {**definitions[name], **beside}
    return {
        key: _below(key, value, lambda child: _plain(child, definitions, recursive))
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }


def _below(key: str, value: Any, change: Callable[[Any], Any]) -> Any:
    """The value of a keyword, with `change` made to every schema in it."""
    if key in _CHILDREN:
        return change(value)
    if key in _LISTS and isinstance(value, list):
        return [change(child) for child in value]
    if key in _MAPS and isinstance(value, dict):
        return {name: change(child) for name, child in value.items()}
    return value


def _schemas_in(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in _CHILDREN:
        if isinstance(child := node.get(key), Mapping):
            yield child
    for key in _LISTS:
        yield from (child for child in node.get(key, ()) if isinstance(child, Mapping))
    for key in _MAPS:
        yield from (child for child in node.get(key, {}).values() if isinstance(child, Mapping))


def _reference(node: Mapping[str, Any]) -> str:
    return str(node.get("$ref", "")).removeprefix("#/$defs/")


def _reaches(start: str, target: str, definitions: Mapping[str, Any]) -> bool:
    names: set[str] = set()
    waiting: list[Mapping[str, Any]] = [definitions[start]]
    while waiting:
        node = waiting.pop()
        name = _reference(node)
        if name == target:
            return True
        if name in definitions and name not in names:
            names.add(name)
            waiting.append(definitions[name])
        waiting.extend(_schemas_in(node))
    return False


def strict_form(schema: Mapping[str, Any]) -> Schema | None:
    """The schema as strict mode takes it: every object closed, every property required.

    None where that would change what the tool accepts: open objects, defaults other than null,
    keywords that strict mode does not know.
    """
    if schema.get("type") != "object":
        return None
    try:
        return _strict(schema)
    except _NotStrict:
        return None


class _NotStrict(Exception):
    """this schema has no strict form"""


def _strict(node: Any) -> Schema:
    if not isinstance(node, Mapping):
        raise _NotStrict
    # strict mode has no defaults, and a missing argument becomes null there: that default changes
    # nothing
    form = {key: value for key, value in node.items() if not (key == "default" and value is None)}
    is_typed = "type" in form or "anyOf" in form or "enum" in form or "const" in form
    if not is_typed or not form.keys() <= _STRICT_KEYWORDS or form.get("format", "date") not in _STRICT_FORMATS:
        raise _NotStrict
    if form.get("type") == "object":
        _close(form)
    return {key: _below(key, value, _strict) if key != "additionalProperties" else value for key, value in form.items()}


def _close(node: Schema) -> None:
    properties = node.setdefault("properties", {})
    if node.get("additionalProperties", False) is not False:
        raise _NotStrict
    optional = properties.keys() - set(node.get("required", ()))
    if not all(_takes_null(properties[name]) and properties[name].get("default") is None for name in optional):
        raise _NotStrict
    node["required"] = list(properties)
    node["additionalProperties"] = False


def _takes_null(node: Mapping[str, Any]) -> bool:
    kinds = node.get("type", ())
    return "null" in (kinds if isinstance(kinds, list) else [kinds]) or any(
        _takes_null(child) for child in node.get("anyOf", ())
    )
