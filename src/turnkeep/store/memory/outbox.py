"""What the memory engine keeps of events: the log of each thread, the outbox of the sinks, the feeds of followers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from turnkeep.errors import LeaseLost, NotFound
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store.base import Delivery, Follower, Policy
from turnkeep.store.following import Feed
from turnkeep.store.log import TRIM_EVERY, trimmed

OUTBOX = 100_000
"""Events that wait for sinks at most; the oldest go first."""


@dataclass(slots=True)
class Log:
    """The kept events of one thread."""

    events: list[Event] = field(default_factory=list)
    floor: int = 0
    untrimmed: int = 0

    def append(self, events: Sequence[Event], live_from: int | None, policy: Policy, now: float) -> None:
        self.events += events
        self.untrimmed += len(events)
        if self.untrimmed >= TRIM_EVERY:
            self.trim(live_from, policy, now)

    def trim(self, live_from: int | None, policy: Policy, now: float) -> None:
        self.events, removed = trimmed(self.events, live_from, policy, now)
        self.floor = max(self.floor, removed)
        self.untrimmed = 0

    def after(self, offset: int, limit: int) -> tuple[Event, ...]:
        return tuple([e for e in self.events if e.offset > offset][:limit])


@dataclass(slots=True)
class _Sink:
    since: int
    position: str = ""
    owner: str = ""
    until: float = 0.0


class Outbox:
    """Sinks with what is owed to them, and the feeds of followers. There is one partition, 0."""

    def __init__(self) -> None:
        self._deliveries: list[Delivery] = []
        self._sinks: dict[str, _Sink] = {}
        self._sent = 0
        self._feeds: dict[Feed, None] = {}  # a set would tell them in no order

    def tell(self, address: Address, thread_id: str, events: Sequence[Event]) -> None:
        for event in events:
            self._sent += 1
            if self._sinks:
                self._deliveries.append(Delivery(f"{self._sent:020d}", address, thread_id, event))
        if len(self._deliveries) > OUTBOX + TRIM_EVERY:
            del self._deliveries[:-OUTBOX]
        for feed in self._feeds if events else ():
            feed.tell(address, events)

    @asynccontextmanager
    async def following(self, resolve: Callable[[Address], Address]) -> AsyncIterator[Follower]:
        feed = Feed(resolve)
        self._feeds[feed] = None
        try:
            yield feed
        finally:
            del self._feeds[feed]
            feed.close()

    def close(self) -> None:
        for feed in self._feeds:
            feed.close()

    def open(self, sink: str) -> Sequence[int]:
        self._sinks.setdefault(sink, _Sink(self._sent))
        return (0,)

    def forget(self, sink: str) -> None:
        self._sinks.pop(sink, None)
        self._forget_delivered()

    def lease(self, sink: str, partition: int, owner: str, until: float, now: float) -> str | None:
        found = self._sink(sink, partition)
        if found.owner not in ("", owner) and found.until > now:
            return None
        found.owner, found.until = owner, until
        return found.position

    def after(self, sink: str, partition: int, position: str, limit: int) -> list[Delivery]:
        start = max(position, f"{self._sink(sink, partition).since:020d}")
        return [d for d in self._deliveries if d.position > start][:limit]

    def delivered(self, sink: str, partition: int, owner: str, position: str) -> None:
        found = self._sink(sink, partition)
        if found.owner != owner:
            raise LeaseLost(f"{owner!r} does not deliver to sink {sink!r} any more")
        found.position = max(found.position, position)
        self._forget_delivered()

    def _sink(self, sink: str, partition: int) -> _Sink:
        if sink not in self._sinks or partition != 0:
            raise NotFound(f"sink {sink!r} with partition {partition} is not open, open it first")
        return self._sinks[sink]

    def _forget_delivered(self) -> None:
        done = min(self._positions(), default="~")
        self._deliveries = [d for d in self._deliveries if d.position > done]

    def _positions(self) -> Iterator[str]:
        for sink in self._sinks.values():
            yield max(sink.position, f"{sink.since:020d}")
