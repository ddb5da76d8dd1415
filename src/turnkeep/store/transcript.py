"""The stored transcript: its size, and which whole turns are kept, read or taken back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import orjson

from turnkeep.messages import item_to_json
from turnkeep.store.values import History, Policy, TranscriptEntry

# For what orjson refuses: an output of a tool may hold halves of surrogate pairs.
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_turn_of = attrgetter("turn")


def entry_size(entry: TranscriptEntry) -> int:
    """Bytes that count against `history_bytes`: the JSON of the item."""
    return size_of(item_to_json(entry.item))


def size_of(item: Mapping[str, Any]) -> int:
    """The same of an item that is JSON already."""
    try:
        return len(orjson.dumps(item))
    except TypeError:
        return len(_COMPACT(item).encode("utf-8", "surrogatepass"))


def trimmed_through(entries: Sequence[TranscriptEntry], policy: Policy, size: int) -> int:
    """The last turn that has to go so that the rest is within bounds, 0 for none; the newest turn
    always stays. `size`: of all entries.
    """
    items, through = len(entries), 0
    # From the oldest on, and no further: what stays is not looked at, however much it is.
    for turn, group in groupby(entries, key=_turn_of):
        # The newest turn stays whatever its size: the next request would not know what it answers.
        if (items <= policy.history_items and size <= policy.history_bytes) or turn == entries[-1].turn:
            break
        for entry in group:
            items, size = items - 1, size - entry_size(entry)
        through = turn
    return through


def newest(
    entries: Sequence[TranscriptEntry],
    summary: str | None,
    *,
    tokens: int | None,
    items: int | None,
    before_turn: int | None,
) -> History:
    """The newest whole turns within the limits; stops at the first turn that does not fit."""
    older = [e for e in entries if before_turn is None or e.turn < before_turn]
    entries_taken: list[TranscriptEntry] = []
    for _, group in _by_turn(reversed(older)):
        # Stops at the first that does not fit: a transcript
        # with a hole would be another conversation.
        if not _fits(entries_taken, group, tokens, items):
            break
        entries_taken += group
    return History(tuple(reversed(entries_taken)), summary, complete=len(entries_taken) == len(older))


def _fits(
    entries_taken: Sequence[TranscriptEntry], group: Sequence[TranscriptEntry], tokens: int | None, items: int | None
) -> bool:
    if items is not None and len(entries_taken) + len(group) > items:
        return False
    return tokens is None or sum(e.tokens for e in entries_taken) + sum(e.tokens for e in group) <= tokens


def last_user_turn(entries: Sequence[TranscriptEntry]) -> list[TranscriptEntry]:
    """The entries of the last turn that holds user items."""
    for _, group in _by_turn(reversed(entries)):
        if any(e.item.kind == "user" for e in group):
            return group[::-1]
    return []


def _by_turn(entries: Iterable[TranscriptEntry]) -> list[tuple[int, list[TranscriptEntry]]]:
    return [(turn, list(group)) for turn, group in groupby(entries, key=lambda e: e.turn)]
