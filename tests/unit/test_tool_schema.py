"""The schema of a tool is what its function says, and strict only where that changes nothing."""

import dataclasses
import datetime
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from turnkeep.errors import BadArguments, ConfigurationError
from turnkeep.tools import Tool, ToolContext, from_dict, tool
from turnkeep.tools.docstring import parse_docstring
from turnkeep.tools.schema import strict_form
from turnkeep.tools.tool import as_text


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """A place on a map."""

    city: str = Field(description="its city", min_length=1)
    country: str | None = None


class Node(BaseModel):
    name: str
    children: list["Node"] = []


def text(value: str) -> str:
    "One text."
    return value


def whole(value: int) -> str:
    "One number."
    return str(value)


def optional(value: int | None = None) -> str:
    "Perhaps a number."
    return str(value)


def old_optional(value: Optional[int] = None) -> str:  # noqa: UP045 - the older form is what many write
    "Perhaps a number."
    return str(value)


def nullable(value: int | None) -> str:
    "A number or null."
    return str(value)


def defaulted(value: int = 3) -> str:
    "A number with a default."
    return str(value)


def choice(value: Literal["metric", "imperial"]) -> str:
    "One of two."
    return value


def number_choice(value: Literal[1, 2]) -> str:
    "One of two."
    return str(value)


def enumerated(value: Color) -> str:
    "A color."
    return value.value


def several(value: list[str]) -> str:
    "Texts."
    return ",".join(value)


def mapped(value: dict[str, int]) -> str:
    "Numbers by name."
    return str(value)


def anything(value: Any) -> str:
    "Whatever."
    return str(value)


def model(value: Place) -> str:
    "A place."
    return value.city


def models(value: list[Place]) -> str:
    "Places."
    return str(len(value))


def recursive(value: Node) -> str:
    "A tree."
    return value.name


def either(value: int | str) -> str:
    "A number or a text."
    return str(value)


def pair(value: tuple[int, str]) -> str:
    "Two things."
    return str(value)


def day(value: datetime.date) -> str:
    "A day."
    return value.isoformat()


def limited(value: Annotated[int, Field(ge=1, le=500)]) -> str:
    "A number within limits."
    return str(value)


def short(value: Annotated[str, Field(max_length=5)]) -> str:
    "A short text."
    return value


def worded(value: Annotated[str, "the words"]) -> str:
    "A text with words about it."
    return value


def nothing() -> str:
    "Takes nothing."
    return "nothing"


