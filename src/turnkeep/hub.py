"""The hub: one follower of the store for all subscribers of a process, each without holes and
without repeats.

A subscriber gets the events of a channel in order of their offsets: first what the log holds after its
position (`subscription`), then what happens. Gaps are found by the offset and filled from the log;
there are no reorder buffers and no timeouts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import field, replace

from turnkeep.clock import Clock, SystemClock, until_tick
from turnkeep.events import Event, TurnFault, newest_of_run
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.resumption import StartingPoint, go_on
from turnkeep.store.contract import Follower, Store
from turnkeep.subscription import CatchUp, ChannelSubscription, Receiver, Subscriber, SubscriptionStart, read_in_time
from turnkeep.telemetry import SILENT, Meter, get_log

log = get_log(__name__)

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


@dataclass(slots=True, eq=False)
class _Fanout:
    """What is delivered of one channel: `last` is the offset up to which it was passed on. Who has read
    the log later than the others is further.
    """

    address: Address
    epoch: str = ""
    last: int = 0
    # a tuple, made anew at each change: subscribers may leave while a delivery walks over it
    subscriptions: tuple[ChannelSubscription, ...] = ()
    reading: bool = False
    look_again: bool = False
    # it has read the log when it came: nothing can have been missed yet
    heard_at: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    patience: float = field(default_factory=lambda: random.uniform(LOOK_AGAIN / 2, LOOK_AGAIN))  # noqa: S311 - no secret
    """Seconds of silence after which it is compared with its log."""
    run: Event | None = None
    """What was heard last of a run in progress; None between runs."""
    run_heard_at: float = 0.0

    def hear(self, events: Sequence[Event]) -> None:
        """Keep in mind whether a run is in progress, and when it has said something."""
        newest = events[-1]  # of a run nearly always, and a token: nothing before it has to be looked at
        run = newest if newest.kind == "delta" else newest_of_run(self.run, events)
        if run is not self.run:
            self.run, self.run_heard_at = run, self.heard_at

    def knows(self, subscription: ChannelSubscription) -> bool:
        """Whether it was told that nothing is heard of the run; nobody is told of none."""
        return self.run is None or subscription.silence is self.run

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
        subscription = ChannelSubscription(subscriber)
        channel.subscriptions = (*channel.subscriptions, subscription)
        try:
            if self._follower is not None:
                await self._follower.add(address)
            catch_up = CatchUp(self._store, address, subscription, subscriber)
            start = await catch_up.read(StartingPoint(after, epoch, history))
        # also when cancelled: what is left behind would be delivered to nobody for ever, and keep
        # its channel followed
        except BaseException:
            await self._leave(channel, subscription)
            raise
        self._go_live(channel, subscription, catch_up.run)
        return start

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
        elif (group.epoch, group.last) == (own.epoch, own.last) and channel.knows(group) is channel.knows(own):
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
            own = replace(group, receiver=subscriber, size=1)
            channel.subscriptions = (*channel.subscriptions, own)

    async def _leave(self, channel: _Fanout, subscription: ChannelSubscription) -> None:
        channel.subscriptions = tuple(s for s in channel.subscriptions if s is not subscription)
        # the very object: a newcomer may have made the channel anew while the last one left, and
        # would hear nothing ever
        if not channel.subscriptions and self._channels.get(channel.address) is channel:
            del self._channels[channel.address]
            if self._follower is not None:
                await self._follower.discard(channel.address)

    def _drop(self, channel: _Fanout, subscription: ChannelSubscription) -> None:
        """Leave on behalf of a subscriber that broke, while its error is handled: the others go on."""
        log.exception(
            "subscriber_broke", subscriber=type(subscription.receiver).__name__, subscribers=subscription.size
        )
        # as a task: this happens in the middle of a delivery, which may not wait
        if self._group is not None:
            self._group.create_task(self._leave(channel, subscription))

    def _go_live(self, channel: _Fanout, subscription: ChannelSubscription, run: Event | None) -> None:
        """From here on it is told with the others. The first one says where the channel is, and whether
        a run is in progress.
        """
        is_first = not channel.is_live
        subscription.live = True
        if is_first:
            channel.epoch, channel.last = subscription.epoch, subscription.last
            channel.run, channel.run_heard_at = run, asyncio.get_running_loop().time()
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
                page = await read_in_time(self._store, channel.address, channel.last)
                if page.epoch != channel.epoch and page.epoch:
                    channel.epoch, channel.last = page.epoch, go_on(channel.epoch, channel.last, page)
                    # what was lost may be how it ended
                    channel.run = channel.run if page.live_from is not None else None
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

    async def _look_at_silent_channels(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # a fifth of it: silence is told at most a second late
            due = loop.time() + (wait := until_tick(SILENCE / 5))
            await asyncio.sleep(wait)
            now = loop.time()
            # it was we who stood still: what was said meanwhile waits to be heard
            if now - due > SILENCE / 2:
                continue
            # a copy: a subscriber that breaks leaves while it is told
            for channel in list(self._channels.values()):
                if channel.run is not None and channel.run_heard_at < now - SILENCE:
                    self._tell_silence(channel, channel.run)
                if channel.heard_at < now - channel.patience:
                    channel.heard_at = now
                    self._read_on(channel)

    def _tell_silence(self, channel: _Fanout, run: Event) -> None:
        """Tell those who watch and were not told yet: nobody may be left who could.

        It is not in the log, so it has the position of what was delivered last.
        """
        event = Event("processing", run.message_ids, run_id=run.run_id, attempt=run.attempt, error=SILENT_RUN)
        notice = event.at_position(channel.last, channel.epoch, self._clock.now())
        for subscription in channel.subscriptions:
            # it stands in no log: whoever is behind would get it at a place where
            # it does not belong
            is_there = subscription.live and (subscription.epoch, subscription.last) == (channel.epoch, channel.last)
            if is_there and not channel.knows(subscription):
                subscription.silence = run
                try:
                    subscription.receiver.deliver(channel.address, (notice,))
                except Exception:
                    self._drop(channel, subscription)


def _find(channel: _Fanout | None, receiver: Receiver) -> ChannelSubscription | None:
    subscriptions = channel.subscriptions if channel is not None else ()
    return next((one for one in subscriptions if one.receiver is receiver), None)
