"""Nothing that had a receipt is lost by a power cut, though the disk failed once before: at whichever write or sync."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.conftest import FULL
from tests.contract.suite.desk import HERE, WORKER, Desk, at, delta
from tests.patience import until
from tests.unit.lying_disk import Disk, lying_disk
from tests.unit.sqlite_files import Gate, engine, opened
from turnkeep.errors import OutcomeUnknown, StoreError
from turnkeep.store.sqlite import connection as connections
from turnkeep.store.sqlite import writer
from turnkeep.store.values import Claim, Policies, Policy

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Of some calls SQLite does not want to hear that they failed."""

AT_ONCE = Policies(Policy(window=0.0, max_wait=0.0))
ROUNDS = 3 if FULL else 2


@pytest.fixture(autouse=True)
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced now and then by the way would take a failure that is meant for another sync."""
    monkeypatch.setattr("turnkeep.store.sqlite.writer._SWEEP", 1e9)


async def done(operation: Awaitable[Any]) -> bool:
    """Whether it said that it happened."""
    try:
        await operation
    except StoreError:
        return False
    return True


async def live(desk: Desk, claim: Claim) -> list[str]:
    """Deltas, which wait for no sync, and receipts after each; the messages that had one."""
    received: list[str] = []
    published = 0
    for number in range(ROUNDS):
        for _ in range(6):
            published += await done(desk.store.publish(claim, published, [delta("x" * 400)]))
        for channel in (f"c{number}", f"d{number}"):
            if await done(desk.say("m", where=at(channel))):
                received.append(channel)
    return received


async def survives(disk: Disk, fails_at: int, tmp_path: Path) -> tuple[list[str], bool]:
    """What had a receipt, all of which is there after a power cut; and whether the disk failed at all."""
    path = tmp_path / "a.db"
    async with opened(path, AT_ONCE) as desk:
        await desk.say("m")
        [claim] = await desk.claims()
        disk.calls, disk.fails_at = 0, fails_at
        received = await live(desk, claim)
        crashed = disk.after_a_power_cut(path, tmp_path / "crash")
        has_failed, disk.fails_at = disk.has_failed, None
    async with opened(crashed, AT_ONCE) as desk:
        for channel in received:
            assert await desk.store.message(at(channel), "m") is not None, f"{channel} had a receipt and is lost"
    return received, has_failed


@pytest.fixture
def log_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every so many pages the log goes into the file, as it does now and then in a long life."""
    pages: int = request.param
    connect = connections.connect_to_write

    def connect_to_write(*arguments: Any, **options: Any) -> apsw.Connection:
        connection = connect(*arguments, **options)
        connection.wal_autocheckpoint(pages)
        return connection

    monkeypatch.setattr("turnkeep.store.sqlite.engine.connect_to_write", connect_to_write)
    return pages


@pytest.mark.slow  # a life for each call of the disk
@pytest.mark.daily(rows=2)  # each call with one of the sizes
@pytest.mark.usefixtures("log_pages")
@pytest.mark.parametrize("log_pages", [12, 1000], indirect=True)
@pytest.mark.parametrize("call", ["sync", "write"])
async def test_no_receipt_is_lost_by_a_disk_that_fails_once(
    call: str, tmp_path: Path, size: Callable[[int, int], int]
) -> None:
    """Each sync, and of writes, which are many, each or some."""
    step = 1 if call == "sync" else size(27, 1)
    tried = held = 0
    while True:
        folder = tmp_path / f"{tried}"
        folder.mkdir()
        with lying_disk(fails_in=call) as disk:
            received, has_failed = await survives(disk, tried * step, folder)
        if not has_failed:
            break
        held += len(received) >= 2 * ROUNDS - 2
        tried += 1
    assert tried >= 2 * ROUNDS
    assert held > 0


async def test_a_failed_sync_leaves_the_outcome_open_and_the_next_receipt_is_good(tmp_path: Path) -> None:
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await desk.say("m1")
            disk.fails_at = disk.calls
            with pytest.raises(OutcomeUnknown):
                await desk.say("m2")
            await desk.say("m3")
            crashed = disk.after_a_power_cut(tmp_path / "a.db", tmp_path / "crash")
        async with opened(crashed, AT_ONCE) as desk:
            assert await desk.store.message(HERE, "m3") is not None


