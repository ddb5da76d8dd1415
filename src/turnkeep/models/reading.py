"""What a server says, believed only as far as its types go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def words(value: object) -> str:
    """A text; None is an empty one. Raises TypeError for anything else."""
    if value is None:
        return ""
    if type(value) is not str:
        raise TypeError(f"expected a text, not {type(value).__name__}")
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """An object; anything else is an empty one."""
    return value if isinstance(value, Mapping) else {}
