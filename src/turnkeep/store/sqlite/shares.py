"""How much each tenant was served, kept in memory by the writer and stored with the claims that changed it."""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from turnkeep.store.sharing import charge, next_tenant
from turnkeep.store.sqlite.query import every


class Shares:
    """The rules of `turnkeep.store.sharing` over a table."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._served: dict[str, float] = {}
        self._floor = 0.0
        self._is_known = False
        self._charged: set[str] = set()

    def forget(self) -> None:
        """Somebody else may have changed them, or the change was taken back."""
        self._is_known = False
        self._charged.clear()

    def next_tenant(self, ready: Mapping[str, float]) -> str:
        """Whom to serve, of those with a ready thread and the time since when."""
        self._know()
        return next_tenant(ready, self._served, self._floor)

    def charge(self, tenant: str, weight: float) -> None:
        """One claim for this tenant; to be stored."""
        self._know()
        self._served[tenant], self._floor = charge(tenant, weight, self._served, self._floor)
        self._charged.add(tenant)

    def store(self) -> None:
        for tenant in self._charged:
            self._connection.execute(
                "REPLACE INTO served (tenant, claims, floor) VALUES (?, ?, ?)",
                (tenant, self._served[tenant], self._floor),
            )
        self._charged.clear()

    def forget_silent(self) -> None:
        """Remove tenants that would begin at the floor anyway."""
        self._know()
        self._connection.execute("DELETE FROM served WHERE claims <= ?", (self._floor,))

    def _know(self) -> None:
        if not self._is_known:
            found = every(self._connection, "SELECT tenant, claims, floor FROM served")
            self._served = {tenant: claims for tenant, claims, _ in found}
            self._floor = max((floor for *_, floor in found), default=0.0)
            self._is_known = True
