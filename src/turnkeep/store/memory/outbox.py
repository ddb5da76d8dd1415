"""What the memory engine keeps of events: the log of each thread, the outbox of the sinks, the
feeds of followers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from itertools import islice

from turnkeep.errors import NotFound
from turnkeep.events import Event
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.contract import Follower
from turnkeep.store.log_bounds import TRIM_EVERY, trim_log
from turnkeep.store.sinks import MOST_PARKED, WAITING_COUNTED, Delivery, ParkedEvent, Selection, SinkRecord
from turnkeep.store.values import Policy
from turnkeep.store.wakeups import Feed

OUTBOX = 100_000
"""Events that wait for one sink at most; the oldest go first."""


@dataclass(slots=True)
class Log:
    """The kept events of one thread."""

    events: list[Event] = field(default_factory=list)
    floor: int = 0
    untrimmed_count: int = 0

    def append(self, events: Sequence[Event], live_from: int | None, policy: Policy, now: float) -> None:
        self.events += events
        # Trimmed now and then: at every event it would cost the length of the log.
        self.untrimmed_count += len(events)
        if self.untrimmed_count >= TRIM_EVERY:
            self.trim(live_from, policy, now)

    def trim(self, live_from: int | None, policy: Policy, now: float) -> None:
        self.events, removed_through = trim_log(self.events, live_from, policy, now)
        self.floor = max(self.floor, removed_through)
        self.untrimmed_count = 0

    def after(self, offset: int, limit: int) -> tuple[Event, ...]:
        return tuple([e for e in self.events if e.offset > offset][:limit])


@dataclass(slots=True)
class _Sink:
    """What is owed to one sink, in order, and what of it is parked."""

    selection: Selection
    waiting: deque[Delivery] = field(default_factory=deque)
    position: str = ""
    owner: str = ""
    until: float = 0.0
    parked_events: dict[str, tuple[Delivery, ParkedEvent]] = field(default_factory=dict)
    lost_count: int = 0
    lost_at: float | None = None

    def keep(self, delivery: Delivery, now: float) -> None:
        self.waiting.append(delivery)
        # Bounded: a receiver that is away for long filled
        # the store. What is lost is counted and shown.
        if len(self.waiting) > OUTBOX:
            self.waiting.popleft()
            self.lost_count, self.lost_at = self.lost_count + 1, now

    def park(self, delivery: Delivery, reason: str, now: float) -> None:
        place, event = (delivery.position, delivery.address, delivery.thread_id), delivery.event
        about = ParkedEvent(*place, event.kind, event.offset, event.at, reason, now if reason else None)
        self.parked_events[delivery.position] = (delivery, about)
        if len(self.parked_events) > MOST_PARKED:
            # What was given up goes before what is still tried, whatever its age.
            oldest = min(self.parked_events.values(), key=lambda one: (not one[1].is_given_up, one[1].position))
            del self.parked_events[oldest[1].position]
            self.lost_count, self.lost_at = self.lost_count + 1, now

    def move(self, position: str, reasons: Mapping[str, str], now: float) -> None:
        # Only ever forward: a confirmation that is repeated late must not deliver again.
        self.position = max(self.position, position)
        while self.waiting and self.waiting[0].position <= self.position:
            delivery = self.waiting.popleft()
            if delivery.position in reasons:
                self.park(delivery, reasons[delivery.position], now)

    def record(self, name: str) -> SinkRecord:
        oldest_at = self.waiting[0].event.at if self.waiting else None
        given_up = sum(about.is_given_up for _, about in self.parked_events.values())
        waiting = min(len(self.waiting), WAITING_COUNTED)
        return SinkRecord(name, waiting, oldest_at, len(self.parked_events), given_up, self.lost_count, self.lost_at)


class Outbox:
    """Sinks with what is owed to them, and the feeds of followers. There is one partition, 0."""

    def __init__(self) -> None:
        self._sinks: dict[str, _Sink] = {}
        self._last_number = 0
        self._feeds: dict[Feed, None] = {}  # a set would tell them in no order

    def tell(self, address: Address, thread_id: str, events: Sequence[Event], now: float) -> None:
        for event in events:
            self._last_number += 1
            for sink in self._sinks.values():
                if sink.selection.includes(address, event.kind):
                    sink.keep(Delivery(f"{self._last_number:020d}", address, thread_id, event), now)
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

    def open(self, name: str, selection: Selection) -> Sequence[int]:
        self._sinks.setdefault(name, _Sink(selection)).selection = selection
        return (0,)

    def forget(self, name: str) -> None:
        self._sinks.pop(name, None)

    def lease(self, name: str, partition: int, owner: str, until: float, now: float) -> str | None:
        sink = self.sink(name, partition)
        # Whoever has it stays; a dead one loses it by time
        # alone, for nobody here knows that he is dead.
        if sink.owner not in ("", owner) and sink.until > now:
            return None
        sink.owner, sink.until = owner, until
        return sink.position

    def after(self, name: str, partition: int, position: str, limit: int) -> list[Delivery]:
        waiting = self.sink(name, partition).waiting
        return list(islice((one for one in waiting if one.position > position), limit))

    def sink(self, name: str, partition: int) -> _Sink:
        if name not in self._sinks or partition != 0:
            raise NotFound(f"sink {name!r} with partition {partition} is not open, open it first")
        return self._sinks[name]

    def records(self) -> list[SinkRecord]:
        return [sink.record(name) for name, sink in sorted(self._sinks.items())]
