"""Budgets and pace: asked before money is spent, settled once, whoever dies in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.runs.stage import NotingMeter
from turnkeep.errors import BudgetReserved, BudgetSpent, PaceReached, PriceUnknown, StoreUnavailable, ThreadQuarantined
from turnkeep.messages import Address, AssistantItem, Message, text_content
from turnkeep.models.model import ModelRequest
from turnkeep.pricing.prices import PriceBook
from turnkeep.runs.budget import ASK_AN_OPERATOR, OUTPUT_GUESS, Budget, Budgets, Pace, read_balances
from turnkeep.settings import Settings
from turnkeep.store import Policies, Policy
from turnkeep.store.memory import MemoryStore
from turnkeep.store.shared_ledger import Limit
from turnkeep.store.values import Claim, Commit, ThreadRecord, TranscriptEntry
from turnkeep.testing.fake_clock import FakeClock
from turnkeep.usage import NANO, Usage

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
DAY = "2026-11-20"
ENDPOINT = "api.example.com#1"
REQUEST = ModelRequest("gpt-4o", [], parameters={"max_tokens": 100})
RESERVED = 10 * 2_500 + 100 * 10_000
"""Nano-dollars of 10 tokens in and 100 out."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(Policies(Policy(window=0.0, max_wait=0.0)), clock=clock)


@pytest.fixture
def prices(clock: FakeClock) -> PriceBook:
    return PriceBook(clock=clock)


def purse(store: MemoryStore, prices: PriceBook, *budgets: Budget, **options: Any) -> Budgets:
    return Budgets(store, prices, budgets, **options)


async def claim(store: MemoryStore, channel: str = "c", **fields: Any) -> Claim:
    message = Message(Address("default", "my queue", channel), f"m{channel}", text_content("hi"), **fields)
    return await store.begin([message], owner="w", lease=30.0)


async def commit(store: MemoryStore, claim: Claim, cost_nano: int) -> None:
    await store.commit(
        claim, Commit("completed", "hi", [TranscriptEntry(AssistantItem("hi"))], Usage(cost_nano=cost_nano))
    )


async def spend(store: MemoryStore, account: str = f"tenant:default:{DAY}") -> tuple[int, int]:
    found = await store.spend(account, tenant="default")
    return found.settled_amount, found.reserved_amount


# ---------------------------------------------------------------- budgets


async def test_the_expected_cost_is_reserved_once_for_a_run(store: MemoryStore, prices: PriceBook) -> None:
    one = purse(store, prices, Budget("tenant", 1.0))
    run = await claim(store)
    tab = one.run_budget(run)
    for _ in range(3):
        await tab.before_request(REQUEST, 10, ENDPOINT)
    await one.run_budget(run).before_request(REQUEST, 10, ENDPOINT)
    assert await spend(store) == (0, RESERVED)


async def test_a_run_that_sets_no_limit_is_expected_to_stay_below_a_guess(
    store: MemoryStore, prices: PriceBook
) -> None:
    tab = purse(store, prices, Budget("tenant", 1.0)).run_budget(await claim(store))
    await tab.before_request(ModelRequest("gpt-4o", []), 0, ENDPOINT)
    assert await spend(store) == (0, OUTPUT_GUESS * 10_000)


@pytest.mark.parametrize(
    ("limit", "expected"), [(OUTPUT_GUESS - 1, OUTPUT_GUESS - 1), (50 * OUTPUT_GUESS, OUTPUT_GUESS)]
)
async def test_a_limit_of_the_request_counts_where_it_is_lower_than_the_guess(
    store: MemoryStore, prices: PriceBook, limit: int, expected: int
) -> None:
    tab = purse(store, prices, Budget("tenant", 1.0)).run_budget(await claim(store))
    await tab.before_request(ModelRequest("gpt-4o", [], parameters={"max_tokens": limit}), 0, ENDPOINT)
    assert await spend(store) == (0, expected * 10_000)


@pytest.mark.parametrize(
    ("budgets", "pace", "before", "after"),
    [
        ((), Pace(), False, False),
        ((), Pace(requests=9), False, False),
        ((), Pace(tokens=9_000), True, True),
        ((Budget("tenant", 1.0),), Pace(), True, False),
    ],
)
async def test_tokens_are_counted_only_where_they_decide_something(
    store: MemoryStore, prices: PriceBook, budgets: tuple[Budget, ...], pace: Pace, before: bool, after: bool
) -> None:
    """To count them takes longer than all else that a budget does."""
    one = purse(store, prices, *budgets, pace=pace)
    spending = one.run_budget(await claim(store)) if budgets else one
    assert spending.counts_tokens is before
    await spending.before_request(REQUEST, 10, ENDPOINT)
    assert spending.counts_tokens is after


