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

from tests.contract.suite.accepting import AcceptPromises
from tests.contract.suite.answering import AnswerPromises
from tests.contract.suite.changing import ChangePromises
from tests.contract.suite.claiming import ClaimPromises
from tests.contract.suite.delivering import DeliveryPromises
from tests.contract.suite.desk import POLICY, Desk, Start
from tests.contract.suite.engine import EnginePromises
from tests.contract.suite.forgetting import ForgetPromises
from tests.contract.suite.holding import HoldPromises
from tests.contract.suite.isolation import IsolationPromises
from tests.contract.suite.letters import LetterPromises
from tests.contract.suite.logging import LogPromises
from tests.contract.suite.registry import RegistryPromises
from tests.contract.suite.repeating import RepeatPromises
from tests.contract.suite.settling import SettlePromises
from tests.contract.suite.steering import SteerPromises
from tests.contract.suite.stopping import StopPromises
from tests.contract.suite.threads import ThreadPromises
from tests.contract.suite.windows import WindowPromises
from turnkeep.store.contract import Store
from turnkeep.store.values import Policies, Policy
from turnkeep.testing.fake_clock import FakeClock


class StoreSuite(
    AcceptPromises,
    WindowPromises,
    ClaimPromises,
    SettlePromises,
    SteerPromises,
    StopPromises,
    HoldPromises,
    ChangePromises,
    AnswerPromises,
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
    """Every promise of `turnkeep.store.contract`. Test names are the promises in words."""

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
