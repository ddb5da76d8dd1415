"""The JSON that rows hold: by orjson, and by the standard library what orjson refuses (lone
surrogates, huge integers).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import orjson

from turnkeep.errors import ThreadQuarantined

T = TypeVar("T")


def encode(value: Any) -> str:
    """Plain JSON and frozen dataclasses of it, as text that SQLite can hold."""
    try:
        # text and no bytes: SQLite takes a blob in its JSON functions for its own binary form
        return orjson.dumps(value).decode()
    except TypeError:
        # messages may hold what orjson refuses, and what was accepted has to be stored
        return json.dumps(value, separators=(",", ":"), default=asdict)


def decode(text: str) -> Any:
    """Raises ValueError for what is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def restore(what: str, make: Callable[[Any], T], text: str) -> T:
    """A value from its stored form. Raises `ThreadQuarantined` for what cannot be understood."""
    try:
        return make(decode(text))
    # damage shows wherever `make` meets it first: all of these say the same
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ThreadQuarantined(
            f"a stored {what} cannot be read ({type(error).__name__}), the file is damaged"
        ) from error
