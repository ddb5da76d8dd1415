"""Whether the servers keep what they accept, looked at whenever that can have changed.

A server is looked at when a connection to it is opened (the start, a failover, a restart, a slot that moved to another
node), and every `EVERY` seconds while receipts are asked for: somebody may change its settings, a replica may come or
go. While it is unfit no receipt is given; runs in progress end. It counts as fit again as soon as it says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from turnkeep.errors import StoreError, StoreUnfit
from turnkeep.store.redis.client.pipe import Pipe
from turnkeep.store.redis.client.topology import ServerAddress
from turnkeep.store.redis.server_demands import Demands, Server, ask_server, loss_window, trouble_with
from turnkeep.store.values import LAYOUT

EVERY = 2.0
"""Seconds for which a look at a server is believed."""

NOBODY = Server("nobody", (0, 0), "unknown", has_log=False, fsync="", replicas=0)


class Servers(Protocol):
    """Where the connections are."""

    async def pipe_to(self, endpoint: ServerAddress) -> Pipe: ...


@dataclass(slots=True)
class _Sight:
    """A server as it was seen last. `most`: how many replicas it was seen with."""

    server: Server
    at: float
    most: int = 0


class Fitness:
    """What is known of the servers of one store, and what is asked of them."""

    def __init__(self, demands: Demands) -> None:
        self.demands = demands
        self._sights: dict[ServerAddress, _Sight] = {}
        self._verdicts: dict[ServerAddress, str | None] = {}
        """What `trouble` said since something was seen last: it is asked twice for each receipt."""

    # ---------------------------------------------------------------- looking

    async def look(self, endpoint: ServerAddress, pipe: Pipe) -> Server:
        """Ask a server about itself. Raises `StoreError`."""
        sight = self._sights.get(endpoint)
        if sight is not None:
            sight.at = asyncio.get_running_loop().time()  # one look for all who come meanwhile
        server = await ask_server(pipe)
        most = max(server.replicas, sight.most if sight else 0)
        self._sights[endpoint] = _Sight(server, asyncio.get_running_loop().time(), most)
        self._verdicts.clear()
        return server

    def saw_replicas(self, endpoint: ServerAddress, replicas: int) -> None:
        """So many are connected to this server now."""
        if (sight := self._sights.get(endpoint)) is not None:
            sight.most = max(sight.most, replicas)
            self._verdicts.clear()

    async def require(self, endpoint: ServerAddress, servers: Servers) -> None:
        """Raises `StoreUnfit` for a server that could lose a receipt."""
        sight = self._sights.get(endpoint)
        if sight is None or asyncio.get_running_loop().time() - sight.at > EVERY:
            await self.look(endpoint, await servers.pipe_to(endpoint))
        if (trouble := self.trouble(endpoint)) is not None:
            raise StoreUnfit(f"{trouble}; nothing is accepted meanwhile", retry_after=EVERY)

    def server(self, endpoint: ServerAddress) -> Server:
        sight = self._sights.get(endpoint)
        return NOBODY if sight is None else sight.server

    # ---------------------------------------------------------------- judging

    @property
    def replicas(self) -> int:
        """How many replicas a strict answer has to be heard by: as many as are set, else never fewer than were seen.

        In a cluster each primary has its own: the fewest that any of them was seen with.
        """
        if self.demands.replicas is not None:
            return self.demands.replicas
        counts = [sight.most for sight in self._sights.values() if sight.most]
        return (min if self.demands.kind == "cluster" else max)(counts, default=0)

    def trouble(self, endpoint: ServerAddress) -> str | None:
        """Why this server cannot keep what was asked for; None if it can."""
        if endpoint not in self._verdicts:
            self._verdicts[endpoint] = trouble_with(self.server(endpoint), endpoint, self.demands, self.replicas)
        return self._verdicts[endpoint]

    def report(self, endpoints: list[ServerAddress]) -> Mapping[str, Any]:
        """For `/readyz` and doctor: the first of these servers, and the worst of what any of them may lose."""
        servers = [self.server(endpoint) for endpoint in endpoints]
        losses = dict.fromkeys(loss_window(server, self.demands.durability) for server in servers)
        first = servers[0]
        return {
            "version": first.name,
            "durability": self.demands.durability,
            "loses": "; or ".join(losses),
            "layout": LAYOUT,
            "maxmemory_policy": first.policy,
            "appendonly": all(server.has_log for server in servers),
            "appendfsync": first.fsync or "unknown",
            "replicas": min(server.replicas for server in servers),
            "servers": len(servers),
        }

    def require_all(self, endpoints: list[ServerAddress], error: type[StoreError] = StoreUnfit) -> None:
        for endpoint in endpoints:
            if (trouble := self.trouble(endpoint)) is not None:
                raise error(trouble)
