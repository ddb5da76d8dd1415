"""A run: from one claim to one settled outcome.

    keep the lease → recall → answer → settle

The claim has announced the start. The lease is kept beside the work, in one task group: a lost
lease cancels the work. What came of it is decided in one place, as a value (`Verdict`), and acted
upon in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar, assert_never

from turnkeep.assistants import Assistant
from turnkeep.errors import (
    LeaseLost,
    ModelError,
    ModelRateLimited,
    RunBroke,
    RunTimedOut,
    StoreError,
    TooManyDeaths,
    TurnkeepError,
    Waiting,
)
from turnkeep.events import Event, TurnFault
from turnkeep.failpoints import crash_chances, reach
from turnkeep.messages import AssistantItem, Item
from turnkeep.pricing.tokenizer import tokenizer_for
from turnkeep.runs.activity import RunFigures, count_unanswered, measure_claim, measure_run
from turnkeep.runs.announcer import Announcer, Disclosure
from turnkeep.runs.answer import Answering, ModelPrompt
from turnkeep.runs.answer_contract import FinalAnswer, NeedsDecision
from turnkeep.runs.endpoint_circuits import Circuits
from turnkeep.runs.halt import close_call, shown_before, stop_response, without_text
from turnkeep.runs.journal import Journal, retry_until_answered
from turnkeep.runs.lease import DrainRequest, Lease, StopRequest, weightiest
from turnkeep.runs.outcomes import VERDICT_LABELS, Dropping, HoldVerdict, Releasing, Verdict
from turnkeep.runs.run_context import RunContext
from turnkeep.runs.tool_calls import EFFECT_UNKNOWN
from turnkeep.runs.trace_attributes import run_attributes
from turnkeep.store.contract import EventGap
from turnkeep.store.shared_ledger import Circuit
from turnkeep.store.values import Commit, FailOutcome, Failure, Record, Stop, TranscriptEntry
from turnkeep.telemetry import SILENT, get_log, traces
from turnkeep.usage import Usage

log = get_log(__name__)

T = TypeVar("T")

RunObserver = Callable[[Event | Record], None]
"""Told in this process what a run shows (events) and does (journal records), in order.

