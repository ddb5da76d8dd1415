"""The newest runs of all threads, page by page."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator
from contextlib import aclosing

from turnkeep.errors import StoreUnsealable, ThreadQuarantined
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.contract import Store
from turnkeep.store.thread_search import ThreadSearch
from turnkeep.store.values import RunRecord, ThreadRecord

AT_ONCE = 50
"""Threads whose runs are read together."""
MOST_THREADS = 5_000
"""Threads that one page looks into."""


@dataclass(frozen=True, slots=True)
class RunSearch:
    """Which runs: those before (`started_at`, `run_id`) of the last one seen, of the threads that fit."""

    threads: ThreadSearch
    statuses: frozenset[str] = frozenset()
    before: tuple[float, str] | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class RunOfThread:
    """A run, and where it was."""

    address: Address
    run: RunRecord

    @property
    def key(self) -> tuple[float, str]:
        return self.run.started_at, self.run.run_id


async def newest_runs(store: Store, search: RunSearch) -> list[RunOfThread]:
    """Newest first. A run makes its thread active, so no run of the threads behind is newer than these."""
    newest: list[RunOfThread] = []
    async with aclosing(_by_activity(store, search.threads)) as pages:
        async for page in pages:
            # before there was a thread there was no run of it
            records = [one for one in page if search.before is None or one.created_at <= search.before[0]]
            for runs in await asyncio.gather(*(_runs_of(store, record.address) for record in records)):
                newest += [one for one in runs if _fits(one, search)]
            newest = heapq.nlargest(search.limit, newest, key=lambda one: one.key)
            if len(newest) == search.limit and newest[-1].run.started_at >= page[-1].active_at:
                break
    return newest


async def _by_activity(store: Store, query: ThreadSearch) -> AsyncGenerator[list[ThreadRecord]]:
    before = query.before
    for _ in range(MOST_THREADS // AT_ONCE):
        page = await store.search(
            ThreadSearch(query.tenant, query.queue, query.place, query.text, before, limit=AT_ONCE)
        )
        if page:
            yield page
            before = (page[-1].active_at, page[-1].thread_id)
        if len(page) < AT_ONCE:
            return


async def _runs_of(store: Store, address: Address) -> list[RunOfThread]:
    try:
        return [RunOfThread(address, run) for run in await store.runs(address)]
    # of one thread that cannot be read: those of all others are shown, as they are in a search
    except (ThreadQuarantined, StoreUnsealable):
        return []


def _fits(one: RunOfThread, search: RunSearch) -> bool:
    if search.statuses and one.run.status not in search.statuses:
        return False
    return search.before is None or one.key < search.before
