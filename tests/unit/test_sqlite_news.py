"""What one process hears of another's commits: two stores on one file, as two processes have it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.contract.suite.desk import at, delta
from tests.patience import PATIENCE
from tests.unit.sqlite_files import opened
from turnkeep.events import Event
from turnkeep.store.contract import Follower


async def heard(follower: Follower, last: str) -> list[tuple[str, str]]:
    """Channel and kind of all that is told, up to an event of this kind."""
    told: list[tuple[str, str]] = []
    async with asyncio.timeout(PATIENCE):
        async for notice in follower:
            assert notice.events, "nothing here is too much at once"
            told += [(notice.address.channel, event.kind) for event in notice.events]
            if notice.events[-1].kind == last:
                break
    return told


async def test_who_follows_a_channel_hears_it_whole_and_nothing_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    async with opened(path) as here, opened(path) as there, here.store.follow() as follower:
        await follower.add(at("c1"))
        for channel in ("c0", "c1", "c2"):
            await there.say("m1", where=at(channel), flush=True)
        for claim in await there.store.claim(owner="w", limit=3, lease=30.0):
            await there.store.publish(claim, 0, [delta("half "), Event("reasoning", text="hm"), delta("done")])
            await there.commit(claim)
        told = await heard(follower, "completed")

    kinds = ["accepted", "started", "delta", "reasoning", "delta", "completed"]
    assert told == [("c1", kind) for kind in kinds]


async def test_what_is_heard_of_another_process_says_the_same_as_the_log(tmp_path: Path) -> None:
    events = [delta("a"), Event("delta", text="b", run_id="r", attempt=2, place=3), Event("delta"), delta("é\ud800")]
    path = tmp_path / "q.db"
    async with opened(path) as here, opened(path) as there, here.store.follow() as follower:
        await follower.add(at())
        await there.say("m1", flush=True)
        [claim] = await there.store.claim(owner="w", limit=1, lease=30.0)
        await there.store.publish(claim, 0, events)
        told: list[Event] = []
        async with asyncio.timeout(PATIENCE):
            while len(told) < 2 + len(events):
                told += (await anext(follower.__aiter__())).events
        page = await here.store.read(at())

    assert told == list(page.events)
    assert saying(told[2:]) == saying(events)


def saying(events: Sequence[Event]) -> list[tuple[str, str | None, int, int]]:
    return [(event.text, event.run_id, event.attempt, event.place) for event in events]


async def test_a_row_that_was_given_to_another_thread_tells_nothing_under_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    async with opened(path) as here, opened(path) as there, here.store.follow() as follower:
        for channel in ("first", "second"):
            await follower.add(at(channel))
        await there.say("m1", where=at("first"))
        await there.store.forget(at("first"), force=True)
        await there.say("m1", where=at("second"), flush=True)
        [claim] = await there.store.claim(owner="w", limit=1, lease=30.0)
        await there.commit(claim)
        told = await heard(follower, "completed")

    assert [kind for channel, kind in told if channel == "second"] == ["accepted", "started", "completed"]
    assert {kind for channel, kind in told if channel == "first"} <= {"accepted"}
