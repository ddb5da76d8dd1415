"""Bytes from outside to JSON, strictly: what two programs could read differently is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import orjson

from turnkeep.errors import InvalidMessage, MessageTooLarge

MAX_DEPTH = 32
MAX_VALUES = 10_000
"""Values of one frame: texts, numbers, objects, lists."""
MAX_DIGITS = 20
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**64 - 1


def read_json(data: bytes | str, *, limit: int) -> dict[str, Any]:
    """An object without NaN, duplicate keys or lone surrogates, at most `MAX_DEPTH` deep, `limit`
    bytes long, of at most `MAX_VALUES` values. Whatever it is, reading it takes less than 50 ms.
    """
    # With half pairs, so that it is orjson that refuses them, in the same words at every door.
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if len(raw) > limit:
        raise MessageTooLarge(f"{len(raw)} bytes are more than the {limit} that are read at once")
    # Before: half a megabyte of brackets or of numbers took 80 ms of the loop.
    _check_count(raw)
    try:
        # Twice, for neither is strict alone: orjson refuses NaN, wrong UTF-8 and half surrogate
        # pairs, but keeps the last of two equal keys in silence; json shows the pairs, but takes
        # all of those. What orjson adds is a fifth of what json takes.
        orjson.loads(raw)
        value = json.loads(raw, object_pairs_hook=_without_duplicates, parse_int=_integer)
    except orjson.JSONDecodeError as error:
        raise InvalidMessage(f"this is not JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"this JSON is not taken: {error}") from None
    if not isinstance(value, dict):
        raise InvalidMessage("expected a JSON object")
    _check_depth(value)
    return value


def _check_count(raw: bytes) -> None:
    """Before anything is parsed, because a value costs much more than the two bytes that it may be
    written with.
    """
    if _values_in(raw) <= MAX_VALUES:
        return
    outside_of_strings = raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    if _values_in(b"".join(outside_of_strings)) > MAX_VALUES:
        raise InvalidMessage(f"this JSON has more than {MAX_VALUES} values")


def _values_in(raw: bytes) -> int:
    """At least as many as there are."""
    return 1 + raw.count(b"[") + raw.count(b"{") + raw.count(b",")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for outer in level for child in _inside(outer) if isinstance(child, dict | list)]
        if not level:
            return
    raise InvalidMessage(f"this JSON is nested deeper than {MAX_DEPTH} levels")


def _inside(outer: object) -> Iterable[object]:
    return outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        earlier: set[str] = set()
        twice = next(key for key, _ in pairs if key in earlier or earlier.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return values


def _integer(digits: str) -> int:
    """What we could not write again is not read."""
    # orjson writes 64 bits: a larger number was stored with an assistant, and its answer was a 500.
    value = int(digits) if len(digits) <= MAX_DIGITS else LARGEST_INTEGER + 1
    if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        raise ValueError("a whole number does not fit in 64 bits")
    return value
