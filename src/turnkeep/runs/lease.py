"""Leases: the right to go on working, kept by one `Keeper` per owner with one call for all of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from turnkeep.errors import LeaseLost, StoreError
from turnkeep.messages import Message
from turnkeep.runs.interrupt import DrainRequest, StopRequest
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


class Lease:
    """The lease of one claim. The keeper tells it what the store said; the run is told of its end (`watch`)."""

    def __init__(self, claim: Claim, *, rules: LeaseRules, asked_at: float) -> None:
        self.claim = claim
        self._rules = rules
        self._loop = asyncio.get_running_loop()
        self.begun_at = asked_at
        self._good_until = asked_at + rules.give_up
        self._end_reason: Exception | None = None
        self._on_end: Callable[[Exception], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.wants_steering = False

    def take_directive(self, directive: Directive, *, asked_at: float) -> None:
        """Take in a renewal that was asked for at this time of the loop."""
        if not directive.held:
            self._end(LeaseLost(f"the lease of run {self.claim.run_id} is lost: another worker may have the thread"))
            return
        # from when it was asked: the store may have renewed at any moment since
        self._good_until = asked_at + self._rules.give_up
        self.wants_steering = directive.steer
        if directive.stop:
            self._end(StopRequest(directive.stop))

    def drain(self) -> None:
        """Ask the run to end because its worker does."""
        self._end(DrainRequest())

    def stop(self, stop: Stop = "cancel") -> None:
        """Ask the run to end as if the store had told it to."""
        self._end(StopRequest(stop))

    @property
    def remaining(self) -> float:
        """Seconds until this lease counts as lost if it is not renewed; at least a
        moment, for one try.
        """
        return max(1.0, self._good_until - self._loop.time())

    def watch(self, on_end: Callable[[Exception], None]) -> None:
        """Be told, once, when the run has to end, and why: lease lost or not renewed in time, stop asked,
        drained. It may have to already.
        """
        self._on_end = on_end
        if self._end_reason is not None:
            on_end(self._end_reason)
        else:
            self._timer = self._loop.call_at(self._good_until, self._look)

    def leave(self) -> None:
        """Be told nothing more."""
        self._on_end = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        # One timer for each run, set anew only here: renewals move what it looks at.
        if self._loop.time() < self._good_until:
            self._timer = self._loop.call_at(self._good_until, self._look)
        else:
            # In a moment: of a process that stood still the renewal is due at the same turn of the loop.
            self._timer = None
            self._loop.call_soon(self._give_up)

    def _give_up(self) -> None:
        if self._on_end is None:
            return
        if self._loop.time() < self._good_until:
            self._look()
        else:
            self._end(LeaseLost(f"the lease of run {self.claim.run_id} could not be renewed in time"))

    def _end(self, reason: Exception) -> None:
        # the first one counts: after a lost lease a stop must not commit
        if self._end_reason is None:
            self._end_reason = reason
            if self._on_end is not None:
                self._on_end(reason)


class Keeper:
    """Claims for one owner, and renews what it has claimed while `run` runs.

    A claim and a renewal never overlap: a renewal frees every lease of this owner that
    it does not name.
    """

    def __init__(self, store: Inbox, *, rules: LeaseRules | None = None, owner: str | None = None) -> None:
        self._store = store
        self.rules = rules or LeaseRules()
        self.owner = owner or f"worker-{secrets.token_hex(8)}"
        self._leases: dict[str, Lease] = {}
        self._one_at_a_time = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def oldest(self) -> float:
        """Seconds since the oldest claim that is held was made."""
        began = min((lease.begun_at for lease in self._leases.values()), default=None)
        return 0.0 if began is None else asyncio.get_running_loop().time() - began

    async def claim(self, limit: int, queues: Sequence[str] | None) -> list[Lease]:
        async with self._one_at_a_time:
            asked_at = asyncio.get_running_loop().time()
            claims = await self._store.claim(owner=self.owner, limit=limit, lease=self.rules.duration, queues=queues)
            return [self._hold(claim, asked_at) for claim in claims]

    async def begin(self, messages: Sequence[Message]) -> Lease:
        """Accept and claim in one act. Raises `ThreadBusy`."""
        async with self._one_at_a_time:
            asked_at = asyncio.get_running_loop().time()
            claim = await self._store.begin(messages, owner=self.owner, lease=self.rules.duration)
            return self._hold(claim, asked_at)

    def let_go(self, lease: Lease) -> None:
        """The claim is settled, or lost."""
        self._leases.pop(lease.claim.token, None)

    def drain(self) -> None:
        for lease in self._leases.values():
            lease.drain()

    def _hold(self, claim: Claim, asked_at: float) -> Lease:
        lease = Lease(claim, rules=self.rules, asked_at=asked_at)
        self._leases[claim.token] = lease
        return lease

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
            if any(lease.claim.address in addresses for lease in self._leases.values()):
                await self._renew()

    async def _renew(self) -> bool:
        """Prolong all leases. False if the store did not answer."""
        async with self._one_at_a_time:
            # a copy: runs end while the store is asked
            leases = dict(self._leases)
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
                leases[token].take_directive(directive, asked_at=asked_at)
        return True