async def behind_deltas(desk: Desk, *operations: Awaitable[Any]) -> list[Any]:
    """Do these in one group, which comes after one that waits for no sync."""
    own, gate = engine(desk).use().writer, Gate()
    async with asyncio.TaskGroup() as group:
        group.create_task(own.run(gate, "soft"))
        await until(gate.reached.is_set)
        outcomes = asyncio.gather(*operations, return_exceptions=True)
        await until(lambda: own.waiting == 1 + len(operations))
        gate.go_on.set()
    return await outcomes


async def test_a_message_and_its_claim_of_which_the_sync_failed_are_as_if_their_replies_were_lost(
    tmp_path: Path,
) -> None:
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await desk.say("m1", where=at("other"))
            await desk.claims()
            disk.fails_at = disk.calls
            message, claims = await behind_deltas(desk, desk.say("m2"), desk.claims())
            assert isinstance(message, StoreError)
            assert isinstance(claims, StoreError)

            # its owner names no claim of this thread
            await desk.store.renew(WORKER, [], lease=30.0)
            await desk.say("m2")
            [claim] = [claim for claim in await desk.claims() if claim.address == HERE]
            assert (claim.message_ids, claim.deaths) == (("m2",), 0)


async def test_while_nothing_can_be_made_good_nothing_is_received(tmp_path: Path) -> None:
    """A reader keeps the log, in which there is a hole, from being written anew."""
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await desk.say("m1")
            reader = apsw.Connection(str(tmp_path / "a.db"), flags=apsw.SQLITE_OPEN_READONLY)
            reader.execute("BEGIN; SELECT count(*) FROM thread").fetchall()
            disk.fails_at = disk.calls
            with pytest.raises(OutcomeUnknown):
                await desk.say("m2")
            with pytest.raises(StoreError, match="a sync of the disk failed"):
                await desk.say("m3")
            with pytest.raises(StoreError, match="a sync of the disk failed"):
                await desk.store.check()
            reader.close()
            await desk.say("m4")


async def test_what_nobody_can_make_good_is_not_tried_for_each_of_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def counted(connection: apsw.Connection, *, patience: float = 0.02) -> bool:
        tries.append(patience)
        return connections.empty_log(connection, patience=patience)

    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await desk.say("m1")
            reader = apsw.Connection(str(tmp_path / "a.db"), flags=apsw.SQLITE_OPEN_READONLY)
            reader.execute("BEGIN; SELECT count(*) FROM thread").fetchall()
            disk.fails_at = disk.calls
            with pytest.raises(OutcomeUnknown):
                await desk.say("m2")
            monkeypatch.setattr(writer, "empty_log", counted)
            monkeypatch.setattr(writer, "HOLE_PATIENCE", 0.05)
            assert not any(await asyncio.gather(*[done(desk.say(f"n{number}")) for number in range(50)]))
            reader.close()

    assert len(tries) < 10


def killed(disk: Disk, path: Path, copy: Path) -> Path:
    """The store as the next process finds it: the files as the kernel shows them, on the disk what was there."""
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        disk.images[f"{copy}{suffix}"], disk.unsynced[f"{copy}{suffix}"] = disk.images[f"{path}{suffix}"][:], []
    return copy


async def killed_behind_a_failed_sync(disk: Disk, folder: Path) -> Path:
    async with opened(folder / "a.db", AT_ONCE) as desk:
        await desk.say("m1")
        [claim] = await desk.claims()
        for number in range(20):
            await desk.store.publish(claim, number, [delta("x" * 400)])
        disk.fails_at = disk.calls
        with pytest.raises(OutcomeUnknown):
            await desk.say("m2", where=at("c2"))
        return killed(disk, folder / "a.db", folder / "b.db")


async def test_a_process_that_was_killed_behind_a_failed_sync_leaves_no_hole_to_the_next(tmp_path: Path) -> None:
    with lying_disk() as disk:
        path = await killed_behind_a_failed_sync(disk, tmp_path)
        async with opened(path, AT_ONCE) as desk:
            await desk.say("m3", where=at("c3"))
            crashed = disk.after_a_power_cut(path, tmp_path / "crash")
        async with opened(crashed, AT_ONCE) as desk:
            assert await desk.store.message(at("c3"), "m3") is not None


async def test_the_next_process_does_not_begin_while_a_reader_keeps_the_hole(tmp_path: Path) -> None:
    with lying_disk() as disk:
        path = await killed_behind_a_failed_sync(disk, tmp_path)
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN; SELECT count(*) FROM thread").fetchall()
        for _ in range(2):
            with pytest.raises(StoreError, match="written anew"):
                async with opened(path, AT_ONCE):
                    pass
        reader.close()
        async with opened(path, AT_ONCE) as desk:
            await desk.say("m3", where=at("c3"))
