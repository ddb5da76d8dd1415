"""Keys that all threads of a partition share, damaged in every way: they are made again from the threads, and nothing
that has a receipt stays unanswered.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.contract.redis_desk import FAULT, LEASE, accepted, answer, channel, leased, said, store_on
from tests.services import RedisServer
from turnkeep.errors import StoreError
from turnkeep.messages import Address
from turnkeep.store.redis import RedisStore
from turnkeep.store.shared_ledger import Limit
from turnkeep.store.store_metrics import measure_store
from turnkeep.store.values import Failure, HeldCall
from turnkeep.telemetry.metrics import PrometheusMeter

pytestmark = pytest.mark.daily(rows=5)  # each key with one damage where these are a table too, else some keys

KEYS = (
    *(
        "due",
        "ends",
        "spaces",
        "leases",
        "counters",
        "threads",
        "aging",
        "aliases",
        "sinks",
        "parked",
        "dead",
        "graves",
    ),
    *("letters", "redriven", "quarantine", "meta", "operations"),
)
DAMAGES = ("text", "list", "set", "gone", "cut")
ESTIMATES = ("circuits", "served", "clock", "operations", "pace", "operations of a pace", "operations of a ledger")
"""What all partitions share, and may begin anew: it spares requests, or makes them fair."""


def damage(server: RedisServer, key: bytes, how: str) -> None:
    keep = server.client()
    if how == "cut":
        cut_short(keep, key)
    elif how == "junk":
        keep.hset(key, mapping=dict.fromkeys({b"", b"e", *keep.hkeys(key)}, b"junk"))
    else:
        keep.delete(key)
        if how != "gone":
            {"text": keep.set, "list": keep.rpush, "set": keep.sadd}[how](key, b"x")
    keep.close()


def cut_short(keep: Any, key: bytes) -> None:
    kind = keep.type(key)
    if kind == b"zset":
        keep.zremrangebyrank(key, 0, keep.zcard(key) // 2)
    elif kind == b"hash":
        for field in sorted(keep.hkeys(key))[::2]:
            keep.hdel(key, field)


async def furnished(store: RedisStore) -> list[Address]:
    """Threads in every state, all in one partition; those whose messages are open."""
    running = await leased(store, channel("running"), "m1", owner="gone")
    for name in ("done", "dead", "held", "retrying"):
        await accepted(store, said(channel(name), "m1"))
    claims = {claim.address.channel: claim for claim in await store.claim(owner="w", limit=10, lease=LEASE)}
    await store.commit(claims["done"], answer(claims["done"]))
    await store.fail(claims["dead"], Failure(FAULT, None))
    await store.hold(claims["held"], [HeldCall("call_1", "pay", "{}", "digest")], expires_in=0.0)
    await store.fail(claims["retrying"], Failure(FAULT, 0.0))
    others = [channel("waiting"), channel("other", queue="other")]
    await store.accept([said(other, "m1") for other in others])
    await store.open_sink("sink")
    return [running.address, channel("held"), channel("retrying"), *others]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [*KEYS, "spaces:q"])
async def test_a_damaged_shared_key_is_made_again_and_everything_is_answered(
    redis_server: RedisServer, name: str, how: str
) -> None:
    async with store_on(redis_server.url(), partitions=1) as store:
        where = await furnished(store)
        tag = store._keys.partitions[0].tag
        damage(redis_server, tag + name.encode(), how)

        await accepted(store, said(channel("new"), "m1"))
        await store.expire()
        await store.check()
        answered = await answer_all(store)

        assert answered >= {*where, channel("new")}
        assert (await store.counts()).open_messages == 0
        damaged, _ = await store._repair._look(store._keys.partitions[0])
        assert damaged == []
        assert (await store.message(channel("done"), "m1")) is not None
        if name != "dead":
            assert [letter.address for letter in await store.dead()] == [channel("dead")]


async def answer_all(store: RedisStore) -> set[Address]:
    """Renew nothing, so that what nobody works on comes free, and commit whatever can be claimed."""
    answered: set[Address] = set()
    await store.renew("gone", [], lease=LEASE)
    for _ in range(20):
        for claim in await store.claim(owner="w", limit=50, lease=LEASE):
            await store.commit(claim, answer(claim))
            answered.add(claim.address)
    return answered


@pytest.mark.parametrize("how", ["text", "list"])
@pytest.mark.parametrize("name", ["due", "ends", "spaces", "leases", "counters", "spaces:q"])
async def test_only_that_partition_pauses(redis_server: RedisServer, name: str, how: str) -> None:
    """Also where it cannot be made again, because another process is said to be at it."""
    async with store_on(redis_server.url(), partitions=2) as store:
        places = [channel(f"c{n}") for n in range(20)]
        claims = [await leased(store, place, "m1") for place in places[:6]]
        await store.accept([said(place, "m1") for place in places[6:]])
        broken, whole = store._keys.partitions
        names = {store._keys.partition(place).index: place for place in places}
        assert len(names) == 2
        damage(redis_server, broken.tag + name.encode(), how)
        redis_server.cli("SET", broken.names["mending"], "1", "PX", 60_000)

        held = await store.renew("w", claims, lease=LEASE)
        assert all(held[c.token].held for c in claims if store._keys.partition(c.address) is whole)
        taken = await store.claim(owner="w", limit=50, lease=LEASE)
        assert {c.address for c in taken} >= {p for p in places[6:] if store._keys.partition(p) is whole}
        await accepted(store, said(channel_in(store, whole.index), "m1"))

        redis_server.cli("DEL", broken.names["mending"])
        await store.expire()
        more = [*taken, *await store.claim(owner="w", limit=50, lease=LEASE)]
        assert {c.address for c in more} >= set(places[6:])


def channel_in(store: RedisStore, index: int) -> Address:
    return next(where for n in range(100) if store._keys.partition(where := channel(f"n{n}")).index == index)


@pytest.mark.parametrize("name", KEYS)
async def test_who_meets_a_damaged_shared_key_at_the_same_time_sets_no_thread_aside(
    redis_server: RedisServer, name: str
) -> None:
    """One of them makes it again; the others, here and in another process, find it right."""
    redis_server.fresh()
    async with (
        store_on(redis_server.url(), prefix="two:", partitions=1) as one,
        store_on(redis_server.url(), prefix="two:", partitions=1) as other,
    ):
        places = [channel(f"c{n}") for n in range(12)]
        await one.accept([said(place, "m1") for place in places])
        claims = await one.claim(owner="w", limit=6, lease=LEASE)
        damage(redis_server, one._keys.partitions[0].tag + name.encode(), "text")

        acts: list[Any] = [store.update(place, {"metadata": {"a": "1"}}) for place in places for store in (one, other)]
        acts += [store.claim(owner=f"{n}", limit=6, lease=LEASE) for n, store in enumerate((one, other))]
        acts += [one.commit(claim, answer(claim)) for claim in claims]
        await asyncio.gather(*acts, return_exceptions=True)
        await asyncio.gather(one.expire(), other.expire(), return_exceptions=True)

        names = one._keys.partitions[0].names
        assert redis_server.cli("HLEN", names["quarantine"]) in ("0", 0), "a sound thread was set aside"
        for place in places:
            assert await one.thread(place) is not None


@pytest.mark.parametrize("name", KEYS)
async def test_who_only_looks_makes_a_damaged_shared_key_again(redis_server: RedisServer, name: str) -> None:
    redis_server.fresh()
    async with store_on(redis_server.url(), partitions=2) as store:
        await furnished(store)
        key = store._keys.partitions[0].tag + name.encode()
        for look in (store.expire, store.stats, store.dead, store.counts, store.sinks, store.check):
            damage(redis_server, key, "list")
            await look()


@pytest.mark.parametrize("name", [*KEYS, "spaces:q"])
async def test_entries_that_nobody_can_read_stop_nobody(redis_server: RedisServer, name: str) -> None:
    redis_server.fresh()
    async with store_on(redis_server.url(), partitions=1) as store:
        where = await furnished(store)
        scribble(redis_server, store._keys.partitions[0].tag + name.encode())

        await accepted(store, said(channel("new"), "m1"))
        await store.expire()
        for look in (store.check, store.counts, store.dead, store.sinks, store.stats):
            await look()
        assert await answer_all(store) >= {*where, channel("new")}


def scribble(server: RedisServer, key: bytes) -> None:
    """Overwrite every value of a hash; add members to a set that are no entries."""
    keep = server.client()
    if keep.type(key) == b"zset":
        keep.zadd(key, dict.fromkeys((b"junk", b"a\0b", b"\xff\xfe", b"a\0b\0c\0d\0e"), 0.0))
    else:
        keep.hset(key, mapping=dict.fromkeys({b"junk", *keep.hkeys(key)}, b"junk"))
    keep.close()


@pytest.mark.parametrize("how", [*DAMAGES, "junk"])
@pytest.mark.parametrize("name", ESTIMATES)
async def test_an_estimate_that_is_damaged_begins_anew_and_stops_nobody(
    redis_server: RedisServer, name: str, how: str
) -> None:
    redis_server.fresh()
    async with store_on(redis_server.url(), partitions=1) as store:
        keys, limits = store._keys, [Limit("day", 100, 60.0)]
        await store.trip("e", FAULT, probe_in=0.0)
        await store.slow_down("e", 600.0)
        await store.reserve("r0", 5, limits, tenant="t")
        await leased(store, channel("c"), "m1")
        places = {"pace": keys.pace("e"), "operations of a pace": keys.pace("e", "operations")}
        places["operations of a ledger"] = keys.ledger("t", "operations")
        damage(redis_server, places.get(name, keys.registry(name)), how)

        for _ in range(2):
            assert len(await store.circuits()) <= 1
            await store.probe("e", every=1.0)
            assert 0.0 <= await store.pace("e", requests=10.0, tokens=10.0, tokens_wanted=1) <= 601.0
            await store.slow_down("e", 1.0)
            await store.trip("e", FAULT, probe_in=0.0)
            assert (await store.reserve("r1", 5, limits, tenant="t")).outcome == "granted"
            await store.settle("r1", 5, tenant="t")
            await store.put("assistant", "t", "a", {"model": "x"})
        await store.mend("e")
        assert await store.circuits() == []
        for n in range(3):
            claim = await leased(store, channel(f"c{n}"), "m2")
            await store.commit(claim, answer(claim))


async def test_the_clock_of_the_server_ends_nothing_that_a_caller_relies_on(redis_server: RedisServer) -> None:
    """A key with an expiry is gone when somebody sets that clock forward."""
    redis_server.fresh()
    async with store_on(redis_server.url(), partitions=1) as store:
        await furnished(store)
        await store.update(channel("waiting"), {"metadata": {"a": "1"}}, once="k")
        await store.put("assistant", "t", "a", {"model": "x"}, once="k", ttl=60.0)
        await store.typing(channel("waiting"))
        await store.put("assistant", "t", "b", {"model": "x"})
        await store.trip("e", FAULT, probe_in=0.0)
        await store.slow_down("e", 600.0)
        await store.pace("e", requests=10.0, tokens=10.0, tokens_wanted=1)
        await store.reserve("r1", 5, [Limit("day", 100, 60.0)], tenant="t")
        minted = {store._keys.pace("e", "operations"), store._keys.ledger("t", "operations")}
        minted |= {store._keys.partitions[0].names[name] for name in ("fence", "mending")}

        keep = redis_server.client()
        ending = {key for key in keep.keys("*") if keep.pttl(key) >= 0}
        keep.close()

        assert ending <= minted


async def test_what_was_made_again_is_told(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), partitions=1) as store:
        await accepted(store, said(channel("c"), "m1"))
        assert (await store.check())["rebuilt"] == []
        damage(redis_server, store._keys.partitions[0].names["due"], "text")

        meter = PrometheusMeter()
        measured = measure_store(store, meter)

        [reason] = (await measured.check())["rebuilt"]

        assert "due" in reason
        assert b"\nturnkeep_partition_rebuilds 1.0\n" in meter.render()[0]


async def test_no_receipt_is_given_while_a_partition_cannot_be_served(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), partitions=1) as store:
        partition = store._keys.partitions[0]
        damage(redis_server, partition.names["spaces"], "text")
        redis_server.cli("SET", partition.names["mending"], "1", "PX", 60_000)

        with pytest.raises(StoreError):
            await store.accept([said(channel("c"), "m1")])

        redis_server.cli("DEL", partition.names["mending"])
        assert await store.message(channel("c"), "m1") is None, "nothing of it is kept"
        await accepted(store, said(channel("c"), "m1"))
