"""A store whose operations are measured, and how much waits in it."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

from turnkeep.clock import Stopwatch
from turnkeep.errors import StoreError, TurnkeepError
from turnkeep.store.contract import Store
from turnkeep.store.values import Counts
from turnkeep.telemetry import SILENT, Meter

MEASURED_OPERATIONS = frozenset(
    (
        *(
            "accept",
            "claim",
            "begin",
            "renew",
            "offer_steering",
            "journal",
            "commit",
            "fail",
            "release",
            "hold",
            "decide",
        ),
        *("cancel", "counts", "read", "history", "append", "thread", "reserve", "settle", "pace"),
    )
)
"""Not `publish`, which comes with every token."""

FRESH = 5.0
"""Seconds for which counts of a queue are told again: to count looks at every partition."""


def measure_store(store: Store, meter: Meter) -> Store:
    """The same store; how long its operations take and which fail is told to the meter."""
    # Nobody looks: then not even the one call more per operation is paid.
    if meter is SILENT:
        return store
    if isinstance(store, Rebuilding):
        meter.watch("partition_rebuilds", lambda: store.rebuilds)
    return cast("Store", _MeasuredStore(store, meter))


@runtime_checkable
class Rebuilding(Protocol):
    """A store that makes damaged indexes anew, and counts how often it did."""

    @property
    def rebuilds(self) -> int: ...


class QueueGauges:
    """How much waits in some queues, for who looks at the measurements of a process.

    Counted when somebody looks and at most every five seconds; not a number (NaN) while the store
    cannot be asked, so that an alert sees a gap and no old figure.
    """

    def __init__(self, store: Store, meter: Meter, stopwatch: Stopwatch, queues: Sequence[str]) -> None:
        self._store = store
        self._stopwatch = stopwatch
        self._counts: dict[str, Counts | None] = dict.fromkeys(queues)
        self._counted_at = -math.inf
        for queue in self._counts:
            self._watch(meter, queue)

    def _watch(self, meter: Meter, queue: str) -> None:
        def reader(field: str) -> Callable[[], float]:
            return functools.partial(self._read, queue, field)

        meter.watch("queue_waiting_threads", reader("waiting"), queue=queue)
        meter.watch("queue_active_threads", reader("active"), queue=queue)
        meter.watch("queue_delayed_threads", reader("delayed"), queue=queue)
        meter.watch("queue_held_threads", reader("held"), queue=queue)
        meter.watch("queue_paused_threads", reader("paused"), queue=queue)
        meter.watch("queue_open_messages", reader("open_messages"), queue=queue)
        meter.watch("queue_dead_letters", reader("dead_letters"), queue=queue)
        meter.watch("queue_oldest_wait_seconds", reader("oldest_wait"), queue=queue)

    def _read(self, queue: str, field: str) -> float:
        counts = self._counts[queue]
        return math.nan if counts is None else float(getattr(counts, field))

    async def refresh(self) -> None:
        """Count anew, if the last time is too long ago."""
        if self._stopwatch.elapsed() - self._counted_at < FRESH:
            return
        self._counted_at = self._stopwatch.elapsed()
        for queue in self._counts:
            try:
                async with asyncio.timeout(FRESH):
                    self._counts[queue] = await self._store.counts(queue=queue)
            except (StoreError, TimeoutError):
                self._counts[queue] = None


class _MeasuredStore:
    """Passes everything on."""

    def __init__(self, store: Store, meter: Meter) -> None:
        self._store = store
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._store, name)
        if name in MEASURED_OPERATIONS:
            # Wrapped once and kept: the second call finds it without `__getattr__`.
            member = self._measure(name, member)
            setattr(self, name, member)
        return member

    def _measure(self, name: str, act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        meter = self._meter

        @functools.wraps(act)
        async def timed_act(*args: Any, **options: Any) -> Any:
            begun_at = time.perf_counter()
            try:
                result = await act(*args, **options)
            # By code, from a closed set; a programming error is no figure, it goes to the log.
            except TurnkeepError as error:
                meter.count("store_errors", operation=name, code=error.code)
                raise
            meter.observe("store_seconds", time.perf_counter() - begun_at, operation=name)
            return result

        return timed_act
