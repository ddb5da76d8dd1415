"""Sinks: what must reach the outside, at least once and in channel order, and what is parked
because it did not.

A sink is a name with a position in each partition. The outbox keeps an event while an open sink
selects it and has not delivered it; `turnkeep.store.log_bounds` and the engines say how many. An
event that its receiver fails on is *parked*: taken out of the way of other channels, kept with all
later events of its own channel until they are delivered in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from turnkeep.events import FINAL, Event, EventKind
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address

MOST_PARKED = 10_000
"""Events that are parked of one sink and partition at most; the oldest go first, those given up
before all others.
"""

WAITING_COUNTED = 10_000
"""A `SinkRecord` counts what waits in a partition up to here: counting must not hold up a store
with a long backlog.
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events are for a sink: nothing else is kept for it, or counts against the
    bound of the outbox.
    """

    tenant: str | None = None
    queue: str | None = None
    finals: bool = False
    """Only how turns ended."""

    def includes(self, address: Address, kind: EventKind) -> bool:
        # Selected before it is kept: a receiver of final
        # events alone must not fill its outbox with deltas.
        return (
            self.tenant in (None, address.tenant)
            and self.queue in (None, address.queue)
            and (not self.finals or kind in FINAL)
        )


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to the outside. `position` orders the deliveries of one partition."""

    position: str
    address: Address
    thread_id: str
    event: Event


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that is out of the way, without its body.

    `failed_at`: since when its receiver has failed on it; None while it waits behind an earlier one
    of its channel. `is_given_up`: nobody tries any more, until it is redriven.
    """

    position: str
    address: Address
    thread_id: str
    kind: str
    offset: int
    at: float
    reason: str = ""
    failed_at: float | None = None
    is_given_up: bool = False

    def to_json(self) -> dict[str, Any]:
        where = self.address
        return {
            "position": self.position,
            "tenant": where.tenant,
            "queue": where.queue,
            "channel": where.channel,
            "thread_id": self.thread_id,
            "kind": self.kind,
            "offset": self.offset,
            "at": self.at,
            "reason": self.reason,
            "failed_at": self.failed_at,
            "given_up": self.is_given_up,
        }


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """How a sink stands, over all partitions. `oldest_at`: of what waits; `lost`: what fell out at
    a bound, the last one at `lost_at`.
    """

    name: str
    waiting: int = 0
    oldest_at: float | None = None
    parked: int = 0
    given_up: int = 0
    lost: int = 0
    lost_at: float | None = None
    partitions: tuple[int, ...] = (0,)

    def join(self, other: SinkRecord) -> SinkRecord:
        """With what another partition says of the same sink."""
        return SinkRecord(
            self.name,
            self.waiting + other.waiting,
            min((at for at in (self.oldest_at, other.oldest_at) if at is not None), default=None),
            self.parked + other.parked,
            self.given_up + other.given_up,
            self.lost + other.lost,
            max((at for at in (self.lost_at, other.lost_at) if at is not None), default=None),
            (*self.partitions, *other.partitions),
        )

    def to_json(self) -> dict[str, Any]:
        names = ("name", "waiting", "oldest_at", "parked", "given_up", "lost", "lost_at")
        return {name: getattr(self, name) for name in names}


class Sinks(Protocol):
    """The outbox. What `once` means: `turnkeep.store.operations`."""

    async def open_sink(
        self, sink: str, selection: Selection = EVERYTHING, *, once: str | None = None
    ) -> Sequence[int]:
        """Register a sink by name; from now on the outbox keeps what it selects until it is
        delivered. Again: changes the selection of what comes. The partitions to serve.
        """
        ...

    async def close_sink(self, sink: str, *, once: str | None = None) -> None:
        """Forget a sink, what was kept for it alone, and what is parked."""
        ...

    # A lease and not a lock: a forwarder that dies must not stop the deliveries of the others.
    async def lease_sink(self, sink: str, partition: int, *, owner: str, lease: float) -> str | None:
        """Become or stay the only one who delivers this partition to this sink: the stored position
        ("" at the beginning), None if another owner has it. `NotFound` for a sink that is not open.
        """
        ...

    async def deliveries(self, sink: str, partition: int, *, after: str, limit: int) -> list[Delivery]:
        """Events after a position, in partition order (hence in channel order); some may not be
        selected. As durable as what has a receipt: they are told outside, where nothing is taken back.
        """
        ...

    async def mark_delivered(
        self, sink: str, partition: int, *, owner: str, position: str, to_park: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Store the position, fenced by the sink lease (`LeaseLost`), and in the same act park
        these (position, reason): with a reason, the receiver has failed on it from now; without, it
        waits behind its channel.
        """
        ...

    async def list_parked(self, sink: str, partition: int, *, after: str = "", limit: int = 1000) -> list[ParkedEvent]:
        """What is parked, in order, after a position."""
        ...

    async def parked_deliveries(self, sink: str, partition: int, positions: Sequence[str]) -> list[Delivery]:
        """The parked events at these positions, in order; those that are not there (any more) are
        left out.
        """
        ...

    # Apart from `mark_delivered`, for a parked event has left the order that the position counts.
    async def note_failure(
        self, sink: str, partition: int, position: str, *, reason: str, give_up: bool, once: str | None = None
    ) -> None:
        """A parked event was not delivered: `failed_at` is now unless it was before."""
        ...

    async def redrive_parked(
        self, sink: str, partition: int, positions: Sequence[str], *, once: str | None = None
    ) -> int:
        """Try again as if these had never failed; how many there are. They keep their place."""
        ...

    async def unpark(self, sink: str, partition: int, positions: Sequence[str], *, once: str | None = None) -> int:
        """Drop parked events: delivered, or wanted by nobody any more. How many there were."""
        ...

    async def sinks(self) -> list[SinkRecord]:
        """All open sinks, by name."""
        ...
