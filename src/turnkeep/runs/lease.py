"""A lease: the right to go on working, and what the store has said of it. Who keeps it is the `Keeper` of `worker`."""

from __future__ import annotations

from dataclasses import dataclass, field

from turnkeep.errors import LeaseLost
from turnkeep.runs.interrupt import Interrupt, StopRequest
from turnkeep.store.values import Claim, Directive, Stop


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
