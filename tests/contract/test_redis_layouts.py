"""What a Redis of an older layout holds is read, gone on with and written anew."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis

from tests.contract.suite.desk import CALL, POLICY, Desk, at, delta
from tests.services import RedisServer
from turnkeep.errors import StoreMisconfigured
from turnkeep.messages import AssistantItem, UserItem
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import LAYOUT, Decision, Policies
from turnkeep.testing import FakeClock

LAYOUTS = Path(__file__).parents[1] / "data" / "layouts"
NUMBERS = sorted(int(path.name[6:-9]) for path in LAYOUTS.glob("redis-*.jsonl.gz"))


async def restore(url: str, number: int) -> str:
    """Puts what an older program left behind into a server; its prefix."""
    prefix = f"layout{number}:"
    redis = Redis.from_url(url)
    for line in gzip.decompress((LAYOUTS / f"redis-{number}.jsonl.gz").read_bytes()).splitlines():
        words = [word.replace("old:", prefix) for word in orjson.loads(line)]
        await redis.execute_command(*[word.encode("latin-1") for word in words])
    await redis.aclose()
    return prefix


def store_of(url: str, prefix: str, clock: FakeClock) -> RedisStore:
    return RedisStore(url, Policies(POLICY), prefix=prefix, allow_unsafe=True, now=clock)


def test_there_is_what_the_layout_before_this_one_left_behind() -> None:
    assert LAYOUT - 1 in NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
async def test_a_server_of_an_older_layout_is_gone_on_with(number: int, redis_server: RedisServer) -> None:
    url, clock = redis_server.url(), FakeClock()
    store = store_of(url, await restore(url, number), clock)
    await store.open()
    desk = Desk(store, clock)
    clock.advance(100.0)
    try:
        counts = await store.counts()
        assert (counts.threads, counts.open_messages, counts.dead_letters) == (5, 5, 1)
        assert (counts.completed, counts.failed, counts.held, counts.delayed) == (1, 1, 1, 1)
        # What was said is read, and goes on.
        [asked, answered] = await desk.transcript(at("answered"))
        assert isinstance(asked, UserItem)
        assert isinstance(answered, AssistantItem)
        assert (asked.message_id, answered.text) == ("m1", "answer")
        assert await desk.kinds(at("answered")) == ["accepted", "started", "delta", "completed", "accepted"]
        assert (await desk.say("m1", where=at("answered"))).repeated
        # The run whose owner is gone, and the one that was given back.
        claims = {claim.message_ids: claim for claim in await desk.claims()}
        assert set(claims) == {("m2", "m3"), ("m7",)}
        assert claims[("m2", "m3")].journal == ({"n": 0, "kind": "item"},)
        assert claims[("m7",)].deaths == 1
        for claim in claims.values():
            await store.publish(claim, 0, [delta("more")])
            await desk.commit(claim)
        assert await desk.kinds(at("leased")) == ["accepted", "started", "delta", "started", "delta", "completed"]
        await store.decide(at("held"), CALL.call_id, CALL.digest, Decision("approved"))
        [claim] = await desk.claims()
        assert claim.message_ids == ("m5",)
        await desk.commit(claim)
        clock.advance(500.0)
        [claim] = await desk.claims()
        assert claim.message_ids == ("m6",)
        await desk.commit(claim)
        [letter] = await store.dead()
        await store.redrive(letter.dead_id)
        assert (await store.check())["rebuilt"] == []
    finally:
        await store.close()


async def test_a_newer_layout_is_refused(redis_server: RedisServer) -> None:
    url, clock = redis_server.url(), FakeClock()
    prefix = await restore(url, NUMBERS[-1])
    redis = Redis.from_url(url)
    await redis.hset(f"{prefix}{{{prefix}registry}}layout", "layout", str(LAYOUT + 1))
    await redis.aclose()

    with pytest.raises(StoreMisconfigured, match=f"holds layout {LAYOUT + 1}, this program knows up to {LAYOUT}"):
        await store_of(url, prefix, clock).open()
