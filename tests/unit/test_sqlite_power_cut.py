"""A power cut at any point of a life on SQLite: what was promised until then holds in the next one.

A claim waits for no sync, so it may be lost; whatever somebody outside relies on is synced with all before it.
"""

from __future__ import annotations

import asyncio
import copy
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.contract.suite.desk import CALL, HERE, LEASE, Desk, at, delta, retry
from tests.patience import PATIENCE, until
from tests.unit.lying_disk import Change, Choice, Disk, lying_disk
from tests.unit.sqlite_files import Gate, connection_of, engine, opened, traced
from turnkeep.errors import OutcomeUnknown, StoreFull
from turnkeep.events import Event
from turnkeep.store.sinks import EVERYTHING
from turnkeep.store.sqlite import layout
from turnkeep.store.sqlite.operation_queue import WriteKind
from turnkeep.store.values import Claim, Decision, Policies, Policy

AT_ONCE = Policies(Policy(window=0.0, max_wait=0.0))


@pytest.fixture(autouse=True)
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Says which run of the machine this is."""
    path = tmp_path / "boot_id"
    path.write_text("first")
    monkeypatch.setattr(layout, "_BOOT_ID", path)
    return path


def start_again(boot: Path, name: str) -> None:
    boot.write_text(name)


@pytest.fixture
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is synced by the way."""
    monkeypatch.setattr("turnkeep.store.sqlite.writer._SWEEP", 1e9)


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others do is seen with the next group, and not before."""
    for name in ("_LIVE", "_IDLE", "_ALONE"):
        monkeypatch.setattr(f"turnkeep.store.sqlite.writer.{name}", 1e6)


# ---------------------------------------------------------------- at every point of a life


@dataclass
class Promises:
    """What somebody outside knows, and what has to be true of it in the next life."""

    received: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    shown: dict[tuple[str, int], Event] = field(default_factory=dict)
    """Events by epoch and offset."""
    run_id: str | None = None
    """Of the run in progress, once something was done in it that cannot be taken back."""
    journal_length: int = 0
    attempts: int = 0


@dataclass(frozen=True)
class Moment:
    disk: Disk
    promises: Promises


class Life:
    """One message after another, by every way in which a claim begins and ends. Yields where a caller was answered."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.promises = desk, Promises()

    async def steps(self) -> AsyncIterator[None]:
        for ending in (self._answered, self._failed_and_answered, self._held_and_answered):
            async for _ in ending(await self._received()):
                await self._show()
                yield
        async for _ in self._awaited_and_answered():
            await self._show()
            yield

    async def _received(self) -> str:
        await self.desk.wait(1.0)
        message_id = f"m{len(self.promises.received)}"
        await self.desk.say(message_id)
        self.promises.received.append(message_id)
        return message_id

    async def _show(self) -> None:
        page = await self.desk.store.read(HERE)
        self.promises.shown |= {(page.epoch, event.offset): event for event in page.events}

    async def _awaited_and_answered(self) -> AsyncIterator[None]:
        """Its run begins before the disk has the message."""
        async with asyncio.TaskGroup() as group:
            working = group.create_task(claim_when_ready(self.desk))
            await until(lambda: engine(self.desk).use().wakeups.is_awaited)
            message_id = await self._received()
        async for _ in self._run(message_id, working.result()):
            yield

    async def _answered(self, message_id: str) -> AsyncIterator[None]:
        yield
        async for _ in self._run(message_id, await self.desk.claim()):
            yield

    async def _run(self, message_id: str, claim: Claim) -> AsyncIterator[None]:
        yield
        for number in range(3):
            await self.desk.store.publish(claim, number, [delta(f"{message_id} {number}")])
            yield
        await self.desk.store.journal(claim, [{"n": len(claim.journal), "kind": "step"}])
        self.promises.run_id, self.promises.journal_length = claim.run_id, len(claim.journal) + 1
        yield
        await self.desk.commit(claim)
        self.promises.answered.append(message_id)
        self.promises.run_id, self.promises.journal_length, self.promises.attempts = None, 0, 0
        yield

    async def _failed_and_answered(self, message_id: str) -> AsyncIterator[None]:
        await self.desk.store.fail(await self.desk.claim(), retry(0.0))
        self.promises.attempts = 1
        async for _ in self._answered(message_id):
            yield

    async def _held_and_answered(self, message_id: str) -> AsyncIterator[None]:
        claim = await self.desk.claim()
        await self.desk.store.hold(claim, [CALL], expires_in=86_400.0)
        self.promises.run_id = claim.run_id
        yield
        await self.desk.store.decide(HERE, CALL.call_id, CALL.digest, Decision("approved"))
        async for _ in self._answered(message_id):
            yield


