"""The announcer: never in the model's way, every event once and in order, all of it before the settlement."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.runs.stage import HERE, LostReply, Stage, announcer_of, publishing, reason_of
from turnkeep.errors import LeaseLost, OutcomeUnknown, StoreUnavailable
from turnkeep.events import Event, delta
from turnkeep.runs.announcer import MERGE_ABOVE, TICK, Announcer, merge_deltas
from turnkeep.runs.journal import STORE_PATIENCE
from turnkeep.runs.run import while_held
from turnkeep.store.contract import EventGap


@contextlib.asynccontextmanager
async def announcing(stage: Stage, **options: Any) -> AsyncIterator[Announcer]:
    lease = await stage.lease("m1")
    announcer = announcer_of(stage, lease.claim, **options)
    announcer.watch(lease.interrupt)
    async with publishing(stage):
        with while_held(lease):
            yield announcer
    announcer.close()


def texts(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.kind, event.text) for event in events if event.kind not in ("accepted", "started")]


async def test_text_is_told_in_order_and_remembered_as_shown() -> None:
    stage = Stage()
    async with announcing(stage) as announcer:
        announcer.text("good ")
        announcer.text("day")
        await announcer.wait_until_published()

        assert announcer.text_so_far == "good day"
        events = await stage.events()
        assert texts(events) == [("delta", "good "), ("delta", "day")]
        assert {(event.run_id, event.attempt) for event in events[2:]} == {(announcer._claim.run_id, 1)}


async def test_a_replacement_takes_the_place_of_what_was_shown() -> None:
    stage = Stage()
    async with announcing(stage) as announcer:
        announcer.text("wrong")
        announcer.replace("right")
        announcer.text("!")
        await announcer.wait_until_published()

        assert announcer.text_so_far == "right!"
        assert texts(await stage.events()) == [("delta", "wrong"), ("snapshot", "right"), ("delta", "!")]
        assert (await stage.events())[3].attempt == 1


async def test_saying_never_waits_and_who_listens_here_hears_at_once() -> None:
    stage, heard = Stage(), list[Event]()
    stage.store.stumbles["publish"] += [60.0]
    async with announcing(stage, tell=heard.append) as announcer:
        announcer.text("a")
        await asyncio.sleep(1.0)
        announcer.text("b")

        assert [event.text for event in heard] == ["a", "b"]
        assert texts(await stage.events()) == []


async def test_settled_waits_until_all_that_was_said_is_in_the_log() -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [5.0, 5.0]
    async with announcing(stage) as announcer:
        await announcer.wait_until_published()
        begun_at = asyncio.get_running_loop().time()
        announcer.text("a")
        await asyncio.sleep(1.0)
        announcer.text("b")
        await announcer.wait_until_published()

        assert asyncio.get_running_loop().time() - begun_at == pytest.approx(10.0, abs=0.01)
        assert texts(await stage.events()) == [("delta", "a"), ("delta", "b")]


@pytest.mark.parametrize(
    "stumble", [StoreUnavailable("away"), LostReply(OutcomeUnknown("lost"))], ids=["before", "after"]
)
async def test_each_event_is_in_the_log_once_however_often_it_is_sent(stumble: Any) -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [stumble] * 4
    async with announcing(stage) as announcer:
        for number in range(6):
            announcer.text(f"{number} ")
            await asyncio.sleep(0.2)
        await announcer.wait_until_published()

        assert "".join(text for _, text in texts(await stage.events())) == "0 1 2 3 4 5 "
        assert len(stage.store.about("publish")) > 6


async def test_the_last_word_is_sent_again_though_nothing_is_said_behind_it() -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [StoreUnavailable("away")] * 3
    async with announcing(stage) as announcer:
        announcer.text("all")
        async with asyncio.timeout(60.0):
            await announcer.wait_until_published()

        assert texts(await stage.events()) == [("delta", "all")]
        assert len(stage.store.about("publish")) == 4


@pytest.mark.parametrize(("heard", "again"), [(0, "012"), (1, "12"), (2, "2"), (3, "")])
async def test_of_what_stands_beside_the_text_exactly_that_comes_again_which_the_log_has_lost(
    heard: int, again: str
) -> None:
    stage = Stage()
    announcer = announcer_of(stage, (await stage.lease("m1")).claim)
    for number in range(3):
        announcer.say(Event("step", run_id=f"{number}"))
    announcer.take()
    announcer.settle(5)

    announcer.take()
    announcer.settle(EventGap(3, heard))

    publication = announcer.take()
    assert publication.n == heard
    assert "".join(event.run_id or "" for event in publication.events) == again


async def test_a_fence_ends_the_telling() -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [LeaseLost("fenced")]
    announcer = announcer_of(stage, (await stage.lease("m1")).claim)
    announcer.text("a")

    async with publishing(stage):
        with pytest.raises(LeaseLost):
            await reason_of(announcer)


async def test_a_fence_is_told_to_whoever_waits_already() -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [LeaseLost("fenced")]
    announcer = announcer_of(stage, (await stage.lease("m1")).claim)
    announcer.text("a")
    waiting = asyncio.create_task(announcer.wait_until_published())
    await asyncio.sleep(0)

    async with publishing(stage), asyncio.timeout(60.0):
        with pytest.raises(LeaseLost):
            await waiting


async def test_a_store_that_stays_away_is_asked_once_in_a_while() -> None:
    stage = Stage()
    tries = 200
    stage.store.stumbles["publish"] += [StoreUnavailable("away")] * tries
    async with announcing(stage) as announcer:
        begun_at = asyncio.get_running_loop().time()
        announcer.text("a")
        await announcer.wait_until_published()
        # drawn evenly up to a second each: the mean is half of one, and a tenth of it does not happen
        assert asyncio.get_running_loop().time() - begun_at > tries * 0.05


async def test_a_store_that_stumbles_now_and_then_is_asked_again_soon_each_time() -> None:
    stage = Stage()
    async with announcing(stage) as announcer:
        for _ in range(40):
            stage.store.stumbles["publish"] += [StoreUnavailable("away"), None]
            begun_at = asyncio.get_running_loop().time()
            announcer.text("a")
            await announcer.wait_until_published()
            assert asyncio.get_running_loop().time() - begun_at <= STORE_PATIENCE.delay + TICK


@pytest.mark.parametrize(("waiting", "events"), [(MERGE_ABOVE, MERGE_ABOVE), (MERGE_ABOVE + 1, 1)])
async def test_deltas_are_merged_only_when_the_store_is_behind(waiting: int, events: int) -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [5.0]
    async with announcing(stage) as announcer:
        announcer.text("first ")
        await asyncio.sleep(1.0)
        for number in range(waiting):
            announcer.text(f"{number} ")
        await announcer.wait_until_published()

        seen = texts(await stage.events())
        assert len(seen) == 1 + events
        assert "".join(text for _, text in seen) == announcer.text_so_far
        assert [n for n, _ in stage.store.about("publish")] == [0, 1]


async def test_the_count_of_what_was_published_is_of_what_was_sent_not_of_what_was_said() -> None:
    stage = Stage()
    stage.store.stumbles["publish"] += [5.0]
    async with announcing(stage) as announcer:
        announcer.text("first ")
        await asyncio.sleep(1.0)
        for number in range(MERGE_ABOVE + 9):
            announcer.text(f"{number} ")
        await announcer.wait_until_published()
        announcer.text("last")
        await announcer.wait_until_published()

        assert [n for n, _ in stage.store.about("publish")] == [0, 1, 2]


def _say(*said: str) -> list[Event]:
    return [delta(one, "r", 2) if one.islower() else Event("snapshot", text=one) for one in said]


MERGES = {
    "nothing": ([], []),
    "one": (["a"], ["a"]),
    "two": (["a", "b"], ["ab"]),
    "one beside another kind": (["a", "A"], ["a", "A"]),
    "runs apart": (["a", "b", "A", "c", "d", "e", "B", "f"], ["ab", "A", "cde", "B", "f"]),
    "other kinds alone": (["A", "B"], ["A", "B"]),
    "other kinds first": (["A", "a", "b"], ["A", "ab"]),
}


@pytest.mark.parametrize(("said", "result"), MERGES.values(), ids=MERGES)
def test_neighbouring_deltas_become_one_and_nothing_else_changes(said: list[str], result: list[str]) -> None:
    events = merge_deltas(_say(*said))

    assert [event.text for event in events] == result
    assert [event.kind for event in events] == ["delta" if one.islower() else "snapshot" for one in result]
    assert {(e.run_id, e.attempt) for e in events if e.kind == "delta"} <= {("r", 2)}


def test_a_delta_that_has_no_neighbour_stays_the_very_event() -> None:
    [event] = _say("a")
    assert merge_deltas([event])[0] is event


GAPS = {
    "text was shown": (("ab",), ("c",), [("snapshot", "ab"), ("delta", "c")]),
    "more was said meanwhile": (("ab",), ("c", "d"), [("snapshot", "ab"), ("delta", "c"), ("delta", "d")]),
    "it begins anew": (("ab",), ("A",), [("snapshot", "A")]),
}


@pytest.mark.parametrize(("before", "after", "told"), GAPS.values(), ids=GAPS)
async def test_a_server_that_has_lost_the_last_events_is_told_the_answer_so_far(
    before: tuple[str, ...], after: tuple[str, ...], told: list[tuple[str, str]]
) -> None:
    stage = Stage()
    async with announcing(stage) as announcer:
        for text in before:
            announcer.text(text)
        await announcer.wait_until_published()
        stage.store.threads[HERE].thread.published = 0  # what a server counts that was promoted without them
        for text in after:
            (announcer.text if text.islower() else announcer.replace)(text)
        await announcer.wait_until_published()

        assert texts(await stage.events())[len(before) :] == told


async def test_a_server_that_has_lost_all_of_nothing_is_told_only_what_comes() -> None:
    stage = Stage()
    async with announcing(stage) as announcer:
        announcer.say(Event("processing", ("m1",), tools=("pay",)))
        await announcer.wait_until_published()
        stage.store.threads[HERE].thread.published = 0
        announcer.text("a")
        await announcer.wait_until_published()

        assert texts(await stage.events()) == [("processing", ""), ("delta", "a")]
