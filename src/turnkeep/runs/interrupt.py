"""What ends some work from outside, and for which of several reasons it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from turnkeep.errors import LeaseLost, TurnkeepError
from turnkeep.store.values import Stop


class StopRequest(Exception):
    """the run was told to stop"""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop


class DrainRequest(Exception):
    """the worker shuts down"""


class Interrupt:
    """`with interrupt:` is left, at its next wait, once somebody has given a reason (`end`); that is raised.

    As `asyncio.timeout` for any reason: no task has to stand beside the work and wait for one. Of several
    reasons, and what the work itself raised meanwhile, the weightiest counts. Who cancels the work from
    outside comes before them all. For one block.
    """

    __slots__ = ("_cancellations", "_cancellations_at_entry", "_has_cancelled", "_reasons", "_task")

    def __init__(self) -> None:
        self._reasons: list[BaseException] = []
        self._task: asyncio.Task[Any] | None = None
        self._cancellations = self._cancellations_at_entry = 0
        self._has_cancelled = False

    def end(self, reason: Exception) -> None:
        """Give a reason, also before the block begins; what comes after the block is left alone."""
        self._reasons.append(reason)
        # A task that cancels itself is cancelled at its next wait, which may stand behind the block.
        if self._task is not None and asyncio.current_task() is self._task:
            asyncio.get_running_loop().call_soon(self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        # Once: what the work does on its way out is not to be cancelled too.
        if self._task is not None and not self._has_cancelled:
            self._has_cancelled = True
            self._cancellations = self._task.cancelling()
            self._task.cancel(self)

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("only a task can be interrupted")
        self._cancellations_at_entry = self._task.cancelling()
        if self._reasons:
            self._task = None
            raise weightiest(self._reasons)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is None or not self._reasons:
            return
        cancellations = task.uncancel() if self._has_cancelled else task.cancelling()
        if isinstance(error, asyncio.CancelledError):
            if not self._has_cancelled or self._is_cancelled_by_others(error, cancellations):
                return
        elif isinstance(error, Exception):
            self._reasons.append(error)
        elif error is not None:  # what ends the program
            return
        raise weightiest(self._reasons) from error

    def _is_cancelled_by_others(self, error: asyncio.CancelledError, cancellations: int) -> bool:
        if cancellations > self._cancellations:  # after us
            return True
        # Before us, perhaps: a task group whose task fails while it is left counts one more for good before
        # Python 3.13. Of two cancellations before a wait the first is raised, with its message.
        return cancellations > self._cancellations_at_entry and error.args != (self,)


def weightiest(errors: Sequence[BaseException]) -> BaseException:
    """Of the errors that ended some work, the one that decides: a lost lease before all, then what we
    were told.
    """
    flat: list[BaseException] = []
    for error in errors:
        flat.append(weightiest(error.exceptions) if isinstance(error, BaseExceptionGroup) else error)
    order = (LeaseLost, StopRequest, DrainRequest, TurnkeepError)
    return min(flat, key=lambda e: next((i for i, kind in enumerate(order) if isinstance(e, kind)), len(order)))
