"""Keys on Redis live at least as long as is told, and ids of messages longer than a thread that lives short."""

from __future__ import annotations

import pytest

from tests.contract.redis_desk import accepted, answer, channel, leased, said, store_on
from tests.services import RedisServer
from turnkeep.messages import AssistantItem
from turnkeep.store.base import Entry, Policies, Policy
from turnkeep.testing import FakeClock

HERE = channel("here")
DAY = 86_400.0
LINES = [Entry(AssistantItem("x"))]


def seconds_left(server: RedisServer, prefix: str) -> dict[str, float]:
    """Of the keys of threads, by their letter."""
    keys = [key for key in server.cli("KEYS", f"{prefix}*") if "}" in key and key.split("}")[1][1:2] == ":"]
    return {key.split("}")[1][0]: server.cli("PTTL", key) / 1000 for key in keys}


@pytest.mark.parametrize("ttl", [3_600.0, 7 * DAY, 90 * DAY, 400 * DAY])
@pytest.mark.parametrize("later", [0.0, 0.005, 0.0099, 0.02])
async def test_keys_live_as_long_as_is_told(redis_server: RedisServer, ttl: float, later: float) -> None:
    clock, prefix = FakeClock(), f"e{ttl:.0f}.{later}:"
    async with store_on(redis_server.url(), policies=Policies(Policy(expiry=ttl)), clock=clock, prefix=prefix) as store:
        await store.append(HERE, LINES)
        clock.advance(ttl * later)
        await store.append(HERE, LINES)
        record = await store.thread(HERE)
        assert record is not None

        left = seconds_left(redis_server, prefix)
        assert {"t", "h"} <= set(left)
        passed = ttl * later if later < 0.01 else 0.0  # the server's own clock stood still since it moved the keys
        assert min(left.values()) - passed >= record.expires_at - clock.now()


async def test_the_ids_of_a_thread_that_is_gone_live_as_long_as_is_told(redis_server: RedisServer) -> None:
    clock, prefix, policy = FakeClock(), "ids:", Policy(window=0.0, expiry=60.0)
    async with store_on(redis_server.url(), policies=Policies(policy), clock=clock, prefix=prefix) as store:
        claim = await leased(store, HERE, "m1")
        await store.commit(claim, answer(claim))
        assert seconds_left(redis_server, prefix)["k"] >= policy.dedupe
        clock.advance(60.0)
        assert await store.expire() == 1

        left = seconds_left(redis_server, prefix)
        assert set(left) == {"k"}
        assert left["k"] >= policy.dedupe - 60.0

        await accepted(store, said(HERE, "m2"))
        assert seconds_left(redis_server, prefix)["k"] < 0, "an open message is known for ever"
