"""Nothing is heard of a run: whoever watches it is told so once, whenever he came; of no other run anybody is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.patience import PATIENCE
from turnkeep.events import Event, TurnFault, delta
from turnkeep.hub import Hub
from turnkeep.messages import Address, Message, UserItem, text_content
from turnkeep.store import Policies, Policy
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Claim, Commit, Failure, HeldCall, TranscriptEntry
from turnkeep.streams import EventStream

HERE = Address("default", "assistant", "c")
ELSEWHERE = replace(HERE, channel="elsewhere")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnkeep.hub.SILENCE", 0.1)


@dataclass
class Channels:
    """Channels of one store, and the hub that tells them."""

    store: MemoryStore
    hub: Hub

    async def begin(self, address: Address = HERE) -> Claim:
        """A run that has said something, and whose worker says nothing more."""
        await self.store.accept([Message(address, "m1", text_content("hello"), flush=True)])
        [claim] = await self.store.claim(owner="w", limit=1, lease=30.0)
        await self.store.publish(claim, 0, [delta("half", claim.run_id, claim.attempt)])
        return claim

    def watch(self, address: Address = HERE, **position: Any) -> EventStream:
        return EventStream(self.hub, self.store, address, **position)


@contextlib.asynccontextmanager
async def channels() -> AsyncIterator[Channels]:
    store = MemoryStore(Policies(Policy(window=0.0)))
    await store.open()
    hub = Hub(store)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(hub.run())
        yield Channels(store, hub)
        running.cancel()


async def until_silence(events: EventStream) -> list[Event]:
    """What came up to the word that nothing is heard."""
    heard: list[Event] = []
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            heard.append(event)
            if is_silence(event):
                break
    return heard


async def until_end(events: EventStream) -> list[Event]:
    heard: list[Event] = []
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            heard.append(event)
            if event.is_final:
                break
    return heard


def is_silence(event: Event) -> bool:
    return event.error is not None and event.error.code == "silent"


async def position(channel: Channels, *, back: int) -> dict[str, Any]:
    """So many events before the end of the log."""
    page = await channel.store.read(HERE)
    return {"after": page.top - back, "epoch": page.epoch}


@pytest.mark.parametrize("back", [0, 1, None])
async def test_the_first_to_join_a_run_whose_worker_is_gone_is_told(back: int | None) -> None:
    """With nothing, a part or all of the run still to read."""
    async with channels() as here:
        claim = await here.begin()
        async with here.watch(**({} if back is None else await position(here, back=back))) as events:
            *_, silence = await until_silence(events)

    assert (silence.kind, silence.run_id) == ("processing", claim.run_id)


async def test_each_is_told_once_whether_he_came_before_the_others_were_told_or_after() -> None:
    async with channels() as here, contextlib.AsyncExitStack() as stack:
        claim = await here.begin()
        streams = [await stack.enter_async_context(here.watch()) for _ in range(2)]
        for events in streams:
            await until_silence(events)
        streams.append(await stack.enter_async_context(here.watch()))
        await until_silence(streams[-1])
        await settle(here, claim)
        for events in streams:
            assert not [event for event in await until_end(events) if is_silence(event)]


async def test_who_reads_slowly_is_told_behind_the_rest() -> None:
    """What did not fit is read from the log again, which does not have it."""
    async with channels() as here, here.watch(max_buffered=1) as slow, here.watch() as other:
        claim = await here.begin()
        await here.store.publish(claim, 1, [delta(" more", claim.run_id, claim.attempt)])
        await until_silence(other)
        *heard, silence = await until_silence(slow)
        assert heard[-1].text == " more"
        assert silence.offset == heard[-1].offset
        assert slow.ready() == []


async def test_who_reads_slowly_is_told_of_no_silence_that_is_over() -> None:
    async with channels() as here, here.watch(max_buffered=1) as slow, here.watch() as other:
        claim = await here.begin()
        await until_silence(other)
        await settle(here, claim)
        await until_end(other)
        assert not [event for event in await until_end(slow) if is_silence(event)]
        assert slow.ready() == []


async def test_who_leaves_and_comes_again_is_told_again() -> None:
    async with channels() as here:
        await here.begin()
        for _ in range(2):
            async with here.watch() as events:
                await until_silence(events)


async def test_a_run_that_goes_on_and_falls_silent_again_is_told_of_again() -> None:
    async with channels() as here:
        claim = await here.begin()
        async with here.watch() as events:
            await until_silence(events)
            await here.store.publish(claim, 1, [delta(" more", claim.run_id, claim.attempt)])
            assert [event.text for event in (await until_silence(events))[:-1]] == [" more"]


async def test_what_others_say_on_the_channel_is_no_word_of_its_run() -> None:
    async with channels() as here, asyncio.TaskGroup() as group:
        await here.begin()

        async def ask_on() -> None:
            for number in range(2, 100_000):
                await here.store.accept([Message(HERE, f"m{number}", text_content("are you there?"))])
                await asyncio.sleep(0.02)

        async with here.watch() as events:
            asking = group.create_task(ask_on())
            try:
                await until_silence(events)
            finally:
                asking.cancel()


FAULT = TurnFault("rate_limited", "It waits.")
CALL = HeldCall("call_1", "send", "{}", "digest")


async def settle(here: Channels, claim: Claim) -> None:
    entry = TranscriptEntry(UserItem(text_content("hello"), claim.messages[0].message_id))
    await here.store.commit(claim, Commit("completed", "half and all", [entry]))


async def make_anew(here: Channels, claim: Claim) -> None:
    """Its log too: what was heard of the run stands in none."""
    await here.store.forget(HERE, force=True)
    await here.store.accept([Message(HERE, "m2", text_content("hello"), not_before=time.time() + 3_600)])


ENDINGS: dict[str, Callable[[Channels, Claim], Awaitable[Any]]] = {
    "an answer": settle,
    "a dead letter": lambda here, claim: here.store.fail(claim, Failure(FAULT, None)),
    "a failure that is tried again": lambda here, claim: here.store.fail(claim, Failure(FAULT, 3_600.0)),
    "a wait": lambda here, claim: here.store.release(claim, delay=3_600.0, reason=FAULT),
    "a decision to come": lambda here, claim: here.store.hold(claim, [CALL], expires_in=3_600.0),
    "a thread that was made anew": make_anew,
}


@pytest.mark.parametrize("joins", ["before", "after"])
@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
async def test_of_no_run_that_has_ended_silence_is_told(
    end: Callable[[Channels, Claim], Awaitable[Any]], joins: str
) -> None:
    """Another run on the same hub says when it would have been."""
    async with channels() as here, contextlib.AsyncExitStack() as stack:
        claim = await here.begin()
        if joins == "after":
            await end(here, claim)
        events = await stack.enter_async_context(here.watch(after=0, epoch="another"))
        if joins == "before":
            await end(here, claim)
        page, heard = await here.store.read(HERE), list[Event]()
        async with asyncio.timeout(PATIENCE):
            while (page.epoch, page.top) not in [(event.epoch, event.offset) for event in heard]:
                heard.append(await anext(events))
        await here.begin(ELSEWHERE)
        async with here.watch(ELSEWHERE) as others:
            await until_silence(others)

        assert not [event for event in [*heard, *events.ready()] if is_silence(event)]
