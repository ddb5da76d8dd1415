"""Parking: an event that its receiver fails on goes out of the way of all others, and is tried
again on its own.

All later events of its channel wait behind it, so the order of the channel stays. What has failed
for `give_up_after` is left to people (`turnkeep sinks`), and its channel goes on. Whether it is the
event or the receiver that is at fault nobody can know: so parking is slow when nothing else gets
through either, and what is parked is tried at once when something does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field

from turnkeep.backoff import Backoff
from turnkeep.errors import ConfigurationError, StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.contract import Store
from turnkeep.store.sinks import Delivery, ParkedEvent
from turnkeep.telemetry import get_log

log = get_log(__name__)

PAGE = 1000
LONGEST_REASON = 300


class DeliveryFailure(Exception):
    """the receiver did not confirm an event: try again"""


class Away(DeliveryFailure):
    """the receiver could not be reached, or asks to wait: that says nothing about the event"""


def reason_of(error: Exception) -> str:
    """Why an event was not received, short enough to be stored beside it."""
    return f"{error}"[:LONGEST_REASON] or type(error).__name__


@dataclass(frozen=True, slots=True)
class ParkingRules:
    """Seconds and counts."""

    tries: int = 3
    """Failures of one event in a row, after which it is parked."""
    suspects: int = 10
    """Events parked in a row while nothing gets through: then it is more likely that the receiver
    is at fault.
    """
    suspect_every: float = 600.0
    """From then on one is parked this often."""
    backoff: Backoff = Backoff(delay=1.0, cap=300.0)
    give_up_after: float = 3 * 86_400.0
    look_again: float = 10.0
    """How often what people did to parked events is looked up."""
    page: int = 100


PARKING_RULES = ParkingRules()


class Health:
    """Whether a receiver takes anything at all, as all partitions of one process see it."""

    def __init__(self, rules: ParkingRules) -> None:
        self._rules = rules
        self._loop = asyncio.get_running_loop()
        self._in_a_row = 0
        self._parked_at = 0.0
        self._is_away = False
        self.of: set[Parking] = set()
        """What is parked because of it."""

    def may_park(self) -> bool:
        late = self._loop.time() - self._parked_at >= self._rules.suspect_every
        return self._in_a_row < self._rules.suspects or late

    def note_parked(self) -> None:
        self._in_a_row, self._parked_at = self._in_a_row + 1, self._loop.time()
        # One event may be bad by itself; two in a row are a sign of the receiver.
        self._is_away = self._is_away or self._in_a_row > 1

    def away(self) -> None:
        self._is_away = True

    def took(self) -> None:
        """Something got through.

        When nothing did before, all that is parked may have been innocent.
        """
        self._in_a_row = 0
        if self._is_away:
            self._is_away = False
            for parking in self.of:
                parking.try_now()


@dataclass(slots=True)
class _ParkedChannel:
    """What is parked of one channel, in order, and when its first event is tried next."""

    # A dict, for it keeps their order and loses one from its middle at no cost.
    positions: dict[str, None] = field(default_factory=dict)
    failing: str | None = None
    """The position that the receiver is known to fail on."""
    failures: int = 0
    due_at: float = 0.0


class Parking:
    """What is parked of one sink and partition. `run` tries it again until cancelled."""

    def __init__(
        self,
        store: Store,
        deliver: Callable[[Sequence[Delivery]], Awaitable[int]],
        sink_partition: tuple[str, int],
        *,
        rules: ParkingRules,
        health: Health,
    ) -> None:
        self._store = store
        self._deliver = deliver
        self._sink_partition = sink_partition
        self._health = health
        self._rules = rules
        self._loop = asyncio.get_running_loop()
        self._channels: dict[Address, _ParkedChannel] = {}
        self._failed_at: dict[str, float] = {}
        self._is_due = asyncio.Event()

    def holds(self, address: Address) -> bool:
        """Whether events of this channel have to wait behind a parked one."""
        return address in self._channels

    def add(self, address: Address, position: str, *, has_failed: bool) -> None:
        """An event that the store has parked; `has_failed`: because of itself."""
        channel = self._channels.setdefault(address, _ParkedChannel())
        channel.positions[position] = None
        if has_failed:
            channel.failing, channel.failures = position, self._rules.tries
            channel.due_at = self._loop.time() + self._rules.backoff.after(1)
            self._health.note_parked()
        self._is_due.set()

    def try_now(self) -> None:
        for channel in self._channels.values():
            channel.due_at = 0.0
        self._is_due.set()

    async def load(self) -> None:
        """Learn what is parked: at the start, and again when people may have redriven or dropped
        some of it.
        """
        events: list[ParkedEvent] = []
        while page := await self._store.list_parked(
            *self._sink_partition, after=events[-1].position if events else "", limit=PAGE
        ):
            events += page
        newest = events[-1].position if events else ""
        channels: dict[Address, _ParkedChannel] = {}
        for one in events:
            if not one.is_given_up:
                channels.setdefault(one.address, _ParkedChannel()).positions[one.position] = None
                self._failed_at |= {} if one.failed_at is None else {one.position: one.failed_at}
        for address, before in self._channels.items():
            newer = {position: None for position in before.positions if position > newest}  # while this was read
            if newer or address in channels:
                now = channels.setdefault(address, _ParkedChannel())
                now.positions |= newer
                # Its place in the backoff stays, unless people have taken its first event away.
                if before.failing == next(iter(now.positions)):
                    now.failing, now.failures, now.due_at = before.failing, before.failures, before.due_at
        self._channels = channels

    async def run(self) -> None:
        self._health.of.add(self)
        try:
            await self._run()
        finally:
            self._health.of.discard(self)

    async def _run(self) -> None:
        looked_at = self._loop.time()
        while True:
            await self._until_due(looked_at + self._rules.look_again)
            if self._loop.time() >= looked_at + self._rules.look_again:
                await self.load()
                looked_at = self._loop.time()
            # A copy: what gets through, or is given up, leaves the table meanwhile.
            for address, channel in list(self._channels.items()):
                if channel.due_at <= self._loop.time():
                    await self._try(address, channel)

    async def _until_due(self, latest: float) -> None:
        self._is_due.clear()
        due_at = min([latest, *(channel.due_at for channel in self._channels.values())])
        try:
            async with asyncio.timeout_at(due_at):
                await self._is_due.wait()
        except TimeoutError:
            return

    async def _try(self, address: Address, channel: _ParkedChannel) -> None:
        # One alone after a failure: else nobody knows which of them it was.
        size = 1 if channel.failures else self._rules.page
        positions = list(channel.positions)[:size]
        deliveries = await self._store.parked_deliveries(*self._sink_partition, positions)
        there = {one.position for one in deliveries}
        self._forget(address, channel, [position for position in positions if position not in there])
        if not deliveries:
            return
        try:
            count = await self._deliver(deliveries)
        except (ConfigurationError, StoreError):
            raise
        except Away:
            self._health.away()
            channel.due_at = self._loop.time() + self._rules.look_again
        except Exception as error:
            await self._note_failure(address, channel, deliveries[0], reason=reason_of(error))
        else:
            received_positions = [one.position for one in deliveries[:count]]
            await self._store.unpark(*self._sink_partition, received_positions)
            self._forget(address, channel, received_positions)
            channel.failures, channel.due_at = 0, 0.0
            self._health.took()

    async def _note_failure(self, address: Address, channel: _ParkedChannel, first: Delivery, *, reason: str) -> None:
        channel.failures += 1
        channel.due_at = self._loop.time() + self._rules.backoff.after(channel.failures)
        # By the store's clock: what failed first was noted by another process, perhaps on
        # another machine.
        now = await self._store.now()
        give_up = now - self._failed_at.get(first.position, now) >= self._rules.give_up_after
        if channel.failing != first.position or first.position not in self._failed_at or give_up:
            await self._store.note_failure(*self._sink_partition, first.position, reason=reason, give_up=give_up)
            channel.failing = first.position
            self._failed_at.setdefault(first.position, now)
        if give_up:
            log.error("delivery_given_up", sink=self._sink_partition[0], channel=address.channel, reason=reason)
            self._forget(address, channel, [first.position])
            channel.failures, channel.due_at = 0, 0.0

    def _forget(self, address: Address, channel: _ParkedChannel, positions: Sequence[str]) -> None:
        """These wait here no more. A channel of which nothing does is free."""
        for position in positions:
            channel.positions.pop(position, None)
            self._failed_at.pop(position, None)
        if not channel.positions and self._channels.get(address) is channel:
            del self._channels[address]