async def claim_when_ready(desk: Desk) -> Claim:
    await desk.store.ready(queues=None, timeout=600.0)
    return await desk.claim()


async def moments_of_a_life(path: Path) -> list[Moment]:
    """Before every sync, and after every answer."""
    moments: list[Moment] = []
    with lying_disk() as disk:
        async with opened(path, AT_ONCE) as desk:
            life = Life(desk)

            def note() -> None:
                moments.append(Moment(disk.as_it_is(), copy.deepcopy(life.promises)))

            disk.before_sync = note
            async for _ in life.steps():
                note()
            disk.before_sync = bool
    return moments


async def keeps_its_promises(path: Path, promises: Promises) -> None:
    async with opened(path, AT_ONCE) as desk:
        await desk.wait(600.0)  # later than anything that was stored, as the next life is
        for message_id in promises.received:
            record = await desk.store.message(HERE, message_id)
            assert record is not None, f"{message_id} had a receipt"
            assert (record.status == "answered") >= (message_id in promises.answered)
        answers = await answer_all(desk, promises)
        assert len(answers) == len(set(answers)), "answered twice"
        # an end that was stored and not told may be in both
        assert not set(answers) & set(promises.answered)
        page = await desk.store.read(HERE)
        now = {(page.epoch, event.offset): event for event in page.events}
        assert all(promises.shown[place] == now[place] for place in promises.shown.keys() & now.keys())
        for message_id in promises.received:
            record = await desk.store.message(HERE, message_id)
            assert record is not None
            assert record.status == "answered"


async def answer_all(desk: Desk, promises: Promises) -> list[str]:
    """End what is left to be done; the messages that this answers."""
    answers: list[str] = []
    record = await desk.store.thread(HERE)
    if record is not None and record.state == "held" and record.calls[0].decision is None:
        await desk.store.decide(HERE, CALL.call_id, CALL.digest, Decision("approved"))
    while claims := await desk.claims():
        [claim] = claims
        if promises.run_id is not None and not answers:
            assert claim.run_id == promises.run_id
            assert len(claim.journal) >= promises.journal_length
        if not answers:
            assert claim.attempts >= promises.attempts
        answers += [message.message_id for message in claim.messages]
        await desk.commit(claim)
    return answers


def none_of(changes: Sequence[Change]) -> Sequence[Change]:
    return ()


def all_of(changes: Sequence[Change]) -> Sequence[Change]:
    return changes


def some_of(seed: int) -> Choice:
    """As a system writes pages: in no order that anybody knows."""
    chance = random.Random(seed)
    return lambda changes: [change for change in changes if chance.random() < 0.6]


CHOICES = (none_of, some_of(1), all_of, some_of(2))


@pytest.mark.slow  # a life for each point
@pytest.mark.usefixtures("no_sweep")  # each sync is asked for by a step of this life
async def test_a_power_cut_at_any_point_of_a_life_breaks_no_promise(
    tmp_path: Path, boot: Path, size: Callable[[int, int], int]
) -> None:
    moments = await moments_of_a_life(tmp_path / "a.db")
    start_again(boot, "second")

    for number, moment in enumerate(moments):
        for choice in range(size(1, len(CHOICES))):
            written = CHOICES[(number + choice) % len(CHOICES)]
            folder = tmp_path / f"cut-{number}-{choice}"
            await keeps_its_promises(moment.disk.after_a_power_cut(tmp_path / "a.db", folder, written), moment.promises)
    assert len(moments) > 25


