"""What a Redis of an older layout holds is read, gone on with and written anew."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from tests.contract.suite.desk import CALL, POLICY, Desk, at, delta
from tests.patience import PATIENCE
from tests.services import RedisServer
from turnkeep.errors import StoreError, StoreMisconfigured, StoreUnfit
from turnkeep.messages import AssistantItem, Message, UserItem, text_content
from turnkeep.store.redis import RedisStore
from turnkeep.store.redis.server_fitness import CHANGING
from turnkeep.store.values import LAYOUT, Decision, Policies
from turnkeep.testing import FakeClock

LAYOUTS = Path(__file__).parents[1] / "data" / "layouts"
NUMBERS = sorted(int(path.name[6:-9]) for path in LAYOUTS.glob("redis-*.jsonl.gz"))


async def restore(server: RedisServer, number: int) -> str:
    """Puts what an older program left behind into a server; its prefix."""
    prefix = f"layout{number}:"
    redis = server.async_client()
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
    store = store_of(url, await restore(redis_server, number), clock)
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
    prefix = await restore(redis_server, NUMBERS[-1])
    redis = redis_server.async_client()
    await redis.hset(f"{prefix}{{{prefix}registry}}layout", "layout", str(LAYOUT + 1))
    await redis.aclose()

    with pytest.raises(StoreMisconfigured, match=f"holds layout {LAYOUT + 1}, this program knows up to {LAYOUT}"):
        await store_of(url, prefix, clock).open()


async def outcome(act: Awaitable[object]) -> object:
    """What it raises, or gives."""
    try:
        return await act
    except StoreError as error:
        return error


async def until(act: Callable[[], Awaitable[object]], kind: type) -> None:
    """Repeat it until its outcome is of this kind."""
    async with asyncio.timeout(PATIENCE):
        while not isinstance(await outcome(act()), kind):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("field", "number", "words"),
    [
        ("layout", LAYOUT + 1, f"raised this Redis to layout {LAYOUT + 1}, this program knows up to {LAYOUT}"),
        ("layout", CHANGING, "is being copied into other partitions"),
        ("partitions", 64, "was copied into 64 partitions while this program goes by 16"),
    ],
    ids=["raised", "being copied", "copied"],
)
async def test_a_store_that_becomes_another_takes_nothing_from_who_began_before(
    field: str, number: int, words: str, redis_server: RedisServer
) -> None:
    url, prefix = redis_server.url(), f"{field}{number}:"
    store = RedisStore(url, Policies(POLICY), prefix=prefix, allow_unsafe=True)
    await store.open()
    message = Message(at("c"), "m1", text_content("hello"))
    redis = redis_server.async_client()
    layout = f"{prefix}{{{prefix}registry}}layout"
    try:
        await store.accept([message])
        before = await redis.hget(layout, field)
        await redis.hset(layout, field, str(number))
        await until(store.counts, StoreUnfit)

        refused = [
            await outcome(act)
            for act in (
                store.accept([replace(message, message_id="m2")]),
                store.claim(owner="w", limit=1, lease=30.0),
                store.cancel(at("c")),
                store.history(at("c")),
                store.check(),
            )
        ]
        assert [type(error) for error in refused] == [StoreUnfit] * 5
        assert all(words in str(error) for error in refused)

        await redis.hset(layout, field, before)
        await until(lambda: store.message(at("c"), "m2"), type(None))
    finally:
        await store.close()
        await redis.aclose()
