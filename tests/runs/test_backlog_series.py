"""How much waited: the most that anybody saw in each minute and hour, of each tenant that messages came for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.runs.moved_time import LoopClock
from turnkeep.clock import Clock
from turnkeep.errors import Conflict, StoreUnavailable
from turnkeep.messages import Address, Message, text_content
from turnkeep.runs.activity import DAY_KEPT, HOUR_KEPT
from turnkeep.runs.backlog_series import EVERY, BacklogSeries, read_backlog
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Counts, Document, Policies, Policy
from turnkeep.testing.fake_clock import FakeClock

NOON = 1_795_953_600.0
"""2026-11-29 12:00 UTC."""
DAY = 86_400.0
NOTED = [("backlog-2026-11-29T12", HOUR_KEPT), ("backlog-2026-11-29", DAY_KEPT)]
"""What one look writes, and for how long it is kept."""


class NotingStore(MemoryStore):
    """Says that so much waits, notes what is written, and refuses it while there is a reason."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Policies(Policy(window=60.0)), clock=clock)
        self.backlog: Counts | None = None
        """What it says in place of the truth."""
        self.refusal: Exception | None = None
        self.looks: list[tuple[str | None, str | None]] = []
        """Tenant and queue."""
        self.writes: list[tuple[str, float | None]] = []
        """The name of a record, and for how long it is kept."""

    async def counts(self, *, tenant: str | None = None, queue: str | None = None) -> Counts:
        self.looks.append((tenant, queue))
        return self.backlog or await super().counts(tenant=tenant, queue=queue)

    async def put(self, kind: Any, tenant: str, name: str, *arguments: Any, **options: Any) -> Document:
        if self.refusal is not None:
            raise self.refusal
        self.writes.append((name, options.get("ttl")))
        return await super().put(kind, tenant, name, *arguments, **options)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def store(clock: FakeClock) -> NotingStore:
    return NotingStore(clock)


async def look(store: NotingStore, *tenants: str) -> None:
    await BacklogSeries(store, "q", dict.fromkeys(tenants)).look()


async def of_hour(store: NotingStore, now: float, tenant: str = "default") -> Mapping[float, Mapping[str, int]]:
    return await read_backlog(store, tenant, span="hour", now=now)


async def of_month(store: NotingStore, now: float) -> Mapping[float, Mapping[str, int]]:
    return await read_backlog(store, "default", span="month", now=now)


# ---------------------------------------------------------------- what is noted


async def test_the_most_that_anybody_saw_counts_of_each_number_for_itself(store: NotingStore, clock: FakeClock) -> None:
    for counts in (Counts(open_messages=3, held=1), Counts(open_messages=1, held=2), Counts(delayed=1, oldest_wait=9)):
        store.backlog = counts
        await look(store)
        clock.advance(15.0)

    assert await of_hour(store, NOON) == {NOON: {"open_messages": 3, "held": 2, "delayed": 1, "oldest_wait": 9}}


async def test_what_its_minute_and_hour_have_already_is_not_written_again(store: NotingStore, clock: FakeClock) -> None:
    """Every process looks: they would all write all day what none of them has changed."""
    store.backlog = Counts(open_messages=3)
    await look(store)
    await look(store)
    store.backlog = Counts(open_messages=2)
    await look(store)
    assert store.writes == NOTED

    clock.advance(60.0)
    await look(store)
    assert store.writes == [*NOTED, NOTED[0]], "a minute of its own, in the same hour"


async def test_where_nothing_waits_nothing_is_written(store: NotingStore) -> None:
    store.backlog = Counts(active=7, completed=5, failed=2, paused=1)

    await look(store)

    assert store.writes == []


async def test_tenants_that_messages_came_for_are_looked_at_once_each_and_in_this_queue_only(
    store: NotingStore,
) -> None:
    for tenant, queue in (("t", "q"), ("t", "elsewhere"), ("u", "q")):
        await store.accept([Message(Address(tenant, queue, "c"), "m", text_content("hello"))])

    await look(store, "t", "default", "u")

    assert store.looks == [("default", "q"), ("t", "q"), ("u", "q")]
    assert (await of_hour(store, NOON, "t"))[NOON]["open_messages"] == 1
    assert await of_hour(store, NOON, "default") == {}


