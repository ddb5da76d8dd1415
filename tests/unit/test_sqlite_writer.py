"""Group commit: all operations that wait become one transaction, and each of them succeeds or fails by itself."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.contract.suite.desk import HERE, Desk, answer, at, delta, said
from tests.patience import PATIENCE, until
from tests.unit.sqlite_files import Gate, connection_of, engine, opened, together, traced
from turnkeep.errors import Rejection, StoreError, StoreFull, StoreUnavailable
from turnkeep.store.sqlite import reader, writer
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View
from turnkeep.store.sqlite.waiters import News, Wakeups
from turnkeep.store.values import Claim, Policies, Policy
from turnkeep.testing import FakeClock


def commits(statements: list[str]) -> int:
    return statements.count("COMMIT")


# ---------------------------------------------------------------- groups


async def test_operations_that_wait_become_one_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        with traced(desk) as statements:
            receipts = await together(desk, *[desk.say(f"m{n}", where=at(f"c{n}")) for n in range(100)])

        assert len({receipt.thread_id for receipt in receipts}) == 100
        assert commits(statements) <= 3  # the gate, the hundred, perhaps a sweep
        assert (await desk.store.counts()).open_messages == 100


async def test_messages_of_many_threads_are_accepted_in_one_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        with traced(desk) as statements:
            outcomes = await desk.store.accept([said(f"m{n}", where=at(f"c{n % 10}")) for n in range(40)])

        assert [outcome.message_id for outcome in outcomes] == [f"m{n}" for n in range(40)]  # type: ignore[union-attr]
        assert commits(statements) <= 3


async def test_an_operation_that_breaks_after_it_wrote_is_taken_back_alone(tmp_path: Path) -> None:
    def breaks(tx: Transaction) -> None:
        kept = tx.find_or_new(at("broken"))
        tx.save(kept)
        raise RuntimeError("this one breaks")

    async with opened(tmp_path / "a.db") as desk:
        first, error, last = await together(
            desk, desk.say("m1", where=at("first")), engine(desk).write(breaks), desk.say("m2", where=at("last"))
        )

        assert isinstance(error, RuntimeError)
        assert (first.message_id, last.message_id) == ("m1", "m2")
        assert await desk.store.thread(at("broken")) is None
        assert await desk.waiting_ids(at("first")) == ["m1"]
        assert await desk.waiting_ids(at("last")) == ["m2"]


async def test_what_a_refused_operation_changed_in_memory_is_forgotten(tmp_path: Path) -> None:
    def breaks(tx: Transaction) -> None:
        kept = tx.get(HERE)
        kept.thread.metadata["colour"] = "red"
        kept.thread.top = 99
        raise ValueError("no")

    async with opened(tmp_path / "a.db") as desk:
        await desk.say("m1")

        with pytest.raises(ValueError, match="no"):
            await engine(desk).write(breaks)

        await desk.say("m2")
        assert (await desk.thread()).metadata == {}
        assert [event.offset for event in await desk.events()] == [1, 2]


async def test_a_transaction_that_fails_is_tried_again_one_by_one(tmp_path: Path) -> None:
    def damages(tx: Transaction) -> None:
        tx.save(tx.find_or_new(at("damaged")))
        tx.connection.execute("SELECT * FROM no_such_table")

    async with opened(tmp_path / "a.db") as desk:
        first, error, last = await together(
            desk, desk.say("m1", where=at("first")), engine(desk).write(damages), desk.say("m2", where=at("last"))
        )

        assert isinstance(error, StoreError)
        assert "no such table" in str(error)
        assert (first.message_id, last.message_id) == ("m1", "m2")
        assert await desk.store.thread(at("damaged")) is None
        assert (await desk.store.counts()).open_messages == 2


async def test_an_operation_given_up_before_its_turn_is_not_done(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        gate = Gate()
        async with asyncio.TaskGroup() as group:
            group.create_task(engine(desk).use().writer.run(gate))
            await until(gate.reached.is_set)
            given_up = group.create_task(desk.say("m1"))
            await asyncio.sleep(0.01)
            given_up.cancel()
            await asyncio.sleep(0.01)
            gate.go_on.set()

        await desk.say("m2")
        assert await desk.waiting_ids() == ["m2"]


async def test_who_comes_while_a_group_is_performed_goes_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        own, gate = engine(desk).use().writer, Gate()
        with traced(desk) as statements:
            async with asyncio.TaskGroup() as group:
                group.create_task(own.run(gate))
                await until(gate.reached.is_set)
                group.create_task(desk.say("m1"))
                await until(lambda: own.waiting == 2)
                gate.go_on.set()

        assert commits(statements) == 1


async def test_nobody_who_needs_a_sync_goes_with_a_group_that_has_none(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        own, gate = engine(desk).use().writer, Gate()
        with traced(desk) as statements:
            async with asyncio.TaskGroup() as group:
                group.create_task(own.run(gate, "soft"))
                await until(gate.reached.is_set)
                group.create_task(desk.say("m1"))
                await until(lambda: own.waiting == 2)
                gate.go_on.set()

        assert [s for s in statements if s == "COMMIT" or s.startswith("PRAGMA synchronous")] == [
            "PRAGMA synchronous = normal",
            "COMMIT",
            "PRAGMA synchronous = full",
            "COMMIT",
        ]


async def test_a_worker_that_waits_claims_a_message_in_the_transaction_that_accepts_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        own, gate = engine(desk).use().writer, Gate()

        async def work() -> list[Claim]:
            await desk.store.ready(queues=None, timeout=60.0)
            return await desk.claims()

        async with asyncio.TaskGroup() as group:
            working = group.create_task(work())
            await until(lambda: engine(desk).use().wakeups.is_awaited)
            with traced(desk) as statements:
                group.create_task(own.run(gate))
                await until(gate.reached.is_set)
                saying = group.create_task(desk.say("m1", window=0.0))
                # the claim is asked for while nothing is stored yet
                await until(lambda: own.waiting == 3)
                gate.go_on.set()
                [claim] = await working
                receipt = await saying

        assert (receipt.message_id, receipt.due_in) == ("m1", 0.0)
        assert claim.message_ids == ("m1",)
        assert commits(statements) == 1


@pytest.mark.parametrize("state", ["leased", "retry", "held", "paused", "repeated", "full"])
async def test_no_worker_is_told_of_a_message_with_which_nothing_is_due(tmp_path: Path, state: str) -> None:
    async with opened(tmp_path / "a.db", Policies(Policy(window=60.0, max_wait=60.0, max_inbox=1))) as desk:
        if state in ("leased", "retry", "held"):
            await desk.bring(state)
        else:
            await desk.say("old")
        if state == "paused":
            await desk.store.pause(HERE)
        waiting = asyncio.create_task(desk.store.ready(queues=None, timeout=600.0))
        await until(lambda: engine(desk).use().wakeups.is_awaited)
        with suppress(Rejection):
            await desk.say("old" if state == "repeated" else "new", window=0.0)
        # whoever was told is awake by the end of the next operation
        await desk.store.counts()

        assert not waiting.done()
        waiting.cancel()


async def test_who_rests_looks_at_the_file_again_after_news_alone() -> None:
    clock, looks = FakeClock(), list[float]()
    wakeups = Wakeups(clock)

    async def look() -> float:
        looks.append(clock.now())
        return clock.now() + 60.0

    async def rest(queues: list[str] | None) -> int:
        assert not await wakeups.ready(queues, 0.0, look)
        return len(looks)

    assert [await rest(None) for _ in range(3)] == [1, 1, 1]
    wakeups.tell(News())
    assert [await rest(None) for _ in range(3)] == [2, 2, 2]
    assert [await rest(["q"]), await rest(["q"]), await rest(None)] == [3, 3, 4]
    clock.advance(60.0)
    assert await wakeups.ready(None, 0.1, look), "what was seen then is due now"


@pytest.mark.parametrize("by_others", [False, True])
async def test_who_has_rested_hears_of_what_is_written(tmp_path: Path, by_others: bool) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk, opened(path) as other:
        for _ in range(3):
            assert not await desk.store.ready(queues=["q"], timeout=0.0)

        await (other if by_others else desk).say("m1", flush=True)

        await until(lambda: desk.store.ready(queues=["q"], timeout=0.1))


async def test_who_has_claimed_less_than_he_asked_for_waits_without_a_look_at_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        looks: list[str] = []

        def note(cursor: apsw.Cursor, statement: str, bindings: Any) -> bool:
            looks.append(statement)
            return True

        for view in engine(desk).use().views:
            view.connection.exec_trace = note
        await desk.say("m", where=at("later"), window=2.0)
        await desk.say("m", where=at("now"), window=0.0)
        assert len(await desk.claims(limit=5)) == 1
        waiting = asyncio.create_task(desk.store.ready(queues=None, timeout=600.0))
        await until(lambda: engine(desk).use().wakeups.is_awaited)
        await desk.wait(2.0)
        async with asyncio.timeout(PATIENCE):
            assert await waiting
        assert len(await desk.claims(limit=5)) == 1
    assert not [statement for statement in looks if "FROM thread" in statement]


@pytest.mark.parametrize("by_others", [False, True])
async def test_what_comes_between_a_claim_and_the_wait_for_more_is_heard(tmp_path: Path, by_others: bool) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk, opened(path) as other:
        assert await desk.claims(limit=5) == []
        await (other if by_others else desk).say("m", window=0.0)
        async with asyncio.timeout(PATIENCE):
            assert await desk.store.ready(queues=None, timeout=600.0)
        assert len(await desk.claims(limit=5)) == 1


# ---------------------------------------------------------------- how durable


async def test_a_group_of_deltas_does_not_wait_for_the_disk_and_any_other_does(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        claim = await desk.lease("m1")
        with traced(desk) as statements:
            await desk.store.publish(claim, 0, [delta("a")])
            await desk.store.pace("key", requests=10, tokens=0, tokens_wanted=0)
            await desk.say("m2")
            await together(desk, desk.store.publish(claim, 1, [delta("b")]), desk.say("m3"))
            await desk.store.publish(claim, 2, [delta("c")])

    told = [s for s in statements if s.startswith("PRAGMA synchronous")]
    assert told == ["PRAGMA synchronous = normal", "PRAGMA synchronous = full", "PRAGMA synchronous = normal"]


async def test_a_delta_writes_its_event_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        claim = await desk.lease("m1")
        with traced(desk) as statements:
            await desk.store.publish(claim, 0, [delta("a")])

    written = [s.split()[2] for s in statements if s.startswith("INSERT")]
    assert written == ["event"]
    assert not [s for s in statements if s.startswith("UPDATE")]


async def test_offsets_and_counters_of_deltas_survive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        claim = await desk.lease("m1")
        top = await desk.store.publish(claim, 0, [delta("a"), delta("b")])

        async with opened(path) as other:
            assert (await other.thread()).top == top
            assert await other.store.publish(claim, 0, [delta("a"), delta("b"), delta("c")]) == top + 1
        assert await desk.store.publish(claim, 3, [delta("d")]) == top + 2
        assert [e.text for e in await desk.events() if e.kind == "delta"] == ["a", "b", "c", "d"]


# ---------------------------------------------------------------- bounds


async def test_who_comes_when_too_much_waits_waits_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CAPACITY", 3)
    async with opened(tmp_path / "a.db") as desk:
        gate = Gate()
        async with asyncio.TaskGroup() as group:
            group.create_task(engine(desk).use().writer.run(gate))
            await until(gate.reached.is_set)
            said_all = [group.create_task(desk.say(f"m{n}")) for n in range(10)]
            await asyncio.sleep(0.05)
            assert engine(desk).use().writer.waiting == 3
            gate.go_on.set()

        assert len([task.result() for task in said_all]) == 10
        assert len(await desk.waiting_ids()) == 10


async def test_who_waits_outside_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CAPACITY", 1)
    monkeypatch.setattr(writer, "PATIENCE", 0.01)
    async with opened(tmp_path / "a.db") as desk:
        gate = Gate()
        async with asyncio.TaskGroup() as group:
            group.create_task(engine(desk).use().writer.run(gate))
            await until(gate.reached.is_set)
            with pytest.raises(StoreUnavailable, match="operations wait for the store"):
                await desk.say("m1")
            gate.go_on.set()

        await desk.say("m1")


async def test_who_gave_up_waiting_outside_takes_nobodys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CAPACITY", 1)
    async with opened(tmp_path / "a.db") as desk:
        gate = Gate()
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(engine(desk).use().writer.run(gate))
            await until(gate.reached.is_set)
            outside = [group.create_task(desk.say(f"m{n}")) for n in range(3)]
            await asyncio.sleep(0.01)
            outside[0].cancel()
            await asyncio.sleep(0.01)
            gate.go_on.set()

        assert await desk.waiting_ids() == ["m1", "m2"]


async def test_looks_have_a_bound_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on = threading.Semaphore(0), threading.Event()

    def blocks(view: View) -> None:
        reached.release()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(reader, "CAPACITY", 2)
    async with opened(tmp_path / "a.db") as desk, asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(engine(desk).read_from(blocks))
        await asyncio.sleep(0.01)
        with pytest.raises(StoreUnavailable, match="looks wait for the store"):
            await desk.store.thread(HERE)
        go_on.set()


async def test_a_long_look_keeps_nobody_from_writing_or_reading(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def blocks(view: View) -> int:
        reached.set()
        assert go_on.wait(PATIENCE)
        count: int = view.connection.execute("SELECT count(*) FROM thread").get
        return count

    async with opened(tmp_path / "a.db") as desk, asyncio.TaskGroup() as group:
        look = group.create_task(engine(desk).read_from(blocks))
        await until(reached.is_set)
        await desk.say("m1")
        assert await desk.waiting_ids() == ["m1"]
        go_on.set()
        assert await look == 1  # its snapshot begins with its first statement


# ---------------------------------------------------------------- a full disk


@contextmanager
def full(desk: Desk, room: int = 0) -> Iterator[None]:
    """A file that cannot grow by more than so many pages."""
    connection = connection_of(desk)
    pages: int = connection.pragma("page_count")
    connection.pragma("max_page_count", pages + room)
    yield
    connection.pragma("max_page_count", 1 << 30)


LONG = "x" * 50_000


async def test_a_full_disk_is_told_and_nothing_of_the_message_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", ballast=100_000) as desk:
        await desk.say("m1")
        with full(desk):
            with pytest.raises(StoreFull, match=r"the disk of .* is full"):
                await desk.say("m2", LONG)
            assert await desk.waiting_ids() == ["m1"]


async def test_on_a_full_disk_the_ballast_goes_first_and_new_messages_are_refused(tmp_path: Path) -> None:
    ballast = tmp_path / "a.db.owners" / "ballast"
    async with opened(tmp_path / "a.db", ballast=100_000) as desk:
        claim = await desk.lease("m1")
        assert ballast.exists()
        with full(desk):
            with pytest.raises(StoreFull):
                await desk.say("m2", LONG)
            assert not ballast.exists()
            with pytest.raises(StoreFull):
                await desk.say("m3")
            with pytest.raises(StoreFull):
                await desk.store.check()
            await desk.store.publish(claim, 0, [delta("a")])
            await desk.store.renew(claim.owner, [claim], lease=30.0)
            await desk.store.commit(claim, answer(claim))
        assert await desk.status("m1") == "answered"


async def test_when_there_is_room_again_messages_are_taken_again(tmp_path: Path) -> None:
    ballast = tmp_path / "a.db.owners" / "ballast"
    async with opened(tmp_path / "a.db", ballast=100_000) as desk:
        with full(desk), pytest.raises(StoreFull):
            await desk.say("m1", LONG)

        await until(ballast.exists)

        await until_taken(desk)
        await desk.store.check()


async def test_on_a_full_disk_deleting_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that are freed stay in the file: the disk itself has no more room than before."""

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with opened(tmp_path / "a.db", ballast=100_000) as desk:
        for number in range(6):
            await desk.say("m", LONG, where=at(f"c{number}"))
        monkeypatch.setattr(os, "posix_fallocate", no_room)
        with full(desk), pytest.raises(StoreFull):
            await desk.say("m1", 4 * LONG)
        with pytest.raises(StoreFull, match="forget threads"):
            await desk.say("m1")
        for number in range(6):
            await desk.store.forget(at(f"c{number}"), force=True)

        await until_taken(desk)


