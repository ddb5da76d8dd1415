"""The readers of `inputs` take what the models of `request_bodies`, and so OpenAPI, say: at every limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from turnkeep.assistant_input import assistant_fields
from turnkeep.doors.http import request_bodies
from turnkeep.errors import Rejection
from turnkeep.inputs import drops_inbox, read_content, read_message, read_metadata
from turnkeep.messages import Address
from turnkeep.thread_options import thread_options

LIMIT = 1_000_000
Reader = Callable[[dict[str, Any]], object]


def message(body: dict[str, Any]) -> object:
    return read_message(body, Address("t", "q", "c"), limit=LIMIT)


def edit(body: dict[str, Any]) -> object:
    return read_content(body, limit=LIMIT)


def new_thread(body: dict[str, Any]) -> object:
    return read_metadata(body.get("metadata", {}))


READERS: dict[str, tuple[type[BaseModel], Reader, dict[str, Any]]] = {
    "NewMessage": (request_bodies.NewMessage, message, {"message": "hi"}),
    "Edit": (request_bodies.Edit, edit, {"message": "hi"}),
    "Cancel": (request_bodies.Cancel, drops_inbox, {}),
    "NewThreadOptions": (request_bodies.NewThreadOptions, thread_options, {}),
    "NewThread": (request_bodies.NewThread, new_thread, {}),
    "AssistantFields": (request_bodies.AssistantFields, assistant_fields, {}),
}

LOOSER: dict[tuple[str, str], str] = {
    ("NewMessage", "content"): "parts are read one by one, each with a sentence of its own; null is no content",
    ("Edit", "content"): "parts are read one by one, each with a sentence of its own; null is no content",
    ("NewMessage", "parameters"): "which parameters there are is a matter of `models.parameters`",
    ("NewMessage", "format"): "a schema without a name gets one, one without a schema is refused",
    ("AssistantFields", "parameters"): "which parameters there are is a matter of `models.parameters`",
    **{
        ("AssistantFields", name): "null is taken for a field that is not there"
        for name in ("model", "name", "instructions")
    },
}
"""Where a reader takes or refuses more than its model says, and why."""


def at_the_limits(schema: dict[str, Any]) -> Iterator[Any]:
    """Values on both sides of each limit of a schema, and some of every other type."""
    yield from (None, True, False, 0, "", [], {}, "x", [1], {"x": 1}, {"x": "y"}, {"x": None})
    for one in (schema, *schema.get("anyOf", ())):
        if "maxLength" in one:
            yield from ("x" * one["maxLength"], "x" * (one["maxLength"] + 1))
        if "maximum" in one:
            yield from (one["maximum"], one["maximum"] * 1.001, -0.001, float("inf"))
        yield from one.get("enum", ())
        if "maxProperties" in one:
            yield from ({str(n): "y" for n in range(one["maxProperties"] + more)} for more in (0, 1))
        if "propertyNames" in one:
            yield from ({"n" * (one["propertyNames"]["maxLength"] + more): "y"} for more in (0, 1))
        if isinstance(text := one.get("additionalProperties"), dict) and "maxLength" in str(text):
            yield from ({"n": "x" * (512 + more)} for more in (0, 1))
        if "maxItems" in one:
            yield from (["x"] * (one["maxItems"] + more) for more in (0, 1))
            yield from ([{"type": "x"}] * (one["maxItems"] + more) for more in (0, 1))


def takes_model(model: type[BaseModel], body: dict[str, Any]) -> bool:
    try:
        model.model_validate(body)
    except ValidationError:
        return False
    return True


def takes(reader: Reader, body: dict[str, Any]) -> bool:
    try:
        reader(body)
    except Rejection:
        return False
    return True


@pytest.mark.parametrize("name", READERS)
def test_reader_and_model_say_the_same_at_every_limit(name: str) -> None:
    model, reader, base = READERS[name]
    differ: list[tuple[str, str, str]] = []
    for field, schema in request_bodies.schema_of(model)["properties"].items():
        for value in () if (name, field) in LOOSER else at_the_limits(schema):
            body = base | {field: value}
            if takes_model(model, body) is not takes(reader, body):
                differ.append(
                    (field, str(value)[:40], f"the reader {'takes' if takes(reader, body) else 'refuses'} it")
                )
    assert differ == []


@pytest.mark.parametrize("name", [name for name in READERS if name in ("NewThreadOptions", "AssistantFields")])
def test_a_field_that_is_not_named_is_refused_by_both(name: str) -> None:
    model, reader, base = READERS[name]
    body = base | {"nonsense": 1}
    assert not takes_model(model, body)
    assert not takes(reader, body)


def test_every_exception_is_of_a_field_that_exists() -> None:
    assert [one for one in LOOSER if one[1] not in READERS[one[0]][0].model_fields] == []
