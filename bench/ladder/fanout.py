"""Rows 6 and 15: one thread and a thousand subscribers, beside prepared frames; and what they cost in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from bench.ladder.callers import Counter, connect, subscribe
from bench.ladder.figures import Figure, Target, ratio
from bench.ladder.sizes import Size
from bench.ladder.stack import Part, Stack, cost, cpu_now

PATIENCE = 60.0
WHOLE_ROUNDS = 60.0
"""Seconds in which each socket is pinged equally often: those that came together are pinged together, so that a part
of a round of pings holds all of them, or none.
"""


async def measure(size: Size) -> list[Figure]:
    count = size.of(100, 1_000)
    tokens, interval = size.of(20, 30), size.of(50, 100)
    seconds = size.of(2.0, WHOLE_ROUNDS)
    with Stack() as stack:
        model = stack.model()
        floor = stack.program("prepared_frames", str(model.port))
        embedded = stack.service(model=model)
        gateway, _ = stack.apart(model)
        empty = await idle_share([embedded, gateway], seconds)
        doors = {"floor": floor, "embedded": embedded, "gateway": gateway}
        callers = {name: await audience(door, count) for name, door in doors.items()}
        spent: dict[str, list[Mapping[str, float]]] = {name: [] for name in doors}
        for _ in range(size.rounds):
            for name, door in doors.items():
                spent[name].append(await say(door, callers[name], f"trickle-{tokens}-{interval}", tokens))
        idle = await idle_share([embedded, gateway], seconds)
    # an idle process has a figure of its own: see `start`
    per_thousand = (max(0.0, idle["service"] - empty["service"]) * 1_000 / count,)
    return [
        ratio(6, f"fan-out 1 to {count} / prepared frames, embedded", spent["embedded"], spent["floor"],
              target=Target(1.5, 1.2), is_checked=True),
        ratio(6, f"fan-out 1 to {count} / prepared frames, gateway", spent["gateway"], spent["floor"],
              target=Target(1.5, 1.2), is_checked=True),
        Figure(15, "a thousand idle sockets, beside the idle process, of a core", "%", per_thousand, Target(0.2, 0.02),
               {f"{name} with {number:,} %": round(shares[name], 2)
                for number, shares in ((0, empty), (count, idle)) for name in shares}),
    ]  # fmt: skip


async def audience(door: Part, count: int) -> Sequence[Counter]:
    callers = await connect(Counter, door.port, count)
    await subscribe(callers, "fan")
    await asyncio.wait_for(hear(callers, "burst-1 warm"), PATIENCE)
    for caller in callers:
        caller.is_quick = True
    return callers


async def say(door: Part, callers: Sequence[Counter], mode: str, tokens: int) -> Mapping[str, float]:
    before = cpu_now([door])
    await asyncio.wait_for(hear(callers, mode), PATIENCE)
    return cost(before, cpu_now([door]), tokens * len(callers))


async def hear(callers: Sequence[Counter], mode: str) -> None:
    """One says it, all hear the answer."""
    answers = [caller.begin() for caller in callers]
    callers[0].send({"action": "message", "channel": "fan", "message": f"mode={mode}"})
    await asyncio.gather(*answers)


async def idle_share(parts: Sequence[Part], seconds: float) -> Mapping[str, float]:
    """Percent of a core while nobody says anything."""
    await asyncio.sleep(1.0)
    before = cpu_now(parts)
    await asyncio.sleep(seconds)
    return {name: used / 1e4 / seconds for name, used in cost(before, cpu_now(parts), 1).items()}
