"""Dataclasses with slots that cost less: to define, which every start pays, and to make, where they are frozen.

Everything of `dataclasses` (`field`, `fields`, `replace`, `asdict`) takes them; `InitVar` alone is not known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from functools import partial
from reprlib import recursive_repr
from types import FunctionType
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

_ORDER = {"__lt__": "<", "__le__": "<=", "__gt__": ">", "__ge__": ">="}

if TYPE_CHECKING:  # type checkers know the one of Python, by its name
    from dataclasses import dataclass
else:
    from dataclasses import dataclass as _dataclass

    def dataclass(*, slots, frozen=False, eq=True, order=False, kw_only=False):
        """That of `dataclasses`, which keeps the fields and makes the slots.

        That one compiles up to nine methods for each class at once: a third of what importing the queue cost, and a
        process that has imported them calls a few. Here each is compiled when it is first looked up.
        """
        if not slots:
            raise TypeError("a lean dataclass has slots: give slots=True")

        def define(cls):
            own, has_doc = set(cls.__dict__), bool(cls.__doc__)
            # with `__eq__` Python itself adds `__hash__ = None` to what a class says
            if cls.__dict__.get("__hash__") is None:
                own.discard("__hash__")
            if not has_doc:
                cls.__doc__ = " "  # or one is made for it, of an inspected signature
            # only below another does it matter to Python whether it is frozen: both are, or neither
            is_below = hasattr(cls, "__dataclass_params__")
            cls = _dataclass(
                init=False, repr=False, eq=False, slots=slots, kw_only=kw_only, frozen=frozen and is_below
            )(cls)
            about = cls.__dataclass_params__
            about.init = about.repr = True
            about.eq, about.order, about.frozen = eq, order, frozen
            if not has_doc:
                cls.__doc__ = None
            for name, method in _methods(cls, is_frozen=frozen, is_compared=eq, is_ordered=order).items():
                if name not in own:
                    setattr(cls, name, method)
            return cls

        return define


def _methods(cls: type, *, is_frozen: bool, is_compared: bool, is_ordered: bool) -> dict[str, Any]:
    methods: dict[str, Any] = {"__repr__": _repr(cls)}
    late: dict[str, Callable[[type], FunctionType]] = {"__init__": partial(_init, is_frozen=is_frozen)}
    if is_compared:
        for name, sign in ({"__eq__": "=="} | (_ORDER if is_ordered else {})).items():
            late[name] = partial(_comparison, name=name, sign=sign)
        methods["__hash__"] = None
        if is_frozen:
            late["__hash__"] = _hash
    if is_frozen:
        methods |= _refusals(cls) | {"__getstate__": _state, "__setstate__": _set_state}
    return methods | {name: _Late(cls, name, make) for name, make in late.items()}


class _Late:
    """A method that is compiled when it is first looked up, by a call or by who asks for its signature, and stands
    in this place from then on.
    """

    def __init__(self, cls: type, name: str, make: Callable[[type], FunctionType]) -> None:
        self._class = cls
        self._name = name
        self._make = make

    def __get__(self, value: object, owner: type) -> Callable[..., Any]:
        function = self._make(self._class)
        setattr(self._class, self._name, function)
        method: Callable[..., Any] = function.__get__(value, owner)
        return method


def _compile(cls: type, head: str, lines: Sequence[str], names: Mapping[str, Any]) -> FunctionType:
    """A method of this head and these lines, which may use these names. It is one of the module of its class, where
    the types of its parameters are looked up.
    """
    text = "\n  ".join((f"def make({', '.join(names)}):\n def {head}:", *lines))
    place: dict[str, Any] = {}
    # of names of fields alone, as `dataclasses` does it
    space = getattr(sys.modules.get(cls.__module__), "__dict__", {})
    exec(f"{text}\n return {head.partition('(')[0]}", space, place)  # noqa: S102
    function: FunctionType = place["make"](**names)
    function.__qualname__ = f"{cls.__qualname__}.{function.__name__}"
    return function


def _init(cls: type, *, is_frozen: bool) -> FunctionType:
    parameters = [one for one in fields(cls) if one.init]
    others = [one for one in fields(cls) if not one.init and (one.default, one.default_factory) != (MISSING, MISSING)]
    by_place = [_parameter(one) for one in parameters if not one.kw_only]
    by_name = [_parameter(one) for one in parameters if one.kw_only]
    names: dict[str, Any] = {"_MISSING": MISSING}
    for one in (*parameters, *others):
        names |= {f"_default_{one.name}": one.default, f"_make_{one.name}": one.default_factory}
    values = {one.name: _value(one) for one in (*parameters, *others)}
    lines = [f"self.{name} = {value}" for name, value in values.items()]
    if is_frozen and values:
        # Python sets each field by `object.__setattr__`, looked up by its name: of values with eighteen fields, of
        # which every message is two and every event one, that was a tenth of what accepting costs. Here the new
        # object is of a class with the same slots that may be written, until all of them are.
        slots = {"__slots__": cls.__dict__["__slots__"], "__setattr__": object.__setattr__}
        slots["__orig_bases__"] = cls.__dict__.get("__orig_bases__", ())  # `Generic` alone is no base
        names |= {"_draft": type(cls)(f"{cls.__name__}Draft", cls.__bases__, slots), "_class": cls}
        names |= {"_names": tuple(values), "_set": object.__setattr__}
        lines = [
            "if self.__class__ is _class:",
            *(f" {line}" for line in ("_set(self, '__class__', _draft)", *lines, "self.__class__ = _class")),
            # a class below, which is no dataclass, may have another layout
            "else:",
            f" for _name, _value in zip(_names, {_tuple(values.values())}): _set(self, _name, _value)",
        ]
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    signature = ", ".join(("self", *by_place, *(("*", *by_name) if by_name else ())))
    function = _compile(cls, f"__init__({signature})", [*lines, "return"], names)
    function.__annotations__ = {one.name: one.type for one in parameters} | {"return": None}
    return function


def _parameter(one: Field[Any]) -> str:
    if one.default is not MISSING:
        return f"{one.name}=_default_{one.name}"
    return one.name if one.default_factory is MISSING else f"{one.name}=_MISSING"


def _value(one: Field[Any]) -> str:
    if one.default_factory is not MISSING:
        call = f"_make_{one.name}()"
        return f"{call} if {one.name} is _MISSING else {one.name}" if one.init else call
    return one.name if one.init else f"_default_{one.name}"


def _comparison(cls: type, *, name: str, sign: str) -> FunctionType:
    mine, others = (_tuple(f"{side}.{one.name}" for one in fields(cls) if one.compare) for side in ("self", "other"))
    line = f"return {mine} {sign} {others} if other.__class__ is self.__class__ else NotImplemented"
    return _compile(cls, f"{name}(self, other)", [line], {})


def _hash(cls: type) -> FunctionType:
    values = (f"self.{one.name}" for one in fields(cls) if (one.compare if one.hash is None else one.hash))
    return _compile(cls, "__hash__(self)", [f"return hash({_tuple(values)})"], {})


def _tuple(values: Iterable[str]) -> str:
    return f"({''.join(f'{value}, ' for value in values)})"


def _repr(cls: type) -> Callable[[Any], str]:
    names = [one.name for one in fields(cls) if one.repr]

    @recursive_repr()
    def __repr__(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _refusals(cls: type) -> dict[str, Callable[..., None]]:
    """Of an object that cannot be changed, as far as it is one: a class below may have attributes of its own."""
    names = frozenset(one.name for one in fields(cls))

    def __setattr__(self: object, name: str, value: object) -> None:
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self: object, name: str) -> None:
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    return {"__setattr__": __setattr__, "__delattr__": __delattr__}


def _state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for one, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)
