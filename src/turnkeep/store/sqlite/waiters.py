"""Waking who waits in this process: what a group of operations changed is told after its commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import field
from typing import NamedTuple

from turnkeep.clock import Clock
from turnkeep.events import Event
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.values import Notice
from turnkeep.store.wakeups import Bell, Feed


@dataclass(slots=True)
class News:
    """What changed, in order."""

    events: list[tuple[Address, Sequence[Event]]] = field(default_factory=list)
    """New events of threads; none where a reader has to look itself."""
    wakes: dict[str, float] = field(default_factory=dict)
    """By queue, the earliest moment at which a thread that changed wakes."""
    nudges: list[tuple[str, Address]] = field(default_factory=list)
    outlook: tuple[Sequence[str] | None, float] | None = None
    """Queues that a worker is about to wait for, and when the next thread of theirs wakes after all this."""

    def wake(self, queue: str, at: float) -> None:
        earliest = self.wakes.get(queue)
        self.wakes[queue] = at if earliest is None else min(at, earliest)


class _LastLook(NamedTuple):
    """When a thread of these queues wakes first, as long as nothing else was told."""

    queues: Sequence[str] | None
    told_count: int
    wake: float | None


@dataclass(slots=True, eq=False)
class _Waiter:
    queues: Sequence[str] | None
    wake: float
    bell: Bell = field(default_factory=Bell)

    def hear(self, queue: str, wake: float) -> None:
        if wake < self.wake and (self.queues is None or queue in self.queues):
            self.wake = wake
            self.bell.ring()


class Wakeups:
    """Followers, waiting workers and nudged owners of one opened store. Lives on the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._feeds: set[Feed] = set()
        self._waiters: set[_Waiter] = set()
        self._nudges: dict[str, set[Address]] = {}
        self._nudge_bell = Bell()
        self._told_count = 0
        self._last_look = _LastLook((), 0, None)
        self._is_closed = False

    # read by the writer's thread

    @property
    def is_followed(self) -> bool:
        # a copy, for the event loop may change them meanwhile
        return any(feed.is_wanted for feed in tuple(self._feeds))

    def follows(self, address: Address) -> bool:
        """Whether somebody here is told of this thread."""
        return any(feed.wants(address) for feed in tuple(self._feeds))

    @property
    def is_awaited(self) -> bool:
        return bool(self._waiters)

    def tell(self, news: News) -> None:
        self._told_count += 1
        for address, events in news.events:
            for feed in self._feeds:
                feed.tell(address, events)
        for queue, wake in news.wakes.items():
            for waiter in self._waiters:
                waiter.hear(queue, wake)
        if news.outlook is not None:
            queues, wake = news.outlook
            self._last_look = _LastLook(queues, self._told_count, wake)
        for owner, address in news.nudges:
            self._nudges.setdefault(owner, set()).add(address)
        if news.nudges:
            self._nudge_bell.ring()

    async def ready(
        self, queues: Sequence[str] | None, timeout: float, look: Callable[[], Awaitable[float | None]]
    ) -> bool:
        """Return when a thread of these queues wakes: `look` says when, and what is told later may
        come earlier. False after `timeout`. `look` is not asked again while nothing was told: each
        commit is, here and of others, and with a claim that took all there was comes what it has seen.
        """
        start = self._clock.now()
        end = start + timeout
        with self._waiting(queues, end) as waiter:
            if self._last_look[:2] != (queues, self._told_count):
                told_count = self._told_count  # before: what is told meanwhile is not in it
                self._last_look = _LastLook(queues, told_count, await look())
            if (wake := self._last_look.wake) is not None:
                waiter.wake = min(waiter.wake, wake)
            # a clock that was set back ends the waiting: whoever asked looks again, instead of
            # waiting as long as it was set
            while start <= (now := self._clock.now()) < waiter.wake and not self._is_closed:
                await waiter.bell.wait(self._clock, waiter.wake - now)
        return waiter.wake < end or now < start

    @contextmanager
    def _waiting(self, queues: Sequence[str] | None, end: float) -> Iterator[_Waiter]:
        waiter = _Waiter(queues, end)
        self._waiters.add(waiter)
        try:
            yield waiter
        finally:
            self._waiters.discard(waiter)

    async def wait_nudge(self, owner: str, timeout: float) -> set[Address]:
        start = self._clock.now()
        end = start + timeout
        while owner not in self._nudges and start <= (now := self._clock.now()) < end and not self._is_closed:
            await self._nudge_bell.wait(self._clock, end - now)
        return self._nudges.pop(owner, set())

    def forget_nudges(self, working: set[str]) -> None:
        """Keep those of owners that hold leases."""
        # what an owner never fetches would stay for ever: an owner without leases has nothing to be
        # nudged about
        self._nudges = {owner: addresses for owner, addresses in self._nudges.items() if owner in working}

    @asynccontextmanager
    async def following(
        self, find: Callable[[Address], Awaitable[Address]], catch_up: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[Following]:
        """`catch_up` returns when all that others have done until now was told."""
        feed = Following(find, catch_up)
        self._feeds.add(feed.feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed.feed)
            feed.feed.close()

    def close(self) -> None:
        self._is_closed = True
        for feed in self._feeds:
            feed.close()
        for waiter in self._waiters:
            waiter.bell.ring()
        self._nudge_bell.ring()


class Following:
    """A `Follower`: a feed whose addresses are looked up in the file."""

    def __init__(self, find: Callable[[Address], Awaitable[Address]], catch_up: Callable[[], Awaitable[None]]) -> None:
        self._find = find
        self._catch_up = catch_up
        self._threads: dict[Address, Address] = {}
        self.feed = Feed(lambda address: self._threads.get(address, address))

    async def add(self, address: Address) -> None:
        self._threads[address] = await self._find(address)
        await self._catch_up()
        await self.feed.add(address)

    async def discard(self, address: Address) -> None:
        await self.feed.discard(address)
        self._threads.pop(address, None)

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self.feed
