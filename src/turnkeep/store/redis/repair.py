"""Keys that the threads of a partition share, once damaged: found, reported, made again.

They hold nothing that the threads do not know, but for dead letters and totals. So a partition
pauses until one process has made them anew, and goes on; the others do not notice. A key of another
type is met at once, by whoever uses it; one that is gone or cut short is found by an audit, with
each sweep and each look of `/readyz`.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from turnkeep.errors import StoreUnavailable
from turnkeep.store.redis.key_names import PartitionKeys, to_text
from turnkeep.telemetry import get_log

if TYPE_CHECKING:
    from turnkeep.store.redis.part import RedisPart

log = get_log(__name__)

PAGE = 1000
ALONE = 60_000
"""Milliseconds for which one process may take to mend a partition before another one tries."""
TOLD_FOR = 86_400.0
"""Seconds for which `check` tells that a partition was rebuilt."""


class PartitionUnderRepair(StoreUnavailable):
    """one partition is being made right, the others go on"""


class PartitionRepair:
    """The shared keys of one store."""

    def __init__(self, part: RedisPart) -> None:
        self._part = part
        self._locks: dict[int, asyncio.Lock] = {}
        self.rebuilds = 0
        """By this process."""

    async def audit(self, partition: PartitionKeys) -> str | None:
        """Rebuild a partition whose shared keys contradict each other; why, if that was today."""
        damaged_keys, last_rebuild = await self._look(partition)
        if damaged_keys:
            await self._rebuild(partition, damaged_keys)
            _, last_rebuild = await self._look(partition)
        at, _, reason = last_rebuild.partition(" ")
        return reason if at and await self._part.now() - float(at) < TOLD_FOR else None

    async def mend(self, partition: PartitionKeys) -> None:
        """Something stored here makes no sense: make the shared keys right, if they are to blame.

        Raises `PartitionUnderRepair` while another process mends them, and what keeps it from
        looking: nobody knows then what is damaged.
        """
        # All callers of this process meet the damage in the same moment.
        async with self._locks.setdefault(partition.index, asyncio.Lock()):
            damaged_keys, _ = await self._look(partition)
            if damaged_keys:
                await self._rebuild(partition, damaged_keys)

    async def _look(self, partition: PartitionKeys) -> tuple[list[str], str]:
        wrong, last_rebuild = await self.run("audit", partition)
        return sorted({to_text(name) for name in wrong}), to_text(last_rebuild)

    async def _rebuild(self, partition: PartitionKeys, damaged_keys: list[str]) -> None:
        link, tag = self._part._link, partition.tag
        # With a time, so that a process that dies while it mends keeps nobody out for good.
        if await link.call("mending", tag, None, "SET", partition.names["mending"], b"1", "NX", "PX", ALONE) is None:
            raise PartitionUnderRepair(f"partition {partition.index} is being rebuilt, try again")
        names = ", ".join(damaged_keys)
        reason = f"partition {partition.index} was rebuilt from its threads, because these keys were damaged: {names}"
        try:
            await self.find_threads(partition)
            lost_keys = await self.run("rebuild", partition, self._part._now(), reason.encode())
        finally:
            await link.call("mending", tag, None, "DEL", partition.names["mending"])
        self.rebuilds += 1
        log.error(
            "partition_rebuilt",
            partition=partition.index,
            damaged=damaged_keys,
            thrown_away=[to_text(name) for name in lost_keys],
        )

    async def find_threads(self, partition: PartitionKeys) -> None:
        """Write down the keys of all threads; who comes meanwhile writes to the indexes himself."""
        link, listing, cursor = self._part._link, partition.names["thread_list"], b"0"
        await link.call("find_threads", partition.tag, None, "DEL", listing)
        # SCAN by the tag: the index of threads may be what is damaged, so the keys themselves are
        # the truth.
        pattern = re.sub(rb"([\[\]*?\\^])", rb"\\\1", partition.tag) + b"t:*"
        while True:
            reply: Any = await link.call(
                "find_threads", partition.tag, None, "SCAN", cursor, "MATCH", pattern, "COUNT", PAGE
            )
            cursor, keys = reply
            if keys:
                fields = [value for key in keys for value in (key, b"")]
                # Into a key: the script that rebuilds reads all of them in one act, however many
                # there are.
                await link.call("find_threads", partition.tag, None, "HSET", listing, *fields)
            if cursor == b"0":
                return

    async def run(self, name: str, partition: PartitionKeys, *arguments: bytes) -> Any:
        """Run a script without being asked to mend what it finds."""
        link = self._part._link
        keys = partition.of(link.scripts[name])
        return await link.run_apart(name, partition.tag, keys, *arguments)
