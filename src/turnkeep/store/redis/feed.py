"""The live end of channels, heard from Redis: events come with their notice; when something may have been missed,
a notice without events asks the follower to read the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from turnkeep.backoff import Backoff
from turnkeep.errors import ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.redis.client.subscriptions import Subscriptions
from turnkeep.store.redis.codec import epoch_of, read_frames
from turnkeep.store.redis.key_names import ThreadKeys
from turnkeep.store.values import Notice
from turnkeep.store.wakeups import Feed

POLL = Backoff(type="fixed", delay=1.0)
"""While nothing can be heard, every followed channel is to be read that often."""


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
        self._names.setdefault(keys.address, set()).add(address)
        self._keys_by_channel[keys["channel"]] = keys
        await self._subscriptions.listen(keys["channel"], self)

    async def discard(self, address: Address) -> None:
        keys = self._keys.pop(address, None)
        await super().discard(address)
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