STRICT: dict[Callable[..., str], dict[str, Any]] = {
    text: {"type": "string"},
    whole: {"type": "integer"},
    optional: {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    old_optional: {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    nullable: {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    choice: {"type": "string", "enum": ["metric", "imperial"]},
    number_choice: {"type": "integer", "enum": [1, 2]},
    enumerated: {"type": "string", "enum": ["red", "blue"]},
    several: {"type": "array", "items": {"type": "string"}},
    either: {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    day: {"type": "string", "format": "date"},
    limited: {"type": "integer", "minimum": 1, "maximum": 500},
    worded: {"type": "string", "description": "the words"},
}

OPEN: dict[Callable[..., str], dict[str, Any]] = {
    defaulted: {"type": "integer", "default": 3},
    mapped: {"type": "object", "additionalProperties": {"type": "integer"}},
    anything: {},
    short: {"type": "string", "maxLength": 5},
}


@pytest.mark.parametrize("function", STRICT, ids=lambda f: f.__name__)
def test_a_schema_that_strict_mode_takes_is_strict(function: Callable[..., str]) -> None:
    made = tool(function)

    assert made.strict
    assert made.parameters == {
        "type": "object",
        "properties": {"value": STRICT[function]},
        "required": ["value"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize("function", OPEN, ids=lambda f: f.__name__)
def test_a_schema_that_strict_mode_does_not_take_stays_as_it_is(function: Callable[..., str]) -> None:
    made = tool(function)

    assert not made.strict
    assert made.parameters["properties"] == {"value": OPEN[function]}


def test_a_tool_without_parameters_is_a_closed_empty_object() -> None:
    assert tool(nothing).parameters == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


def test_models_are_put_in_place_with_their_descriptions() -> None:
    made = tool(model)

    assert not made.strict, "minLength is no keyword of strict mode"
    assert made.parameters["properties"]["value"] == {
        "type": "object",
        "description": "A place on a map.",
        "properties": {
            "city": {"type": "string", "description": "its city", "minLength": 1},
            "country": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["city"],
    }
    assert "$defs" not in tool(models).parameters


def test_a_type_that_refers_to_itself_keeps_its_definition_and_is_not_strict() -> None:
    made = tool(recursive)

    assert not made.strict
    assert "Node" in made.parameters["$defs"]
    assert made.check_arguments({"value": {"name": "a", "children": [{"name": "b"}]}})["value"].children[0].name == "b"


def test_tuples_are_not_strict() -> None:
    assert not tool(pair).strict


def test_a_property_named_title_or_schema_survives() -> None:
    @tool
    def book(title: str, schema: str, json: int) -> str:
        """A book."""
        return title + schema + str(json)

    assert list(book.parameters["properties"]) == ["title", "schema", "json"]
    assert book.check_arguments({"title": "a", "schema": "b", "json": 1}) == {"title": "a", "schema": "b", "json": 1}


def test_descriptions_come_from_google_docstrings() -> None:
    @tool
    def offices(city: str, capacity: int, when: str) -> str:
        """Find free offices.

        Only those of today.

        Args:
            city: the city,
                in English
            capacity (int): how many people: at least
            when: a day

        Returns:
            nothing of interest
        """
        return city + str(capacity) + when

    properties = offices.parameters["properties"]
    assert offices.description == "Find free offices.\n\nOnly those of today."
    assert properties["city"]["description"] == "the city, in English"
    assert properties["capacity"]["description"] == "how many people: at least"
    assert properties["when"]["description"] == "a day"


def test_descriptions_come_from_param_fields() -> None:
    prose, told = parse_docstring(
        "Find offices.\n\n:param city: the city,\n    in English\n:param int n: how many\n:returns: x"
    )

    assert prose == "Find offices."
    assert told == {"city": "the city, in English", "n": "how many"}


def test_annotated_words_count_more_than_the_docstring() -> None:
    @tool
    def here(city: Annotated[str, "from the annotation"]) -> str:
        """Here.

        Args:
            city: from the docstring
        """
        return city

    assert here.parameters["properties"]["city"]["description"] == "from the annotation"


def test_the_context_parameter_is_not_part_of_the_schema() -> None:
    @tool
    async def mine(city: str, context: ToolContext) -> str:
        """With a context."""
        return city + context.tenant

    @tool
    async def maybe(who: ToolContext | None = None) -> str:
        """With an optional one."""
        return str(who)

    assert list(mine.parameters["properties"]) == ["city"]
    assert maybe.parameters["properties"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"place": {"city": ""}, "units": "metric"},
        {"place": {"city": "Makati"}, "units": "kelvin"},
        {"place": {"city": "Makati"}, "units": "metric", "more": 1},
        {"place": "Makati", "units": "metric"},
        {"place": None, "units": "metric"},
    ],
)
def test_arguments_that_do_not_fit_are_refused_without_repeating_them(arguments: dict[str, Any]) -> None:
    @tool
    def weather(place: Place, units: Literal["metric", "imperial"]) -> str:
        """The weather."""
        return place.city + units

    with pytest.raises(BadArguments, match="the arguments do not fit") as caught:
        weather.check_arguments(arguments)
    assert "kelvin" not in str(caught.value)


def test_typed_values_reach_the_function() -> None:
    assert tool(day).check_arguments({"value": "2026-01-02"}) == {"value": datetime.date(2026, 1, 2)}
    assert tool(enumerated).check_arguments({"value": "red"}) == {"value": Color.RED}
    assert tool(whole).check_arguments({"value": 20.0}) == {"value": 20}
    assert tool(defaulted).check_arguments({}) == {"value": 3}
    assert tool(optional).check_arguments({"value": None}) == {"value": None}


def test_a_decorated_function_can_still_be_called() -> None:
    @tool(effect="pure")
    def double(value: int) -> int:
        """Twice the number."""
        return value * 2

    assert double(4) == 8


def test_a_method_can_be_a_tool() -> None:
    class Desk:
        def open_hours(self, city: str) -> str:
            """When we are open."""
            return city

    assert list(tool(Desk().open_hours).parameters["properties"]) == ["city"]


@dataclasses.dataclass
class Adder:
    base: int

    def __call__(self, value: int) -> int:
        return self.base + value


def test_a_callable_object_can_be_a_tool() -> None:
    made = tool(name="add", description="Adds.")(Adder(2))

    assert made.check_arguments({"value": 1}) == {"value": 1}


def untyped(value) -> str:  # type: ignore[no-untyped-def]
    "A parameter without a type."
    return str(value)


def starred(*values: int) -> str:
    "Any number of numbers."
    return str(values)


def undescribed(value: int) -> str:
    return str(value)


def schemaless(value: Callable[[], int]) -> str:
    "A function as an argument."
    return str(value)


@pytest.mark.parametrize("function", [untyped, starred, undescribed, schemaless], ids=lambda f: f.__name__)
def test_a_function_that_cannot_be_described_is_refused_with_its_name(function: Callable[..., str]) -> None:
    with pytest.raises(ConfigurationError, match=function.__name__):
        tool(function)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "has space"},
        {"name": "x" * 65},
        {"timeout": 0},
        {"output_cap": 10},
        {"effect": "sometimes"},
        {"show": "everything"},
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        tool(**options)(text)


def test_a_client_side_tool_has_a_schema_and_no_function_to_run() -> None:
    made = tool(client_side=True)(text)

    assert made.run is None
    assert made.spec().parameters["required"] == ["value"]


def test_a_tool_without_a_function_cannot_be_called_as_one() -> None:
    made = from_dict({"type": "function", "function": {"name": "custom_tool"}, "handler": lambda arguments: "x"})
    with pytest.raises(TypeError, match="'custom_tool' was not made from a function"):
        made("x")


def test_a_tool_needs_a_function_or_a_client() -> None:
    with pytest.raises(ConfigurationError, match="needs a function, or client_side=True and none"):
        Tool(name="x", description="", parameters={"type": "object"}, run=None)


@pytest.mark.parametrize(("result", "told"), [("said", "said"), (b"r\xc3\xa9ad \xff", "réad \ufffd"), ([1], "[1]")])
def test_a_result_is_told_as_text(result: object, told: str) -> None:
    assert as_text(result) == told


def test_needs_approval_may_be_a_rule_and_a_failing_rule_asks() -> None:
    rule = tool(needs_approval=lambda arguments: arguments["value"] > 10)(whole)

    assert rule.asks_first({"value": 11})
    assert not rule.asks_first({"value": 2})
    assert rule.asks_first({"value": "broken"})
    assert not tool(whole).asks_first({"value": 11})


def test_the_dict_form_is_a_tool() -> None:
    async def handler(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"result": f"Got: {arguments['input']}"}

    made = from_dict(
        {
            "type": "function",
            "function": {
                "name": "custom_tool",
                "description": "A custom tool",
                "parameters": {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]},
            },
            "handler": handler,
        }
    )

    assert isinstance(made, Tool)
    assert made.name == "custom_tool"
    assert made.effect == "effect"
    with pytest.raises(BadArguments, match="'input' is missing"):
        made.check_arguments({})


@pytest.mark.parametrize(
    "definition",
    [
        {},
        {"type": "function"},
        {"type": "other", "function": {"name": "x"}},
        {"type": "function", "function": {"name": "x", "parameters": [1]}, "handler": str},
        {"type": "function", "function": {"name": "x", "parameters": {"type": "array"}}, "handler": str},
    ],
)
def test_a_dict_that_is_no_tool_is_refused(definition: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        from_dict(definition)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": True},
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "string", "format": "uri"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}]}}, "required": ["a"]},
        {"type": "object", "properties": {"a": True}, "required": ["a"]},
        {"type": "array", "items": {"type": "string"}},
        {"anyOf": [{"type": "object"}]},
    ],
)
def test_schemas_without_a_strict_form(schema: dict[str, Any]) -> None:
    assert strict_form(schema) is None
