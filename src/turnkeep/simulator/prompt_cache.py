"""The prompt cache of the Messages API: what was marked once and comes again unchanged is read
instead of written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from turnkeep.clock import Clock
from turnkeep.lean_dataclass import dataclass

TTL = 300.0
LOOKBACK = 20
"""How many blocks before a mark are compared with what is kept."""


@dataclass(frozen=True, slots=True)
class InputTokens:
    """The input of one request: what the cache gave, what it took in, and the rest."""

    fresh: int
    read_tokens: int
    written_tokens: int

    @property
    def total(self) -> int:
        return self.fresh + self.read_tokens + self.written_tokens


class PromptCache:
    """Keeps the marked beginnings of requests for five minutes since their last use."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expiries: dict[bytes, float] = {}

    def count(self, body: Mapping[str, Any]) -> InputTokens:
        """Count the input of a request, and keep what it marks."""
        # A cache belongs to its model.
        digest, tokens = hashlib.sha256(str(body.get("model")).encode()), 0
        ends: list[tuple[bytes, int]] = []
        marks: list[int] = []
        for where, block in _blocks(body):
            # Without the mark: moving it to a later block changes nothing of what was cached.
            plain = orjson.dumps({k: v for k, v in block.items() if k != "cache_control"}, option=orjson.OPT_SORT_KEYS)
            digest.update(where.encode() + plain)
            tokens += len(plain) // 4 + 1
            if block.get("cache_control"):
                marks.append(len(ends))
            ends.append((digest.digest(), tokens))
        now = self._clock.now()
        read_tokens = self._read(ends, marks, now)
        for mark in marks:
            self._expiries[ends[mark][0]] = now + TTL
        cacheable = ends[marks[-1]][1] if marks else 0
        return InputTokens(tokens - cacheable, read_tokens, cacheable - read_tokens)

    def _read(self, ends: list[tuple[bytes, int]], marks: list[int], now: float) -> int:
        for mark in reversed(marks):
            # A mark is found again although it has moved on, but not from any distance.
            for at in range(mark, max(-1, mark - LOOKBACK - 1), -1):
                digest, tokens = ends[at]
                if self._expiries.get(digest, 0.0) > now:
                    self._expiries[digest] = now + TTL
                    return tokens
        return 0


def _blocks(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All blocks in the order in which they are read: tools, system, messages."""
    for tool in body.get("tools") or ():
        yield "tool", tool
    for block in blocks_of(body.get("system")):
        yield "system", block
    for message in body["messages"]:
        for block in blocks_of(message["content"]):
            yield message["role"], block


def blocks_of(content: object) -> list[Mapping[str, Any]]:
    """A content in its full form: a text is one block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else []
