"""Who subscribes while others come and go on the same channel misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.patience import until
from tests.scenario.house import opened
from turnkeep.events import Event
from turnkeep.hub import Hub
from turnkeep.messages import Address
from turnkeep.store.contract import Follower, Store
from turnkeep.store.values import Notice
from turnkeep.streams import EventStream
from turnkeep.subscription import SubscriptionStart


class _Slow:
    """A follower whose `add` and `discard` take until they are let go, as over a network."""

    def __init__(self, inner: Follower) -> None:
        self.inner = inner
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.deaf = False

    async def _pass(self) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1

    async def add(self, address: Address) -> None:
        await self._pass()
        await self.inner.add(address)

    async def discard(self, address: Address) -> None:
        await self._pass()
        await self.inner.discard(address)

    async def __aiter__(self) -> AsyncIterator[Notice]:
        async for notice in self.inner:
            if not self.deaf:
                yield notice


class _Store:
    """A store whose follower can be held up."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.follower: _Slow | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[_Slow]:
        async with self._inner.follow() as inner:
            self.follower = _Slow(inner)
            yield self.follower


@asynccontextmanager
async def running(store: _Store) -> AsyncIterator[Hub]:
    hub = Hub(store)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hub.run())
        yield hub
        task.cancel()


async def test_who_subscribes_while_the_last_other_one_leaves_hears_everything(store: str) -> None:
    async with opened(store) as house:
        held = _Store(house.queue.store)
        async with running(held) as hub:
            first = EventStream(hub, house.queue.store, house.address("c"))
            await first.__aenter__()
            assert held.follower is not None
            held.follower.gate.clear()
            second = EventStream(hub, house.queue.store, house.address("c"))
            coming = asyncio.create_task(second.__aenter__())
            await until(lambda: held.follower.waiting == 1)
            leaving = asyncio.create_task(first.__aexit__())
            await asyncio.sleep(0)
            held.follower.gate.set()
            await asyncio.gather(coming, leaving)
            receipt = await house.send("c", "hello")
            seen = await house.settled(second, receipt.message_id)
            assert seen[-1].is_final
            await second.__aexit__()
            assert hub.channels == 0


async def test_a_channel_that_begins_anew_is_told_from_its_first_event_even_if_hints_were_lost(store: str) -> None:
    async with opened(store) as house:
        held = _Store(house.queue.store)
        async with running(held) as hub:
            await house.queue.ask("c", "before")
            async with EventStream(hub, house.queue.store, house.address("c"), after=0) as stream:
                assert held.follower is not None
                await house.queue.store.forget(house.address("c"))
                held.follower.deaf = True
                await house.queue.ask("c", "unheard")
                held.follower.deaf = False
                receipt = await house.send("c", "heard")
                seen = await house.settled(stream, receipt.message_id)
            anew = [event.offset for event in seen if event.epoch == seen[-1].epoch]
            assert anew == list(range(1, len(anew) + 1))


class _Broken:
    """A subscriber with a bug."""

    def on_subscription(self, address: Address, begun: SubscriptionStart) -> None: ...

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        raise ValueError("a bug of one subscriber")

    async def wait_for_room(self, address: Address) -> None: ...


async def test_a_subscriber_that_breaks_ends_nobody_else(store: str) -> None:
    async with opened(store) as house:
        await house.queue.hub.subscribe(house.address("c"), _Broken())
        async with house.stream("c") as stream:
            receipt = await house.send("c", "hello")
            seen = await house.settled(stream, receipt.message_id)
        assert seen[-1].outcome == "completed"
        assert house.queue.hub.subscribers == 0


async def test_who_came_before_the_first_event_and_returns_gets_all_of_them(store: str) -> None:
    async with opened(store) as house:
        async with house.stream("c") as stream:
            before = stream.subscription_start
        receipt = await house.send("c", "hello")
        async with house.stream("c", after=before.start, epoch=before.epoch) as stream:
            seen = await house.settled(stream, receipt.message_id)
            assert stream.subscription_start.is_recovered
        assert (before.epoch, before.start) == ("", 0)
        assert seen[0].offset == 1
