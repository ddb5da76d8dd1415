"""What can come of a run, as a closed set of values, and what is measured of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import assert_never

from turnkeep.events import TurnFault
from turnkeep.runs.activity import RunFigures
from turnkeep.store.values import Claim, Commit, FailOutcome, Failure, HeldCall
from turnkeep.telemetry import Meter
from turnkeep.usage import Usage


@dataclass(frozen=True, slots=True)
class HoldVerdict:
    """Somebody has to decide first."""

    calls: tuple[HeldCall, ...]


@dataclass(frozen=True, slots=True)
class Releasing:
    """Not now: the claim goes back without using an attempt."""

    delay: float
    reason: TurnFault | None = None


@dataclass(frozen=True, slots=True)
class Dropping:
    """Another worker owns the thread: write nothing."""


Verdict = Commit | Failure | HoldVerdict | Releasing | Dropping

# Written out, for dashboards go by these words: a class may be renamed, a label may not.
VERDICT_LABELS: dict[type[Verdict], str] = {
    Commit: "commit",
    Failure: "failure",
    HoldVerdict: "holding",
    Releasing: "releasing",
    Dropping: "dropping",
}


def measure_claim(meter: Meter, claim: Claim) -> None:
    """How long the batch of a claim has waited, and how big it is."""
    meter.observe("run_attempt", claim.attempt)
    if waits := _waits(claim):
        meter.observe("batch_messages", len(claim.messages))
        meter.observe("window_seconds", waits["window"])
        meter.observe("queue_wait_seconds", waits["queue"])


def _waits(claim: Claim) -> dict[str, float]:
    """Seconds that a batch was in its window, and then in the queue; empty but at its first claim."""
    # a further attempt has waited for its retry, not in the queue
    if claim.attempt > 1 or not claim.messages:
        return {}
    return {
        "window": max(0.0, claim.due_at - claim.messages[0].arrival),
        "queue": max(0.0, claim.claimed_at - claim.due_at),
    }


def measure_run(
    meter: Meter,
    claim: Claim,
    verdict: Verdict,
    fail_outcome: FailOutcome | None,
    *,
    begun_at: float,
    first_shown_at: float | None,
) -> None:
    """How a run ended, and what the store made of a failure; times are those of the loop."""
    meter.count("runs", verdict=VERDICT_LABELS[type(verdict)])
    meter.observe("run_seconds", asyncio.get_running_loop().time() - begun_at)
    if first_shown_at is not None:
        meter.observe("first_token_seconds", first_shown_at - begun_at)
    match verdict:
        case Dropping():
            meter.count("lease_losses")
        case Releasing(reason=TurnFault() as reason):
            meter.count("waits", reason=reason.code)
        case Failure():
            meter.count("errors", code=verdict.fault.code)
            if fail_outcome == "dead":
                meter.count("dead_letters", len(claim.messages), code=verdict.fault.code)
            elif fail_outcome is not None:
                meter.count("retries", code=verdict.fault.code)


def figures_of(
    claim: Claim, verdict: Verdict, fail_outcome: FailOutcome | None, *, first: float | None, run_seconds: float
) -> RunFigures:
    """The same, for the charts that people look at."""
    tenant, waits = claim.address.tenant, dict[str, float | None](_waits(claim))
    match verdict:
        case Commit():
            waits["first"] = first
            if claim.messages:
                waits["whole"] = max(0.0, claim.claimed_at - claim.messages[0].arrival) + run_seconds
            count = len(claim.messages)
            return RunFigures(tenant, verdict.outcome, messages=count, usage=verdict.usage, waits=waits)
        case Failure():
            # a retry has its usage told by the run that ends the batch
            usage = Usage() if fail_outcome == "retry" else verdict.usage
            return RunFigures(tenant, fail_outcome or "lost", usage=usage, code=verdict.fault.code, waits=waits)
        case Releasing():
            code = verdict.reason.code if verdict.reason else ""
            return RunFigures(tenant, "waiting", code=code, waits=waits)
        case HoldVerdict():
            return RunFigures(tenant, "held", waits=waits)
        case Dropping():
            return RunFigures(tenant, "lost")
    assert_never(verdict)
