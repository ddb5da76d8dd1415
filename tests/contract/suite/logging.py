"""The log of a channel: positions, bounds, and following it without holes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.contract.suite.desk import CHANNEL, HERE, LEASE, Desk, Start, at, delta, give_up, retry
from tests.patience import PATIENCE
from turnkeep.errors import LeaseLost
from turnkeep.events import Answer, CallDetail, Detail, Event, EventKind, FileDetail, ResultDetail, StepDetail
from turnkeep.messages import Address, Citation
from turnkeep.store.contract import EventGap, Follower, Store
from turnkeep.store.log_bounds import TRIM_EVERY
from turnkeep.store.values import Policy, Publication
from turnkeep.usage import Usage


def deltas(count: int, first: int = 0) -> list[Event]:
    return [delta(f"<{n}>") for n in range(first, first + count)]


def texts(count: int) -> list[str]:
    return [event.text for event in deltas(count)]


def beside_text(run_id: str) -> list[Event]:
    """One event of each kind that a turn shows beside its text."""
    details: list[tuple[EventKind, Detail]] = [
        ("tool_call", CallDetail("c1", "look", '{"a": "ü"}', is_cut=True)),
        ("tool_result", ResultDetail("c1", "look", "error", "saw\n5")),
        ("tool_call", CallDetail("ws_1", "web_search", by_provider=True)),
        ("source", Citation(1, 4, "https://a.example", "A", "quoted", "file_1")),
        ("file", FileDetail("data:image/png;base64,AA", "image/png", "a.png")),
        ("step", StepDetail(1)),
    ]
    events = [Event(kind, run_id=run_id, attempt=1, detail=detail, place=7) for kind, detail in details]
    end = StepDetail(1, "calls", "model-1")
    thought = Event("reasoning", text="hm 😀", run_id=run_id, attempt=1)
    return [thought, *events, Event("step", run_id=run_id, attempt=1, detail=end, usage=Usage(1, 10), place=9)]


class Reader:
    """A subscriber that does it right: follow, then read, then fill every hole by the offset."""

    def __init__(self, store: Store, address: Address, follower: Follower) -> None:
        self._store = store
        self._address = address
        self._follower = follower
        self.events: list[Event] = []

    async def catch_up(self) -> None:
        after = self.events[-1].offset if self.events else 0
        page = await self._store.read(self._address, after=after, limit=100_000)
        self.events += page.events

    async def until(self, kind: str) -> None:
        """Read on until an event of this kind has come."""
        async with asyncio.timeout(PATIENCE):
            while not any(event.kind == kind for event in self.events):
                notice = await anext(aiter(self._follower))
                await self._take(notice.events)

    async def _take(self, events: tuple[Event, ...]) -> None:
        if not events:
            await self.catch_up()
        for event in events:
            top = self.events[-1].offset if self.events else 0
            if event.offset > top + 1:
                await self.catch_up()
            elif event.offset == top + 1:
                self.events.append(event)


@asynccontextmanager
async def reading(desk: Desk, address: Address = HERE) -> AsyncIterator[Reader]:
    async with desk.store.follow() as follower:
        await follower.add(address)
        reader = Reader(desk.store, address, follower)
        await reader.catch_up()
        yield reader


class LogPromises:
    async def test_offsets_rise_by_one_within_one_epoch(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(3))
        await desk.commit(claim)
        await desk.say("m2")

        page = await desk.store.read(HERE)

        assert [event.offset for event in page.events] == list(range(1, 8))
        assert {event.epoch for event in page.events} == {page.epoch}
        assert page.epoch
        assert (page.top, page.floor) == (7, 0)
        assert (await desk.thread()).top == 7

    async def test_a_log_is_read_from_an_offset_and_in_pages(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(10))
        seen: list[int] = []
        while (page := await desk.store.read(HERE, after=seen[-1] if seen else 0, limit=5)).events:
            assert len(page.events) <= 5
            assert page.top == 12
            seen += [event.offset for event in page.events]

        assert seen == list(range(1, 13))
        assert (await desk.store.read(HERE, after=12)).events == ()
        assert (await desk.store.read(HERE, after=500)).events == ()

    async def test_an_unknown_channel_has_no_epoch_and_no_events(self, start: Start) -> None:
        desk = await start()

        page = await desk.store.read(HERE)

        assert (page.epoch, page.top, page.floor, page.live_from, page.events) == ("", 0, 0, None, ())
        assert await desk.store.thread(HERE) is None

    async def test_a_new_thread_on_the_same_channel_has_another_epoch(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        first = (await desk.store.read(HERE)).epoch
        await desk.store.forget(HERE, force=True)
        await desk.say("m2")

        page = await desk.store.read(HERE)

        assert page.epoch != first
        assert page.top == 1

    async def test_what_is_published_is_told_as_it_was(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        events = [
            Event("processing", run_id=claim.run_id, attempt=1, tools=("a", "b")),
            Event("responding", ("m1",), run_id=claim.run_id, attempt=1),
            Event("delta", text="grüß 😀\u2028", run_id=claim.run_id, attempt=1),
            *beside_text(claim.run_id),
        ]
        top = await desk.store.publish(claim, 0, events)

        told = await desk.events(after=2)

        assert top == 2 + len(events)
        assert [event.at_position(0, "", 0.0) for event in told] == events
        assert {event.at for event in told} == {desk.now}

    async def test_a_repeated_publication_is_dropped(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        assert await desk.store.publish(claim, 0, deltas(2)) == 4
        assert await desk.store.publish(claim, 0, deltas(2)) == 4
        assert await desk.store.publish(claim, 0, deltas(3)) == 5
        assert await desk.store.publish(claim, 1, deltas(1, 1)) == 5
        assert await desk.store.publish(claim, 3, deltas(1, 3)) == 6

        assert [event.text for event in await desk.events(after=2)] == ["<0>", "<1>", "<2>", "<3>"]

    async def test_a_gap_in_what_is_published_is_refused(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(2))

        with pytest.raises(ValueError, match="event"):
            await desk.store.publish(claim, 3, deltas(1))

        assert (await desk.store.read(HERE)).top == 4

    async def test_nothing_published_tells_the_top(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")

        assert await desk.store.publish(claim, 0, []) == 2

    async def test_each_claim_counts_its_events_from_zero(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(3))
        await desk.store.fail(claim, retry(0.0))
        claim = await desk.claim()

        await desk.store.publish(claim, 0, [delta("again")])

        assert (await desk.last_event()).text == "again"

    async def test_a_new_attempt_is_live_from_its_own_start(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(3))
        await desk.wait(LEASE)
        await desk.claim()

        page = await desk.store.read(HERE)

        assert page.live_from == page.top
        assert page.events[-1].kind == "started"
        assert page.events[-1].attempt == 2

    async def test_the_text_so_far_is_folded_from_the_log_however_long_it_is(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, log_events=50))
        claim = await desk.lease("m1")
        for n in range(0, 400, 20):
            await desk.store.publish(claim, n, deltas(20, n))
        await desk.store.expire()

        page = await desk.store.read(HERE, limit=100_000)

        answer = Answer()
        for event in page.events:
            answer.take(event)
        assert answer.text == "".join(f"<{n}>" for n in range(400))
        assert (answer.run_id, answer.message_ids) == (claim.run_id, ("m1",))
        kinds = [event.kind for event in page.events]
        assert kinds.count("snapshot") == 1
        assert 50 <= kinds.count("delta") <= 50 + 200
        assert page.top == 402
        snapshot = next(event for event in page.events if event.kind == "snapshot")
        assert page.floor == snapshot.offset

    async def test_rolling_keeps_what_is_no_text(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, log_events=10))
        claim = await desk.lease("m1")
        parts = beside_text(claim.run_id)
        await desk.store.publish(claim, 0, [Event("processing", tools=("a",)), *parts])
        await desk.say("m2")
        await desk.store.publish(claim, 1 + len(parts), deltas(300))
        await desk.store.expire()

        kinds = await desk.kinds()

        expected = ["accepted", "started", "processing", *(part.kind for part in parts), "accepted", "snapshot"]
        assert kinds[: len(expected)] == expected
        offsets = [event.offset for event in await desk.events()]
        assert offsets == sorted(set(offsets))

    async def test_a_reader_above_the_floor_misses_nothing(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, log_events=50))
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(400))
        await desk.store.expire()
        floor = (await desk.store.read(HERE)).floor

        events = await desk.events(after=floor)

        assert [event.offset for event in events] == list(range(floor + 1, 403))

    async def test_old_events_of_ended_runs_are_dropped_by_number_but_final_ones_stay(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, log_events=20))
        for n in range(12):
            claim = await desk.lease(f"m{n}")
            await desk.store.publish(claim, 0, deltas(40))
            await desk.commit(claim, f"answer {n}")
        await desk.store.expire()

        page = await desk.store.read(HERE, limit=100_000)

        finals = [event.text for event in page.events if event.is_final]
        assert finals == [f"answer {n}" for n in range(12)]
        assert len(page.events) <= 20 + 12 + 200
        assert 0 < page.floor <= page.top - 20
        assert page.top == 12 * 43

    async def test_old_events_of_ended_runs_are_dropped_by_age_but_final_ones_stay(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, log_age=100.0))
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(5))
        await desk.commit(claim)
        await desk.store.fail(await desk.lease("m2"), give_up())
        await desk.wait(200)
        await desk.store.expire()

        assert await desk.kinds() == ["completed", "dead"]

    async def test_the_last_final_events_are_kept_up_to_the_bound(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, log_events=5, log_age=10.0))
        for n in range(12):
            await desk.commit(await desk.lease(f"m{n}"), f"answer {n}")
        await desk.wait(100)
        await desk.store.expire()

        finals = [event.text for event in await desk.events()]

        assert finals == [f"answer {n}" for n in range(7, 12)]

    @pytest.mark.parametrize("grown_by", ["age", "number"])
    async def test_no_reader_above_the_floor_misses_anything_whatever_was_dropped(
        self, start: Start, grown_by: str
    ) -> None:
        """Final events too: one that is dropped raises the floor."""
        desk = await start(Policy(window=2.0, log_events=5, log_age=10.0))
        said: list[Event] = []
        page = await desk.store.read(HERE)
        for n in range(40):
            claim = await desk.lease(f"m{n}")
            await desk.store.publish(claim, 0, deltas(n % 3))
            await desk.commit(claim, f"answer {n}")
            said += [event for event in await desk.events() if event.offset > len(said)]
            if n % 7 == 0:
                await desk.wait(5 if grown_by == "number" else 20)
                await desk.store.expire()

            page = await desk.store.read(HERE, limit=100_000)
            assert [e for e in page.events if e.offset > page.floor] == [e for e in said if e.offset > page.floor]
        assert 0 < page.floor < page.top

    async def test_a_run_in_progress_does_not_age(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, log_age=10.0))
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(5))
        await desk.wait(LEASE - 1)
        await desk.store.expire()

        assert (await desk.kinds())[-6:] == ["started", *["delta"] * 5]

    async def test_a_follower_is_told_of_what_happens(self, start: Start) -> None:
        desk = await start()
        async with reading(desk) as reader:
            claim = await desk.lease("m1")
            await desk.store.publish(claim, 0, deltas(3))
            await desk.commit(claim)
            await reader.until("completed")

        assert reader.events == await desk.events()

    async def test_following_and_reading_leaves_no_hole(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, deltas(20))

        async def work() -> None:
            for n in range(20, 60):
                await desk.store.publish(claim, n, deltas(1, n))
                await asyncio.sleep(0)
            await desk.commit(claim)

        async def watch() -> list[Event]:
            async with reading(desk) as reader:
                await reader.until("completed")
                return reader.events

        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(watch()) for _ in range(5)]
            group.create_task(work())

        for watcher in watchers:
            assert [event.offset for event in watcher.result()] == list(range(1, 64))

    async def test_a_follower_that_does_not_read_keeps_nobody_waiting_and_misses_nothing(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, log_events=10_000))
        async with reading(desk) as reader:
            claim = await desk.lease("m1")
            async with asyncio.timeout(PATIENCE):
                for n in range(2000):
                    await desk.store.publish(claim, n, deltas(1, n))
            await desk.commit(claim)
            await reader.until("completed")

        assert [event.offset for event in reader.events] == list(range(1, 2004))

    async def test_a_follower_hears_only_its_channels(self, start: Start) -> None:
        desk = await start()
        async with desk.store.follow() as follower:
            await follower.add(HERE)
            await follower.add(at("dropped"))
            await follower.discard(at("dropped"))
            for where in (at("dropped"), at(tenant="other"), at(queue="other"), at("other")):
                await desk.say("m1", where=where)
            await desk.say("m1")

            async with asyncio.timeout(PATIENCE):
                notice = await anext(aiter(follower))

        assert notice.address == HERE

    async def test_a_follower_may_follow_many_channels(self, start: Start) -> None:
        desk = await start()
        places = [at(f"c{n}") for n in range(10)]
        heard: set[Address] = set()
        async with desk.store.follow() as follower, asyncio.timeout(PATIENCE):
            for where in places:
                await follower.add(where)
            for where in places:
                await desk.say("m1", where=where)
            while len(heard) < len(places):
                heard.add((await anext(aiter(follower))).address)

        assert heard == set(places)

    async def test_a_follower_by_thread_id_hears_its_channel(self, start: Start) -> None:
        desk = await start()
        by_id = at((await desk.say("m1")).thread_id)
        async with reading(desk, by_id) as reader:
            await desk.commit(await desk.lease("m2"))
            await reader.until("completed")

        assert reader.events == await desk.events()

    async def test_a_lost_lease_publishes_nothing(self, start: Start) -> None:
        desk = await start()
        claim = await desk.lease("m1")
        await desk.wait(LEASE)
        await desk.claim("worker-2")

        with pytest.raises(LeaseLost):
            await desk.store.publish(claim, 0, [delta("stale")])

        assert "stale" not in [event.text for event in await desk.events()]

    async def test_claims_that_publish_together_are_each_answered_for_themselves(self, start: Start) -> None:
        """More threads than one call of an engine takes, two of which may not, and one that has a hole."""
        desk = await start()
        places = [at(f"c{n}") for n in range(70)]
        claims = [await desk.lease("m", where=place) for place in places]
        await desk.store.publish(claims[1], 0, deltas(2))
        await desk.commit(claims[2])
        await desk.store.forget(places[3], force=True)
        together = [Publication(claim, 0, deltas(1 + n % 4)) for n, claim in enumerate(claims)]
        together[4] = Publication(claims[4], 7, deltas(1))

        for _ in range(2):  # what is asked again gives the same, and nothing is appended twice
            outcomes = await desk.store.publish_many(together)
            assert [type(outcomes[n]) for n in (2, 3, 4)] == [LeaseLost, LeaseLost, EventGap]
            for n in (0, 1, *range(5, 70)):
                assert outcomes[n] == 2 + 1 + n % 4
                assert [event.text for event in await desk.events(places[n], after=2)] == [
                    f"<{m}>" for m in range(1 + n % 4)
                ]
        assert await desk.kinds(places[2]) == ["accepted", "started", "completed"]
        assert await desk.kinds(places[4]) == ["accepted", "started"]

    @pytest.mark.parametrize("has_sink", [False, True], ids=["no sink", "a sink"])
    async def test_a_log_published_together_has_the_bounds_of_one_published_alone(
        self, start: Start, has_sink: bool
    ) -> None:
        desk = await start(Policy(window=0.0, log_events=30))
        partitions = await desk.store.open_sink("s") if has_sink else ()
        places = [at(f"c{n}") for n in range(4)]
        claims = [await desk.lease("m", where=place) for place in places]
        for n in range(0, 200, 10):
            await desk.store.publish_many([Publication(claim, n, deltas(10, n)) for claim in claims])

        for place in places:
            answer = Answer()
            events = await desk.events(place)
            for event in events:
                answer.take(event)
            assert answer.text == "".join(f"<{n}>" for n in range(200))
            assert len(events) < 30 + TRIM_EVERY + 3
        told = [
            delivery.event.text
            for partition in partitions
            for delivery in await desk.store.deliveries("s", partition, after="", limit=10_000)
        ]
        assert sum(text.startswith("<") for text in told) == (800 if has_sink else 0)

    async def test_the_life_of_a_message_is_told_in_order(self, start: Start) -> None:
        desk = await start()
        await desk.store.pause(HERE)
        await desk.say("m1")
        await desk.store.resume(HERE)
        claim = await desk.lease()
        await desk.store.fail(claim, retry(0.0))
        claim = await desk.claim()
        await desk.store.publish(claim, 0, deltas(1))
        await desk.commit(claim)

        assert await desk.kinds(at(CHANNEL)) == [
            "paused", "accepted", "resumed", "started", "retrying", "started", "delta", "completed",
        ]  # fmt: skip
