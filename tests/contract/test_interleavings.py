"""A message that arrives between "look again" and "unlock" is neither lost nor forgotten: every order in which senders
and a worker can take their steps, and long random walks on every engine.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.suite.desk import HERE, WORKER, Desk, answer, at, said
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Claim, Policies, Policy
from turnkeep.testing.fake_clock import FakeClock

AT_ONCE = Policy(window=0.0, max_wait=0.0)
SENDS = ("send", "send", "send")
TURN = ("claim", "commit")


def orders() -> Iterator[tuple[str, ...]]:
    """Every order of three sends and two turns, of which each claims before it commits."""
    length = len(SENDS) + 2 * len(TURN)
    for places in itertools.combinations(range(length), len(SENDS)):
        turns = iter(TURN * 2)
        yield tuple("send" if n in places else next(turns) for n in range(length))


class Walk:
    """One sender and one worker on one thread, step by step."""

    def __init__(self, store: Store, clock: FakeClock, channel: str = "c") -> None:
        self.desk = Desk(store, clock)
        self.where = at(channel)
        self.sent: list[str] = []
        self.answered: list[str] = []
        self.claim: Claim | None = None

    async def step(self, name: str) -> None:
        match name:
            case "send":
                self.sent.append(f"m{len(self.sent)}")
                await self.desk.store.accept([said(self.sent[-1], where=self.where)])
            case "claim" if self.claim is None:
                claims = await self.desk.store.claim(owner=WORKER, limit=1, lease=3600.0)
                self.claim = claims[0] if claims else None
                open_ones = self.sent[len(self.answered) :]
                assert (list(self.claim.message_ids) if self.claim else []) == open_ones
            case "commit" if self.claim is not None:
                await self.desk.store.commit(self.claim, answer(self.claim))
                self.answered += self.claim.message_ids
                self.claim = None

    async def end(self) -> None:
        """Whatever is open is claimed at once, and everything is answered once, in order."""
        for name in (*TURN, *TURN):
            await self.step(name)
        assert self.answered == self.sent


async def test_in_every_order_of_steps_what_came_is_answered_once_and_in_order() -> None:
    count = 0
    for order in orders():
        clock = FakeClock()
        store = MemoryStore(Policies(AT_ONCE), clock=clock)
        await store.open()
        walk = Walk(store, clock)
        for name in order:
            await walk.step(name)
        await walk.end()
        assert await walk.desk.store.open_messages(HERE) == []
        await store.close()
        count += 1
    assert count == 35


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, FakeClock]:
    clock, policies = FakeClock(), Policies(AT_ONCE)
    if request.param == "memory":
        return MemoryStore(policies, clock=clock), clock
    if request.param == "sqlite":
        return SqliteStore(tmp_path / "turnkeep.db", policies, clock=clock), clock
    return RedisStore(request.getfixturevalue("redis_server").url(), policies, prefix="walk:", now=clock), clock


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_on_a_long_random_walk_nothing_is_left_behind(
    store: tuple[Store, FakeClock], size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    engine, clock = store
    source, steps, sent = random.Random(7), size(1_000, 100_000), 0
    await engine.open()
    for number in range(steps // 200):
        walk = Walk(engine, clock, f"c{number}")
        for _ in range(200):
            await walk.step(source.choice(("send", "claim", "commit")))
            if source.random() < 0.1:
                clock.advance(0.5)
        await walk.end()
        sent += len(walk.sent)
    counts = await engine.counts()
    assert (counts.completed, counts.failed) == (sent, 0)
    await engine.close()
    proof(f"interleavings on {engine.engine}", f"steps {steps} | messages {sent} | left behind 0")
