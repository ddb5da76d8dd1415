"""Dataclasses with slots that cost less: to define, which every start pays, and to make, where they are frozen.

Everything of `dataclasses` (`field`, `fields`, `replace`, `asdict`) takes them; `InitVar` alone is not known.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from reprlib import recursive_repr
from types import FunctionType
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

Function = Callable[..., Any]

if TYPE_CHECKING:  # type checkers know the one of Python, by its name
    from dataclasses import dataclass
else:
    from dataclasses import dataclass as _dataclass

    def dataclass(*, slots, frozen=False, eq=True, order=False, kw_only=False):
        """That of `dataclasses`, which keeps the fields and makes the slots.

        It compiles up to nine methods for each class, one by one: a third of what importing the queue cost. Here
        `__init__` alone is compiled, when it is first asked for; the others ask what takes all values at once.
        """
        if not slots:
            raise TypeError("a lean dataclass has slots: give slots=True")

        def define(cls):
            own, has_doc = set(cls.__dict__), bool(cls.__doc__)
            if not has_doc:
                cls.__doc__ = " "  # or one is made for it, of an inspected signature
            cls = _dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
            if not has_doc:
                cls.__doc__ = None
            methods = {"__init__": _Init(cls, is_frozen=frozen), "__repr__": _repr(cls)}
            if eq:
                methods |= _comparisons(cls, order=order)
                methods["__hash__"] = _hash(cls) if frozen else None
            if frozen:
                methods |= _refusals(cls) | {"__getstate__": _state, "__setstate__": _set_state}
            # with `__eq__` Python itself adds `__hash__ = None` to what a class says
            if cls.__dict__.get("__hash__") is None:
                own.discard("__hash__")
            for name, method in methods.items():
                if name not in own:
                    setattr(cls, name, method)
            return cls

        return define


class _Init:
    """Compiles the `__init__` of a class in its place when it is first looked up: by a first value, or by who asks
    for the signature. Of what a process imports it makes a few alone.
    """

    def __init__(self, cls: type, *, is_frozen: bool) -> None:
        self._class = cls
        self._is_frozen = is_frozen

    def __get__(self, value: object, owner: type) -> Function:
        init = _compile_init(self._class, is_frozen=self._is_frozen)
        self._class.__init__ = init  # type: ignore[misc]  # it is of this class
        method: Function = init.__get__(value, owner)
        return method


def _compile_init(cls: type, *, is_frozen: bool) -> FunctionType:
    parameters = [one for one in fields(cls) if one.init]
    others = [one for one in fields(cls) if not one.init and (one.default, one.default_factory) != (MISSING, MISSING)]
    by_place = [_parameter(one) for one in parameters if not one.kw_only]
    by_name = [_parameter(one) for one in parameters if one.kw_only]
    names: dict[str, Any] = {"_MISSING": MISSING, "__name__": cls.__module__}
    for one in (*parameters, *others):
        names |= {f"_default_{one.name}": one.default, f"_make_{one.name}": one.default_factory}
    values = {one.name: _value(one) for one in (*parameters, *others)}
    lines = [f"self.{name} = {value}" for name, value in values.items()]
    if is_frozen and values:
        # Python sets each field by `object.__setattr__`, looked up by its name: of values with eighteen fields, of
        # which every message is two and every event one, that was a tenth of what accepting costs. Here the new
        # object is of a class with the same slots that may be written, until all of them are.
        slots = {"__slots__": cls.__dict__["__slots__"], "__setattr__": object.__setattr__}
        names |= {"_draft": type(cls)(f"{cls.__name__}Draft", cls.__bases__, slots), "_class": cls}
        names |= {"_names": tuple(values), "_set": object.__setattr__}
        lines = [
            "if self.__class__ is _class:",
            *(f" {line}" for line in ("_set(self, '__class__', _draft)", *lines, "self.__class__ = _class")),
            # a class below, which is no dataclass, may have another layout
            f"else:\n  for _name, _value in zip(_names, ({', '.join(values.values())},)): _set(self, _name, _value)",
        ]
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    signature = ", ".join(("self", *by_place, *(("*", *by_name) if by_name else ())))
    # of names of fields alone, as `dataclasses` does it
    exec("\n ".join((f"def __init__({signature}):", *lines, "return")), names)  # noqa: S102
    init: FunctionType = names["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


def _parameter(one: Field[Any]) -> str:
    if one.default is not MISSING:
        return f"{one.name}=_default_{one.name}"
    return one.name if one.default_factory is MISSING else f"{one.name}=_MISSING"


def _value(one: Field[Any]) -> str:
    if one.default_factory is not MISSING:
        call = f"_make_{one.name}()"
        return f"{call} if {one.name} is _MISSING else {one.name}" if one.init else call
    return one.name if one.init else f"_default_{one.name}"


def _repr(cls: type) -> Function:
    names = [one.name for one in fields(cls) if one.repr]

    @recursive_repr()
    def __repr__(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _values_of(names: Sequence[str]) -> Function:
    """What gives these of an object, as a tuple."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda value: tuple([getattr(value, name) for name in names])


def _comparisons(cls: type, *, order: bool) -> dict[str, Function]:
    values_of = _values_of([one.name for one in fields(cls) if one.compare])

    def comparison(compare: Function) -> Function:
        def method(self: object, other: object) -> Any:
            return compare(values_of(self), values_of(other)) if other.__class__ is self.__class__ else NotImplemented

        return method

    acts = (operator.eq, *((operator.lt, operator.le, operator.gt, operator.ge) if order else ()))
    return {f"__{act.__name__}__": comparison(act) for act in acts}


def _hash(cls: type) -> Function:
    values_of = _values_of([one.name for one in fields(cls) if (one.compare if one.hash is None else one.hash)])
    return lambda self: hash(values_of(self))


def _refusals(cls: type) -> dict[str, Function]:
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
