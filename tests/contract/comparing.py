"""What two engines told, made comparable: names that an engine draws become ordinals in the order of first sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from turnkeep.events import Event

_DRAWN = ("token", "epoch", "thread_id", "run_id", "dead_id")
_OWN_WAY = ("storage",)
"""What each engine counts in its own way."""


class Names:
    """The drawn names of one engine."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def plain(self, value: Any) -> Any:
        """A value of the contract as plain data without drawn names. Exceptions become their class."""
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self.plain(item) for item in value]
        if isinstance(value, Mapping):
            return {name: self._drawn(name, item) for name, item in value.items()}
        if isinstance(value, BaseException):
            return ("raised", type(value).__name__)
        if isinstance(value, set | frozenset):
            return sorted(map(str, map(self.plain, value)))
        assert is_dataclass(value), f"{value!r} is no value of the contract"
        return {name: self._drawn(name, getattr(value, name)) for name in _shown(value)}

    def _drawn(self, name: str, value: Any) -> Any:
        if name in _DRAWN and isinstance(value, str) and value:
            return self._known.setdefault((name, value), f"{name} {len(self._known)}")
        return self.plain(value)


def _shown(value: Any) -> list[str]:
    # An event is what it says, whichever of its classes an engine makes.
    kind = Event if isinstance(value, Event) else type(value)
    if kind not in _SHOWN:
        _SHOWN[kind] = [f.name for f in fields(kind) if f.name not in _OWN_WAY]
    return _SHOWN[kind]


_SHOWN: dict[type, list[str]] = {}


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two plain values differ, one line each."""
    if one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        names = list(dict.fromkeys([*one, *other]))
        return [line for name in names for line in differences(one.get(name), other.get(name), f"{path}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{path}[{i}]")]
    return [f"{path or 'value'}: {one!r} here, {other!r} there"]
