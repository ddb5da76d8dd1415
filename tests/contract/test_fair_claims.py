"""Claims find what they may take, however much waits that they may not, and share it out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contract.redis_desk import POLICIES, channel, said
from tests.contract.suite.desk import answer
from tests.patience import PATIENCE
from tests.services import RedisServer
from turnkeep.messages import Address
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.sqlite import SqliteStore

TENANTS = 260
"""More places than one claim looks at in a partition."""

_namespaces = map("fair{}:".format, count())


@pytest_asyncio.fixture(params=["memory", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """All threads in one partition: what is hidden there is hidden for good."""
    opened: Store
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        opened = RedisStore(server.url(), POLICIES, prefix=next(_namespaces), partitions=1)
    elif request.param == "sqlite":
        opened = SqliteStore(tmp_path / "turnkeep.db", POLICIES)
    else:
        opened = MemoryStore(POLICIES)
    await opened.open()
    yield opened
    await opened.close()


async def fill(store: Store, places: Callable[[int], Address], many: int, *, prefix: str = "m") -> None:
    await store.accept([said(places(n), f"{prefix}{n}") for n in range(many)])


async def test_work_of_a_queue_that_nobody_serves_hides_nothing(store: Store) -> None:
    await fill(store, lambda n: channel("c", f"tenant {n}", "reports"), TENANTS)
    await store.accept([said(channel("mine", "t", "assistant"), "m1")])

    claims = await store.claim(owner="w", limit=5, lease=30.0, queues=["assistant"])

    assert [claim.address.channel for claim in claims] == ["mine"]


async def test_a_worker_rests_while_only_others_have_work(store: Store) -> None:
    await fill(store, lambda n: channel("c", f"tenant {n}", "reports"), TENANTS)
    assert await store.claim(owner="w", limit=5, lease=30.0, queues=["assistant"]) == []

    waiting = asyncio.create_task(store.ready(queues=["assistant"], timeout=30.0))
    is_over, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not is_over
    await store.accept([said(channel("mine", "t", "assistant"), "m1")])

    await asyncio.wait_for(waiting, PATIENCE)


async def test_a_backlog_of_many_tenants_hides_no_tenant_for_good(store: Store) -> None:
    await fill(store, lambda n: channel(f"c{n // TENANTS}", f"tenant {n % TENANTS}"), TENANTS * 6)
    await store.accept([said(channel("late", "newcomer"), "m1")])

    rounds = 0
    while True:
        rounds += 1
        claims = await store.claim(owner="w", limit=10, lease=30.0)
        assert claims, "the newcomer was never claimed"
        if any(claim.address.tenant == "newcomer" for claim in claims):
            break

    # A look leaves out 5 of those behind the longest, each time others (`ready_spaces`). Left out when its turn
    # comes, once in a hundred times, it waits for another whole turn; thrice in succession is no luck any more.
    assert rounds <= 3 * (TENANTS // 10) + 15, "a whole turn of all tenants, and some luck"


async def test_tenants_with_a_backlog_have_equal_shares(store: Store) -> None:
    await fill(store, lambda n: channel(f"c{n // 100}", f"tenant {n % 100}"), 1_000)

    served: Counter[str] = Counter()
    for _ in range(60):
        for claim in await store.claim(owner="w", limit=10, lease=30.0):
            served[claim.address.tenant] += 1

    assert served.total() == 600
    assert len(served) == 100
    assert max(served.values()) <= 6 * 1.25 + 1
    assert min(served.values()) >= 6 * 0.75 - 1


@pytest.mark.daily(rows=2)  # SQLite claims by the rules of memory
async def test_workers_that_ask_for_the_same_have_equal_shares(store: Store, size: Callable[[int, int], int]) -> None:
    """Each asks again as soon as it is done."""
    turns = size(800, 4_800)
    await fill(store, lambda n: channel(f"c{n}", f"tenant {n % 7}"), turns + 200)
    done: Counter[str] = Counter()

    async def work(owner: str) -> None:
        while sum(done.values()) < turns:
            for claim in await store.claim(owner=owner, limit=5, lease=30.0):
                await store.commit(claim, answer(claim))
                done[owner] += 1
            await asyncio.sleep(0)  # memory never waits

    async with asyncio.TaskGroup() as group:
        for worker in range(4):
            group.create_task(work(f"w{worker}"))

    # Who meets others begins anywhere: so many turns differ by chance by 1.7 / sqrt(turns), and this is six times that:
    # a quarter of so few, a seventh of so many.
    mean, luck = done.total() / 4, 10 / turns**0.5
    assert max(done.values()) <= mean * (1 + luck), done
    assert min(done.values()) >= mean * (1 - luck), done
