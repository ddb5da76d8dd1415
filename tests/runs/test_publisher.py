"""What all runs of a process say goes to the store together: soon, in order, and each answered for itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.runs.stage import Stage, announcer_of, publishing, reason_of
from turnkeep.errors import LeaseLost, StoreUnavailable
from turnkeep.messages import Address
from turnkeep.runs.announcer import TICK, Announcer

RUNS = 20


@contextlib.asynccontextmanager
async def speaking(stage: Stage, count: int = RUNS) -> AsyncIterator[list[Announcer]]:
    """So many runs of one process, each on a channel of its own."""
    announcers = []
    for n in range(count):
        await stage.say("m", where=place(n))
        announcers.append(announcer_of(stage, (await stage.lease()).claim))
    async with publishing(stage):
        yield announcers
    for one in announcers:
        one.close()


def place(number: int) -> Address:
    return Address("default", "assistant", f"c{number}")


async def text_of(stage: Stage, number: int) -> str:
    return "".join(event.text for event in (await stage.store.read(place(number))).events if event.kind == "delta")


async def test_tokens_of_all_runs_that_come_together_are_one_publication() -> None:
    stage = Stage()
    async with speaking(stage) as announcers:
        for n, one in enumerate(announcers):
            one.text(f"{n}")
        await asyncio.sleep(TICK)

        assert stage.store.publications == [RUNS]
        assert [await text_of(stage, n) for n in range(RUNS)] == [str(n) for n in range(RUNS)]


async def test_the_first_word_after_a_silence_goes_at_once_and_what_follows_within_a_tick() -> None:
    stage, loop = Stage(), asyncio.get_running_loop()
    async with speaking(stage) as announcers:
        begun_at = loop.time()
        announcers[0].text("a")
        await announcers[0]._wait_until_empty()
        assert loop.time() == begun_at
        announcers[1].text("b")
        announcers[2].text("c")
        await announcers[2]._wait_until_empty()

        assert loop.time() - begun_at == pytest.approx(TICK)
        assert stage.store.publications == [1, 2]


async def test_who_waits_until_all_is_published_does_not_wait_for_the_tick() -> None:
    stage, loop = Stage(), asyncio.get_running_loop()
    async with speaking(stage) as announcers:
        announcers[0].text("a")
        await announcers[0].wait_until_published()
        begun_at = loop.time()
        announcers[0].text("b")
        await announcers[0].wait_until_published()

        assert loop.time() == begun_at
        assert await text_of(stage, 0) == "ab"


async def test_a_run_that_is_refused_or_has_to_wait_holds_up_no_other() -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [LeaseLost("fenced"), StoreUnavailable("away"), *[None] * (RUNS - 2)]
    async with speaking(stage) as announcers:
        for one in announcers:
            one.text("a")
        for one in announcers[2:]:
            await one.wait_until_published()
        assert [await text_of(stage, n) for n in range(RUNS)] == ["", "", *["a"] * (RUNS - 2)]
        for one in announcers[2:]:
            one.text("b")
        announcers[1].text("b")
        await announcers[1].wait_until_published()

        assert [await text_of(stage, n) for n in range(RUNS)] == ["", *["ab"] * (RUNS - 1)]
        with pytest.raises(LeaseLost):
            await reason_of(announcers[0])


async def test_where_nobody_has_said_anything_nothing_is_published() -> None:
    stage = Stage()
    async with speaking(stage, 2):
        await asyncio.sleep(1.0)

    assert stage.store.publications == []


async def test_what_is_said_after_a_run_is_over_is_not_published() -> None:
    stage = Stage()
    async with speaking(stage, 2) as announcers:
        announcers[0].text("a")
        await announcers[0].wait_until_published()
    announcers[0].text("b")
    await asyncio.sleep(1.0)

    assert await text_of(stage, 0) == "a"


async def test_a_mistake_of_ours_ends_the_runs_that_it_concerns_and_the_next_are_published() -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [RuntimeError("a bug")]
    async with speaking(stage, 2) as announcers:
        announcers[0].text("a")
        with pytest.raises(RuntimeError):
            await reason_of(announcers[0])
        announcers[1].text("b")
        await announcers[1].wait_until_published()

        assert await text_of(stage, 1) == "b"


async def test_what_is_said_before_anybody_publishes_is_published_when_somebody_does() -> None:
    """The claim of a worker may be answered before the task beside it that publishes has begun."""
    stage = Stage()
    await stage.say("m", where=place(0))
    announcer = announcer_of(stage, (await stage.lease()).claim)
    announcer.text("early ")
    await asyncio.sleep(1.0)
    before = await text_of(stage, 0)
    async with publishing(stage):
        announcer.text("and late")
        await announcer.wait_until_published()

    assert (before, await text_of(stage, 0)) == ("", "early and late")


async def test_a_publisher_that_ends_leaves_nothing_behind_and_may_begin_again() -> None:
    """A store is closed after its worker: nobody may be asking it any more."""
    stage = Stage()
    await stage.say("m", where=place(0))
    announcer = announcer_of(stage, (await stage.lease()).claim)
    async with publishing(stage):
        stage.store.stumbles["publish"].append(60.0)
        announcer.text("a")
        await asyncio.sleep(1.0)
        announcer.text("b")
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.sleep(120.0)
    between = await text_of(stage, 0)
    async with publishing(stage):
        announcer.text("c")
        await announcer.wait_until_published()

    assert (others, between, await text_of(stage, 0)) == (set(), "", "abc")


async def test_what_would_be_published_at_the_next_tick_is_not_when_the_publisher_ends_before() -> None:
    stage = Stage()
    await stage.say("m", where=place(0))
    announcer = announcer_of(stage, (await stage.lease()).claim)
    async with publishing(stage):
        announcer.text("a")
        await announcer.wait_until_published()
        announcer.text("b")
    await asyncio.sleep(1.0)

    assert await text_of(stage, 0) == "a"


async def test_what_was_cut_off_before_it_began_comes_with_what_is_said_later() -> None:
    stage = Stage()
    announcers = []
    for n in range(2):
        await stage.say("m", where=place(n))
        announcers.append(announcer_of(stage, (await stage.lease()).claim))
    async with publishing(stage):
        await asyncio.sleep(0)
        # the lane begins at the next turn of the loop, and is cancelled in it, before the first step of its task
        announcers[0].text("a")
    async with publishing(stage), asyncio.timeout(60.0):
        announcers[1].text("b")
        await announcers[1].wait_until_published()

    assert [await text_of(stage, n) for n in range(2)] == ["a", "b"]
