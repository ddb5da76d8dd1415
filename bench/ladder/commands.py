"""Rows 2 and 9 in counts: what a turn asks of Redis. A count is the same on every machine, busy or not."""

from __future__ import annotations

import asyncio

from bench.ladder.callers import Subscriber, connect
from bench.ladder.figures import Figure
from bench.ladder.lean_redis import Pipe
from bench.ladder.sizes import Size
from bench.ladder.stack import Stack

PATIENCE = 20.0
TOP_LEVEL = ("eval", "evalsha", "fcall")


async def measure(size: Size) -> list[Figure]:
    turns = size.of(20, 60)
    with Stack() as stack:
        model = stack.model()
        gateway, [_, _, redis] = stack.apart(model)
        _, pipe = await asyncio.get_running_loop().create_connection(Pipe, "127.0.0.1", redis.port)
        # a socket may subscribe to a hundred channels: each round has one of its own
        first, *callers = await connect(Subscriber, gateway.port, 1 + size.rounds)
        await play(first, "warm", 10)
        rounds = []
        for number, caller in enumerate(callers):
            before = await commands(pipe)
            await play(caller, f"r{number}", turns)
            after = await commands(pipe)
            rounds.append({name: (after[name] - before.get(name, 0)) / turns for name in after})
        pipe.transport.close()
    total = tuple(sum(one.values()) for one in rounds)
    scripts = tuple(sum(one.get(name, 0.0) for name in TOP_LEVEL) for one in rounds)
    most = dict(sorted(rounds[0].items(), key=lambda item: -item[1])[:8])
    return [
        Figure(2, "commands of a one-token turn on Redis, all", "", total, None,
               {name: round(value, 2) for name, value in most.items()}, is_checked=True),
        Figure(2, "scripts of a one-token turn on Redis", "", scripts, None, is_checked=True),
    ]  # fmt: skip


async def play(caller: Subscriber, prefix: str, turns: int) -> None:
    """Turn after turn, each in a channel of its own."""
    for number in range(turns):
        channel = f"{prefix}-{number}"
        await asyncio.wait_for(caller.subscribe(channel), PATIENCE)
        await asyncio.wait_for(caller.say(channel, "mode=burst-1 hello"), PATIENCE)


async def commands(pipe: Pipe) -> dict[str, int]:
    """How often each command was called, also from within scripts, without what only keeps connections."""
    text = (await pipe.call("INFO", "commandstats")).decode()
    calls = {}
    for line in text.splitlines():
        if line.startswith("cmdstat_"):
            name, _, rest = line.removeprefix("cmdstat_").partition(":calls=")
            if name not in ("info", "ping"):
                calls[name] = int(rest.partition(",")[0])
    return calls
