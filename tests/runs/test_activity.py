"""What runs did, added up: every run once, in its minute and its day, whoever writes the records beside us."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from turnkeep.errors import Conflict, StoreUnavailable
from turnkeep.runs.activity import (
    BOUNDS,
    DAY_KEPT,
    HOUR_KEPT,
    MOST_NAMES,
    MOST_RUNS,
    TRIES,
    WRITTEN_EVERY,
    Activity,
    RunFigures,
    add_up,
    quantile,
    read_days,
    read_series,
)
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Document, Policies, RegistryKind
from turnkeep.testing.fake_clock import FakeClock
from turnkeep.usage import Usage

NOON = 1_795_953_600.0
"""2026-11-29 12:00 UTC."""
MIDNIGHT = NOON + 12 * 3_600.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def store(clock: FakeClock) -> CrowdedStore:
    return CrowdedStore(clock=clock)


class CrowdedStore(MemoryStore):
    """Refuses to write while it is away, or where others have always written just before; lets others in between
    reading and writing.
    """

    def __init__(self, *, clock: FakeClock) -> None:
        super().__init__(Policies(), clock=clock)
        self.is_away = False
        self.busy_for: frozenset[str] = frozenset()
        self.conflicts = 0
        """Of the next writes so many come too late."""
        self.writes: list[tuple[str, float | None]] = []
        """Each that was tried: the name of the record, and for how long it is kept."""

    async def put(
        self, kind: RegistryKind, tenant: str, name: str, body: Mapping[str, Any], *,
        version: int | None = None, ttl: float | None = None, once: str | None = None,
    ) -> Document:  # fmt: skip
        self.writes.append((name, ttl))
        if self.is_away:
            raise StoreUnavailable("away")
        if tenant in self.busy_for or self.conflicts:
            self.conflicts = max(0, self.conflicts - 1)
            raise Conflict("it was written meanwhile")
        await asyncio.sleep(0)
        return await super().put(kind, tenant, name, body, version=version, ttl=ttl, once=once)


def answered(at: float, tenant: str = "t", **fields: Any) -> RunFigures:
    values: dict[str, Any] = {
        "model": "m1", "messages": 2, "usage": Usage(requests=1, input_tokens=10, output_tokens=5, cost_nano=7),
        "attempt": 2, "arrival": at, "claimed_at": at, "seconds": 1.2,
    }  # fmt: skip
    return RunFigures(at, tenant, "completed", **{**values, **fields})


async def note_each(store: CrowdedStore, clock: FakeClock, *moments: float) -> None:
    """One run ends at each of these moments, and all is written down."""
    activity = Activity(store)
    for moment in moments:
        clock.jump(moment - clock.now())
        activity.note(answered(clock.now()))
    await activity.save()


async def runs_by_stretch(store: CrowdedStore, span: Any, now: float) -> list[tuple[float, int]]:
    return [(one.at, one.cell["runs"]) for one in await read_series(store, "t", span=span, now=now)]


# ---------------------------------------------------------------- what is counted


async def test_a_run_is_counted_with_its_end_its_messages_what_it_used_and_how_long_it_waited(
    store: CrowdedStore, clock: FakeClock
) -> None:
    activity = Activity(store)
    activity.note(answered(clock.now(), assistant="Olga"))
    activity.note(RunFigures(clock.now(), "t", "dead", code="model_refused", assistant="Olga"))
    await activity.save()

    [day] = await read_days(store, "t", days=1, now=NOON)
    whole = [0] * (len(BOUNDS) + 1)
    whole[BOUNDS.index(2.0)] = 1
    answer = {
        "runs": 1, "ends": {"completed": 1}, "messages": 2, "waits": {"whole": whole},
        "usage": {"requests": 1, "input_tokens": 10, "output_tokens": 5, "cost_nano": 7},
    }  # fmt: skip
    failure = {"runs": 1, "ends": {"dead": 1}, "errors": {"model_refused": 1}}
    assert day.total == add_up(answer, failure)
    assert day.models == {"m1": answer}
    assert day.assistants == {"Olga": add_up(answer, failure)}


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0.0, 0.1), (0.1, 0.1), (0.1001, 0.25), (299.0, 300.0), (300.0, 300.0), (9_000.0, 300.0)]
)
async def test_a_wait_is_in_the_bucket_that_ends_where_it_ended_or_next_after(
    store: CrowdedStore, clock: FakeClock, seconds: float, bound: float
) -> None:
    """The last one holds all that took longer, and is read as the longest that is told apart."""
    activity = Activity(store)
    activity.note(answered(clock.now(), seconds=seconds))
    await activity.save()

    [minute] = await read_series(store, "t", span="hour", now=NOON)
    counts = minute.cell["waits"]["whole"]
    assert (sum(counts), quantile(counts, 1.0), counts[-1]) == (1, bound, int(seconds > 300.0))


COUNTS = [0, 0, 9, 0, 0, 1, *[0] * (len(BOUNDS) - 5)]


@pytest.mark.parametrize(
    ("counts", "part", "bound"),
    [
        ([0] * (len(BOUNDS) + 1), 0.5, None),
        (COUNTS, 0.0, BOUNDS[2]),
        (COUNTS, 0.5, BOUNDS[2]),
        (COUNTS, 0.9, BOUNDS[2]),
        (COUNTS, 0.95, BOUNDS[5]),
        (COUNTS, 1.0, BOUNDS[5]),
        ([*COUNTS[:-1], 100], 0.99, BOUNDS[-1]),
    ],
)
def test_a_quantile_is_the_end_of_the_bucket_in_which_that_part_of_the_waits_has_ended(
    counts: list[int], part: float, bound: float | None
) -> None:
    assert quantile(counts, part) == bound


def test_figures_add_up_and_names_are_bounded() -> None:
    total: dict[str, Any] = {}
    for number in range(3 * MOST_NAMES):
        total = add_up(total, {"errors": {f"code-{number}": 1}, "waits": {"queue": [1, 0]}})

    assert sum(total["errors"].values()) == 3 * MOST_NAMES
    assert len(total["errors"]) == MOST_NAMES + 1
    assert total["errors"]["other"] == 2 * MOST_NAMES
    assert total["waits"] == {"queue": [3 * MOST_NAMES, 0]}


def test_to_add_up_two_cells_changes_neither() -> None:
    one, other = {"runs": 1, "waits": {"queue": [1, 0]}}, {"runs": 2, "waits": {"queue": [0, 1]}}

    assert add_up(one, other) == {"runs": 3, "waits": {"queue": [1, 1]}}
    assert (one, other) == ({"runs": 1, "waits": {"queue": [1, 0]}}, {"runs": 2, "waits": {"queue": [0, 1]}})


# ---------------------------------------------------------------- when


async def test_the_last_hour_has_each_minute_of_its_own_across_the_turn_of_the_day(
    store: CrowdedStore, clock: FakeClock
) -> None:
    await note_each(store, clock, MIDNIGHT - 60.0, MIDNIGHT - 1.0, MIDNIGHT, MIDNIGHT + 61.0)

    minutes = [(MIDNIGHT - 60.0, 2), (MIDNIGHT, 1), (MIDNIGHT + 60.0, 1)]
    assert await runs_by_stretch(store, "hour", MIDNIGHT + 120.0) == minutes
    assert await runs_by_stretch(store, "month", MIDNIGHT + 120.0) == [(MIDNIGHT - 3_600.0, 2), (MIDNIGHT, 2)]


@pytest.mark.parametrize(("seconds", "runs"), [(3_599.0, 1), (3_600.0, 0), (7_300.0, 0)])
async def test_what_is_an_hour_old_is_not_of_the_last_hour(
    store: CrowdedStore, clock: FakeClock, seconds: float, runs: int
) -> None:
    await note_each(store, clock, NOON)

    assert len(await runs_by_stretch(store, "hour", NOON + seconds)) == runs


@pytest.mark.parametrize(("days", "stretches"), [(0, 1), (30, 1), (31, 0)])
async def test_a_month_is_today_and_the_thirty_days_before(
    store: CrowdedStore, clock: FakeClock, days: int, stretches: int
) -> None:
    await note_each(store, clock, NOON)

    assert len(await runs_by_stretch(store, "month", NOON + days * 86_400.0)) == stretches


async def test_days_are_told_oldest_first_with_all_their_hours_and_without_the_empty_ones(
    store: CrowdedStore, clock: FakeClock
) -> None:
    yesterday = NOON - 86_400.0
    await note_each(store, clock, NOON - 3 * 86_400.0, yesterday, yesterday + 7_200.0, NOON)

    days = await read_days(store, "t", days=3, now=NOON)
    assert [(day.day, day.total["runs"]) for day in days] == [("2026-11-28", 2), ("2026-11-29", 1)]
    assert len(await read_days(store, "t", days=4, now=NOON)) == 3
    assert await read_days(store, "other", days=4, now=NOON) == []


async def test_an_hour_by_minutes_is_kept_for_hours_and_a_day_by_hours_for_more_than_a_month(
    store: CrowdedStore, clock: FakeClock
) -> None:
    await note_each(store, clock, NOON)

    assert dict(store.writes) == {"2026-11-29T12": HOUR_KEPT, "2026-11-29": DAY_KEPT}
    assert HOUR_KEPT >= 2 * 3_600.0, "of the last hour two records are read"
    assert DAY_KEPT >= 31 * 86_400.0


# ---------------------------------------------------------------- who writes


@pytest.mark.parametrize("others", [1, 5])
async def test_processes_that_add_the_same_to_one_record_at_once_are_all_counted(
    store: CrowdedStore, clock: FakeClock, others: int
) -> None:
    """Though what the second writes is what the first has written, and a store takes that for a repeat."""
    processes = [Activity(store) for _ in range(1 + others)]
    for process in processes:
        process.note(answered(clock.now()))
    await asyncio.gather(*(process.save() for process in processes))

    assert await runs_by_stretch(store, "hour", NOON) == [(NOON, 1 + others)]


@pytest.mark.parametrize(("conflicts", "runs"), [(1, 1), (TRIES - 1, 1), (TRIES, 0)])
async def test_a_record_that_others_write_is_tried_again_so_often_and_not_for_ever(
    store: CrowdedStore, clock: FakeClock, conflicts: int, runs: int
) -> None:
    activity = Activity(store)
    activity.note(answered(clock.now(), model=""))
    store.conflicts = conflicts
    await activity.save()
    day, hour = "2026-11-29", "2026-11-29T12"
    assert [name for name, _ in store.writes] == [day] * min(TRIES, conflicts + 1) + [hour]
    assert [day.total["runs"] for day in await read_days(store, "t", days=1, now=NOON)] == [1] * runs

    await activity.save()
    [day_of_use] = await read_days(store, "t", days=1, now=NOON)
    assert day_of_use.total["runs"] == 1, "at the latest the next time, and once"


async def test_what_was_written_is_not_written_again(store: CrowdedStore, clock: FakeClock) -> None:
    activity = Activity(store)
    activity.note(answered(clock.now()))
    await activity.save()
    written = len(store.writes)
    await activity.save()

    assert len(store.writes) == written
    assert await runs_by_stretch(store, "hour", NOON) == [(NOON, 1)]


async def test_of_more_runs_than_may_wait_to_be_added_up_the_last_are_counted(
    store: CrowdedStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits has an end, whatever becomes of who writes it down."""
    assert MOST_RUNS / WRITTEN_EVERY >= 10_000, "runs a second, of one process"
    monkeypatch.setattr("turnkeep.runs.activity.MOST_RUNS", 2)
    activity = Activity(store)
    for tenant in ("first", "t", "t"):
        activity.note(answered(clock.now(), tenant))

    await activity.save()
    assert await runs_by_stretch(store, "hour", NOON) == [(NOON, 2)]
    assert await read_series(store, "first", span="hour", now=NOON) == []


