"""Money, pace and open circuits, in the SQLite engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from turnkeep.errors import ThreadQuarantined
from turnkeep.events import TurnFault
from turnkeep.store.shared_ledger import Circuit, Limit, Reservation, Spend
from turnkeep.store.sqlite.codec import decode, encode, restore
from turnkeep.store.sqlite.connection import every as rows
from turnkeep.store.sqlite.engine import Engine
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View

MINUTE = 60.0


class SqliteLedger(Engine):
    """The ledger protocol."""

    async def reserve(
        self, run_id: str, amount: int, limits: Sequence[Limit], *, tenant: str, once: str | None = None
    ) -> Reservation:
        operation = Once.of(once, "reserve", run_id, amount, limits, tenant)
        return await self.write(lambda tx: _reserve(tx, tenant, run_id, amount=amount, limits=limits), once=operation)

    async def settle(self, run_id: str, amount: int | None, *, tenant: str, once: str | None = None) -> None:
        operation = Once.of(once, "settle", run_id, amount, tenant)
        await self.write(lambda tx: _settle(tx, tenant, run_id, amount), "ending", operation)

    async def sweep(self, *, older_than: float, tenant: str) -> list[str]:
        def look(view: View) -> list[str]:
            records = rows(
                view.connection,
                "SELECT run_id FROM reservation WHERE tenant = ? AND at <= ? ORDER BY at, run_id",
                (tenant, view.now - older_than),
            )
            return [run_id for (run_id,) in records]

        return await self.read_from(look)

    async def ledgers(self) -> list[str]:
        def look(view: View) -> list[str]:
            records = rows(view.connection, "SELECT DISTINCT tenant FROM reservation ORDER BY tenant")
            return [tenant for (tenant,) in records]

        return await self.read_from(look)

    async def spend(self, account: str, *, tenant: str) -> Spend:
        return await self.read_from(lambda view: _spend(view, tenant, account))

    async def pace(
        self, key: str, *, requests: float, tokens: float, tokens_wanted: int, once: str | None = None
    ) -> float:
        demands = [("requests", requests, 1.0), ("tokens", tokens, min(float(tokens_wanted), tokens))]
        operation = Once.of(once, "pace", key, requests, tokens, tokens_wanted)
        # "soft": what a crash forgets allows at most one minute's requests again
        return await self.write(lambda tx: _pace(tx, key, demands), "soft", operation)

    async def slow_down(self, key: str, seconds: float, *, once: str | None = None) -> None:
        def act(tx: Transaction) -> None:
            tx.mark()
            tx.connection.execute(
                "INSERT INTO slowed (key, until) VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET until = max(until, excluded.until)",
                (key, tx.now + seconds),
            )

        await self.write(act, "ending", Once.of(once, "slow_down", key, seconds))
        self.revise()

    async def trip(self, endpoint: str, fault: TurnFault, *, probe_in: float, once: str | None = None) -> Circuit:
        def act(tx: Transaction) -> Circuit:
            tx.mark()
            tx.connection.execute(
                "INSERT INTO circuit (endpoint, opened_at, probe_at, fault) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (endpoint, tx.now, tx.now + probe_in, encode(fault)),
            )
            return _circuits(tx, endpoint)[0]

        circuit = await self.write(act, "ending", Once.of(once, "trip", endpoint, fault, probe_in))
        self.revise()
        return circuit

    async def circuits(self) -> list[Circuit]:
        return await self.read_from(lambda view: _circuits(view, None))

    async def probe(self, endpoint: str, *, every: float, once: str | None = None) -> bool:
        def act(tx: Transaction) -> bool:
            records = _circuits(tx, endpoint)
            if not records or tx.now < records[0].probe_at:
                return not records
            tx.mark()
            tx.connection.execute("UPDATE circuit SET probe_at = ? WHERE endpoint = ?", (tx.now + every, endpoint))
            return True

        return await self.write(act, "ending", Once.of(once, "probe", endpoint, every))

    async def mend(self, endpoint: str, *, once: str | None = None) -> bool:
        def act(tx: Transaction) -> bool:
            tx.mark()
            tx.connection.execute("DELETE FROM circuit WHERE endpoint = ?", (endpoint,))
            return tx.connection.changes() > 0

        was_open = await self.write(act, "ending", Once.of(once, "mend", endpoint))
        self.revise()
        return was_open


def _spend(view: View, tenant: str, account: str) -> Spend:
    sums = view.connection.execute(
        "SELECT settled, reserved FROM account WHERE tenant = ? AND account = ? AND until > ?",
        (tenant, account, view.now),
    ).get
    return Spend(*(sums or (0, 0)))


def _keep(tx: Transaction, tenant: str, limit: Limit, spend: Spend) -> None:
    tx.connection.execute(
        "REPLACE INTO account (tenant, account, settled, reserved, until) VALUES (?, ?, ?, ?, ?)",
        (tenant, limit.account, spend.settled_amount, spend.reserved_amount, tx.now + limit.keep),
    )


def _reserve(tx: Transaction, tenant: str, run_id: str, *, amount: int, limits: Sequence[Limit]) -> Reservation:
    """In all accounts or in none."""
    # a repeat after a lost reply: it was reserved already
    if tx.connection.execute("SELECT 1 FROM reservation WHERE tenant = ? AND run_id = ?", (tenant, run_id)).get:
        return Reservation("granted")
    # first what was spent, which never comes back, then what is reserved, which may: only the
    # latter is worth waiting for
    for limit in limits:
        if _spend(tx, tenant, limit.account).settled_amount + amount > limit.amount:
            return Reservation("refused", limit.account)
    for limit in limits:
        spend = _spend(tx, tenant, limit.account)
        if spend.settled_amount + spend.reserved_amount + amount > limit.amount:
            return Reservation("waits", limit.account)
    tx.mark()
    for limit in limits:
        spend = _spend(tx, tenant, limit.account)
        _keep(tx, tenant, limit, Spend(spend.settled_amount, spend.reserved_amount + amount))
    tx.connection.execute(
        "INSERT INTO reservation (tenant, run_id, amount, at, limits) VALUES (?, ?, ?, ?, ?)",
        (tenant, run_id, amount, tx.now, encode([asdict(limit) for limit in limits])),
    )
    return Reservation("granted")


def _settle(tx: Transaction, tenant: str, run_id: str, amount: int | None) -> None:
    reservation = tx.connection.execute(
        "SELECT amount, limits FROM reservation WHERE tenant = ? AND run_id = ?", (tenant, run_id)
    ).get
    if reservation is None:
        return
    tx.mark()
    reserved_amount, limits = reservation
    amount = reserved_amount if amount is None else amount
    # the limits of that time: settings may have changed since, and what was reserved there has to
    # go there
    for limit in (Limit(**data) for data in decode(limits)):
        spend = _spend(tx, tenant, limit.account)
        _keep(tx, tenant, limit, Spend(spend.settled_amount + amount, max(0, spend.reserved_amount - reserved_amount)))
    tx.connection.execute("DELETE FROM reservation WHERE tenant = ? AND run_id = ?", (tenant, run_id))


def _pace(tx: Transaction, key: str, demands: Sequence[tuple[str, float, float]]) -> float:
    """Take from all buckets or from none. `demands`: name, limit per minute (0: none) and what
    is wanted of each.
    """
    until = tx.connection.execute("SELECT until FROM slowed WHERE key = ?", (key,)).get or 0.0
    buckets = [(name, limit, want, _level(tx, key, name, limit)) for name, limit, want in demands if limit > 0]
    wait: float = max(0.0, until - tx.now)
    for _, limit, want, level in buckets:
        wait = max(wait, (want - level) * MINUTE / limit)
    tx.mark()
    for name, _, want, level in buckets:
        rest = level if wait else level - want
        tx.connection.execute(
            "REPLACE INTO bucket (key, name, level, at) VALUES (?, ?, ?, ?)", (key, name, rest, tx.now)
        )
    return wait


def _level(tx: Transaction, key: str, name: str, capacity: float) -> float:
    """What a bucket holds now, refilled evenly; one never used is full."""
    bucket = tx.connection.execute("SELECT level, at FROM bucket WHERE key = ? AND name = ?", (key, name)).get
    if bucket is None:
        return capacity
    level, at = bucket
    return min(capacity, float(level + (tx.now - at) * capacity / MINUTE))


def _circuits(view: View, endpoint: str | None) -> list[Circuit]:
    records = rows(
        view.connection,
        "SELECT endpoint, fault, opened_at, probe_at FROM circuit WHERE ?1 IS NULL OR endpoint = ?1 ORDER BY endpoint",
        (endpoint,),
    )
    return [Circuit(name, _fault(fault), opened_at, probe_at) for name, fault, opened_at, probe_at in records]


def _fault(text: str) -> TurnFault:
    """Every run asks what is open, so a reason that cannot be read is no reason to fail."""
    try:
        return restore("fault", lambda data: TurnFault(**data), text)
    except ThreadQuarantined as damage:
        return TurnFault("circuit_damaged", "The service is not available.", str(damage))
