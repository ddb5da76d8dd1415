"""The outbox: what must reach the outside, at least once and in channel order."""

from __future__ import annotations

import pytest

from turnkeep.errors import LeaseLost, NotFound
from turnkeep.store.base import Delivery
from turnkeep.testing.suite.desk import HERE, LEASE, Desk, Start, at, delta


async def drain(desk: Desk, sink: str = "relay", owner: str = "a", limit: int = 100) -> list[Delivery]:
    """Deliver all that is owed to a sink."""
    found: list[Delivery] = []
    for partition in await desk.store.open_sink(sink):
        position = await desk.store.lease_sink(sink, partition, owner=owner, lease=LEASE)
        assert position is not None
        while page := await desk.store.deliveries(sink, partition, after=position, limit=limit):
            assert len(page) <= limit
            found += page
            position = page[-1].position
            await desk.store.delivered(sink, partition, owner=owner, position=position)
    return found


class DeliveryPromises:
    async def test_a_sink_gets_every_event_in_channel_order(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay")
        places = [at(f"c{n}") for n in range(5)]
        for where in places:
            claim = await desk.lease("m1", where=where)
            await desk.store.publish(claim, 0, [delta("a"), delta("b")])
            await desk.commit(claim)

        found = await drain(desk, limit=3)

        for where in places:
            mine = [delivery for delivery in found if delivery.address == where]
            assert [delivery.event for delivery in mine] == await desk.events(where)
            assert {delivery.thread_id for delivery in mine} == {(await desk.thread(where)).thread_id}

    async def test_positions_rise_within_a_partition(self, start: Start) -> None:
        desk = await start()
        partitions = await desk.store.open_sink("relay")
        for n in range(20):
            await desk.say("m1", where=at(f"c{n}"))

        for partition in partitions:
            page = await desk.store.deliveries("relay", partition, after="", limit=1000)
            positions = [delivery.position for delivery in page]
            assert positions == sorted(set(positions))

    async def test_a_sink_begins_with_what_happens_after_it_was_opened(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("first")
        await desk.say("before")
        await desk.store.open_sink("second")
        await desk.say("after")

        assert [d.event.message_ids for d in await drain(desk, "first")] == [("before",), ("after",)]
        assert [d.event.message_ids for d in await drain(desk, "second")] == [("after",)]

    async def test_opening_a_sink_again_keeps_its_position(self, start: Start) -> None:
        desk = await start()
        first = await desk.store.open_sink("relay")
        await desk.say("m1")
        await drain(desk)
        await desk.say("m2")

        assert await desk.store.open_sink("relay") == first

        assert [d.event.message_ids for d in await drain(desk)] == [("m2",)]

    async def test_what_was_not_confirmed_is_delivered_again(self, start: Start) -> None:
        desk = await start()
        partitions = await desk.store.open_sink("relay")
        await desk.say("m1")
        for _ in range(2):
            pages = [await desk.store.deliveries("relay", p, after="", limit=10) for p in partitions]
            assert [d.event.message_ids for page in pages for d in page] == [("m1",)]

        assert len(await drain(desk)) == 1
        assert await drain(desk) == []

    async def test_a_partition_is_delivered_by_one_owner_at_a_time(self, start: Start) -> None:
        desk = await start()
        partition = (await desk.store.open_sink("relay"))[0]

        assert await desk.store.lease_sink("relay", partition, owner="a", lease=LEASE) == ""
        assert await desk.store.lease_sink("relay", partition, owner="b", lease=LEASE) is None
        await desk.wait(LEASE - 1)
        assert await desk.store.lease_sink("relay", partition, owner="a", lease=LEASE) == ""
        await desk.wait(LEASE - 1)
        assert await desk.store.lease_sink("relay", partition, owner="b", lease=LEASE) is None
        await desk.wait(1)
        assert await desk.store.lease_sink("relay", partition, owner="b", lease=LEASE) == ""

    async def test_the_next_owner_goes_on_from_the_stored_position(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay")
        await desk.say("m1")
        await drain(desk, owner="a")
        await desk.say("m2")
        await desk.wait(LEASE)

        assert [d.event.message_ids for d in await drain(desk, owner="b")] == [("m2",)]

    async def test_an_owner_that_lost_its_lease_stores_no_position(self, start: Start) -> None:
        desk = await start()
        partitions = await desk.store.open_sink("relay")
        await desk.say("m1")
        for partition in partitions:
            await desk.store.lease_sink("relay", partition, owner="a", lease=LEASE)
        await desk.wait(LEASE)
        for partition in partitions:
            await desk.store.lease_sink("relay", partition, owner="b", lease=LEASE)
            page = await desk.store.deliveries("relay", partition, after="", limit=10)
            for delivery in page:
                with pytest.raises(LeaseLost):
                    await desk.store.delivered("relay", partition, owner="a", position=delivery.position)

        assert len(await drain(desk, owner="b")) == 1

    async def test_a_repeated_confirmation_changes_nothing(self, start: Start) -> None:
        desk = await start()
        partitions = await desk.store.open_sink("relay")
        await desk.say("m1")
        await desk.say("m2")
        for partition in partitions:
            await desk.store.lease_sink("relay", partition, owner="a", lease=LEASE)
            page = await desk.store.deliveries("relay", partition, after="", limit=10)
            for delivery in [*page, *page[:1]]:
                await desk.store.delivered("relay", partition, owner="a", position=delivery.position)

        assert await drain(desk) == []

    async def test_sinks_are_independent(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("one")
        await desk.store.open_sink("two")
        await desk.say("m1")

        assert len(await drain(desk, "one")) == 1
        assert await drain(desk, "one") == []
        assert len(await drain(desk, "two")) == 1

    async def test_a_closed_sink_is_forgotten(self, start: Start) -> None:
        desk = await start()
        partition = (await desk.store.open_sink("relay"))[0]
        await desk.say("m1")
        await desk.store.close_sink("relay")
        await desk.store.close_sink("relay")

        with pytest.raises(NotFound):
            await desk.store.lease_sink("relay", partition, owner="a", lease=LEASE)
        assert await drain(desk) == []

    async def test_a_sink_that_was_never_opened_is_not_found(self, start: Start) -> None:
        desk = await start()

        with pytest.raises(NotFound):
            await desk.store.lease_sink("unknown", 0, owner="a", lease=LEASE)

    async def test_the_outbox_keeps_what_the_log_has_dropped(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay")
        await desk.commit(await desk.lease("m1"))
        events = await desk.events()
        await desk.wait(100_000)
        await desk.store.expire()

        assert [d.event for d in await drain(desk)] == events
        assert await desk.kinds(HERE) == ["completed"]