# ---------------------------------------------------------------- when


async def test_it_looks_every_half_minute() -> None:
    store = NotingStore(LoopClock())
    looking = asyncio.create_task(BacklogSeries(store, "q", {}).run())

    await asyncio.sleep(4.5 * EVERY)
    looking.cancel()

    assert (len(store.looks), EVERY) == (4, 30.0)


@pytest.mark.parametrize(("seconds", "is_told"), [(0.0, True), (3_599.0, True), (3_600.0, False)])
async def test_the_last_hour_is_told_by_its_minutes(
    store: NotingStore, clock: FakeClock, seconds: float, is_told: bool
) -> None:
    store.backlog = Counts(waiting=1)
    clock.advance(5 * 60.0 + 12.0)
    await look(store)

    minute = NOON + 5 * 60.0
    assert await of_hour(store, minute + seconds) == ({minute: {"waiting": 1}} if is_told else {})


async def test_the_last_hour_goes_across_the_turn_of_the_day_in_order(store: NotingStore, clock: FakeClock) -> None:
    midnight = NOON + 12 * 3_600.0
    for number, moment in enumerate((midnight - 60.0, midnight + 60.0)):
        clock.advance(moment - clock.now())
        store.backlog = Counts(waiting=1 + number)
        await look(store)

    series = await of_hour(store, midnight + 90.0)
    assert list(series.items()) == [(midnight - 60.0, {"waiting": 1}), (midnight + 60.0, {"waiting": 2})]
    by_hour = await of_month(store, midnight + 90.0)
    assert list(by_hour.items()) == [(midnight - 3_600.0, {"waiting": 1}), (midnight, {"waiting": 2})]


@pytest.mark.parametrize(("days", "is_told"), [(0, True), (30, True), (31, False)])
async def test_a_month_is_today_and_the_thirty_days_before_by_their_hours(
    store: NotingStore, clock: FakeClock, days: int, is_told: bool
) -> None:
    store.backlog = Counts(waiting=1)
    clock.advance(5 * 3_600.0 + 125.0)
    await look(store)

    hour = NOON + 5 * 3_600.0
    assert await of_month(store, NOON + days * DAY + 6 * 3_600.0) == ({hour: {"waiting": 1}} if is_told else {})


# ---------------------------------------------------------------- what stands in the way


@pytest.mark.parametrize(
    "body",
    [{}, {"backlog": 5}, {"backlog": {"0": 5, "other": {}}}, {"backlog": {"0": {"open_messages": "5"}}}],
    ids=str,
)
async def test_a_backlog_of_another_form_is_no_reason_to_stop(store: NotingStore, body: dict[str, Any]) -> None:
    await store.put("activity", "default", "backlog-2026-11-29T12", body)
    store.backlog = Counts(open_messages=1)

    await look(store)

    assert await of_hour(store, NOON) == {NOON: {"open_messages": 1}}


@pytest.mark.parametrize("refusal", [StoreUnavailable("away"), Conflict("it was written meanwhile")], ids=str)
async def test_a_store_that_refuses_ends_no_looking(refusal: Exception) -> None:
    """The next look comes soon."""
    clock = LoopClock()
    store = NotingStore(clock)
    store.backlog, store.refusal = Counts(open_messages=1), refusal
    looking = asyncio.create_task(BacklogSeries(store, "q", {"t": None}).run())
    await asyncio.sleep(EVERY + 1.0)
    assert len(store.looks) == 2, "of all tenants, though the first was refused"

    store.refusal = None
    await asyncio.sleep(EVERY)
    looking.cancel()

    assert [list(await of_hour(store, clock.now(), tenant)) != [] for tenant in ("default", "t")] == [True, True]
