"""Row 11: runs a second over HTTP, beside a bare ASGI program that streams the same bytes.

Twenty clients in closed loops: POST a message, read its twenty tokens from the channel's event stream, again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.ladder.callers import HttpCaller
from bench.ladder.figures import Figure, Target, ratio
from bench.ladder.sizes import Size
from bench.ladder.stack import HERE, Part, Stack, cost, cpu_now, free_port

CLIENTS = 20
TOKENS = 20
ASK = {"message": f"mode=burst-{TOKENS} hello"}
PATIENCE = 120.0
FLOOR_TURNS = 10
"""So many times as often: it is that much quicker."""


@dataclass(frozen=True, slots=True)
class Runs:
    per_second: float
    cpu: Mapping[str, float]


async def measure(size: Size) -> list[Figure]:
    turns = size.of(5, 20)
    found: dict[str, list[Runs]] = {"floor": [], "sqlite": [], "redis": []}
    with Stack() as stack:
        model = stack.model()
        embedded = stack.service(model=model)
        gateway, apart = stack.apart(model)
        floor = await bare_asgi(stack, embedded)
        for number in range(size.rounds + 1):
            rounds = {
                "floor": await clients([floor], floor.port, turns * FLOOR_TURNS, ""),
                "sqlite": await clients([embedded], embedded.port, turns, f"s{number}-"),
                "redis": await clients(apart, gateway.port, turns, f"r{number}-"),
            }
            for name, runs in rounds.items() if number else ():  # the first round opens what is opened once
                found[name].append(runs)
    figures = []
    for name, where in (("sqlite", "SQLite"), ("redis", "Redis, gateway and worker apart")):
        rates = [one.per_second for one in found[name]]
        bare = [one.per_second for one in found["floor"]]
        samples = tuple(ours / other for ours, other in zip(rates, bare, strict=True))
        parts = {"runs /s": round(min(rates)), "bare ASGI /s": round(min(bare))}
        target = Target(0.25, 0.4, more_is_better=True)
        figures.append(Figure(11, f"runs/s over HTTP / bare ASGI, {where}", "x", samples, target, parts))
        cpu = [[one.cpu for one in found[kind]] for kind in (name, "floor")]
        figures.append(ratio(11, f"CPU of a run over HTTP / bare ASGI, {where}", *cpu, is_checked=True))
    return figures


async def bare_asgi(stack: Stack, service: Part) -> Part:
    """The floor, which says what the service has just said."""
    frames: list[bytes] = []
    await client(service.port, "recorded", 1, frames)
    file, port = stack.folder / "frames.json", free_port()
    file.write_text(json.dumps([frame.decode() for frame in frames]))
    return stack.start("floor", [sys.executable, HERE / "bare_asgi.py", str(port), file], port=port)


async def clients(parts: Sequence[Part], port: int, turns: int, prefix: str) -> Runs:
    before, begun_at = cpu_now(parts), time.perf_counter()
    callers = [client(port, f"{prefix}{n}", turns) if prefix else floor_client(port, turns) for n in range(CLIENTS)]
    await asyncio.wait_for(asyncio.gather(*callers), PATIENCE)
    return Runs(CLIENTS * turns / (time.perf_counter() - begun_at), cost(before, cpu_now(parts), CLIENTS * turns))


async def client(port: int, channel: str, turns: int, frames: list[bytes] | None = None) -> None:
    listener, poster = HttpCaller(port), HttpCaller(port)
    events = listener.events(f"/api/channels/{channel}/events?text=delta")
    async for event in events:
        if b'"subscribed"' in event:
            break
    for _ in range(turns):
        status, body = await poster.post(f"/api/channels/{channel}/messages", ASK)
        if status != 202:
            raise RuntimeError(f"{status}: {body[:200].decode(errors='replace')}")
        async for event in events:
            if frames is not None:
                frames.append(event)
            if b'"status":"completed"' in event and b'"type":"response"' in event:
                break
    listener.close()
    poster.close()


async def floor_client(port: int, turns: int) -> None:
    caller = HttpCaller(port)
    for _ in range(turns):
        await caller.post("/run", ASK)
    caller.close()
