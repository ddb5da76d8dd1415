"""The worker: claims threads while it has free slots, runs them, and drains when told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from turnkeep.backoff import Backoff
from turnkeep.clock import until_tick
from turnkeep.errors import StoreError
from turnkeep.runs.interrupt import Interrupt
from turnkeep.runs.lease import Keeper, Lease, LeaseRules
from turnkeep.runs.run import Run
from turnkeep.runs.run_context import RunContext
from turnkeep.telemetry import get_log

log = get_log(__name__)

AT_ONCE = 64
"""Claims of one call to the store."""

EXPIRED_AT_ONCE = 100
"""Threads that are forgotten by one call to the store, which serves others between two of them."""

PATIENCE = Backoff(delay=0.1, cap=5.0)


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


class _Stop(Exception):
    """the worker takes nothing more"""


class Worker:
    """`run` works until `stop`, then drains: no claim is taken any more, runs end or are given
    back, unused attempts stay.
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
        self._pause: Interrupt | None = None
        """What it waits in while there is nothing to do."""
        self._slot_freed = asyncio.Event()

    @property
    def active(self) -> int:
        """Runs in progress."""
        return len(self.keeper)

    def stop(self) -> None:
        self._is_stopping = True
        if self._pause is not None:
            self._pause.end(_Stop())

    async def run(self) -> None:
        async with self._measuring(), asyncio.TaskGroup() as upkeep:
            chores = (self.keeper.run(), self._sweep(), self.context.publisher.run())
            ends: list[Callable[[], object]] = [upkeep.create_task(chore).cancel for chore in chores]
            if (activity := self.context.activity) is not None:
                upkeep.create_task(activity.run())
                ends.append(activity.stop)
            # inside of the other group: leases are renewed, and events published, until the last run is over
            async with asyncio.TaskGroup() as runs:
                await self._claim_until_stopped(runs)
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
        self._pause = Interrupt()
        try:
            with suppress(_Stop), self._pause:
                await wait()
        finally:
            self._pause = None

    async def _work(self, lease: Lease) -> None:
        try:
            if not self.context.is_prepared:
                await self.context.prepare()
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
