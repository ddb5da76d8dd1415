"""On Redis the janitor alone ends things: keys of threads stay until then, ids of messages longer than their thread."""

from __future__ import annotations

from tests.contract.redis_desk import accepted, answer, channel, leased, said, store_on
from tests.services import RedisServer
from turnkeep.store.values import Policies, Policy
from turnkeep.testing import FakeClock

HERE = channel("here")
POLICY = Policy(window=0.0, expiry=60.0)


def keys_of_threads(server: RedisServer, prefix: str) -> dict[str, int]:
    """By their letter, with the milliseconds after which Redis drops them; -1: never."""
    keys = [key for key in server.cli("KEYS", f"{prefix}*") if "}" in key and key.split("}")[1][1:2] == ":"]
    return {key.split("}")[1][0]: server.cli("PTTL", key) for key in keys}


async def test_the_ids_of_a_thread_that_is_gone_stay_for_their_time(redis_server: RedisServer) -> None:
    clock, prefix = FakeClock(), "ids:"
    async with store_on(redis_server.url(), policies=Policies(POLICY), clock=clock, prefix=prefix) as store:
        claim = await leased(store, HERE, "m1")
        await store.commit(claim, answer(claim))
        assert set(keys_of_threads(redis_server, prefix).values()) == {-1}
        clock.advance(60.0)
        assert await store.expire() == 1
        assert keys_of_threads(redis_server, prefix) == {"k": -1}
        clock.advance(POLICY.dedupe - 61.0)
        await store.expire()
        assert keys_of_threads(redis_server, prefix) == {"k": -1}
        assert (await accepted(store, said(HERE, "m1"))).repeated
        clock.advance(62.0)

        await store.expire()

        assert keys_of_threads(redis_server, prefix) == {}


async def test_a_thread_that_begins_anew_takes_the_ids_over(redis_server: RedisServer) -> None:
    clock, prefix = FakeClock(), "anew:"
    async with store_on(redis_server.url(), policies=Policies(POLICY), clock=clock, prefix=prefix) as store:
        claim = await leased(store, HERE, "m1")
        await store.commit(claim, answer(claim))
        await store.forget(HERE)
        await accepted(store, said(HERE, "m2"))
        clock.advance(POLICY.dedupe + 1.0)
        await store.expire()

        assert (await accepted(store, said(HERE, "m2"))).repeated
        assert not (await accepted(store, said(HERE, "m1"))).repeated