async def test_what_was_spent_replaces_what_was_reserved_once(store: MemoryStore, prices: PriceBook) -> None:
    tab = purse(store, prices, Budget("tenant", 1.0)).run_budget(await claim(store))
    await tab.before_request(REQUEST, 10, ENDPOINT)
    for _ in range(2):
        await tab.settle(Usage(cost_nano=777))
    assert await spend(store) == (777, 0)


async def test_a_run_waits_while_only_reservations_are_in_the_way(store: MemoryStore, prices: PriceBook) -> None:
    one = purse(store, prices, Budget("tenant", 1.5 * RESERVED / NANO))
    first, second = one.run_budget(await claim(store, "a")), one.run_budget(await claim(store, "b"))
    await first.before_request(REQUEST, 10, ENDPOINT)
    with pytest.raises(BudgetReserved) as waits:
        await second.before_request(REQUEST, 10, ENDPOINT)
    assert waits.value.retry_after is not None
    await first.settle(Usage(cost_nano=RESERVED // 10))
    await second.before_request(REQUEST, 10, ENDPOINT)


async def test_a_run_that_does_not_fit_beside_what_was_spent_is_refused(store: MemoryStore, prices: PriceBook) -> None:
    one = purse(store, prices, Budget("tenant", 1.5 * RESERVED / NANO))
    first, second = one.run_budget(await claim(store, "a")), one.run_budget(await claim(store, "b"))
    await first.before_request(REQUEST, 10, ENDPOINT)
    await first.settle(Usage(cost_nano=RESERVED))
    with pytest.raises(BudgetSpent, match="the tenant's budget has no room") as refused:
        await second.before_request(REQUEST, 10, ENDPOINT)
    assert "budget" in refused.value.public
    assert not refused.value.retryable


async def test_each_thread_and_each_user_has_a_budget_of_its_own(store: MemoryStore, prices: PriceBook) -> None:
    dollars = 1.5 * RESERVED / NANO
    one = purse(store, prices, Budget("thread", dollars), Budget("user", dollars))
    for channel, user in (("a", "Ann"), ("b", "Bob"), ("c", None), ("d", None)):
        run = await claim(store, channel, metadata={"user": user} if user else {})
        await one.run_budget(run).before_request(REQUEST, 10, ENDPOINT)
        assert await spend(store, f"thread:{run.thread_id}:{DAY}") == (0, RESERVED)
    again = await claim(store, "e", metadata={"user": "Ann"})
    with pytest.raises(BudgetReserved, match="the user's budget"):
        await one.run_budget(again).before_request(REQUEST, 10, ENDPOINT)
    assert await spend(store, f"thread:{again.thread_id}:{DAY}") == (0, 0), "in all accounts or in none"


async def test_a_budget_begins_anew_with_its_period(store: MemoryStore, prices: PriceBook, clock: FakeClock) -> None:
    one = purse(store, prices, Budget("tenant", 1.5 * RESERVED / NANO))
    first = one.run_budget(await claim(store, "a"))
    await first.before_request(REQUEST, 10, ENDPOINT)
    await first.settle(Usage(cost_nano=RESERVED))
    clock.advance(12 * 3600.0)
    await one.run_budget(await claim(store, "b")).before_request(REQUEST, 10, ENDPOINT)
    assert await spend(store, "tenant:default:2026-11-21") == (0, RESERVED)


async def test_the_last_of_several_users_pays_under_a_name_that_is_not_his(
    store: MemoryStore, prices: PriceBook
) -> None:
    """Users are named by anything, keys of a store are not."""
    messages = [
        Message(Address("default", "q", "c"), f"m{number}", text_content("hi"), metadata={"user": user})
        for number, user in enumerate(("Ann", "B\ud800b"))
    ]
    run = await store.begin(messages, owner="w", lease=30.0)
    alone = await claim(store, "d", metadata={"user": "B\ud800b"})

    limits = [Budget("user", 1.0).limit(one) for one in (run, alone)]
    assert limits[0] == limits[1]
    account = limits[0].account if limits[0] else ""
    assert (account.isascii(), len(account), "B" in account) == (True, len(f"user:{'0' * 16}:{DAY}"), False)


@pytest.mark.parametrize(
    ("period", "start", "longest"),
    [("hour", f"{DAY}T12", 3_600.0), ("day", DAY, 86_400.0), ("month", "2026-11", 31 * 86_400.0)],
)
async def test_periods_are_those_of_the_calendar_and_outlived_by_their_accounts(
    store: MemoryStore, period: Any, start: str, longest: float
) -> None:
    limit = Budget("tenant", 0.25, period).limit(await claim(store))
    assert limit == Limit(f"tenant:default:{start}", NANO // 4, limit.keep if limit else 0.0)
    assert limit.keep > longest


async def test_a_budget_of_nothing_is_none(store: MemoryStore, prices: PriceBook) -> None:
    one = purse(store, prices, Budget("tenant", 0.0))
    assert not one.budgets
    assert not one.is_limited


async def test_a_model_without_a_price_waits_for_one(store: MemoryStore, prices: PriceBook) -> None:
    tab = purse(store, prices, Budget("tenant", 1.0)).run_budget(await claim(store))
    with pytest.raises(PriceUnknown, match="no price is known for own-model") as waits:
        await tab.before_request(ModelRequest("own-model", []), 10, ENDPOINT)
    assert waits.value.retry_after == ASK_AN_OPERATOR
    assert await spend(store) == (0, 0)


async def test_a_store_that_does_not_answer_leaves_the_cost_to_the_sweep(prices: PriceBook) -> None:
    class Absent(MemoryStore):
        async def settle(self, *_: Any, **__: Any) -> None:
            raise StoreUnavailable

    store = Absent(clock=FakeClock(NOON))
    tab = purse(store, prices, Budget("tenant", 1.0)).run_budget(await claim(store))
    await tab.before_request(REQUEST, 10, ENDPOINT)
    await tab.settle(Usage(cost_nano=1))
    assert await spend(store) == (0, RESERVED)


# ---------------------------------------------------------------- the sweep


async def test_the_sweep_settles_what_a_finished_run_has_cost(
    store: MemoryStore, prices: PriceBook, clock: FakeClock
) -> None:
    one = purse(store, prices, Budget("tenant", 1.0))
    run = await claim(store)
    await one.run_budget(run).before_request(REQUEST, 10, ENDPOINT)
    await commit(store, run, 4242)
    assert await one.sweep() == 0, "it may be about to be settled"
    clock.advance(601.0)
    assert await one.sweep() == 1
    assert await spend(store) == (4242, 0)
    assert await one.sweep() == 0


async def test_the_sweep_leaves_a_run_that_is_not_over(store: MemoryStore, prices: PriceBook, clock: FakeClock) -> None:
    one = purse(store, prices, Budget("tenant", 1.0))
    run = await claim(store)
    await one.run_budget(run).before_request(REQUEST, 10, ENDPOINT)
    clock.advance(601.0)
    assert await one.sweep() == 0
    assert await spend(store) == (0, RESERVED)


async def test_a_run_whose_messages_were_withdrawn_has_cost_nothing(
    store: MemoryStore, prices: PriceBook, clock: FakeClock
) -> None:
    one = purse(store, prices, Budget("tenant", 1.0))
    run = await claim(store)
    await one.run_budget(run).before_request(REQUEST, 10, ENDPOINT)
    await store.release(run, delay=0.0)
    await store.cancel(run.address, drop_inbox=True)
    clock.advance(601.0)
    assert await one.sweep() == 1
    assert await spend(store) == (0, 0)


async def test_what_was_reserved_counts_as_spent_when_the_thread_is_deleted(
    store: MemoryStore, prices: PriceBook, clock: FakeClock
) -> None:
    one = purse(store, prices, Budget("tenant", 1.0))
    run = await claim(store)
    await one.run_budget(run).before_request(REQUEST, 10, ENDPOINT)
    await store.forget(run.address, force=True)
    clock.advance(601.0)
    assert await one.sweep() == 1
    assert await spend(store) == (RESERVED, 0)
    assert await store.sweep(older_than=0.0, tenant="default") == []


async def test_the_sweep_of_a_process_that_saw_no_run_settles_all_tenants(
    store: MemoryStore, prices: PriceBook, clock: FakeClock
) -> None:
    run = await claim(store)
    await purse(store, prices, Budget("tenant", 1.0)).run_budget(run).before_request(REQUEST, 10, ENDPOINT)
    await store.forget(run.address, force=True)
    clock.advance(601.0)

    assert await purse(store, prices, Budget("tenant", 1.0)).sweep() == 1


async def test_the_sweep_of_some_tenants_leaves_those_of_others(
    store: MemoryStore, prices: PriceBook, clock: FakeClock
) -> None:
    one = purse(store, prices, Budget("tenant", 1.0))
    for tenant in ("a", "b"):
        message = Message(Address(tenant, "q", "c"), "m", text_content("hi"))
        run = await store.begin([message], owner="w", lease=30.0)
        await one.run_budget(run).before_request(REQUEST, 10, ENDPOINT)
        await commit(store, run, 7)
    clock.advance(601.0)

    assert await one.sweep(tenants=["b"]) == 1
    found = [await store.spend(f"tenant:{tenant}:{DAY}", tenant=tenant) for tenant in ("a", "b")]
    assert [(one.settled_amount, one.reserved_amount) for one in found] == [(0, RESERVED), (7, 0)]
    assert await one.sweep(older_than=602.0) == 0
    assert await one.sweep(older_than=601.0) == 1


# ---------------------------------------------------------------- pace


async def test_without_budgets_there_is_nothing_to_settle(store: MemoryStore, prices: PriceBook) -> None:
    assert await purse(store, prices).sweep() == 0


async def test_what_a_quarantined_thread_has_cost_is_settled_once_it_is_mended(
    prices: PriceBook, clock: FakeClock
) -> None:
    class Unreadable(MemoryStore):
        is_unreadable = False

        async def thread(
            self, address: Address, *, create: bool = False, once: str | None = None
        ) -> ThreadRecord | None:
            if self.is_unreadable:
                raise ThreadQuarantined("cannot be read")
            return await super().thread(address, create=create, once=once)

    store = Unreadable(Policies(Policy(window=0.0, max_wait=0.0)), clock=clock)
    one = purse(store, prices, Budget("tenant", 1.0))
    run = await claim(store)
    await one.run_budget(run).before_request(REQUEST, 10, ENDPOINT)
    await commit(store, run, 7)
    clock.advance(601.0)
    store.is_unreadable = True
    assert await one.sweep() == 0
    store.is_unreadable = False
    assert await one.sweep() == 1
    assert await spend(store) == (7, 0)


async def test_a_reservation_does_not_outlive_the_accounts_it_is_in(
    store: MemoryStore, prices: PriceBook, clock: FakeClock
) -> None:
    one = purse(store, prices, Budget("tenant", 1.0))
    await one.run_budget(await claim(store)).before_request(REQUEST, 10, ENDPOINT)
    clock.advance(172_801.0)
    assert await one.sweep() == 0, "its run is not over"
    assert await store.sweep(older_than=0.0, tenant="default") == []


async def test_all_runs_share_a_pace(store: MemoryStore, prices: PriceBook, clock: FakeClock) -> None:
    one, other = (purse(store, prices, pace=Pace(requests=2)) for _ in range(2))
    await one.before_request(REQUEST, 10, ENDPOINT)
    await other.before_request(REQUEST, 10, ENDPOINT)
    with pytest.raises(PaceReached) as waits:
        await one.before_request(REQUEST, 10, ENDPOINT)
    assert waits.value.retry_after == pytest.approx(30.0)
    await one.before_request(REQUEST, 10, "elsewhere")
    clock.advance(30.0)
    await one.before_request(REQUEST, 10, ENDPOINT)


async def test_without_a_pace_nobody_waits_for_anybody(store: MemoryStore, prices: PriceBook) -> None:
    for number in range(20):
        run = await claim(store, f"c{number}")
        await purse(store, prices).run_budget(run).before_request(REQUEST, 10, ENDPOINT)


async def test_tokens_count_with_what_the_answer_may_have(store: MemoryStore, prices: PriceBook) -> None:
    one = purse(store, prices, pace=Pace(tokens=220))
    await one.before_request(REQUEST, 10, ENDPOINT)
    await one.before_request(REQUEST, 10, ENDPOINT)
    with pytest.raises(PaceReached):
        await one.before_request(REQUEST, 10, ENDPOINT)


@pytest.mark.parametrize("budgets", [(), (Budget("tenant", 1.0),)])
async def test_a_pace_is_kept_with_a_budget_and_without(
    store: MemoryStore, prices: PriceBook, budgets: tuple[Budget, ...]
) -> None:
    one = purse(store, prices, *budgets, pace=Pace(requests=1))
    spending = one.run_budget(await claim(store)) if budgets else one
    assert spending.is_limited
    await spending.before_request(REQUEST, 10, ENDPOINT)
    with pytest.raises(PaceReached):
        await spending.before_request(REQUEST, 10, ENDPOINT)


async def test_where_nothing_remains_all_wait_for_the_reset(
    store: MemoryStore, prices: PriceBook, clock: FakeClock
) -> None:
    one = purse(store, prices)
    await one.before_request(REQUEST, 10, ENDPOINT)
    await one.slow_down(45.0, ENDPOINT)
    with pytest.raises(PaceReached) as waits:
        await one.before_request(REQUEST, 10, ENDPOINT)
    assert waits.value.retry_after == 45.0
    clock.advance(45.0)
    await one.before_request(REQUEST, 10, ENDPOINT)


async def test_a_patient_purse_waits_in_place(store: MemoryStore, prices: PriceBook, clock: FakeClock) -> None:
    one = purse(store, prices, patient=True)
    await store.slow_down(ENDPOINT, 0.01)
    asking = asyncio.ensure_future(one.before_request(REQUEST, 10, ENDPOINT))
    for _ in range(10):
        await asyncio.sleep(0.005)
        assert not asking.done(), "the store's clock stands still"
    clock.advance(0.01)
    await asyncio.wait_for(asking, PATIENCE)


def test_the_settings_name_period_and_pace(store: MemoryStore, prices: PriceBook) -> None:
    settings = Settings.load(
        store="memory:", tenant_budget=1.0, thread_budget=0.1, budget_period="month",
        requests_per_minute=7, tokens_per_minute=9,
    )  # fmt: skip
    budgets = Budgets.from_settings(settings, store, prices)
    assert set(budgets.budgets) == {Budget("tenant", 1.0, "month"), Budget("thread", 0.1, "month")}
    assert budgets.pace == Pace(requests=7, tokens=9)


@pytest.mark.parametrize("attempt", [1, 2, 9])
async def test_who_waits_for_a_reservation_looks_again_soon_and_is_counted_as_no_refusal(
    store: MemoryStore, prices: PriceBook, attempt: int
) -> None:
    meter = NotingMeter()
    one = purse(store, prices, Budget("tenant", 1.5 * RESERVED / NANO), meter=meter)
    await one.run_budget(await claim(store, "a")).before_request(REQUEST, 10, ENDPOINT)
    second = one.run_budget(replace(await claim(store, "b"), attempt=attempt))

    for _ in range(20):
        with pytest.raises(BudgetReserved) as waits:
            await second.before_request(REQUEST, 10, ENDPOINT)
        assert 0.5 <= (waits.value.retry_after or 0.0) <= 0.5 + min(2.0 ** (attempt - 1), 15.0)

    assert meter.counts == []


async def test_a_run_that_is_refused_is_counted_by_whose_budget_is_spent(store: MemoryStore, prices: PriceBook) -> None:
    meter = NotingMeter()
    one = purse(store, prices, Budget("thread", 0.5 * RESERVED / NANO), meter=meter)

    with pytest.raises(BudgetSpent):
        await one.run_budget(await claim(store, "a")).before_request(REQUEST, 10, ENDPOINT)

    assert meter.counts == [("budget_refusals", 1, {"of": "thread"})]


# ---------------------------------------------------------------- what is left


async def test_a_balance_is_of_the_tenant_and_of_this_period(
    store: MemoryStore, prices: PriceBook, clock: FakeClock
) -> None:
    settings = Settings.load(tenant_budget=5.0, user_budget=2.0)
    tab = purse(store, prices, Budget("tenant", 5.0)).run_budget(await claim(store))
    await tab.before_request(REQUEST, 10, ENDPOINT)

    async def read(tenant: str, now: float) -> list[dict[str, Any]]:
        return [balance.to_json() for balance in await read_balances(store, settings, tenant, now=now)]

    of_user = {"of": "user", "period": "day", "dollars": 2.0}
    tenant = {"of": "tenant", "period": "day", "dollars": 5.0}
    assert await read("default", NOON) == [tenant | {"spent": 0.0, "reserved": RESERVED / NANO}, of_user]
    await tab.settle(Usage(cost_nano=RESERVED // 2))
    assert await read("default", NOON) == [tenant | {"spent": RESERVED / 2 / NANO, "reserved": 0.0}, of_user]
    untouched = [tenant | {"spent": 0.0, "reserved": 0.0}, of_user]
    assert await read("other", NOON) == await read("default", NOON + 86_400) == untouched
    assert await read_balances(store, Settings.load(), "default", now=NOON) == []
