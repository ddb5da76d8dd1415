"""Row 10: what SQLite takes in and ends a second, on the disk of this machine; and its CPU by bare inserts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import apsw

from bench.ladder.figures import Figure, Target, ratio
from bench.ladder.sizes import Size
from bench.ladder.stack import Stack
from bench.ladder.store_life import GROUPS, POLICIES, SINGLE, WORDS, Life, live
from turnkeep import AssistantMessageQueue
from turnkeep.settings import Settings
from turnkeep.store.sqlite import SqliteStore

AT_ONCE = 20
GROUP = 20


async def measure(size: Size) -> list[Figure]:
    count, turns = size.of(600, 4_000), size.of(60, 400)
    single: list[Life] = []
    groups: list[Life] = []
    whole: list[float] = []
    floor: list[Mapping[str, float]] = []
    with Stack() as stack:
        model = stack.model()
        for number in range(size.rounds):
            for found, shape in ((single, SINGLE), (groups, GROUPS)):
                store = SqliteStore(stack.folder / f"{shape.together}-{number}.db", POLICIES)
                await store.open()
                try:
                    found.append(await live(store, None, shape, count))
                finally:
                    await store.close()
            floor.append({"client": insert(stack.folder / f"floor-{number}.db", count)})
            whole.append(await whole_turns(stack.folder / f"turns-{number}.db", model.port, turns))
    return [
        Figure(10, "SQLite: accepts in groups of 20", "/s", tuple(one.accepts for one in groups),
               Target(20_000, 30_000, more_is_better=True)),
        Figure(10, "SQLite: accepts, one call each", "/s", tuple(one.accepts for one in single)),
        Figure(10, "SQLite: whole no-op turns", "/s", tuple(whole), Target(800, 1_500, more_is_better=True)),
        ratio(10, "life of a message on SQLite / bare inserts", [one.cpu for one in single], floor),
    ]  # fmt: skip


def insert(path: Path, count: int) -> float:
    """Microseconds of CPU of a message that is put into a table, and taken out again, in groups with a sync each."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, thread TEXT, body TEXT)")
    before = time.process_time()
    for first in range(0, count, GROUP):
        with connection:
            rows = [(f"c{n}", WORDS) for n in range(first, first + GROUP)]
            connection.executemany("INSERT INTO message (thread, body) VALUES (?, ?)", rows)
    for _ in range(0, count, GROUP):
        with connection:
            taken = connection.execute("SELECT id, thread, body FROM message ORDER BY id LIMIT ?", (GROUP,)).fetchall()
            connection.executemany("DELETE FROM message WHERE id = ?", [(row[0],) for row in taken])
    connection.close()
    return (time.process_time() - before) / count * 1e6


async def whole_turns(path: Path, model_port: int, turns: int) -> float:
    """Turns a second of a queue in this process, with a model that says one word at once."""
    base = f"http://127.0.0.1:{model_port}/burst-1/v1"
    settings = Settings(
        store=str(path), window=0, openai_api_key="sk-bench", openai_base_url=base, model_api="responses"
    )
    async with AssistantMessageQueue.from_settings(settings) as queue:
        queue.start_worker()
        await queue.ask("warm", "mode=burst-1 warm")
        numbers = iter(range(turns))

        async def person() -> None:
            for n in numbers:
                await queue.ask(f"c{n}", "mode=burst-1 hello")

        begun_at = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(person())
        return turns / (time.perf_counter() - begun_at)
