"""Row 13: whether a message costs the same on more shards: the model of docs/scale.md, on one machine.

A Redis Cluster of 1, 4 and 16 primaries, a store of 64 partitions, the life of messages on many threads. On one machine
nothing gets faster by it; what is shown is that no shard does more for being one of many.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import redis as client

from bench.ladder.figures import Figure, Target, ratio
from bench.ladder.sizes import Size
from bench.ladder.stack import Part, Stack
from bench.ladder.store_life import POLICIES, SINGLE, accept, answer_all
from turnkeep.store.redis import RedisStore

FLAT = Target(1.2, 1.1)
PARTITIONS = 64
SLOTS = 16_384
SHARDS = (1, 4, 16)
PATIENCE = 30.0

Cpu = Mapping[str, float]


async def measure(size: Size) -> list[Figure]:
    rounds = [[await life(shards, size.of(1_000, 6_000)) for shards in SHARDS] for _ in range(size.rounds)]
    floor = [one[0] for one in rounds]
    return [
        ratio(
            13,
            f"CPU of a message, 1 to {shards} shards of a cluster",
            [one[place] for one in rounds],
            floor,
            target=FLAT,
        )
        for place, shards in enumerate(SHARDS)
        if place
    ]


async def life(shards: int, messages: int) -> Cpu:
    with Stack() as stack:
        nodes = [stack.redis("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf") for _ in range(shards)]
        await asyncio.to_thread(join, nodes)
        url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        store = RedisStore(url, POLICIES, prefix="b:", allow_unsafe=True, partitions=PARTITIONS)
        await store.open()
        try:
            await accept(store, SINGLE, 100, prefix="warm")
            await answer_all(store, 100)
            # Nodes of a cluster talk to each other, used or not: that is no cost of a message.
            before, begun_at = meter(nodes), time.monotonic()
            await asyncio.sleep(2.0)
            idle = (meter(nodes)["servers"] - before["servers"]) / (time.monotonic() - begun_at)
            before, begun_at = meter(nodes), time.monotonic()
            await accept(store, SINGLE, messages)
            await answer_all(store, messages)
            after = meter(nodes)
            after["servers"] -= idle * (time.monotonic() - begun_at)
        finally:
            await store.close()
        return {name: (after[name] - before[name]) / messages * 1e6 for name in after}


def meter(nodes: Sequence[Part]) -> dict[str, float]:
    return {"client": time.process_time(), "servers": sum(node.cpu for node in nodes)}


def join(nodes: Sequence[Part]) -> None:
    """Equal shares of the slots for all."""
    links = [client.Redis(port=node.port) for node in nodes]
    share = SLOTS // len(nodes)
    for place, link in enumerate(links):
        last = SLOTS - 1 if place == len(nodes) - 1 else (place + 1) * share - 1
        link.execute_command("CLUSTER", "ADDSLOTSRANGE", place * share, last)
        if place:
            links[0].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[place].port)
    until = time.monotonic() + PATIENCE
    while not all(is_whole(link, len(nodes)) for link in links):
        if time.monotonic() > until:
            raise TimeoutError("the cluster did not come together")
        time.sleep(0.05)


def is_whole(link: client.Redis, nodes: int) -> bool:
    info = link.execute_command("CLUSTER", "INFO")
    text = info if isinstance(info, str) else str(info)
    return "ok" in text and f"{nodes}" in text and len(link.execute_command("CLUSTER", "SHARDS")) == nodes
