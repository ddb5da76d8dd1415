"""The forwarder: what happens in the log goes to receivers outside, each with a position of its own
in the store.

At least once, in the order of each channel; `offset` and `epoch` let a receiver drop repeats. Of
all processes one at a time delivers a partition, by lease; another one goes on from the stored
position when it dies. A receiver that is slow or away delays itself alone: runs, sockets and other
receivers do not wait. It is tried again with jitter for as long as the outbox holds what it missed.
An event that it fails on again and again is parked (`parking`), and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from turnkeep.backoff import Backoff
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import ConfigurationError, LeaseLost, NotFound, StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.outbound.parking import PARKING_RULES, Away, DeliveryFailure, Health, Parking, ParkingRules, reason_of
from turnkeep.store.contract import Events, Store
from turnkeep.store.sinks import Delivery, Selection, SinkRecord
from turnkeep.telemetry import SILENT, Meter, get_log

log = get_log(__name__)


class SinkReceiver(AbstractAsyncContextManager[Any], Protocol):
    """An outside that takes events. Open while it is entered."""

    kind: str
    """relay, reply or webhook: the name of the sink, and a label of measurements."""

    tenant: str | None
    """Whose events it takes; None: all."""
    finals: bool
    """Whether it takes only how turns ended. What it does not take is not kept for it."""

    def wants(self, delivery: Delivery) -> bool: ...

    async def deliver(self, deliveries: Sequence[Delivery]) -> int:
        """Deliver the first ones, in order, and say how many were received for sure, at least one.

        Raises `DeliveryFailure` when the first one was not, `Away` when that says nothing about
        the event, `ConfigurationError` when this receiver must not be used at all. Another call may
        repeat what an earlier one sent.
        """
        ...


@dataclass(frozen=True, slots=True)
class ForwardRules:
    """Seconds, and events at once."""

    watch_every: float = 30.0
    """What the store says of the sink is read this often, for the log and the measurements."""

    lease: float = 30.0
    page: int = 500
    pause: float = 0.05
    """Between two pages while there is something: what is merged for a receiver is
    merged over this time.
    """
    idle: float = 0.25
    store_every: float = 1.0
    """A position is stored at the end of a turn, else this often."""
    backoff: Backoff = Backoff(delay=0.25, cap=10.0)
    parking: ParkingRules = PARKING_RULES


class Forwarder:
    """Carries the events of one queue to one receiver while `run` runs."""

    def __init__(
        self,
        store: Store,
        receiver: SinkReceiver,
        *,
        queue: str,
        rules: ForwardRules | None = None,
        meter: Meter = SILENT,
        clock: Clock | None = None,
    ) -> None:
        self.sink = sink_name(receiver.kind, queue)
        self.store = store
        self.receiver = receiver
        self.queue = queue
        self.rules = rules or ForwardRules()
        self.meter = meter
        self.clock = clock or SystemClock()
        self.owner = f"forwarder-{secrets.token_hex(8)}"
        self._finishing = asyncio.Event()

    @property
    def is_finishing(self) -> bool:
        return self._finishing.is_set()

    def finish(self) -> None:
        """Let `run` return once nothing waits here any more."""
        self._finishing.set()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until it is time to finish."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._finishing.wait()

    async def run(self) -> None:
        """Deliver until cancelled.

        Returns after `finish`, and when the receiver must not be used; its sink is closed then.
        """
        self.health = Health(self.rules.parking)
        try:
            async with self.receiver, asyncio.TaskGroup() as group:
                serving = [group.create_task(self._serve(partition)) for partition in await self._open()]
                watching = group.create_task(self._watch())
                await asyncio.wait(serving)
                watching.cancel()
        except* ConfigurationError as wrong:
            log.error("sink_disabled", sink=self.sink, reason=str(_first_of(wrong)))
            await close_sink(self.store, self.sink)

    async def _open(self) -> Sequence[int]:
        failures = 0
        while True:
            try:
                return await self.store.open_sink(self.sink, selection(self.receiver, self.queue))
            except StoreError as error:
                failures += 1
                log.warning("sink_not_opened", sink=self.sink, error=str(error))
                await asyncio.sleep(self.rules.backoff.after(failures))

    async def _serve(self, partition: int) -> None:
        """Become the one who delivers this partition, and deliver; again when that ends."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                position = await self.lease(partition)
                if position is None:
                    await self.pause(self.rules.lease / 3)
                else:
                    await _PartitionDelivery(self, partition, position).go_on()
                if self.is_finishing:
                    return
            # Somebody else delivers: wait for the lease again, and go on from where he got to.
            except LeaseLost:
                continue
            # The sink was closed while it is set here: by hand, or by a process of other settings.
            except NotFound:
                await self._open()
            except StoreError as error:
                # A store that served for a while has recovered: its next failure is a first one.
                failures = failures + 1 if loop.time() - began < self.rules.backoff.cap else 1
                log.warning("sink_waits_for_store", sink=self.sink, error=str(error), times=failures)
                await asyncio.sleep(self.rules.backoff.after(failures))

    async def _watch(self) -> None:
        """Tell what does not get through, and what fell out of the outbox because it did not for
        too long.
        """
        lost_before: int | None = None
        record = SinkRecord(self.sink)
        ends = [
            self.meter.watch("sink_parked", lambda: record.parked),
            self.meter.watch("sink_lost", lambda: record.lost),
        ]
        try:
            while True:
                # Only measured here: who delivers tells of a store that is away.
                with contextlib.suppress(StoreError):
                    record = next((one for one in await self.store.sinks() if one.name == self.sink), record)
                if lost_before is not None and record.lost > lost_before:
                    log.error("deliveries_lost", sink=self.sink, lost=record.lost - lost_before, waiting=record.waiting)
                lost_before = record.lost
                await asyncio.sleep(self.rules.watch_every)
        finally:
            for end in ends:
                end()

    async def lease(self, partition: int) -> str | None:
        return await self.store.lease_sink(self.sink, partition, owner=self.owner, lease=self.rules.lease)


