"""Every promise of the store contract once more, while somebody sets the clock of the machine between any two
operations: by an hour, a day or ten years, forward and back.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.contract.leaps import LeapingClock, leaping
from tests.contract.store_suite import StoreSuite
from tests.contract.suite.claiming import ClaimPromises
from tests.contract.suite.forgetting import ForgetPromises
from tests.contract.suite.holding import HoldPromises
from tests.contract.suite.registry import RegistryPromises
from tests.contract.suite.settling import SettlePromises
from tests.contract.suite.windows import WindowPromises
from tests.services import RedisServer
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis import RedisStore, timekeeping
from turnkeep.store.redis.timekeeping import StoreTime
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Policies
from turnkeep.testing import FakeClock, counting_ids

SEED = 7

OF_TIME = (WindowPromises, ClaimPromises, SettlePromises, HoldPromises, RegistryPromises, ForgetPromises)
"""What says when something happens: a sixth of it on each engine, in turns; memory shows a sixth of all else."""


def leaping_clock(clock: FakeClock) -> LeapingClock:
    return LeapingClock(clock, random.Random(SEED))


@pytest.mark.daily(tests=6)  # the whole of it is tried without, in test_store.py
class TestMemory(StoreSuite):
    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        machine = leaping_clock(clock)
        store = MemoryStore(policies, clock=machine, ids=counting_ids())
        await store.open()
        return leaping(store, machine)


@pytest.mark.daily(*OF_TIME, tests=6, turn=2)
class TestSqlite(StoreSuite):
    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        machine = leaping_clock(clock)
        path = self.directory / f"{secrets.token_hex(4)}.db"
        store = SqliteStore(path, policies, clock=machine, ids=counting_ids(), ballast=0)
        await store.open()
        return leaping(store, machine)


class ServerThatLeaps(RedisStore):
    """A store on a server whose clock leaps: a key says what TIME would."""

    async def open(self) -> None:
        await super().open()
        link = self._link
        self.wall = self._keys.registry("clock") + b":wall"
        script = link.scripts["clock"]
        text = script.text.replace(b"redis.call('TIME')", b"{redis.call('GET', KEYS[1] .. ':wall'), 0}")
        assert text != script.text
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        link.scripts = {**link.scripts, "clock": replace(script, text=text, sha=sha)}
        await self.set_clock(self._clock.now())
        self._time = StoreTime(
            self._clock, self._keys.registry("clock"), self._keys.registry("layout"), tolerance=6.0, partitions=None
        )
        await self._time.look(link)

    async def set_clock(self, wall: float) -> None:
        await self._link.call("wall", self.wall, None, "SET", self.wall, repr(wall))


@pytest.mark.daily(*OF_TIME, tests=6, turn=4)
class TestRedis(StoreSuite):
    """The clock of the server leaps; that of the processes counts seconds and nothing else."""

    namespaces = count()

    @pytest.fixture(autouse=True)
    def on(self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = redis_server
        monkeypatch.setattr(timekeeping, "LOOK_AT_CLOCK_EVERY", 0.0)

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        machine = leaping_clock(clock)
        prefix = f"leaps {next(self.namespaces)}:"
        store = ServerThatLeaps(self.server.url(), policies, prefix=prefix, ids=counting_ids(), now=machine)
        await store.open()
        return leaping(store, machine, told=store.set_clock)
