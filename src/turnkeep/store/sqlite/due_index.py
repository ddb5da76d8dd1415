"""Which thread of each tenant and queue wakes first: what claims choose from and waiting workers
look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import apsw

from turnkeep.messages import Address
from turnkeep.store.fair_share import charge, next_tenant
from turnkeep.store.sqlite.connection import every

Place = tuple[str, str]
"""Tenant and queue."""


@dataclass(frozen=True, slots=True, order=True)
class First:
    """The thread that wakes first in its place; equal times are told apart by the address."""

    wake: float
    address: Address
    row: int


# From place to place along the index: a GROUP BY would read every thread that wakes.
_FROM = (
    "SELECT wake, tenant, queue, channel, id FROM thread WHERE wake IS NOT NULL AND (tenant, queue) >= (?, ?)"
    " ORDER BY tenant, queue, wake, channel LIMIT 1"
)
_AFTER = _FROM.replace(">=", ">")


def first_of_each(connection: apsw.Connection) -> Iterator[First]:
    """One look-up per tenant and queue with a thread that wakes, however many threads there are."""
    place: Place = ("", "")
    statement = _FROM
    while True:
        record = connection.execute(statement, place).get
        if record is None:
            return
        wake, *names, row = record
        yield First(wake, Address(*names), row)
        place, statement = (names[0], names[1]), _AFTER


def earliest(connection: apsw.Connection, queues: Sequence[str] | None) -> float | None:
    """When the next thread of these queues wakes (None: of any)."""
    wakes = [first.wake for first in first_of_each(connection) if queues is None or first.address.queue in queues]
    return min(wakes, default=None)


class Due:
    """The first thread of each place, kept in memory by the writer: looked up again where something
    changed.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._firsts: dict[Place, First] = {}
        self._dirty_places: set[Place] = set()
        self._is_known = False

    def forget(self) -> None:
        """Somebody else may have changed anything."""
        self._is_known = False

    def mark_changed(self, address: Address) -> None:
        """A thread of this place wakes at another time than before."""
        self._dirty_places.add((address.tenant, address.queue))

    def firsts(self) -> dict[Place, First]:
        if not self._is_known:
            self._firsts = {(f.address.tenant, f.address.queue): f for f in first_of_each(self._connection)}
            self._is_known = True
        else:
            # only where something was written since: a claim costs as much with a thousand tenants
            # as with one
            for place in self._dirty_places:
                self._look(place)
        self._dirty_places.clear()
        return self._firsts

    def _look(self, place: Place) -> None:
        record = self._connection.execute(
            "SELECT wake, channel, id FROM thread WHERE tenant = ? AND queue = ? AND wake IS NOT NULL"
            " ORDER BY wake, channel LIMIT 1",
            place,
        ).get
        if record is None:
            self._firsts.pop(place, None)
        else:
            wake, channel, row = record
            self._firsts[place] = First(wake, Address(*place, channel), row)


class Shares:
    """The rules of `turnkeep.store.fair_share` over a table."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
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
            self._connection.execute(
                "REPLACE INTO served (tenant, claims, floor) VALUES (?, ?, ?)",
                (tenant, self._claim_counts[tenant], self._floor),
            )
        self._dirty_tenants.clear()

    def forget_silent(self) -> None:
        """Remove tenants that would begin at the floor anyway."""
        self._know()
        self._connection.execute("DELETE FROM served WHERE claims <= ?", (self._floor,))

    def _know(self) -> None:
        if not self._is_known:
            rows = every(self._connection, "SELECT tenant, claims, floor FROM served")
            self._claim_counts = {tenant: claims for tenant, claims, _ in rows}
            self._floor = max((floor for *_, floor in rows), default=0.0)
            self._is_known = True
