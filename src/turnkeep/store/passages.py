"""Looking for what was said: which text, and what is given back, the same way for every engine."""

from __future__ import annotations

from typing import Literal

from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, AssistantItem, Item, UserItem, content_text
from turnkeep.store.values import TranscriptEntry

MOST_ENTRIES = 100_000
"""Entries of transcripts that one search looks at, the newest first."""
MOST_SEARCHED_THREADS = 1_000
"""Threads that one search looks into where entries have no order across threads."""
AROUND = 80
"""Characters on each side of what is looked for."""

_ASCII = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})


@dataclass(frozen=True, slots=True)
class TextSearch:
    """What is looked for, without regard to the case of ASCII letters, in messages and answers."""

    text: str
    tenant: str | None = None
    queue: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Passage:
    """Where it was said, and the words around it."""

    address: Address
    turn: int
    at: float
    kind: Literal["user", "assistant"]
    excerpt: str


def words_of(item: Item) -> str:
    """What people find of an item: what somebody said."""
    if isinstance(item, UserItem):
        return content_text(item.content)
    return item.text if isinstance(item, AssistantItem) else ""


def passage_in(address: Address, entry: TranscriptEntry, text: str) -> Passage | None:
    """The first place of a text in an entry, if somebody said it there."""
    item = entry.item
    words = words_of(item)
    place = _lower(words).find(_lower(text))
    if place < 0:
        return None
    start, end = max(0, place - AROUND), place + len(text) + AROUND
    excerpt = ("…" if start else "") + words[start:end] + ("…" if end < len(words) else "")
    kind: Literal["user", "assistant"] = "user" if isinstance(item, UserItem) else "assistant"
    return Passage(address, entry.turn, entry.at, kind, excerpt)


def _lower(text: str) -> str:
    # not `str.lower`: it may change how long a text is, and the place that is found would be another
    return text.translate(_ASCII)