# ---------------------------------------------------------------- what stands in the way


async def test_what_cannot_be_written_now_is_written_later(store: CrowdedStore, clock: FakeClock) -> None:
    activity = Activity(store)
    store.is_away = True
    for _ in range(3):
        activity.note(answered(clock.now()))
        await activity.save()
    store.is_away = False
    await activity.save()

    [minute] = await read_series(store, "t", span="hour", now=clock.now())
    assert minute.cell["runs"] == 3


async def test_records_that_others_write_all_the_time_hold_up_no_others_and_are_written_later(
    store: CrowdedStore, clock: FakeClock
) -> None:
    activity = Activity(store)
    store.busy_for = frozenset({"busy"})
    for tenant in ("busy", "quiet"):
        activity.note(answered(clock.now(), tenant))
    await activity.save()
    series = [await read_series(store, tenant, span="hour", now=clock.now()) for tenant in ("busy", "quiet")]
    store.busy_for = frozenset()
    await activity.save()

    assert [len(one) for one in series] == [0, 1]
    assert [len(await read_series(store, tenant, span="hour", now=clock.now())) for tenant in ("busy", "quiet")] == [
        1,
        1,
    ]


async def test_a_store_that_stays_away_fills_no_memory(
    store: CrowdedStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known already goes on being counted; only new records have to wait for a place."""
    monkeypatch.setattr("turnkeep.runs.activity.MOST_TENANTS", 3)
    activity = Activity(store)
    store.is_away = True
    for tenant in range(10):
        activity.note(answered(clock.now(), f"t{tenant}"))
    await activity.save()
    activity.note(answered(clock.now(), "t0"))
    store.is_away = False
    await activity.save()

    counts = [
        [one.cell["runs"] for one in await read_series(store, f"t{tenant}", span="hour", now=clock.now())]
        for tenant in range(10)
    ]
    assert counts == [[2], [1], [1], *[[]] * 7]


@pytest.mark.parametrize(
    "cell",
    [
        {"runs": {"all": 5}},
        {"runs": "5"},
        {"waits": [5]},
        {"waits": {"whole": 5}},
        {"ends": 5, "usage": [5]},
        [5],
        5,
        None,
    ],
    ids=str,
)
async def test_figures_of_another_form_are_no_reason_to_stop(clock: FakeClock, cell: Any) -> None:
    store = MemoryStore(Policies(), clock=clock)
    for body in (
        {"figures": {"minutes": {"0": cell}}},
        {"figures": {"minutes": cell}},
        {"figures": cell},
        {"other": cell},
    ):
        document = await store.get("activity", "t", "2026-11-29T12")
        await store.put("activity", "t", "2026-11-29T12", body, version=document.version if document else 0)
        activity = Activity(store)
        activity.note(answered(clock.now()))
        activity.stop()
        await activity.run()
        await activity.save()

        [minute] = await read_series(store, "t", span="hour", now=clock.now())
        assert (minute.cell["runs"], minute.cell["ends"]) == (1, {"completed": 1})
        assert sum(minute.cell["waits"]["whole"]) == 1


async def test_a_service_that_works_all_the_time_has_every_minute_of_its_hour(clock: FakeClock) -> None:
    store = MemoryStore(Policies(), clock=clock)
    process = Activity(store)
    for _ in range(60):
        process.note(answered(clock.now()))
        clock.advance(60.0)
    await process.save()

    minutes = await read_series(store, "t", span="hour", now=clock.now() - 1.0)
    assert [(minute.at, minute.cell["runs"]) for minute in minutes] == [(NOON + 60.0 * n, 1) for n in range(60)]

    # as a program of before left it, which bounded the minutes as it did the names of models
    document = await store.get("activity", "t", "2026-11-29T12")
    assert document is not None
    minutes_of_before = {**document.body["figures"]["minutes"], "other": {"runs": 9}}
    await store.put(
        "activity", "t", document.name, {"figures": {"minutes": minutes_of_before}}, version=document.version
    )
    assert await read_series(store, "t", span="hour", now=clock.now() - 1.0) == minutes


async def test_others_go_on_while_many_runs_are_added_up(
    store: CrowdedStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnkeep.runs.activity.RUNS_AT_ONCE", 2)
    activity = Activity(store)
    for _ in range(6):
        activity.note(answered(clock.now()))
    turns = 0
    async with asyncio.TaskGroup() as group:
        group.create_task(activity.save())
        while not store.writes:
            turns += 1
            await asyncio.sleep(0)
    assert turns >= 3
    assert await runs_by_stretch(store, "hour", NOON) == [(NOON, 6)]
