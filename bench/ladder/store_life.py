"""The life of messages in a store: accepted, claimed, answered. What rows 9, 10, 12 and 13 have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from bench.ladder.stack import Part
from turnkeep.messages import Address, AssistantItem, Message, UserItem, text_content
from turnkeep.store.contract import Store
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import Claim, Commit, Policies, Policy, TranscriptEntry
from turnkeep.usage import Usage

POLICIES = Policies(Policy(window=0.0, max_inbox=1_000_000, max_batch=64))
WORDS = "a message of about a hundred bytes, as people send them to an assistant on a phone, more or less"
PEOPLE = 64
"""Callers at once."""
WORKERS = 4
PREFIXES = count()


@dataclass(frozen=True, slots=True)
class Shape:
    """How messages come: so many to a thread, so many in a call."""

    name: str
    burst: int = 1
    together: int = 1


SINGLE = Shape("single")
BURSTS = Shape("bursts of 20", burst=20)
GROUPS = Shape("in groups of 20", together=20)


@dataclass(frozen=True, slots=True)
class Life:
    """Of one message: microseconds of CPU here and in the server; and messages a second of each phase."""

    cpu: Mapping[str, float]
    accepts: float
    answers: float


@asynccontextmanager
async def redis_store(redis: Part, **options: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(
        f"redis://127.0.0.1:{redis.port}/0", POLICIES, prefix=f"b{next(PREFIXES)}:", allow_unsafe=True, **options
    )
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def live(store: Store, server: Part | None, shape: Shape, messages: int) -> Life:
    """So many messages, to the last answer."""
    before, begun_at = meter(server), time.perf_counter()
    await accept(store, shape, messages)
    accepted_at = time.perf_counter()
    await answer_all(store, messages // shape.burst)
    ended_at, after = time.perf_counter(), meter(server)
    counts = await store.counts()
    if counts.completed != messages:
        raise RuntimeError(f"{counts.completed} of {messages} messages were answered")
    cpu = {name: (after[name] - before[name]) / messages * 1e6 for name in after}
    return Life(cpu, messages / (accepted_at - begun_at), messages / (ended_at - accepted_at))


def meter(server: Part | None) -> dict[str, float]:
    """Seconds of CPU of this process and of the server."""
    return {"client": time.process_time(), **({"server": server.cpu} if server else {})}


async def accept(store: Store, shape: Shape, messages: int, prefix: str = "c") -> None:
    calls: Iterator[int] = iter(range(0, messages, shape.together))

    async def person() -> None:
        for first in calls:
            await store.accept(
                [message(f"{prefix}{n // shape.burst}", n) for n in range(first, min(first + shape.together, messages))]
            )

    await together(person, PEOPLE)


def message(channel: str, number: int) -> Message:
    return Message(Address("t", "q", channel), f"m{number}", text_content(WORDS))


async def answer_all(store: Store, threads: int) -> None:
    """Claims are made one at a time, as a worker makes them, and answered at once."""
    left, claiming = threads, asyncio.Lock()

    async def work() -> None:
        nonlocal left
        while left > 0:
            async with claiming:
                claims = await store.claim(owner="bench", limit=PEOPLE, lease=300.0) if left > 0 else []
            left -= len(claims)
            await asyncio.gather(*[store.commit(claim, answer(claim)) for claim in claims])

    await together(work, WORKERS)


def answer(claim: Claim) -> Commit:
    asked = [TranscriptEntry(UserItem(one.content, one.message_id), 20) for one in claim.messages]
    said = TranscriptEntry(AssistantItem(WORDS), 20)
    return Commit("completed", WORDS, [*asked, said], Usage(requests=1, input_tokens=40, output_tokens=20), "model")


async def together(work: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(work())
