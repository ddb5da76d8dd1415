"""A store whose operations are measured."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast, runtime_checkable

from turnkeep.errors import TurnkeepError
from turnkeep.store.contract import Store
from turnkeep.telemetry import SILENT, Meter

MEASURED_OPERATIONS = frozenset(
    (
        *(
            "accept",
            "claim",
            "begin",
            "renew",
            "list_offered",
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
