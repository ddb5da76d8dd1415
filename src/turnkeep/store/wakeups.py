"""Waking whoever waits in this process: bells for hints, feeds for followers. Nothing here is ever
relied upon.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from turnkeep.clock import Clock
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store.values import Notice

BOUND = 1024
"""Notices that a feed keeps before it forgets their events."""


class Bell:
    """Wakes everybody who waits at the moment it rings."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Task[Any], None] = {}  # a set would wake them in no order

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for task in waiting:
            task.cancel()

    async def wait(self, clock: Clock, seconds: float) -> None:
        """Return at the next ring, or after so many seconds."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can wait for a bell")
        cancellations = task.cancelling()
        self._waiting[task] = None
        # As `asyncio.timeout` ends its block: with a sleeper in a task of its own a worker heard of a message
        # five turns of the loop later. By the clock that was given: tests move it, and a set clock must
        # not hold a waiter.
        try:
            await clock.sleep(seconds)
        except asyncio.CancelledError:
            is_rung = task not in self._waiting
            if not is_rung or task.uncancel() > cancellations:
                raise
        finally:
            self._waiting.pop(task, None)


class Feed:
    """A `Follower`: notices in order; when more than `BOUND` wait, each channel is
    owed one without events.
    """

    def __init__(self, resolve: Callable[[Address], Address], bound: int = BOUND) -> None:
        self._resolve = resolve
        self._bound = bound
        # tuples: a set of one, of each of a thousand channels, is four times as large
        self._names: dict[Address, tuple[Address, ...]] = {}
        self._threads: dict[Address, Address] = {}
        """Of addresses that name a thread otherwise than it was made under, which few do."""
        self._notices: deque[Notice] = deque()
        self._owed: dict[Address, None] = {}
        self._news = asyncio.Event()
        self._is_closed = False

    @property
    def is_wanted(self) -> bool:
        return bool(self._names)

    def wants(self, thread: Address) -> bool:
        """Whether events of this thread are for anybody."""
        return thread in self._names

    async def add(self, address: Address) -> None:
        self._name(self._resolve(address), address)

    def _name(self, thread: Address, address: Address) -> None:
        """Tell what happens to this thread under this address."""
        if self._threads.get(address, address) != thread:  # by now it means another one
            self._unname(address)
        if thread != address:
            self._threads[address] = thread
        known_as = self._names.get(thread, ())
        if address not in known_as:
            self._names[thread] = (*known_as, address)

    async def discard(self, address: Address) -> None:
        self._unname(address)

    def _unname(self, address: Address) -> None:
        # where it was added, whatever it means by now
        thread = self._threads.pop(address, address)
        if known_as := tuple(name for name in self._names.get(thread, ()) if name != address):
            self._names[thread] = known_as
        else:
            self._names.pop(thread, None)

    def tell(self, thread: Address, events: Sequence[Event]) -> None:
        """New events of a thread; never blocks."""
        for address in self._names.get(thread, ()):
            self._keep(Notice(address, tuple(events)))

    def _keep(self, notice: Notice) -> None:
        # Once something is owed all later notices are owed too:
        # a newer one with events would look like the next.
        if not self._owed and len(self._notices) < self._bound:
            self._notices.append(notice)
        else:
            self._owed |= dict.fromkeys(n.address for n in [*self._notices, notice])
            # Events may be dropped: the log has them, and a
            # follower that does not read must not fill the memory.
            self._notices.clear()
        self._news.set()

    def close(self) -> None:
        self._is_closed = True
        self._news.set()

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self

    async def __anext__(self) -> Notice:
        while not self._is_closed:
            if self._notices:
                return self._notices.popleft()
            if self._owed:
                address = next(iter(self._owed))
                del self._owed[address]
                return Notice(address)
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration
