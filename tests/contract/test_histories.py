"""Every engine lives through random histories exactly as the memory engine does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from turnkeep.store.base import Policies, Store
from turnkeep.store.memory import MemoryStore
from turnkeep.testing import FakeClock, counting_ids
from turnkeep.testing.histories import drive

Size = Callable[[int, int], int]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_the_books_agree_with_the_memory_engine(loop: asyncio.AbstractEventLoop, size: Size) -> None:
    async def make(policies: Policies, clock: FakeClock) -> Store:
        return MemoryStore(policies, clock=clock, ids=counting_ids())

    drive(make, examples=size(40, 1_000), steps=50, loop=loop)
