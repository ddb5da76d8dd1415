"""The worker: as many runs as it has slots, prompt when something is due, gone in time when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.runs.moved_time import passed
from tests.runs.stage import Stage, says
from turnkeep.errors import StoreMisconfigured, StoreUnavailable
from turnkeep.messages import Address
from turnkeep.models.model import Began
from turnkeep.pricing.prices import PriceBook
from turnkeep.runs.activity import WRITTEN_EVERY
from turnkeep.runs.budget import Budget, Budgets
from turnkeep.runs.worker import AT_ONCE, LeaseRules, Worker, WorkerRules
from turnkeep.store.values import Policy

LogLines = Callable[[], list[dict[str, Any]]]
AWAY = StoreUnavailable("away")


def at(channel: str, queue: str = "assistant") -> Address:
    return Address("default", queue, channel)


@dataclass
class Shift:
    """A worker at work, and how long each of its runs takes."""

    stage: Stage
    worker: Worker
    task: asyncio.Task[None] = field(init=False)

    async def end(self, patience: float = 3600.0) -> float:
        """When it has ended."""
        async with asyncio.timeout(patience):
            await self.task
        return passed()


@contextlib.asynccontextmanager
async def working(stage: Stage, **rules: Any) -> AsyncIterator[Shift]:
    shift = Shift(stage, Worker(stage.house, rules=WorkerRules(**rules), lease=LeaseRules(30.0), owner="worker-1"))
    async with asyncio.TaskGroup() as group:
        shift.task = group.create_task(shift.worker.run())
        await asyncio.sleep(0)
        yield shift
        shift.worker.stop()


async def say_each(stage: Stage, count: int, queue: str = "assistant") -> list[Address]:
    places = [at(f"c{number}", queue) for number in range(count)]
    for number, where in enumerate(places):
        await stage.say(f"m{number}", where=where)
    return places


async def count_answered(stage: Stage, places: list[Address]) -> int:
    return [await stage.status(f"m{n}", where) for n, where in enumerate(places)].count("answered")


# ---------------------------------------------------------------- claiming


@pytest.mark.parametrize(("slots", "busy"), [(2, 0), (2, 1), (1, 1)])
async def test_a_thread_of_a_dead_owner_is_begun_when_its_lease_ends_or_with_the_next_free_slot(
    slots: int, busy: int
) -> None:
    """By who lives: nobody else looks after leases. What came due later waits behind it."""
    stage = Stage(*[[Began(None), 40.0, *says("answer")[1:]] for _ in range(4)])
    await stage.say("m0", where=at("dead"))
    assert len(await stage.store.claim(owner="dead", limit=1, lease=30.0)) == 1
    for number in range(busy):
        await stage.say(f"b{number}", where=at(f"b{number}"))
    async with working(stage, concurrency=slots):
        await asyncio.sleep(31.0)
        await stage.say("late", where=at("late"))
        await asyncio.sleep(10.0)
        first, second = [event for event in await stage.events(at("dead")) if event.kind == "started"]
        assert (first.attempt, second.attempt) == (1, 2)
        assert second.at - first.at == pytest.approx(30.0 if slots > busy else 40.0, abs=0.1)
        assert ("started" in await stage.kinds(at("late"))) == (slots == 2)


@pytest.mark.parametrize("slots", [1, 2, 5])
async def test_there_are_never_more_runs_than_slots_and_a_free_slot_is_used_at_once(slots: int) -> None:
    stage = Stage(*[[Began(None), 10.0, *says("answer")[1:]] for _ in range(6)])
    places = await say_each(stage, 6)

    async with working(stage, concurrency=slots) as shift:
        await asyncio.sleep(5.0)
        assert shift.worker.active == slots
        assert stage.meter.watches["active_runs"]() == slots
        assert stage.meter.watches["oldest_run_seconds"]() == pytest.approx(5.0, abs=0.01)
        rounds = -(-6 // slots)
        await asyncio.sleep(10.0 * rounds - 5.0 + 0.5)
        assert await count_answered(stage, places) == 6
        assert shift.worker.active == 0

    assert max(limit for limit, _ in stage.store.about("claim")) == slots
    assert stage.meter.watches == {}


async def test_a_worker_that_is_stopped_while_it_claims_rests_no_more() -> None:
    stage = Stage()
    stage.store.stumbles["claim"] += [5.0]
    async with working(stage) as shift:
        asyncio.get_running_loop().call_later(2.0, shift.worker.stop)
        assert await shift.end() == pytest.approx(5.0, abs=0.1)
    assert len(stage.store.about("claim")) == 1


async def test_one_call_to_the_store_takes_a_bounded_number() -> None:
    stage = Stage()

    async with working(stage, concurrency=3 * AT_ONCE):
        await asyncio.sleep(0.5)

    assert {limit for limit, _ in stage.store.about("claim")} == {AT_ONCE}


async def test_who_has_got_as_many_as_it_asked_for_asks_for_more_without_asking_whether_there_is() -> None:
    stage = Stage()
    await say_each(stage, AT_ONCE + 1)

    async with working(stage, concurrency=3 * AT_ONCE):
        await asyncio.sleep(0.5)

    looks = [name for name, _ in stage.store.requests if name in ("claim", "ready")]
    assert looks[:3] == ["claim", "claim", "ready"]


async def test_a_message_is_answered_at_once_and_not_at_the_next_look() -> None:
    stage = Stage(policy=Policy(window=0.0, max_wait=0.0))

    async with working(stage, rest=30.0):
        await asyncio.sleep(3.0)
        await stage.say("m1")
        await asyncio.sleep(0.01)
        assert await stage.status("m1") == "answered"


async def test_without_a_hint_it_is_answered_at_the_next_look() -> None:
    stage = Stage()
    stage.store.stumbles["ready"] += [AWAY] * 100

    async with working(stage, rest=2.0):
        await asyncio.sleep(1.0)
        await stage.say("m1")
        await asyncio.sleep(0.5)
        before = await stage.status("m1")
        await asyncio.sleep(1.0)
        assert (before, await stage.status("m1")) == ("waiting", "answered")


async def test_an_idle_worker_looks_again_after_each_rest_and_not_more_often() -> None:
    stage = Stage()

    async with working(stage, rest=2.0):
        await asyncio.sleep(19.0)

    assert stage.store.about("ready") == pytest.approx([2.0] * 10)
    assert len(stage.store.about("claim")) == 1, "a look that found nothing due needs no claim"


async def test_only_its_queues_are_served() -> None:
    stage = Stage()
    await stage.say("m1", where=at("c", "other"))
    await stage.say("m2", where=at("c", "mine"))

    async with working(stage, queues=("mine",)):
        await asyncio.sleep(5.0)

    assert await stage.status("m1", at("c", "other")) == "waiting"
    assert await stage.status("m2", at("c", "mine")) == "answered"


async def test_a_store_that_is_away_is_asked_again_at_growing_distances(log_lines: LogLines) -> None:
    stage = Stage()
    stage.store.stumbles["claim"] += [AWAY] * 9
    await stage.say("m1")

    async with working(stage):
        await asyncio.sleep(60.0)

    assert await stage.status("m1") == "answered"
    failures = [line["failures"] for line in log_lines() if line["event"] == "claim_failed"]
    assert failures == list(range(1, 10))


async def test_failures_are_counted_anew_after_a_claim_that_went_well(log_lines: LogLines) -> None:
    stage = Stage(says("one"))
    stage.store.stumbles["claim"] += [AWAY, AWAY, None, AWAY]

    async with working(stage):
        await asyncio.sleep(30.0)
        await stage.say("m1")
        await asyncio.sleep(30.0)

    assert [line["failures"] for line in log_lines() if line["event"] == "claim_failed"] == [1, 2, 1]


async def test_a_thread_is_worked_on_once_at_a_time_and_its_next_message_follows() -> None:
    stage = Stage([Began(None), 10.0, *says("one")[1:]], says("two"))
    await stage.say("m1")

    async with working(stage):
        await asyncio.sleep(5.0)
        await stage.say("m2")
        await asyncio.sleep(3.0)
        assert len(stage.model.requests) == 1
        await asyncio.sleep(3.0)
        assert (await stage.status("m1"), await stage.status("m2")) == ("answered", "answered")


async def test_leases_are_renewed_while_a_run_goes_on() -> None:
    stage = Stage([Began(None), 200.0, *says("slow")[1:]])
    await stage.say("m1")

    async with working(stage):
        await asyncio.sleep(201.0)
        assert await stage.status("m1") == "answered"

    assert len(stage.model.requests) == 1


# ---------------------------------------------------------------- stopping


async def test_a_worker_that_is_told_to_stop_lets_its_runs_end() -> None:
    stage = Stage([Began(None), 20.0, *says("whole")[1:]])
    [where] = await say_each(stage, 1)

    async with working(stage, drain=25.0) as shift:
        await asyncio.sleep(5.0)
        shift.worker.stop()
        await stage.say("late", where=at("later"))
        assert await shift.end() == pytest.approx(20.0, abs=0.01)

    assert await stage.status("m0", where) == "answered"
    assert await stage.status("late", at("later")) == "waiting"


async def test_a_worker_that_is_told_to_stop_waits_for_the_longest_of_its_runs() -> None:
    stage = Stage([Began(None), 10.0, *says("short")[1:]], [Began(None), 20.0, *says("long")[1:]])
    places = await say_each(stage, 2)

    async with working(stage, drain=25.0) as shift:
        await asyncio.sleep(5.0)
        shift.worker.stop()
        assert await shift.end() == pytest.approx(20.0, abs=0.01)

    assert [await stage.status(f"m{number}", where) for number, where in enumerate(places)] == ["answered"] * 2


async def test_runs_that_do_not_end_in_time_are_given_back_without_an_attempt(log_lines: LogLines) -> None:
    stage = Stage([Began(None), 250.0], [Began(None), 250.0])
    places = await say_each(stage, 2)

    async with working(stage, drain=25.0) as shift:
        await asyncio.sleep(5.0)
        shift.worker.stop()
        assert await shift.end() == pytest.approx(30.0, abs=0.01)

    for place in places:
        [claim] = await stage.store.claim(owner="next", limit=1, lease=30.0)
        assert (claim.attempts, claim.deaths) == (0, 0), place
    lines = [line for line in log_lines() if line["event"] in ("draining", "drain_over")]
    assert lines == [
        {"event": "draining", "runs": 2, "seconds": 25.0},
        {"event": "drain_over", "given_back": 2},
    ]


async def test_an_idle_worker_stops_at_once_and_says_nothing(log_lines: LogLines) -> None:
    stage = Stage()

    async with working(stage, rest=30.0) as shift:
        await asyncio.sleep(5.0)
        shift.worker.stop()
        assert await shift.end() == pytest.approx(5.0, abs=0.01)

    assert log_lines() == []


@pytest.mark.parametrize("stumble", ["claim", "ready"])
async def test_a_worker_stops_also_while_the_store_is_away(stumble: str) -> None:
    stage = Stage()
    stage.store.stumbles[stumble] += [AWAY] * 10_000

    async with working(stage, rest=30.0) as shift:
        await asyncio.sleep(100.0)
        shift.worker.stop()
        assert await shift.end() == pytest.approx(100.0, abs=0.01)

    assert len(stage.store.about(stumble)) < 1_000, "it is asked once in a while, and not as often as it can refuse"


async def test_a_full_worker_stops_at_once_when_its_slots_are_taken() -> None:
    stage = Stage([Began(None), 250.0])
    await say_each(stage, 3)

    async with working(stage, concurrency=1, drain=2.0) as shift:
        await asyncio.sleep(5.0)
        shift.worker.stop()
        assert await shift.end() == pytest.approx(7.0, abs=0.01)

    assert len(stage.store.about("claim")) == 1


async def test_an_error_that_no_repetition_mends_ends_the_worker() -> None:
    stage = Stage()
    stage.store.stumbles["claim"] += [ValueError("a bug")]
    worker = Worker(stage.house)

    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(60.0):
            await worker.run()
    assert stage.meter.watches == {}


# ---------------------------------------------------------------- figures


async def test_what_runs_did_is_written_down_every_few_seconds_and_once_more_at_the_end() -> None:
    stage = Stage(has_activity=True)
    await say_each(stage, 3)

    async with working(stage) as shift:
        await asyncio.sleep(1.0)
        before = await stage.activity()
        await asyncio.sleep(WRITTEN_EVERY)
        meanwhile = [cell["runs"] for cell in await stage.activity()]
        await stage.say("late", where=at("late"))
        await asyncio.sleep(1.0)
        assert await stage.status("late", at("late")) == "answered"
        shift.worker.stop()
        assert await shift.end() == pytest.approx(WRITTEN_EVERY + 2.0, abs=0.01)

    assert (before, meanwhile) == ([], [3])
    assert [cell["runs"] for cell in await stage.activity()] == [4]


async def test_a_write_of_figures_that_is_on_its_way_when_the_worker_stops_is_neither_lost_nor_made_twice() -> None:
    stage = Stage(has_activity=True)
    await say_each(stage, 3)
    stage.store.stumbles["put"] += [5.0]

    async with working(stage) as shift:
        await asyncio.sleep(WRITTEN_EVERY + 1.0)
        shift.worker.stop()
        assert await shift.end() == pytest.approx(WRITTEN_EVERY + 5.0, abs=0.01)

    assert [cell["runs"] for cell in await stage.activity()] == [3]


async def test_a_store_that_is_away_holds_up_the_end_of_a_worker_for_one_write_only(log_lines: LogLines) -> None:
    stage = Stage(has_activity=True)
    await say_each(stage, 3)
    stage.store.stumbles["put"] += [AWAY] * 100

    async with working(stage) as shift:
        await asyncio.sleep(1.0)
        shift.worker.stop()
        await shift.end()

    assert [line["records"] for line in log_lines() if line["event"] == "activity_unsaved"] == [2]
    assert len(stage.store.about("put")) == 1


# ---------------------------------------------------------------- upkeep


async def test_what_has_aged_is_swept_each_minute_until_nothing_is_left() -> None:
    stage = Stage()
    stage.store.expiries.extend([100, 100, 99, 0, 250, 3])

    async with working(stage, sweep_every=60.0):
        await asyncio.sleep(59.0)
        first = len(stage.store.about("expire"))
        await asyncio.sleep(2.0)
        second = len(stage.store.about("expire"))
        await asyncio.sleep(60.0)
        third = len(stage.store.about("expire"))
        await asyncio.sleep(60.0)
        assert [first, second, third, len(stage.store.about("expire"))] == [0, 3, 4, 6]


@pytest.mark.parametrize("error", [AWAY, StoreMisconfigured("eviction")])
async def test_a_sweep_that_fails_is_said_and_tried_again_the_next_minute(
    error: Exception, log_lines: LogLines
) -> None:
    stage = Stage()
    stage.store.stumbles["expire"] += [error]

    async with working(stage, sweep_every=60.0):
        await asyncio.sleep(121.0)

    assert len(stage.store.about("expire")) == 2
    assert [line["error"] for line in log_lines() if line["event"] == "sweep_failed"] == [str(error)]


async def test_reservations_that_a_crash_left_open_are_settled_by_the_sweep() -> None:
    budget = Budget("tenant", 1.0)
    stage = Stage(purse=lambda store: Budgets(store, PriceBook(), [budget]))
    lease = await stage.lease("m1")
    limit = budget.limit(lease.claim)
    assert limit is not None
    place = f"{lease.claim.run_id} assistant {lease.claim.thread_id}"
    await stage.store.reserve(place, 1000, [limit], tenant="default")
    await stage.perform(lease)
    await stage.store.forget(at("c"), force=True)

    async with working(stage, sweep_every=700.0):
        await asyncio.sleep(701.0)
        account = await stage.store.spend(limit.account, tenant="default")

    assert (account.reserved_amount, account.settled_amount) == (0, 1000)


def test_rules_have_the_defaults_that_the_documentation_names() -> None:
    rules = WorkerRules()
    assert (rules.concurrency, rules.drain, rules.rest, rules.sweep_every) == (5, 25.0, 1.0, 60.0)