# ---------------------------------------------------------------- what a claim waits for


@pytest.mark.usefixtures("no_sweep")
async def test_a_claim_waits_for_no_sync_and_the_next_state_takes_it_along(tmp_path: Path) -> None:
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await desk.wait(1.0)
            await desk.say("m1")
            syncs = disk.calls
            claim = await desk.claim()
            assert disk.calls == syncs
            await desk.store.journal(claim, [{"n": 0, "kind": "step"}])
            assert disk.calls > syncs
            crashed = disk.after_a_power_cut(tmp_path / "a.db", tmp_path / "crash")
        async with opened(crashed, AT_ONCE) as desk:
            await desk.wait(LEASE + 2.0)
            assert (await desk.claim()).run_id == claim.run_id


@pytest.mark.usefixtures("no_sweep")
async def test_a_worker_that_waits_has_its_claim_before_the_disk_has_the_message(tmp_path: Path) -> None:
    has_begun = threading.Event()
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk, asyncio.TaskGroup() as group:
            await desk.store.pause(at("elsewhere"))  # a log that begins is synced in any case
            await desk.wait(1.0)
            own, gate = engine(desk).use().writer, Gate()
            working = group.create_task(claim_when_ready(desk))
            await until(lambda: engine(desk).use().wakeups.is_awaited)
            group.create_task(own.run(gate, "urgent"))
            await until(gate.reached.is_set)
            saying = group.create_task(desk.say("m1"))
            await until(lambda: own.waiting == 3)
            disk.before_sync = lambda: has_begun.wait(PATIENCE)
            gate.go_on.set()
            async with asyncio.timeout(PATIENCE / 2):
                claim = await working
            assert claim.message_ids == ("m1",)
            assert not saying.done(), "a receipt, and the disk has nothing"
            crashed = disk.after_a_power_cut(tmp_path / "a.db", tmp_path / "crash")
            has_begun.set()
            await saying
            disk.before_sync = bool
        async with opened(crashed, AT_ONCE) as desk:
            assert (await desk.say("m1")).repeated is False
            await desk.wait(1.0)
            assert (await desk.claim()).deaths == 0


@pytest.mark.usefixtures("no_sweep")
async def test_a_receipt_of_what_another_process_has_not_synced_yet_waits_for_a_sync_too(tmp_path: Path) -> None:
    path, is_committed, go_on = tmp_path / "a.db", threading.Event(), threading.Event()

    def stop_before_its_sync(cursor: apsw.Cursor, statement: str, bindings: Any) -> bool:
        if "'synced'" in statement:
            is_committed.set()
            assert go_on.wait(PATIENCE)
        return True

    with lying_disk() as disk:
        async with opened(path, AT_ONCE) as desk, opened(path, AT_ONCE) as other, asyncio.TaskGroup() as group:
            await desk.wait(1.0)
            group.create_task(claim_when_ready(desk))
            await until(lambda: engine(desk).use().wakeups.is_awaited)
            connection_of(desk).exec_trace = stop_before_its_sync
            group.create_task(desk.say("m1"))
            await until(is_committed.is_set)
            assert (await other.say("m1")).repeated
            crashed = disk.after_a_power_cut(path, tmp_path / "crash")
            connection_of(desk).exec_trace = None
            go_on.set()
        async with opened(crashed, AT_ONCE) as desk:
            assert await desk.store.message(HERE, "m1") is not None


KINDS: tuple[WriteKind, ...] = ("urgent", "ending", "urgent")


