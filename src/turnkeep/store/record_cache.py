"""What runs ask of records that hardly ever change: read once in a second, and after each change.

A change in this process counts at once, and one of another process as soon as its hint is heard
(`Registry.revision`), at the latest after `FRESH` seconds. So nothing is asked between a claim and
its model while runs follow each other, and runs that begin together ask once for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, TypeVarTuple

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
    """A value, with the revision and the moment before which it was asked for."""

    value: T
    revision: int
    at: float


class RecordCache(Generic[T, *Key]):
    """Values by the arguments of their reader, each as it was read last."""

    def __init__(self, source: RevisionSource, read: Callable[[*Key], Awaitable[T]]) -> None:
        self._source = source
        self._read = read
        self._reads: dict[Hashable, _Read[T]] = {}
        self._pending: dict[Hashable, _Read[asyncio.Future[T]]] = {}

    async def get(self, *key: *Key) -> T:
        """The value if it is fresh, else as it is read now."""
        entry = self._reads.get(key)
        if entry is not None and self._is_fresh(entry):
            return entry.value
        # A claim begins many runs at once, and their records have become old together. Again where he who
        # read was cancelled: one of those who waited for him reads now.
        while (pending := self._pending.get(key)) is not None and self._is_fresh(pending):
            await asyncio.wait([pending.value])  # not by itself: who is cancelled here is to cancel nobody else
            if not pending.value.cancelled():
                return pending.value.result()
        return await self._read_anew(key)

    async def _read_anew(self, key: tuple[*Key]) -> T:
        # Both are taken before: what changes while it is read is not in it.
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        pending = self._pending[key] = _Read(answer, self._source.revision(), _seconds())
        try:
            value = await self._read(*key)
        except Exception as error:
            answer.set_exception(error)
            answer.exception()  # mostly nobody waits for it, and nobody is to be warned
            raise
        else:
            answer.set_result(value)
        finally:
            answer.cancel()  # where this one was cancelled: who waits reads by himself
            is_last = self._pending.get(key) is pending
            if is_last:
                del self._pending[key]
        if is_last:  # else it was dropped meanwhile, or somebody reads what has changed since
            if len(self._reads) >= MOST_RECORDS:
                self._reads.clear()
            self._reads[key] = _Read(value, pending.revision, pending.at)
        return value

    def has(self, *key: *Key) -> bool:
        """Whether `get` would ask nobody."""
        entry = self._reads.get(key)
        return entry is not None and self._is_fresh(entry)

    def drop(self, *key: *Key) -> None:
        """Read it anew the next time."""
        self._reads.pop(key, None)
        self._pending.pop(key, None)

    def _is_fresh(self, entry: _Read[Any]) -> bool:
        return entry.revision == self._source.revision() and _seconds() - entry.at <= FRESH


def _seconds() -> float:
    return asyncio.get_running_loop().time()
