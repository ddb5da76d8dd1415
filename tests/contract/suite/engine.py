"""The engine itself: its clock, its health, its end."""

from __future__ import annotations

import pytest

from tests.contract.suite.desk import HERE, WORKER, Start, said
from turnkeep.errors import StoreUnavailable


class EnginePromises:
    async def test_the_clock_that_counts_is_told(self, start: Start) -> None:
        desk = await start()
        assert await desk.store.now() == desk.now
        await desk.wait(5)

        assert await desk.store.now() == desk.now

    async def test_a_check_names_the_engine(self, start: Start) -> None:
        desk = await start()

        found = await desk.store.check()

        assert found["engine"] == desk.store.engine
        assert "durability" in found
        assert found["layout"] >= 1

    async def test_a_closed_store_is_unavailable(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.close()

        for operation in (
            lambda: desk.store.accept([said("m2")]),
            lambda: desk.store.claim(owner=WORKER, limit=1, lease=1.0),
            lambda: desk.commit(claim),
            lambda: desk.store.thread(HERE),
            lambda: desk.store.get("key", "t", "k"),
            lambda: desk.store.spend("account", tenant="t"),
            lambda: desk.store.read(HERE),
            desk.store.check,
        ):
            with pytest.raises(StoreUnavailable):
                await operation()
