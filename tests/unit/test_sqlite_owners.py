"""Lock files: who lives is known at once, by everybody, without a clock."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import apsw
import pytest

from tests.contract.suite.desk import HERE, Desk, at
from tests.patience import PATIENCE, until
from tests.unit.sqlite_files import engine, opened
from turnkeep.errors import StoreMisconfigured, StoreUnavailable
from turnkeep.store.sqlite import SqliteStore, owners, restore
from turnkeep.store.sqlite.backup import owners_of
from turnkeep.store.sqlite.owners import Owners
from turnkeep.store.values import LAYOUT


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "a.db.owners"


def test_an_owner_lives_as_long_as_its_lock_is_held(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory)
    here.hold("worker")
    assert not there.is_gone("worker")
    assert not here.is_gone("worker")

    here.abandon()  # as the end of the process does
    assert there.is_gone("worker")
    assert there.is_gone("worker")


def test_of_an_owner_whose_lock_is_not_there_nothing_is_known(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory)
    assert not there.is_gone("never seen")
    here.hold("worker")
    shutil.rmtree(directory)

    assert not there.is_gone("worker")
    here.renew()
    assert there.others() == [f"process {os.getpid()}, worker, layout {LAYOUT}"]
    here.abandon()
    assert there.is_gone("worker")


def test_an_owner_that_comes_back_lives(directory: Path) -> None:
    here, there, again = Owners(directory), Owners(directory), Owners(directory)
    here.hold("worker")
    here.abandon()
    assert there.is_gone("worker")

    again.hold("worker")

    assert not there.is_gone("worker")


@pytest.mark.parametrize("act", ["hold", "renew"])
def test_a_lock_that_somebody_looks_at_while_it_is_taken_is_taken_all_the_same(
    directory: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    here, there = Owners(directory), Owners(directory)
    here.hold("worker")
    [path] = directory.iterdir()
    if act == "hold":
        here.abandon()
    path.unlink()
    look = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(look, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def end_look(_: float) -> None:
        path.unlink()
        os.close(look)

    monkeypatch.setattr(time, "sleep", end_look)
    here.hold("worker") if act == "hold" else here.renew()

    assert there.others() == [f"process {os.getpid()}, worker, layout {LAYOUT}"]


def test_a_look_leaves_what_others_have_to_see(directory: Path) -> None:
    here, there, behind = Owners(directory), Owners(directory), Owners(directory)
    here.hold("worker")
    here.abandon()  # as the end of the process does

    assert there.others() == []
    assert there.is_gone("worker")
    assert behind.is_gone("worker")


def test_who_looks_while_another_looks_sees_the_same(directory: Path) -> None:
    here, there, behind = Owners(directory), Owners(directory), Owners(directory)
    here.hold("worker")
    here.abandon()  # as the end of the process does
    [path] = directory.iterdir()
    look = os.open(path, os.O_RDWR)
    assert owners._lock(look, is_look=True)
    try:
        assert there.is_gone("worker")
        assert behind.others() == []
    finally:
        os.close(look)


def test_the_files_of_the_dead_are_removed_but_for_those_that_are_still_needed(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory)
    for owner in ("worker-1", "worker-2"):
        here.hold(owner)
    here.abandon()
    there.hold("worker-3")
    assert there.has_dead({"worker-1"})

    there.remove_dead({"worker-1"})

    assert there.is_gone("worker-1")
    assert not there.is_gone("worker-2")
    assert not there.has_dead({"worker-1"})
    assert len(list(directory.iterdir())) == 2


def test_a_file_that_cannot_be_opened_says_of_nobody_that_he_is_gone(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory)
    here.hold("worker")
    here.abandon()
    [path] = directory.iterdir()
    path.unlink()
    path.mkdir()

    assert not there.is_gone("worker")
    assert len(there.others()) == 1
    there.remove_dead(())
    assert path.is_dir()


def test_others_are_named_with_their_process_and_layout(directory: Path) -> None:
    here, there = Owners(directory), Owners(directory, layout=7)
    here.hold("worker-1")
    there.hold("worker-2")

    assert here.others() == [f"process {os.getpid()}, worker-2, layout 7"]
    assert there.others() == [f"process {os.getpid()}, worker-1, layout {LAYOUT}"]


def somebody_comes(directory: Path, here: Owners) -> None:
    Owners(directory).hold("another")


def our_file_is_removed(directory: Path, here: Owners) -> None:
    next(directory.glob("*.lock")).unlink()


def the_folder_is_removed(directory: Path, here: Owners) -> None:
    shutil.rmtree(directory)


def we_have_one_more(directory: Path, here: Owners) -> None:
    here.hold("a second one")


@pytest.mark.parametrize("event", [somebody_comes, our_file_is_removed, the_folder_is_removed, we_have_one_more])
def test_while_nobody_comes_or_goes_the_folder_says_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch, event: Callable[[Path, Owners], None]
) -> None:
    monkeypatch.setattr(owners, "GRAIN", 0.05)
    here = Owners(directory)
    here.hold("worker")
    deadline = time.monotonic() + PATIENCE
    while here.may_have_changed():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not here.may_have_changed()
    time.sleep(0.02)  # a tick of the file system

    event(directory, here)

    assert here.may_have_changed()


def test_while_somebody_else_has_a_file_he_is_asked_each_time(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who dies leaves the folder as it is."""
    monkeypatch.setattr(owners, "GRAIN", -1.0)
    here, there = Owners(directory), Owners(directory)
    here.hold("worker")
    there.hold("another")
    assert [here.may_have_changed() for _ in range(3)] == [True] * 3

    there.let_go()
    assert [here.may_have_changed() for _ in range(3)] == [True, False, False]