class _PartitionDelivery:
    """One partition in the hands of this process: from the stored position on, until
    the lease is lost.
    """

    def __init__(self, forwarder: Forwarder, partition: int, position: str) -> None:
        self._of = forwarder
        self._rules = forwarder.rules
        self._partition = partition
        self._position = self._stored_position = position
        self._loop = asyncio.get_running_loop()
        self._leased_at = self._stored_at = self._loop.time()
        # In a row: of any kind; of the first event that waits.
        self._failures = self._tries = 0
        # Events handed over at once: one after a failure, to find the one that fails, then twice as
        # many each time.
        self._size = self._rules.page
        self._health = forwarder.health
        self._parking = Parking(
            forwarder.store,
            forwarder.receiver.deliver,
            (forwarder.sink, partition),
            rules=self._rules.parking,
            health=self._health,
        )

    async def go_on(self) -> None:
        await self._parking.load()
        try:
            async with asyncio.TaskGroup() as group:
                retrying = group.create_task(self._parking.run())
                await self._carry()
                retrying.cancel()
        except BaseExceptionGroup as errors:
            raise _first_of(errors) from errors

    async def _carry(self) -> None:
        idle = self._rules.pause
        while True:
            await self._keep_lease()
            page = await self._next_page()
            if page:
                await self._hand_over(page)
                idle = self._rules.pause
            else:
                await self._store_position()
                if self._of.is_finishing:
                    return
                idle = min(idle * 1.5, self._rules.idle)
            await self._of.pause(idle)

    async def _keep_lease(self) -> None:
        # Two renewals may fail before another process may take the partition.
        if self._loop.time() - self._leased_at > self._rules.lease / 3:
            # From before the question: the store may have counted from its arrival on.
            asked_at = self._loop.time()
            if await self._of.lease(self._partition) is None:
                raise LeaseLost(f"another process delivers to {self._of.sink}")
            self._leased_at = asked_at

    async def _next_page(self) -> Sequence[Delivery]:
        return await self._of.store.deliveries(
            self._of.sink, self._partition, after=self._position, limit=self._rules.page
        )

    async def _hand_over(self, page: Sequence[Delivery]) -> None:
        """Hand over what the receiver wants of a page, or a part of it; what comes after a parked
        event of its channel is parked too.
        """
        deliveries = [one for one in page if one.address.queue == self._of.queue and self._of.receiver.wants(one)]
        # Overtaking a parked event would break the order of its channel, which is promised.
        behind = [one for one in deliveries if self._parking.holds(one.address)]
        free = [one for one in deliveries if not self._parking.holds(one.address)]
        part = free[: self._size]
        try:
            count = await self._of.receiver.deliver(part) if part else 0
        except (ConfigurationError, StoreError):
            raise
        except Exception as error:
            await self._after_failure(part[0], behind, error)
            return
        if part:
            self._failures, self._tries, self._size = 0, 0, min(self._size * 2, self._rules.page)
            self._health.took()
            self._measure(part[:count])
        self._position = page[-1].position if count == len(free) else part[count - 1].position
        followers = [(one, "") for one in behind if one.position <= self._position]
        # At the end of a turn, so that a crash repeats one turn at most; not per event, which would
        # be a write for each token.
        late = self._loop.time() - self._stored_at > self._rules.store_every
        if followers or late or any(one.event.is_final for one in part[:count]):
            await self._store_position(followers)

    async def _after_failure(self, first: Delivery, behind: Sequence[Delivery], error: Exception) -> None:
        if not isinstance(error, DeliveryFailure):  # an event that breaks its receiver is one that it fails on
            log.error("delivery_broke", sink=self._of.sink, exc_info=error)
        reason = reason_of(error)
        self._failures, self._size = self._failures + 1, 1
        self._of.meter.count("sink_failures", sink=self._of.receiver.kind)
        log.warning("delivery_failed", sink=self._of.sink, error=reason, times=self._failures)
        self._tries = 0 if isinstance(error, Away) else self._tries + 1
        if isinstance(error, Away):
            self._health.away()
        elif self._tries >= self._rules.parking.tries and self._health.may_park():
            log.error("delivery_parked", sink=self._of.sink, channel=first.address.channel, reason=reason)
            self._failures, self._tries, self._position = 0, 0, first.position
            before = [(one, "") for one in behind if one.position < first.position]
            await self._store_position([*before, (first, reason)])
            return
        await asyncio.sleep(self._rules.backoff.after(self._failures))

    async def _store_position(self, to_park: Sequence[tuple[Delivery, str]] = ()) -> None:
        if self._position != self._stored_position:
            await self._of.store.mark_delivered(
                self._of.sink,
                self._partition,
                owner=self._of.owner,
                position=self._position,
                to_park=[(one.position, reason) for one, reason in to_park],
            )
            self._stored_position = self._position
            for one, reason in to_park:
                self._parking.add(one.address, one.position, has_failed=bool(reason))
        self._stored_at = self._loop.time()

    def _measure(self, deliveries: Sequence[Delivery]) -> None:
        now = self._of.clock.now()
        for one in deliveries:
            self._of.meter.observe("sink_lag_seconds", max(0.0, now - one.event.at), sink=self._of.receiver.kind)


def _first_of(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def selection(receiver: SinkReceiver, queue: str) -> Selection:
    """What the store keeps for a receiver."""
    return Selection(receiver.tenant, queue, receiver.finals)


def sink_name(kind: str, queue: str) -> str:
    return f"{kind}:{queue}"


async def close_sink(store: Events, sink: str) -> None:
    """Forget a sink: nothing is kept for it. A store that is away will be told another time."""
    try:
        await store.close_sink(sink)
    except StoreError as error:
        log.warning("sink_not_closed", sink=sink, error=str(error))


async def close_abandoned(store: Events, sink: str) -> None:
    """Forget a sink that is not set any more, unless a process delivers to it: nobody would empty
    its outbox.
    """
    try:
        if await store.lease_sink(sink, 0, owner=f"closing-{secrets.token_hex(4)}", lease=1.0) is not None:
            await store.close_sink(sink)
            log.info("sink_closed", sink=sink, reason="it is not set any more")
    except (NotFound, StoreError):
        return
