"""What a server must be before anything is kept on it, and what it promises.

A receipt is a promise (accepted means kept), so the engine does not start on a server that may evict or that writes
nothing to disk, unless it is allowed to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redis.exceptions import ResponseError

from turnkeep.errors import StoreMisconfigured
from turnkeep.store.base import LAYOUT
from turnkeep.store.redis.topology import Dialer, Endpoint, Topology, answer, hang_up

Durability = Literal["fast", "standard", "strict"]
"""What is asked of a server. fast: that it evicts nothing. standard: an append-only file too. strict: receipts wait
until the write is synced, or a replica has it.
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


async def examine(dialer: Dialer, endpoint: Endpoint) -> Server:
    """Ask a server about itself."""
    connection = await dialer.dial(endpoint)
    try:
        told = {section: _values(await answer(connection, "INFO", section)) for section in _SECTIONS}
        fsync = await _fsync(connection)
    finally:
        await hang_up(connection)
    server = told["server"]
    name = server.get("server_name", "redis")
    version = server.get(f"{name}_version", server["redis_version"])
    return Server(
        name=f"{name} {version}",
        version=tuple(int(part) for part in server["redis_version"].split(".")[:2]),
        policy=told["memory"].get("maxmemory_policy", "unknown"),
        has_log=told["persistence"].get("aof_enabled") == "1",
        fsync=fsync,
        replicas=int(told["replication"].get("connected_slaves", "0")),
    )


_SECTIONS = ("server", "memory", "persistence", "replication")


async def _fsync(connection: Any) -> str:
    try:
        told = await answer(connection, "CONFIG", "GET", "appendfsync")
    except (ResponseError, StoreMisconfigured):
        return ""  # managed servers keep CONFIG to themselves
    return told[1].decode() if len(told) == 2 else ""


def _values(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def refuse_unfit(server: Server, topology: Topology, durability: Durability, *, allow_unsafe: bool) -> None:
    """Raises `StoreMisconfigured` for a server on which a promise could not be kept."""
    oldest = OLDEST_CLUSTER if topology.kind == "cluster" else OLDEST
    if server.version < oldest:
        raise StoreMisconfigured(f"{server.name} is too old, this needs {oldest[0]}.{oldest[1]} or newer")
    if allow_unsafe:
        return
    if server.policy != "noeviction":
        raise StoreMisconfigured(
            f"maxmemory-policy is {server.policy!r}, so Redis may drop accepted messages: set it to noeviction"
            " (or allow an unsafe Redis)"
        )
    if not server.has_log and durability != "fast":
        raise StoreMisconfigured(
            "Redis writes no append-only file, so a restart loses accepted messages: set appendonly yes"
            " (or TURNKEEP_DURABILITY=fast, or allow an unsafe Redis)"
        )
    if durability == "strict" and not how_to_wait(server):
        raise StoreMisconfigured(
            f"{server.name} cannot keep the durability 'strict': set appendfsync always, add a replica,"
            " or use Redis 7.2"
        )


def how_to_wait(server: Server) -> tuple[str, ...]:
    """What a strict receipt waits for; empty where nothing is left to wait for or nothing can be."""
    if server.can_wait_for_log:
        return ("WAITAOF", "1", "1" if server.replicas else "0")
    if server.replicas:
        return ("WAIT", "1")
    return ("",) if server.fsync == "always" else ()


async def agree_on_layout(call: Any, key: bytes, partitions: int) -> None:
    """Write the layout of this namespace if there is none, which a full server refuses; refuse a newer one.

    Scripts read an older one; from here on older programs do not begin on it any more.
    """
    wanted = {b"layout": b"%d" % LAYOUT, b"partitions": b"%d" % partitions}
    told = await call("layout", key, None, "HMGET", key, *wanted)
    if None in told:
        for name, value in wanted.items():
            await call("layout", key, None, "HSETNX", key, name, value)
        told = await call("layout", key, None, "HMGET", key, *wanted)
    layout, found = int(told[0]), int(told[1])
    if layout > LAYOUT:
        raise StoreMisconfigured(
            f"this Redis holds layout {layout}, this program knows up to {LAYOUT}: use a newer one"
        )
    if layout < LAYOUT:
        await call("layout", key, None, "HSET", key, b"layout", wanted[b"layout"])
    if found != partitions:
        raise StoreMisconfigured(
            f"this Redis prefix was begun with {found} partitions, not {partitions}: keep that number"
        )


async def require_channels(call: Any, topology: Topology, key: bytes, prefix: str) -> None:
    """Raises `StoreMisconfigured` for a user who may not publish under this prefix: nobody would hear of anything."""
    try:
        await call("channels", key, None, topology.publish, key, b"")
    except StoreMisconfigured as refused:
        raise StoreMisconfigured(
            f"this user of Redis may not publish on the channels of turnkeep, allow it: ACL SETUSER … '&{prefix}*'"
            f" ({refused})"
        ) from refused


def told_about(server: Server, durability: Durability) -> Mapping[str, Any]:
    """For `/readyz` and doctor."""
    return {
        "version": server.name,
        "durability": durability,
        "loses": loss_window(server, durability),
        "layout": LAYOUT,
        "maxmemory_policy": server.policy,
        "appendonly": server.has_log,
        "appendfsync": server.fsync or "unknown",
        "replicas": server.replicas,
    }


def loss_window(server: Server, durability: Durability) -> str:
    """What can be lost of what was accepted, on this server as it is set now."""
    if not server.has_log:
        crash = "everything since its last snapshot when Redis ends, for it keeps no append-only file"
    elif server.fsync == "always" or (durability == "strict" and server.can_wait_for_log):
        crash = "nothing by a crash"
    else:
        crash = f"{_UNSYNCED.get(server.fsync, _UNSYNCED[''])} when its machine crashes"
    if not server.replicas:
        return crash
    if durability == "strict":
        return f"{crash}; nothing at a failover to the replica that answered"
    return f"{crash}; at a failover what the replica had not heard"


_UNSYNCED = {
    "everysec": "about the last second",
    "no": "what the system had not written",
    "": "what was not synced (appendfsync cannot be read)",
}
