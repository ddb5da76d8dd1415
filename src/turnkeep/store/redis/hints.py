"""What processes tell each other: hints for workers, live events for followers.

Workers hear that threads became due and that a claim got a directive; followers hear the events
themselves. Nothing depends on any of it: a worker looks for itself, and a notice without events
asks the follower to read the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from turnkeep.backoff import Backoff
from turnkeep.clock import Clock
from turnkeep.errors import ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.redis.client.subscriptions import Subscriptions
from turnkeep.store.redis.codec import epoch_of, read_frames
from turnkeep.store.redis.key_names import PartitionKeys, ThreadKeys, address_of, to_text
from turnkeep.store.redis.outlook import Outlook
from turnkeep.store.values import Notice
from turnkeep.store.wakeups import Bell, Feed

POLL = Backoff(type="fixed", delay=1.0)
"""How often workers look and followers read by themselves while nothing can be heard."""

BOUND = 4096
"""Owners whose nudges are kept until they ask."""

SELECTIONS = 64
"""Sets of queues of which one process knows what is due."""


class Hints:
    """Hears the hints of all partitions for one engine."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        partitions: Sequence[PartitionKeys],
        clock: Clock,
        *,
        revisions: bytes,
        revise: Callable[[], None],
    ) -> None:
        """`revisions` is the channel on which changed records are told, to `revise`."""
        self._subscriptions = subscriptions
        self._revisions = revisions
        self._revise = revise
        self._channels = [partition.names["hints"] for partition in partitions]
        self._clock = clock
        self._due_bell = Bell()
        self._nudge_bell = Bell()
        self._beginning = asyncio.Lock()
        self._has_begun = False
        self._places = {channel: place for place, channel in enumerate(self._channels)}
        self._outlooks: dict[tuple[str, ...] | None, Outlook] = {}
        self._nudges: dict[str, set[Address]] = {}

    async def listen(self) -> None:
        """Begin to hear, once."""
        if self._has_begun:
            return
        async with self._beginning:
            if not self._has_begun:
                # All partitions: a worker may claim anywhere, and sixteen
                # subscriptions are one connection.
                for channel in (*self._channels, self._revisions):
                    await self._subscriptions.listen(channel, self)
                self._has_begun = True

    def on_message(self, channel: bytes, data: bytes) -> None:
        if channel == self._revisions:
            self._revise()
            return
        kind, about, tenant, queue, *names = data.split(b"\0", 4)
        address = address_of(tenant + b"\0" + queue, names[0] if names else b"")
        if kind == b"ready":
            # A program before this one names no thread.
            thread = address if names else None
            for outlook in self._outlooks.values():
                outlook.on_due(self._places[channel], thread, address.queue, float(about))
            self._due_bell.ring()
        else:
            self._nudge(to_text(about), address)
            self._nudge_bell.ring()

    def _nudge(self, owner: str, address: Address) -> None:
        # Of owners that are gone, or live in another process: every process hears all nudges.
        if len(self._nudges) >= BOUND:
            self._nudges.pop(next(iter(self._nudges)))
        self._nudges.setdefault(owner, set()).add(address)

    def on_gap(self, channel: bytes) -> None:
        if channel == self._revisions:
            self._revise()
            return
        for outlook in self._outlooks.values():
            outlook.forget([self._places[channel]])
        self._ring()

    def outlook(self, queues: Sequence[str] | None) -> Outlook:
        """What is known of these queues, kept from call to call."""
        selection = None if queues is None else tuple(queues)
        outlook = self._outlooks.get(selection)
        if outlook is None:
            # Mostly one: a worker serves the same queues for as long as it lives.
            if len(self._outlooks) >= SELECTIONS:
                self._outlooks.pop(next(iter(self._outlooks)))
            outlook = self._outlooks[selection] = Outlook(len(self._channels), queues)
        # Unheard, a moment may have been told and missed.
        if not self._subscriptions.is_whole:
            outlook.forget()
        return outlook

    def take_nudges(self, owner: str) -> set[Address] | None:
        return self._nudges.pop(owner, None)

    def _ring(self) -> None:
        self._due_bell.ring()
        self._nudge_bell.ring()

    async def wait(self, seconds: float) -> bool:
        """True after the next hint that something is due, or so many seconds; sooner and False when it
        hears nothing.
        """
        return await self._wait(self._due_bell, seconds)

    async def wait_nudge(self, seconds: float) -> bool:
        """The same for the next nudge."""
        return await self._wait(self._nudge_bell, seconds)

    async def _wait(self, bell: Bell, seconds: float) -> bool:
        if self._subscriptions.is_whole or await self._subscriptions.tend():
            await bell.wait(self._clock, seconds)
            return True
        # One channel that is not heard yet makes nobody deaf to the others, nor to the gap that ends it. By the
        # seconds of this machine, for the time of the store may stand still.
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, POLL.after(1))):
                await bell.wait(self._clock, seconds)
        return False

    def close(self) -> None:
        self._ring()


class RedisFeed(Feed):
    """A `Follower` that hears one Redis channel per thread."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        find: Callable[[Address], Awaitable[ThreadKeys]],
        incarnation: Callable[[int], int],
    ) -> None:
        super().__init__(lambda address: address)
        self._subscriptions = subscriptions
        self._find = find
        self._incarnation = incarnation
        self._keys_by_channel: dict[bytes, ThreadKeys] = {}
        self._keys: dict[Address, ThreadKeys] = {}

    async def add(self, address: Address) -> None:
        keys = await self._find(address)
        self._keys[address] = keys
        self._name(keys.address, address)
        self._keys_by_channel[keys["channel"]] = keys
        await self._subscriptions.listen(keys["channel"], self)

    async def discard(self, address: Address) -> None:
        keys = self._keys.pop(address, None)
        await super().discard(address)
        # An id and a channel may name the same thread; the Redis channel is left with
        # the last of them.
        if keys is not None and keys.address not in self._names:
            self._keys_by_channel.pop(keys["channel"], None)
            self._subscriptions.leave(keys["channel"], self)

    def on_message(self, channel: bytes, data: bytes) -> None:
        keys = self._keys_by_channel.get(channel)
        if keys is None:
            return
        epoch, _, frames = data.partition(b"\n")
        try:
            events = read_frames(frames, epoch_of(epoch, self._incarnation(keys.partition.index)))
        except (ValueError, ThreadQuarantined):
            events = []  # whatever this was: the log tells
        self.tell(keys.address, events)

    def on_gap(self, channel: bytes) -> None:
        if (keys := self._keys_by_channel.get(channel)) is not None:
            self.tell(keys.address, ())

    def close(self) -> None:
        super().close()
        for channel in self._keys_by_channel:
            self._subscriptions.leave(channel, self)

    async def __anext__(self) -> Notice:
        while not (self._notices or self._owed or self._is_closed):
            self._news.clear()
            if self._subscriptions.is_whole or await self._subscriptions.tend():
                if not self._news.is_set():
                    await self._news.wait()
            elif not self._news.is_set():
                await self._poll()
        return await super().__anext__()

    async def _poll(self) -> None:
        try:
            async with asyncio.timeout(POLL.after(1)):
                await self._news.wait()
        except TimeoutError:
            for channel in self._keys_by_channel:
                self.on_gap(channel)
