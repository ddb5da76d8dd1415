"""What becomes of somebody's messages, for the dialects of front ends: the turn that covers them,
told so that it only grows, as one HTTP response.

A queue answers a burst as one turn, so several requests follow the same run: each is told of it from
its beginning, and of no other run. Text is merged while nobody writes, so a slow reader costs no
more memory than the turn itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.sent_events import COMMENT
from turnkeep.doors.http.turn_encoder import TurnEncoder, is_result_of
from turnkeep.events import Event, StepDetail, TurnFault
from turnkeep.messages import Address
from turnkeep.subscription import SubscriptionStart
from turnkeep.turn_growth import TurnGrowth
from turnkeep.wire import call_form

HEARTBEAT = 15.0
EVERY = 0.05
"""Seconds between two pieces of text: each token alone costs more bytes around it than in it."""

_OF_THE_RUN = frozenset({"waiting", "retrying", "held", "completed", "dead"})
_OF_MESSAGES = frozenset({"withdrawn", "completed", "dead"})


class TurnFeed:
    """A subscriber of the hub. `news` gives what was not told yet: the `started` of a run that covers
    one of `message_ids` (None: any run), then its pieces as `TurnGrowth` has them, and how it goes
    on: waiting, retrying, held, completed, dead; withdrawn messages; what a person said.

    Calls that wait are told in full where `sees_calls`. With `after_calls` no hold is told before the
    result of one of these calls: who decided about them knows that they were held.
    """

    def __init__(
        self, message_ids: Collection[str] | None, *, after_calls: Collection[str] = (), sees_calls: bool = False
    ) -> None:
        self._ids = None if message_ids is None else set(message_ids)
        self._after_calls = set(after_calls)
        self._sees_calls = sees_calls
        self._growth = TurnGrowth()
        self._news: list[Event] = []
        self._status: Event | None = None
        """How the run of the past stands, told when the past is folded."""
        self._top, self._epoch = 0, ""
        self._is_behind = True
        self._run: str | None = None
        """The run whose beginning was told."""
        self.urgent = asyncio.Event()
        """There is something that should not wait for more text."""
        self.some = asyncio.Event()

    def follow(self, *message_ids: str) -> None:
        """These messages as well."""
        self._ids = (self._ids or set()) | set(message_ids)

    # ------------------------------------------------------------ a subscriber

    def on_subscription(self, address: Address, start: SubscriptionStart) -> None:
        self._top, self._epoch = start.top, start.epoch
        self._is_behind = start.start < start.top

    async def wait_for_room(self, address: Address) -> None:
        """There is always room: what is folded is no longer than the turn."""

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        for event in events:
            self._growth.fold(event)
            if self._is_behind:
                self._take_past(event)
            elif event.kind != "delta":
                self._handle(event)
        if not self._is_behind and self._covers and (self._run is None or events[-1].kind != "delta"):
            self.urgent.set()
        self.some.set()

    def _take_past(self, event: Event) -> None:
        if event.kind == "started":
            self._status = None
        elif event.kind in _OF_THE_RUN:
            self._status = event
        elif event.kind == "decided" and self._status is not None:
            self._status = _without_decided(self._status, event)
        if event.offset < self._top and event.epoch == self._epoch:
            return
        self._is_behind = False
        if self._status is not None:
            self._handle(self._status)

    def _handle(self, event: Event) -> None:
        if event.kind == "started" and self._run not in (None, event.run_id) and self._covers:
            # the batch was split: what its first run has shown is not the answer of this one
            self._news.append(Event("step", run_id=event.run_id, detail=StepDetail(1)))
            self._run = event.run_id
        elif event.kind in _OF_THE_RUN and self._covers:
            self._grow()
            self._tell(event)
        elif (event.kind in _OF_MESSAGES and self._concerns(event.message_ids)) or event.kind == "said":
            self._tell(event)

    # ------------------------------------------------------------ what is told

    def news(self) -> Sequence[Event]:
        """What is new, in its order."""
        self.some.clear()
        self.urgent.clear()
        if not self._is_behind and self._covers:
            self._grow()
        news, self._news = self._news, []
        return news

    @property
    def _covers(self) -> bool:
        return self._growth.run_id is not None and self._concerns(self._growth.covers)

    def _concerns(self, message_ids: Collection[str]) -> bool:
        return self._ids is None or not self._ids.isdisjoint(message_ids)

    def _grow(self) -> None:
        if self._run is None:
            self._run = self._growth.run_id
            self._news.append(Event("started", self._growth.covers, run_id=self._run, attempt=self._growth.attempt))
        pieces = self._growth.advance()
        if self._after_calls and any(is_result_of(piece, self._after_calls) for piece in pieces):
            self._after_calls.clear()
        self._news += pieces

    def _tell(self, event: Event) -> None:
        if event.kind == "held" and self._after_calls:
            return
        if event.calls:
            event = replace(event, calls=tuple(call_form(one, in_full=self._sees_calls) for one in event.calls))
        self._news.append(event)
        self.urgent.set()


def _without_decided(status: Event, event: Event) -> Event | None:
    """A hold without the calls that were decided since; none where nothing is left to decide."""
    call_ids = {call["call_id"] for call in event.calls}
    calls = tuple(call for call in status.calls if call["call_id"] not in call_ids)
    return replace(status, calls=calls) if calls else None


async def follow(call: HttpCall, address: Address, feed: TurnFeed, stack: AsyncExitStack) -> SubscriptionStart:
    """Subscribe, to the end of the stack: before anything is taken in, so that nothing is missed."""
    stack.enter_context(call.limits.streaming(call.holder))
    hub = call.application.hub
    start = await hub.subscribe(address, feed)
    stack.push_async_callback(hub.unsubscribe, address, feed)
    return start


async def chunks(call: HttpCall, feed: TurnFeed, encoder: TurnEncoder, first: bytes = b"") -> AsyncIterator[bytes]:
    """What the dialect says of the feed, until its last word or the end of the credential."""
    loop = asyncio.get_running_loop()
    yield first or b": waiting\n\n"
    wrote_at = loop.time()
    with call.watch_credential(feed.some.set) as credential:
        while not encoder.is_done:
            if (over := credential.end) is not None:
                yield encoder.break_off(TurnFault(over.code, over.public))
                return
            await _until_worth_writing(feed, loop.time() - wrote_at)
            if data := encoder.encode(feed.news()):
                wrote_at = loop.time()
                yield data
            elif loop.time() - wrote_at >= HEARTBEAT:
                wrote_at = loop.time()
                yield COMMENT


async def one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _until_worth_writing(feed: TurnFeed, quiet: float) -> None:
    """Until something happens, and then for as long as text alone may wait for more; `quiet` is how long
    nothing was written. Or until something has to be.
    """
    try:
        async with asyncio.timeout(max(0.0, HEARTBEAT - quiet)):
            await feed.some.wait()
        if quiet < EVERY:
            async with asyncio.timeout(EVERY - quiet):
                await feed.urgent.wait()
    except TimeoutError:
        return
