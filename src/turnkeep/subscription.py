"""One subscription of a channel: where it begins, how it catches up with the log, and what it takes of
what happens then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

from turnkeep.backoff import Backoff
from turnkeep.errors import StoreError
from turnkeep.events import Answer, Event, newest_of_run
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.resumption import StartingPoint, go_on
from turnkeep.store.contract import Store
from turnkeep.store.values import Page
from turnkeep.telemetry import get_log

log = get_log(__name__)

PATIENCE = Backoff(delay=0.05, cap=2.0)
"""Between two looks into a log of a store that does not answer."""
PIECE = 64_000
"""Characters of text of the past that are delivered at once."""
LAST_ANSWER = 64
"""Events at the end of a log among which the last answer is looked for."""


@dataclass(frozen=True, slots=True)
class SubscriptionStart:
    """Where a subscription begins: events after `start` are delivered.

    `is_recovered`: the position asked for was still in the log, so nothing is missed. `top` is the
    newest offset, `answer` what a run in progress has shown up to `start`.
    """

    epoch: str
    start: int
    top: int
    is_recovered: bool
    answer: Answer


class Receiver(Protocol):
    """The end of a stream; what is delivered is in order and without holes."""

    def deliver(self, address: Address, events: Sequence[Event]) -> None:
        """May not wait."""
        ...


class Subscriber(Receiver, Protocol):
    """Whoever asks for a stream."""

    def on_subscription(self, address: Address, start: SubscriptionStart) -> None:
        """Called once, before the first event."""
        ...

    async def wait_for_room(self, address: Address) -> None:
        """Wait until more of the past can be delivered: called after each piece of it, never while
        others wait.
        """
        ...


@dataclass(slots=True, eq=False)
class ChannelSubscription:
    """How far one receiver is in a channel. It is told what happens once it is `live`; before that
    `CatchUp` reads the log for it.
    """

    receiver: Receiver
    epoch: str = ""
    last: int = 0
    live: bool = False
    size: int = 1
    """How many subscribers the receiver stands for."""
    look_again: bool = False
    """Something happened while it was catching up, which it reads for itself."""
    silence: Event | None = None
    """What was heard last of the run of whose silence it was told."""

    def take(self, address: Address, events: Sequence[Event]) -> None:
        """Pass on what is new to this subscriber."""
        if not self.live:
            self.look_again = True
            return
        # offsets of another epoch are other numbers: what comes first of it is
        # new, whatever its offset
        if events[0].epoch != self.epoch:
            self.epoch, self.last = events[0].epoch, events[0].offset - 1
        # who has read the log later than the others has a part of them
        if events[0].offset <= self.last:
            events = [event for event in events if event.offset > self.last]
            if not events:
                return
        self.last = events[-1].offset
        self.receiver.deliver(address, events)


class CatchUp:
    """What is delivered to a subscriber before he is as far as the log.

    `run`: what was read last of a run in progress; None where there is none.
    """

    def __init__(
        self, store: Store, address: Address, subscription: ChannelSubscription, subscriber: Subscriber
    ) -> None:
        self._store = store
        self._address = address
        self._subscription = subscription
        self._subscriber = subscriber
        self._is_in_a_turn = False
        """Everything yet is of a turn whose beginning nobody has told."""
        self.run: Event | None = None

    async def read(self, point: StartingPoint) -> SubscriptionStart:
        """Everything from there up to now. Nothing waits between the last look and the return."""
        start = await self._begin(point)
        subscription, top = self._subscription, start.top
        # `take` notes what happens meanwhile instead of keeping it: no buffer here can overflow
        while subscription.last < top or subscription.look_again:
            subscription.look_again = False
            page = await read_in_time(self._store, self._address, subscription.last)
            if page.epoch != subscription.epoch:
                subscription.last = go_on(subscription.epoch, subscription.last, page)
                subscription.epoch = page.epoch
                self.run = self.run if page.live_from is not None else None
            elif page.events:
                subscription.last = page.events[-1].offset
                await self._deliver(page.events)
            else:
                subscription.last = page.top
            top = page.top
        return start

    async def _begin(self, point: StartingPoint) -> SubscriptionStart:
        """Find the point in the log, and say so."""
        # for its numbers alone: top, floor, and where a run in progress begins
        page = await self._store.read(self._address, after=0, limit=1)
        start = point.offset_in(page)
        # a server that was promoted may have lost the end of the log that this subscriber has seen
        if point.after is not None and start == page.top < point.after:
            start = await self._before_last_answer(page)
        answer = await self._answer_until(page.live_from, start)
        subscription_start = SubscriptionStart(page.epoch, start, page.top, point.is_kept_by(page, start), answer)
        self._subscription.epoch, self._subscription.last = page.epoch, start
        self._subscriber.on_subscription(self._address, subscription_start)
        self._is_in_a_turn = not subscription_start.is_recovered and answer.run_id is None
        return subscription_start

    async def _before_last_answer(self, page: Page) -> int:
        """Of a log that has lost its end: where the last answer begins that it still
        holds, in one event.
        """
        last = await self._store.read(self._address, after=max(0, page.top - LAST_ANSWER), limit=LAST_ANSWER)
        return next((event.offset - 1 for event in reversed(last.events) if event.is_final), page.top)

    async def _answer_until(self, live_from: int | None, start: int) -> Answer:
        """The answer of the run in progress, folded up to this offset."""
        answer, after = Answer(), (live_from or 0) - 1
        while live_from is not None and after < start:
            page = await self._store.read(self._address, after=after)
            events = [event for event in page.events if event.offset <= start]
            for event in events:
                answer.take(event)
            self.run = newest_of_run(self.run, events)
            if not page.events:
                break
            after = page.events[-1].offset
        return answer

    async def _deliver(self, events: Sequence[Event]) -> None:
        self.run = newest_of_run(self.run, events)
        begin = _beginning(events) if self._is_in_a_turn else 0
        self._is_in_a_turn = self._is_in_a_turn and begin == len(events)
        # pieces of an answer whose beginning was not delivered would be shown as if they
        # were the answer
        for piece in _pieces([*(e for e in events[:begin] if e.kind != "delta"), *events[begin:]]):
            self._subscriber.deliver(self._address, piece)
            # the past may be megabytes: it comes as fast as it is read, not as fast as the
            # log gives it
            await self._subscriber.wait_for_room(self._address)


async def read_in_time(store: Store, address: Address, after: int) -> Page:
    """What the log holds after an offset.

    A subscriber was promised to be told: read until the store answers.
    """
    failures = 0
    while True:
        try:
            return await store.read(address, after=after)
        except StoreError as error:
            if not error.retryable:
                raise
            failures += 1
            log.warning("log_read_failed", error=str(error), failures=failures)
        await asyncio.sleep(PATIENCE.after(failures))


def _pieces(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Events in pieces of at most `PIECE` characters of text; one that is longer stands alone."""
    piece: list[Event] = []
    size = 0
    for event in events:
        if piece and size + len(event.text) > PIECE:
            yield piece
            piece, size = [], 0
        piece.append(event)
        size += len(event.text)
    if piece:
        yield piece


def _beginning(events: Sequence[Event]) -> int:
    """The place of the first event that a text begins with: pieces before it are the rest of an
    answer whose beginning the log has no more, or the position leaves out.
    """
    return next((place for place, event in enumerate(events) if event.kind in ("started", "snapshot")), len(events))
