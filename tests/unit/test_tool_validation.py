"""What fits a schema, checked against the reference implementation of JSON Schema."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rows import each_row
from turnkeep.errors import BadArguments, ConfigurationError
from turnkeep.tools import from_dict
from turnkeep.tools.argument_schema import DEEPEST, ArgumentSchema

jsonschema = pytest.importorskip("jsonschema")

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]*$"},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        "share": {"type": "number", "maximum": 1, "exclusiveMinimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", 1, None]}, "maxItems": 3, "minItems": 1, "uniqueItems": True},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "one": {"oneOf": [{"type": "integer"}, {"minimum": 5}]},
        "all": {"allOf": [{"type": "integer"}, {"not": {"const": 3}}]},
        "friend": {"$ref": "#/$defs/friend"},
        "flag": {"const": True},
        "pair": {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}},
        "open": {"type": "object", "additionalProperties": {"type": "boolean"}},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {
        "friend": {
            "type": ["object", "null"],
            "properties": {"friend": {"$ref": "#/$defs/friend"}},
            "additionalProperties": {"type": "string"},
        }
    },
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 160),
    st.floats(-1, 2, allow_nan=False),
    st.sampled_from(["", "a", "abcdef", "A", "0"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["friend", "x"]), inner)
)
people = st.dictionaries(st.sampled_from([*PERSON["properties"], "other"]), values, max_size=4).map(
    lambda d: {"name": "a", **d}
)


@given(people)
def test_it_agrees_with_the_reference_implementation(person: dict[str, Any]) -> None:
    reference = jsonschema.Draft202012Validator(PERSON).is_valid(person)

    assert (next(ArgumentSchema(PERSON).faults(person), None) is None) == reference


def test_faults_name_the_place_and_not_the_value() -> None:
    with pytest.raises(BadArguments) as caught:
        ArgumentSchema(PERSON).fitting({"age": -1, "tags": ["secret"], "else": 1})

    said = str(caught.value)
    assert "arguments.age: is less than 0" in said
    assert "arguments.tags[0]: should be one of" in said
    assert "'name' is missing" in said
    assert "secret" not in said


def test_only_the_first_faults_are_told() -> None:
    with pytest.raises(BadArguments) as caught:
        ArgumentSchema({"type": "object", "additionalProperties": False}).fitting({str(n): n for n in range(50)})

    assert str(caught.value).endswith("; and more")
    assert str(caught.value).count("is not a parameter") == 5


def test_defaults_are_filled_in() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "default": 3}, "b": {"type": "integer"}}}

    assert ArgumentSchema(schema).fitting({"b": 1}) == {"a": 3, "b": 1}
    assert ArgumentSchema(schema).fitting({"a": 5}) == {"a": 5}


def test_values_nested_too_deeply_are_refused() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"x": {"$ref": "#"}}}
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"x": deep}

    with pytest.raises(BadArguments, match="nested too deeply"):
        ArgumentSchema(schema).fitting(deep)


@pytest.mark.parametrize("deep", [DEEPEST + 1, 20_000])
def test_no_depth_of_a_value_ends_the_process(deep: int) -> None:
    value: Any = []
    for _ in range(deep):
        value = [value]

    told = list(ArgumentSchema({"properties": {"x": {"items": {"$ref": "#/properties/x"}}}}).faults({"x": value}))

    assert told == ["arguments: nested too deeply, more than 64 levels"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ],
)
def test_a_schema_that_refers_to_itself_in_a_circle_ends(schema: dict[str, Any]) -> None:
    assert list(ArgumentSchema(schema).faults({})) == []


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(?=(a+)+$)x", r"(a|aa)+(?<!b)$", r"^(a+)+\1$"])
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": pattern}}}

    with pytest.raises(BadArguments, match="does not match"):
        ArgumentSchema(schema).fitting({"x": "a" * 60_000 + "!b"})


STANDARD: list[tuple[dict[str, Any], Any, Any]] = [
    ({"pattern": r"^\p{L}+$"}, "Adaé", "Ada1"),
    ({"pattern": r"^[a-z\d\/\-]+$"}, "a/1-", "a b"),
    ({"pattern": r"^(?!secret)"}, "open", "secret"),
    ({"pattern": r"^(?<word>x)\1$"}, "xx", "xy"),
    ({"patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": False}, {"x-a": "1"}, {"y": "1"}),
    ({"multipleOf": 5}, 10, 7),
    ({"multipleOf": 0.1}, 0.3, 0.35),
    ({"minProperties": 1}, {"a": 1}, {}),
    ({"maxProperties": 1}, {}, {"a": 1, "b": 2}),
    ({"contains": {"type": "integer"}}, ["a", 1], ["a"]),
    ({"contains": {"type": "integer"}, "maxContains": 1}, ["a", 1], [1, 2]),
    ({"if": {"type": "string"}, "then": {"minLength": 3}, "else": {"minimum": 5}}, 6, "a"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, "x", 3),
    ({"$ref": "#a", "$defs": {"x": {"$anchor": "a", "type": "string"}}}, "x", 3),
    ({"enum": [1]}, 1.0, True),
    ({"const": [True]}, [True], [1]),
    ({"uniqueItems": True}, [1, True], [1, 1.0]),
    ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, {"a": 1}, {"b": 1}),
    ({"prefixItems": [{"type": "string"}], "unevaluatedItems": False}, ["a"], ["a", 1]),
    ({"dependentRequired": {"a": ["b"]}}, {"a": 1, "b": 2}, {"a": 1}),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1, "b": 2}, {"a": 1}),
    ({"propertyNames": {"pattern": "^a"}}, {"a": 1}, {"b": 1}),
    ({"type": "integer"}, 2**70, 1.5),
    ({"minLength": 2}, "é😀", "😀"),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, ["a", 1], [1]),
    (
        {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True},
        4,
        3,
    ),
]


@each_row(("schema", "good", "bad"), STANDARD, ids=lambda one: str(one)[:40])
def test_keywords_behave_as_the_standard_says(schema: dict[str, Any], good: Any, bad: Any) -> None:
    checked = ArgumentSchema(schema)

    assert list(checked.faults(good)) == []
    assert list(checked.faults(bad)) != []


NOT_VALID: list[dict[str, Any]] = [
    {"enum": 3},
    {"minimum": "3"},
    {"required": None},
    {"properties": {"a": {"type": "text"}}},
    {"properties": {"a": {"pattern": "["}}},
    {"properties": {"a": 3}},
    {"properties": []},
    {"$ref": "#/$defs/missing"},
    {"$ref": "http://127.0.0.1:9/schema.json"},
    {"$ref": "file:///etc/hostname"},
    {"$schema": "urn:unknown"},
    {"enum": [object()]},
]


@pytest.mark.parametrize("schema", NOT_VALID, ids=lambda one: str(one)[:20])
def test_what_is_no_schema_is_refused_when_the_tool_is_made(schema: dict[str, Any]) -> None:
    function = {"name": "greet", "description": "Greet.", "parameters": {"type": "object", **schema}}

    with pytest.raises(ConfigurationError, match="tool 'greet': the JSON schema"):
        from_dict({"type": "function", "function": function, "handler": str})


def test_a_schema_that_is_nested_without_end_is_refused_when_the_tool_is_made() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        schema = {"type": "object", "properties": {"a": schema}}

    with pytest.raises(ConfigurationError, match="cannot be read"):
        ArgumentSchema(schema)


@pytest.mark.parametrize("kind", ["string", "integer", "object"])
@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"\ud800": 1}, {"a": ["\udfff"]}, {"a": {"\udfff": "\ud800"}}])
def test_half_a_character_breaks_nothing(value: dict[str, Any], kind: str) -> None:
    schema = {"properties": {"a": {"type": kind, "pattern": "x"}}, "required": ["a"], "additionalProperties": False}

    told = list(ArgumentSchema(schema).faults(value))

    assert kind == "object" or told
    assert all(one.encode().startswith(b"arguments") for one in told)
