"""The SQLite engine keeps every promise of the store contract, and lives as the memory engine does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.histories import drive
from tests.contract.store_suite import StoreSuite
from turnkeep.store.contract import Store
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Policies
from turnkeep.testing import FakeClock, counting_ids

Size = Callable[[int, int], int]


async def fresh(directory: Path, policies: Policies, clock: FakeClock) -> Store:
    path = directory / f"{secrets.token_hex(4)}.db"
    store = SqliteStore(path, policies, clock=clock, ids=counting_ids(), ballast=0)
    await store.open()
    return store


class TestSqlite(StoreSuite):
    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        return await fresh(self.directory, policies, clock)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.timeout(1_800)
def test_it_lives_through_random_histories_as_the_memory_engine_does(
    loop: asyncio.AbstractEventLoop, size: Size, tmp_path: Path
) -> None:
    async def make(policies: Policies, clock: FakeClock) -> Store:
        return await fresh(tmp_path, policies, clock)

    drive(make, examples=size(20, 300), steps=50, loop=loop)
