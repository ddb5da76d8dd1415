"""What one operation of the Redis engine costs, beside a bare pipelined EVALSHA of `return 1` in the same run.

    python bench/store_redis.py [--operations 4000] [--rounds 5] [--concurrency 64] [--url redis://…] [--steps]

Starts a private `redis-server` without persistence, or uses the one named (whose keys under `bench:` it deletes).
Client figures are CPU of this process, server figures CPU of the server, both per operation; only the ratios mean
anything on another machine. The floor and the operations take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count

import uvloop
from baton import Baton, spare_collector

from turnkeep.events import delta
from turnkeep.messages import Address, AssistantItem, Message, UserItem, text_content
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import Claim, Commit, Policies, Policy, TranscriptEntry
from turnkeep.usage import Usage

POLICIES = Policies(Policy(window=0.0, max_inbox=1_000_000, max_batch=64))
WORDS = "a message of about a hundred bytes, as people send them to an assistant on a phone, more or less"
NAMES = count()


@dataclass
class Figures:
    """CPU microseconds per operation, one per round."""

    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)


class Bench:
    def __init__(self, store: RedisStore, concurrency: int, baton: Baton | None = None) -> None:
        self.store = store
        self.concurrency = concurrency
        self.baton = baton
        self.figures: dict[str, Figures] = {}

    async def server_cpu(self) -> float:
        info = await self.store._link.call("info", b"", None, "INFO", "cpu")
        values = dict(line.split(":") for line in info.decode().splitlines() if ":" in line)
        return float(values["used_cpu_sys"]) + float(values["used_cpu_user"])

    async def measure(self, name: str, operations: int, work: Callable[[int], Awaitable[object]]) -> None:
        """Do so many operations, always the same number at once."""
        numbers = iter(range(operations))
        client, server = own_cpu(), await self.server_cpu()

        async def keep_going() -> None:
            for n in numbers:
                await work(n)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(keep_going())
        client, server = own_cpu() - client, await self.server_cpu() - server
        figures = self.figures.setdefault(name, Figures())
        figures.client.append(client / operations * 1e6)
        figures.server.append(server / operations * 1e6)
        if self.baton is not None:
            await self.baton.pass_on(name, {"client us": figures.client[-1], "server us": figures.server[-1]})

    # ---------------------------------------------------------------- one round

    async def round(self, operations: int) -> None:
        prefix = f"r{next(NAMES)}"
        await self.floor(operations)
        await self.measure("accept", operations, lambda n: self.accept(f"{prefix}-{n}"))
        await self.claim_and_commit("claim + commit", operations)
        await self.floor(operations)
        claims = await self.leased(prefix)
        await self.measure("publish (a token each)", 4 * operations, lambda n: self.publish(claims, n))
        for claim in claims:
            await self.store.commit(claim, answer(claim))
        await self.floor(operations)
        bursts = max(1, operations // 8)
        await self.measure("accept, bursts of 20", bursts, lambda n: self.burst(f"{prefix}-b{n}"))
        await self.claim_and_commit("claim + commit, bursts of 20", bursts)

    async def floor(self, operations: int) -> None:
        pipe = await self.store._link.pipe_of(b"")
        sha = await pipe.send("SCRIPT", "LOAD", "return 1")

        async def nothing(_: int) -> None:
            await pipe.send("EVALSHA", sha, 0)

        await self.measure("EVALSHA return 1", operations, nothing)

    async def accept(self, name: str) -> None:
        await self.store.accept([Message(Address("t", "q", name), "m1", text_content(WORDS))])

    async def burst(self, name: str) -> None:
        where = Address("t", "q", name)
        await self.store.accept([Message(where, f"m{n}", text_content(WORDS)) for n in range(20)])

    async def claim_and_commit(self, name: str, threads: int) -> None:
        """Runs that take the time of their two operations; claims are made as a worker makes them, one at a time."""
        waiting: list[Claim] = []
        claiming = asyncio.Lock()

        async def one(_: int) -> None:
            async with claiming:
                if not waiting:
                    waiting.extend(await self.store.claim(owner="bench", limit=self.concurrency, lease=300.0))
            if waiting:
                claim = waiting.pop()
                await self.store.commit(claim, answer(claim))

        await self.measure(name, threads, one)
        while left := await self.store.claim(owner="bench", limit=64, lease=300.0):
            for claim in left:
                await self.store.commit(claim, answer(claim))

    async def leased(self, prefix: str) -> list[Claim]:
        for n in range(self.concurrency):
            await self.accept(f"{prefix}-p{n}")
        claims: list[Claim] = []
        while len(claims) < self.concurrency:
            claims += await self.store.claim(owner="bench", limit=64, lease=300.0)
        return claims

    async def publish(self, claims: list[Claim], n: int) -> None:
        claim = claims[n % len(claims)]
        await self.store.publish(claim, n // len(claims), [delta(" token", claim.run_id, claim.attempt)])


def answer(claim: Claim) -> Commit:
    asked = [TranscriptEntry(UserItem(m.content, m.message_id), 20) for m in claim.messages]
    said = TranscriptEntry(AssistantItem(WORDS), 20)
    return Commit("completed", WORDS, [*asked, said], Usage(requests=1, input_tokens=40, output_tokens=20), "model")


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# ---------------------------------------------------------------- a server of our own


@contextmanager
def private_redis() -> Iterator[str]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("there is no redis-server on this machine: give --url")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = {"port": str(port), "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "no"}
        command = [program, *(part for name, value in options.items() for part in (f"--{name}", value))]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(port)
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                server.terminate()


def wait_for(port: int) -> None:
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            continue
    raise SystemExit("redis-server did not start")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, POLICIES, prefix="bench:", allow_unsafe=True)
    await store.open()
    spare_collector()
    try:
        yield store
    finally:
        await store.close()


async def run_steps(url: str, operations: int, concurrency: int) -> None:
    async with opened(url) as store:
        bench = Bench(store, concurrency, baton := Baton())
        while True:
            await bench.round(operations)
            await baton.end_round()


async def run(url: str, operations: int, rounds: int, concurrency: int) -> None:
    async with opened(url) as store:
        bench = Bench(store, concurrency)
        await bench.round(min(200, operations))
        bench.figures.clear()
        for _ in range(rounds):
            await bench.round(operations)
        report(bench.figures)


def report(figures: dict[str, Figures]) -> None:
    floor = figures["EVALSHA return 1"]
    base = statistics.median(floor.client), statistics.median(floor.server)
    print(f"{'':32}{'client us':>10}{'x floor':>9}{'server us':>11}{'x floor':>9}")
    for name, figure in figures.items():
        client, server = statistics.median(figure.client), statistics.median(figure.server)
        print(f"{name:32}{client:10.1f}{client / base[0]:9.1f}{server:11.1f}{server / base[1]:9.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--url")
    parser.add_argument("--steps", action="store_true", help="take turns with another program (baton.py)")
    asked = parser.parse_args()
    with nullcontext(asked.url) if asked.url else private_redis() as url:
        if asked.steps:
            uvloop.run(run_steps(url, asked.operations or 1000, asked.concurrency))
        else:
            uvloop.run(run(url, asked.operations or 4000, asked.rounds, asked.concurrency))


if __name__ == "__main__":
    main()
