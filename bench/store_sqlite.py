"""What the SQLite engine costs, beside what SQLite itself costs in the same run.

    python bench/store_sqlite.py [--messages 5000] [--deltas 20000] [--directory DIR] [--steps]

Floors: one row of the size of a message per transaction, synced; and all rows in one transaction. The engine is driven
by one event loop: messages are accepted on as many threads, claimed and committed, and one run per open channel
publishes its deltas. Per operation: how many a second, and how much processor time of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
from baton import Baton, spare_collector

from turnkeep.events import delta
from turnkeep.messages import Address, AssistantItem, Message, UserItem, text_content
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Claim, Commit, Policies, Policy, TranscriptEntry

ROW = json.dumps({"message_id": "m" * 12, "content": [{"type": "text", "text": "x" * 100}], "arrival": 1.5, "seq": 1})
PRODUCERS = 512
CHANNELS = 64


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Figures:
    """One line per measurement: rate, processor time, and both against a floor."""

    def __init__(self, baton: Baton | None = None) -> None:
        self.rates: dict[str, float] = {}
        self.baton = baton

    def show(self, name: str, count: int, seconds: float, used: float, floor: str | None = None) -> None:
        self.rates[name] = count / seconds
        against = f"   {self.rates[name] / self.rates[floor]:6.2f} x {floor}" if floor else ""
        print(f"{name:<34}{count / seconds:>10,.0f}/s{used / count * 1e6:>9.1f} us CPU{against}", flush=True)


def floors(directory: Path, count: int, figures: Figures) -> None:
    connection = apsw.Connection(str(directory / "floor.db"))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, thread INTEGER, body TEXT)")
    statement = "INSERT INTO message (thread, body) VALUES (?, ?)"
    few = max(1, count // 10)
    begun, used = time.perf_counter(), cpu()
    for n in range(few):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(statement, (n, ROW))
        connection.execute("COMMIT")
    figures.show("floor: a row per transaction", few, time.perf_counter() - begun, cpu() - used)
    begun, used = time.perf_counter(), cpu()
    connection.execute("BEGIN IMMEDIATE")
    for n in range(count):
        connection.execute(statement, (n, ROW))
    connection.execute("COMMIT")
    figures.show("floor: all rows in one transaction", count, time.perf_counter() - begun, cpu() - used)
    connection.close()


async def timed(figures: Figures, name: str, count: int, work: Callable[[], Awaitable[None]], floor: str) -> None:
    begun, used = time.perf_counter(), cpu()
    await work()
    seconds, used = time.perf_counter() - begun, cpu() - used
    if figures.baton is None:
        figures.show(name, count, seconds, used, floor)
    else:
        await figures.baton.pass_on(name, {"CPU us": used / count * 1e6, "wall us": seconds / count * 1e6})


def message(channel: str, n: int) -> Message:
    return Message(Address("default", "assistant", channel), f"m{n}", text_content("x" * 100), window=0.0)


def answer(claim: Claim) -> Commit:
    asked = [TranscriptEntry(UserItem(m.content, m.message_id), 25) for m in claim.messages]
    return Commit("completed", "y" * 100, [*asked, TranscriptEntry(AssistantItem("y" * 100), 25)])


async def accept_all(store: SqliteStore, kind: str, count: int, threads: int) -> None:
    numbers = iter(range(count))

    async def produce() -> None:
        for n in numbers:
            await store.accept([message(f"{kind}{n % threads}", n)])

    await asyncio.gather(*[produce() for _ in range(PRODUCERS)])


async def answer_all(store: SqliteStore, count: int) -> None:
    """Claims of up to 64 threads; each is committed by itself."""
    left = count

    async def settle(claim: Claim) -> None:
        nonlocal left
        await store.commit(claim, answer(claim))
        left -= len(claim.messages)

    while left > 0:
        claims = await store.claim(owner="bench", limit=64, lease=60.0)
        await asyncio.gather(*[settle(claim) for claim in claims])


async def publish_all(store: SqliteStore, count: int, at_once: int) -> None:
    for n in range(CHANNELS):
        await store.accept([message(f"live{at_once}-{n}", n)])
    claims = await store.claim(owner="bench", limit=CHANNELS, lease=600.0)

    async def publish(claim: Claim) -> None:
        for n in range(0, count // CHANNELS, at_once):
            events = [delta("token ", claim.run_id, claim.attempt) for _ in range(at_once)]
            await store.publish(claim, n, events)

    await asyncio.gather(*[publish(claim) for claim in claims])
    await asyncio.gather(*[store.commit(claim, answer(claim)) for claim in claims])


async def engine(directory: Path, messages: int, deltas: int, figures: Figures) -> None:
    store = SqliteStore(directory / "store.db", Policies(Policy(max_inbox=1_000_000)))
    await store.open()
    spare_collector()
    alone, group = "floor: a row per transaction", "floor: all rows in one transaction"
    few = max(1, messages // 20)
    try:
        await timed(figures, "accept, one after the other", few, lambda: one_by_one(store, few), alone)
        await timed(figures, "answer those", few, lambda: answer_all(store, few), alone)
        await timed(
            figures, "accept, a thread each", messages, lambda: accept_all(store, "one", messages, messages), group
        )
        await timed(figures, "claim and commit, a run each", messages, lambda: answer_all(store, messages), group)
        await timed(
            figures,
            "accept, 20 on a thread",
            messages,
            lambda: accept_all(store, "burst", messages, messages // 20),
            group,
        )
        await timed(figures, "claim and commit, 20 in a run", messages, lambda: answer_all(store, messages), group)
        await timed(figures, "publish, a delta each", deltas, lambda: publish_all(store, deltas, 1), group)
        await timed(figures, "publish, 8 deltas each", deltas, lambda: publish_all(store, deltas, 8), group)
    finally:
        await store.close()


async def one_by_one(store: SqliteStore, count: int) -> None:
    for n in range(count):
        await store.accept([message(f"single{n}", n)])


async def run_steps(messages: int, deltas: int, directory: Path | None) -> None:
    """Each round on a new file."""
    baton = Baton()
    while True:
        with tempfile.TemporaryDirectory(dir=directory) as name:
            await engine(Path(name), messages, deltas, Figures(baton))
        await baton.end_round()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int)
    parser.add_argument("--deltas", type=int)
    parser.add_argument("--directory", type=Path, help="where the files are made; default: the system's")
    parser.add_argument("--steps", action="store_true", help="take turns with another program (baton.py)")
    chosen = parser.parse_args()
    if chosen.steps:
        asyncio.run(run_steps(chosen.messages or 2000, chosen.deltas or 12_800, chosen.directory))
        return
    figures, messages = Figures(), chosen.messages or 5000
    with tempfile.TemporaryDirectory(dir=chosen.directory) as name:
        floors(Path(name), messages, figures)
        asyncio.run(engine(Path(name), messages, chosen.deltas or 20_000, figures))


if __name__ == "__main__":
    main()
