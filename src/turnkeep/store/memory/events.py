"""Events of the memory engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from turnkeep.errors import LeaseLost, TurnkeepError
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store import rules_claim
from turnkeep.store.contract import EventGap, Follower
from turnkeep.store.memory.once import once_only
from turnkeep.store.memory.state import MemoryState
from turnkeep.store.sinks import EVERYTHING, Delivery, ParkedEvent, Selection, SinkRecord
from turnkeep.store.values import Claim, Page, Publication, top_of


class MemoryEvents(MemoryState):
    """One log per channel, its followers, and the outbox of the sinks, which has one partition."""

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        return top_of(await self.publish_many([Publication(claim, n, events)]))

    async def publish_many(self, publications: Sequence[Publication]) -> list[int | Exception]:
        return [self._publish_or_refuse(*one) for one in publications]

    def _publish_or_refuse(self, claim: Claim, n: int, events: Sequence[Event]) -> int | Exception:
        now = self.moment()
        try:
            return self.apply(self.claimed_thread(claim), lambda t: rules_claim.publish(t, claim, n, events, now), now)
        except (TurnkeepError, EventGap) as refusal:
            return refusal

    def lane_of(self, address: Address) -> int:
        return 0

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        slot = self.find(address, self.moment())
        if slot is None:
            return Page("", 0, 0, None, ())
        thread, log = slot.thread, slot.log
        return Page(thread.epoch, thread.top, log.floor, thread.live_from, log.after(after, limit))

    def follow(self) -> AbstractAsyncContextManager[Follower]:
        self.moment()
        return self.outbox.following(self.resolve)

    @once_only
    async def open_sink(
        self, sink: str, selection: Selection = EVERYTHING, *, once: str | None = None
    ) -> Sequence[int]:
        self.moment()
        return self.outbox.open(sink, selection)

    @once_only
    async def close_sink(self, sink: str, *, once: str | None = None) -> None:
        self.moment()
        self.outbox.forget(sink)

    async def lease_sink(self, sink: str, partition: int, *, owner: str, lease: float) -> str | None:
        now = self.moment()
        return self.outbox.lease(sink, partition, owner, now + lease, now)

    async def deliveries(self, sink: str, partition: int, *, after: str, limit: int) -> list[Delivery]:
        self.moment()
        return self.outbox.after(sink, partition, after, limit)

    async def mark_delivered(
        self, sink: str, partition: int, *, owner: str, position: str, to_park: Sequence[tuple[str, str]] = ()
    ) -> None:
        now = self.moment()
        there = self.outbox.sink(sink, partition)
        # Fenced by name: a forwarder that was away must not move the position of the one after it.
        if there.owner != owner:
            raise LeaseLost(f"{owner!r} does not deliver to sink {sink!r} any more")
        there.move(position, dict(to_park), now)

    async def list_parked(self, sink: str, partition: int, *, after: str = "", limit: int = 1000) -> list[ParkedEvent]:
        self.moment()
        there = self.outbox.sink(sink, partition).parked_events
        return [there[position][1] for position in sorted(there) if position > after][:limit]

    async def parked_deliveries(self, sink: str, partition: int, positions: Sequence[str]) -> list[Delivery]:
        self.moment()
        there = self.outbox.sink(sink, partition).parked_events
        return [there[position][0] for position in sorted(positions) if position in there]

    @once_only
    async def note_failure(
        self, sink: str, partition: int, position: str, *, reason: str, give_up: bool, once: str | None = None
    ) -> None:
        now = self.moment()
        there = self.outbox.sink(sink, partition).parked_events
        if position in there:
            delivery, about = there[position]
            # The first failure stays: how long it has failed decides when somebody gives up.
            failed_at = now if about.failed_at is None else about.failed_at
            there[position] = (delivery, replace(about, reason=reason, failed_at=failed_at, is_given_up=give_up))

    @once_only
    async def redrive_parked(
        self, sink: str, partition: int, positions: Sequence[str], *, once: str | None = None
    ) -> int:
        self.moment()
        there = self.outbox.sink(sink, partition).parked_events
        positions_there = [position for position in positions if position in there]
        for position in positions_there:
            delivery, about = there[position]
            there[position] = (delivery, replace(about, reason="", failed_at=None, is_given_up=False))
        return len(positions_there)

    @once_only
    async def unpark(self, sink: str, partition: int, positions: Sequence[str], *, once: str | None = None) -> int:
        self.moment()
        there = self.outbox.sink(sink, partition).parked_events
        return sum(there.pop(position, None) is not None for position in positions)

    async def sinks(self) -> list[SinkRecord]:
        self.moment()
        return self.outbox.records()
