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
        self.is_away = False

    async def read(self, _: str) -> int:
        if self.is_away:
            raise OSError("away")
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
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)
    for later in (0.0, 0.5, FRESH):
        moments.append(100.0 + later)
        assert await cache.get("a") == 1
    assert shelf.reads == 1
    assert cache.has("a")

    moments.append(100.1 + FRESH)
    assert not cache.has("a")
    await cache.get("a")
    assert shelf.reads == 2


async def test_a_change_counts_at_once() -> None:
    shelf = Shelf()
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)
    await cache.get("a")
    shelf.value = 2
    shelf.revise()

    assert not cache.has("a")
    assert await cache.get("a") == 2


async def test_a_change_while_it_is_read_is_read_the_next_time() -> None:
    shelf = Shelf()
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)
    reading = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    shelf.value = 2
    shelf.revise()

    assert await reading == 1
    assert await cache.get("a") == 2


async def test_a_read_that_fails_is_not_remembered() -> None:
    shelf = Shelf()
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)

    shelf.is_away = True
    with pytest.raises(OSError, match="away"):
        await cache.get("a")
    shelf.is_away = False
    assert await cache.get("a") == 1


async def test_who_asks_together_reads_once() -> None:
    shelf = Shelf()
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)

    assert await asyncio.gather(*[cache.get("a") for _ in range(50)]) == [1] * 50
    assert shelf.reads == 1
    assert not cache._pending


async def test_who_asks_behind_a_change_does_not_share_what_was_read_before_it() -> None:
    shelf = Shelf()
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)
    before = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    shelf.value = 2
    shelf.revise()

    assert await cache.get("a") == 2
    assert await before == 1
    assert await cache.get("a") == 2


async def test_what_is_dropped_while_it_is_read_is_read_anew() -> None:
    shelf = Shelf()
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)
    before = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    shelf.value = 2
    cache.drop("a")

    assert await before == 1
    assert not cache.has("a")
    assert await cache.get("a") == 2


async def test_a_reader_that_is_cancelled_takes_nobody_along() -> None:
    shelf = Shelf()
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)
    first, second, *others = (asyncio.create_task(cache.get("a")) for _ in range(100))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()

    assert await asyncio.gather(*others) == [1] * 98
    ends = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
    assert shelf.reads == 2


async def test_a_failure_is_told_to_all_who_wait_for_it() -> None:
    shelf = Shelf()
    shelf.is_away = True
    calls = 0

    async def fail(_: str) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return await shelf.read(_)

    cache: RecordCache[int, str] = RecordCache(shelf, fail)
    ends = await asyncio.gather(*[cache.get("a") for _ in range(5)], return_exceptions=True)

    assert [str(end) for end in ends] == ["away"] * 5
    assert calls == 1


async def test_it_is_bounded() -> None:
    shelf = Shelf()
    cache: RecordCache[int, str] = RecordCache(shelf, shelf.read)
    for key in range(MOST_RECORDS + 10):
        await cache.get(str(key))

    assert len(cache._reads) <= MOST_RECORDS


async def test_an_assistant_that_changes_answers_as_it_is_now(store: MemoryStore) -> None:
    assistants = Assistants(store, model="m")
    other = Assistants(store, model="m")
    first = await assistants.begin("t", now=1.0)
    assert (await assistants.answering("t", None)).instructions == first.instructions
    assert assistants.knows_answering("t", None)

    changes = {"instructions": "Be brief.", "tools": ["clock", {"type": "web_search", "show": "arguments"}]}
    await other.change("t", first.assistant_id, changes)
    changed = await assistants.answering("t", None)
    assert (first.tool_names, changed.tool_names) == (None, ("clock",))
    assert changed.instructions == "Be brief."
    assert (changed.hosted_tools, changed.client_tools) == (({"type": "web_search"},), ())
    second = await other.create("t", {"instructions": "Be kind."}, now=2.0)
    await other.use("t", second.assistant_id)
    assert (await assistants.answering("t", None)).instructions == "Be kind."
    await other.delete("t", second.assistant_id)
    assert (await assistants.answering("t", None)).assistant_id == ""
