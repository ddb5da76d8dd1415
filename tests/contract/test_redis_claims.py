"""How often claims on Redis look at the indexes: each look is a wait before the model is asked."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count, islice
from typing import Any

import pytest

from tests.contract.redis_desk import LEASE, accepted, channel, said, scripts_of, store_on
from tests.contract.suite.desk import answer
from tests.patience import PATIENCE
from tests.services import HOST, RedisServer
from tests.services.tcp_proxy import TcpProxy
from turnkeep.errors import StoreUnavailable
from turnkeep.messages import Address
from turnkeep.store.redis import RedisStore, outlook
from turnkeep.store.values import Claim, Policies, Policy
from turnkeep.testing import FakeClock


def looks_of(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each look."""
    return scripts_of(store, monkeypatch, "ready")


async def rest_and_claim(store: RedisStore) -> list[Claim]:
    """What a worker does: rest until something is due, then claim."""
    await store.ready(queues=None, timeout=20.0)
    return await store.claim(owner="o", limit=8, lease=LEASE)


@pytest.mark.parametrize("waiting", [1, 3, 12])
async def test_a_claim_that_was_told_all_that_is_ready_does_not_look_again(
    waiting: int, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_on(redis_server.url()) as store:
        for number in range(waiting):
            await accepted(store, said(channel(f"c{number}"), "m1"))
        looks = looks_of(store, monkeypatch)

        claims = await store.claim(owner="o", limit=64, lease=LEASE)

        assert (len(claims), looks) == (waiting, ["ready"])


async def test_a_claim_looks_on_while_more_may_be_ready(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition tells of a share at a time, so that one look costs the same however much waits."""
    async with store_on(redis_server.url()) as store:
        for number in range(300):
            await accepted(store, said(channel(f"c{number}"), "m1"))
        looks = looks_of(store, monkeypatch)

        claims = await store.claim(owner="o", limit=300, lease=LEASE)

        assert len(claims) == 300
        assert len(looks) >= 1


async def test_a_claim_that_a_hint_leads_to_is_one_script(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is looked at before it, behind it, or while the worker rests."""
    async with store_on(redis_server.url()) as store:
        assert await store.claim(owner="o", limit=8, lease=LEASE) == []
        monkeypatch.setattr(outlook, "LOOK_EVERY", 60.0)  # the machine may be busy
        scripts = scripts_of(store, monkeypatch, "ready", "claim", "charge")
        rounds = 5
        for number in range(rounds):
            resting = asyncio.create_task(rest_and_claim(store))
            await asyncio.sleep(0)
            await accepted(store, said(channel(f"c{number}"), "m1"))

            [claim] = await resting
            await store.commit(claim, answer(claim))

    assert scripts == ["claim"] * rounds


async def test_a_window_that_slid_is_claimed_at_its_end_without_a_look(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlook, "LOOK_EVERY", 60.0)  # the machine may be busy
    policies = Policies(Policy(window=1.0))
    async with store_on(redis_server.url(), policies=policies) as store:
        assert await store.claim(owner="o", limit=8, lease=LEASE) == []
        await accepted(store, said(channel("c"), "m1"))
        await accepted(store, said(channel("c"), "m2", window=3.0))
        looks = looks_of(store, monkeypatch)

        assert await rest_and_claim(store) == []  # the end that the first message named
        [claim] = await rest_and_claim(store)

    assert claim.message_ids == ("m1", "m2")
    assert looks == []


KINDS_OF_WORKERS: list[list[str] | None] = [None, ["q"]]
"""Who serves all queues looks at another list of a partition than who serves some."""


@pytest.mark.parametrize("queues", KINDS_OF_WORKERS)
async def test_a_claim_moves_the_bound_of_the_list_where_its_worker_looks(
    queues: list[str] | None, redis_server: RedisServer
) -> None:
    """In the other one it stays below: whoever looks there finds what is due all the same."""
    async with store_on(redis_server.url(), clock=(clock := FakeClock())) as store:
        first, second = channels_of_one_partition(store, 2)
        await accepted(store, said(first, "m1"))
        assert len(await store.claim(owner="o", limit=8, lease=LEASE, queues=queues)) == 1

        assert await bound_of(store, first, of_queue=queues is not None) == clock.now() + LEASE
        assert await bound_of(store, first, of_queue=queues is None) == clock.now()

        await accepted(store, said(second, "m1"))
        [other_queues] = [kind for kind in KINDS_OF_WORKERS if kind is not queues]
        claims = await store.claim(owner="p", limit=8, lease=LEASE, queues=other_queues)
        assert [claim.address for claim in claims] == [second]


@pytest.mark.parametrize("queues", KINDS_OF_WORKERS)
async def test_a_space_of_which_nothing_is_left_is_in_no_list(
    queues: list[str] | None, redis_server: RedisServer
) -> None:
    """A list at which nobody looks would grow with all tenants that ever were."""
    async with store_on(redis_server.url(), clock=(clock := FakeClock())) as store:
        await accepted(store, said(channel("c"), "m1"))
        [claim] = await store.claim(owner="o", limit=8, lease=LEASE, queues=queues)
        await store.commit(claim, answer(claim))
        clock.advance(2 * LEASE)

        assert await store.claim(owner="o", limit=8, lease=LEASE, queues=queues) == []

        assert [await bound_of(store, channel("c"), of_queue=of_queue) for of_queue in (True, False)] == [None, None]


def channels_of_one_partition(store: RedisStore, many: int) -> list[Address]:
    names = map(channel, map("c{}".format, count()))
    return list(islice((name for name in names if store._keys.partition(name).index == 0), many))


async def bound_of(store: RedisStore, where: Address, *, of_queue: bool) -> float | None:
    """From when on something may be due in the space of a thread, as its partition lists it."""
    key = store._keys.partition(where).names["spaces"] + (b":q" if of_queue else b"")
    score = await store._link.call("bound", key, None, "ZSCORE", key, b"t\0q")
    return None if score is None else float(score)


async def test_a_renewal_writes_no_bound_of_a_space(redis_server: RedisServer) -> None:
    """A thread that comes later than it came is behind the bound that is there."""
    async with store_on(redis_server.url()) as store:
        await accepted(store, said(channel("c"), "m1"))
        [claim] = await store.claim(owner="o", limit=8, lease=LEASE)
        bounds = store._keys.partition(channel("c")).names["spaces"]
        assert await store._link.call("bounds", bounds, None, "DEL", bounds) == 1

        directives = await store.renew("o", [claim], lease=2 * LEASE)

        assert [one.held for one in directives.values()] == [True]
        assert await store._link.call("bounds", bounds, None, "EXISTS", bounds) == 0


async def test_a_renewal_looks_in_one_script_where_nothing_is_to_be_renewed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_on(redis_server.url()) as store:
        await accepted(store, said(channel("c"), "m1"))
        [claim] = await store.claim(owner="o", limit=8, lease=LEASE)
        scripts = scripts_of(store, monkeypatch, "renew", "leases")

        await store.renew("o", [claim], lease=LEASE)
        await store.renew("p", [], lease=LEASE)

        assert sorted(scripts) == ["leases", "leases", "renew"]


async def test_leases_that_nobody_can_read_keep_no_other_from_being_given_back(redis_server: RedisServer) -> None:
    prefix = "unreadable:"
    async with (
        store_on(redis_server.url(), prefix=prefix) as store,
        store_on(redis_server.url(), prefix=prefix) as other,
    ):
        here, there = (channel(name) for name in ("c0", "c1"))
        damaged = store._keys.partition(there).names["leases"]
        assert damaged != store._keys.partition(here).names["leases"]
        await accepted(store, said(here, "m1"))
        assert len(await store.claim(owner="o", limit=8, lease=LEASE)) == 1
        await store._link.call("damage", damaged, None, "SET", damaged, "no leases")

        await other.renew("o", [], lease=LEASE)

        [claim] = await store.claim(owner="p", limit=8, lease=LEASE)
        assert claim.address == here


async def test_what_one_failure_kept_from_being_given_back_is_by_the_next_renewal(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_on(redis_server.url(), partitions=256) as store:
        for number in range(6):
            await accepted(store, said(channel(f"c{number}"), "m1"))
        while (await store.counts()).active < 6:
            await store.claim(owner="o", limit=6, lease=LEASE)
        run, failures = store._link.run, iter([StoreUnavailable("away")])

        def stumble(name: str, *arguments: Any, **options: Any) -> Any:
            if name == "orphan" and (failure := next(failures, None)):
                raise failure
            return run(name, *arguments, **options)

        monkeypatch.setattr(store._link, "run", stumble)
        with suppress(StoreUnavailable):  # unless another group of partitions has answered
            await store.renew("o", [], lease=LEASE)
        assert (await store.counts()).active > 0

        await store.renew("o", [], lease=LEASE)

        assert (await store.counts()).active == 0


async def test_what_no_hint_told_is_found_by_the_next_claim_that_nothing_led_to(redis_server: RedisServer) -> None:
    async with (
        store_on(redis_server.url(), prefix="deaf:") as deaf,
        store_on(redis_server.url(), prefix="deaf:") as other,
    ):
        assert await deaf.claim(owner="o", limit=8, lease=LEASE) == []
        hints = await deaf._hear_hints()
        hints.on_message = lambda channel, data: None  # type: ignore[method-assign]  # lost on their way
        await accepted(other, said(channel("c"), "m1"))
        # The two know the time of the server to some milliseconds: for this one it may not have come yet.
        claims: list[Claim] = []
        async with asyncio.timeout(PATIENCE):
            while not claims:
                claims = await deaf.claim(owner="o", limit=8, lease=LEASE)

        assert len(claims) == 1


async def test_books_of_fairness_are_kept_once_there_are_two_tenants(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_on(redis_server.url()) as store:
        scripts = scripts_of(store, monkeypatch, "charge")
        for number in range(3):
            await accepted(store, said(channel(f"c{number}", "loud"), "m1"))
            assert len(await store.claim(owner="o", limit=8, lease=LEASE)) == 1
        assert scripts == []

        for number in range(4):
            await accepted(store, said(channel(f"d{number}", "loud"), "m1"))
            await accepted(store, said(channel(f"e{number}", "quiet"), "m1"))
        claims = await store.claim(owner="o", limit=4, lease=LEASE)

    # as if it had been written down at once: who was served before comes after who was not
    assert claims[0].address.tenant == "quiet"
    assert scripts != []


async def test_a_damaged_thread_is_not_claimed_and_keeps_none_of_its_neighbours(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), partitions=1) as store:
        for number in range(6):
            await accepted(store, said(channel(f"c{number}"), "m1"))
        broken = store._keys.thread(channel("c3"))["thread"]
        redis_server.cli("hset", broken.decode(), "head", "no record")

        claims = await store.claim(owner="o", limit=8, lease=LEASE)

    assert sorted(claim.address.channel for claim in claims) == ["c0", "c1", "c2", "c4", "c5"]


async def test_a_change_of_a_record_is_heard_by_the_workers_of_other_processes(redis_server: RedisServer) -> None:
    async with (
        store_on(redis_server.url(), prefix="heard:") as worker,
        store_on(redis_server.url(), prefix="heard:") as gateway,
    ):
        await worker.claim(owner="o", limit=8, lease=LEASE)
        before = worker.revision()

        await gateway.put("assistant", "t", "a", {"model": "m"})

        async with asyncio.timeout(PATIENCE):
            while worker.revision() == before:
                await asyncio.sleep(0.005)


async def test_threads_of_one_script_are_counted_and_found_as_each_by_itself(redis_server: RedisServer) -> None:
    """What the threads of a partition share is read and written once for all of them."""
    names = [channel(f"c{number}") for number in range(48)]
    async with store_on(redis_server.url(), policies=Policies(Policy(window=0.0))) as store:
        await asyncio.gather(*[store.accept([said(name, "m1"), said(name, "m2")]) for name in names])
        waiting = await store.counts()
        claims = await store.claim(owner="o", limit=64, lease=LEASE)
        claimed = await store.counts()
        await asyncio.gather(*[store.commit(claim, answer(claim)) for claim in claims])
        answered = await store.counts()
        report = await store.check()

    assert len(claims) == 48
    assert [(c.waiting, c.active, c.completed) for c in (waiting, claimed, answered)] == [
        (48, 0, 0), (0, 48, 0), (0, 0, 96),
    ]  # fmt: skip
    assert report["rebuilt"] == []


@pytest.mark.parametrize("waiting", [1, 3])
async def test_a_claim_whose_reply_was_lost_is_told_again(waiting: int, redis_server: RedisServer) -> None:
    async with (
        TcpProxy(HOST, redis_server.port) as proxy,
        store_on(f"redis://{HOST}:{proxy.port}/0") as store,
    ):
        for number in range(waiting):
            await accepted(store, said(channel(f"c{number}"), "m1"))
        proxy.cut_before_reply(store._link.scripts["claim"].sha)

        claims = await store.claim(owner="o", limit=8, lease=LEASE)

        assert proxy.cuts == 1
        assert (len(claims), (await store.counts()).active) == (waiting, waiting)
