"""Rows 3, 4, 5, 7 and 8: what a token costs on the whole path while a thousand streams flow, and the memory of all.

Each stream has a subscriber of its own and ten tokens a second. *Whole* is all CPU from the first message to the last
answer, by token; the floor is a pump of bytes that serves as many callers in the same round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.ladder.callers import ModelCaller, Subscriber, connect, subscribe
from bench.ladder.figures import Figure, Target, medians, percentile, ratio
from bench.ladder.sizes import Size
from bench.ladder.stack import Part, Stack, cost, cpu_now

PATIENCE = 90.0
FIRST_MUST, FIRST_AIM = 0.1, 0.03


@dataclass(frozen=True, slots=True)
class House:
    """A variant: where to knock, and the processes whose CPU counts."""

    name: str
    door: Part
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Flow:
    """What one round of one variant has cost."""

    whole: Mapping[str, float]
    firsts: Sequence[float]
    rss: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Load:
    streams: int
    tokens: int
    interval: int
    """Milliseconds."""

    @property
    def mode(self) -> str:
        return f"trickle-{self.tokens}-{self.interval}"


async def measure(size: Size) -> list[Figure]:
    load = Load(size.of(40, 1_000), size.of(40, 60), size.of(50, 100))
    with Stack() as stack:
        model = stack.model()
        pump = stack.program("pump", str(model.port))
        embedded = stack.service(model=model)
        gateway, apart = stack.apart(model)
        houses = [House("pump", pump, [pump]), House("sqlite", embedded, [embedded]), House("redis", gateway, apart)]
        for house in houses:
            await warm(house)
        empty = {part.name: part.rss for house in houses for part in house.parts}
        callers = {house.name: await open_callers(house, load.streams) for house in houses}
        subscribed = {part.name: part.rss for house in houses for part in house.parts}
        flows: dict[str, list[Flow]] = {house.name: [] for house in houses}
        for _ in range(size.rounds):
            for house in houses:
                flows[house.name].append(await flow(house, callers[house.name], load))
    sockets = {name: (subscribed[name] - empty[name]) * 1024 / load.streams for name in ("service", "gateway")}
    return figures(load, flows, sockets)


async def open_callers(house: House, count: int) -> Sequence[ModelCaller | Subscriber]:
    if house.name == "pump":
        return await connect(ModelCaller, house.door.port, count)
    callers = await connect(Subscriber, house.door.port, count)
    await subscribe(callers, "t{}")
    return callers


async def warm(house: House) -> None:
    """What is loaded and opened once is no part of a token, and of no socket."""
    if house.name == "pump":
        return
    [caller] = await connect(Subscriber, house.door.port, 1)
    for number in range(5):
        await asyncio.wait_for(caller.subscribe(f"warm{number}"), PATIENCE)
        await asyncio.wait_for(caller.say(f"warm{number}", "mode=burst-1 warm"), PATIENCE)
    caller.transport.close()


async def flow(house: House, callers: Sequence[ModelCaller | Subscriber], load: Load) -> Flow:
    """All streams once, begun within some seconds as people come."""
    ramp = max(1.0, load.streams / 400)
    before, begun_at = cpu_now(house.parts), time.perf_counter()
    answers = []
    for place, caller in enumerate(callers):
        answers.append(begin(caller, place, load.mode))
        if place % 10 == 9:
            await asyncio.sleep(max(0.0, begun_at + ramp * (place + 1) / load.streams - time.perf_counter()))
    await asyncio.sleep(load.tokens * load.interval / 2_000)
    rss = {part.name: part.rss for part in house.parts}
    await asyncio.wait_for(asyncio.gather(*answers), PATIENCE)
    after = cpu_now(house.parts)
    tokens = sum(caller.tokens for caller in callers)
    if tokens != load.streams * load.tokens:
        raise RuntimeError(f"{house.name}: {tokens} of {load.streams * load.tokens} tokens came")
    return Flow(cost(before, after, tokens), [caller.first or PATIENCE for caller in callers], rss)


def begin(caller: ModelCaller | Subscriber, place: int, mode: str) -> asyncio.Future[None]:
    if isinstance(caller, ModelCaller):
        return caller.ask(mode)
    return caller.say(f"t{place}", f"mode={mode}")


def figures(load: Load, flows: Mapping[str, Sequence[Flow]], sockets: Mapping[str, float]) -> list[Figure]:
    whole = {name: [flow.whole for flow in rounds] for name, rounds in flows.items()}
    redis = [flow.whole for flow in flows["redis"]]
    late = [
        (percentile(ours.firsts, 0.99) - percentile(floor.firsts, 0.99)) * 1e3
        for ours, floor in zip(flows["sqlite"], flows["pump"], strict=True)
    ]
    found = [
        ratio(3, "CPU of a token / byte pump, embedded", whole["sqlite"], whole["pump"], target=Target(4, 2),
              is_checked=True),
        ratio(3, "CPU of a token / byte pump, Redis, every process", redis, whole["pump"], target=Target(6, 4),
              is_checked=True),
        Figure(4, "redis-server, CPU of a token", "µs", tuple(one["redis"] for one in redis), Target(15, 10)),
        Figure(5, f"first token at {load.streams} embedded streams, p99, over the pump's", "ms", tuple(late),
               Target(100, 30)),
        Figure(7, "tokens/s of a gateway's core", "/s", tuple(1e6 / one["gateway"] for one in redis),
               Target(25_000, 50_000, more_is_better=True)),
        Figure(8, "memory of a subscribed socket", "kB", (sockets["service"],), Target(15, 8),
               {f"{name} kB": round(value, 1) for name, value in sockets.items()}),
    ]  # fmt: skip
    for name, must, aim in (("sqlite", 170.0, 150.0), ("redis", 0.0, 0.0)):
        rounds = [flow.rss for flow in flows[name]]
        target = Target(must, aim) if must else None
        total = tuple(sum(one.values()) for one in rounds)
        found.append(Figure(8, f"memory at {load.streams} streams, {name}", "MB", total, target, medians(rounds, "MB")))
    return found
