"""The Redis engine: many processes on one Redis or Valkey (6.2+), its sentinels, or a cluster (7+).

One Lua script per operation changes everything of one thread in one act (`store/lua`). Durable
means what the server promises: see `Durability` in `server_fitness`. An operation whose reply is lost is
repeated here before `OutcomeUnknown` is raised: a repeat gives the first reply and touches nothing.
No task runs in the background: who calls drives the connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeep.clock import Clock
from turnkeep.errors import StoreMisconfigured
from turnkeep.store.fair_share import Books
from turnkeep.store.ids import PARTITIONS, Ids, random_ids
from turnkeep.store.redis.all_threads import RedisAllThreads
from turnkeep.store.redis.client.dialing import ServerAddress
from turnkeep.store.redis.client.link import Link
from turnkeep.store.redis.client.subscriptions import Subscriptions
from turnkeep.store.redis.client.topology import find_topology
from turnkeep.store.redis.dead_letters import RedisDeadLetters
from turnkeep.store.redis.durability import DurabilityWait
from turnkeep.store.redis.events import RedisEvents
from turnkeep.store.redis.hints import RedisFeed
from turnkeep.store.redis.inbox import RedisInbox
from turnkeep.store.redis.key_names import KeyNames, PartitionKeys, operation_scripts
from turnkeep.store.redis.part import gather
from turnkeep.store.redis.registry import RedisLedger, RedisRegistry
from turnkeep.store.redis.server_fitness import (
    Demands,
    Durability,
    Fitness,
    agree_on_layout,
    read_partitions,
    require_channels,
    require_version,
)
from turnkeep.store.redis.threads import RedisThreads
from turnkeep.store.redis.timekeeping import StoreTime
from turnkeep.store.values import Policies

__all__ = ["Durability", "RedisStore"]

_DEFAULTS = Policies()


class RedisStore(RedisInbox, RedisDeadLetters, RedisEvents, RedisThreads, RedisAllThreads, RedisRegistry, RedisLedger):
    """A `Store` on Redis.

    `now` is a clock for tests; without one the server's clock counts. `partitions` is what a new
    namespace is cut into, 16 if not given; one that is begun has its own number, and is refused
    where another one is asked for.
    """

    engine = "redis"
    may_be_changing = False
    """Whether it opens while its partitions are copied: for who copies them."""
    timeout = 5.0
    """Seconds of silence after which a connection is given up; may be set before `open`."""

    def __init__(  # noqa: PLR0913  # each is a setting of its own
        self,
        url: str,
        policies: Policies = _DEFAULTS,
        *,
        prefix: str = "cosmo:",
        durability: Durability = "standard",
        replicas: int | None = None,
        allow_unsafe: bool = False,
        partitions: int | None = None,
        ids: Ids = random_ids,
        now: Clock | None = None,
    ) -> None:
        super().__init__(policies, KeyNames(prefix, partitions or PARTITIONS), ids, now)
        self._has_own_partitions = partitions is not None
        self._url = url
        self._durability = durability
        self._replicas = replicas
        self._allow_unsafe = allow_unsafe
        self._feeds: set[RedisFeed] = set()
        self._ledger_notes: dict[str, float] = {}
        self._books = Books()
        self._claim_places: dict[str, set[int]] = {}
        self._renewing: list[str] = []

    async def open(self) -> None:
        topology, dialer = await find_topology(self._url)
        demands = Demands(topology.kind, self._durability, self._replicas, self._allow_unsafe)
        self._fitness = Fitness(demands)
        scripts = operation_scripts(topology.publish)
        link = Link(topology, dialer, scripts, timeout=self.timeout, look=self._fitness.look)
        try:
            layout = self._keys.registry("layout")
            stored_count = await read_partitions(link.call, layout)
            if stored_count is not None and not self._has_own_partitions:
                self._keys = KeyNames(self._keys.prefix, stored_count)
            servers = await self._servers(link)
            # Before the layout is written: a server that is too old or may evict
            # gets nothing of ours.
            for endpoint in servers:
                require_version(self._fitness.server(endpoint), demands)
            self._fitness.require_all(servers, StoreMisconfigured)
            await require_channels(link.call, topology, layout, self._keys.prefix)
            count = len(self._keys.partitions)
            await agree_on_layout(link.call, layout, count, may_be_changing=self.may_be_changing)
            if not self._has_own_clock:
                self._time = StoreTime(
                    self._clock, self._keys.registry("clock"), layout, tolerance=self.timeout + 1.0,
                    partitions=None if self.may_be_changing else count,
                )  # fmt: skip
                await self._time.look(link)
        # Also when whoever opens is cancelled: connections have no owner yet who would close them.
        except BaseException:
            link.close()
            raise
        self._connections = (link, Subscriptions(topology, dialer, timeout=self.timeout))
        self._assurance = DurabilityWait(link, self._fitness, self.timeout)
        link.assurance = self._assurance
        link.mend = self._mend_partition
        self._is_closed = False

    async def close(self) -> None:
        if self._is_closed or self._connections is None:
            return
        self._is_closed = True
        link, subscriptions = self._connections
        link.close()
        subscriptions.close()
        if self._assurance is not None:
            self._assurance.close()
        if self._hints is not None:
            self._hints.close()
        for feed in list(self._feeds):
            feed.close()

    async def check(self) -> Mapping[str, Any]:
        """Writes to every partition, and looks at every server."""
        link = self._link
        await self.now()
        self._require_same_store()
        # A server that answers reads may refuse writes: full, a replica by now,
        # or without its disk.
        await gather([self._mark(partition) for partition in self._keys.partitions])
        servers = await self._servers(link)
        for endpoint in servers:
            await self._fitness.look(endpoint, await link.pipe_to(endpoint))
        self._fitness.require_all(servers)
        rebuild_reasons = [why for partition in self._keys.partitions if (why := await self._repair.audit(partition))]
        return {
            "engine": self.engine,
            "topology": link.topology.kind,
            **self._fitness.report(servers),
            "rebuilt": rebuild_reasons,
        }

    @property
    def rebuilds(self) -> int:
        """How often this process rebuilt the shared keys of a partition that were damaged."""
        return self._repair.rebuilds

    async def _servers(self, link: Link) -> list[ServerAddress]:
        """All servers that hold anything of this store, that of the layout first, connected to."""
        keys = [self._keys.registry("layout"), *(partition.tag for partition in self._keys.partitions)]
        return list(dict.fromkeys([(await link.holder(key))[0] for key in keys]))

    async def _mend_partition(self, index: int) -> None:
        await self._repair.mend(self._keys.partitions[index])

    async def _mark(self, partition: PartitionKeys) -> None:
        key = partition.names["fence"]
        await self._link.call("check", partition.tag, partition, "SET", key, b"1", "PX", 60_000)
