"""Leases: the right to go on working, kept by one `Keeper` per owner with one call for all of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from turnkeep.errors import LeaseLost, StoreError
from turnkeep.messages import Message
from turnkeep.runs.interrupt import DrainRequest, Interrupt, StopRequest
from turnkeep.store.contract import Inbox
from turnkeep.store.values import Claim, Directive, Stop
from turnkeep.telemetry import get_log

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """How long a silent owner keeps its threads.

    Renewed after a third; given up, by the owner itself, after five sixths.
    """

    duration: float = 30.0

    @property
    def renew_every(self) -> float:
        return self.duration / 3

    @property
    def give_up(self) -> float:
        # a sixth before the store gives the thread away: first the one owner
        # stops, then another begins
        return self.duration * 5 / 6


@dataclass(slots=True, eq=False)
class Lease:
    """The lease of one claim: what the store has said of it, as far as its keeper knows."""

    claim: Claim
    begun_at: float
    """When it was asked for, by the time of the loop."""
    good_until: float
    """It counts as lost then, by the time of the loop, if it is not renewed."""
    wants_steering: bool = False
    interrupt: Interrupt = field(default_factory=Interrupt)
    """Ends its run: lease lost or not renewed in time, stop asked, drained."""
    has_ended: bool = False

    def take_directive(self, directive: Directive, *, good_until: float) -> None:
        """Take in a renewal that holds so long."""
        if not directive.held:
            self.end(LeaseLost(f"the lease of run {self.claim.run_id} is lost: another worker may have the thread"))
            return
        self.good_until = good_until
        self.wants_steering = directive.steer
        if directive.stop:
            self.stop(directive.stop)

    def stop(self, stop: Stop = "cancel") -> None:
        """Ask the run to end as if the store had told it to."""
        self.end(StopRequest(stop))

    def end(self, reason: Exception) -> None:
        # the first one counts: after a lost lease a stop must not commit
        if not self.has_ended:
            self.has_ended = True
            self.interrupt.end(reason)


class Keeper:
    """Claims for one owner, and renews what it has claimed while `run` runs. What could not be renewed in time
    it gives up by itself.

    A claim and a renewal never overlap: a renewal frees every lease of this owner that
    it does not name.
    """

    def __init__(self, store: Inbox, *, rules: LeaseRules | None = None, owner: str | None = None) -> None:
        self._store = store
        self.rules = rules or LeaseRules()
        self.owner = owner or f"worker-{secrets.token_hex(8)}"
        self.leases: dict[str, Lease] = {}
        """What it holds, by token. Who has settled a claim, or lost it, takes it out."""
        self._one_at_a_time = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        """One for all leases, set anew only when it is over: renewals move what it looks at, and no lease is good
        for less than those that were claimed before it.
        """

    def __len__(self) -> int:
        return len(self.leases)

    @property
    def oldest(self) -> float:
        """Seconds since the oldest claim that is held was made."""
        began = min((lease.begun_at for lease in self.leases.values()), default=None)
        return 0.0 if began is None else asyncio.get_running_loop().time() - began

    async def claim(self, limit: int, queues: Sequence[str] | None) -> list[Lease]:
        async with self._one_at_a_time:
            asked_at = asyncio.get_running_loop().time()
            claims = await self._store.claim(owner=self.owner, limit=limit, lease=self.rules.duration, queues=queues)
            return self._hold(claims, asked_at)

    async def begin(self, messages: Sequence[Message]) -> Lease:
        """Accept and claim in one act. Raises `ThreadBusy`."""
        async with self._one_at_a_time:
            asked_at = asyncio.get_running_loop().time()
            claim = await self._store.begin(messages, owner=self.owner, lease=self.rules.duration)
            return self._hold([claim], asked_at)[0]

    def drain(self) -> None:
        """Ask all runs to end because their worker does."""
        for lease in self.leases.values():
            lease.end(DrainRequest())

    def _hold(self, claims: Sequence[Claim], asked_at: float) -> list[Lease]:
        # from when they were asked for: the store may have given them at any moment since
        good_until = asked_at + self.rules.give_up
        leases = [Lease(claim, asked_at, good_until) for claim in claims]
        self.leases.update((lease.claim.token, lease) for lease in leases)
        if leases and self._timer is None:
            self._look_at(good_until)
        return leases

    def _look_at(self, moment: float) -> None:
        loop = asyncio.get_running_loop()
        # In a moment: of a process that stood still the renewal is due at the same turn of the loop.
        self._timer = loop.call_at(moment, loop.call_soon, self._give_up)

    def _give_up(self) -> None:
        """End the runs whose leases could not be renewed in time."""
        now, self._timer = asyncio.get_running_loop().time(), None
        for lease in self.leases.values():
            if lease.good_until <= now:
                lease.end(LeaseLost(f"the lease of run {lease.claim.run_id} could not be renewed in time"))
        open_ends = [lease.good_until for lease in self.leases.values() if not lease.has_ended]
        if open_ends:
            self._look_at(min(open_ends))

    async def run(self) -> None:
        """Renew until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_in_time())
            group.create_task(self._renew_when_nudged())

    async def _renew_in_time(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self.rules.renew_every
            await asyncio.sleep(self.rules.renew_every)
            # said aloud, because it looks like a slow store: mostly a tool blocks the event loop
            if (late := loop.time() - due) > self.rules.renew_every / 2:
                log.warning("renewal_late", seconds=round(late, 3), hint="something blocks the event loop")
            await self._renew_at_last()

    async def _renew_at_last(self) -> None:
        """Try until the store answers; each run gives its own lease up in time."""
        while True:
            if await self._renew():
                return
            await asyncio.sleep(min(1.0, self.rules.renew_every / 4))

    async def _renew_when_nudged(self) -> None:
        while True:
            try:
                # a hint, which may be lost: the renewal in time brings the same directives
                addresses = await self._store.wait_nudge(self.owner, timeout=30.0)
            except StoreError:
                await asyncio.sleep(1.0)
                continue
            if any(lease.claim.address in addresses for lease in self.leases.values()):
                await self._renew()

    async def _renew(self) -> bool:
        """Prolong all leases. False if the store did not answer."""
        async with self._one_at_a_time:
            # a copy: runs end while the store is asked
            leases = dict(self.leases)
            asked_at = asyncio.get_running_loop().time()
            try:
                directives = await self._store.renew(
                    self.owner, [lease.claim for lease in leases.values()], lease=self.rules.duration
                )
            except StoreError as error:
                log.warning("renewal_failed", error=str(error), leases=len(leases))
                return False
        for token, directive in directives.items():
            if token in leases:
                leases[token].take_directive(directive, good_until=asked_at + self.rules.give_up)
        return True
