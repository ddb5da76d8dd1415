"""The hub: one follower of the store for all subscribers of a process, each without holes and
without repeats.

A subscriber is anything with `deliver`. It gets the events of a channel in order of their offsets:
first what the log holds after its position, then what happens. Gaps are found by the offset and
filled from the log; there are no reorder buffers and no timeouts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from turnkeep.backoff import Backoff
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import StoreError
from turnkeep.events import BESIDE_TEXT, Answer, Event, TurnFault
from turnkeep.messages import Address
from turnkeep.resumption import go_on, is_of_log, start_offset
from turnkeep.store.contract import Follower, Store
from turnkeep.store.values import Page
from turnkeep.telemetry import SILENT, Meter, get_log

log = get_log(__name__)

PATIENCE = Backoff(delay=0.05, cap=2.0)
PIECE = 64_000
"""Characters of text of the past that are delivered at once."""
LAST_ANSWER = 64
"""Events at the end of a log among which the last answer is looked for."""
LOOK_AGAIN = 20.0
"""Seconds after which a silent channel is compared with its log at the latest, in case a hint was lost.
Each channel has its own between half of it and all: a thousand that came together, or fell silent
together, would be read together, and the loop would do nothing else meanwhile.
"""
SILENCE = 5.0
"""Seconds without a word of a run after which those who watch are told that it is still theirs to
wait for.
"""
SILENT_RUN = TurnFault(
    "silent",
    "The answer takes a moment longer.",
    f"nothing was heard of this run for {SILENCE:.0f} s: it thinks, or another worker takes over from one that is gone",
)


_OF_A_RUN = BESIDE_TEXT | {"started", "delta", "snapshot", "processing", "responding"}
_ENDS_A_RUN = frozenset(("completed", "dead", "held", "retrying", "waiting"))


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
class _Subscription:
    receiver: Receiver
    epoch: str
    last: int
    live: bool = False
    size: int = 1
    """How many subscribers the receiver stands for."""
    look_again: bool = False
    """Something happened while it was catching up, which it reads for itself."""

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


@dataclass(slots=True, eq=False)
class _Fanout:
    """What is delivered of one channel: `last` is the offset that all its live subscribers have."""

    address: Address
    epoch: str = ""
    last: int = 0
    # a tuple, made anew at each change: subscribers may leave while a delivery walks over it
    subscriptions: tuple[_Subscription, ...] = ()
    reading: bool = False
    look_again: bool = False
    # it has read the log when it came: nothing can have been missed yet
    heard_at: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    patience: float = field(default_factory=lambda: random.uniform(LOOK_AGAIN / 2, LOOK_AGAIN))  # noqa: S311 - no secret
    """Seconds of silence after which it is compared with its log."""
    run: Event | None = None
    """What was heard last of a run in progress; None between runs, and once its silence was told.
    """

    def hear(self, events: Sequence[Event]) -> None:
        """Keep in mind whether a run is in progress."""
        for event in events:
            if event.kind in _OF_A_RUN:
                self.run = event
            elif event.kind in _ENDS_A_RUN:
                self.run = None

    @property
    def is_live(self) -> bool:
        """Somebody has come as far as what happens now."""
        for subscription in self.subscriptions:  # noqa: SIM110 - a generator would be two calls more for each token
            if subscription.live:
                return True
        return False

    def goes_on_with(self, event: Event) -> bool:
        """Nothing is missing before it."""
        # before the first event of a log that was not there nothing can be
        if not self.epoch and event.offset == 1:
            return True
        return event.epoch == self.epoch and event.offset <= self.last + 1


class Hub:
    """Fan-out of one process. `run` until cancelled; subscriptions wait until it runs."""

    def __init__(self, store: Store, *, meter: Meter = SILENT, clock: Clock | None = None) -> None:
        self._store = store
        self.meter = meter
        self._clock = clock or SystemClock()
        self._channels: dict[Address, _Fanout] = {}
        self._follower: Follower | None = None
        self._following = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    @property
    def channels(self) -> int:
        return len(self._channels)

    @property
    def subscribers(self) -> int:
        return sum(one.size for channel in self._channels.values() for one in channel.subscriptions)

    async def run(self) -> None:
        ends = [
            self.meter.watch("channels", lambda: self.channels),
            self.meter.watch("subscribers", lambda: self.subscribers),
        ]
        try:
            await self._follow()
        finally:
            for end in ends:
                end()

    async def _follow(self) -> None:
        async with self._store.follow() as follower, asyncio.TaskGroup() as group:
            self._follower, self._group = follower, group
            for address in self._channels:
                await follower.add(address)
            self._following.set()
            group.create_task(self._look_at_silent_channels())
            async for notice in follower:
                channel = self._channels.get(notice.address)
                if channel is not None:
                    self._hear(channel, notice.events)

    async def subscribe(
        self,
        address: Address,
        subscriber: Subscriber,
        *,
        after: int | None = None,
        epoch: str | None = None,
        history: int = 0,
    ) -> SubscriptionStart:
        """Deliver the channel's events from a position on: after (epoch, offset), or the last
        `history` events, or what comes now.

        Without a position, a run in progress is delivered from its beginning. Of an answer whose
        beginning is not delivered, the pieces are not either, only how it ended. Registered first,
        then read, so nothing falls between.
        """
        await self._following.wait()
        channel = self._channels.setdefault(address, _Fanout(address))
        subscription = _Subscription(subscriber, "", 0)
        channel.subscriptions = (*channel.subscriptions, subscription)
        try:
            if self._follower is not None:
                await self._follower.add(address)
            return await self._catch_up(channel, subscription, subscriber, after, epoch, history)
        # also when cancelled: what is left behind would be delivered to nobody for ever, and keep
        # its channel followed
        except BaseException:
            await self._leave(channel, subscription)
            raise

    async def unsubscribe(self, address: Address, subscriber: Subscriber) -> bool:
        channel = self._channels.get(address)
        own = [s for s in channel.subscriptions if s.receiver is subscriber] if channel else []
        for subscription in own:
            if channel is not None:
                await self._leave(channel, subscription)
        return bool(own)

    def merge(self, address: Address, subscriber: Subscriber, into: Receiver) -> bool:
        """Deliver to this receiver in place of the subscriber, if whom it stands for already are as far:
        a thousand who get the same are one delivery. Until `split`; never within a delivery.
        """
        channel = self._channels.get(address)
        own, group = (_find(channel, one) for one in (subscriber, into))
        if channel is None or own is None or not own.live:
            return False
        if group is None:
            own.receiver = into
        elif (group.epoch, group.last) == (own.epoch, own.last):
            group.size += 1
            channel.subscriptions = tuple(one for one in channel.subscriptions if one is not own)
        else:
            return False
        return True

    def split(self, address: Address, receiver: Receiver, subscriber: Subscriber) -> None:
        """Deliver to the subscriber himself again, from where the receiver is: also within a delivery
        to it, of which he has what it has.
        """
        channel = self._channels.get(address)
        group = _find(channel, receiver)
        if channel is None or group is None:
            return
        if group.size == 1:
            group.receiver = subscriber
        else:
            group.size -= 1
            own = _Subscription(subscriber, group.epoch, group.last, live=True)
            channel.subscriptions = (*channel.subscriptions, own)

    async def _leave(self, channel: _Fanout, subscription: _Subscription) -> None:
        channel.subscriptions = tuple(s for s in channel.subscriptions if s is not subscription)
        # the very object: a newcomer may have made the channel anew while the last one left, and
        # would hear nothing ever
        if not channel.subscriptions and self._channels.get(channel.address) is channel:
            del self._channels[channel.address]
            if self._follower is not None:
                await self._follower.discard(channel.address)

    def _drop(self, channel: _Fanout, subscription: _Subscription) -> None:
        """Leave on behalf of a subscriber that broke, while its error is handled: the others go on."""
        log.exception(
            "subscriber_broke", subscriber=type(subscription.receiver).__name__, subscribers=subscription.size
        )
        # as a task: this happens in the middle of a delivery, which may not wait
        if self._group is not None:
            self._group.create_task(self._leave(channel, subscription))

    async def _catch_up(  # noqa: PLR0917 - the subscription that is asked for, whole
        self,
        channel: _Fanout,
        subscription: _Subscription,
        subscriber: Subscriber,
        after: int | None,
        epoch: str | None,
        history: int,
    ) -> SubscriptionStart:
        # for its numbers alone: top, floor, and where a run in progress begins
        page = await self._store.read(channel.address, after=0, limit=1)
        start = start_offset(page, after, epoch, history)
        # a server that was promoted may have lost the end of the log that this subscriber has seen
        if after is not None and start == page.top < after:
            start = await self._before_last_answer(channel.address, page)
        is_recovered = after is not None and start == after and is_of_log(page, after, epoch) and page.floor <= after
        subscription.epoch, subscription.last = page.epoch, start
        answer = await self._answer_until(channel.address, page.live_from, start)
        subscription_start = SubscriptionStart(page.epoch, start, page.top, is_recovered, answer)
        subscriber.on_subscription(channel.address, subscription_start)
        in_a_turn = not is_recovered and answer.run_id is None  # whose beginning nobody has told
        # `take` notes what happens meanwhile instead of keeping it: no buffer here can overflow
        while subscription.last < page.top or subscription.look_again:
            subscription.look_again = False
            page = await self._page(channel.address, subscription.last)
            if page.epoch != subscription.epoch:
                subscription.last = go_on(subscription.epoch, subscription.last, page)
                subscription.epoch = page.epoch
                continue
            subscription.last = page.top
            if page.events:
                subscription.last = page.events[-1].offset
                begin = _beginning(page.events) if in_a_turn else 0
                in_a_turn = in_a_turn and begin == len(page.events)
                # pieces of an answer whose beginning was not delivered would be shown as if they
                # were the answer
                events = [*(e for e in page.events[:begin] if e.kind != "delta"), *page.events[begin:]]
                for piece in _pieces(events):
                    subscriber.deliver(channel.address, piece)
                    # the past may be megabytes: it comes as fast as it is read, not as fast as the
                    # log gives it
                    await subscriber.wait_for_room(channel.address)
        self._go_live(channel, subscription)
        return subscription_start

    async def _before_last_answer(self, address: Address, page: Page) -> int:
        """Of a log that has lost its end: where the last answer begins that it still
        holds, in one event.
        """
        last = await self._store.read(address, after=max(0, page.top - LAST_ANSWER), limit=LAST_ANSWER)
        return next((event.offset - 1 for event in reversed(last.events) if event.is_final), page.top)

    async def _answer_until(self, address: Address, live_from: int | None, start: int) -> Answer:
        """The answer of the run in progress, folded up to this offset."""
        answer, after = Answer(), (live_from or 0) - 1
        while live_from is not None and after < start:
            page = await self._store.read(address, after=after)
            for event in page.events:
                if event.offset <= start:
                    answer.take(event)
            if not page.events:
                break
            after = page.events[-1].offset
        return answer

    def _go_live(self, channel: _Fanout, subscription: _Subscription) -> None:
        """From here on it is told with the others. The first one says where the channel is."""
        subscription.live = True
        if not any(other.live for other in channel.subscriptions if other is not subscription):
            channel.epoch, channel.last = subscription.epoch, subscription.last
        # the two have read the log at different moments: one more look brings them together
        elif (channel.epoch, channel.last) != (subscription.epoch, subscription.last):
            self._read_on(channel)

    def _hear(self, channel: _Fanout, events: Sequence[Event]) -> None:
        """New events, or only the hint that there are some."""
        channel.heard_at = asyncio.get_running_loop().time()
        # each one reads for itself what it misses while it catches up
        if not channel.is_live:
            for subscription in channel.subscriptions:
                subscription.look_again = True
        # no reordering in memory, which would need a bound and a timeout: the log has the order
        elif channel.reading or not events or not channel.goes_on_with(events[0]):
            self._read_on(channel)
        else:
            self._pass_on(channel, events)

    def _pass_on(self, channel: _Fanout, events: Sequence[Event]) -> None:
        if events[-1].offset <= channel.last:
            return
        # at the seam between the log and the hints an event may come twice
        if events[0].offset <= channel.last:
            events = [event for event in events if event.offset > channel.last]
        address, before, epoch, last = channel.address, channel.last, events[-1].epoch, events[-1].offset
        channel.epoch, channel.last = epoch, last
        channel.hear(events)
        is_one_epoch = events[0].epoch == epoch
        for subscription in channel.subscriptions:
            # one that breaks must not end the hub, which is everybody's
            try:
                # nearly all are where the channel is
                if subscription.live and subscription.last == before and subscription.epoch == epoch and is_one_epoch:
                    subscription.last = last
                    subscription.receiver.deliver(address, events)
                else:
                    subscription.take(address, events)
            except Exception:
                self._drop(channel, subscription)
        if events[-1].kind == "completed" and self.meter is not SILENT:
            self.meter.observe("log_lag_seconds", max(0.0, self._clock.now() - events[-1].at))

    def _read_on(self, channel: _Fanout) -> None:
        """Fill the hole from the log; what is heard meanwhile is looked up afterwards."""
        if channel.reading:
            channel.look_again = True
        elif self._group is not None:
            channel.reading = True
            self.meter.count("log_reads")
            self._group.create_task(self._fill_hole(channel))

    async def _fill_hole(self, channel: _Fanout) -> None:
        try:
            while channel.subscriptions:
                channel.look_again = False
                page = await self._page(channel.address, channel.last)
                if page.epoch != channel.epoch and page.epoch:
                    channel.epoch, channel.last = page.epoch, go_on(channel.epoch, channel.last, page)
                    continue
                if page.events:
                    self._pass_on(channel, page.events)
                elif not channel.look_again:
                    return
        except Exception:
            # a log that cannot be read once ended the hub of the process: it ends
            # its own reading alone
            log.exception("channel_unreadable", watched=len(self._channels))
        finally:
            channel.reading = False

    async def _page(self, address: Address, after: int) -> Page:
        """What the log holds after an offset.

        A subscriber was promised to be told: read until the store answers.
        """
        failures = 0
        while True:
            try:
                return await self._store.read(address, after=after)
            except StoreError as error:
                if not error.retryable:
                    raise
                failures += 1
                log.warning("log_read_failed", error=str(error), failures=failures)
            await asyncio.sleep(PATIENCE.after(failures))

    async def _look_at_silent_channels(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # a fifth of it: silence is told at most a second late
            due = loop.time() + SILENCE / 5
            await asyncio.sleep(SILENCE / 5)
            now = loop.time()
            # it was we who stood still: what was said meanwhile waits to be heard
            if now - due > SILENCE / 2:
                continue
            # a copy: a subscriber that breaks leaves while it is told
            for channel in list(self._channels.values()):
                if channel.run is not None and channel.heard_at < now - SILENCE:
                    self._tell_silence(channel, channel.run)
                if channel.heard_at < now - channel.patience:
                    channel.heard_at = now
                    self._read_on(channel)

    def _tell_silence(self, channel: _Fanout, run: Event) -> None:
        """Tell those who watch, once: nobody may be left who could.

        It is not in the log, so it has the position of what was delivered last.
        """
        channel.run = None
        event = Event("processing", run.message_ids, run_id=run.run_id, attempt=run.attempt, error=SILENT_RUN)
        notice = event.at_position(channel.last, channel.epoch, self._clock.now())
        for subscription in channel.subscriptions:
            # it stands in no log: whoever is behind would get it at a place where
            # it does not belong
            if subscription.live and (subscription.epoch, subscription.last) == (channel.epoch, channel.last):
                try:
                    subscription.receiver.deliver(channel.address, (notice,))
                except Exception:
                    self._drop(channel, subscription)


def _find(channel: _Fanout | None, receiver: Receiver) -> _Subscription | None:
    subscriptions = channel.subscriptions if channel is not None else ()
    return next((one for one in subscriptions if one.receiver is receiver), None)


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
