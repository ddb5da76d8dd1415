"""What is remembered of records is believed for a second, and never past a change that was heard of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from turnkeep.assistants import Assistants
from turnkeep.store.memory import MemoryStore
from turnkeep.store.record_cache import FRESH, MOST_RECORDS, RecordCache, RevisionCount


class Shelf(RevisionCount):
    """One value, and how often it was read."""

    def __init__(self) -> None:
        self.value = 1
        self.reads = 0

    async def read(self) -> int:
        value, self.reads = self.value, self.reads + 1
        await asyncio.sleep(0)
        return value


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The last one is now."""
    moments = [100.0]
    monkeypatch.setattr("turnkeep.store.record_cache._seconds", lambda: moments[-1])
    return moments


@pytest_asyncio.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open()
    yield store
    await store.close()


async def test_a_record_is_read_once_in_a_second(moments: list[float]) -> None:
    shelf = Shelf()
    cache: RecordCache[int] = RecordCache(shelf)
    for later in (0.0, 0.5, FRESH):
        moments.append(100.0 + later)
        assert await cache.get("a", shelf.read) == 1
    assert shelf.reads == 1
    assert cache.has("a")

    moments.append(100.1 + FRESH)
    assert not cache.has("a")
    await cache.get("a", shelf.read)
    assert shelf.reads == 2


async def test_a_change_counts_at_once() -> None:
    shelf = Shelf()
    cache: RecordCache[int] = RecordCache(shelf)
    await cache.get("a", shelf.read)
    shelf.value = 2
    shelf.revise()

    assert not cache.has("a")
    assert await cache.get("a", shelf.read) == 2


async def test_a_change_while_it_is_read_is_read_the_next_time() -> None:
    shelf = Shelf()
    cache: RecordCache[int] = RecordCache(shelf)
    reading = asyncio.create_task(cache.get("a", shelf.read))
    await asyncio.sleep(0)
    shelf.value = 2
    shelf.revise()

    assert await reading == 1
    assert await cache.get("a", shelf.read) == 2


async def test_a_read_that_fails_is_not_remembered() -> None:
    shelf = Shelf()
    cache: RecordCache[int] = RecordCache(shelf)

    async def fail() -> int:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await cache.get("a", fail)
    assert await cache.get("a", shelf.read) == 1


async def test_it_is_bounded() -> None:
    shelf = Shelf()
    cache: RecordCache[int] = RecordCache(shelf)
    for key in range(MOST_RECORDS + 10):
        await cache.get(key, shelf.read)

    assert len(cache._reads) <= MOST_RECORDS


async def test_an_assistant_that_changes_answers_as_it_is_now(store: MemoryStore) -> None:
    assistants = Assistants(store, model="m")
    other = Assistants(store, model="m")
    first = await assistants.begin("t", now=1.0)
    assert (await assistants.answering("t", None)).instructions == first.instructions
    assert assistants.knows_answering("t", None)

    await other.change("t", first.assistant_id, {"instructions": "Be brief."})
    assert (await assistants.answering("t", None)).instructions == "Be brief."
    second = await other.create("t", {"instructions": "Be kind."}, now=2.0)
    await other.use("t", second.assistant_id)
    assert (await assistants.answering("t", None)).instructions == "Be kind."
    await other.delete("t", second.assistant_id)
    assert (await assistants.answering("t", None)).assistant_id == ""
