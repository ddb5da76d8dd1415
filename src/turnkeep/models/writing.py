"""What is said to a server, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


def json_bytes(value: Any) -> bytes:
    """The JSON of a body or a part of it; never raises for what a transcript may hold."""
    try:
        return orjson.dumps(value, default=dict)
    except TypeError:  # half a surrogate pair in somebody's text: JSON allows it, UTF-8 does not
        return orjson.dumps(_encodable(value))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_encodable(name): _encodable(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(entry) for entry in value]
    return value
