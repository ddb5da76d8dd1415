"""Events of the memory engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store import turns
from turnkeep.store.base import Claim, Delivery, Follower, Page
from turnkeep.store.memory.once import once_only
from turnkeep.store.memory.state import MemoryState


class MemoryEvents(MemoryState):
    """One log per channel, its followers, and the outbox of the sinks, which has one partition."""

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        now = self.moment()
        return self.apply(self.owned(claim), lambda t: turns.publish(t, claim, n, events, now), now)

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        kept = self.find(address, self.moment())
        if kept is None:
            return Page("", 0, 0, None, ())
        thread, log = kept.thread, kept.log
        return Page(thread.epoch, thread.top, log.floor, thread.live_from, log.after(after, limit))

    def follow(self) -> AbstractAsyncContextManager[Follower]:
        self.moment()
        return self.outbox.following(self.resolve)

    @once_only
    async def open_sink(self, sink: str, *, once: str | None = None) -> Sequence[int]:
        self.moment()
        return self.outbox.open(sink)

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

    async def delivered(self, sink: str, partition: int, *, owner: str, position: str) -> None:
        self.moment()
        self.outbox.delivered(sink, partition, owner, position)
