"""Registry and ledger of the memory engine: small records, money, pace and circuits in dictionaries."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from turnkeep.errors import Conflict
from turnkeep.events import Fault
from turnkeep.store.base import Circuit, Document, Limit, RegistryKind, Reservation, Spend

MINUTE = 60.0


class MemoryRegistry:
    """The registry protocol."""

    def __init__(self) -> None:
        self._documents: dict[tuple[str, str, str], tuple[Document, float | None]] = {}

    def moment(self) -> float:
        """The time that counts; the engine overrides this."""
        raise NotImplementedError

    async def get(self, kind: RegistryKind, tenant: str, name: str) -> Document | None:
        return self._document(kind, tenant, name, self.moment())

    async def put(
        self,
        kind: RegistryKind,
        tenant: str,
        name: str,
        body: Mapping[str, Any],
        *,
        version: int | None = None,
        ttl: float | None = None,
    ) -> Document:
        now = self.moment()
        old = self._document(kind, tenant, name, now)
        found = old.version if old else 0
        if old is not None and old.body == body and version in (None, found, found - 1):
            document = old
        elif version in (None, found):
            document = Document(name, found + 1, copy.deepcopy(dict(body)), now)
        else:
            raise Conflict(f"{kind} {name!r} has version {found}, not {version}: read it again")
        self._documents[kind, tenant, name] = (document, None if ttl is None else now + ttl)
        return copy.deepcopy(document)

    async def take(self, kind: RegistryKind, tenant: str, name: str) -> Document | None:
        document = self._document(kind, tenant, name, self.moment())
        self._documents.pop((kind, tenant, name), None)
        return document

    async def list(self, kind: RegistryKind, tenant: str) -> list[Document]:
        now = self.moment()
        names = sorted(name for k, t, name in self._documents if (k, t) == (kind, tenant))
        found = [self._document(kind, tenant, name, now) for name in names]
        return [document for document in found if document is not None]

    def _document(self, kind: str, tenant: str, name: str, now: float) -> Document | None:
        document, until = self._documents.get((kind, tenant, name), (None, None))
        return None if until is not None and until <= now else copy.deepcopy(document)

    def _forget_documents(self, now: float) -> None:
        self._documents = {k: v for k, v in self._documents.items() if v[1] is None or v[1] > now}


@dataclass(slots=True)
class _Account:
    until: float
    settled: int = 0
    reserved: int = 0


@dataclass(slots=True)
class _Reserved:
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


class MemoryLedger:
    """The ledger protocol."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._reservations: dict[tuple[str, str], _Reserved] = {}
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._slowed: dict[str, float] = {}
        self._circuits: dict[str, Circuit] = {}

    def moment(self) -> float:
        """The time that counts; the engine overrides this."""
        raise NotImplementedError

    async def reserve(self, run_id: str, amount: int, limits: Sequence[Limit], *, tenant: str) -> Reservation:
        now = self.moment()
        if (tenant, run_id) in self._reservations:
            return Reservation("granted")
        held = [(limit, self._account(tenant, limit, now)) for limit in limits]
        for limit, account in held:
            if account.settled + amount > limit.amount:
                return Reservation("refused", limit.account)
        for limit, account in held:
            if account.settled + account.reserved + amount > limit.amount:
                return Reservation("waits", limit.account)
        for limit, account in held:
            account.reserved += amount
            self._keep(tenant, limit, account, now)
        self._reservations[tenant, run_id] = _Reserved(amount, tuple(limits), now)
        return Reservation("granted")

    async def settle(self, run_id: str, amount: int, *, tenant: str) -> None:
        now = self.moment()
        reserved = self._reservations.pop((tenant, run_id), None)
        for limit in reserved.limits if reserved else ():
            account = self._account(tenant, limit, now)
            account.reserved = max(0, account.reserved - reserved.amount) if reserved else 0
            account.settled += amount
            self._keep(tenant, limit, account, now)

    async def sweep(self, *, older_than: float, tenant: str) -> list[str]:
        before = self.moment() - older_than
        old = [
            (r.at, run_id) for (owner, run_id), r in self._reservations.items() if owner == tenant and r.at <= before
        ]
        return [run_id for _, run_id in sorted(old)]

    async def spend(self, account: str, *, tenant: str) -> Spend:
        found = self._account(tenant, Limit(account, 0, 0.0), self.moment())
        return Spend(found.settled, found.reserved)

    def _account(self, tenant: str, limit: Limit, now: float) -> _Account:
        found = self._accounts.get((tenant, limit.account))
        return found if found is not None and found.until > now else _Account(now)

    def _keep(self, tenant: str, limit: Limit, account: _Account, now: float) -> None:
        account.until = now + limit.keep
        self._accounts[tenant, limit.account] = account

    async def pace(self, key: str, *, requests: float, tokens: float, tokens_wanted: int) -> float:
        now = self.moment()
        wait = max(0.0, self._slowed.get(key, 0.0) - now)
        asked = [("requests", requests, 1.0), ("tokens", tokens, min(float(tokens_wanted), tokens))]
        limited = [(self._bucket(key, name, limit, now), limit, want) for name, limit, want in asked if limit > 0]
        for bucket, limit, want in limited:
            wait = max(wait, (want - bucket.level) * MINUTE / limit)
        for bucket, _, want in limited if wait == 0.0 else ():
            bucket.level -= want
        return wait

    def _bucket(self, key: str, name: str, capacity: float, now: float) -> _Bucket:
        bucket = self._buckets.setdefault((key, name), _Bucket(capacity, now))
        bucket.refill(capacity, now)
        return bucket

    async def slow_down(self, key: str, seconds: float) -> None:
        self._slowed[key] = max(self._slowed.get(key, 0.0), self.moment() + seconds)

    async def trip(self, endpoint: str, fault: Fault, *, probe_in: float) -> Circuit:
        now = self.moment()
        return self._circuits.setdefault(endpoint, Circuit(endpoint, fault, now, now + probe_in))

    async def circuits(self) -> list[Circuit]:
        self.moment()
        return [self._circuits[endpoint] for endpoint in sorted(self._circuits)]

    async def probe(self, endpoint: str, *, every: float) -> bool:
        now = self.moment()
        circuit = self._circuits.get(endpoint)
        if circuit is None:
            return True
        if now < circuit.probe_at:
            return False
        self._circuits[endpoint] = replace(circuit, probe_at=now + every)
        return True

    async def mend(self, endpoint: str) -> bool:
        self.moment()
        return self._circuits.pop(endpoint, None) is not None

    def _forget_accounts(self, now: float) -> None:
        self._accounts = {k: v for k, v in self._accounts.items() if v.until > now}
        self._slowed = {k: until for k, until in self._slowed.items() if until > now}
        self._buckets = {k: v for k, v in self._buckets.items() if v.at > now - MINUTE}
