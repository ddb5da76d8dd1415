"""The whole life of a message in the queue, in CPU, beside a job of BullMQ (Node) on the same Redis in the same run.

    python bench/run.py queue_vs_bullmq        (or, with the root on PYTHONPATH: python bench/queue_vs_bullmq.py)
        [--messages 20000] [--rounds 3] [--concurrency 64]

BullMQ adds a job and calls a function that does nothing. turnkeep accepts a message (durably deduplicated, in order,
into its window), claims its thread (fenced, leased), and commits an answer (transcript, usage, events, receipt): more,
for each of 20,000 threads, and for 4,000 threads that say five things each. Sums of client and server count; only the
ratios mean anything on another machine. Needs Node and npm; installs what package-lock.json names into bench/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import uvloop

from bench.store_redis import Bench, answer, opened, own_cpu, private_redis
from turnkeep.messages import Address, Message, text_content

HERE = Path(__file__).resolve().parent
WORDS = "a message of about a hundred bytes, as people send them to an assistant on a phone, more or less"
BURST = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    asked = parser.parse_args()
    node = prepared()
    spent: dict[str, list[float]] = {}
    for number in range(asked.rounds):
        print(f"round {number + 1} of {asked.rounds}", flush=True)
        for name, cost in one_round(node, asked.messages, asked.concurrency):
            spent.setdefault(name, []).append(cost)
    report(spent)


def prepared() -> str:
    """The Node program, with the packages of the lock file installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise SystemExit("Node and npm are not installed: apt-get install nodejs npm")
    if not (HERE / "node_modules" / "bullmq").exists():
        subprocess.run(
            [npm, "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=HERE, check=True
        )
    return node


def one_round(node: str, messages: int, concurrency: int) -> Iterator[tuple[str, float]]:
    """Microseconds of CPU per message; each on a fresh Redis without persistence."""
    with private_redis() as url:
        port = url.rpartition(":")[2].partition("/")[0]
        command = [node, str(HERE / "bullmq.mjs"), port, str(messages), str(concurrency)]
        told = json.loads(subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout)
        yield "BullMQ", sum(sum(phase.values()) for phase in told.values())
    for name, size in (("turnkeep, a thread each", 1), (f"turnkeep, bursts of {BURST}", BURST)):
        with private_redis() as url:
            yield name, uvloop.run(life(url, messages, concurrency, size))


async def life(url: str, messages: int, concurrency: int, size: int) -> float:
    async with opened(url) as store:
        bench = Bench(store, concurrency)
        client, server = own_cpu(), await bench.server_cpu()
        names = iter(count())
        threads = messages // size

        async def say() -> None:
            while (n := next(names)) < messages:
                where = Address("t", "q", f"c{n // size}")
                await store.accept([Message(where, f"m{n}", text_content(WORDS))])

        await together(say, concurrency)
        left = threads
        claiming = asyncio.Lock()

        async def run() -> None:
            nonlocal left
            while left > 0:
                async with claiming:
                    claims = await store.claim(owner="bench", limit=8, lease=300.0)
                left -= len(claims)
                for claim in claims:
                    await store.commit(claim, answer(claim))

        await together(run, concurrency)
        client, server = own_cpu() - client, await bench.server_cpu() - server
        counts = await store.counts()
        if counts.completed != messages:
            raise SystemExit(f"{counts.completed} of {messages} messages were answered")
        return (client + server) / messages * 1e6


async def together(work, concurrency: int) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


def report(spent: dict[str, list[float]]) -> None:
    floor = statistics.median(spent["BullMQ"])
    print(f"\n{'CPU of a whole life, client and server':42}{'us/message':>12}{'x BullMQ':>10}")
    for name, costs in spent.items():
        middle = statistics.median(costs)
        print(f"{name:42}{middle:12.1f}{middle / floor:10.2f}")


if __name__ == "__main__":
    main()
