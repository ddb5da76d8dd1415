"""Rows 8, 14 and 15: what a process weighs, how soon it is ready, and what it costs while nothing happens."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.ladder.fanout import idle_share
from bench.ladder.figures import Figure, Target
from bench.ladder.sizes import Size
from bench.ladder.stack import TURNKEEP, Part, Stack, environment, free_port

QUEUE = "from turnkeep import AssistantMessageQueue"
BARE = "import asyncio"


async def measure(size: Size) -> list[Figure]:
    starts: dict[str, list[tuple[float, float, float]]] = {"dev": [], "gateway": []}
    imports: dict[str, list[tuple[float, float]]] = {QUEUE: [], BARE: []}
    for _ in range(size.of(3, 5)):
        for name, verb in (("dev", ["dev"]), ("gateway", ["serve", "--role", "gateway"])):
            starts[name].append(ready(verb))
        for code, rounds in imports.items():
            rounds.append(run_python(code))
    idle = {} if size.is_small else await idle_services(20.0)
    bare = [cpu for _, cpu in imports[BARE]]
    found = [
        Figure(14, "dev is ready", "s", tuple(wall for wall, _, _ in starts["dev"]), Target(1.0, 0.6)),
        Figure(14, "a gateway is ready", "s", tuple(wall for wall, _, _ in starts["gateway"]), Target(1.0, 0.6)),
        Figure(14, "first use of the queue class", "s", tuple(wall for wall, _ in imports[QUEUE]), Target(0.4, 0.2)),
    ]
    cpu = {name: [used for _, used, _ in rounds] for name, rounds in starts.items()}
    cpu["queue class"] = [used for _, used in imports[QUEUE]]
    for name, used in cpu.items():
        samples = tuple(one / other for one, other in zip(used, bare, strict=True))
        parts = {"CPU s": round(min(used), 3), "bare Python CPU s": round(min(bare), 3)}
        found.append(Figure(14, f"{name}: CPU until ready / bare Python", "x", samples, None, parts, is_checked=True))
    for name, rounds in starts.items():
        weight = tuple(rss for _, _, rss in rounds)
        found.append(Figure(8, f"an empty process, {name}", "MB", weight, Target(90, 70), is_checked=True))
    found += [Figure(15, f"idle, {name}", "%", (share,), Target(0.2, 0.02)) for name, share in idle.items()]
    return found


def ready(verb: Sequence[str]) -> tuple[float, float, float]:
    """Seconds until the port is open, CPU seconds until then, and megabytes."""
    with Stack() as stack:
        port = free_port()
        begun_at = time.perf_counter()
        part = stack.start(verb[0], [TURNKEEP, *verb, "--port", str(port)], port=port, env=environment({}))
        return time.perf_counter() - begun_at, part.cpu, part.rss


def run_python(code: str) -> tuple[float, float]:
    """Seconds, and CPU seconds, of a fresh interpreter."""
    before, begun_at = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment({}))
    wall, after = time.perf_counter() - begun_at, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def idle_services(seconds: float) -> dict[str, float]:
    """Percent of a core of each kind of process, with nobody there."""
    with Stack() as stack:
        model = stack.model()
        embedded = stack.service(model=model)
        _, [gateway, worker, _] = stack.apart(model)
        parts: list[Part] = [embedded, gateway, worker]
        await asyncio.sleep(2.0)
        return dict(await idle_share(parts, seconds))
