"""The contract of a store, as tests that any engine can run.

Subclass `StoreSuite` in a test module and give it an empty, open store. Needs pytest and pytest-asyncio in its auto
mode. The engine's clock must be the one given: promises about time are tried by moving it.

    class TestMine(StoreSuite):
        async def make(self, policies, clock):
            store = MyStore(policies, clock=clock)
            await store.open()
            return store
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from turnkeep.store.base import Policies, Policy, Store
from turnkeep.testing.clock import FakeClock
from turnkeep.testing.suite.accepting import AcceptPromises
from turnkeep.testing.suite.changing import ChangePromises
from turnkeep.testing.suite.claiming import ClaimPromises
from turnkeep.testing.suite.delivering import DeliveryPromises
from turnkeep.testing.suite.desk import POLICY, Desk, Start
from turnkeep.testing.suite.engine import EnginePromises
from turnkeep.testing.suite.forgetting import ForgetPromises
from turnkeep.testing.suite.holding import HoldPromises
from turnkeep.testing.suite.isolation import IsolationPromises
from turnkeep.testing.suite.letters import LetterPromises
from turnkeep.testing.suite.logging import LogPromises
from turnkeep.testing.suite.registry import RegistryPromises
from turnkeep.testing.suite.repeating import RepeatPromises
from turnkeep.testing.suite.settling import SettlePromises
from turnkeep.testing.suite.steering import SteerPromises
from turnkeep.testing.suite.stopping import StopPromises
from turnkeep.testing.suite.threads import ThreadPromises
from turnkeep.testing.suite.windows import WindowPromises


class StoreSuite(
    AcceptPromises,
    WindowPromises,
    ClaimPromises,
    SettlePromises,
    SteerPromises,
    StopPromises,
    HoldPromises,
    ChangePromises,
    LetterPromises,
    LogPromises,
    DeliveryPromises,
    ThreadPromises,
    IsolationPromises,
    RegistryPromises,
    ForgetPromises,
    RepeatPromises,
    EnginePromises,
):
    """Every promise of `turnkeep.store.base`. Test names are the promises in words."""

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        """An empty store, opened, whose time is this clock's."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def start(self) -> AsyncIterator[Start]:
        """Desks for one test; their stores are closed after it."""
        stores: list[Store] = []

        async def start(policy: Policy = POLICY, policies: Policies | None = None) -> Desk:
            clock = FakeClock()
            stores.append(await self.make(policies or Policies(policy), clock))
            return Desk(stores[-1], clock)

        yield start
        for store in stores:
            await store.close()
