"""Stores in files, for the tests of the SQLite engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import apsw

from tests.contract.suite.desk import POLICY, Desk
from tests.patience import PATIENCE, until
from turnkeep.store.ids import Ids
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.values import Policies
from turnkeep.testing import FakeClock, counting_ids


@asynccontextmanager
async def opened(path: Path, policies: Policies | None = None, *, ballast: int = 0) -> AsyncIterator[Desk]:
    """A desk whose store is this file; its names are its own."""
    clock = FakeClock()
    store = SqliteStore(path, policies or Policies(POLICY), clock=clock, ids=_own_ids(), ballast=ballast)
    await store.open()
    try:
        yield Desk(store, clock)
    finally:
        await store.close()


_given = iter(range(1, 1_000_000))


def _own_ids() -> Ids:
    """Names that no other store of this test run gives."""
    ids, mark = counting_ids(), next(_given)
    return lambda purpose: f"{mark:016x}{ids(purpose)[16:]}"


def engine(desk: Desk) -> SqliteStore:
    assert isinstance(desk.store, SqliteStore)
    return desk.store


class Gate:
    """An operation that keeps the writer until it is told to go on, so that others gather behind it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, tx: Transaction) -> None:
        self.reached.set()
        assert self.go_on.wait(PATIENCE)


async def together(desk: Desk, *operations: Any) -> list[Any]:
    """Do all of these in one group."""
    gate = Gate()
    async with asyncio.TaskGroup() as group:
        group.create_task(engine(desk).use().writer.run(gate))
        await until(gate.reached.is_set)
        outcomes = group.create_task(_gathered(operations))
        await asyncio.sleep(0.05)  # one turn of the loop for each is enough; what comes late is another group
        gate.go_on.set()
    return outcomes.result()


async def _gathered(operations: Any) -> list[Any]:
    return list(await asyncio.gather(*operations, return_exceptions=True))


def connection_of(desk: Desk) -> apsw.Connection:
    return engine(desk).use().transaction.connection


@contextmanager
def traced(desk: Desk) -> Iterator[list[str]]:
    """The statements of the writer, as they are executed."""
    statements: list[str] = []

    def trace(cursor: apsw.Cursor, statement: str, bindings: Any) -> bool:
        statements.append(statement)
        return True

    connection_of(desk).exec_trace = trace
    yield statements
    connection_of(desk).exec_trace = None
