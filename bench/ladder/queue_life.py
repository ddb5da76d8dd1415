"""Row 9: the whole life of a message on Redis beside a job of BullMQ, the same Redis with the same append-only file.

BullMQ adds a job and calls a function that does nothing. turnkeep accepts a message (deduplicated, in order, into its
window), claims its thread (fenced, leased), and commits an answer (transcript, usage, events, receipt). CPU of client
and server together.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from bench.ladder.figures import Figure, Target, ratio
from bench.ladder.lean_redis import LeanQueue
from bench.ladder.sizes import Size
from bench.ladder.stack import Part, Stack
from bench.ladder.store_life import (
    BURSTS,
    PEOPLE,
    SINGLE,
    WORDS,
    WORKERS,
    Shape,
    live,
    meter,
    redis_store,
    together,
)

BENCH = Path(__file__).resolve().parents[1]
TARGETS = {"single": Target(0.7, 0.5), "bursts of 20": Target(0.15, 0.1)}

Rounds = dict[str, list[Mapping[str, float]]]


async def measure(size: Size) -> list[Figure]:
    counts = {SINGLE: size.of(1_000, 6_000), BURSTS: size.of(5_000, 6_000)}
    node = None if size.is_small else await asyncio.to_thread(node_with_packages)
    rounds: dict[Shape, Rounds] = {SINGLE: {}, BURSTS: {}}
    for _ in range(size.rounds):
        for shape, found in rounds.items():
            count = counts[shape]
            with Stack() as stack:
                if node:
                    cost = await asyncio.to_thread(bullmq, node, stack.redis(), count)
                    found.setdefault("bullmq", []).append(cost)
                redis = stack.redis()
                async with redis_store(redis) as store:
                    found.setdefault("ours", []).append((await live(store, redis, shape, count)).cpu)
                found.setdefault("lean", []).append(await lean(stack.redis(), shape, count))
    figures: list[Figure] = []
    for shape, found in rounds.items():
        if node:
            name = f"life of a message on Redis / BullMQ, {shape.name}"
            figures.append(ratio(9, name, found["ours"], found["bullmq"], target=TARGETS[shape.name]))
        name = f"life of a message on Redis / lean scripts, {shape.name}"
        figures.append(ratio(9, name, found["ours"], found["lean"], is_checked=True))
    return figures


def node_with_packages() -> str | None:
    """Node, with what the lock file names installed into bench/; None where it is not there, which is said."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        print("bench: BullMQ is left out: Node and npm are not installed (apt-get install nodejs npm)", flush=True)
        return None
    if not (BENCH / "node_modules" / "bullmq").exists():
        options = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run([npm, "install", *options], cwd=BENCH, check=True, capture_output=True)
    return node


def bullmq(node: str, redis: Part, count: int, program: str = "bullmq.mjs", *more: str) -> Mapping[str, float]:
    """Microseconds of a job, of the Node process and of the server."""
    before = redis.cpu
    command = [node, str(BENCH / program), str(redis.port), str(count), str(PEOPLE), *more]
    done = subprocess.run(command, cwd=BENCH, check=True, capture_output=True, text=True, timeout=200)
    phases = json.loads(done.stdout)
    client = sum(phase["client"] for phase in phases.values())
    return {"client": client, "server": (redis.cpu - before) / count * 1e6}


async def lean(redis: Part, shape: Shape, count: int) -> Mapping[str, float]:
    queue = await LeanQueue.open(redis.port)
    before, body = meter(redis), json.dumps({"text": WORDS, "at": time.time()}).encode()
    numbers, left, claiming = iter(range(count)), count // shape.burst, asyncio.Lock()

    async def person() -> None:
        for n in numbers:
            await queue.accept(f"c{n // shape.burst}", f"m{n}", body)

    async def work() -> None:
        nonlocal left
        while left > 0:
            async with claiming:
                claims = await queue.claim(PEOPLE) if left > 0 else []
            left -= len(claims)
            await asyncio.gather(*[queue.commit(thread.decode(), body) for thread, _ in claims])

    await together(person, PEOPLE)
    await together(work, WORKERS)
    after = meter(redis)
    queue.close()
    return {name: (after[name] - before[name]) / count * 1e6 for name in after}
