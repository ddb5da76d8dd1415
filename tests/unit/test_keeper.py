"""A lease: how long it is good for, counted from when it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.runs.stage import reason_of
from turnkeep.errors import LeaseLost
from turnkeep.messages import Address, Message, text_content
from turnkeep.runs.worker import Keeper, LeaseRules
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Claim, Directive, Policies, Policy

RULES = LeaseRules(duration=0.6)
WHERE = Address("t", "q", "c")


def test_an_owner_renews_after_a_third_and_gives_up_before_the_others_may_take_over() -> None:
    rules = LeaseRules(duration=30.0)

    assert rules.renew_every == 10.0
    assert rules.give_up == 25.0


@pytest.mark.parametrize("duration", [0.3, 6.0, 30.0, 3600.0])
def test_two_renewals_may_fail_and_the_third_still_comes_in_time(duration: float) -> None:
    rules = LeaseRules(duration=duration)

    assert 2 * rules.renew_every < rules.give_up < rules.duration


class SlowStore(MemoryStore):
    """Does at once what it is asked for, and says so late."""

    delay = 0.0

    async def claim(self, **options: Any) -> list[Claim]:
        claims = await super().claim(**options)
        await asyncio.sleep(self.delay)
        return claims

    async def renew(
        self, owner: str, claims: Sequence[Claim], *, lease: float, once: str | None = None
    ) -> dict[str, Directive]:
        directives = await super().renew(owner, claims, lease=lease)
        await asyncio.sleep(self.delay)
        return directives


async def test_a_lease_counts_from_the_asking_not_from_the_answer() -> None:
    store = SlowStore(Policies(Policy(window=0.0)))
    await store.open()
    await store.accept([Message(WHERE, "m1", text_content("hello"))])
    keeper, loop = Keeper(store, rules=RULES), asyncio.get_running_loop()
    store.delay = 0.2

    [lease] = await keeper.claim(1, None)
    assert lease.good_until <= loop.time() - store.delay + RULES.give_up

    assert await keeper._renew()
    assert lease.good_until <= loop.time() - store.delay + RULES.give_up


async def test_an_owner_that_cannot_renew_gives_up_by_itself() -> None:
    store = SlowStore(Policies(Policy(window=0.0)))
    await store.open()
    await store.accept([Message(WHERE, "m1", text_content("hello"))])
    [lease] = await Keeper(store, rules=RULES).claim(1, None)

    with pytest.raises(LeaseLost):
        await asyncio.wait_for(reason_of(lease), PATIENCE)
