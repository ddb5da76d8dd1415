"""The Redis of a storm: a primary and its replica, which takes its place now and then; both keep a log on the disk.

A failover is made only to a replica that is whole: where a person or a sentinel promotes one that is in the middle of
its first copy, no client can help. What the old primary wrote while nobody heard it is lost, and is meant to be: with
the durability `strict` nobody has an answer for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio as redis

from tests.chaos.programs import HOST, Program, redis_command
from tests.services import free_port
from tests.services.tcp_proxy import TcpProxy

NOTICED = 3.0
"""Seconds after which a server that became unfit gives no receipt any more: it is looked at every two."""

WHOLE = {"role": "slave", "master_link_status": "up", "aof_rewrite_in_progress": 0, "aof_rewrite_scheduled": 0}

Start = Callable[[str, list[str]], Program]


@dataclass(slots=True)
class _Server:
    program: Program
    port: int
    folder: Path


class Replication:
    """`wire` is how the replica hears the primary, whichever it is."""

    def __init__(self, new: Start, folder: Path, wire: TcpProxy, dice: random.Random) -> None:
        self._dice = dice
        self._wire = wire
        self._servers = [self._server(new, folder / name, name) for name in ("redis-1", "redis-2")]
        self._is_changing = self._is_spoiled = False
        self.kills = 0
        self.failovers: list[float] = []
        """When they were."""
        self.unfit: list[tuple[float, float]] = []
        """Spans in which nothing may be accepted."""

    def _server(self, new: Start, folder: Path, name: str) -> _Server:
        folder.mkdir()
        port = free_port()
        return _Server(new(name, redis_command(port, folder)), port, folder)

    @property
    def port(self) -> int:
        return self._primary.port

    @property
    def _primary(self) -> _Server:
        return self._servers[0]

    @property
    def _replica(self) -> _Server:
        return self._servers[1]

    async def start(self) -> None:
        self._primary.program.start()
        await self._primary.program.answers(self.port)
        self._wire.lead_to(HOST, self.port)
        self._follow(self._replica)
        await self._replica.program.answers(self._replica.port)
        await self.until_whole()

    async def until_whole(self) -> None:
        """Wait until the replica follows: before, nothing that demands one starts."""
        async with asyncio.timeout(60.0):
            while not await self._is_whole():
                await asyncio.sleep(0.05)

    def _follow(self, server: _Server) -> None:
        """Start it as a replica."""
        server.program.command = redis_command(server.port, server.folder, replica_of=self._wire.port)
        server.program.start()

    # ------------------------------------------------------------ what goes wrong

    async def fail(self, lines: Sequence[TcpProxy]) -> None:
        """The primary is killed: every other time it comes back with its log, else the replica takes its place, if it
        is whole.
        """
        if self._is_changing:
            return
        self._is_changing = True
        try:
            if 2 * len(self.failovers) <= self.kills and await self._is_whole():
                await self._fail_over(lines)
            else:
                await self._restart()
        finally:
            self._is_changing = False

    async def promote(self, lines: Sequence[TcpProxy]) -> None:
        """The replica takes the place of the primary, if it is whole."""
        if self._is_changing:
            return
        self._is_changing = True
        try:
            if await self._is_whole():
                await self._fail_over(lines)
        finally:
            self._is_changing = False

    async def _restart(self) -> None:
        self.kills += 1
        self._primary.program.bury()
        await asyncio.sleep(self._dice.uniform(0.1, 1.0))
        self._primary.program.command = redis_command(self.port, self._primary.folder)
        self._primary.program.start()

    async def _fail_over(self, lines: Sequence[TcpProxy]) -> None:
        """For a moment nobody hears the primary, then it is gone; `lines` lead to the other one from then on."""
        self._wire.blackhole()
        await asyncio.sleep(self._dice.uniform(0.2, 1.5))
        self.kills += 1
        self.failovers.append(_now())
        self._primary.program.bury()
        async with aclosing(self._client(self._replica)) as promoted:
            await promoted.execute_command("REPLICAOF", "NO", "ONE")
        self._servers.reverse()
        self._wire.cut_all()  # what was held on it never arrives
        self._wire.forward()
        for line in (self._wire, *lines):
            line.lead_to(HOST, self.port)
        for line in lines:
            line.cut_all()
        await asyncio.sleep(self._dice.uniform(0.1, 1.0))
        self._follow(self._replica)

    async def spoil(self) -> None:
        """Somebody changes the settings of the server so that it could lose what it accepts, and notices it."""
        if self._is_spoiled:
            return
        self._is_spoiled = True
        try:
            await self._spoil()
        finally:
            self._is_spoiled = False

    async def _spoil(self) -> None:
        kills, server = self.kills, self._primary
        await self._set_policy(server, "allkeys-lru")
        since = _now()
        await asyncio.sleep(self._dice.uniform(0.5, 6.0))
        until = _now()
        await self._set_policy(server, "noeviction")
        if kills == self.kills and not self._is_changing and until - since > NOTICED:
            self.unfit.append((since + NOTICED, until))

    async def _set_policy(self, server: _Server, policy: str) -> None:
        with suppress(redis.RedisError, OSError):
            async with aclosing(self._client(server)) as client:
                await client.config_set("maxmemory-policy", policy)

    async def _is_whole(self) -> bool:
        """Whether the replica has all that was answered for, in its memory and in its log."""
        with suppress(redis.RedisError, OSError):
            async with aclosing(self._client(self._replica)) as client:
                told = await client.info()
            return all(told.get(name) == value for name, value in WHOLE.items())
        return False

    def _client(self, server: _Server) -> redis.Redis:
        return redis.Redis(host=HOST, port=server.port, socket_timeout=5.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
