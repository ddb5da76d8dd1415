"""Waiting until what was written is safe: for the durability `strict`.

WAIT and WAITAOF speak of the writes of their own connection, and block it. So there is a connection of their own per
server, on which a small write follows what it is to vouch for; callers that come meanwhile share the next round.
A server vouches only for what was written to it while it was the same process: one that took its place, or came back
after a crash, may never have seen it.
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

Servers = dict[tuple[Endpoint, bytes], list[PartitionKeys]]
"""Servers by where they are and who they are, each with partitions of its own."""

_WRITE = "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], '1', 'PX', 60000)"
"""Frees before it writes, so that a full server vouches too."""


class _Round:
    """One wait that several callers share."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.asked = 0
        self.safe = 0
        self.doubtful = 0
        self.pipe: Pipe | None = None
        self.server = b""


class Fence:
    """What strict receipts wait for."""

    def __init__(self, link: Link, server: Server, timeout: float) -> None:
        self._link = link
        self._wait = how_to_wait(server)
        self._timeout = timeout
        self._rounds: dict[Endpoint, _Round] = {}

    async def servers(self, partitions: Iterable[PartitionKeys]) -> Servers:
        """Who has these partitions now; asked before anything is written."""
        if self._wait in ((), ("",)):
            return {}
        found: Servers = {}
        for partition in partitions:
            found.setdefault(await self._link.holder(partition), []).append(partition)
        return found

    async def vouch(self, servers: Servers) -> None:
        """Return when all that was written meanwhile is safe on these servers; raises `OutcomeUnknown`."""
        for (endpoint, server), partitions in servers.items():
            await self._vouch_on(endpoint, server, partitions[0])
            for partition in partitions:
                if self._link.topology.known(partition.tag) != endpoint:
                    raise OutcomeUnknown(f"another server took the place of {endpoint} meanwhile; it is safe to repeat")

    async def _vouch_on(self, endpoint: Endpoint, server: bytes, partition: PartitionKeys) -> None:
        shared = self._rounds.setdefault(endpoint, _Round())
        shared.asked += 1
        mine = shared.asked
        async with shared.lock:
            if shared.safe >= mine and shared.server == server:
                return
            if shared.doubtful >= mine:
                raise OutcomeUnknown(f"{endpoint} did not vouch for what was written; it is safe to repeat")
            until = shared.asked
            try:
                await self._wait_once(shared, endpoint, partition)
            except OutcomeUnknown:
                shared.doubtful = until  # for all who waited for it, else each would wait as long behind the others
                raise
            if shared.server != server:
                raise OutcomeUnknown(f"{endpoint} is another server than before; it is safe to repeat")
            shared.safe = until

    async def _wait_once(self, shared: _Round, endpoint: Endpoint, partition: PartitionKeys) -> None:
        try:
            if shared.pipe is None or not shared.pipe.is_open:
                shared.pipe = await open_pipe(self._link.dialer, endpoint, timeout=self._timeout * 2)
                shared.server = shared.pipe.server
            written = shared.pipe.send("EVAL", _WRITE, 1, partition.names["fence"])
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
