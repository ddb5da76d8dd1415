"""Lock files: who lives is known at once, by everybody, without a clock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.sqlite_files import engine, opened, until
from turnkeep.errors import StoreUnavailable
from turnkeep.store.base import LAYOUT
from turnkeep.store.sqlite.owners import Owners
from turnkeep.testing.suite.desk import HERE, at


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "a.db.owners"


def test_an_owner_lives_as_long_as_its_lock_is_held(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory)
    assert there.is_gone("worker")

    here.hold("worker")
    assert not there.is_gone("worker")
    assert not here.is_gone("worker")

    here.let_go()
    assert there.is_gone("worker")


def test_the_file_of_a_dead_owner_is_removed_when_met(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory)
    here.hold("worker")
    here.abandon()  # as the end of the process does

    assert len(list(directory.iterdir())) == 1
    assert there.is_gone("worker")
    assert list(directory.iterdir()) == []


def test_a_removed_file_is_made_again_by_the_next_of_that_name(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory)
    here.hold("worker")
    next(directory.iterdir()).unlink()
    assert there.is_gone("worker")

    there.hold("worker")

    assert not there.is_gone("worker")
    assert not Owners(directory).is_gone("worker")


def test_others_are_named_with_their_process_and_layout(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory, layout=7)
    here.hold("worker-1")
    there.hold("worker-2")

    assert here.others() == [f"process {os.getpid()}, worker-2, layout 7"]
    assert there.others() == [f"process {os.getpid()}, worker-1, layout {LAYOUT}"]


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnavailable, match="no lock file can be made"):
        Owners(tmp_path / "file" / "owners").hold("worker")


async def test_a_store_that_closes_lets_others_have_its_runs_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        claim = await desk.lease("m1", owner="worker-1")

    async with opened(path) as next_desk:
        [again] = await next_desk.claims("worker-2")

        assert again.run_id == claim.run_id
        assert (again.fence, again.attempt, again.deaths) == (claim.fence + 1, 2, 1)


async def test_a_lease_of_an_owner_that_lives_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk, opened(path) as other:
        claim = await desk.lease("m1", owner="worker-1")
        await engine(other).write(lambda tx: None)

        assert await other.claims("worker-2") == []
        await desk.commit(claim)


async def test_leases_of_an_owner_that_vanished_are_freed_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk, opened(path) as other:
        await desk.lease("m1", owner="worker-1")
        engine(desk).use().transaction.owners.abandon()  # as the end of the process does

        await other.store.ready(queues=None, timeout=1_000.0)
        [claim] = await other.claims("worker-2")

        assert claim.deaths == 1
        assert claim.owner == "worker-2"


async def test_a_sink_of_an_owner_that_vanished_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk, opened(path) as other:
        await desk.store.open_sink("relay")
        assert await desk.store.lease_sink("relay", 0, owner="sink-1", lease=1_000.0) == ""
        assert await other.store.lease_sink("relay", 0, owner="sink-2", lease=1_000.0) is None

        engine(desk).use().transaction.owners.abandon()

        assert await other.store.lease_sink("relay", 0, owner="sink-2", lease=1_000.0) == ""


async def test_the_writer_looks_often_while_something_is_live_here(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        transaction = engine(desk).use().transaction
        assert not transaction.leases
        claim = await desk.lease("m1")
        assert transaction.leases
        await desk.commit(claim)
        assert not transaction.leases

        await desk.lease("m2", where=at("other"))
        await desk.store.forget(at("other"), force=True)
        await until(lambda: not transaction.leases)
        assert await desk.store.thread(HERE) is not None
