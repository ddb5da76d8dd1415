"""What publishing costs on Redis: a token has a short script, and seldom more than that."""

from __future__ import annotations

import pytest

from tests.contract.redis_desk import answer, channel, leased, scripts_of, store_on
from tests.services import RedisServer
from turnkeep.events import Event
from turnkeep.store.log_bounds import TRIM_EVERY
from turnkeep.store.redis import RedisStore
from turnkeep.store.sinks import EVERYTHING, Selection
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


@pytest.mark.parametrize(
    ("selection", "long", "told"), [(Selection(finals=True), 0, 1), (EVERYTHING, TOKENS, TOKENS + 3)]
)
async def test_only_a_sink_for_what_runs_say_needs_the_long_script(
    selection: Selection, long: int, told: int, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_on(redis_server.url()) as store:
        partitions = await store.open_sink("s", selection)
        claim = await leased(store, channel("c"), "m")
        scripts = scripts_of(store, monkeypatch, "publish_long")

        await speak(store, claim)
        await store.commit(claim, answer(claim))

        assert scripts.count("publish_long") == long
        deliveries = [one for place in partitions for one in await store.deliveries("s", place, after="", limit=1000)]
        assert (len(deliveries), deliveries[-1].event.kind) == (told, "completed")


async def test_a_sink_that_opens_while_a_run_speaks_gets_what_comes_then(redis_server: RedisServer) -> None:
    """Beside one for finals alone, which keeps nothing from it."""
    async with store_on(redis_server.url()) as store:
        await store.open_sink("finals", Selection(finals=True))
        claim = await leased(store, channel("c"), "m")
        await store.publish(claim, 0, [Event("delta", text="before")])
        partitions = await store.open_sink("all", EVERYTHING)
        await store.publish(claim, 1, [Event("delta", text="after")])

        deliveries = [one for place in partitions for one in await store.deliveries("all", place, after="", limit=9)]
        assert [one.event.text for one in deliveries] == ["after"]


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
