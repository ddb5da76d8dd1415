"""The ledger of the memory engine: money, pace and open circuits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from turnkeep.clock import Clock
from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.store.ids import Ids, random_ids
from turnkeep.store.memory.once import once_only
from turnkeep.store.memory.state import DEFAULTS, MemoryState
from turnkeep.store.shared_ledger import Circuit, Limit, Reservation, Spend
from turnkeep.store.values import Policies

MINUTE = 60.0


@dataclass(slots=True)
class _Account:
    until: float
    settled_amount: int = 0
    reserved_amount: int = 0


@dataclass(slots=True)
class _RunReservation:
    amount: int
    limits: tuple[Limit, ...]
    at: float


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float

    def refill(self, capacity: float, now: float) -> None:
        self.level = min(capacity, self.level + (now - self.at) * capacity / MINUTE)
        self.at = now


class MemoryLedger(MemoryState):
    """What all workers share of budgets, buckets and circuits."""

    def __init__(self, policies: Policies = DEFAULTS, *, clock: Clock | None = None, ids: Ids = random_ids) -> None:
        super().__init__(policies, clock=clock, ids=ids)
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._reservations: dict[tuple[str, str], _RunReservation] = {}
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._slow_until: dict[str, float] = {}
        self._circuits: dict[str, Circuit] = {}

    @once_only
    async def reserve(
        self, run_id: str, amount: int, limits: Sequence[Limit], *, tenant: str, once: str | None = None
    ) -> Reservation:
        now = self.moment()
        # A further attempt of the run reserves nothing twice.
        if (tenant, run_id) in self._reservations:
            return Reservation("granted")
        accounts = [(limit, self._account(tenant, limit, now)) for limit in limits]
        # Settled money first: what is spent is refused
        # for good, what is only reserved may come back.
        for limit, account in accounts:
            if account.settled_amount + amount > limit.amount:
                return Reservation("refused", limit.account)
        for limit, account in accounts:
            if account.settled_amount + account.reserved_amount + amount > limit.amount:
                return Reservation("waits", limit.account)
        # After all were asked: a reservation is in every account or in none.
        for limit, account in accounts:
            account.reserved_amount += amount
            self._keep(tenant, limit, account, now)
        self._reservations[tenant, run_id] = _RunReservation(amount, tuple(limits), now)
        return Reservation("granted")

    @once_only
    async def settle(self, run_id: str, amount: int | None, *, tenant: str, once: str | None = None) -> None:
        now = self.moment()
        reservation = self._reservations.pop((tenant, run_id), None)
        for limit in reservation.limits if reservation else ():
            account = self._account(tenant, limit, now)
            # Not below 0: the account may have been begun anew since, with another period.
            account.reserved_amount = max(0, account.reserved_amount - reservation.amount) if reservation else 0
            account.settled_amount += reservation.amount if reservation and amount is None else amount or 0
            self._keep(tenant, limit, account, now)

    async def sweep(self, *, older_than: float, tenant: str) -> list[str]:
        before = self.moment() - older_than
        old = [
            (r.at, run_id) for (owner, run_id), r in self._reservations.items() if owner == tenant and r.at <= before
        ]
        return [run_id for _, run_id in sorted(old)]

    async def ledgers(self) -> list[str]:
        self.moment()
        return sorted({tenant for tenant, _ in self._reservations})

    async def spend(self, account: str, *, tenant: str) -> Spend:
        entry = self._account(tenant, Limit(account, 0, 0.0), self.moment())
        return Spend(entry.settled_amount, entry.reserved_amount)

    def _account(self, tenant: str, limit: Limit, now: float) -> _Account:
        entry = self._accounts.get((tenant, limit.account))
        return entry if entry is not None and entry.until > now else _Account(now)

    def _keep(self, tenant: str, limit: Limit, account: _Account, now: float) -> None:
        account.until = now + limit.keep
        self._accounts[tenant, limit.account] = account

    @once_only
    async def pace(
        self, key: str, *, requests: float, tokens: float, tokens_wanted: int, once: str | None = None
    ) -> float:
        now = self.moment()
        wait = max(0.0, self._slow_until.get(key, 0.0) - now)
        # A request larger than the bucket waits for a full one: it would wait for ever otherwise.
        demands = [("requests", requests, 1.0), ("tokens", tokens, min(float(tokens_wanted), tokens))]
        takes = [(self._bucket(key, name, limit, now), limit, want) for name, limit, want in demands if limit > 0]
        for bucket, limit, want in takes:
            wait = max(wait, (want - bucket.level) * MINUTE / limit)
        # Taken from all buckets or from none: whoever waits has used nothing.
        for bucket, _, want in takes if wait == 0.0 else ():
            bucket.level -= want
        return wait

    def _bucket(self, key: str, name: str, capacity: float, now: float) -> _Bucket:
        bucket = self._buckets.setdefault((key, name), _Bucket(capacity, now))
        bucket.refill(capacity, now)
        return bucket

    @once_only
    async def slow_down(self, key: str, seconds: float, *, once: str | None = None) -> None:
        self._slow_until[key] = max(self._slow_until.get(key, 0.0), self.moment() + seconds)
        self.revise()

    @once_only
    async def trip(self, endpoint: str, fault: TurnFault, *, probe_in: float, once: str | None = None) -> Circuit:
        now = self.moment()
        self.revise()
        return self._circuits.setdefault(endpoint, Circuit(endpoint, fault, now, now + probe_in))

    async def circuits(self) -> list[Circuit]:
        self.moment()
        return [self._circuits[endpoint] for endpoint in sorted(self._circuits)]

    @once_only
    async def probe(self, endpoint: str, *, every: float, once: str | None = None) -> bool:
        now = self.moment()
        circuit = self._circuits.get(endpoint)
        if circuit is None:
            return True
        # The moment is moved on with the permission, so
        # one caller asks and all others go on waiting.
        if now < circuit.probe_at:
            return False
        self._circuits[endpoint] = replace(circuit, probe_at=now + every)
        return True

    @once_only
    async def mend(self, endpoint: str, *, once: str | None = None) -> bool:
        self.moment()
        self.revise()
        return self._circuits.pop(endpoint, None) is not None

    def expire_accounts(self, now: float) -> None:
        self._accounts = {k: v for k, v in self._accounts.items() if v.until > now}
        self._slow_until = {k: until for k, until in self._slow_until.items() if until > now}
        self._buckets = {k: v for k, v in self._buckets.items() if v.at > now - MINUTE}
