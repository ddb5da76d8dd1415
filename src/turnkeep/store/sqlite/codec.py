"""The JSON that rows hold: by orjson, and by the standard library what orjson refuses (lone surrogates, huge
integers).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import orjson


def encode(value: Any) -> str:
    """Plain JSON and frozen dataclasses of it, as text that SQLite can hold."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, separators=(",", ":"), default=asdict)


def decode(text: str) -> Any:
    """Raises ValueError for what is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
