"""What a server must be before anything is kept on it, and what it promises.

A receipt is a promise (accepted means kept), so none is given on a server that may evict or that writes nothing to
disk, unless that is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from turnkeep.errors import StoreError, StoreMisconfigured
from turnkeep.store.redis.client.pipe import Pipe, Refusal, Reply
from turnkeep.store.redis.client.topology import ServerTopology
from turnkeep.store.values import LAYOUT

Durability = Literal["fast", "standard", "strict"]
"""What is asked of a server. fast: that it evicts nothing. standard: an append-only file too. strict: answers wait
until the write is synced, or the replicas have it.
"""

OLDEST, OLDEST_CLUSTER, OLDEST_WAITAOF = (6, 2), (7, 0), (7, 2)


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says about itself. `fsync` is "" where it may not be asked."""

    name: str
    version: tuple[int, ...]
    policy: str
    has_log: bool
    fsync: str
    replicas: int

    @property
    def can_wait_for_log(self) -> bool:
        """Whether it knows WAITAOF; Valkey calls itself Redis 7.2.4."""
        return self.version >= OLDEST_WAITAOF


@dataclass(frozen=True, slots=True)
class Demands:
    """What is asked of every server. `replicas`: how many have to hear of a strict answer; None: as many as there are.

    `kind`: how the servers are arranged.
    """

    kind: Literal["single", "sentinel", "cluster"]
    durability: Durability = "standard"
    replicas: int | None = None
    allow_unsafe: bool = False


async def ask_server(pipe: Pipe) -> Server:
    """Have a server tell about itself. Raises `StoreError`."""
    replies = [pipe.send("INFO", section) for section in _SECTIONS]
    fsync = pipe.send("CONFIG", "GET", "appendfsync")
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
        )
    except KeyError as missing:
        raise StoreError(f"Redis told nothing of {missing}") from missing


_SECTIONS = ("server", "memory", "persistence", "replication")


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
    """Why a promise could not be kept on this server; None if it can. `replicas`: how many have to hear."""
    if demands.allow_unsafe:
        return None
    if server.policy != "noeviction":
        return (
            f"maxmemory-policy of Redis at {where} is {server.policy!r}, so it may drop accepted messages: set it to"
            " noeviction (or allow an unsafe Redis)"
        )
    if not server.has_log and demands.durability != "fast":
        return (
            f"Redis at {where} writes no append-only file, so a restart loses accepted messages: set appendonly yes"
            " (or TURNKEEP_DURABILITY=fast, or allow an unsafe Redis)"
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
    """What a strict answer waits for; ("",) where nothing is left to wait for, empty where nothing can be."""
    if server.can_wait_for_log and server.has_log:
        return ("WAITAOF", "1", str(replicas))
    if replicas:
        return ("WAIT", str(replicas))
    return ("",) if server.fsync == "always" else ()


async def agree_on_layout(call: Any, key: bytes, partitions: int) -> None:
    """Write the layout of this namespace if there is none, which a full server refuses; refuse a newer one.

    Scripts read an older one; from here on older programs do not begin on it any more.
    """
    own = {b"layout": b"%d" % LAYOUT, b"partitions": b"%d" % partitions}
    record = await call("layout", key, None, "HMGET", key, *own)
    if None in record:
        for name, value in own.items():
            await call("layout", key, None, "HSETNX", key, name, value)
        record = await call("layout", key, None, "HMGET", key, *own)
    layout, stored_partitions = int(record[0]), int(record[1])
    if layout > LAYOUT:
        raise StoreMisconfigured(
            f"this Redis holds layout {layout}, this program knows up to {LAYOUT}: use a newer one"
        )
    if layout < LAYOUT:
        await call("layout", key, None, "HSET", key, b"layout", own[b"layout"])
    if stored_partitions != partitions:
        raise StoreMisconfigured(
            f"this Redis prefix was begun with {stored_partitions} partitions, not {partitions}: keep that number"
        )


async def require_channels(call: Any, topology: ServerTopology, key: bytes, prefix: str) -> None:
    """Raises `StoreMisconfigured` for a user who may not publish under this prefix: nobody would hear of anything."""
    try:
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


_LOSS_BY_FSYNC = {
    "everysec": "about the last second",
    "no": "what the system had not written",
    "": "what was not synced (appendfsync cannot be read)",
}
