"""Real replies that are lost, with somebody in between; and all triples of `tests.contract.suite.repeating`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.opening import opened
from tests.contract.redis_desk import store_on
from tests.contract.suite.acts import ACTS, Act, World
from tests.contract.suite.repeating import (
    POLICY,
    REPEATS,
    TRIPLES,
    Repeat,
    outcome,
    play_all,
    share_of,
)
from tests.services import HOST, RedisServer
from tests.services.tcp_proxy import TcpProxy
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Policies
from turnkeep.testing import FakeClock

POLICIES = Policies(POLICY)
SCRIPTS = {
    "append": ("append", "answer"),  # by a view of the inbox
    "publish": ("publish", "publish_long"),  # the short one may do nothing and say so
    "publish_many": ("publish", "publish_long"),
    "note_failure": ("sink_failed",),
    "redrive_parked": ("sink_redrive",),
    "unpark": ("sink_unpark",),
    "open_sink": ("sink_open",),
    "close_sink": ("sink_close",),
    "lease_sink": ("sink_lease",),
    "offer_steering": ("offer_steering",),
}
"""Scripts that are not called like their operation."""

Size = Callable[[int, int], int]
Proof = Callable[[str, str], None]


def losing_replies(via: RedisStore, proxy: TcpProxy) -> Repeat:
    """The engine repeats: the reply of the server is lost, and the repeat waits until somebody else has acted."""

    async def repeat(act: Act, world: World, meanwhile: Callable[[], Awaitable[Any]]) -> tuple[Any, Any]:
        here = replace(world, store=via)
        names = SCRIPTS.get(act.operation, (act.operation,))
        shas = [via._link.scripts[name].sha for name in names]
        proxy.cut_before_reply(*shas, hold=True, passing=b"long")
        async with asyncio.TaskGroup() as group:
            acting = group.create_task(outcome(act.do(here, None)))
            await asyncio.wait([acting, group.create_task(proxy.lost.wait())], return_when=asyncio.FIRST_COMPLETED)
            assert proxy.lost.is_set(), f"the reply of {act.operation} was not lost"
            await meanwhile()
            proxy.forward()
        return acting.result(), acting.result()

    return repeat


@pytest_asyncio.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(HOST, redis_server.port) as proxy:
        yield proxy


async def test_a_lost_reply_is_made_good_without_touching_what_others_did(
    redis_server: RedisServer, proxy: TcpProxy, size: Size, proof: Proof
) -> None:
    clock = FakeClock()
    triples = [triple for triple in TRIPLES if triple.act != "expire"]  # a walk of many acts, each of them named
    some = share_of(triples, size(97, 5))
    async with (
        store_on(redis_server.url(), policies=POLICIES, prefix="r:", clock=clock) as direct,
        store_on(f"redis://{HOST}:{proxy.port}/0", policies=POLICIES, prefix="r:", clock=clock) as via,
    ):
        found = await play_all(direct, clock, some, losing_replies(via, proxy), at_once=1)

    proof(
        "lost replies", f"redis: {len(some)} of {len(triples)} triples with a real lost reply, {len(found)} differences"
    )
    assert not found, "\n".join(found)
    assert proxy.cuts >= len(some)


@pytest.mark.only_in_prove  # judges the triples, not the engines
async def test_the_triples_notice_a_repeat_that_is_none() -> None:
    """Each operation that takes a name is noticed by some triple when the name is not looked at."""

    async def unnamed(act: Act, world: World, meanwhile: Callable[[], Awaitable[Any]]) -> tuple[Any, Any]:
        before = replace(world)
        first = await outcome(act.do(before, None))
        await meanwhile()
        return first, await outcome(act.do(before, None))

    clock = FakeClock()
    store = MemoryStore(POLICIES, clock=clock)
    unnoticed = {name for name, safety in REPEATS.items() if safety == "once"}

    for triple in TRIPLES:
        operation = ACTS[triple.act].operation
        if operation in unnoticed and await play_all(store, clock, [triple], unnamed):
            unnoticed.remove(operation)

    assert unnoticed == {"slow_down"}, "a repeat of that shows only when time goes by in between"


PART = 300
"""Triples that share a store: each has threads of its own, and some operations look through those of all."""


def every_engine(folder: Path, server: RedisServer, clock: FakeClock, part: int) -> list[Store]:
    return [
        MemoryStore(POLICIES, clock=clock),
        SqliteStore(folder / f"{part}.db", POLICIES, clock=clock, ballast=0),
        RedisStore(server.url(), POLICIES, prefix=f"all{part}:", now=clock),
    ]


@pytest.mark.prove
@pytest.mark.timeout(3_000)
async def test_all_triples_on_every_engine(tmp_path: Path, redis_server: RedisServer, size: Size, proof: Proof) -> None:
    clock = FakeClock()
    triples = share_of(TRIPLES, size(211, 1))
    found: dict[str, list[str]] = {}

    for start in range(0, len(triples), PART):
        for engine in every_engine(tmp_path, redis_server, clock, start):
            async with opened(engine) as store:
                lines = await play_all(store, clock, triples[start : start + PART])
            found.setdefault(store.engine, []).extend(lines)

    for name, differences in found.items():
        proof("repeats", f"{name}: {len(triples)} of {len(TRIPLES)} triples, {len(differences)} differences")
    assert found == {"memory": [], "sqlite": [], "redis": []}
