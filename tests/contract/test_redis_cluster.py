"""The Redis engine on a real cluster of three nodes, with slots that move while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from redis.crc import key_slot

from tests.contract.redis_desk import LEASE, accepted, answer, channel, leased, said, store_on
from tests.contract.store_suite import StoreSuite
from tests.contract.suite.claiming import ClaimPromises
from tests.contract.suite.delivering import DeliveryPromises
from tests.contract.suite.engine import EnginePromises
from tests.patience import PATIENCE, until
from tests.services import RedisCluster
from turnkeep.errors import OutcomeUnknown, Rejection, StoreUnavailable
from turnkeep.events import Event
from turnkeep.store.contract import Store
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import Policies
from turnkeep.testing import FakeClock, counting_ids

Size = Callable[[int, int], int]

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.xdist_group("redis cluster")]


@pytest.fixture(scope="module")
def cluster(redis_installed: str) -> Iterator[RedisCluster]:
    with RedisCluster(program=redis_installed) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def store(cluster: RedisCluster) -> AsyncIterator[RedisStore]:
    async with store_on(cluster.url()) as store:
        yield store


def slot_of(store: RedisStore, where: Any) -> int:
    return key_slot(store._keys.partition(where).tag)


def other_node(cluster: RedisCluster, slot: int) -> int:
    return (cluster.owner(slot) + 1) % 3


@pytest.mark.daily(ClaimPromises, DeliveryPromises, EnginePromises, rows=4, turn=3)  # most to do with several servers
class TestOnCluster(StoreSuite):
    """The contract, as on one server."""

    namespaces = count()

    @pytest.fixture(autouse=True)
    def on(self, cluster: RedisCluster) -> None:
        self.url = cluster.url()

    async def make(self, policies: Policies, clock: FakeClock) -> Store:
        prefix = f"test {next(self.namespaces)}:"
        store = RedisStore(self.url, policies, prefix=prefix, ids=counting_ids(), now=clock)
        await store.open()
        return store


async def test_the_cluster_is_noticed(store: RedisStore) -> None:
    told = await store.check()

    assert told["topology"] == "cluster"


async def test_partitions_lie_on_all_nodes(store: RedisStore, cluster: RedisCluster) -> None:
    owners = {cluster.owner(key_slot(partition.tag)) for partition in store._keys.partitions}

    assert owners == {0, 1, 2}


async def test_a_moved_slot_is_followed(store: RedisStore, cluster: RedisCluster) -> None:
    here = channel("here")
    claim = await leased(store, here, "m1")
    await store.publish(claim, 0, [Event("delta", text="a")])
    slot = slot_of(store, here)

    await asyncio.to_thread(cluster.move_slot, slot, other_node(cluster, slot))

    await store.publish(claim, 1, [Event("delta", text="b")])
    assert (await store.commit(claim, answer(claim))).messages == 0
    offsets = [event.offset for event in (await store.read(here)).events]
    assert offsets == list(range(1, len(offsets) + 1))


async def test_who_does_not_know_of_a_move_is_sent_there(cluster: RedisCluster) -> None:
    async with store_on(cluster.url(), prefix="told:") as one, store_on(cluster.url(), prefix="told:") as other:
        here = channel("here")
        await accepted(one, said(here, "m1"))
        await accepted(other, said(here, "m2"))
        slot = slot_of(one, here)
        await asyncio.to_thread(cluster.move_slot, slot, other_node(cluster, slot))

        assert (await accepted(one, said(here, "m3"))).position == 3
        assert (await accepted(other, said(here, "m4"))).position == 4


async def test_a_slot_on_the_move_waits_for_its_end_and_others_do_not(store: RedisStore, cluster: RedisCluster) -> None:
    here = channel("here")
    await accepted(store, said(here, "m1"))
    slot = slot_of(store, here)
    elsewhere = next(channel(f"c{n}") for n in range(100) if slot_of(store, channel(f"c{n}")) != slot)
    new = other_node(cluster, slot)
    await asyncio.to_thread(cluster.open_slot, slot, new)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        waits = group.create_task(accepted(store, said(here, "m2")))
        await accepted(store, said(elsewhere, "m1"))
        [claim] = await store.claim(owner="w", limit=10, lease=LEASE)
        assert claim.address == elsewhere
        assert not waits.done()
        await asyncio.to_thread(cluster.move_keys, slot, new)
        await asyncio.to_thread(cluster.close_slot, slot, new)
        receipt = await waits

    assert receipt.position == 2


async def test_followers_hear_from_the_node_that_has_the_slot(store: RedisStore, cluster: RedisCluster) -> None:
    here = channel("here")
    async with asyncio.timeout(PATIENCE), store.follow() as follower:
        await follower.add(here)
        slot = slot_of(store, here)
        await asyncio.to_thread(cluster.move_slot, slot, other_node(cluster, slot))
        told = aiter(follower)
        assert (await anext(told)).events == ()
        while not await store._subscriptions.tend():
            await asyncio.sleep(0.01)

        await accepted(store, said(here, "m1"))

        while not (notice := await anext(told)).events:
            pass
        assert [event.kind for event in notice.events] == ["accepted"]


async def test_nothing_is_lost_or_doubled_while_slots_move(cluster: RedisCluster, size: Size) -> None:
    """Senders and workers go on while every partition moves to another node."""
    rounds, threads = size(1, 4), 24
    async with store_on(cluster.url()) as store:
        sent: dict[str, list[str]] = {f"c{n}": [] for n in range(threads)}
        stop = asyncio.Event()
        async with asyncio.timeout(300), asyncio.TaskGroup() as group:
            group.create_task(keep_sending(store, sent, stop))
            for n in range(2):
                group.create_task(keep_answering(store, f"w{n}", stop))
            for _ in range(rounds):
                for partition in store._keys.partitions:
                    slot = key_slot(partition.tag)
                    await asyncio.to_thread(cluster.move_slot, slot, other_node(cluster, slot))
            stop.set()
        while (await store.counts()).open_messages:
            await answer_all(store, "w0")
        for name, ids in sent.items():
            entries = (await store.history(channel(name))).entries
            answered = [entry.item.message_id for entry in entries if entry.item.kind == "user"]  # type: ignore[union-attr]
            assert answered == ids
        assert sum(map(len, sent.values())) > 0


async def keep_sending(store: RedisStore, sent: dict[str, list[str]], stop: asyncio.Event) -> None:
    """One message after another to each channel, in order; what is not acknowledged is sent again."""
    turn = 0
    while not stop.is_set():
        for name, ids in sent.items():
            message_id = f"{name}-{turn}"
            await until_acknowledged(store, name, message_id)
            ids.append(message_id)
        turn += 1
        await asyncio.sleep(0.02)


async def until_acknowledged(store: RedisStore, name: str, message_id: str) -> None:
    """Send it until it is acknowledged, as a client does. Raises TimeoutError with what refused it last."""
    refusal: Exception | None = None

    async def is_acknowledged() -> bool:
        nonlocal refusal
        try:
            [outcome] = await store.accept([said(channel(name), message_id)])
        except (StoreUnavailable, OutcomeUnknown) as error:
            refusal = error
            return False
        assert not isinstance(outcome, Rejection)
        return True

    try:
        await until(is_acknowledged)
    except TimeoutError as error:
        raise TimeoutError(f"{message_id} is not acknowledged, last: {refusal!r}") from error


async def keep_answering(store: RedisStore, owner: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await answer_all(store, owner)
        await asyncio.sleep(0.01)


async def answer_all(store: RedisStore, owner: str) -> None:
    try:
        for claim in await store.claim(owner=owner, limit=50, lease=LEASE):
            await store.publish(claim, 0, [Event("delta", text="a")])
            await store.commit(claim, answer(claim))
        await store.renew(owner, [], lease=LEASE)
    except (StoreUnavailable, OutcomeUnknown):
        await store.renew(owner, [], lease=LEASE)
