"""The outbox: what must reach the outside, at least once and in channel order."""

from __future__ import annotations

import pytest

from tests.contract.suite.desk import HERE, LEASE, Desk, Start, at, delta
from turnkeep.errors import LeaseLost, NotFound
from turnkeep.messages import Address
from turnkeep.store.sinks import Delivery, ParkedEvent, Selection


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
            await desk.store.mark_delivered(sink, partition, owner=owner, position=position)
    return found


async def owed(desk: Desk, sink: str = "relay") -> dict[int, list[Delivery]]:
    """What waits for a sink, by partition; each is leased to "a"."""
    found = {}
    for partition in await desk.store.open_sink(sink):
        position = await desk.store.lease_sink(sink, partition, owner="a", lease=LEASE)
        found[partition] = await desk.store.deliveries(sink, partition, after=position or "", limit=1000)
    return {partition: page for partition, page in found.items() if page}


async def park_all(desk: Desk, reason: str = "", sink: str = "relay") -> list[tuple[int, Delivery]]:
    """Park all that waits."""
    pages = await owed(desk, sink)
    for partition, page in pages.items():
        places = [(one.position, reason) for one in page]
        for _ in range(2):  # a repeat changes nothing
            await desk.store.mark_delivered(sink, partition, owner="a", position=page[-1].position, to_park=places)
    return [(partition, one) for partition, page in pages.items() for one in page]


