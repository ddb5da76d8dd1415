"""Two opened stores on one file, as two processes have them: what one does the other sees."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from tests.contract.suite.desk import HERE, Desk, answer, at, delta
from tests.patience import PATIENCE
from tests.unit.sqlite_files import engine, opened, traced
from turnkeep.errors import LeaseLost, ThreadQuarantined
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store.sqlite import other_processes
from turnkeep.store.values import Notice, Policies, Policy


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Desk, Desk]]:
    async with opened(tmp_path / "a.db") as one, opened(tmp_path / "a.db") as other:
        yield one, other


Pair = tuple[Desk, Desk]


async def heard(notices: AsyncIterator[Notice], count: int) -> list[Event]:
    """The next so many events."""
    events: list[Event] = []
    async with asyncio.timeout(PATIENCE):
        while len(events) < count:
            events += (await anext(notices)).events
    return events


async def test_what_one_changes_the_other_knows(pair: Pair) -> None:
    one, other = pair
    for n in range(0, 10, 2):
        await one.say(f"m{n}")
        await other.say(f"m{n + 1}")

    assert await one.waiting_ids() == [f"m{n}" for n in range(10)]
    assert [event.offset for event in await other.events()] == list(range(1, 11))


async def test_a_second_store_of_this_process_takes_no_lock_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path):
        assert is_in_use(path)
        async with opened(path):
            pass
        assert is_in_use(path)
    assert not is_in_use(path)


LAST_USER = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
"""
"""Takes the lock by which SQLite knows that nobody else has the file open."""


