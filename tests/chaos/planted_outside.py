"""Bugs that only a storm over real processes shows: of the servers, the disk and the receivers that it has outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import apsw

from tests.chaos.planted import OUTSIDE, Replace
from turnkeep.outbound import forwarder, parking
from turnkeep.store.redis import durability, part, server_fitness
from turnkeep.store.sqlite import transaction
from turnkeep.store.sqlite.waiters import News


def outside(plant: Callable[[Replace], None]) -> Callable[[Replace], None]:
    OUTSIDE[plant.__name__] = plant
    return plant


@outside
def what_fails_is_left_out(replaces: Replace) -> None:
    """An event that its receiver fails on is passed over, and not parked."""
    store_position = forwarder._PartitionDelivery._store_position

    async def leave_out(self: Any, parked: Sequence[Any] = ()) -> None:
        await store_position(self, ())

    replaces(forwarder._PartitionDelivery, "_store_position", leave_out)


@outside
def what_fails_is_tried_before_all_others(replaces: Replace) -> None:
    """An event that its receiver fails on is sent until it is taken, and all others wait behind it."""
    replaces(parking.Health, "may_park", lambda self: False)


@outside
def failed_write_taken_for_done(replaces: Replace) -> None:
    """What could not be written is answered for: it stands in the log of the machine, and will be written some time."""
    commit = transaction.Transaction.commit

    def committed(self: transaction.Transaction) -> News:
        try:
            return commit(self)
        except (apsw.IOError, apsw.FullError):
            with suppress(apsw.Error):
                self.roll_back()
            return News()

    replaces(transaction.Transaction, "commit", committed)


@outside
def unfit_server_gives_receipts(replaces: Replace) -> None:
    """A server is examined when the store is opened, and believed from then on."""

    async def believed(self: server_fitness.Fitness, *_: Any) -> None:
        return

    replaces(server_fitness.Fitness, "require", believed)
    replaces(server_fitness.Fitness, "trouble", lambda self, endpoint: None)


@outside
def replica_not_waited_for(replaces: Replace) -> None:
    """An answer is given as soon as the primary has it."""

    async def answered(self: durability.DurabilityWait, witness: durability.WriteObserver) -> None:
        return

    replaces(durability.DurabilityWait, "after", answered)


@outside
def receivers_told_too_early(replaces: Replace) -> None:
    """What happened goes to receivers outside as soon as the primary has it."""

    async def told(self: part.RedisPart, observer: object) -> None:
        return

    replaces(part.RedisPart, "_wait_until_safe", told)
