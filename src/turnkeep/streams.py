"""A subscription as an async iterator, for whoever reads events one by one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

from turnkeep.events import Event
from turnkeep.hub import Hub
from turnkeep.messages import Address
from turnkeep.store.contract import Store
from turnkeep.subscription import SubscriptionStart

LOG_PATIENCE = 0.5
"""Seconds for which a reader of arrivals waits for the log, which `wake` does not end."""


class EventStream:
    """A subscription as an async iterator: `async with EventStream(hub, store, address) as events`,
    then `async for`.

    It keeps at most `max_buffered` events; a reader that is slower gets the rest from the log, so nothing
    is missed and memory is bounded.
    """

    def __init__(
        self,
        hub: Hub,
        store: Store,
        address: Address,
        *,
        after: int | None = None,
        epoch: str | None = None,
        max_buffered: int = 1000,
    ) -> None:
        self._hub, self._store, self._address = hub, store, address
        self._after, self._epoch, self._max_buffered = after, epoch, max_buffered
        self._buffer: deque[Event] = deque()
        self._last = 0
        self._newest = 0
        self._has_overflow = False
        self._beside_log: list[Event] = []
        """What came last of all that did not fit, where no log has it."""
        self._some = asyncio.Event()
        self._refilling: asyncio.Task[None] | None = None

    def on_subscription(self, address: Address, start: SubscriptionStart) -> None:
        self.subscription_start = start
        self._last = self._newest = start.start

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        self._newest = events[-1].offset
        # dropped here, but not lost: the log is read again from where the reader is
        if self._has_overflow or len(self._buffer) + len(events) > self._max_buffered:
            if not self._has_overflow:
                self._hub.meter.count("slow_subscribers")
            self._has_overflow = True
            self._beside_log = [event for event in events[-1:] if event.is_beside_log]
        else:
            self._buffer.extend(events)
        self._some.set()

    async def wait_for_room(self, address: Address) -> None:
        """There is always room: what does not fit is read from the log again."""

    async def __aenter__(self) -> EventStream:
        await self._hub.subscribe(self._address, self, after=self._after, epoch=self._epoch)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
            # waited for: it reads a store that may be closed next
            await asyncio.wait([self._refilling])
        await self._hub.unsubscribe(self._address, self)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._buffer:
            if self._has_overflow:
                await self._refill_once()
                continue
            self._some.clear()
            await self._some.wait()
        event = self._buffer.popleft()
        self._last = event.offset
        return event

    async def arrivals(self, seconds: float) -> list[Event]:
        """All that is here, or what comes next within so many seconds; empty, if nothing does."""
        if not self._buffer and not self._has_overflow:
            # An event and a timer of its own: `asyncio.timeout` around each wait cost more than the wait.
            self._some.clear()
            timer = asyncio.get_running_loop().call_later(seconds, self._some.set)
            try:
                await self._some.wait()
            finally:
                timer.cancel()
        if not self._buffer and self._has_overflow:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, LOG_PATIENCE)):
                    await self._refill_once()
        return self.ready()

    def wake(self) -> None:
        """Let whoever waits for what arrives go on without it."""
        self._some.set()

    def ready(self) -> list[Event]:
        """All that can be had without waiting, so that it can be told together."""
        events = list(self._buffer)
        self._buffer.clear()
        if events:
            self._last = events[-1].offset
        return events

    async def _refill_once(self) -> None:
        """A reader may wait for less time than the log needs, again and again: one look
        goes on meanwhile.
        """
        if self._refilling is None:
            self._refilling = asyncio.get_running_loop().create_task(self._refill())
        refilling = self._refilling
        try:
            await asyncio.shield(refilling)
        finally:
            if refilling.done():
                self._refilling = None

    async def _refill(self) -> None:
        """Take what did not fit from the log."""
        page = await self._store.read(self._address, after=self._last, limit=self._max_buffered)
        self._buffer.extend(page.events)
        self._has_overflow = bool(page.events) and page.events[-1].offset < self._newest
        if not self._has_overflow:
            self._buffer.extend(self._beside_log)
            self._beside_log = []


class EventSubscription:
    """A stream that is opened where it is used: `async for event in …`, or `async with … as events`."""

    def __init__(self, stream: Callable[[], Awaitable[EventStream]]) -> None:
        self._make = stream
        self._stream: EventStream | None = None

    async def __aenter__(self) -> EventStream:
        self._stream = await self._make()
        return await self._stream.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        if self._stream is not None:
            await self._stream.__aexit__(*exc)

    async def __aiter__(self) -> AsyncIterator[Event]:
        async with self as events:
            async for event in events:
                yield event
