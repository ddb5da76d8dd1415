"""Row 13: whether a message costs the same beside a million threads in which nothing happens. Takes minutes."""

from __future__ import annotations

from collections.abc import Mapping

from bench.ladder.figures import Figure, Target, ratio
from bench.ladder.growth import BUSY_THREADS, among
from bench.ladder.sizes import Size
from bench.ladder.stack import Stack
from bench.ladder.store_life import PEOPLE, WORDS, redis_store, together
from turnkeep.messages import Address, AssistantItem
from turnkeep.store.contract import Store
from turnkeep.store.values import TranscriptEntry


async def measure(size: Size) -> list[Figure]:
    idle = size.of(5_000, 1_000_000)
    rounds = [(await beside(0), await beside(idle)) for _ in range(size.of(size.rounds, 1))]
    title = f"CPU of a message, 0 to {idle:,} idle threads, Redis"
    return [ratio(13, title, [many for _, many in rounds], [none for none, _ in rounds], target=Target(1.1, 1.0))]


async def beside(idle: int) -> Mapping[str, float]:
    with Stack() as stack:
        redis = stack.redis()
        async with redis_store(redis) as store:
            await lay_down(store, idle)
            return await among(store, redis, BUSY_THREADS)


async def lay_down(store: Store, count: int) -> None:
    """So many threads that hold a sentence and wait for nothing."""
    numbers, sentence = iter(range(count)), [TranscriptEntry(AssistantItem(WORDS), 25)]

    async def person() -> None:
        for n in numbers:
            await store.append(Address("t", "q", f"idle-{n}"), sentence, once=f"i{n}")

    await together(person, PEOPLE)
