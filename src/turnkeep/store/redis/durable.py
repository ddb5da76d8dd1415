"""Waiting until what was written is safe: for the durability `strict`.

WAIT and WAITAOF speak of the writes of their own connection, and block it. So there is a connection of their own per
server, on which a small write follows what it is to vouch for; callers that come meanwhile share the next round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from turnkeep.errors import OutcomeUnknown, StoreError
from turnkeep.store.redis.check import Server, how_to_wait
from turnkeep.store.redis.keys import PartitionKeys
from turnkeep.store.redis.link import Link, open_pipe
from turnkeep.store.redis.pipe import Pipe, Refusal
from turnkeep.store.redis.topology import Endpoint


class _Round:
    """One wait that several callers share."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.asked = 0
        self.safe = 0
        self.pipe: Pipe | None = None


class Fence:
    """What strict receipts wait for."""

    def __init__(self, link: Link, server: Server, timeout: float) -> None:
        self._link = link
        self._wait = how_to_wait(server)
        self._timeout = timeout
        self._rounds: dict[Endpoint, _Round] = {}

    async def vouch(self, partitions: Iterable[PartitionKeys]) -> None:
        """Return when all that was written to these partitions before is safe; raises `OutcomeUnknown`."""
        if self._wait in ((), ("",)):
            return
        servers: dict[Endpoint, PartitionKeys] = {}
        for partition in partitions:
            servers.setdefault(await self._link.topology.find(partition.tag), partition)
        for endpoint, partition in servers.items():
            await self._vouch_on(endpoint, partition)

    async def _vouch_on(self, endpoint: Endpoint, partition: PartitionKeys) -> None:
        shared = self._rounds.setdefault(endpoint, _Round())
        shared.asked += 1
        mine = shared.asked
        async with shared.lock:
            if shared.safe >= mine:
                return
            until = shared.asked
            await self._wait_once(shared, endpoint, partition)
            shared.safe = until

    async def _wait_once(self, shared: _Round, endpoint: Endpoint, partition: PartitionKeys) -> None:
        try:
            if shared.pipe is None or not shared.pipe.is_open:
                shared.pipe = await open_pipe(self._link.dialer, endpoint, timeout=self._timeout * 2)
            written = shared.pipe.send("SET", partition.names["fence"], b"1", "PX", 60_000)
            told = await shared.pipe.send(*self._wait, int(self._timeout * 1000))
            wrote = await written
        except StoreError as lost:
            raise OutcomeUnknown(f"nobody vouches for what was written: {lost}") from lost
        wanted = [int(number) for number in self._wait[1:]]
        found = told if isinstance(told, list) else [told]
        if (
            isinstance(wrote, Refusal)
            or isinstance(told, Refusal)
            or any(f < w for f, w in zip(found, wanted, strict=True))
        ):
            raise OutcomeUnknown(
                f"what was written is not safe yet ({self._wait[0]} said {told}); it is safe to repeat"
            )

    def close(self) -> None:
        for shared in self._rounds.values():
            if shared.pipe is not None:
                shared.pipe.close("the store is closed")
