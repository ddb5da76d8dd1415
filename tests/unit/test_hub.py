"""The hub: whoever was told "subscribed" gets every event, also when hints are lost and the store stumbles."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.patience import PATIENCE
from turnkeep.errors import StoreUnavailable
from turnkeep.events import Event, delta
from turnkeep.hub import Hub
from turnkeep.messages import Address, Message, UserItem, text_content
from turnkeep.resumption import is_of_log
from turnkeep.store import Policies, Policy
from turnkeep.store.contract import Follower
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Commit, Notice, Page, TranscriptEntry
from turnkeep.streams import EventStream
from turnkeep.subscription import SubscriptionStart
from turnkeep.testing import FakeClock, counting_ids

HERE = Address("default", "assistant", "c")


class ForgetfulStore(MemoryStore):
    """Loses the next hints, refuses the next reads, or is another server from one moment on."""

    lost_hints = 0
    turns_late = 0
    """Turns of the loop that a hint takes."""
    refused_reads = 0
    incarnation = ""

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        if limit > 1 and self.refused_reads > 0:
            self.refused_reads -= 1
            raise StoreUnavailable("not now")
        page = await super().read(address, after=after, limit=limit)
        events = tuple(replace(event, epoch=event.epoch + self.incarnation) for event in page.events)
        return replace(page, epoch=page.epoch + self.incarnation, events=events)

    @contextlib.asynccontextmanager
    async def follow(self) -> AsyncIterator[Follower]:
        async with super().follow() as follower:
            yield _Forgetful(self, follower)


class _Forgetful:
    def __init__(self, store: ForgetfulStore, follower: Follower) -> None:
        self._store = store
        self._follower = follower
        self._notices = aiter(follower)

    async def add(self, address: Address) -> None:
        await self._follower.add(address)

    async def discard(self, address: Address) -> None:
        await self._follower.discard(address)

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self

    async def __anext__(self) -> Notice:
        while True:
            notice = await anext(self._notices)
            for _ in range(self._store.turns_late):
                await asyncio.sleep(0)
            if self._store.lost_hints <= 0:
                events = tuple(replace(e, epoch=e.epoch + self._store.incarnation) for e in notice.events)
                return replace(notice, events=events)
            self._store.lost_hints -= 1


@dataclass
class Ear:
    """A subscriber that notes the offsets it was told, and the epochs of them."""

    offsets: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    epochs: list[str] = field(default_factory=list)
    begun: list[SubscriptionStart] = field(default_factory=list)

    def on_subscription(self, address: Address, begun: SubscriptionStart) -> None:
        self.begun.append(begun)

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        self.offsets += [event.offset for event in events]
        self.events += events
        self.epochs += [event.epoch for event in events]

    async def wait_for_room(self, address: Address) -> None: ...


@contextlib.asynccontextmanager
async def running(store: ForgetfulStore) -> AsyncIterator[Hub]:
    hub = Hub(store)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hub.run())
        yield hub
        task.cancel()


async def said(store: ForgetfulStore, *numbers: int) -> None:
    for number in numbers:
        await store.accept([Message(HERE, f"m{number}", text_content("hello"))])
        await asyncio.sleep(0)


async def until(ear: Ear, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(ear.offsets) < count:
            await asyncio.sleep(0.001)


def forgetful(policy: Policy | None = None) -> ForgetfulStore:
    return ForgetfulStore(Policies(policy or Policy()), clock=FakeClock(), ids=counting_ids())


async def answered(store: ForgetfulStore, number: int, pieces: int) -> None:
    """A turn whose answer is told in so many pieces."""
    await store.accept([Message(HERE, f"m{number}", text_content("hello"), flush=True)])
    [claim] = await store.claim(owner="w", limit=1, lease=30.0)
    texts = [f"{number}.{place} " for place in range(pieces)]
    await store.publish(claim, 0, [delta(text, claim.run_id, 1) for text in texts])
    entries = [TranscriptEntry(UserItem(m.content, m.message_id)) for m in claim.messages]
    await store.commit(claim, Commit("completed", "".join(texts), entries))


async def test_the_first_events_of_a_new_channel_arrive_though_their_hints_are_lost() -> None:
    store, ear = forgetful(), Ear()
    async with running(store) as hub:
        await hub.subscribe(HERE, ear)
        store.lost_hints = 2
        await said(store, 1, 2, 3)
        await until(ear, 3)

    assert ear.offsets == [1, 2, 3]


async def test_a_channel_that_begins_under_its_subscribers_is_told_without_reading_the_log() -> None:
    store, ear = ForgetfulStore(Policies(Policy(window=0.0))), Ear()
    async with running(store) as hub:
        await hub.subscribe(HERE, ear)
        store.refused_reads = 1_000
        await said(store, 1, 2)
        await until(ear, 2)
        refused_reads = store.refused_reads
        await hub.unsubscribe(HERE, ear)

    assert (ear.offsets, refused_reads) == ([1, 2], 1_000)
    assert len(set(ear.epochs)) == 1


async def test_a_hole_in_the_middle_is_read_from_the_log() -> None:
    store, ear = forgetful(), Ear()
    async with running(store) as hub:
        await hub.subscribe(HERE, ear)
        await said(store, 1, 2)
        await until(ear, 2)
        store.lost_hints = 3
        await said(store, 3, 4, 5, 6)
        await until(ear, 6)

    assert ear.offsets == [1, 2, 3, 4, 5, 6]


async def test_what_happens_while_somebody_catches_up_is_neither_lost_nor_repeated() -> None:
    store, ear, late = forgetful(), Ear(), Ear()
    async with running(store) as hub, asyncio.TaskGroup() as group:
        await said(store, 1, 2, 3)
        await hub.subscribe(HERE, ear, after=0, epoch=(await store.read(HERE)).epoch)
        store.refused_reads = 2  # the second subscriber is held up between its reply and the log
        subscribing = group.create_task(hub.subscribe(HERE, late, after=1, epoch=(ear.begun[0].epoch)))
        await said(store, 4, 5)
        await subscribing
        await said(store, 6)
        await until(ear, 6)
        await until(late, 5)

    assert ear.offsets == [1, 2, 3, 4, 5, 6]
    assert late.offsets == [2, 3, 4, 5, 6]


async def test_who_was_told_subscribed_is_told_the_rest_though_the_store_refuses_for_a_while() -> None:
    store, ear = forgetful(), Ear()
    async with running(store) as hub:
        await said(store, 1, 2, 3)
        epoch = (await store.read(HERE)).epoch
        store.refused_reads = 3
        await hub.subscribe(HERE, ear, after=1, epoch=epoch)
        await said(store, 4)
        await until(ear, 3)

    assert ear.offsets == [2, 3, 4]


async def test_a_restarted_server_that_lost_nothing_changes_the_epoch_and_repeats_nothing() -> None:
    store, ear = forgetful(), Ear()
    async with running(store) as hub:
        await hub.subscribe(HERE, ear)
        await said(store, 1, 2)
        await until(ear, 2)
        store.incarnation = ".1"
        store.lost_hints = 1
        await said(store, 3, 4)
        await until(ear, 4)

    assert ear.offsets == [1, 2, 3, 4]
    assert [epoch.endswith(".1") for epoch in ear.epochs] == [False, False, True, True]


async def test_a_thread_that_was_made_anew_is_told_from_its_first_event() -> None:
    store, ear = forgetful(), Ear()
    async with running(store) as hub:
        await hub.subscribe(HERE, ear)
        await said(store, 1, 2)
        await until(ear, 2)
        await store.forget(HERE, force=True)
        store.lost_hints = 1
        await said(store, 3, 4)
        await until(ear, 4)

    assert ear.offsets == [1, 2, 1, 2]
    assert len(set(ear.epochs)) == 2


@pytest.mark.parametrize("incarnation", ["", ".1"])
async def test_who_comes_back_after_a_restart_gets_what_was_missed(incarnation: str) -> None:
    store, ear = forgetful(), Ear()
    async with running(store) as hub:
        await answered(store, 1, 3)
        seen = await store.read(HERE, limit=2)
        store.incarnation = incarnation

        begun = await hub.subscribe(HERE, ear, after=2, epoch=seen.epoch)
        await until(ear, 4)

    assert (begun.is_recovered, begun.start) == (True, 2)
    assert ear.offsets == [3, 4, 5, 6]
    assert ear.events[-1].kind == "completed"


async def test_who_saw_the_end_of_a_log_that_lost_it_is_told_the_last_answer_or_the_run_in_progress() -> None:
    store, ear, other = forgetful(), Ear(), Ear()
    async with running(store) as hub:
        await answered(store, 1, 3)
        epoch = (await store.read(HERE)).epoch
        store.incarnation = ".1"
        begun = await hub.subscribe(HERE, ear, after=60, epoch=epoch)
        await until(ear, 1)
        await store.accept([Message(HERE, "m2", text_content("hello"), flush=True)])
        [claim] = await store.claim(owner="w", limit=1, lease=30.0)
        await store.publish(claim, 0, [delta("more", claim.run_id, 1)])

        again = await hub.subscribe(HERE, other, after=60, epoch=epoch)
        await until(other, 2)

    assert (begun.is_recovered, again.is_recovered) == (False, False)
    assert [event.kind for event in ear.events[:1]] == ["completed"]
    assert [event.kind for event in other.events] == ["started", "delta"]


@pytest.mark.parametrize("left", [True, False])
async def test_who_comes_back_to_a_thread_that_was_made_anew_gets_all_of_it(*, left: bool) -> None:
    """Gone when it was forgotten, or while he was still catching up with the old one."""
    store, ear = forgetful(), Ear()
    async with running(store) as hub, asyncio.TaskGroup() as group:
        await answered(store, 1, 3)
        epoch = (await store.read(HERE)).epoch
        store.refused_reads = 0 if left else 3
        subscribing = None if left else group.create_task(hub.subscribe(HERE, ear, after=1, epoch=epoch))
        while not (left or ear.begun):
            await asyncio.sleep(0)
        await store.forget(HERE, force=True)
        await answered(store, 2, 20)
        if left:
            begun = await hub.subscribe(HERE, ear, after=1, epoch=epoch)
            assert not begun.is_recovered
        elif subscribing is not None:
            await subscribing
        await until(ear, 23)

    assert ear.offsets == list(range(1, 24))
    assert len(set(ear.epochs)) == 1


@pytest.mark.parametrize("position", [{"after": 0, "epoch": "another"}, {"after": 0}, {"history": 5}])
async def test_of_an_answer_whose_beginning_is_gone_no_pieces_are_told(position: dict[str, Any]) -> None:
    store, ear = forgetful(Policy(window=0.0, max_wait=0.0, log_events=16)), Ear()
    async with running(store) as hub:
        for number in range(1, 12):
            await answered(store, number, 9)
        epoch = (await store.read(HERE)).epoch
        begun = await hub.subscribe(HERE, ear, **({"epoch": epoch} | position))
        await answered(store, 12, 9)
        async with asyncio.timeout(PATIENCE):
            while not (ear.events and ear.events[-1].text.startswith("12.0")):
                await asyncio.sleep(0.001)

    assert not begun.is_recovered
    shown, whole = "", []
    for event in ear.events:
        shown = "" if event.kind == "started" else shown + event.text if event.kind == "delta" else shown
        if event.kind == "completed":
            assert shown in ("", event.text)
            whole.append(event.text)
            shown = ""
    assert whole[-1] == "".join(f"12.{place} " for place in range(9))
    assert len(whole) > 1


async def test_of_an_answer_in_progress_everything_is_told() -> None:
    store, ear = forgetful(Policy(window=0.0, max_wait=0.0)), Ear()
    async with running(store) as hub:
        await store.accept([Message(HERE, "m1", text_content("hello"), flush=True)])
        [claim] = await store.claim(owner="w", limit=1, lease=30.0)
        await store.publish(claim, 0, [delta(text, claim.run_id, 1) for text in "abcdef"])
        begun = await hub.subscribe(HERE, ear, history=3)
        await store.publish(claim, 6, [delta("g", claim.run_id, 1)])
        await until(ear, 4)

    assert begun.answer.text + "".join(event.text for event in ear.events) == "abcdefg"


class SlowStore(ForgetfulStore):
    """Looks into its log take as long as they are let to."""

    looks = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.may_look = asyncio.Semaphore(0)

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        if limit == 3:  # the room of the stream
            self.looks += 1
            await self.may_look.acquire()
        return await super().read(address, after=after, limit=limit)


async def test_a_reader_that_fell_behind_is_told_though_the_log_answers_later_than_it_waits() -> None:
    store = SlowStore(Policies(Policy()), clock=FakeClock(), ids=counting_ids())
    async with running(store) as hub, EventStream(hub, store, HERE, max_buffered=3) as stream:
        await said(store, *range(1, 8))
        offsets: list[int] = []
        for attempt in range(40):
            if attempt in (10, 20, 30):
                store.may_look.release()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.002):
                    offsets.append((await anext(stream)).offset)

    assert offsets == [1, 2, 3, 4, 5, 6, 7]
    assert store.looks <= 3


async def test_a_reader_that_leaves_while_the_log_is_looked_at_leaves_nothing_behind() -> None:
    store = SlowStore(Policies(Policy()), clock=FakeClock(), ids=counting_ids())
    async with running(store) as hub:
        async with EventStream(hub, store, HERE, max_buffered=3) as stream:
            await said(store, *range(1, 8))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    async for _ in stream:
                        pass
        assert not [task for task in asyncio.all_tasks() if "_refill" in str(task.get_coro())]


async def test_who_watches_is_told_once_when_nothing_is_heard_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker may be gone: then nobody else says so."""
    monkeypatch.setattr("turnkeep.hub.SILENCE", 0.05)
    store = MemoryStore(Policies(Policy(window=0.0)))
    await store.open()
    hub = Hub(store)
    running = asyncio.create_task(hub.run())
    await store.accept([Message(HERE, "m1", text_content("hello"))])
    heard: list[Event] = []
    async with EventStream(hub, store, HERE) as stream:
        [claim] = await store.claim(owner="w", limit=1, lease=30.0)
        await store.publish(claim, 0, [delta("half", claim.run_id, 1)])
        async with asyncio.timeout(PATIENCE):
            async for event in stream:
                heard.append(event)
                if event.error is not None:
                    break
        silence = heard[-1]
        assert (silence.kind, silence.message_ids, silence.run_id) == ("processing", (), claim.run_id)
        assert silence.error is not None
        assert silence.error.code == "silent"
        assert silence.offset == heard[-2].offset, "whoever resumes from it misses nothing"
        done = Commit("completed", "half and all", [TranscriptEntry(UserItem(text_content("hello"), "m1"))])
        await store.commit(claim, done)
        async with asyncio.timeout(PATIENCE):
            async for event in stream:
                heard.append(event)
                if event.is_final:
                    break
    assert [event.kind for event in heard].count("processing") == 1
    running.cancel()
    await asyncio.wait([running])


