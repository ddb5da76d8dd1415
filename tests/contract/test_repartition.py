"""A Redis store is copied into another number of partitions, and holds afterwards what it held before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.redis_desk import COST, FAULT, accepted, channel, said, store_on
from tests.contract.suite.desk import answer
from tests.services import RedisServer
from turnkeep.errors import Conflict, LeaseLost, StoreMisconfigured
from turnkeep.messages import Address
from turnkeep.store.redis import RedisStore
from turnkeep.store.redis.key_names import KeyNames
from turnkeep.store.redis.partition_copy import PartitionCopy
from turnkeep.store.values import Claim, Failure, HeldCall

Size = Callable[[int, int], int]

CALL = HeldCall("c1", "pay", "{}", digest="d1", kind="approval")
SINK = "relay"
LEASE = 3_600.0
"""Ends in no test, however busy the machine is."""


async def leased(store: RedisStore, where: Address) -> Claim:
    """The thread of this channel, with one message, taken by a worker."""
    await accepted(store, said(where, "m1"))
    [claim] = await store.claim(owner="w", limit=1, lease=LEASE)
    assert claim.address == where
    return claim


async def fill(store: RedisStore, threads: int) -> list[Claim]:
    """Threads in every state, some of them leased; all that a partition alone knows."""
    await store.open_sink(SINK)
    for n in range(threads):
        claim = await leased(store, channel(f"idle{n}"))
        await store.commit(claim, answer(claim))
        claim = await leased(store, channel(f"forgotten{n}"))
        await store.commit(claim, answer(claim))
        await store.forget(claim.address)
        claim = await leased(store, channel(f"dead{n}"))
        assert await store.fail(claim, Failure(FAULT, None, usage=COST)) == "dead"
        claim = await leased(store, channel(f"held{n}"))
        await store.hold(claim, [CALL], expires_in=1000.0)
    claims = [await leased(store, channel(f"leased{n}")) for n in range(threads)]
    for n in range(threads):
        await accepted(store, said(channel(f"waiting{n}"), "m1", window=900.0, max_wait=1800.0))
        await accepted(store, said(channel(f"delayed{n}"), "m1", not_before=await store.now() + 900))
        await store.pause(channel(f"paused{n}"))
        await accepted(store, said(channel(f"paused{n}"), "m1"))
        await store.update(channel(f"waiting{n}"), {"metadata": {"n": f"{n}"}}, once=f"update {n}")
    await park_some(store)
    return claims


async def park_some(store: RedisStore) -> None:
    """The first event of each partition is refused by its receiver."""
    for place in range(len(store._keys.partitions)):
        position = await store.lease_sink(SINK, place, owner="f", lease=LEASE)
        assert position is not None
        if some := await store.deliveries(SINK, place, after=position, limit=1):
            await store.mark_delivered(
                SINK, place, owner="f", position=some[0].position, to_park=[(some[0].position, "refused")]
            )


async def holdings(store: RedisStore) -> dict[str, Any]:
    """All that can be read."""
    told: dict[str, Any] = {"counts": await store.counts(), "dead": await store.dead(limit=10_000)}
    async for record in store.scan():
        where = record.address
        told[f"{where}"] = (
            record,
            await store.open_messages(where),
            await store.runs(where),
            await store.history(where),
            await store.read(where, limit=10_000),
            await store.message(where, "m1"),
            await store.thread(Address(where.tenant, where.queue, record.thread_id)),
        )
    told["deliveries"] = await deliveries(store)
    return told


async def deliveries(store: RedisStore) -> dict[str, list[tuple[str, int]]]:
    """What a sink has not delivered, and what is parked, by channel in order."""
    told: dict[str, list[tuple[str, int]]] = {}
    for place in range(len(store._keys.partitions)):
        position = await store.lease_sink(SINK, place, owner="f", lease=LEASE)
        assert position is not None
        parked = await store.list_parked(SINK, place)
        for one in parked:
            told.setdefault(f"parked {one.address}", []).append((one.kind, one.offset))
        for delivery in await store.deliveries(SINK, place, after=position, limit=10_000):
            told.setdefault(f"{delivery.address}", []).append((delivery.event.kind, delivery.event.offset))
    return told


async def copied(server: RedisServer, prefix: str, partitions: int, **options: Any) -> None:
    store = RedisStore(server.url(), prefix=prefix, allow_unsafe=True)
    store.may_be_changing = True
    await store.open()
    try:
        await PartitionCopy(store, partitions).run(**options)
    finally:
        await store.close()


@pytest.mark.daily(rows=2)  # into more partitions, by little and by much
@pytest.mark.parametrize(("before", "after"), [(16, 64), (64, 16), (4, 32)])
async def test_a_copy_holds_what_the_store_held(redis_server: RedisServer, before: int, after: int, size: Size) -> None:
    prefix = f"copy {before} {after}:"
    async with store_on(redis_server.url(), prefix=prefix, partitions=before) as store:
        claims = await fill(store, size(3, 40))
        expected = await holdings(store)

    await copied(redis_server, prefix, after, is_alone=True)

    async with store_on(redis_server.url(), prefix=prefix) as store:
        assert len(store._keys.partitions) == after
        assert await holdings(store) == expected
        await goes_on(store, claims)
    left = [name for partition in KeyNames(prefix, before).partitions for name in keys_of(redis_server, partition.tag)]
    assert left == []


def keys_of(server: RedisServer, tag: bytes) -> list[str]:
    names: list[str] = server.cli("keys", tag.decode() + "*")
    return names


async def goes_on(store: RedisStore, claims: list[Claim]) -> None:
    """Runs end, letters are redriven, repeats are told, calls are decided: as if nothing had been."""
    for claim in claims:
        await store.commit(claim, answer(claim))
    for letter in await store.dead(limit=10_000):
        await store.redrive(letter.dead_id)
        assert (await store.redrive(letter.dead_id)).message_id == "m1"
    assert await store.dead() == []
    for n in range(len(claims)):
        assert (await accepted(store, said(channel(f"forgotten{n}"), "m1"))).repeated
        assert (await accepted(store, said(channel(f"idle{n}"), "m1"))).repeated
        before = await store.thread(channel(f"waiting{n}"))
        await store.update(channel(f"waiting{n}"), {"metadata": {"n": "changed"}})
        await store.update(channel(f"waiting{n}"), {"metadata": {"n": f"{n}"}}, once=f"update {n}")
        now = await store.thread(channel(f"waiting{n}"))
        assert before is not None
        assert now is not None
        assert now.metadata == {"n": "changed"}, "the repeat of a named call changes nothing"
        await store.resume(channel(f"paused{n}"))
    taken = await store.claim(owner="other", limit=1000, lease=LEASE)
    assert {claim.address.channel.rstrip("0123456789") for claim in taken} == {"dead", "paused"}
    with pytest.raises(LeaseLost):
        await store.release(claims[0])


@pytest.mark.daily(rows=2)  # one at the beginning, one later
@pytest.mark.parametrize("after_steps", [3, 45, 400, 900])
async def test_a_copy_that_ended_in_between_is_gone_on_with(redis_server: RedisServer, after_steps: int) -> None:
    """Until then nobody begins on the store, and nothing of it has changed."""
    prefix = f"torn {after_steps}:"
    async with store_on(redis_server.url(), prefix=prefix) as store:
        await fill(store, 2)
        expected = await holdings(store)
    store = RedisStore(redis_server.url(), prefix=prefix, allow_unsafe=True)
    store.may_be_changing = True
    await store.open()
    copy = PartitionCopy(store, 64)
    call, steps = copy._call, 0

    async def until_cut(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > after_steps:
            raise asyncio.CancelledError
        return await call(*arguments)

    copy._call = until_cut  # type: ignore[method-assign, assignment]
    with pytest.raises(asyncio.CancelledError):
        await copy.run(is_alone=True)
    await store.close()

    with pytest.raises(StoreMisconfigured, match="being copied into 64 partitions"):
        async with store_on(redis_server.url(), prefix=prefix):
            pass
    if after_steps % 100:
        await copied(redis_server, prefix, 16, is_alone=True)  # undone
        async with store_on(redis_server.url(), prefix=prefix) as store:
            assert len(store._keys.partitions) == 16
            assert await holdings(store) == expected
    await copied(redis_server, prefix, 64, is_alone=True)

    async with store_on(redis_server.url(), prefix=prefix) as store:
        assert len(store._keys.partitions) == 64
        assert await holdings(store) == expected


async def test_a_store_that_others_use_is_not_copied(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), prefix="used:") as store:
        await accepted(store, said(channel("c"), "m1"))

        with pytest.raises(Conflict, match="connections of other programs of turnkeep"):
            await copied(redis_server, "used:", 64)

        await accepted(store, said(channel("c"), "m2"))
    async with store_on(redis_server.url(), prefix="used:") as store:
        assert len(store._keys.partitions) == 16
        assert (await store.counts()).open_messages == 2