async def parked(desk: Desk, sink: str = "relay") -> list[ParkedEvent]:
    return [one for n in await desk.store.open_sink(sink) for one in await desk.store.list_parked(sink, n)]


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
                    await desk.store.mark_delivered("relay", partition, owner="a", position=delivery.position)

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
                await desk.store.mark_delivered("relay", partition, owner="a", position=delivery.position)

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

    # ---------------------------------------------------------------- selecting

    async def test_a_sink_gets_what_it_selects_and_nothing_else(self, start: Start) -> None:
        desk = await start()
        own, other_queue, other_tenant = at(), at(queue="other"), at(tenant="acme")
        for name, selection in {
            "all": Selection(),
            "queue": Selection(queue=HERE.queue),
            "tenant": Selection(tenant="acme"),
            "finals": Selection(finals=True),
            "one": Selection(HERE.tenant, HERE.queue, finals=True),
        }.items():
            await desk.store.open_sink(name, selection)
        for where in (own, other_queue, other_tenant):
            claim = await desk.lease("m1", where=where)
            await desk.store.publish(claim, 0, [delta("a")])
            await desk.commit(claim)

        async def places(sink: str) -> set[tuple[Address, bool]]:
            found = []
            for partition in range(len(partitions)):
                found += await desk.store.deliveries(sink, partition, after="", limit=1000)
            return {(one.address, one.event.is_final) for one in found}

        partitions = await desk.store.open_sink("all")
        both = {True, False}
        assert await places("all") == {(where, final) for where in (own, other_queue, other_tenant) for final in both}
        assert await places("queue") == {(where, final) for where in (own, other_tenant) for final in both}
        assert await places("tenant") == {(other_tenant, final) for final in both}
        assert await places("finals") == {(where, True) for where in (own, other_queue, other_tenant)}
        assert await places("one") == {(own, True)}

    async def test_opening_a_sink_again_changes_what_it_selects_from_then_on(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay", Selection(finals=True))
        await desk.say("m1")
        await desk.store.open_sink("relay", Selection())
        await desk.say("m2")

        assert [d.event.message_ids for d in await drain(desk)] == [("m2",)]

    # ---------------------------------------------------------------- parking

    async def test_what_is_parked_is_out_of_the_way_and_kept_in_order(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay")
        for n in range(4):
            await desk.say(f"m{n}")
        events = await desk.events()

        [(partition, first), *others] = await park_all(desk)

        assert await owed(desk) == {}
        assert [(one.position, one.offset, one.address) for one in await parked(desk)] == [
            (one.position, one.event.offset, HERE) for one in (first, *(other for _, other in others))
        ]
        positions = [one.position for one in await parked(desk)]
        found = await desk.store.parked_deliveries("relay", partition, [*reversed(positions), "9" * 15 + "-0000000001"])
        assert [one.event for one in found] == events
        assert (
            await desk.store.list_parked("relay", partition, after=positions[1], limit=1) == (await parked(desk))[2:3]
        )

    async def test_only_the_owner_parks(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay")
        await desk.say("m1")
        [(partition, [one])] = (await owed(desk)).items()

        with pytest.raises(LeaseLost):
            await desk.store.mark_delivered(
                "relay", partition, owner="b", position=one.position, to_park=[(one.position, "no")]
            )

        assert await parked(desk) == []
        assert len(await drain(desk)) == 1

    async def test_a_failure_counts_from_the_first_time(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay")
        await desk.say("m1")
        [(partition, one)] = await park_all(desk)
        [waiting] = await parked(desk)
        assert (waiting.failed_at, waiting.reason, waiting.is_given_up) == (None, "", False)
        since = desk.now
        for reason, give_up in (("500", False), ("404", True)):
            await desk.store.note_failure("relay", partition, one.position, reason=reason, give_up=give_up)
            await desk.wait(60.0)

        [failed] = await parked(desk)

        assert failed.failed_at == pytest.approx(since)
        assert (failed.reason, failed.is_given_up) == ("404", True)
        assert await desk.store.redrive_parked("relay", partition, [one.position, "unknown"]) == 1
        assert await parked(desk) == [waiting]

    async def test_what_the_receiver_failed_on_is_parked_with_the_reason(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay")
        await desk.say("m1")

        await park_all(desk, "the receiver answered 500")

        [failed] = await parked(desk)
        assert failed.failed_at == pytest.approx(desk.now)
        assert failed.reason == "the receiver answered 500"

    async def test_what_is_unparked_is_gone(self, start: Start) -> None:
        desk = await start()
        await desk.store.open_sink("relay")
        await desk.say("m1")
        await desk.say("m2")
        [(partition, one), _] = await park_all(desk)

        assert await desk.store.unpark("relay", partition, [one.position]) == 1
        assert await desk.store.unpark("relay", partition, [one.position]) == 0

        assert [left.offset for left in await parked(desk)] == [one.event.offset + 1]

    async def test_a_sink_says_how_it_stands(self, start: Start) -> None:
        desk = await start()
        assert await desk.store.sinks() == []
        await desk.store.open_sink("relay")
        await desk.store.open_sink("another")
        at_first = desk.now
        for where in (at("c1"), at("c2")):
            await desk.say("m1", where=where)
        [(partition, one), _] = await park_all(desk)
        await desk.store.note_failure("relay", partition, one.position, reason="no", give_up=True)
        await desk.wait(5.0)
        later = desk.now
        await desk.say("m2", where=at("c3"))

        another, relay = await desk.store.sinks()

        assert (another.name, another.waiting) == ("another", 3)
        assert (relay.name, relay.waiting) == ("relay", 1)
        assert another.oldest_at == pytest.approx(at_first)
        assert relay.oldest_at == pytest.approx(later)
        assert (relay.parked, relay.given_up, relay.lost, relay.lost_at) == (2, 1, 0, None)
        await desk.store.close_sink("relay")
        assert [record.name for record in await desk.store.sinks()] == ["another"]
        assert await parked(desk) == []

    async def test_nothing_is_parked_of_a_sink_that_is_not_open(self, start: Start) -> None:
        desk = await start()
        store = desk.store

        for operation in (
            store.list_parked("unknown", 0),
            store.parked_deliveries("unknown", 0, ["1"]),
            store.note_failure("unknown", 0, "1", reason="no", give_up=False),
            store.redrive_parked("unknown", 0, ["1"]),
            store.unpark("unknown", 0, ["1"]),
        ):
            with pytest.raises(NotFound):
                await operation