def test_a_folder_that_has_just_changed_is_not_believed(directory: Path) -> None:
    """Another may come within the same moment of the file system."""
    here = Owners(directory)
    here.hold("worker")
    assert [here.may_have_changed() for _ in range(3)] == [True] * 3


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


async def vanish(desk: Desk) -> None:
    """Give up all locks, as the end of a process does, and write no more: a writer that lived on would look after the
    locks of others, and take itself for one that has gone.
    """
    await engine(desk).use().writer.stop()
    engine(desk).use().transaction.owners.abandon()


async def test_leases_of_an_owner_that_vanished_are_freed_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk, opened(path) as other:
        await desk.lease("m1", owner="worker-1")
        await vanish(desk)

        await other.store.ready(queues=None, timeout=1_000.0)
        [claim] = await other.claims("worker-2")

        assert claim.deaths == 1
        assert claim.owner == "worker-2"


Look = Callable[[Path], Awaitable[None]]


async def open_and_vanish(path: Path) -> None:
    """A process that has just looked who is there, and is killed before it has freed anything."""
    owners = Owners(path.with_name("a.db.owners"))
    owners.hold("store just opened")
    owners.others()
    owners.abandon()


async def open_and_close(path: Path) -> None:
    async with opened(path):
        pass


async def try_to_restore(path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="no file"):
        restore(path.with_name("backup.db"), path)


async def look_for_users(path: Path) -> None:
    assert Owners(path.with_name("a.db.owners")).others() == []


@pytest.mark.parametrize("look", [open_and_vanish, open_and_close, try_to_restore, look_for_users])
async def test_what_the_dead_had_leased_is_free_at_once_whoever_has_looked_meanwhile(
    tmp_path: Path, look: Look
) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await desk.store.open_sink("relay")
        assert await desk.store.lease_sink("relay", 0, owner="sink-1", lease=1_000.0) == ""
        await desk.lease("m1", owner="worker-1")
        await vanish(desk)
        await look(path)

        async with opened(path) as other:
            [claim] = await other.claims("worker-2")
            assert claim.deaths == 1
            assert await other.store.lease_sink("relay", 0, owner="sink-2", lease=1_000.0) == ""


async def test_the_lock_of_the_dead_stays_until_somebody_has_what_they_had(tmp_path: Path) -> None:
    path, locks = tmp_path / "a.db", tmp_path / "a.db.owners"
    async with opened(path) as desk:
        await desk.lease("m1", owner="worker-1")
        await vanish(desk)
    async with opened(path):
        pass
    assert locks_in(locks) == 1

    async with opened(path) as other:
        [claim] = await other.claims("worker-2")
        await other.commit(claim)
    assert locks_in(locks) == 0


def locks_in(directory: Path) -> int:
    return len(list(directory.glob("*.lock")))


async def test_a_store_that_closes_lets_others_have_its_sinks_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await desk.store.open_sink("relay")
        assert await desk.store.lease_sink("relay", 0, owner="sink-1", lease=1_000.0) == ""

    async with opened(path) as other:
        assert await other.store.lease_sink("relay", 0, owner="sink-2", lease=1_000.0) == ""


@asynccontextmanager
async def opening_held(path: Path, given_path: Path) -> AsyncIterator[asyncio.Task[None]]:
    """A store that is being opened, and waits for the lock of the file until the end of the block."""
    async with opened(path):
        pass
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(SqliteStore(given_path).open())
        await until(lambda: bool(Owners(owners_of(path)).others()))
        yield opening


async def test_who_gives_up_while_a_store_opens_holds_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opening_held(path, path) as opening:
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    await until(lambda: not Owners(owners_of(path)).others())


async def test_a_store_that_goes_while_it_opens_is_refused_and_not_held(tmp_path: Path) -> None:
    path, link = tmp_path / "a.db", tmp_path / "link.db"
    link.symlink_to(path)
    async with opening_held(path, link) as opening:
        link.unlink()

    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await opening
    assert Owners(owners_of(path)).others() == []


async def test_one_file_has_one_set_of_owners_by_whatever_path_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "a.db"
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "folder")
    async with opened(path) as desk:
        await desk.lease("m1", owner="worker-1")
        for name in (tmp_path / "link.db", tmp_path / "folder/a.db", Path("a.db"), Path("../there/./a.db")):
            async with opened(name) as other:
                await engine(other).write(lambda tx: None)
                assert await other.claims("worker-2") == []
            with pytest.raises(StoreMisconfigured, match="is in use"):
                restore(await copy_of(desk, tmp_path / f"{len(str(name))}-{name.name}"), name)
    assert (tmp_path / "link.db").is_symlink()


async def copy_of(desk: Desk, target: Path) -> Path:
    await engine(desk).backup(target)
    return target


async def test_a_living_worker_keeps_its_runs_though_somebody_tidies_its_locks_away(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk, opened(path) as other:
        claim = await desk.lease("m1", owner="worker-1")
        shutil.rmtree(tmp_path / "a.db.owners")
        for _ in range(3):
            await engine(other).write(lambda tx: None)
            assert await other.claims("worker-2") == []
        await until(lambda: len(list((tmp_path / "a.db.owners").glob("*.lock"))) >= 2)
        await desk.commit(claim)


async def test_a_file_of_two_names_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db"):
        pass
    (tmp_path / "b.db").hardlink_to(tmp_path / "a.db")

    with pytest.raises(StoreMisconfigured, match="2 names"):
        async with opened(tmp_path / "b.db"):
            pass


async def test_a_sink_of_an_owner_that_vanished_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk, opened(path) as other:
        await desk.store.open_sink("relay")
        assert await desk.store.lease_sink("relay", 0, owner="sink-1", lease=1_000.0) == ""
        assert await other.store.lease_sink("relay", 0, owner="sink-2", lease=1_000.0) is None

        await vanish(desk)

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
