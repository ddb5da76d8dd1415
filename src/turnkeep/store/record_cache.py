"""What runs ask of records that hardly ever change: read once in a second, and after each change.

A change in this process counts at once, and one of another process as soon as its hint is heard
(`Registry.revision`), at the latest after `FRESH` seconds. So nothing is asked between a claim and
its model while runs follow each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar, TypeVarTuple

FRESH = 1.0
"""Seconds for which a record is believed that nobody said has changed."""

MOST_RECORDS = 1_024

T = TypeVar("T")
Key = TypeVarTuple("Key")


class RevisionSource(Protocol):
    """What tells that records changed."""

    def revision(self) -> int: ...


class RevisionCount:
    """The revision of one engine."""

    _revision = 0

    def revision(self) -> int:
        return self._revision

    def revise(self) -> None:
        """A record has changed. Said behind the change: who reads before it, reads again."""
        self._revision += 1


class _Read(NamedTuple, Generic[T]):
    value: T
    revision: int
    at: float


class RecordCache(Generic[T, *Key]):
    """Values by the arguments of their reader, each as it was read last."""

    def __init__(self, source: RevisionSource, read: Callable[[*Key], Awaitable[T]]) -> None:
        self._source = source
        self._read = read
        self._reads: dict[Hashable, _Read[T]] = {}

    async def get(self, *key: *Key) -> T:
        """The value if it is fresh, else as it is read now."""
        entry = self._reads.get(key)
        if entry is not None and self._is_fresh(entry):
            return entry.value
        # Both are taken before: what changes while it is read is not in it.
        revision, at = self._source.revision(), _seconds()
        value = await self._read(*key)
        if len(self._reads) >= MOST_RECORDS:
            self._reads.clear()
        self._reads[key] = _Read(value, revision, at)
        return value

    def has(self, *key: *Key) -> bool:
        """Whether `get` would ask nobody."""
        entry = self._reads.get(key)
        return entry is not None and self._is_fresh(entry)

    def drop(self, *key: *Key) -> None:
        """Read it anew the next time."""
        self._reads.pop(key, None)

    def _is_fresh(self, entry: _Read[T]) -> bool:
        return entry.revision == self._source.revision() and _seconds() - entry.at <= FRESH


def _seconds() -> float:
    return asyncio.get_running_loop().time()