@pytest.mark.usefixtures("no_sweep")
async def test_what_ends_a_run_is_not_in_the_file_before_it_is_on_the_disk(tmp_path: Path) -> None:
    order: list[int] = []
    with lying_disk():
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            own, gate = engine(desk).use().writer, Gate()
            with traced(desk) as statements:
                async with asyncio.TaskGroup() as group:
                    group.create_task(own.run(gate, "urgent"))
                    await until(gate.reached.is_set)
                    for number, kind in enumerate(KINDS):
                        group.create_task(own.run_each(lambda tx, said: order.append(said), [(number,)], kind))
                        await asyncio.sleep(0)
                    await until(lambda: own.waiting == 1 + len(KINDS))
                    gate.go_on.set()

    assert order == [0, 1, 2]
    assert [s for s in statements if s == "COMMIT" or s.startswith("PRAGMA synchronous")] == [
        "PRAGMA synchronous = normal",
        "COMMIT",
        "PRAGMA synchronous = full",
        "COMMIT",
    ]


async def from_an_earlier_life(desk: Desk) -> None:
    # arrived in the moment in which this life began
    await desk.say("m1")


async def from_a_retry(desk: Desk) -> None:
    await desk.wait(1.0)
    await desk.store.fail(await desk.lease("m1"), retry(0.0))


async def from_a_dead_owner(desk: Desk) -> None:
    await desk.wait(1.0)
    await desk.lease("m1")
    await desk.wait(LEASE + 1.0)


async def from_a_call_that_nobody_decided(desk: Desk) -> None:
    await desk.wait(1.0)
    await desk.store.hold(await desk.lease("m1"), [CALL], expires_in=10.0)
    await desk.wait(11.0)


async def beside_a_receiver_outside(desk: Desk) -> None:
    await desk.wait(1.0)
    await desk.store.open_sink("relay")
    await desk.say("m1")


@pytest.mark.usefixtures("no_sweep")
@pytest.mark.parametrize(
    "begin",
    [
        from_an_earlier_life,
        from_a_retry,
        from_a_dead_owner,
        from_a_call_that_nobody_decided,
        beside_a_receiver_outside,
    ],
)
async def test_a_claim_that_says_more_than_that_it_was_made_outlives_the_machine(
    tmp_path: Path, begin: Callable[[Desk], Awaitable[None]]
) -> None:
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await begin(desk)
            claim = await desk.claim()
            crashed = disk.after_a_power_cut(tmp_path / "a.db", tmp_path / "crash")
        async with opened(crashed, AT_ONCE) as desk:
            record = await desk.thread()
            assert (record.state, record.run_id) == ("leased", claim.run_id)


@pytest.mark.usefixtures("no_sweep")
async def test_a_delta_for_a_receiver_outside_outlives_the_machine(tmp_path: Path) -> None:
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await desk.store.open_sink("relay")
            await desk.store.open_sink("ends", replace(EVERYTHING, finals=True))
            claim = await desk.lease("m1")
            await desk.store.publish(claim, 0, [delta("x")])
            crashed = disk.after_a_power_cut(tmp_path / "a.db", tmp_path / "crash")
        async with opened(crashed, AT_ONCE) as desk:
            waiting = await desk.store.deliveries("relay", 0, after="", limit=10)
            assert [one.event.kind for one in waiting] == ["accepted", "started", "delta"]


