"""Dataclasses of `lean_dataclass` are those that Python would make of the same classes."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, FrozenInstanceError, asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import orjson
import pytest

from turnkeep import lean_dataclass
from turnkeep.events import Event, TextDelta
from turnkeep.messages import Address, Message, text_content
from turnkeep.store.values import Receipt
from turnkeep.usage import Usage

T = TypeVar("T")
Decorator = Callable[..., Callable[[type[Any]], type[Any]]]
PYTHON: Decorator = dataclass
LEAN: Decorator = lean_dataclass.dataclass


@lean_dataclass.dataclass(frozen=True, slots=True, order=True)
class Lean:
    name: str
    count: int = 0
    marks: tuple[str, ...] = ()
    about: dict[str, str] = field(default_factory=dict, compare=False)


def ordinary(make: Decorator, **options: bool) -> type[Any]:
    @make(slots=True, **options)
    class Thing:
        """A thing."""

        kind: ClassVar[str] = "thing"
        name: str
        count: int = 0
        marks: tuple[str, ...] = ()
        about: dict[str, str] = field(default_factory=dict, compare=False)
        secret: str = field(default="", repr=False, hash=False)

    return Thing


def empty(make: Decorator, **options: bool) -> type[Any]:
    @make(slots=True, **options)
    class Thing:
        pass

    return Thing


def single(make: Decorator, **options: bool) -> type[Any]:
    @make(slots=True, **options)
    class Thing:
        name: str

    return Thing


def watchful(make: Decorator, **options: bool) -> type[Any]:
    @make(slots=True, **options)
    class Thing:
        name: str
        _: KW_ONLY
        size: int = field(init=False, compare=False)
        parts: list[str] = field(init=False, default_factory=list)
        state: str = field(init=False, default="new")
        last: int = 3
        first: int

        def __post_init__(self) -> None:
            assert type(self) is Thing
            object.__setattr__(self, "size", len(self.name))

    return Thing


def derived(make: Decorator, **options: bool) -> type[Any]:
    @make(slots=True, **options)
    class Base(Generic[T]):
        name: T
        count: int = 0

    @make(slots=True, **options)
    class Thing(Base[T]):
        count: int = 2
        more: str = "m"

    return Thing


def generic(make: Decorator, **options: bool) -> type[Any]:
    @make(slots=True, **options)
    class Thing(Generic[T]):
        name: T
        lean: Lean | None = None

    return Thing


def beside_a_dictionary(make: Decorator, **options: bool) -> type[Any]:
    class Base:
        pass

    @make(slots=True, **options)
    class Thing(Base):
        name: str

    return Thing


def opinionated(make: Decorator, **options: bool) -> type[Any]:
    @make(slots=True, **options)
    class Thing:
        name: str

        def __init__(self, name: str) -> None:
            object.__setattr__(self, "name", name.upper())

        def __repr__(self) -> str:
            return "mine"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self)) and self.name[:1] == other.name[:1]

        def __hash__(self) -> int:
            return 7

    return Thing


def equal_by_its_own_measure(make: Decorator, **options: bool) -> type[Any]:
    @make(slots=True, **options)
    class Thing:  # noqa: PLW1641 - which hash it gets is the question
        name: str

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self))

    return Thing


CLASSES = (
    ordinary, empty, single, watchful, derived, generic, beside_a_dictionary, opinionated, equal_by_its_own_measure,
)  # fmt: skip
OPTIONS: tuple[dict[str, bool], ...] = (
    {"frozen": True},
    {},
    {"frozen": True, "kw_only": True},
    {"frozen": True, "eq": False},
    {"eq": False},
    {"frozen": True, "order": True},
    {"order": True},
)
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    (("a",), {}),
    (("b",), {}),
    (("a", 1), {}),
    (("a", 1, ("x",)), {}),
    (("a", 1, (), {}, "s", 5), {}),
    (("a",), {"about": {"k": "v"}}),
    ((), {"name": "b"}),
    ((), {"name": "b", "first": 1}),
    (("a",), {"first": 1, "last": 2}),
    (("a",), {"nothing": 1}),
    ((), {"name": "a", "secret": "s"}),
    (("a",), {"state": "old"}),
]


def told(act: Callable[[], Any]) -> object:
    """What an act gives, or which kind of error."""
    try:
        found = act()
    except Exception as error:
        return type(error)
    return found if isinstance(found, str | int | tuple | list | dict | type(None) | type(NotImplemented)) else "other"


def behaviour(made: type[Any]) -> Iterator[tuple[str, object]]:
    """All that can be seen of a class from outside, but for addresses in memory."""
    yield "parameters", [(one.name, one.kind, one.default is one.empty)
                         for one in inspect.signature(made).parameters.values()]  # fmt: skip
    yield "hints", list(get_type_hints(made.__init__).items())
    about = made.__dataclass_params__
    yield "options", [getattr(about, name) for name in ("init", "repr", "eq", "order", "frozen")]
    yield "fields", [(one.name, one.init, one.repr, one.kw_only) for one in fields(made)]
    yield "places", (made.__match_args__, made.__slots__, made.__dict__.get("__hash__") is None)
    values: list[Any] = []
    for arguments, names in CALLS:
        call = f"{arguments} {names}"
        yield f"made of {call}", told(lambda: made(*arguments, **names) and None)  # noqa: B023 - called at once
        if told(lambda: made(*arguments, **names) and None) is None:  # noqa: B023
            values.append(made(*arguments, **names))
    for place, value in enumerate(values):
        yield f"{place}: shown", repr(value) if "object at" not in repr(value) else "by its address"
        yield f"{place}: in pieces", (told(lambda: asdict(value)), orjson.dumps(value, default=repr))  # noqa: B023
        yield f"{place}: compared", [
            told(lambda: getattr(value, f"__{name}__")(other))  # noqa: B023
            for other in [*values, 1] for name in ("eq", "ne", "lt", "le", "gt", "ge")
        ]  # fmt: skip
        yield f"{place}: hashed", [told(lambda: hash(value) == hash(other)) for other in values]  # noqa: B023
        changed = copy.copy(value)
        # which error it is, Python gets wrong itself for classes with slots (its issue 90562)
        yield f"{place}: changed", [isinstance(told(act), type) for act in (
            lambda: setattr(changed, "name", "other"), lambda: setattr(changed, "nothing", 1),  # noqa: B023
            lambda: delattr(changed, "name"),  # noqa: B023
        )] + [getattr(changed, "name", None)]  # fmt: skip
        yield f"{place}: replaced", told(lambda: repr(replace(value, name="z")).rsplit(" at ", 1)[0])  # noqa: B023
        yield f"{place}: copied", [asdict(one) == asdict(value) for one in (copy.copy(value), copy.deepcopy(value))]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
@pytest.mark.parametrize("declared", CLASSES, ids=lambda declared: declared.__name__)
def test_it_is_the_dataclass_that_python_would_make(
    declared: Callable[..., type[Any]], options: dict[str, bool]
) -> None:
    assert dict(behaviour(declared(LEAN, **options))) == dict(behaviour(declared(PYTHON, **options)))


LEAN_ADDRESS = Address("t", "q", "c")
VALUES: list[Any] = [
    LEAN_ADDRESS,
    Message(LEAN_ADDRESS, "m1", text_content("hello"), metadata={"a": "b"}),
    Event("accepted", ("m1",), text="hello", usage=Usage(requests=1)),
    TextDelta("hello", "run_1", 1, 7, "e", 1.0),
    Receipt("c", "m1", "thread_1", "accepted", 1, None),
    Lean("one", 1, ("x",), {"a": "b"}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_nobody_changes_it_and_its_copies_are_equal(value: Any) -> None:
    name = fields(value)[0].name
    with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
        setattr(value, name, "other")
    with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
        delattr(value, name)
    others = [copy.copy(value), copy.deepcopy(value)]
    others += [replace(value)] if type(value) is not TextDelta else []
    others += [pickle.loads(pickle.dumps(value))]
    for other in others:
        assert (other, type(other)) == (value, type(value))


def test_a_value_that_holds_itself_can_be_shown() -> None:
    about: dict[str, Any] = {}
    value = Lean("a", about=about)
    about["self"] = value
    assert repr(value) == "Lean(name='a', count=0, marks=(), about={'self': ...})"


def test_a_class_below_has_attributes_of_its_own_and_leaves_the_fields_alone() -> None:
    class Below(Lean):
        pass

    value: Any = Below("a")
    value.more = 1
    with pytest.raises(FrozenInstanceError):
        value.name = "b"
    del value.more
    with pytest.raises(FrozenInstanceError):
        del value.name
    assert Lean("a") != value


def test_a_class_below_sees_all_fields_when_it_looks_at_itself() -> None:
    @lean_dataclass.dataclass(frozen=True, slots=True)
    class Watchful:
        name: str
        count: int = 2

        def __post_init__(self) -> None:
            seen.append((self.name, self.count))

    class Below(Watchful):
        pass

    seen: list[tuple[str, int]] = []
    assert (Below("a").count, Watchful("b").count) == (2, 2)
    assert seen == [("a", 2), ("b", 2)]


def test_a_dataclass_of_a_user_goes_on_from_a_value_and_is_frozen_as_it_is() -> None:
    @dataclass(frozen=True)
    class Mine(Address):
        more: str = "m"

    mine = Mine("t", "q", "c")
    assert (mine, hash(mine)) == (pickle_of_fields(mine), hash(pickle_of_fields(mine)))
    assert repr(mine).endswith("Mine(tenant='t', queue='q', channel='c', more='m')")
    assert mine != LEAN_ADDRESS
    for name in ("channel", "more"):
        with pytest.raises(FrozenInstanceError):
            setattr(mine, name, "other")
    for make in (PYTHON, LEAN):
        with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):

            @make(slots=True)
            class _Other(Address):
                more: str = "m"


def pickle_of_fields(value: Any) -> Any:
    """Another one, made as a pickle is read."""
    other = object.__new__(type(value))
    other.__setstate__(value.__getstate__())
    return other


def test_a_class_without_slots_is_refused() -> None:
    with pytest.raises(TypeError, match="slots"):
        LEAN(slots=False)


def test_a_message_with_other_values_is_a_copy_and_knows_its_names() -> None:
    message = Message(LEAN_ADDRESS, "m1", text_content("hello"))
    assert message.but(seq=4, window=0.5) == replace(message, seq=4, window=0.5)
    assert message.seq == 0
    with pytest.raises(KeyError):
        message.but(nothing=1)
