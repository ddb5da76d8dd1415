"""Row 13: whether a message costs the same beside a million threads in which nothing happens. Takes minutes.

Three servers, one without idle threads, one with some and one with a million, are spoken to in turns, so that a ratio
is of one moment. An idle thread has an id, a record and a turn in its transcript, made by the call that applications
bring their own transcripts with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import redis

from bench.ladder.figures import Figure, Target, ratio
from bench.ladder.growth import BUSY_THREADS, talk
from bench.ladder.sizes import Size
from bench.ladder.stack import Part, Stack
from bench.ladder.store_life import PEOPLE, WORDS, redis_store, together
from turnkeep.messages import Address, AssistantItem
from turnkeep.store.contract import Store
from turnkeep.store.values import TranscriptEntry

FLAT = Target(1.1, 1.0)
ROUNDS = 7
BUSY = [f"busy-{n}" for n in range(BUSY_THREADS)]
MESSAGES = 100
"""Numbers that one round may give to its messages."""


@dataclass(slots=True)
class Crowd:
    """A server with so many idle threads."""

    idle: int
    store: Store
    server: Part
    memory: float
    """Bytes of an idle thread."""
    spent: list[Mapping[str, float]] = field(default_factory=list)


async def measure(size: Size) -> list[Figure]:
    with Stack() as stack:
        async with AsyncExitStack() as stores:
            counts = (0, size.of(1_000, 10_000), size.of(5_000, 1_000_000))
            crowds = [await stores.enter_async_context(crowd(stack, idle)) for idle in counts]
            for number in range(max(size.rounds, ROUNDS)):
                # there and back: who comes first in a round has an advantage
                for one in crowds if number % 2 else reversed(crowds):
                    one.spent.append(await talk(one.store, one.server, BUSY, first=number * MESSAGES))
            return figures(crowds)


@asynccontextmanager
async def crowd(stack: Stack, idle: int) -> AsyncIterator[Crowd]:
    server = stack.redis()
    async with redis_store(server) as store:
        link = redis.Redis(port=server.port)
        before = memory_used(link)
        await lay_down(store, idle)
        memory = (memory_used(link) - before) / max(1, idle)
        yield Crowd(idle, store, server, memory)


async def lay_down(store: Store, count: int) -> None:
    """So many threads that hold a sentence and wait for nothing."""
    numbers, sentence = iter(range(count)), [TranscriptEntry(AssistantItem(WORDS), 25)]

    async def person() -> None:
        for n in numbers:
            await store.append(Address("t", "q", f"idle-{n}"), sentence)

    await together(person, PEOPLE)


def memory_used(link: redis.Redis) -> int:
    info: Mapping[str, int] = link.info("memory")
    return info["used_memory"]


def figures(crowds: Sequence[Crowd]) -> list[Figure]:
    none, *some = crowds
    found = [
        ratio(13, f"CPU of a message, 0 to {one.idle:,} idle threads, Redis", one.spent, none.spent, target=FLAT)
        for one in some
    ]
    memory = Figure(13, f"memory of an idle thread, of {some[-1].idle:,}", "kB", (some[-1].memory / 1024,))
    return [*found, memory]