@pytest.mark.usefixtures("no_sweep")
async def test_a_receiver_outside_finds_nothing_that_the_disk_has_not(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    early: set[str] = set()
    with lying_disk() as disk:
        async with opened(path, AT_ONCE) as desk:
            await desk.wait(1.0)
            await desk.store.open_sink("relay")
            await desk.say("m1")

            def look() -> None:
                with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as other:
                    early.update(kind for (kind,) in other.execute("SELECT kind FROM outbox"))

            disk.before_sync = look
            claim = await desk.claim()
            assert early == {"accepted"}
            await desk.store.publish(claim, 0, [delta("x")])
            assert early == {"accepted", "started"}
            disk.before_sync = bool


@pytest.mark.usefixtures("no_sweep", "no_look")
@pytest.mark.parametrize(
    ("call", "error", "number"),
    [*(("sync", apsw.IOError, n) for n in range(2)), *(("write", apsw.FullError, n) for n in range(12))],
)
async def test_after_a_sync_that_failed_nobody_is_answered_before_another_one(
    tmp_path: Path, call: str, error: type[apsw.Error], number: int
) -> None:
    path = tmp_path / "a.db"
    with lying_disk(fails_in=call, error=error) as disk:
        async with opened(path, AT_ONCE) as desk, opened(path, AT_ONCE) as other:
            claim = await desk.lease("m1")
            await other.store.open_sink("relay")  # the first does not know of it yet
            disk.fails_at = disk.calls + number
            while True:
                try:
                    await desk.store.publish(claim, 0, [delta("x")])
                except (OutcomeUnknown, StoreFull):
                    continue
                break
            disk.fails_at = None
            crashed = disk.after_a_power_cut(path, tmp_path / "crash")
        async with opened(crashed, AT_ONCE) as desk:
            waiting = await desk.store.deliveries("relay", 0, after="", limit=10)
            assert [one.event.kind for one in waiting] == ["delta"]


@pytest.mark.usefixtures("no_sweep")
async def test_who_closes_leaves_nothing_to_others_that_the_disk_has_not(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with lying_disk() as disk:
        async with opened(path, AT_ONCE):
            async with opened(path, AT_ONCE) as desk:
                await desk.wait(1.0)
                await desk.say("m1")
                await desk.store.publish(await desk.claim(), 0, [delta("x")])
                assert disk.unsynced[f"{path}-wal"]
            crashed = disk.after_a_power_cut(path, tmp_path / "crash")
        async with opened(crashed, AT_ONCE) as desk:
            events = (await desk.store.read(HERE)).events
            assert [event.kind for event in events][:3] == ["accepted", "started", "delta"]


async def test_within_a_second_the_disk_has_what_nobody_waited_for(tmp_path: Path) -> None:
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await desk.wait(1.0)
            await desk.say("m1")
            claim = await desk.claim()
            await desk.store.publish(claim, 0, [delta("x")])
            await until(lambda: not disk.unsynced[f"{tmp_path / 'a.db'}-wal"])
            crashed = disk.after_a_power_cut(tmp_path / "a.db", tmp_path / "crash")
        async with opened(crashed, AT_ONCE) as desk:
            assert [event.kind for event in (await desk.store.read(HERE)).events] == ["accepted", "started", "delta"]


@pytest.mark.usefixtures("no_sweep")
async def test_what_stops_the_machine_again_and_again_is_counted(tmp_path: Path, boot: Path) -> None:
    path, deaths = tmp_path / "0.db", []
    for number in range(4):
        start_again(boot, f"life {number}")
        with lying_disk() as disk:
            async with opened(path, AT_ONCE) as desk:
                await desk.wait(LEASE + 1.0 + number * 100.0)
                if number == 0:
                    await desk.say("m1")
                deaths.append((await desk.claim()).deaths)
                path = disk.after_a_power_cut(path, tmp_path / f"cut-{number}")
    assert deaths == [0, 0, 1, 2]


@pytest.mark.usefixtures("no_sweep")
async def test_a_claim_whose_own_sync_fails_is_of_open_outcome_and_is_made_again(tmp_path: Path) -> None:
    with lying_disk() as disk:
        async with opened(tmp_path / "a.db", AT_ONCE) as desk:
            await from_a_retry(desk)
            disk.fails_at = disk.calls
            with pytest.raises(OutcomeUnknown):
                await desk.claim()
            # as a worker does: what bears its name and is not named is nobody's
            await desk.store.renew("worker-1", [], lease=LEASE)
            claim = await desk.claim()
            assert claim.deaths == 0
            await desk.commit(claim)