def is_in_use(path: Path) -> bool:
    """As another process sees it: of its own locks no process is told."""
    done = subprocess.run([sys.executable, "-c", LAST_USER, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr
    return done.returncode != 0


async def test_two_that_claim_never_take_the_same_thread(pair: Pair) -> None:
    one, other = pair
    for n in range(60):
        await one.say(f"m{n}", where=at(f"c{n}"), window=0.0)

    async def take_all(desk: Desk, owner: str) -> list[Address]:
        taken: list[Address] = []
        while claims := await desk.claims(owner, limit=3):
            taken += [claim.address for claim in claims]
        return taken

    here, there = await asyncio.gather(take_all(one, "worker-1"), take_all(other, "worker-2"))

    assert len(here) + len(there) == 60
    assert len({*here, *there}) == 60


async def test_a_thread_that_the_other_left_alone_is_not_read_again(pair: Pair) -> None:
    one, other = pair
    await one.say("m1")
    with traced(one) as statements:
        for n in range(3):
            await other.say(f"o{n}", where=at("elsewhere"))
            await one.say(f"n{n}")

    assert not [s for s in statements if "FROM message" in s]
    assert await other.waiting_ids() == ["m1", "n0", "n1", "n2"]


@pytest.mark.parametrize(
    "damage",
    ["UPDATE thread SET floor = 1", "UPDATE thread SET damaged = 1, wake = NULL; UPDATE message SET body = ''"],
)
async def test_what_the_other_trims_or_puts_aside_is_read_again(pair: Pair, damage: str) -> None:
    one, other = pair
    await one.say("m1")
    await other.say("o1", where=at("elsewhere"))
    connection = apsw.Connection(str(engine(one).path))
    connection.execute(damage)
    connection.close()

    if "floor" in damage:
        assert await engine(one).write(lambda tx: tx.get(HERE).floor) == 1
    else:
        with pytest.raises(ThreadQuarantined):
            await one.say("m2")


async def test_a_claim_that_another_took_over_changes_nothing(pair: Pair) -> None:
    one, other = pair
    claim = await one.lease("m1", owner="worker-1")
    one.clock.advance(100.0)
    other.clock.advance(100.0)
    [again] = await other.claims("worker-2")

    with pytest.raises(LeaseLost):
        await one.store.publish(claim, 0, [delta("late")])
    with pytest.raises(LeaseLost):
        await one.store.commit(claim, answer(claim))
    await other.store.commit(again, answer(again))


async def test_a_follower_hears_what_the_other_publishes_in_order(pair: Pair) -> None:
    one, other = pair
    claim = await one.lease("m1")
    async with other.store.follow() as follower:
        await follower.add(HERE)
        notices = aiter(follower)
        for n in range(50):
            await one.store.publish(claim, n, [delta(f"{n} ")])
        await other.say("m2")
        await one.commit(claim)

        events = await heard(notices, 52)

    assert [event.offset for event in events] == list(range(3, 55))
    assert "".join(event.text for event in events if event.kind == "delta") == "".join(f"{n} " for n in range(50))
    assert events == (await other.events())[2:]


async def test_a_follower_by_thread_id_hears_the_other_under_the_name_it_gave(pair: Pair) -> None:
    one, other = pair
    receipt = await one.say("m1")
    by_id = at(receipt.thread_id)
    async with other.store.follow() as follower:
        await follower.add(by_id)
        await one.say("m2")
        async with asyncio.timeout(PATIENCE):
            notice = await anext(aiter(follower))

    assert notice.address == by_id
    assert [event.message_ids for event in notice.events] == [("m2",)]


async def test_too_much_at_once_is_told_without_contents(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_processes, "_AT_ONCE", 10)
    one, other = pair
    claim = await one.lease("m1")
    async with other.store.follow() as follower:
        await follower.add(HERE)
        await one.store.publish(claim, 0, [delta(f"{n} ") for n in range(30)])
        notices = aiter(follower)
        async with asyncio.timeout(PATIENCE):
            while (await anext(notices)).events:
                pass
        await one.store.publish(claim, 30, [delta("end")])
        [event] = await heard(notices, 1)

    assert event.text == "end"


async def test_who_waits_for_work_wakes_when_the_other_accepts(pair: Pair) -> None:
    one, other = pair
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        waits = group.create_task(other.store.ready(queues=["q"], timeout=1_000.0))
        await asyncio.sleep(0.02)
        await one.say("m1", where=at("c", queue="elsewhere"), window=0.0)
        await asyncio.sleep(0.2)
        assert not waits.done()
        await one.say("m1", window=0.0)

    assert len(await other.claims(queues=["q"])) == 1


async def test_a_stop_reaches_the_owner_in_the_other(pair: Pair) -> None:
    one, other = pair
    claim = await other.lease("m1", owner="worker-2")
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        nudged = group.create_task(other.store.wait_nudge("worker-2", timeout=1_000.0))
        assert await one.store.cancel(HERE)

    assert nudged.result() == {HERE}
    assert (await other.store.renew("worker-2", [claim], lease=30.0))[claim.token].stop == "cancel"


async def test_a_stop_pressed_where_the_run_is_needs_no_row(pair: Pair) -> None:
    one, _ = pair
    await one.lease("m1", owner="worker-1")

    await one.store.cancel(HERE)

    assert await one.store.wait_nudge("worker-1", timeout=1_000.0) == {HERE}
    assert engine(one).use().transaction.newest("nudge", "id") == 0


async def test_who_closes_gives_back_a_thread_as_the_other_has_left_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as other:
        async with opened(tmp_path / "a.db") as one:
            await one.lease("m1")
            # at once, before the first has looked again
            await other.say("m2")

        [claim] = await other.claims()
        assert (claim.message_ids, claim.deaths) == (("m1", "m2"), 1)
        assert (await other.thread()).messages == 2
        await other.say("m3")
        assert [event.offset for event in await other.events()] == list(range(1, 6))


async def test_shares_of_tenants_count_in_all_processes(tmp_path: Path) -> None:
    policies = Policies(Policy(window=0.0))
    async with opened(tmp_path / "a.db", policies) as one, opened(tmp_path / "a.db", policies) as other:
        for n in range(4):
            for tenant in ("a", "b"):
                await one.say("m", where=at(f"c{n}", tenant=tenant))

        order: list[str] = []
        for desk in (one, other, one, other, other, one):
            order += [claim.address.tenant for claim in await desk.claims("worker", limit=1)]

    assert order == ["a", "b", "a", "b", "a", "b"]


async def test_a_sink_opened_by_one_gets_what_the_other_does(pair: Pair) -> None:
    one, other = pair
    await other.say("m1")
    await one.store.open_sink("relay")
    await other.say("m2")
    await one.say("m3")

    found = await other.store.deliveries("relay", 0, after="", limit=10)

    assert [delivery.event.message_ids for delivery in found] == [("m2",), ("m3",)]


async def test_expired_threads_of_one_are_gone_for_the_other(pair: Pair) -> None:
    one, other = pair
    await one.store.thread(HERE, create=True)
    assert await other.store.thread(HERE) is not None
    for desk in pair:
        desk.clock.advance(1e8)

    assert await one.store.expire() == 1

    assert await other.store.thread(HERE) is None
    await other.say("m1")
    assert await one.waiting_ids() == ["m1"]


async def test_a_store_that_nobody_else_has_open_does_not_ask_its_file(tmp_path: Path) -> None:
    async with opened(tmp_path / "q.db") as desk:
        await desk.say("m1")
        async with engine(desk).follow() as follower:
            await follower.add(HERE)
            await desk.claims()
            with traced(desk) as statements:
                await asyncio.sleep(0.3)

    # one, for the lock of the worker has come
    assert len([statement for statement in statements if "data_version" in statement]) <= 1


async def test_what_comes_and_goes_between_two_looks_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    async with opened(path) as desk, engine(desk).follow() as follower:
        await follower.add(HERE)
        async with opened(path) as other:
            await other.say("m1")
        async with asyncio.timeout(PATIENCE):
            notice = await anext(aiter(follower))

    assert [event.kind for event in notice.events] == ["accepted"]
