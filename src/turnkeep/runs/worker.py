"""The worker: claims threads while it has free slots, keeps their leases, runs them, and drains when told to stop.

Claims, renewals and what is given up are the `Keeper`'s, which direct calls have too.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from turnkeep.backoff import Backoff
from turnkeep.clock import until_tick
from turnkeep.errors import LeaseLost, StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Message
from turnkeep.pricing.tokenizer import is_plain
from turnkeep.runs.lease import DrainRequest, Lease
from turnkeep.runs.run import Run
from turnkeep.runs.run_context import RunContext
from turnkeep.store.contract import Inbox
from turnkeep.store.values import Claim
from turnkeep.telemetry import get_log

log = get_log(__name__)

AT_ONCE = 64
"""Claims of one call to the store."""

EXPIRED_AT_ONCE = 100
"""Threads that are forgotten by one call to the store, which serves others between two of them."""

PATIENCE = Backoff(delay=0.1, cap=5.0)


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


@dataclass(frozen=True, slots=True)
class WorkerRules:
    """How much a worker takes on.

    `drain`: seconds that runs may take to end at shutdown before they are given back.
    """

    concurrency: int = 5
    queues: tuple[str, ...] | None = None
    drain: float = 25.0
    rest: float = 1.0
    sweep_every: float = 60.0


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


class Worker:
    """`run` works until `stop`, then drains: it claims nothing more, and runs end or are given
    back, which costs them no attempt.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        rules: WorkerRules | None = None,
        lease: LeaseRules | None = None,
        owner: str | None = None,
    ) -> None:
        self.context = context
        self.rules = rules or WorkerRules()
        self.keeper = Keeper(context.store, rules=lease, owner=owner)
        self._is_stopping = False
        self._claiming: asyncio.Task[None] | None = None
        self._is_waiting = False
        """The task that claims has nothing to do: only then may a stop cancel it."""
        self._slot_freed = asyncio.Event()

    @property
    def active(self) -> int:
        """Runs in progress."""
        return len(self.keeper)

    def stop(self) -> None:
        self._is_stopping = True
        if self._claiming is not None and self._is_waiting:
            self._claiming.cancel()

    async def run(self) -> None:
        async with self._measuring(), asyncio.TaskGroup() as upkeep:
            chores = (self.keeper.run(), self._sweep(), self.context.publisher.run())
            ends: list[Callable[[], object]] = [upkeep.create_task(chore).cancel for chore in chores]
            if (activity := self.context.activity) is not None:
                upkeep.create_task(activity.run())
                ends.append(activity.stop)
            # inside of the other group: leases are renewed, and events published, until the last run is over
            async with asyncio.TaskGroup() as runs:
                self._claiming = runs.create_task(self._claim_until_stopped(runs))
                await asyncio.wait([self._claiming])
                await self._drain()
            for end in ends:
                end()

    @asynccontextmanager
    async def _measuring(self) -> AsyncIterator[None]:
        """Whoever looks sees how much is in hand."""
        meter = self.context.meter
        ends = [
            meter.watch("active_runs", lambda: self.active),
            meter.watch("oldest_run_seconds", lambda: self.keeper.oldest),
        ]
        try:
            yield
        finally:
            for end in ends:
                end()

    async def _claim_until_stopped(self, runs: asyncio.TaskGroup) -> None:
        failures = 0
        while not self._is_stopping:
            if (free := self.rules.concurrency - self.active) <= 0:
                await self._wait(self._slot_freed.wait)
                continue
            # before the claim: a slot that is freed during it must be seen afterwards
            self._slot_freed.clear()
            try:
                count = min(free, AT_ONCE)
                leases = await self.keeper.claim(count, self.rules.queues)
                failures = 0
            except StoreError as error:
                failures += 1
                log.warning("claim_failed", error=str(error), failures=failures)
                await self._wait(partial(asyncio.sleep, PATIENCE.after(failures)))
                continue
            for lease in leases:
                runs.create_task(self._work(lease))
            # fewer were due: the store tells when there is more, without being asked again
            if len(leases) < count:
                await self._wait(self._rest)

    async def _rest(self) -> None:
        try:
            while not await self.context.store.ready(queues=self.rules.queues, timeout=until_tick(self.rules.rest)):
                pass
        # not told here: the next claim fails too, and tells it with growing pauses
        except StoreError:
            await asyncio.sleep(self.rules.rest)

    async def _wait(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Wait for this or for `stop`."""
        if self._is_stopping:  # since it was last looked at, while the store was asked
            return
        self._is_waiting = True
        try:
            await wait()
        finally:
            self._is_waiting = False

    async def _work(self, lease: Lease) -> None:
        try:
            contents = [message.content for message in lease.claim.messages]
            if not (self.context.is_prepared and all(is_plain(part.text) for one in contents for part in one)):
                await self.context.prepare(contents)
            await Run(self.context, lease).perform()
        finally:
            del self.keeper.leases[lease.claim.token]
            self._slot_freed.set()

    async def _drain(self) -> None:
        """Let runs end; then give back what is left, which costs nobody an attempt."""
        if self.active:
            log.info("draining", runs=self.active, seconds=self.rules.drain)
        try:
            async with asyncio.timeout(self.rules.drain):
                while self.active:
                    self._slot_freed.clear()
                    await self._slot_freed.wait()
        except TimeoutError:
            log.info("drain_over", given_back=self.active)
            self.keeper.drain()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.rules.sweep_every)
            try:
                while await self.context.store.expire(limit=EXPIRED_AT_ONCE) >= EXPIRED_AT_ONCE:
                    pass
                if self.context.budgets is not None:
                    await self.context.budgets.sweep()
            except StoreError as error:
                log.warning("sweep_failed", error=str(error))
