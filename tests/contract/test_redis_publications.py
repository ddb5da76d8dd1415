"""What publishing costs on Redis: a token has a short script, and seldom more than that."""

from __future__ import annotations

import pytest

from tests.contract.redis_desk import answer, channel, leased, scripts_of, store_on
from tests.services import RedisServer
from turnkeep.events import Event
from turnkeep.store.log_bounds import TRIM_EVERY
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import Claim, Policies, Policy, Publication

TOKENS = 150
BOUND = 30
FEW = Policy(window=0.0, log_events=BOUND)


async def speak(store: RedisStore, *claims: Claim) -> None:
    """A run each, token by token, side by side."""
    for n in range(TOKENS):
        together = [Publication(claim, n, [Event("delta", text=f"<{n}>")]) for claim in claims]
        assert not [one for one in await store.publish_many(together) if isinstance(one, Exception)]


@pytest.mark.parametrize(("log_events", "long"), [(TOKENS, 0), (BOUND, TOKENS // TRIM_EVERY)])
async def test_only_a_run_that_outgrows_its_log_needs_the_long_script(
    log_events: int, long: int, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = Policies(Policy(window=0.0, log_events=log_events))
    async with store_on(redis_server.url(), policies=policies) as store:
        claim = await leased(store, channel("c"), "m")
        scripts = scripts_of(store, monkeypatch, "publish", "publish_long")

        await speak(store, claim)

        assert scripts.count("publish") == TOKENS
        assert scripts.count("publish_long") == long


async def test_each_queue_keeps_its_own_bound_when_they_publish_together(redis_server: RedisServer) -> None:
    policies = Policies(Policy(window=0.0, log_events=1000), queues={"few": FEW})
    many, few = channel("c"), channel("c", queue="few")
    async with store_on(redis_server.url(), policies=policies) as store:
        await speak(store, await leased(store, many, "m"), await leased(store, few, "m"))

        assert len((await store.read(many)).events) == 2 + TOKENS
        assert len((await store.read(few)).events) < BOUND + TRIM_EVERY + 3


async def test_what_a_run_leaves_behind_is_within_the_bound_when_the_run_ends(redis_server: RedisServer) -> None:
    """Each run is shorter than the bound and rolls nothing: the one before it is cut when it ends."""
    policies = Policies(Policy(window=0.0, log_events=TOKENS))
    here = channel("c")
    async with store_on(redis_server.url(), policies=policies) as store:
        for number in range(3):
            claim = await leased(store, here, f"m{number}")
            await speak(store, claim)
            await store.commit(claim, answer(claim))

            assert len((await store.read(here, limit=10_000)).events) <= TOKENS + TRIM_EVERY
