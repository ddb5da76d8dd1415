"""Values with a lean `__init__` are the frozen dataclasses that they would be without it."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest

from turnkeep.events import Event, TextDelta
from turnkeep.lean_init import lean_init
from turnkeep.messages import Address, Message, text_content
from turnkeep.store.values import Receipt
from turnkeep.usage import Usage


@dataclass(frozen=True, slots=True, order=True)
class Plain:
    name: str
    count: int = 0
    marks: tuple[str, ...] = ()
    about: dict[str, str] = field(default_factory=dict, compare=False)


@lean_init
@dataclass(frozen=True, slots=True, order=True)
class Lean:
    name: str
    count: int = 0
    marks: tuple[str, ...] = ()
    about: dict[str, str] = field(default_factory=dict, compare=False)


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a",), {}),
    (("a", 1, ("x",)), {}),
    (("a",), {"about": {"k": "v"}}),
    ((), {"name": "b"}),
]
LEAN_ADDRESS = Address("t", "q", "c")
VALUES: list[Any] = [
    LEAN_ADDRESS,
    Message(LEAN_ADDRESS, "m1", text_content("hello"), metadata={"a": "b"}),
    Event("accepted", ("m1",), text="hello", usage=Usage(requests=1)),
    TextDelta("hello", "run_1", 1, 7, "e", 1.0),
    Receipt("c", "m1", "thread_1", "accepted", 1, None),
    Lean("one", 1, ("x",), {"a": "b"}),
]


def test_it_is_made_by_place_by_name_and_by_default_as_a_plain_one() -> None:
    for arguments, names in CALLS:
        plain, lean = Plain(*arguments, **names), Lean(*arguments, **names)
        assert [getattr(lean, f.name) for f in fields(Lean)] == [getattr(plain, f.name) for f in fields(Plain)]
    assert Lean("a").about is not Lean("a").about
    assert (Lean("a") == Lean("a"), Lean("a") < Lean("b"), hash(Lean("a")) == hash(Lean("a"))) == (True, True, True)
    assert list(inspect.signature(Lean).parameters) == list(inspect.signature(Plain).parameters)


@pytest.mark.parametrize(("arguments", "names"), [((), {}), (("a", 1, (), {}, 5), {}), (("a",), {"nothing": 1})])
def test_what_a_plain_one_refuses_it_refuses(arguments: tuple[Any, ...], names: dict[str, Any]) -> None:
    for made in (Plain, Lean):
        with pytest.raises(TypeError):
            made(*arguments, **names)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_nobody_changes_it_and_its_copies_are_equal(value: Any) -> None:
    name = fields(value)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, "other")
    with pytest.raises(FrozenInstanceError):
        delattr(value, name)
    others = [copy.copy(value), copy.deepcopy(value)]
    others += [replace(value)] if type(value) is not TextDelta else []
    others += [pickle.loads(pickle.dumps(value))]
    for other in others:
        assert (other, type(other)) == (value, type(value))


def test_a_class_that_looks_at_itself_when_made_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Watchful:
        name: str

        def __post_init__(self) -> None:
            raise AssertionError

    with pytest.raises(TypeError, match="__post_init__"):
        lean_init(Watchful)


def test_a_message_with_other_values_is_a_copy_and_knows_its_names() -> None:
    message = Message(LEAN_ADDRESS, "m1", text_content("hello"))
    assert message.but(seq=4, window=0.5) == replace(message, seq=4, window=0.5)
    assert message.seq == 0
    with pytest.raises(KeyError):
        message.but(nothing=1)
