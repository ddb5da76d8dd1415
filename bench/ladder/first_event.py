"""Rows 1 and 2: how much later a first token comes than from the model itself, one caller at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.ladder.callers import ModelCaller, Subscriber, connect
from bench.ladder.figures import Figure, Target, percentile
from bench.ladder.sizes import Size
from bench.ladder.stack import Stack

WARM = 10
PATIENCE = 20.0


async def measure(size: Size) -> list[Figure]:
    count = size.of(20, 60)
    with Stack() as stack:
        model = stack.model()
        embedded = stack.service(model=model)
        gateway, _ = stack.apart(model)
        late: dict[str, list[Sequence[float]]] = {"embedded": [], "redis": [], "receipt": []}
        for number in range(size.rounds):
            direct = percentile(await ask_model(model.port, count * 3), 0.5)
            for name, door in (("embedded", embedded), ("redis", gateway)):
                firsts, receipts = await ask_product(door.port, count, f"{name}-{number}")
                late[name].append([(first - direct) * 1e3 for first in firsts])
                if name == "embedded":
                    late["receipt"].append([receipt * 1e3 for receipt in receipts])
    found = []
    for row, name, must, aim in ((1, "embedded", (2.0, 6.0), (1.0, 3.0)), (2, "redis", (3.0, 8.0), (2.0, 6.0))):
        for place, share in enumerate((0.5, 0.99)):
            samples = tuple(percentile(one, share) for one in late[name])
            where = "embedded" if row == 1 else "Redis, gateway and worker apart"
            found.append(
                Figure(row, f"added to the first token, p{share * 100:.0f}, {where}", "ms", samples,
                       Target(must[place], aim[place]))
            )  # fmt: skip
    found.append(Figure(1, "receipt, p50, embedded", "ms", tuple(percentile(one, 0.5) for one in late["receipt"])))
    return found


async def ask_model(port: int, count: int) -> list[float]:
    [caller] = await connect(ModelCaller, port, 1)
    firsts = []
    for _ in range(count + WARM):
        await asyncio.wait_for(caller.ask("burst-1"), PATIENCE)
        firsts.append(caller.first or PATIENCE)
        await asyncio.sleep(0.005)
    caller.transport.close()
    return firsts[WARM:]


async def ask_product(port: int, count: int, prefix: str) -> tuple[list[float], list[float]]:
    """Each time in a channel that nobody has been in, with nobody else there."""
    [caller] = await connect(Subscriber, port, 1)
    firsts, receipts = [], []
    for number in range(count + WARM):
        channel = f"{prefix}-{number}"
        await asyncio.wait_for(caller.subscribe(channel), PATIENCE)
        await asyncio.sleep(0.01)
        await asyncio.wait_for(caller.say(channel, "mode=burst-1 hello"), PATIENCE)
        firsts.append(caller.first or PATIENCE)
        receipts.append(caller.accepted or PATIENCE)
        caller.send({"action": "unsubscribe", "channel": channel})
        await asyncio.sleep(0.02)
    caller.transport.close()
    return firsts[WARM:], receipts[WARM:]
