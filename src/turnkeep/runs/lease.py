"""A lease: the right to go on working, what the store has said of it, and what ends the work that rests on
it. Who keeps it is the `Keeper` of `worker`; a run works `while_held`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from turnkeep.errors import LeaseLost, TurnkeepError
from turnkeep.lean_dataclass import dataclass
from turnkeep.store.values import Claim, Directive, Stop


class StopRequest(Exception):
    """the run was told to stop"""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop


class DrainRequest(Exception):
    """the worker shuts down"""


@dataclass(slots=True, eq=False)
class Lease:
    """The lease of one claim: what the store has said of it, as far as its keeper knows.

    Work that rests on it (`while_held` of `run`) is ended at its next wait by the first reason. Of several, and what
    the work itself raised meanwhile, the weightiest counts. Work that nobody ends pays nothing for it.
    """

    claim: Claim
    begun_at: float
    """When it was asked for, by the time of the loop."""
    good_until: float
    """It counts as lost then, by the time of the loop, if it is not renewed."""
    wants_steering: bool = False
    has_ended: bool = False
    work: asyncio.Task[Any] | None = None
    """What rests on it now. No task has to stand beside it and wait for a reason."""
    reasons: list[BaseException] = field(default_factory=list)
    """Why the work has to end: lease lost or not renewed in time, stop asked, drained, publishing failed."""
    _cancellations: int | None = None
    """Of the work, at the moment when it was cancelled from here."""

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
            self.interrupt(reason)

    def interrupt(self, reason: Exception) -> None:
        """Give a reason to end the work, also before it begins. What its task does after it is left alone."""
        self.reasons.append(reason)
        # A task that cancels itself is cancelled at its next wait, which may stand behind the work.
        if self.work is not None and asyncio.current_task() is self.work:
            asyncio.get_running_loop().call_soon(self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        # Once: what the work does on its way out is not to be cancelled too.
        if self.work is not None and self._cancellations is None:
            self._cancellations = self.work.cancelling()
            self.work.cancel(self)

    def cause(self, error: BaseException | None, work: asyncio.Task[Any], cancellations: int) -> BaseException:
        """Of all that ended the work, what decides. `error` is what it raised itself, `cancellations` how often its
        task had been cancelled when it began. Who cancels the task from outside comes before all reasons.
        """
        count = work.cancelling() if self._cancellations is None else work.uncancel()
        if isinstance(error, asyncio.CancelledError):
            return error if self._is_cancelled_by_others(error, count, cancellations) else weightiest(self.reasons)
        if error is None or isinstance(error, Exception):
            return weightiest([*self.reasons, *([] if error is None else [error])])
        return error  # what ends the program

    def _is_cancelled_by_others(self, error: asyncio.CancelledError, count: int, before: int) -> bool:
        if self._cancellations is None or count > self._cancellations:  # not by us, or once more after us
            return True
        # Before us, perhaps: a task group whose task fails while it is left counts one more for good before
        # Python 3.13. Of two cancellations before a wait the first is raised, with its message.
        return count > before and error.args != (self,)


def weightiest(errors: Sequence[BaseException]) -> BaseException:
    """Of the errors that ended some work, the one that decides: a lost lease before all, then what we
    were told.
    """
    flat: list[BaseException] = []
    for error in errors:
        flat.append(weightiest(error.exceptions) if isinstance(error, BaseExceptionGroup) else error)
    order = (LeaseLost, StopRequest, DrainRequest, TurnkeepError)
    return min(flat, key=lambda e: next((i for i, kind in enumerate(order) if isinstance(e, kind)), len(order)))
