"""Hints for workers: threads became due, claims got a directive. Nothing depends on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from turnkeep.backoff import Backoff
from turnkeep.clock import Clock
from turnkeep.messages import Address
from turnkeep.store.redis.client.subscriptions import Subscriptions
from turnkeep.store.redis.key_names import PartitionKeys, address_of, to_text
from turnkeep.store.wakeups import Bell

POLL = Backoff(type="fixed", delay=1.0)
"""While hints cannot be heard, workers look for themselves that often."""

BOUND = 4096
"""Owners whose nudges are kept until they ask."""

_NEVER = float("inf")


class Hints:
    """Hears the hints of all partitions for one engine."""

    def __init__(self, subscriptions: Subscriptions, partitions: Sequence[PartitionKeys], clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._channels = [partition.names["hints"] for partition in partitions]
        self._clock = clock
        self._bell = Bell()
        self._beginning = asyncio.Lock()
        self._has_begun = False
        self._watches: set[Watch] = set()
        self._nudges: dict[str, set[Address]] = {}

    async def listen(self) -> None:
        """Begin to hear, once."""
        if self._has_begun:
            return
        async with self._beginning:
            if not self._has_begun:
                for channel in self._channels:
                    await self._subscriptions.listen(channel, self)
                self._has_begun = True

    def on_message(self, channel: bytes, data: bytes) -> None:
        kind, *rest = data.split(b"\0")
        if kind == b"ready":
            address = address_of(rest[1] + b"\0" + rest[2], b"")
            for watch in self._watches:
                watch.on_due(address.queue, float(rest[0]))
        else:
            owner, tenant, queue = rest[:3]
            self._nudge(to_text(owner), address_of(tenant + b"\0" + queue, b"\0".join(rest[3:])))
        self._bell.ring()

    def _nudge(self, owner: str, address: Address) -> None:
        if len(self._nudges) >= BOUND:
            self._nudges.pop(next(iter(self._nudges)))
        self._nudges.setdefault(owner, set()).add(address)

    def on_gap(self, channel: bytes) -> None:
        for watch in self._watches:
            watch.earliest = 0.0
        self._bell.ring()

    @contextmanager
    def watch(self, queues: Sequence[str] | None) -> Iterator[Watch]:
        """Hear what becomes due in these queues, from now on."""
        watch = Watch(self, queues)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def take_nudges(self, owner: str) -> set[Address] | None:
        return self._nudges.pop(owner, None)

    async def wait(self, seconds: float) -> bool:
        """Return at the next hint or after so many seconds: True; sooner, with False, when it hears nothing."""
        if self._subscriptions.is_whole or await self._subscriptions.tend():
            await self._bell.wait(self._clock, seconds)
            return True
        await asyncio.sleep(min(seconds, POLL.after(1)))
        return False

    def close(self) -> None:
        self._bell.ring()


class Watch:
    """The earliest moment that one waiter heard of, on the clock of the store; 0 when it may have missed one."""

    def __init__(self, hints: Hints, queues: Sequence[str] | None) -> None:
        self.earliest = _NEVER
        self._hints = hints
        self._queues = None if queues is None else frozenset(queues)

    def on_due(self, queue: str, at: float) -> None:
        if self._queues is None or queue in self._queues:
            self.earliest = min(self.earliest, at)

    async def wait(self, seconds: float) -> None:
        if not await self._hints.wait(seconds):
            self.earliest = 0.0