It may not wait.
"""


class Run:
    """One claim's work."""

    answering: Answering | None = None
    error: Exception | None = None
    """What ended the work before its end."""
    failure: FailOutcome | None = None
    """What the store made of a failure."""
    _circuits: Circuits | None = None

    def __init__(self, context: RunContext, lease: Lease, observer: RunObserver | None = None) -> None:
        self.context = context
        self.lease = lease
        self.claim = claim = lease.claim
        self.journal = Journal(context.store, claim, tell=observer)
        self.announcer = Announcer(context.publisher, claim, tell=observer)
        budgets = context.budgets
        self.budget = budgets.run_budget(claim) if budgets is not None and budgets.budgets else None
        self.assistant: Assistant = context.assistants.blank
        self.model_name = self.assistant.model

    async def perform(self) -> Verdict:
        """Work until there is a verdict, and act upon it.

        Raises nothing but cancellation: what cannot be settled is dropped, and the thread comes
        back when the lease is over.
        """
        begun_at = asyncio.get_running_loop().time()
        if self.context.meter is not SILENT:
            measure_claim(self.context.meter, self.claim)
        if crash_chances:
            reach("claimed")
        try:
            verdict = await self._verdict()
            await self._settle(verdict)
        except LeaseLost:
            verdict = Dropping()
        # whoever claims the thread next decides anew, from the journal
        except (StoreError, TimeoutError) as error:
            log.error(
                "settlement_failed", run_id=self.claim.run_id, error=str(error) or "the store did not answer in time"
            )
            verdict = Dropping()
        # also a mistake of ours: beyond this line it would end the worker, and every
        # other run with it
        except Exception as error:
            log.error("settlement_broke", run_id=self.claim.run_id, exc_info=error)
            verdict = Dropping()
        self._report(verdict, begun_at)
        return verdict

    async def _verdict(self) -> Verdict:
        verdict = await self._decide()
        # nobody comes back for it: in the background it would go on at our expense
        if isinstance(verdict, Failure) and verdict.retry_in is None:
            await self._stop_there()
        return verdict

    async def _decide(self) -> Verdict:
        try:
            # a stop that came while nobody held the thread
            if self.claim.stop is not None:
                return await self._commit_stopped_run(self.claim.stop)
            # a death uses no attempt, so a batch that kills its workers needs an end of its own
            if self.claim.deaths > self.context.rules.max_deaths:
                raise TooManyDeaths(f"{self.claim.deaths} workers died while answering this batch")
            return self._verdict_on(await self._work())
        except Exception as error:
            self.error = error
            return self._end_if_direct(await self._judge(error), error)

    async def _judge(self, error: Exception) -> Verdict:
        """The one place that decides what becomes of a run that did not reach its end."""
        match error:
            case LeaseLost():
                return Dropping()
            case DrainRequest():
                return Releasing(0.0)
            case StopRequest():
                return await self._commit_stopped_run(error.stop)
            case ModelRateLimited():
                return await self.circuits.slow_down(self.model_name, error, has_fallback=self._has_fallback)
            case ModelError() if self.circuits.are_opened_by(error):
                return await self.circuits.open(self.model_name, error, has_fallback=self._has_fallback)
            case Waiting():
                # of a circuit that others have opened, its cause: "it is open" tells nobody what to do
                return Releasing(error.retry_after or 1.0, self.circuits.blocking_fault or self.context.fault(error))
            case TurnkeepError():
                return self._fail(error)
        log.error("run_broke", run_id=self.claim.run_id, exc_info=error)
        return self._fail(RunBroke(f"{type(error).__name__} in the run, see the log of the worker"))

    def _end_if_direct(self, verdict: Verdict, error: Exception) -> Verdict:
        """A run that is waited for does not go back to wait for another worker."""
        if not self.context.rules.direct or not isinstance(verdict, Releasing):
            return verdict
        reason = verdict.reason or TurnFault("run_broke", RunBroke.public, type(error).__name__)
        return Failure(reason, None, effects=bool(self.journal.started_calls), usage=self.journal.usage)

    async def _work(self) -> FinalAnswer | NeedsDecision:
        """Answer for as long as the lease holds, and what is said finds its way into the log."""
        self.announcer.watch(self.lease.interrupt)
        try:
            with while_held(self.lease):
                result = await self._answer()
                # the final event is written by the commit: nothing of this run may come after it
                await self.announcer.wait_until_published()
        except BaseExceptionGroup as errors:  # of calls that ran beside each other
            raise weightiest(errors.exceptions) from errors
        finally:
            self.announcer.close()
        return result

    async def _answer(self) -> FinalAnswer | NeedsDecision:
        claim, context = self.claim, self.context
        # of several messages the last that names somebody counts, as with everything they ask for
        choices = [claim.assistant, *(message.assistant for message in claim.messages if message.assistant)]
        await self._look_around(choices[-1])
        self.assistant = await context.assistants.answering(claim.address.tenant, choices[-1])
        # the model that works on it: another one could not go on with its response
        running = self.journal.open_response
        self.model_name = running.model if running else await self._choose_model()
        self.answering = self._answering()
        if traces.tracer is None:
            result = await self._answer_in_time(self.answering)
        else:
            with traces.span(f"invoke_agent {self.assistant.name}", lambda: run_attributes(claim, self.assistant)):
                result = await self._answer_in_time(self.answering)
        if self._circuits is not None:
            await self._circuits.close_after_probe()
        return result

    async def _answer_in_time(self, answering: Answering) -> FinalAnswer | NeedsDecision:
        deadline = asyncio.timeout(self.context.rules.deadline)
        try:
            async with deadline:
                return await answering.answer()
        except TimeoutError:
            # a TimeoutError of somebody else is no deadline of ours
            if deadline.expired():
                raise RunTimedOut(f"the run took longer than {self.context.rules.deadline} s") from None
            raise

    async def _look_around(self, assistant_id: str | None) -> None:
        """Read what is not remembered of assistants and circuits, at the same time: nothing of it is
        the model's, and each question is a wait before it is asked.
        """
        tenant, assistants = self.claim.address.tenant, self.context.assistants
        if self.context.circuits.has() or assistants.knows_answering(tenant, assistant_id):
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_at_circuits())
            group.create_task(assistants.answering(tenant, assistant_id))

    async def _look_at_circuits(self) -> list[Circuit]:
        """The open circuits. Remembered for a moment while there is none: an open one is looked at
        by each run, because its next probe moves.
        """
        circuits = await self.context.circuits.get()
        if circuits:
            self.context.circuits.drop()
        return circuits

    async def _choose_model(self) -> str:
        """Raises `Waiting` when the circuits of all that may answer are open."""
        candidates = self._candidates()
        # the ordinary case, which costs one look
        if not (open_circuits := await self._look_at_circuits()):
            return candidates[0]
        return await self.circuits.choose_model(candidates, open_circuits)

    @property
    def circuits(self) -> Circuits:
        """Made when they are needed: most runs meet none that is open, and open none."""
        if self._circuits is None:
            self._circuits = Circuits(self.context, self.claim)
        return self._circuits

    def _answering(self) -> Answering:
        claim, context = self.claim, self.context
        disclosure = Disclosure(self.announcer, claim, context.toolbox, self.assistant)
        prompt = ModelPrompt(
            resources=context,
            claim=claim,
            assistant=self.assistant,
            model=context.model(self.model_name),
            model_name=self.model_name,
            journal=self.journal,
            rules=context.rules.answer,
        )
        return Answering(
            resources=context,
            claim=claim,
            prompt=prompt,
            journal=self.journal,
            announcer=self.announcer,
            disclosure=disclosure,
            rules=context.rules.answer,
            call_rules=context.rules.calls,
            lease=self.lease,
            spending=self.budget or context.budgets,
        )

    def _candidates(self) -> list[str]:
        """Who may answer, in this order: the model that was asked for last,
        the assistant's, its fallbacks.
        """
        models = [item.model for item in self.journal.first_messages if item.model]
        return list(dict.fromkeys((*models[-1:], self.assistant.model, *self.assistant.fallbacks)))

    @property
    def _has_fallback(self) -> bool:
        return self.model_name != self._candidates()[-1]

    def _verdict_on(self, result: FinalAnswer | NeedsDecision) -> Verdict:
        if isinstance(result, NeedsDecision):
            return HoldVerdict(tuple(result.calls))
        outcome: Literal["incomplete", "completed"] = (
            "incomplete" if result.ending in ("length", "filter") else "completed"
        )
        return self._commit(
            outcome, result.text, self.journal.transcript, published_count=self.announcer.published_count
        )

    async def _commit_stopped_run(self, stop: Stop) -> Verdict:
        """The commit of a stopped run: what was shown stays, or is dropped (rollback), but never a
        started effect.
        """
        try:
            # told as a lost lease: taken for an unexpected error, it used up an attempt
            async with asyncio.timeout(self._time_left):
                await self.journal.finish()
                text = self.announcer.text_so_far or await shown_before(self.context.store, self.claim.address)
        except TimeoutError:
            raise LeaseLost(f"the store was away until the lease of run {self.claim.run_id} was over") from None
        # steps of an earlier attempt that this one has not shown again yet
        if len(text) < len(self.journal.text):
            text = self.journal.text
        self.journal.usage += await self._stop_there()
        items = self.journal.transcript
        if stop == "rollback":
            # what was said is taken back, what was done cannot be
            text, items = "", without_text(items, self.journal.started_calls)
        else:
            items += self._cut_step(text)
        items += [
            close_call(call, self.journal.started_calls, EFFECT_UNKNOWN)
            for call in self.journal.open_calls
            if call in items
        ]
        return self._commit("cancelled", text, items)

    def _cut_step(self, text: str) -> list[Item]:
        """What was shown of the step that a stop has cut off; `text` is the whole answer."""
        answering, partial = self.answering, text[len(self.journal.text) :].lstrip("\n")
        reasoning = answering.disclosure.shown_thought(self.journal.steps) if answering is not None else None
        sentence = AssistantItem(partial, interrupted=True) if partial else None
        return [item for item in (reasoning, sentence) if item is not None]

    @property
    def _time_left(self) -> float:
        """Seconds until the lease counts as lost if it is not renewed; at least a moment, for one try."""
        return max(1.0, self.lease.good_until - asyncio.get_running_loop().time())

    async def _stop_there(self) -> Usage:
        """Stop what the provider works out for this run and nobody wants any more; what it has cost
        until then.
        """
        if (running := self.journal.open_response) is None:
            return Usage()
        usage = await stop_response(running, self.context.model(running.model), seconds=self._time_left)
        return self.context.prices.cost(usage, running.model)

    def _commit(
        self,
        outcome: Literal["completed", "incomplete", "cancelled"],
        text: str,
        items: list[Item],
        *,
        published_count: int = 0,
    ) -> Commit:
        count = tokenizer_for(self.model_name, self.context.catalog).count_item
        entries = [TranscriptEntry(item, count(item)) for item in items]
        model = self.journal.model or self.model_name
        return Commit(outcome, text, entries, self.journal.usage, model, published_count)

    def _fail(self, error: TurnkeepError) -> Verdict:
        rules, claim = self.context.rules, self.claim
        failures = claim.attempts + 1
        again = error.retryable and not claim.last_chance and failures < rules.max_attempts
        retry_in = None
        if again:
            retry_in = error.retry_after or rules.backoff.after(failures)
        log.warning(
            "attempt_failed",
            run_id=claim.run_id,
            attempt=claim.attempt,
            code=error.code,
            retry_in=retry_in,
            error=str(error),
        )
        # a batch that had effects is not split: its parts would start them once more
        effects = bool(self.journal.started_calls)
        return Failure(
            self.context.fault(error), retry_in, effects=effects, usage=self.journal.usage if not again else Usage()
        )

    async def _settle(self, verdict: Verdict) -> None:
        """The one place that acts. Repeated until the store answers or the lease is over."""
        store, claim = self.context.store, self.claim
        async with asyncio.timeout(self._time_left):
            if not isinstance(verdict, Commit | Dropping):
                await self.journal.flush()
            match verdict:
                case Commit():
                    if crash_chances:
                        reach("final")
                    remainder = await self._end_whole(
                        lambda count: store.commit(claim, _with_count(verdict, count)),
                        verdict.published_count,
                    )
                    self.context.histories.extend(claim, verdict.entries, remainder.transcript)
                    if crash_chances:
                        reach("committed")
                case Failure():
                    self.failure = await retry_until_answered(lambda: store.fail(claim, verdict))
                case HoldVerdict():
                    expiry = self.context.rules.action_expiry
                    await self._end_whole(
                        lambda count: store.hold(claim, verdict.calls, expires_in=expiry, published_count=count),
                        self.announcer.published_count,
                    )
                case Releasing():
                    await retry_until_answered(lambda: store.release(claim, delay=verdict.delay, reason=verdict.reason))
                case Dropping():
                    return
                case _:
                    assert_never(verdict)
        # a retry is the same run and goes on with its reservation
        if self.budget is not None and isinstance(verdict, Commit | Failure) and self.failure != "retry":
            await self.budget.settle(verdict.usage)

    async def _end_whole(self, end: Callable[[int], Awaitable[T]], published_count: int) -> T:
        """End the claim behind all that was shown: what a failover took of it is published again first."""
        while True:
            try:
                return await retry_until_answered(partial(end, published_count))
            except EventGap as gap:
                log.warning("events_published_again", run_id=self.claim.run_id, reason=str(gap))
                await self.announcer.publish_again(gap.published_count)
            published_count = self.announcer.published_count

    def _report(self, verdict: Verdict, begun_at: float) -> None:
        claim, context = self.claim, self.context
        if log.is_heard(logging.INFO):
            label, count = VERDICT_LABELS[type(verdict)], len(claim.messages)
            log.info("run_settled", run_id=claim.run_id, attempt=claim.attempt, verdict=label, messages=count)
        shown_at = self.answering.first_shown_at if self.answering else None
        if context.meter is not SILENT:
            measure_run(context.meter, claim, verdict, self.failure, begun_at=begun_at, first_shown_at=shown_at)
        if context.activity is not None:
            context.activity.note(self.figures(verdict, begun_at, shown_at))

    def figures(self, verdict: Verdict, begun_at: float, shown_at: float | None) -> RunFigures:
        """What is counted of it; both times are those of the loop."""
        claim, answered_count, end = self.claim, 0, ""
        if isinstance(verdict, Commit):
            end, usage, code, answered_count = verdict.outcome, verdict.usage, "", len(claim.messages)
        else:
            end, usage, code = count_unanswered(verdict, self.failure)
        # of a claim that is lost others count the wait
        has_waited = bool(claim.messages) and not isinstance(verdict, Dropping)
        return RunFigures(
            at=self.context.clock.now(),
            tenant=claim.address.tenant,
            end=end,
            messages=answered_count,
            model=self.model_name,
            assistant=self.assistant.name or self.assistant.assistant_id,
            usage=usage,
            code=code,
            attempt=claim.attempt,
            arrival=claim.messages[0].arrival if has_waited else None,
            due_at=claim.due_at,
            claimed_at=claim.claimed_at,
            first=None if shown_at is None else shown_at - begun_at,
            seconds=asyncio.get_running_loop().time() - begun_at,
        )


@contextmanager
def while_held(lease: Lease) -> Iterator[None]:
    """As `asyncio.timeout`, but that a lease ends the block: at its next wait, once there is a reason, which is
    raised. Of a task, and one at a time.
    """
    work = asyncio.current_task()
    if work is None:
        raise RuntimeError("only a task can be interrupted")
    cancellations = work.cancelling()
    if lease.reasons:
        raise weightiest(lease.reasons)
    lease.work = work
    try:
        yield
    except BaseException as error:
        if lease.reasons and (cause := lease.cause(error, work, cancellations)) is not error:
            raise cause from error
        raise
    finally:
        lease.work = None
    if lease.reasons:
        raise lease.cause(None, work, cancellations)


def _with_count(commit: Commit, published_count: int) -> Commit:
    """The commit as it is, mostly: nothing was published again behind the verdict."""
    return commit if commit.published_count == published_count else replace(commit, published_count=published_count)
