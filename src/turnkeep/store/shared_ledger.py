"""What all workers share of money, pace and open circuits: what an engine promises of it, and the values.

Part of the contract of an engine (`contract.Store`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget: at most `amount` (nano-dollars, or tokens: the account's name says it) in
    `account`, which names owner and period and is kept `keep` seconds.
    """

    account: str
    amount: int
    keep: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """granted; waits (only open reservations are in the way); refused (does not fit beside what is
    settled), with the account that refuses.
    """

    outcome: Literal["granted", "waits", "refused"]
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Spend:
    """What an account holds: settled and reserved."""

    settled_amount: int
    reserved_amount: int


@dataclass(frozen=True, slots=True)
class Circuit:
    """Why an endpoint is not asked. `probe_at`: when one run may try (store clock)."""

    endpoint: str
    fault: TurnFault
    opened_at: float
    probe_at: float


class Ledger(Protocol):
    """Money, pace and open circuits, shared by all workers."""

    async def reserve(
        self, run_id: str, amount: int, limits: Sequence[Limit], *, tenant: str, once: str | None = None
    ) -> Reservation:
        """Reserve in all accounts or in none. Again for the same run: granted, nothing changes."""
        ...

    async def settle(self, run_id: str, amount: int | None, *, tenant: str, once: str | None = None) -> None:
        """Replace a run's reservation by what was spent, None: by what was reserved. A run without
        reservation changes nothing.
        """
        ...

    # Only names them: what a run has spent is known by its thread, which is not the ledger's.
    async def sweep(self, *, older_than: float, tenant: str) -> list[str]:
        """Runs whose reservation is older than so many seconds: candidates to be settled from what
        their threads say.
        """
        ...

    async def ledgers(self) -> list[str]:
        """The tenants that have reservations; some may have none left."""
        ...

    async def spend(self, account: str, *, tenant: str) -> Spend: ...

    # The store's buckets, not the worker's: a provider counts all workers together.
    async def pace(
        self, key: str, *, requests: float, tokens: float, tokens_wanted: int, once: str | None = None
    ) -> float:
        """Take one request and so many tokens from the shared buckets (limits per minute, 0:
        unlimited): 0.0 if granted, else seconds to wait (nothing taken). More tokens than a full
        bucket holds: a full bucket is enough.
        """
        ...

    async def slow_down(self, key: str, seconds: float, *, once: str | None = None) -> None:
        """No request of this key is granted by `pace` for so long (the provider
        said so); never shortens.
        """
        ...

    async def trip(self, endpoint: str, fault: TurnFault, *, probe_in: float, once: str | None = None) -> Circuit:
        """Open the circuit, or keep it open as it is; the first one to open it is remembered."""
        ...

    async def circuits(self) -> list[Circuit]: ...

    async def probe(self, endpoint: str, *, every: float, once: str | None = None) -> bool:
        """May this caller try? True if the circuit is closed, or for one caller per `every` seconds
        while it is open.
        """
        ...

    async def mend(self, endpoint: str, *, once: str | None = None) -> bool:
        """Close the circuit. False if it was closed."""
        ...