class _Deaf(Ear):
    """A subscriber that breaks when it is told of silence."""

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        super().deliver(address, events)
        if any(event.error is not None for event in events):
            raise ValueError("a bug of one subscriber")


async def test_a_subscriber_that_breaks_on_silence_ends_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnkeep.hub.SILENCE", 0.05)
    store = ForgetfulStore(Policies(Policy(window=0.0)))
    await store.open()
    async with running(store) as hub:
        await store.accept([Message(HERE, "m1", text_content("hello"))])
        await hub.subscribe(HERE, _Deaf())
        async with EventStream(hub, store, HERE) as stream:
            [claim] = await store.claim(owner="w", limit=1, lease=30.0)
            await store.publish(claim, 0, [delta("half", claim.run_id, 1)])
            async with asyncio.timeout(PATIENCE):
                async for event in stream:
                    if event.error is not None:
                        break
            await store.commit(
                claim, Commit("completed", "all", [TranscriptEntry(UserItem(text_content("hello"), "m1"))])
            )
            async with asyncio.timeout(PATIENCE):
                async for event in stream:
                    if event.is_final:
                        break
            assert hub.subscribers == 1


@pytest.mark.parametrize(
    ("after", "epoch", "is_of"),
    [
        (5, "log1.server1", True),
        (5, "log1.server2", True),
        (5, "log2.server1", False),
        (0, "", True),
        (5, "", False),
        (0, "log2.server1", False),
        (5, None, False),
        (0, None, False),
    ],
)
def test_a_position_is_of_this_log_whatever_server_kept_it(after: int, epoch: str | None, is_of: bool) -> None:
    page = Page("log1.server1", 9, 0, None, ())

    assert is_of_log(page, after, epoch) is is_of


