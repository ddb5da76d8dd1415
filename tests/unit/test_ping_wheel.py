"""When open sockets are pinged, in time that moves by itself."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.runs.moved_time import MovedLoop, passed
from turnkeep.doors.ping_wheel import PING_INTERVAL, PINGS_AT_ONCE, TURNS, PingWheel

LATEST = PING_INTERVAL * (1 + 1 / TURNS) + 0.001
"""Seconds after which a socket is pinged at the latest."""


@pytest.fixture
def moved() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=MovedLoop) as runner:
        yield runner


class Pinged:
    """A socket that notes when it is pinged."""

    def __init__(self, wheel: PingWheel, *, again: bool = False, breaks: bool = False) -> None:
        self._wheel = wheel
        self._again = again
        self._breaks = breaks
        self.pinged_at = list[float]()
        self.moment = wheel.add(self, PING_INTERVAL)

    def send_keepalive_ping(self) -> None:
        self.pinged_at.append(passed())
        if self._breaks:
            raise RuntimeError("it breaks")
        if self._again:
            self.moment = self._wheel.add(self, PING_INTERVAL)


def test_each_that_is_due_is_pinged_whatever_becomes_of_another(moved: asyncio.Runner) -> None:
    async def turn() -> None:
        wheel = PingWheel()
        left, broken, whole = Pinged(wheel), Pinged(wheel, breaks=True), Pinged(wheel)
        for _ in range(2):
            wheel.remove(left, left.moment)
        await asyncio.sleep(PING_INTERVAL - 1)
        late = Pinged(wheel)
        assert [len(one.pinged_at) for one in (left, broken, whole, late)] == [0, 0, 0, 0]
        await asyncio.sleep(LATEST - PING_INTERVAL + 1)
        assert [len(one.pinged_at) for one in (left, broken, whole, late)] == [0, 1, 1, 0]
        assert len(wheel) == 1

    moved.run(turn())


def test_one_that_is_to_be_pinged_before_all_others_is(moved: asyncio.Runner) -> None:
    async def turn() -> None:
        wheel = PingWheel()
        usual = Pinged(wheel)
        wheel.remove(usual, usual.moment)
        wheel.add(usual, PING_INTERVAL * 2)
        hasty = Pinged(wheel)
        await asyncio.sleep(LATEST)
        assert (len(hasty.pinged_at), len(usual.pinged_at)) == (1, 0)

    moved.run(turn())


def test_sockets_that_came_at_different_times_are_pinged_together(moved: asyncio.Runner) -> None:
    count, rounds = 300, 3

    async def turn() -> None:
        wheel = PingWheel()
        sockets = list[Pinged]()
        for _ in range(count):
            sockets.append(Pinged(wheel, again=True))
            await asyncio.sleep(PING_INTERVAL / count)
        came_at = [PING_INTERVAL / count * place for place in range(count)]
        await asyncio.sleep(rounds * LATEST)
        moments = Counter(round(at, 3) for one in sockets for at in one.pinged_at)
        assert len(moments) <= (rounds + 1) * (TURNS + 1)
        for start, one in zip(came_at, sockets, strict=True):
            assert len(one.pinged_at) >= rounds
            for before, at in zip([start, *one.pinged_at], one.pinged_at, strict=False):
                assert PING_INTERVAL - 0.001 <= at - before <= LATEST

    moved.run(turn())


def test_a_crowd_that_is_due_at_one_moment_is_pinged_a_few_at_a_turn_of_the_loop(moved: asyncio.Runner) -> None:
    count = 10 * PINGS_AT_ONCE + 1

    async def turn() -> None:
        wheel, loop = PingWheel(), asyncio.get_running_loop()
        sockets = [Pinged(wheel) for _ in range(count)]
        totals = [0]

        def note_turn() -> None:
            totals.append(sum(len(one.pinged_at) for one in sockets))
            if totals[-1] < count:
                loop.call_soon(note_turn)

        loop.call_at(sockets[0].moment, note_turn)
        await asyncio.sleep(LATEST)
        steps = [after - before for before, after in itertools.pairwise(totals)]
        assert (sum(steps), max(steps)) == (count, PINGS_AT_ONCE)
        assert {len(one.pinged_at) for one in sockets} == {1}
        assert not len(wheel)

    moved.run(turn())
