"""Money and pace: asked before each model request, told afterwards what it cost.

A run reserves its expected cost once, before its first request, in every account that a budget
gives it; the reservation is replaced by what was spent when the run is settled. Both are safe to
repeat. A reservation that a crash left open counts as spent until `sweep` settles it from what the
thread says.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self

from turnkeep.backoff import Backoff
from turnkeep.errors import (
    BudgetReserved,
    BudgetSpent,
    PaceReached,
    PriceUnknown,
    StoreError,
    ThreadQuarantined,
    Waiting,
)
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import USER, Address
from turnkeep.models.model import ModelRequest, output_limit
from turnkeep.pricing.prices import PriceBook
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.record_cache import RecordCache
from turnkeep.store.shared_ledger import Limit, Spend
from turnkeep.store.values import Claim
from turnkeep.telemetry import SILENT, Meter, get_log
from turnkeep.usage import NANO, Usage

log = get_log(__name__)

Owner = Literal["tenant", "thread", "user"]
Period = Literal["hour", "day", "month"]

OUTPUT_GUESS = 2_000
"""Tokens that an answer is expected to have at most, where the request sets no lower limit."""

LATER = Backoff(delay=1.0, cap=15.0)
ASK_AN_OPERATOR = 60.0
SWEPT_AT_ONCE = 10_000

_STARTS: Mapping[Period, str] = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
_RETENTION: Mapping[Period, float] = {"hour": 7_200.0, "day": 172_800.0, "month": 2_764_800.0}


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so many US dollars for each tenant, thread or user in each period (UTC).

    A message's user is named by its metadata (``user``), which the doors take from the credential
    where there is one; messages without one have no budget of a user.
    """

    of: Owner
    dollars: float
    period: Period = "day"

    def limit(self, claim: Claim) -> Limit | None:
        """The account of this claim."""
        owner = _owner(self.of, claim)
        return None if owner is None else self.limit_of(owner, claim.claimed_at)

    def limit_of(self, owner: str, at: float) -> Limit:
        """The account of an owner in the period of this moment."""
        start = datetime.fromtimestamp(at, UTC).strftime(_STARTS[self.period])
        return Limit(f"{self.of}:{owner}:{start}", round(self.dollars * NANO), _RETENTION[self.period])


@dataclass(frozen=True, slots=True)
class Balance:
    """A budget, and what is spent of it in this period; None where each thread or user has one of its own."""

    budget: Budget
    spend: Spend | None

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"of": self.budget.of, "period": self.budget.period, "dollars": self.budget.dollars}
        if self.spend is None:
            return data
        return data | {"spent": self.spend.settled_amount / NANO, "reserved": self.spend.reserved_amount / NANO}


def budgets_of(settings: Settings) -> list[Budget]:
    """Those that are set."""
    period = settings.budget_period
    all_of_them = [
        Budget("tenant", settings.tenant_budget, period),
        Budget("user", settings.user_budget, period),
        Budget("thread", settings.thread_budget, period),
    ]
    return [budget for budget in all_of_them if budget.dollars > 0]


async def read_balances(store: Store, settings: Settings, tenant: str, *, now: float) -> list[Balance]:
    """How a tenant stands with the budgets that are set; `now` by the store."""
    balances = []
    for budget in budgets_of(settings):
        own_account = budget.limit_of(tenant, now).account if budget.of == "tenant" else None
        spend = await store.spend(own_account, tenant=tenant) if own_account is not None else None
        balances.append(Balance(budget, spend))
    return balances


def _owner(of: Owner, claim: Claim) -> str | None:
    if of == "tenant":
        return claim.address.tenant
    if of == "thread":
        return claim.thread_id
    # hashed below: users are named by anything, accounts are keys of the store
    users = [user for message in claim.messages if (user := message.metadata.get(USER))]
    return hashlib.sha256(users[-1].encode("utf-8", "surrogatepass")).hexdigest()[:16] if users else None