async def test_silent_channels_are_compared_with_their_logs_and_not_all_at_one_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("turnkeep.hub.SILENCE", 0.05)
    monkeypatch.setattr("turnkeep.hub.LOOK_AGAIN", 0.1)
    store = forgetful()
    addresses = [replace(HERE, channel=f"c{number}") for number in range(40)]
    ears = [Ear() for _ in addresses]
    async with running(store) as hub:
        for address, ear in zip(addresses, ears, strict=True):
            await hub.subscribe(address, ear)
        patiences = {channel.patience for channel in hub._channels.values()}
        store.lost_hints = 1_000
        for address in addresses:
            await store.accept([Message(address, "m1", text_content("hello"))])
        for ear in ears:
            await until(ear, 1)

    assert 0.05 <= min(patiences) < max(patiences) <= 0.1
    assert len(patiences) > 20


async def test_a_loop_that_stood_still_takes_no_run_for_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnkeep.hub.SILENCE", 1.0)
    store, ear = forgetful(), Ear()
    async with running(store) as hub:
        await hub.subscribe(HERE, ear)
        await store.accept([Message(HERE, "m1", text_content("hello"), flush=True)])
        [claim] = await store.claim(owner="w", limit=1, lease=30.0)
        await until(ear, 2)
        store.turns_late = 5
        await store.publish(claim, 0, [delta("a", claim.run_id, 1)])
        # The whole loop: behind it the look for silence comes first, and what was said after it.
        time.sleep(1.3)  # noqa: ASYNC251
        await until(ear, 3)

    assert [event.kind for event in ear.events] == ["accepted", "started", "delta"]
