"""The Redis engine when replies are lost, servers die, memory runs out, and bits flip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from tests.contract.comparing import Names, differences
from tests.contract.redis_desk import (
    LEASE,
    accepted,
    answer,
    channel,
    leased,
    live,
    said,
    seen,
    store_on,
)
from tests.patience import PATIENCE
from tests.services import HOST, RedisServer
from tests.services.tcp_proxy import TcpProxy
from turnkeep.errors import LeaseLost, OutcomeUnknown, StoreFull, StoreUnavailable
from turnkeep.events import Event
from turnkeep.store.redis import RedisStore
from turnkeep.store.shared_ledger import Limit
from turnkeep.store.sinks import Delivery
from turnkeep.store.values import Policies, Policy
from turnkeep.testing import FakeClock, counting_ids

T = TypeVar("T")
HERE = channel("here")


@pytest_asyncio.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(HOST, redis_server.port) as proxy:
        yield proxy


def through(proxy: TcpProxy) -> str:
    return f"redis://{HOST}:{proxy.port}/0"


def told(text: str) -> Event:
    return Event("delta", text=text, attempt=1)


# ---------------------------------------------------------------- lost replies


async def test_every_operation_survives_a_lost_reply(redis_server: RedisServer, proxy: TcpProxy) -> None:
    """A life in which the reply to every operation is lost once is the life in which none was."""

    async def undisturbed(operation: Awaitable[T]) -> T:
        return await operation

    async def disturbed(operation: Awaitable[T]) -> T:
        proxy.cut_before_reply(b"EVALSHA")
        outcome = await operation
        proxy.forward()
        return outcome

    async with (
        store_on(redis_server.url(), clock=FakeClock(), ids=counting_ids()) as calm,
        store_on(through(proxy), clock=FakeClock(), ids=counting_ids()) as shaken,
    ):
        names, others = Names(), Names()
        here, there = await live(calm, HERE, undisturbed), await live(shaken, HERE, disturbed)
        assert proxy.cuts >= len(there)
        assert differences(names.plain(here), others.plain(there)) == []
        here_seen, there_seen = await seen(calm, HERE), await seen(shaken, HERE)
        assert differences(names.plain(here_seen), others.plain(there_seen)) == []


async def test_a_named_id_whose_receipt_was_lost_comes_back_as_repeated(proxy: TcpProxy) -> None:
    async with store_on(through(proxy)) as store:
        await accepted(store, said(channel("elsewhere"), "m1"))
        proxy.cut_before_reply(b"EVALSHA")

        receipt = await accepted(store, said(HERE, "m1"))

        assert receipt.repeated
        assert receipt.position == 1


async def test_a_claim_whose_reply_is_lost_for_good_is_given_back_by_the_next_renewal(proxy: TcpProxy) -> None:
    async with store_on(through(proxy)) as store:
        await leased(store, channel("elsewhere"), "m1", owner="other")
        await accepted(store, said(HERE, "m1"))
        proxy.cut_before_reply(b"\r\nrun_", times=3)  # as an argument, not in the text of a script
        with pytest.raises(OutcomeUnknown):
            await store.claim(owner="w", limit=1, lease=LEASE)
        proxy.forward()
        assert (await store.counts()).active == 2
        assert await store.claim(owner="other", limit=1, lease=LEASE) == []

        await store.renew("w", [], lease=LEASE)

        [claim] = await store.claim(owner="other", limit=1, lease=LEASE)
        assert claim.deaths == 0


# ---------------------------------------------------------------- servers that do not answer


async def test_a_silent_server_leaves_the_outcome_unknown(proxy: TcpProxy) -> None:
    async with store_on(through(proxy), timeout=0.2) as store:
        await accepted(store, said(HERE, "m1"))
        proxy.blackhole()
        with pytest.raises(OutcomeUnknown, match="silent"):
            async with asyncio.timeout(PATIENCE):
                await store.accept([said(HERE, "m2")])

        proxy.forward()

        assert (await accepted(store, said(HERE, "m2"))).position == 2


async def test_a_server_that_is_down_is_unavailable_until_it_is_back(proxy: TcpProxy) -> None:
    async with store_on(through(proxy)) as store:
        await accepted(store, said(HERE, "m1"))
        await proxy.refuse()
        proxy.cut_all()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            await store.accept([said(HERE, "m2")])
        with pytest.raises(StoreUnavailable):
            await store.accept([said(HERE, "m2")])
        with pytest.raises(StoreUnavailable):
            await store.claim(owner="w", limit=1, lease=LEASE)
        await store.ready(queues=None, timeout=0.01)

        await proxy.accept()

        assert (await accepted(store, said(HERE, "m2"))).position == 2


@pytest.mark.usefixtures("redis_installed")
async def test_many_callers_share_the_tries_to_reach_a_server_that_is_down() -> None:
    """Else each waits for its turn behind all others, and the last one is told after minutes."""
    async with RedisServer() as server, TcpProxy(HOST, server.port) as proxy, store_on(through(proxy)) as store:
        await accepted(store, said(HERE, "m1"))
        server.kill9()
        before = proxy.connections

        ends = await asyncio.gather(*(store.thread(channel(f"c{n}")) for n in range(200)), return_exceptions=True)

        assert {type(end) for end in ends} <= {StoreUnavailable, OutcomeUnknown}
        assert proxy.connections - before <= 20


async def test_a_server_that_cannot_be_reached_at_the_start_is_unavailable(proxy: TcpProxy) -> None:
    await proxy.refuse()

    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        async with store_on(through(proxy)):
            pass


async def test_replies_in_pieces_are_put_together(proxy: TcpProxy) -> None:
    async with store_on(through(proxy)) as store:
        for cut_at in (1, 7, 40, 300):
            proxy.cut_after(cut_at)
            await accepted(store, said(HERE, f"m{cut_at}", "x" * 500))
        proxy.forward()
        assert len(await store.open_messages(HERE)) == 4


async def test_a_server_that_forgot_its_scripts_is_told_them_again(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url()) as store:
        await accepted(store, said(HERE, "m1"))
        redis_server.cli("SCRIPT", "FLUSH")

        receipts = await store.accept([said(channel(f"c{n}"), "m1") for n in range(20)])

        assert len(receipts) == 20


@pytest.mark.usefixtures("redis_installed")
async def test_a_killed_redis_comes_back_with_all_that_was_acknowledged() -> None:
    async with RedisServer(appendonly="always") as server, store_on(server.url(), timeout=1.0) as store:
        claim = await leased(store, HERE, "m1", "m2")
        await store.journal(claim, [{"n": 0, "kind": "note"}])
        await store.publish(claim, 0, [told("a"), told("b")])
        before = await store.read(HERE)
        server.kill9()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            await store.accept([said(HERE, "m3")])

        await asyncio.to_thread(server.start)

        assert await store.publish(claim, 2, [told("c")]) == before.top + 1
        after = await store.read(HERE)
        assert after.epoch != before.epoch
        assert [event.offset for event in after.events] == list(range(1, after.top + 1))
        assert (await store.commit(claim, answer(claim))).messages == 0
        assert [m.message_id for m in claim.messages] == ["m1", "m2"]


@pytest.mark.usefixtures("redis_installed")
async def test_a_restart_changes_the_epoch_once_for_all() -> None:
    async with RedisServer() as server, pair(server.url(), server.url()) as (one, other):
        await accepted(one, said(HERE, "m1"))
        first = (await other.read(HERE)).epoch

        await asyncio.to_thread(server.restart)

        second = (await one.read(HERE)).epoch
        assert second != first
        assert (await other.read(HERE)).epoch == second
        assert (await other.read(HERE)).events[0].epoch == second


async def test_an_event_has_the_same_epoch_for_a_sink_before_and_after_a_restart() -> None:
    """Receivers tell repeats by an id that is made of it."""
    async with RedisServer() as server, pair(server.url(), server.url()) as (one, other):
        partitions = await one.open_sink("webhook")
        await accepted(one, said(HERE, "m1"))

        async def waiting(store: RedisStore) -> list[Delivery]:
            pages = [await store.deliveries("webhook", n, after="", limit=10) for n in partitions]
            return [delivery for page in pages for delivery in page]

        before = await waiting(one)
        await asyncio.to_thread(server.restart)
        await accepted(one, said(HERE, "m2"))

        assert len(before) == 1
        for store in (one, other):
            first, second = await waiting(store)
            assert first == before[0]
            assert second.event.epoch == (await store.read(HERE)).epoch != first.event.epoch


_shared = map("shared {}:".format, count())


@asynccontextmanager
async def pair(url: str, other_url: str, **options: Any) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    """Two engines on one namespace, as two processes have them."""
    prefix = next(_shared)
    async with (
        store_on(url, prefix=prefix, **options) as one,
        store_on(other_url, prefix=prefix, **options) as other,
    ):
        yield one, other


# ---------------------------------------------------------------- a full server


@pytest.mark.usefixtures("redis_installed")
async def test_a_full_redis_refuses_senders_and_lets_runs_end() -> None:
    wide = Policies(Policy(window=0.0, max_inbox=100_000))
    async with RedisServer(maxmemory="6mb") as server, store_on(server.url(), policies=wide) as store:
        claims = [await leased(store, channel(f"run {n}"), "m1") for n in range(4)]
        held, stopped, given_back, done = claims
        accepted_before = await fill(store)
        server.cli("CONFIG", "SET", "maxmemory", "5mb")  # it is full for good, also when it frees a buffer
        before = replace(await store.counts(), oldest_wait=0)

        with pytest.raises(StoreFull):
            await store.accept([said(channel("new"), "m1", "x" * 10_000)])
        assert await store.thread(channel("new")) is None
        assert replace(await store.counts(), oldest_wait=0) == before  # what waits has waited longer

        kept = await store.renew("w", claims, lease=LEASE)
        assert [directive.held for directive in kept.values()] == [True] * 4
        assert (await store.reserve("run", 5, [Limit("day", 10, 60.0)], tenant="t")).outcome == "granted"
        assert await store.pace("model", requests=1, tokens=0, tokens_wanted=1) == 0.0
        await store.slow_down("model", 1.0)
        await store.journal(done, [{"n": 0, "kind": "note"}])
        assert await store.publish(done, 0, [told("x" * 10_000)] * 100) > 100
        assert (await store.commit(done, answer(done))).messages == 0
        await store.release(given_back)
        await store.hold(held, [], expires_in=60.0)
        assert await store.cancel(stopped.address) is True
        assert (await store.message(done.address, "m1")).status == "answered"  # type: ignore[union-attr]

        server.cli("CONFIG", "SET", "maxmemory", "100mb")
        assert (await accepted(store, said(channel("new"), "m1"))).position == 1
        stored = await store.open_messages(channel("flood"))
        assert [record.message_id for record in stored] == accepted_before


@pytest.mark.usefixtures("redis_installed")
async def test_a_full_redis_can_be_opened_and_emptied() -> None:
    async with RedisServer() as server, pair(server.url(), server.url()) as (one, _):
        await accepted(one, said(HERE, "m1"))
        server.cli("CONFIG", "SET", "maxmemory", "1mb")

        async with store_on(server.url(), prefix=one._keys.prefix) as late:
            with pytest.raises(StoreFull):
                await late.accept([said(HERE, "m2")])
            assert await late.cancel(HERE, drop_inbox=True) is False
            assert await late.forget(HERE)
            assert await late.thread(HERE) is None


@pytest.mark.usefixtures("redis_installed")
async def test_a_server_that_takes_no_writes_ends_no_lease() -> None:
    async with RedisServer() as server, store_on(server.url(), partitions=1) as store:
        claim = await leased(store, HERE, "m1")
        server.cli("CONFIG", "SET", "min-replicas-to-write", 1)
        with pytest.raises(StoreUnavailable, match="no writes"):
            await store.renew("w", [claim], lease=LEASE)

        server.cli("CONFIG", "SET", "min-replicas-to-write", 0)

        [directive] = (await store.renew("w", [claim], lease=LEASE)).values()
        assert directive.held


async def fill(store: Any) -> list[str]:
    """Send until the server takes no more; the ids that it took."""
    taken: list[str] = []
    for n in range(100_000):
        try:
            await accepted(store, said(channel("flood"), f"f{n}", "x" * 10_000))
        except StoreFull:
            return taken
        taken.append(f"f{n}")
    raise AssertionError("the server never became full")


# ---------------------------------------------------------------- several engines on one server


async def test_a_stale_claim_is_refused_by_another_process_too(redis_server: RedisServer) -> None:
    clock = FakeClock()
    url = redis_server.url()
    async with pair(url, url, clock=clock) as (one, other):
        stale = await leased(one, HERE, "m1", owner="one")
        clock.advance(LEASE + 1)
        [current] = await other.claim(owner="two", limit=1, lease=LEASE)
        with pytest.raises(LeaseLost):
            await one.commit(stale, answer(stale))
        with pytest.raises(LeaseLost):
            await one.publish(stale, 0, [told("late")])

        await other.commit(current, answer(current))

        assert len((await one.history(HERE)).entries) == 2


async def test_a_worker_in_another_process_hears_what_becomes_due(redis_server: RedisServer) -> None:
    url = redis_server.url()
    async with pair(url, url) as (one, other), asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        waits = group.create_task(other.ready(queues=["q"], timeout=3600.0))
        await hears(other)
        await accepted(one, said(HERE, "m1"))
        await waits


async def test_a_worker_in_another_process_is_nudged(redis_server: RedisServer) -> None:
    async with pair(redis_server.url(), redis_server.url()) as (one, other):
        await leased(other, HERE, "m1", owner="two")

        await one.cancel(HERE)

        async with asyncio.timeout(PATIENCE):
            assert await other.wait_nudge("two", timeout=3600.0) == {HERE}


async def hears(store: Any) -> None:
    """Return when the store hears hints."""
    while store._hints is None or not store._hints._has_begun:
        await asyncio.sleep(0.01)


# ---------------------------------------------------------------- followers


async def test_events_come_with_their_notice(redis_server: RedisServer) -> None:
    url = redis_server.url()
    async with pair(url, url) as (one, other), asyncio.timeout(PATIENCE), other.follow() as follower:
        await follower.add(HERE)
        claim = await leased(one, HERE, "m1")
        await one.publish(claim, 0, [told("a"), told("b")])

        heard = [event async for event in first(follower, 4)]

        kinds = [(event.offset, event.kind, event.text) for event in heard]
        assert kinds == [(1, "accepted", "hello"), (2, "started", ""), (3, "delta", "a"), (4, "delta", "b")]
        assert heard == list((await other.read(HERE)).events)


async def first(follower: Any, count: int) -> AsyncIterator[Event]:
    """The first events that a follower hears."""
    async for notice in follower:
        for event in notice.events:
            yield event
            count -= 1
        if count <= 0:
            return


async def test_after_a_lost_connection_followers_are_asked_to_read(redis_server: RedisServer, proxy: TcpProxy) -> None:
    url = redis_server.url()
    async with pair(url, through(proxy)) as (one, other), asyncio.timeout(PATIENCE), other.follow() as follower:
        for name in ("a", "b"):
            await follower.add(channel(name))
        proxy.cut_all()

        asked = set()
        async for notice in follower:
            assert notice.events == ()
            asked.add(notice.address.channel)
            if asked == {"a", "b"}:
                break
        await until_whole(other)
        await accepted(one, said(channel("a"), "m1"))

        assert [event.kind async for event in first(follower, 1)] == ["accepted"]


async def until_whole(store: Any) -> None:
    while not await store._subscriptions.tend():
        await asyncio.sleep(0.01)


async def test_followers_poll_while_nothing_can_be_heard(redis_server: RedisServer, proxy: TcpProxy) -> None:
    async with store_on(through(proxy)) as store:
        await accepted(store, said(HERE, "m1"))
        await proxy.refuse()
        async with asyncio.timeout(PATIENCE), store.follow() as follower:
            await follower.add(HERE)

            async for notice in follower:
                assert (notice.address, notice.events) == (HERE, ())
                break


async def test_a_thread_id_is_followed_by_its_own_name(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url()) as store:
        receipt = await accepted(store, said(HERE, "m1"))
        named = channel(receipt.thread_id)
        async with asyncio.timeout(PATIENCE), store.follow() as follower:
            await follower.add(named)
            await accepted(store, said(HERE, "m2"))

            async for notice in follower:
                assert notice.address == named
                break
