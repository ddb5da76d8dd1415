"""Whether the servers keep what they accept: demands, promises, and when to look again.

A receipt is a promise (accepted means kept), so none is given on a server that may evict or that
writes nothing to disk, unless that is allowed. A server is looked at when a connection to it is
opened (the start, a failover, a restart, a slot that moved to another node), and every `EVERY`
seconds while receipts are asked for: somebody may change its settings, a replica may come or go.
While it is unfit no receipt is given; runs in progress end. It counts as fit again as soon as it
says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from turnkeep.errors import StoreError, StoreMisconfigured, StoreUnfit
from turnkeep.lean_dataclass import dataclass
from turnkeep.store.redis.client.dialing import ServerAddress
from turnkeep.store.redis.client.pipe import Pipe, Refusal, Reply
from turnkeep.store.redis.client.topology import ServerTopology
from turnkeep.store.values import LAYOUT

Durability = Literal["fast", "standard", "strict"]
"""What is asked of a server. fast: that it evicts nothing. standard: an append-only file too.
strict: answers wait until the write is synced, or the replicas have it.
"""

OLDEST, OLDEST_CLUSTER, OLDEST_WAITAOF = (6, 2), (7, 0), (7, 2)

_SECTIONS = ("server", "memory", "persistence", "replication")

CHANGING = 1_000
"""The layout of a store that is being copied: no program knows it, so none begins on it."""

_LOSS_BY_FSYNC = {
    "everysec": "about the last second",
    "no": "what the system had not written",
    "": "what was not synced (appendfsync cannot be read)",
}

EVERY = 2.0
"""Seconds for which a look at a server is believed."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says about itself. `fsync` is "" where it may not be asked, `has_waitaof` None
    where it did not tell.
    """

    name: str
    version: tuple[int, ...]
    policy: str
    has_log: bool
    fsync: str
    replicas: int
    has_waitaof: bool | None = None

    @property
    def can_wait_for_log(self) -> bool:
        """Whether it knows WAITAOF; Valkey calls itself Redis 7.2.4."""
        # A command can be taken away from a new server (rename-command, as hosted ones do).
        return self.version >= OLDEST_WAITAOF and self.has_waitaof is not False


@dataclass(frozen=True, slots=True)
class Demands:
    """What is asked of every server. `replicas`: how many have to hear of a strict answer; None: as
    many as there are.

    `kind`: how the servers are arranged.
    """

    kind: Literal["single", "sentinel", "cluster"]
    durability: Durability = "standard"
    replicas: int | None = None
    allow_unsafe: bool = False


async def ask_server(pipe: Pipe) -> Server:
    """Have a server tell about itself. Raises `StoreError`."""
    # One by one: a server before 7.0 takes no more than one section.
    replies = [pipe.send("INFO", section) for section in _SECTIONS]
    fsync = pipe.send("CONFIG", "GET", "appendfsync")
    waitaof = pipe.send("COMMAND", "INFO", "WAITAOF")
    sections = {section: values(_info_text(await reply)) for section, reply in zip(_SECTIONS, replies, strict=True)}
    server = sections["server"]
    try:
        name = server.get("server_name", "redis")
        version = server.get(f"{name}_version", server["redis_version"])
        return Server(
            name=f"{name} {version}",
            version=tuple(int(part) for part in server["redis_version"].split(".")[:2]),
            policy=sections["memory"].get("maxmemory_policy", "unknown"),
            has_log=sections["persistence"].get("aof_enabled") == "1",
            fsync=_fsync(await fsync),
            replicas=replicas_in(sections["replication"]),
            has_waitaof=_knows(await waitaof),
        )
    except KeyError as missing:
        raise StoreError(f"Redis told nothing of {missing}") from missing


def _knows(reply: Reply) -> bool | None:
    return None if isinstance(reply, Refusal) or not reply else reply[0] is not None


def _info_text(reply: Reply) -> bytes:
    if isinstance(reply, Refusal):
        raise StoreMisconfigured(f"this user of Redis may not ask INFO, which turnkeep needs: {reply}")
    info: bytes = reply
    return info


def _fsync(reply: Reply) -> str:
    """Empty where nobody may ask: managed servers keep CONFIG to themselves."""
    return reply[1].decode() if isinstance(reply, list) and len(reply) == 2 else ""


def values(info: bytes) -> dict[str, str]:
    """The values of one section of INFO."""
    lines = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def replicas_in(replication: Mapping[str, str]) -> int:
    """How many replicas are connected and have caught up."""
    count = int(replication.get("connected_slaves", "0"))
    return sum("state=online" in replication.get(f"slave{place}", "state=online") for place in range(count))


def require_version(server: Server, demands: Demands) -> None:
    """Raises `StoreMisconfigured` for a server that does not know what is needed."""
    oldest = OLDEST_CLUSTER if demands.kind == "cluster" else OLDEST
    if server.version < oldest:
        raise StoreMisconfigured(f"{server.name} is too old, this needs {oldest[0]}.{oldest[1]} or newer")


def trouble_with(server: Server, where: object, demands: Demands, replicas: int) -> str | None:
    """Why this server could not keep a promise, if so. `replicas`: how many have to hear."""
    if demands.allow_unsafe:
        return None
    if server.policy != "noeviction":
        return (
            f"maxmemory-policy of Redis at {where} is {server.policy!r}, so it may drop accepted messages: set it to"
            " noeviction (or --allow-unsafe-redis, or allow_unsafe_redis=True)"
        )
    if not server.has_log and demands.durability != "fast":
        return (
            f"Redis at {where} writes no append-only file, so a restart loses accepted messages: set appendonly yes"
            " (or TURNKEEP_DURABILITY=fast, or --allow-unsafe-redis, or allow_unsafe_redis=True)"
        )
    return _too_few(server, where, replicas) if demands.durability == "strict" else None


def _too_few(server: Server, where: object, replicas: int) -> str | None:
    if server.replicas < replicas:
        return (
            f"the durability 'strict' needs {replicas} replicas of Redis at {where}, {server.replicas} are connected:"
            " start them again (or set TURNKEEP_REPLICAS)"
        )
    if not how_to_wait(server, replicas):
        return (
            f"{server.name} at {where} cannot keep the durability 'strict': set appendfsync always, add a replica,"
            " or use Redis 7.2"
        )
    return None


def how_to_wait(server: Server, replicas: int) -> tuple[str, ...]:
    """What a strict answer waits for; ("",) for nothing any more, empty where nothing can be."""
    if server.can_wait_for_log and server.has_log:
        return ("WAITAOF", "1", str(replicas))
    if replicas:
        return ("WAIT", str(replicas))
    return ("",) if server.fsync == "always" else ()


async def read_partitions(call: Any, key: bytes) -> int | None:
    """How many partitions this namespace has; None if it is not begun."""
    [stored_count] = await call("layout", key, None, "HMGET", key, b"partitions")
    return None if stored_count is None else int(stored_count)


async def agree_on_layout(call: Any, key: bytes, partitions: int, *, may_be_changing: bool = False) -> None:
    """Write the layout of this namespace if there is none, which a full server refuses; refuse a
    newer one.

    Scripts read an older one; from here on older programs do not begin on it any more.
    """
    own = {b"layout": b"%d" % LAYOUT, b"partitions": b"%d" % partitions}
    record = await call("layout", key, None, "HMGET", key, *own)
    if None in record:
        # HSETNX, because two processes may begin a namespace at the same time; and not written
        # again where it is, because a full server refuses it, and then nobody could come back to
        # delete anything.
        for name, value in own.items():
            await call("layout", key, None, "HSETNX", key, name, value)
        record = await call("layout", key, None, "HMGET", key, *own)
    layout, stored_partitions = int(record[0]), int(record[1])
    if layout == CHANGING and may_be_changing:
        return
    if layout == CHANGING:
        target = (await call("layout", key, None, "HMGET", key, b"changing"))[0] or b"N"
        raise StoreMisconfigured(
            f"this Redis store is being copied into {int(target)} partitions: wait for the end, or go on with"
            f" `turnkeep repartition {int(target)}`"
        )
    if layout > LAYOUT:
        raise StoreMisconfigured(
            f"this Redis holds layout {layout}, this program knows up to {LAYOUT}: use a newer one"
        )
    if layout < LAYOUT:
        await call("layout", key, None, "HSET", key, b"layout", own[b"layout"])
    if stored_partitions != partitions:
        raise StoreMisconfigured(
            f"this Redis prefix has {stored_partitions} partitions, not {partitions}: keep that number, or copy it into"
            f" as many with `turnkeep repartition {partitions}`"
        )


def changed_layout(layout: bytes, partitions: bytes, own_partitions: int) -> str | None:
    """Why a program that began with its own layout, and so many partitions, cannot go on here, if so."""
    if not (layout.isdigit() and partitions.isdigit()):  # damage, which is told by who begins
        return None
    if int(layout) == CHANGING:
        return "this Redis store is being copied into other partitions: end this program, and start it again afterwards"
    if int(layout) > LAYOUT:
        return (
            f"a newer turnkeep has raised this Redis to layout {int(layout)}, this program knows up to {LAYOUT}: end"
            " it, and start the newer one"
        )
    if int(partitions) != own_partitions:
        return (
            f"this Redis store was copied into {int(partitions)} partitions while this program goes by"
            f" {own_partitions}: start it again"
        )
    return None


async def require_channels(call: Any, topology: ServerTopology, key: bytes, prefix: str) -> None:
    """Raises `StoreMisconfigured` for a user who may not publish: nobody would hear of anything."""
    try:
        # Tried out, for a user need not be allowed to read its own rules. Nobody
        # listens on this channel.
        await call("channels", key, None, topology.publish, key, b"")
    except StoreMisconfigured as refusal:
        raise StoreMisconfigured(
            f"this user of Redis may not publish on the channels of turnkeep, allow it: ACL SETUSER … '&{prefix}*'"
            f" ({refusal})"
        ) from refusal


def loss_window(server: Server, durability: Durability) -> str:
    """What can be lost of what was accepted, on this server as it is set now."""
    if not server.has_log:
        crash = "everything since its last snapshot when Redis ends, for it keeps no append-only file"
    elif server.fsync == "always" or (durability == "strict" and server.can_wait_for_log):
        crash = "nothing by a crash"
    else:
        crash = f"{_LOSS_BY_FSYNC.get(server.fsync, _LOSS_BY_FSYNC[''])} when its machine crashes"
    losses = [crash]
    if server.replicas and durability == "strict":
        losses.append("nothing at a failover to the replica that answered")
    elif server.replicas:
        losses.append("at a failover what the replica had not heard")
    if server.has_log and server.fsync == "everysec" and durability != "strict":
        losses.append("on a disk that is slow to sync up to two seconds, also when Redis itself is killed")
    return "; ".join(losses)


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

    async def look(self, endpoint: ServerAddress, pipe: Pipe) -> Server:
        """Ask a server about itself. Raises `StoreError`."""
        sight = self._sights.get(endpoint)
        if sight is not None:
            sight.at = asyncio.get_running_loop().time()  # one look for all who come meanwhile
        server = await ask_server(pipe)
        # Never fewer than were seen: else the loss of a replica would lower
        # what strict means, silently.
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

    @property
    def replicas(self) -> int:
        """How many replicas a strict answer has to be heard by: as many as are set, else never
        fewer than were seen.

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
        """For `/readyz` and doctor: the first of these servers, and the worst that any may lose."""
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
