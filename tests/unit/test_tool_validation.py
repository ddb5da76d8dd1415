"""What fits a schema, checked against the reference implementation of JSON Schema."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeep.errors import BadArguments
from turnkeep.tools.validation import faults, fitting

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

    assert (next(faults(PERSON, person), None) is None) == reference


def test_faults_name_the_place_and_not_the_value() -> None:
    with pytest.raises(BadArguments) as caught:
        fitting(PERSON, {"age": -1, "tags": ["secret"], "else": 1})

    said = str(caught.value)
    assert "arguments.age: is less than 0" in said
    assert "arguments.tags[0]: should be one of" in said
    assert "'name' is missing" in said
    assert "secret" not in said


def test_only_the_first_faults_are_told() -> None:
    with pytest.raises(BadArguments) as caught:
        fitting({"type": "object", "additionalProperties": False}, {str(n): n for n in range(50)})

    assert str(caught.value).endswith("; and more")
    assert str(caught.value).count("is not a parameter") == 5


def test_defaults_are_filled_in() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "default": 3}, "b": {"type": "integer"}}}

    assert fitting(schema, {"b": 1}) == {"a": 3, "b": 1}
    assert fitting(schema, {"a": 5}) == {"a": 5}


def test_values_nested_too_deeply_are_refused() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"x": {"$ref": "#"}}}
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"x": deep}

    with pytest.raises(BadArguments, match="nested too deeply"):
        fitting(schema, deep)


def test_a_schema_that_refers_to_itself_in_a_circle_ends() -> None:
    assert "nested too deeply" in next(faults({"$ref": "#"}, {}), "")


def test_long_texts_are_not_tried_against_a_pattern() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}

    with pytest.raises(BadArguments, match="longer than 4096"):
        fitting(schema, {"x": "a" * 5000 + "!"})
