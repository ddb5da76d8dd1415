"""Rows 12 and 13: whether a message costs the same with more behind it, beside it, and more who work.

Each figure is the CPU of a message, client and servers, with much of something by that with little of it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

from bench.ladder.figures import Figure, Target, ratio
from bench.ladder.sizes import Size
from bench.ladder.stack import Part, Stack, cost, cpu_now
from bench.ladder.store_life import (
    GROUPS,
    POLICIES,
    PREFIXES,
    WORDS,
    accept,
    answer_all,
    message,
    meter,
    redis_store,
)
from turnkeep import AssistantMessageQueue
from turnkeep.errors import ConfigurationError
from turnkeep.messages import Address, AssistantItem, Message, UserItem, text_content
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.redis import RedisStore
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Policies, Policy, TranscriptEntry

FLAT = Target(1.2, 1.1)
PARTITIONS = Target(1.1, 1.0)
BUSY_THREADS = 100
"""Threads in which something is said while it is measured."""
THREAD_ROUNDS = 5
GENERATION = 20_000
"""Threads that are laid down at once."""
TALKING = 4
PATIENCE = 120.0
WARM = 0.5
"""Seconds of CPU of a worker with its first turns."""

Cpu = Mapping[str, float]


async def measure(size: Size) -> list[Figure]:
    growths: list[tuple[str, Callable[[int], Awaitable[Cpu]], int, int]] = [
        ("entries behind a thread, SQLite", history, 10, size.of(500, 5_000)),
        ("workers, Redis", workers, 1, size.of(2, 4)),
    ]
    figures = []
    for name, act, few, many in growths:
        rounds = [(await act(few), await act(many)) for _ in range(size.rounds)]
        large, small = [b for _, b in rounds], [a for a, _ in rounds]
        title = f"CPU of a message, {few:,} to {many:,} {name}"
        figures.append(ratio(12, title, large, small, target=FLAT))
    for name, stores in (("SQLite", sqlite_store), ("Redis", fresh_redis_store)):
        figures.append(await thread_growth(name, stores, 100, size.of(2_000, 100_000), max(THREAD_ROUNDS, size.rounds)))
    if partitions := await partition_growth(size):
        figures.append(partitions)
    return figures


@asynccontextmanager
async def sqlite_store(stack: Stack) -> AsyncIterator[tuple[Store, None]]:
    store = SqliteStore(stack.folder / f"threads-{next(PREFIXES)}.db", POLICIES)
    await store.open()
    try:
        yield store, None
    finally:
        await store.close()


@asynccontextmanager
async def fresh_redis_store(stack: Stack) -> AsyncIterator[tuple[Store, Part]]:
    server = stack.redis()
    async with redis_store(server) as store:
        yield store, server


Stores = Callable[[Stack], AbstractAsyncContextManager[tuple[Store, Part | None]]]


async def thread_growth(name: str, stores: Stores, few: int, many: int, rounds: int) -> Figure:
    """Two stores, with few threads and with many, which are spoken to in turns."""
    spent: dict[int, list[Cpu]] = {few: [], many: []}
    with Stack() as stack:
        async with AsyncExitStack() as exits:
            places = {total: await exits.enter_async_context(stores(stack)) for total in spent}
            for total, (store, _) in places.items():
                await lay_down(store, total)
            for number in range(rounds):
                # there and back: who comes first in a round has an advantage
                for total in (few, many) if number % 2 else (many, few):
                    (store, server), names = places[total], spread(total)
                    spent[total].append(await talk(store, server, names, first=1_000_000 + number * 100))
    return ratio(12, f"CPU of a message, {few:,} to {many:,} threads, {name}", spent[many], spent[few], target=FLAT)


async def among(store: Store, server: Part | None, total: int) -> Cpu:
    """A hundred threads, spread over all, in which somebody speaks; the others have been answered once."""
    await lay_down(store, total)
    return await talk(store, server, spread(total), first=1_000_000)


async def lay_down(store: Store, total: int) -> None:
    """So many threads that have been answered once."""
    for first in range(0, total, GENERATION):
        count = min(GENERATION, total - first)
        await accept(store, GROUPS, count, prefix=f"p{first}-")
        await answer_all(store, count)


def spread(total: int) -> list[str]:
    """A hundred of so many threads, as far from each other as they can be."""
    stride = max(1, total // BUSY_THREADS)
    return [f"p{n // GENERATION * GENERATION}-{n % GENERATION}" for n in range(0, BUSY_THREADS * stride, stride)]


async def talk(store: Store, server: Part | None, names: Sequence[str], *, first: int, rounds: int = 6) -> Cpu:
    """What a message costs, to its answer, when one is said in each of these threads, and again; they are numbered
    from `first`.
    """
    before: Cpu = {}
    for number in range(rounds + 1):
        if number == 1:  # the first round finds nothing cached
            # Python looks through all that a store has made at its start once more, some 45 ms. Where that
            # fell into what is measured here, it was half of what a message cost.
            gc.collect()
            before = meter(server)
        await asyncio.gather(*[store.accept([message(name, first + number)]) for name in names])
        await answer_all(store, len(names))
    after = meter(server)
    return {name: (after[name] - before[name]) / (rounds * len(names)) * 1e6 for name in after}


async def history(entries: int) -> Cpu:
    """Whole turns on threads with so many entries behind them, on SQLite, with a model that says one word."""
    with Stack() as stack:
        model = stack.model()
        settings = Settings.load(
            store=str(stack.folder / "q.db"), window="0", history_items="10000", history_bytes="40000000",
            openai_api_key="sk-bench", openai_base_url=f"http://127.0.0.1:{model.port}/burst-1/v1",
            model_api="responses",
        )  # fmt: skip
        async with AssistantMessageQueue.from_settings(settings) as queue:
            queue.start_worker()
            names = [f"h{n}" for n in range(TALKING)]
            for name in names:
                await queue.ask(name, "mode=burst-1 hi")
                await lay_out(queue, name, entries)
            turns = 0
            before = meter(None)
            for number in range(9):
                if number == 1:
                    turns, before = 0, meter(None)
                for name in names:
                    await queue.ask(name, "mode=burst-1 hi")
                    turns += 1
            return {"client": (time.process_time() - before["client"]) / turns * 1e6}


async def lay_out(queue: AssistantMessageQueue, name: str, entries: int) -> None:
    for number in range(0, entries, 2):
        pair = [
            TranscriptEntry(UserItem(text_content(WORDS), f"x{number}"), 25),
            TranscriptEntry(AssistantItem(WORDS), 25),
        ]
        await queue.store.append(queue.address(name), pair, once=f"k{number}")


async def workers(count: int, turns: int = 600) -> Cpu:
    """Whole turns that wait on Redis, by so many worker processes: CPU of all of them and of the server."""
    with Stack() as stack:
        model, redis = stack.model(), stack.redis()
        parts = [
            stack.service("worker", model=model, redis=redis, TURNKEEP_CONCURRENCY="64", TURNKEEP_LOG_LEVEL="warning")
            for _ in range(count)
        ]
        policies = Policies(Policy(window=0.0, max_inbox=1_000))
        store = RedisStore(f"redis://127.0.0.1:{redis.port}/0", policies, prefix="cosmo:", allow_unsafe=True)
        await store.open()
        try:
            done = await warm_up(store, parts)
            before = cpu_by_kind(parts, redis)
            await turns_done(store, done, turns)
            return cost(before, cpu_by_kind(parts, redis), turns)
        finally:
            await store.close()


async def warm_up(store: RedisStore, workers: list[Part]) -> int:
    """Turns, until each worker has had some and loaded what it loads once, which is no cost of a
    message. How many there were.
    """
    done, share = 0, 50 * len(workers)
    busy = [0.0] * len(workers)
    while min(busy) < WARM:
        before = [part.cpu for part in workers]
        await turns_done(store, done, share)
        done += share
        busy = [total + part.cpu - start for total, part, start in zip(busy, workers, before, strict=True)]
    return done


def cpu_by_kind(workers: list[Part], redis: Part) -> Cpu:
    return {"workers": sum(cpu_now(workers[place : place + 1])["worker"] for place in range(len(workers))),
            "redis": redis.cpu}  # fmt: skip


async def turns_done(store: RedisStore, first: int, count: int) -> None:
    """So many messages, and the end of the last of them."""
    for begun in range(first, first + count, 50):
        texts = [
            Message(Address("default", "assistant", f"c{n}"), f"m{n}", text_content(f"mode=burst-1 {WORDS}"))
            for n in range(begun, min(begun + 50, first + count))
        ]
        await store.accept(texts)
    async with asyncio.timeout(PATIENCE):
        while (await store.counts()).completed < first + count:  # noqa: ASYNC110 - other processes answer
            await asyncio.sleep(0.05)


async def partition_growth(size: Size) -> Figure | None:
    """Where the number of partitions can be set."""
    few, many = 16, size.of(64, 256)

    async def act(partitions: int) -> Cpu:
        with Stack() as stack:
            redis = stack.redis()
            async with redis_store(redis, partitions=partitions) as store:
                return await among(store, redis, BUSY_THREADS)

    with suppress(ConfigurationError):
        rounds = [(await act(few), await act(many)) for _ in range(size.rounds)]
        title = f"CPU of a message, {few} to {many} partitions, Redis"
        return ratio(13, title, [b for _, b in rounds], [a for a, _ in rounds], target=PARTITIONS, is_checked=True)
    print("bench: the number of partitions cannot be set in this revision: that figure is left out", flush=True)
    return None