@dataclass(frozen=True, slots=True)
class Pace:
    """What all workers together may ask of one endpoint in a minute; 0 is unlimited."""

    requests: int = 0
    tokens: int = 0


class Budgets:
    """Budgets and pace of all runs. Without either it still keeps the pace that providers ask for.

    Patient ones let a run wait where it is, until its deadline, instead of raising `Waiting`.
    """

    def __init__(
        self,
        store: Store,
        prices: PriceBook,
        budgets: Sequence[Budget] = (),
        *,
        pace: Pace = Pace(),
        meter: Meter = SILENT,
        patient: bool = False,
    ) -> None:
        self.store = store
        self.prices = prices
        self.budgets = tuple(budget for budget in budgets if budget.dollars > 0)
        self.pace = pace
        self.meter = meter
        self.patient = patient
        self.is_limited = bool(self.budgets or pace.requests or pace.tokens)
        self.counts_tokens = bool(self.budgets or pace.tokens)
        self.slow_downs = RecordCache(store, self._slow_down_of)
        """Seconds to wait for each endpoint, where no pace is set and providers alone say so."""

    @classmethod
    def from_settings(
        cls, settings: Settings, store: Store, prices: PriceBook, *, meter: Meter = SILENT, patient: bool = False
    ) -> Self:
        pace = Pace(settings.requests_per_minute, settings.tokens_per_minute)
        return cls(store, prices, budgets_of(settings), pace=pace, meter=meter, patient=patient)

    async def _slow_down_of(self, endpoint: str) -> float:
        return await self.store.pace(endpoint, requests=0, tokens=0, tokens_wanted=0)

    def run_budget(self, claim: Claim) -> RunBudget:
        """What one claim may spend of `budgets`; where there is none, all runs ask here alone."""
        return RunBudget(self, claim)

    async def before_request(self, request: ModelRequest, tokens: int, endpoint: str) -> None:
        """Returns when this request may be made now, as far as pace says. Raises `Waiting`."""
        await self.patiently(lambda: self.keep_pace(request, tokens, endpoint))

    async def patiently(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask until there is nothing to wait for, or once where the run is to wait elsewhere."""
        while True:
            try:
                return await ask()
            except Waiting as waiting:
                if not self.patient:
                    raise
                delay = waiting.retry_after or 1.0
            await asyncio.sleep(delay)

    async def keep_pace(self, request: ModelRequest, tokens: int, endpoint: str) -> None:
        """Raises `PaceReached`."""
        pace = self.pace
        if pace.requests or pace.tokens:
            wait = await self.store.pace(
                endpoint, requests=pace.requests, tokens=pace.tokens, tokens_wanted=tokens + _output_guess(request)
            )
        # Without a limit nothing is taken by this question, so the answer that there is none holds until another
        # one is heard of.
        elif (wait := await self.slow_downs.get(endpoint)) > 0.0:
            self.slow_downs.drop(endpoint)
        if wait > 0.0:
            raise PaceReached(f"the pace of {endpoint} is reached, {wait:.1f} s to wait", retry_after=wait)

    async def slow_down(self, wait: float, endpoint: str) -> None:
        """Let all workers wait for what a provider has nothing left of."""
        await self.store.slow_down(endpoint, wait)

    async def sweep(self, *, older_than: float = 600.0, tenants: Collection[str] | None = None) -> int:
        """Settle what crashes have left open, for these tenants or all; how many reservations.

        Repeat now and then.
        """
        if not self.budgets:
            return 0
        count = 0
        for tenant in await self.store.ledgers() if tenants is None else sorted(tenants):
            for reservation in (await self.store.sweep(older_than=older_than, tenant=tenant))[:SWEPT_AT_ONCE]:
                count += await self._close(reservation, tenant)
            await self._forget_old(tenant)
        return count

    async def _close(self, reservation: str, tenant: str) -> bool:
        """Settle a reservation, unless its run goes on.

        Of a run whose thread is gone nobody knows what it cost: what was reserved counts as spent,
        else deleting a thread in time would make its answers free.
        """
        run_id, _, place = reservation.partition(" ")
        queue, _, thread_id = place.rpartition(" ")
        address = Address(tenant, queue, thread_id)
        cost: int | None = None
        try:
            if await self.store.thread(address) is not None:
                run = next((run for run in await self.store.runs(address) if run.run_id == run_id), None)
                if run is not None and run.finished_at is None:
                    return False
                cost = 0 if run is None else run.usage.cost_nano  # None: withdrawn before it had begun
        except ThreadQuarantined:
            # unreadable for now: once it is mended, it says what the run has cost
            return False
        await self.store.settle(reservation, cost, tenant=tenant)
        return True

    async def _forget_old(self, tenant: str) -> None:
        """Reservations that outlived the accounts they are in."""
        longest = max((_RETENTION[budget.period] for budget in self.budgets), default=0.0)
        for reservation in await self.store.sweep(older_than=longest, tenant=tenant):
            await self.store.settle(reservation, 0, tenant=tenant)


class RunBudget:
    """One claim's reservation and requests."""

    is_limited = True

    def __init__(self, budgets: Budgets, claim: Claim) -> None:
        self._budgets = budgets
        self._claim = claim
        self._has_reservation = False
        self.slow_downs = budgets.slow_downs

    @property
    def counts_tokens(self) -> bool:
        return not self._has_reservation or self._budgets.pace.tokens > 0

    async def before_request(self, request: ModelRequest, tokens: int, endpoint: str) -> None:
        """Returns when this request may be made now.

        Raises `Waiting`, or `BudgetSpent` when the money is spent.
        """
        await self._budgets.patiently(lambda: self._ask_leave(request, tokens, endpoint))

    async def _ask_leave(self, request: ModelRequest, tokens: int, endpoint: str) -> None:
        if not self._has_reservation:
            usage = Usage(requests=1, input_tokens=tokens, output_tokens=_output_guess(request))
            await self._reserve(request.model, usage)
            self._has_reservation = True
        await self._budgets.keep_pace(request, tokens, endpoint)

    async def slow_down(self, wait: float, endpoint: str) -> None:
        await self._budgets.slow_down(wait, endpoint)

    async def settle(self, usage: Usage) -> None:
        """The run is over: replace its reservation by what it cost.

        A failure leaves that to the sweep.
        """
        try:
            await self._budgets.store.settle(self._name, usage.cost_nano, tenant=self._claim.address.tenant)
        except StoreError as error:
            log.warning("settlement_of_cost_failed", run_id=self._claim.run_id, error=str(error))

    @property
    def _name(self) -> str:
        """Of the reservation: the run, and where the sweep finds it."""
        return f"{self._claim.run_id} {self._claim.address.queue} {self._claim.thread_id}"

    async def _reserve(self, model: str, estimate: Usage) -> None:
        claim, budgets = self._claim, self._budgets
        usage = budgets.prices.cost(estimate, model)
        if usage.unpriced:
            sentence = f"no price is known for {model}, so its budget cannot be kept: add one to TURNKEEP_PRICE_FILE"
            log.error("price_unknown", model=model, hint=sentence)
            raise PriceUnknown(sentence, retry_after=ASK_AN_OPERATOR)
        limits = [limit for budget in budgets.budgets if (limit := budget.limit(claim)) is not None]
        answer = await budgets.store.reserve(self._name, usage.cost_nano, limits, tenant=claim.address.tenant)
        if answer.outcome == "granted":
            return
        of = str(answer.account).partition(":")[0]
        if answer.outcome == "waits":
            raise BudgetReserved(f"other runs have reserved the rest of the {of}'s budget", retry_after=_later(claim))
        budgets.meter.count("budget_refusals", of=of)
        raise BudgetSpent(f"the {of}'s budget has no room for this run any more; it begins anew with the next period")


def _output_guess(request: ModelRequest) -> int:
    return min(output_limit(request.parameters) or OUTPUT_GUESS, OUTPUT_GUESS)


def _later(claim: Claim) -> float:
    return 0.5 + LATER.after(claim.attempt)
