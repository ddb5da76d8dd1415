"""What all runs of a process tell their subscribers, published together.

A token alone would cost an operation of the store: a task, a future, a transaction or a round trip.
So each lane of the store has one publication at a time, and what is said meanwhile goes with the
next; between two of them are a few milliseconds, so that a thousand runs share one. After a silence
the first word goes at once.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from turnkeep.messages import Address
from turnkeep.store.contract import Events
from turnkeep.store.values import Publication

TICK = 0.005
"""Seconds between the beginnings of two publications of a lane."""


class Speaker(Protocol):
    """A run that has something to say."""

    def take(self) -> Publication:
        """All that is to be published now."""
        ...

    def settle(self, outcome: int | Exception) -> None:
        """What came of it: the top of the log, or what `Events.publish` raises. May not wait."""
        ...


class Publisher:
    """Publishes for all runs of a process, while `run` runs; what is said before waits for it."""

    def __init__(self, store: Events) -> None:
        self._store = store
        self._lanes: dict[int, Lane] = {}
        self._group: asyncio.TaskGroup | None = None

    def lane(self, address: Address) -> Lane:
        """What is published together with this channel."""
        number = self._store.lane_of(address)
        if (lane := self._lanes.get(number)) is None:
            lane = self._lanes[number] = Lane(self._store)
            lane.open(self._group)
        return lane

    async def run(self) -> None:
        """Publish until cancelled, and with it what is on its way: runs end before."""
        async with asyncio.TaskGroup() as group:
            self._open(group)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._open(None)

    def _open(self, group: asyncio.TaskGroup | None) -> None:
        self._group = group
        for lane in self._lanes.values():
            lane.open(group)


class Lane:
    """One publication at a time, of all who have something to say."""

    def __init__(self, store: Events) -> None:
        self._store = store
        self._speakers: list[Speaker] = []
        self._begun_at = float("-inf")
        self._begin: asyncio.Handle | None = None
        self._group: asyncio.TaskGroup | None = None
        self._publishing: asyncio.Task[None] | None = None

    def open(self, group: asyncio.TaskGroup | None) -> None:
        """Publish in tasks of this group from now on, and not at all without one."""
        self._group = group
        if self._begin is not None:
            self._begin.cancel()
            self._begin = None
        if self._speakers and self._publishing is None:
            self._go_on()

    def add(self, speaker: Speaker) -> None:
        """`take` is called for him soon, once."""
        self._speakers.append(speaker)
        if self._begin is None and self._publishing is None:
            self._go_on()

    def hurry(self) -> None:
        """Do not wait for the tick: somebody waits for what was said."""
        if self._publishing is None and self._speakers:
            self._begin_at(float("-inf"))

    def _go_on(self) -> None:
        self._begin_at(self._begun_at + TICK)

    def _begin_at(self, moment: float) -> None:
        if self._group is None:
            return
        loop = asyncio.get_running_loop()
        if self._begin is not None:
            self._begin.cancel()
        # Soon and not now: who speaks in the same turn of the loop goes along.
        begin = partial(self._publish_now, self._group)
        self._begin = loop.call_soon(begin) if moment <= loop.time() else loop.call_at(moment, begin)

    def _publish_now(self, group: asyncio.TaskGroup) -> None:
        self._begin = None
        self._begun_at = asyncio.get_running_loop().time()
        speakers, self._speakers = self._speakers, []
        self._publishing = group.create_task(self._publish(speakers))

    async def _publish(self, speakers: list[Speaker]) -> None:
        outcomes: list[int | Exception] = []
        try:
            outcomes += await self._store.publish_many([speaker.take() for speaker in speakers])
        # A mistake of ours, too: it ends the runs that it concerns, not the publishing for all others.
        except Exception as error:
            outcomes += [error] * len(speakers)
        finally:
            self._publishing = None
            if self._speakers:
                self._go_on()
        for speaker, outcome in zip(speakers, outcomes, strict=True):
            speaker.settle(outcome)
