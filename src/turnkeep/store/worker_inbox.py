"""The half of the inbox that a worker needs: claims, what is written under them, and how they end.

Apart from the other half, because whoever runs turns accepts, edits and withdraws nothing: a run
that is given this protocol cannot do what only people may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from turnkeep.events import TurnFault
from turnkeep.messages import Address, Message
from turnkeep.store.values import Claim, Commit, Directive, FailOutcome, Failure, HeldCall, Record, Remainder


class WorkerInbox(Protocol):
    """From a claim to its one settlement."""

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        """Take up to `limit` ready threads of these queues (None: all), fairly, each with its
        batch, journal and decisions.

        Appends ``started`` (unless the claim carries a stop). An expired lease counts as a death of
        the oldest message. No thread has two live claims; of one thread's claims each has a higher
        fence than the one before.
        """
        ...

    # Not `accept` and `claim`: between the two a worker would take the messages.
    async def begin(self, messages: Sequence[Message], *, owner: str, lease: float) -> Claim:
        """Accept and claim in one act, for direct calls: no window. Messages already waiting are
        answered along with these.

        Raises `ThreadBusy` when the thread is leased, in retry, held or paused, or when its inbox
        does not fit one batch; then nothing is stored. An id that was accepted before raises
        `MessageConflict`.
        """
        ...

    # All claims of an owner in one call: hundreds of runs are one write every third of a lease.
    async def renew(
        self, owner: str, claims: Sequence[Claim], *, lease: float, once: str | None = None
    ) -> dict[str, Directive]:
        """Prolong these claims (by token); every other lease of this owner is given back at once,
        without a death (its claim reply was lost).

        Never call it while a claim of the same owner is in flight. A token that is not valid any
        more gives `held=False`.
        """
        ...

    async def offer_steering(self, claim: Claim) -> list[Message]:
        """Offer the run the steering messages, with all that wait before them, to be taken into its
        batch at a step boundary; they are marked as offered.

        Again: the same, and what was sent since, until a journal record takes them
        (``steered_through``) or the run ends; once offered they cannot be edited or withdrawn.
        """
        ...

    async def journal(self, claim: Claim, records: Sequence[Record]) -> None:
        """Append fenced records; the first one freezes the batch for good. Durable on return:
        journal before you act.
        """
        ...

    async def commit(self, claim: Claim, commit: Commit) -> Remainder:
        """End the run: trim the batch, append the entries, add the usage, write ``completed``, look
        at what is left; one act.

        What is left is due by its window, at once if that has passed. Offered or steering messages
        not taken are ``deferred``. Raises `EventGap`, and changes nothing, where the log holds fewer
        events of the claim than were published: it lost its end to a failover in between.
        """
        ...

    async def fail(self, claim: Claim, failure: Failure) -> FailOutcome:
        """End an attempt. Counts one attempt on the oldest message and freezes the batch.

        retry: due again after `retry_in`, same batch, journal kept, event ``retrying``. Without
        `retry_in`: a batch of several messages without started effects is split (each alone,
        `last_chance`, due now, journal dropped, event ``retrying``); else its messages become dead
        letters with one ``dead`` event, and what is left is due by its window. If a stop was asked
        since the claim, every failure is a retry, due now, so that the next claimant obeys the
        stop.
        """
        ...

    # Apart from `fail`: a rate limit or a shutdown is nobody's failure and uses no attempt.
    async def release(self, claim: Claim, *, delay: float = 0.0, reason: TurnFault | None = None) -> None:
        """Give the claim back without using an attempt, due again after `delay`; dissolves an
        unfrozen batch. A reason appends ``waiting``.
        """
        ...

    # The worker is free while a person thinks, for a day if need be.
    async def hold(
        self, claim: Claim, calls: Sequence[HeldCall], *, expires_in: float, published_count: int = 0
    ) -> None:
        """Give worker and lease back but not the turn, until all calls are decided or the time is
        over. Appends ``held``. Calls open when the time is over are ``expired``, when a newer
        message interrupts ``declined``; a cancel leaves them open. Raises `EventGap` as `commit` does.
        """
        ...

    async def ready(self, *, queues: Sequence[str] | None, timeout: float) -> bool:
        """Return when a claim may succeed, or after `timeout`; False where a look has just told that
        none would. A hint: may return early, never relied upon.
        """
        ...

    # Beside the renewal, which finds the same a third of a lease later at worst.
    async def wait_nudge(self, owner: str, *, timeout: float) -> set[Address]:
        """Return when a claim of this owner has a new directive (stop, steer), with its address;
        empty after `timeout`. A hint.
        """
        ...
