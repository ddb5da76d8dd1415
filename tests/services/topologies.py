"""Several Redis servers that act as one: a cluster, and a primary with a replica and sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Literal, Self

from tests.patience import PATIENCE
from tests.services.process import HOST, eventually
from tests.services.redis import RedisServer

SLOTS = 16_384


class _Group:
    """Servers that start and end together."""

    def __init__(self, servers: Sequence[RedisServer]) -> None:
        self._servers = servers

    def start(self) -> Self:
        try:
            for server in self._servers:
                server.start()
            self._join()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        for server in self._servers:
            server.kill9()
            server.close()

    def _join(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


class RedisCluster(_Group):
    """Three primaries that share the slots in equal ranges; a slot can be moved, at once or in steps."""

    def __init__(self, *, program: str | None = None, appendonly: Literal["no", "everysec", "always"] = "everysec"):
        self.nodes = [RedisServer(program=program, appendonly=appendonly, cluster=True) for _ in range(3)]
        super().__init__(self.nodes)
        self._owners = [slot * 3 // SLOTS for slot in range(SLOTS)]

    def url(self) -> str:
        """Any node leads to the others."""
        return self.nodes[0].url()

    def owner(self, slot: int) -> int:
        """The index of the node that has this slot."""
        return self._owners[slot]

    def move_slot(self, slot: int, to: int) -> None:
        """All three steps: open, move the keys, close. Clients see ASK, then MOVED."""
        self.open_slot(slot, to)
        self.move_keys(slot, to)
        self.close_slot(slot, to)

    def move_slots(self, slots: Iterable[int], to: int) -> None:
        for slot in slots:
            self.move_slot(slot, to)

    def open_slot(self, slot: int, to: int) -> None:
        """From now on the old owner answers ASK for keys that it does not have."""
        source, target = self.nodes[self.owner(slot)], self.nodes[to]
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", _node_id(source))
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", _node_id(target))

    def move_keys(self, slot: int, to: int) -> int:
        """Move every key of an opened slot; returns how many."""
        source, moved = self.nodes[self.owner(slot)], 0
        while keys := source.cli("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.cli("MIGRATE", HOST, self.nodes[to].port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        return moved

    def close_slot(self, slot: int, to: int) -> None:
        """From now on the old owner answers MOVED, and all nodes have heard of it."""
        new = _node_id(self.nodes[to])
        for node in sorted(self.nodes, key=lambda node: node is not self.nodes[to]):
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", new)
        self._owners[slot] = to
        # The new owner takes an epoch above all that it has heard of. Were the next slot moved before
        # its new owner has heard of this epoch, a heartbeat of the old owner that is on its way would
        # win, and both would send clients to each other for ever.
        eventually(self._agrees, PATIENCE, "three nodes to agree on their epochs")

    def _agrees(self) -> bool:
        return len({_epochs(node) for node in self.nodes}) == 1

    def _join(self) -> None:
        for index, node in enumerate(self.nodes):
            mine = [slot for slot, owner in enumerate(self._owners) if owner == index]
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            node.cli("CLUSTER", "ADDSLOTSRANGE", mine[0], mine[-1])
        for other in self.nodes[1:]:
            self.nodes[0].cli("CLUSTER", "MEET", HOST, other.port, other.cluster_port)
        eventually(lambda: all(map(_sees_all, self.nodes)), PATIENCE, "three nodes to form a cluster")


def _node_id(node: RedisServer) -> str:
    return str(node.cli("CLUSTER", "MYID"))


def _epochs(node: RedisServer) -> frozenset[tuple[str, str]]:
    """The configuration epoch of each node, as this one has heard."""
    lines = [line.split() for line in str(node.cli("CLUSTER", "NODES")).splitlines()]
    return frozenset((line[0], line[6]) for line in lines)


def _sees_all(node: RedisServer) -> bool:
    state = str(node.cli("CLUSTER", "INFO"))
    return "cluster_state:ok" in state and "cluster_known_nodes:3" in state and "cluster_size:3" in state


class _Sentinel(RedisServer):
    """Watches one primary and moves its name to a replica when two of three agree that it is gone."""

    def __init__(self, service: str, primary: RedisServer) -> None:
        super().__init__(program=primary.program)
        self._text = (
            f"bind {HOST}\nport {self.port}\ndir {self.directory}\n"
            f"sentinel monitor {service} {HOST} {primary.port} 2\n"
            f"sentinel down-after-milliseconds {service} 500\n"
            f"sentinel failover-timeout {service} 3000\n"
        )

    def _config_text(self) -> str:
        return self._text

    def _command(self) -> Sequence[str]:
        return [*super()._command(), "--sentinel"]


class RedisSentinel(_Group):
    """One primary, one replica, three sentinels that know each other."""

    service = "turnkeep"

    def __init__(self, *, program: str | None = None) -> None:
        first = RedisServer(program=program)
        self.nodes = [first, RedisServer(program=program, replicaof=first)]
        self.sentinels = [_Sentinel(self.service, first) for _ in range(3)]
        super().__init__([*self.nodes, *self.sentinels])

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [(HOST, sentinel.port) for sentinel in self.sentinels]

    def primary(self) -> RedisServer:
        """The node that the majority of the living sentinels names now."""
        named = [self._named_by(sentinel) for sentinel in self.sentinels if sentinel.alive]
        port = max(set(named), key=named.count)
        return next(node for node in self.nodes if node.port == port)

    def replica(self) -> RedisServer:
        primary = self.primary()
        return next(node for node in self.nodes if node is not primary)

    def fail_over(self) -> RedisServer:
        """Kill the primary and wait until the replica took its place."""
        old = self.primary()
        old.kill9()
        new = next(node for node in self.nodes if node is not old)
        eventually(
            lambda: self.primary() is new and new.cli("ROLE")[0] == "master", PATIENCE, "the replica to take over"
        )
        return new

    def _named_by(self, sentinel: RedisServer) -> int:
        return int(sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1])

    def _join(self) -> None:
        eventually(self._settled, PATIENCE, "three sentinels and one replica to know each other")

    def _settled(self) -> bool:
        return all(self._knows_all(sentinel) for sentinel in self.sentinels)

    def _knows_all(self, sentinel: RedisServer) -> bool:
        state = sentinel.cli("SENTINEL", "MASTER", self.service)
        state = dict(zip(state[::2], state[1::2], strict=True))
        return int(state["num-slaves"]) == 1 and int(state["num-other-sentinels"]) == 2