async def test_a_log_that_somebody_keeps_from_shrinking_is_told_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LOG_LIMIT", 100_000)
    monkeypatch.setattr(writer, "MOST_LOG", 400_000)
    async with opened(tmp_path / "a.db") as desk:
        claim = await desk.lease("m1")
        foreign = apsw.Connection(str(tmp_path / "a.db"), flags=apsw.SQLITE_OPEN_READONLY)
        foreign.execute("BEGIN; SELECT count(*) FROM thread").fetchall()
        for number in range(12):
            await desk.store.publish(claim, number, [delta(LONG)])
        await until(lambda: engine(desk).use().writer.log_bytes > 400_000)

        with pytest.raises(StoreUnavailable, match="another program keeps reading an old state"):
            await desk.say("m2")
        await desk.commit(claim)

        foreign.close()
        await until(lambda: engine(desk).use().writer.log_bytes < 100_000)
        assert (await desk.store.check())["log_bytes"] < 100_000
        await desk.say("m2")


async def until_taken(desk: Desk) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await desk.say("m1", LONG)
            except StoreFull:
                await asyncio.sleep(0.01)
            else:
                return


async def test_what_comes_after_the_end_is_refused_and_what_waited_is_done(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        own = engine(desk).use().writer
        waiting = asyncio.create_task(desk.say("m1"))
        await asyncio.sleep(0)
        await own.stop()

        async with asyncio.timeout(PATIENCE):
            assert (await waiting).message_id == "m1"
            with pytest.raises(StoreUnavailable, match="the store is closed"):
                await own.run(lambda tx: None)
            with pytest.raises(StoreUnavailable, match="the store is closed"):
                await own.run_each(lambda tx: None, [()])


async def test_looks_that_fail_are_told_in_the_log_and_not_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "a.db") as desk:
        looks: list[None] = []

        def fail() -> bool:
            looks.append(None)
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(engine(desk).use().writer._others, "may_have_written", fail)
        began = time.monotonic()
        await until(lambda: len(looks) > 2)
        assert time.monotonic() - began > 0.3, "it does nothing but look"
        assert (await desk.say("m1")).message_id == "m1"

    assert len([record for record in caplog.records if "store_look_failed" in record.getMessage()]) == 1


async def test_news_that_could_not_be_read_are_read_with_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, at_once = tmp_path / "a.db", Policies(Policy(window=0.0))
    async with opened(path, at_once) as desk, opened(path, at_once) as other:
        others = engine(other).use().writer._others
        news, failures = others.news, list[None]()

        def fail_once() -> News:
            if failures:
                return news()
            failures.append(None)
            raise apsw.BusyError("for a moment")

        waiting = asyncio.create_task(other.store.ready(queues=None, timeout=1_000.0))
        await until(lambda: others._wakeups.is_awaited)
        monkeypatch.setattr(others, "news", fail_once)
        await desk.say("m1")

        async with asyncio.timeout(PATIENCE):
            await waiting
        assert failures
