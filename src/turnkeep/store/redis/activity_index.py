"""The threads of a tenant and queue by their last activity, newest first, out of all partitions.

One sorted set in each partition for each tenant and queue, with the stretch of ten seconds in which
a thread was active last (`lib/save.lua`). It is a hint: where it does not hold as many threads as
there are (they were stored by a program that knew no such index, or copied, or somebody threw it
away) it is completed before it is read.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.redis.client.link import Link
from turnkeep.store.redis.key_names import PartitionKeys, address_of, space_of
from turnkeep.store.redis.part import gather
from turnkeep.store.values import ThreadRecord

PAGE = 100
"""Threads that are looked at together."""
STRETCH = 10
"""Seconds that count as one moment, as in `lib/save.lua`."""
Look = Callable[[Address], Awaitable[ThreadRecord | None]]


@dataclass(slots=True)
class _Stretch:
    """What was read of one partition: all names above `horizon`, and so many of those at it."""

    partition: PartitionKeys
    horizon: float = math.inf
    count: int = 0

    @property
    def is_done(self) -> bool:
        return self.horizon == -math.inf


class ActivityIndex:
    """Reads, and completes, the index of one tenant and queue."""

    def __init__(self, link: Link, partitions: list[PartitionKeys], tenant: str, queue: str) -> None:
        self._link = link
        self._partitions = partitions
        self._space = space_of(tenant, queue)

    async def walk(self, newest: float, page: int) -> AsyncIterator[list[tuple[float, Address]]]:
        """Those active in the stretch of `newest` or before, newest first. A list ends where a stretch does."""
        stretches = [_Stretch(partition) for partition in self._partitions]
        waiting: list[tuple[float, Address]] = []
        before: set[Address] = set()  # those at a horizon are read again
        while not all(stretch.is_done for stretch in stretches):
            reading = [stretch for stretch in stretches if not stretch.is_done]
            for names in await gather([self._read_on(stretch, newest, page) for stretch in reading]):
                waiting += [name for name in names if name[1] not in before]
                before.update(address for _, address in names)
            waiting.sort(key=lambda name: name[0], reverse=True)
            # older than this, a partition may have more that was not read yet
            horizon = max(stretch.horizon for stretch in stretches)
            whole = sum(at > horizon for at, _ in waiting)
            if whole:
                yield waiting[:whole]
            waiting = waiting[whole:]

    async def _read_on(self, stretch: _Stretch, newest: float, page: int) -> list[tuple[float, Address]]:
        # From the horizon on and not from a place: whoever is active or forgotten meanwhile makes others move up. Twice
        # as many as those that are known there, so that a stretch of thousands is read in a few steps.
        start, count = min(stretch.horizon, newest), page + 2 * stretch.count
        end = b"+inf" if start == math.inf else b"%d" % (start // STRETCH * STRETCH)
        reply: list[bytes] = await self._link.look_up(
            "activity", stretch.partition, "ZREVRANGEBYSCORE", self._key(stretch.partition), end, b"-inf",
            "WITHSCORES", "LIMIT", 0, count,
        )  # fmt: skip
        names = [
            (float(at), address_of(self._space, channel)) for channel, at in zip(reply[::2], reply[1::2], strict=True)
        ]
        stretch.horizon = names[-1][0] if len(names) == count else -math.inf
        stretch.count = sum(at == stretch.horizon for at, _ in names)
        return names

    async def complete(self, record_of: Look) -> None:
        """Have it hold the threads that there are."""
        await gather([self._complete_in(partition, record_of) for partition in self._partitions])

    async def _complete_in(self, partition: PartitionKeys, record_of: Look) -> None:
        key, first, last = self._key(partition), b"[" + self._space + b"\0", b"(" + self._space + b"\1"
        look_up = self._link.look_up
        if await look_up("activity", partition, "TYPE", key) not in (b"zset", b"none"):
            await look_up("activity", partition, "DEL", key)
        # The index first, twice: a thread that begins between two looks would make up for one that is missing, or be
        # taken for one that is gone.
        count = await look_up("activity", partition, "ZCARD", key)
        if count == await look_up("threads", partition, "ZLEXCOUNT", partition.names["threads"], first, last):
            return
        present = set(await look_up("activity", partition, "ZRANGE", key, 0, -1))
        entries = await look_up("threads", partition, "ZRANGEBYLEX", partition.names["threads"], first, last)
        channels = {entry[len(self._space) + 1 :] for entry in entries}
        for channel in present - channels:
            await look_up("activity", partition, "ZREM", key, channel)
        missing = sorted(channels - present)
        for start in range(0, len(missing), PAGE):
            await gather([self._add(partition, channel, record_of) for channel in missing[start : start + PAGE]])

    async def _add(self, partition: PartitionKeys, channel: bytes, record_of: Look) -> None:
        record = await record_of(address_of(self._space, channel))
        # a damaged one has its place too
        at = b"%d" % (0 if record is None else record.active_at // STRETCH * STRETCH)
        # only where it has none: whoever acts on the thread meanwhile knows better
        await self._link.look_up("activity", partition, "ZADD", self._key(partition), "NX", at, channel)

    def _key(self, partition: PartitionKeys) -> bytes:
        return partition.names["threads"] + b":" + self._space


def batched_by_stretch(names: Sequence[tuple[float, Address]], size: int) -> Iterator[Sequence[tuple[float, Address]]]:
    """Some at a time, those of one stretch together: within it their records tell the order."""
    start = 0
    while start < len(names):
        end = min(start + size, len(names))
        while end < len(names) and names[end][0] == names[end - 1][0]:
            end += 1
        yield names[start:end]
        start = end
