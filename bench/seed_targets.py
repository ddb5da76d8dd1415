"""The performance targets of the seed as floors, each beside a direct call to the same model in the same run.

    python bench/seed_targets.py [--calls 100] [--at-once 20] [--rounds 3]

A simulator in a process of its own says paced answers and fails now and then. Callers take turns, each in a fresh
process: one that reads the raw stream, `OpenAIService` without a session, and with one on an SQLite file. Ends with 1
where a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import aiohttp

from turnkeep.service import OpenAIService, RetryConfig, create_openai_config
from turnkeep.simulator import Fault, Options, Simulator, StreamPace, serve

WORDS = 150
PACE = StreamPace(first=0.15, token=0.01)
FAILING = 0.02
"""Of the requests, how many the model answers with 500."""

ASKED = [{"role": "user", "content": f"[[words:{WORDS}]]"}]
CALLERS = ("direct", "stateless", "session")


@dataclass
class Figures:
    """What one caller saw. Times in seconds, memory in megabytes."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: float = 0.0
    calls: int = 0
    errors: int = 0

    def add(self, other: Figures) -> None:
        for name in ("first", "gaps", "speeds", "cpu"):
            getattr(self, name).extend(getattr(other, name))
        self.rss = max(self.rss, other.rss)
        self.calls += other.calls
        self.errors += other.errors


class Stopwatch:
    """Times of one answer."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._begun = self._last = time.perf_counter()
        self._tokens = 0

    def token(self) -> None:
        now = time.perf_counter()
        if self._tokens:
            self._figures.gaps.append(now - self._last)
        else:
            self._figures.first.append(now - self._begun)
            self._first = now
        self._tokens += 1
        self._last = now

    def end(self) -> None:
        if self._tokens > 1:
            self._figures.speeds.append((self._tokens - 1) / (self._last - self._first))


# ---------------------------------------------------------------- the callers


Call = Callable[[int, Stopwatch], Awaitable[None]]


async def measured(call: Call, count: int, at_once: int) -> Figures:
    figures, slots = Figures(calls=count), asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with slots:
            watch = Stopwatch(figures)
            try:
                await call(number, watch)
            except Exception:  # whatever it is, the caller has no answer
                figures.errors += 1
            watch.end()

    before = resource.getrusage(resource.RUSAGE_SELF)
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures.cpu.append(seconds / (count * WORDS) * 1e6)
    figures.rss = after.ru_maxrss / 1024
    return figures


async def direct(url: str, count: int, at_once: int) -> Figures:
    """The raw stream, with nothing between."""
    body = {"model": "gpt-4o", "input": ASKED, "stream": True, "store": False}
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer sk-test"}) as session:

        async def call(_: int, watch: Stopwatch) -> None:
            async with session.post(f"{url}/responses", json=body) as response:
                response.raise_for_status()
                async for line in response.content:
                    if line.startswith(b"data: ") and json.loads(line[6:])["type"] == "response.output_text.delta":
                        watch.token()

        return await measured(call, count, at_once)


async def service(url: str, count: int, at_once: int, store: str, *, remembers: bool) -> Figures:
    """Our service; each session is used by one call at a time."""
    config = create_openai_config(
        api_key="sk-test",
        model="gpt-4o",
        base_url=url,
        store=store,
        model_api="responses",
        retries=RetryConfig(initial_delay=0.05),
    )
    async with OpenAIService(config) as answering:
        await answering.complete([{"role": "user", "content": "warm up [[say:ok]]"}], "warm" if remembers else None)

        async def call(number: int, watch: Stopwatch) -> None:
            session = f"s{number}" if remembers else None
            async for chunk in answering.stream_completion(ASKED, session):
                if chunk.type == "content" and not chunk.replaces:
                    watch.token()
                elif chunk.error is not None:
                    raise chunk.error

        return await measured(call, count, at_once)


def act(name: str, url: str, count: int, at_once: int, say: Connection) -> None:
    """One caller in this process."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:{Path(folder) / 'turnkeep.db'}"
        if name == "direct":
            figures = asyncio.run(direct(url, count, at_once))
        else:
            figures = asyncio.run(service(url, count, at_once, store, remembers=name == "session"))
    say.send(figures)


def simulate(say: Connection) -> None:
    async def run() -> None:
        simulator = Simulator(pace=PACE, options=Options(ledger_limit=1000))
        simulator.faults.append(Fault("500", times=None, probability=FAILING))
        async with serve(simulator) as url:
            say.send(url)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


# ---------------------------------------------------------------- figures


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1000)[min(998, round(share * 1000) - 1)]


def rows(told: dict[str, Figures]) -> list[tuple[str, str, Callable[[Figures], float], float, bool]]:
    """Name, unit, figure, target and whether the figure has to be above it."""
    return [
        ("first token, p95", "ms", lambda f: percentile(f.first, 0.95) * 1e3, 1000.0, False),
        ("between chunks, p99", "ms", lambda f: percentile(f.gaps, 0.99) * 1e3, 100.0, False),
        ("tokens a second, p5", "", lambda f: percentile(f.speeds, 0.05), 50.0, True),
        ("memory, peak", "MB", lambda f: f.rss, 512.0, False),
        ("errors", "%", lambda f: 100.0 * f.errors / f.calls, 1.0, False),
        ("CPU per token", "us", lambda f: statistics.median(f.cpu), float("inf"), False),
    ]


def tell(told: dict[str, Figures]) -> bool:
    """Print all figures; whether every target is met."""
    met = True
    for name, unit, figure, target, above in rows(told):
        floor = figure(told["direct"])
        for caller in CALLERS:
            value = figure(told[caller])
            good = caller == "direct" or (value > target if above else value < target)
            met = met and good
            ratio = f"{value / floor:6.2f}x direct" if floor else "           –"
            goal = "" if target == float("inf") else f"  target {'>' if above else '<'} {target:g} {unit}"
            print(f"{name:20} {caller:10} {value:8.2f} {unit:3} {ratio}{goal}{'' if good else '  MISSED'}")
    return met


def rounds(context: SpawnContext, url: str, chosen: argparse.Namespace) -> dict[str, Figures]:
    """The callers in turn, so that a slow minute of the machine hits all of them."""
    told = {name: Figures() for name in CALLERS}
    for _ in range(chosen.rounds):
        for name in CALLERS:
            hear, say = context.Pipe(duplex=False)
            process = context.Process(target=act, args=(name, url, chosen.calls, chosen.at_once, say))
            process.start()
            figures: Any = hear.recv()
            told[name].add(figures)
            process.join()
    return told


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=100)
    arguments.add_argument("--at-once", type=int, default=20)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    context = multiprocessing.get_context("spawn")
    hear, say = context.Pipe(duplex=False)
    simulator = context.Process(target=simulate, args=(say,), daemon=True)
    simulator.start()
    try:
        return 0 if tell(rounds(context, hear.recv(), chosen)) else 1
    finally:
        simulator.terminate()
        simulator.join()


if __name__ == "__main__":
    sys.exit(main())
