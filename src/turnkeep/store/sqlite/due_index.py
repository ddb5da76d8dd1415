"""Which thread of each tenant and queue wakes first: what claims choose from and waiting workers
look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Protocol

import apsw

from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.fair_share import charge, next_tenant
from turnkeep.store.sqlite.batch import SHARE, Batch
from turnkeep.store.sqlite.connection import every

TenantQueue = tuple[str, str]
"""Tenant and queue."""

# From one tenant and queue to the next along the index: a GROUP BY would read
# every thread that wakes.
_FROM = (
    "SELECT wake, tenant, queue, channel, id FROM thread WHERE wake IS NOT NULL AND (tenant, queue) >= (?, ?)"
    " ORDER BY tenant, queue, wake, channel LIMIT 1"
)
_AFTER = _FROM.replace(">=", ">")


@dataclass(frozen=True, slots=True, order=True)
class First:
    """The thread that wakes first of its tenant and queue; equal times are told
    apart by the address.
    """

    wake: float
    address: Address
    row: int


def first_of_each(connection: apsw.Connection) -> Iterator[First]:
    """One look-up per tenant and queue with a thread that wakes, however many threads there are."""
    tenant_queue: TenantQueue = ("", "")
    statement = _FROM
    while True:
        record = connection.execute(statement, tenant_queue).get
        if record is None:
            return
        wake, *names, row = record
        yield First(wake, Address(*names), row)
        tenant_queue, statement = (names[0], names[1]), _AFTER


def earliest(connection: apsw.Connection, queues: Sequence[str] | None) -> float | None:
    """When the next thread of these queues wakes (None: of any)."""
    wakes = [first.wake for first in first_of_each(connection) if queues is None or first.address.queue in queues]
    return min(wakes, default=None)


class FileView(Protocol):
    """The file as it is, and as it is when it says all that was changed."""

    file: apsw.Connection

    @property
    def connection(self) -> apsw.Connection: ...


class DueIndex:
    """The first thread of each tenant and queue, kept in memory by the writer: looked up again
    where something changed.
    """

    def __init__(self, view: FileView) -> None:
        self._view = view
        self._firsts: dict[TenantQueue, First] = {}
        self._dirty_queues: set[TenantQueue] = set()
        self._is_known = False

    def forget(self) -> None:
        """Somebody else may have changed anything."""
        self._is_known = False

    def mark_changed(self, address: Address) -> None:
        """A thread of this tenant and queue wakes at another time than before."""
        self._dirty_queues.add((address.tenant, address.queue))

    def firsts(self) -> dict[TenantQueue, First]:
        if not self._is_known:
            self._firsts = {(f.address.tenant, f.address.queue): f for f in first_of_each(self._view.connection)}
            self._is_known = True
        else:
            # only where something was written since: a claim costs as much with a thousand tenants
            # as with one
            for tenant_queue in self._dirty_queues:
                self._look(tenant_queue)
        self._dirty_queues.clear()
        return self._firsts

    def earliest(self, queues: Sequence[str] | None) -> float:
        """When the next thread of these queues wakes; `inf` for never."""
        wakes = [f.wake for (_, queue), f in self.firsts().items() if queues is None or queue in queues]
        return min(wakes, default=inf)

    def following(self, tenant_queue: TenantQueue, now: float, limit: int) -> list[First]:
        """The threads of a tenant and queue that are due, the first before all others: those of which
        `firsts` was asked, for what a claim has taken since is of other places.
        """
        rows = every(
            self._view.file,
            "SELECT wake, channel, id FROM thread WHERE tenant = ? AND queue = ? AND wake <= ?"
            " ORDER BY wake, channel LIMIT ?",
            (*tenant_queue, now, limit),
        )
        return [First(wake, Address(*tenant_queue, channel), row) for wake, channel, row in rows]

    def _look(self, tenant_queue: TenantQueue) -> None:
        record = self._view.connection.execute(
            "SELECT wake, channel, id FROM thread WHERE tenant = ? AND queue = ? AND wake IS NOT NULL"
            " ORDER BY wake, channel LIMIT 1",
            tenant_queue,
        ).get
        if record is None:
            self._firsts.pop(tenant_queue, None)
        else:
            wake, channel, row = record
            self._firsts[tenant_queue] = First(wake, Address(*tenant_queue, channel), row)


class TenantShares:
    """The rules of `turnkeep.store.fair_share` over a table."""

    def __init__(self, view: FileView, batch: Batch) -> None:
        self._view = view
        self._batch = batch
        self._claim_counts: dict[str, float] = {}
        self._floor = 0.0
        self._is_known = False
        self._dirty_tenants: set[str] = set()

    def forget(self) -> None:
        """Somebody else may have changed them, or the change was taken back."""
        self._is_known = False
        self._dirty_tenants.clear()

    def next_tenant(self, ready: Mapping[str, float]) -> str:
        """Whom to serve, of those with a ready thread and the time since when."""
        self._know()
        return next_tenant(ready, self._claim_counts, self._floor)

    def charge(self, tenant: str, weight: float) -> None:
        """One claim for this tenant; to be stored."""
        self._know()
        self._claim_counts[tenant], self._floor = charge(tenant, weight, self._claim_counts, self._floor)
        self._dirty_tenants.add(tenant)

    def store(self) -> None:
        # once for a whole claim, however many threads it took: each row costs a page of the log
        for tenant in self._dirty_tenants:
            self._batch.put(SHARE, tenant, (tenant, self._claim_counts[tenant], self._floor))
        self._dirty_tenants.clear()

    def forget_silent(self) -> None:
        """Remove tenants that would begin at the floor anyway."""
        self._know()
        self._view.connection.execute("DELETE FROM served WHERE claims <= ?", (self._floor,))

    def _know(self) -> None:
        if not self._is_known:
            rows = every(self._view.connection, "SELECT tenant, claims, floor FROM served")
            self._claim_counts = {tenant: claims for tenant, claims, _ in rows}
            self._floor = max((floor for *_, floor in rows), default=0.0)
            self._is_known = True
