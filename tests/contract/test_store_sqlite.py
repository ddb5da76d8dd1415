"""The SQLite engine keeps every promise of the store contract, and lives as the memory engine does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.contract.histories import OWNERS, drive
from tests.contract.store_suite import StoreSuite
from turnkeep.store.contract import Store
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Policies, Publication
from turnkeep.testing import FakeClock, counting_ids

Size = Callable[[int, int], int]


async def fresh(directory: Path, policies: Policies, clock: FakeClock) -> Store:
    path = directory / f"{secrets.token_hex(4)}.db"
    store = SqliteStore(path, policies, clock=clock, ids=counting_ids(), ballast=0)
    await store.open()
    return store


@pytest.mark.daily(rows=4)  # memory tries all, by the same rules, and Redis the rows between these
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

    drive(make, examples=size(4, 300), steps=50, loop=loop)


class TakingTurns:
    """One file that is opened twice, as by two processes: each owner is of one of them, and whatever else
    is asked is asked of them in turns.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = stores
        self._turns = cycle(range(len(stores)))

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any, **named: Any) -> Any:
            owner = _owner_in(arguments, named)
            side = next(self._turns) if owner is None else OWNERS.index(owner)
            return getattr(self._stores[side], name)(*arguments, **named)

        return ask

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


def _owner_in(arguments: tuple[Any, ...], named: dict[str, Any]) -> str | None:
    """Who does this, where it is the doing of an owner of claims."""
    first = arguments[0] if arguments else None
    if isinstance(first, list) and first and isinstance(first[0], Publication):
        first = first[0]
    owner = named.get("owner") or getattr(getattr(first, "claim", first), "owner", first)
    return owner if owner in OWNERS else None


@pytest.mark.timeout(1_800)
def test_two_processes_on_one_file_live_as_one(loop: asyncio.AbstractEventLoop, size: Size, tmp_path: Path) -> None:
    async def make(policies: Policies, clock: FakeClock) -> Any:
        path, ids = tmp_path / f"{secrets.token_hex(4)}.db", counting_ids()
        stores = [SqliteStore(path, policies, clock=clock, ids=ids, ballast=0) for _ in OWNERS]
        for store in stores:
            await store.open()
        return TakingTurns(stores)

    drive(make, examples=size(2, 150), steps=50, loop=loop)
