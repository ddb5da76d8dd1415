"""A run: from one claim to one settled outcome.

    keep the lease → recall → answer → settle

The claim has announced the start. The lease is kept beside the work, in one task group: a lost lease cancels the work.
What came of it is decided in one place, as a value (`Verdict`), and acted upon in one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

from turnkeep.assistants import Assistant, Assistants
from turnkeep.backoff import Backoff
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import (
    EndpointBlocked,
    LeaseLost,
    ModelError,
    ModelGone,
    ModelRateLimited,
    ModelUnreachable,
    RunError,
    RunTimedOut,
    StoreError,
    TooManyDeaths,
    TurnkeepError,
)
from turnkeep.events import Answer, Event, TurnFault
from turnkeep.failpoints import reach
from turnkeep.messages import AssistantItem, Item
from turnkeep.models.contexts import ContextSizes
from turnkeep.models.model import Model, ModelRequest
from turnkeep.models.waits import BRIEF
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import PriceBook
from turnkeep.pricing.tokenizer import tokenizer_for
from turnkeep.runs.announcer import Announcer
from turnkeep.runs.answer import Answering, AnswerRules, FinalAnswer, NeedsDecision
from turnkeep.runs.budget import Budgets, Waiting
from turnkeep.runs.halt import close_call, stop_response, without_text
from turnkeep.runs.journal import Journal, retry_until_answered
from turnkeep.runs.lease import DrainRequest, Lease, StopRequest
from turnkeep.runs.outcomes import Dropping, HoldVerdict, Releasing, Verdict, measure_claim, measure_run
from turnkeep.runs.tool_calls import OUTCOME_UNKNOWN, CallRules, Calls
from turnkeep.store.contract import Store
from turnkeep.store.values import Circuit, Claim, Commit, FailOutcome, Failure, Page, Record, Stop, TranscriptEntry
from turnkeep.telemetry import SILENT, Meter, get_log
from turnkeep.telemetry.traces import span
from turnkeep.tools.toolbox import Toolbox
from turnkeep.usage import Usage

log = get_log(__name__)

DETAILS = 500
"""Characters of technical detail that a subscriber sees."""

RunObserver = Callable[[Event | Record], None]
"""Told in this process what a run shows (events) and does (journal records), in order. It may not wait."""


@dataclass(frozen=True, slots=True)
class RunRules:
    """Limits of a run, in seconds and counts.

    `direct`: somebody waits for this very run and nobody else would take it up, so what would wait ends it.
    """

    deadline: float = 300.0
    max_attempts: int = 3
    max_deaths: int = 10
    backoff: Backoff = Backoff()
    probe_every: float = 30.0
    reconnect: Backoff = Backoff(delay=2.0, cap=15.0)
    rate_limit_pause: Backoff = Backoff(delay=1.0, cap=60.0)
    action_expiry: float = 86_400.0
    answer: AnswerRules = AnswerRules()
    calls: CallRules = CallRules()
    direct: bool = False


@dataclass(frozen=True, slots=True)
class RunContext:
    """What every run of a worker shares."""

    store: Store
    model: Callable[[str], Model]
    """The model client that answers for a model name."""
    assistants: Assistants
    toolbox: Toolbox
    catalog: Catalog
    prices: PriceBook
    rules: RunRules = RunRules()
    clock: Clock = field(default_factory=SystemClock)
    meter: Meter = SILENT
    budgets: Budgets | None = None
    contexts: ContextSizes = field(default_factory=ContextSizes)
    sentences: Callable[[TurnkeepError], str] = lambda error: error.public
    """What people are told of an error."""


class RunBroke(RunError):
    """the run met an error that nobody expected"""

    code = "run_broke"
    retryable = True


# ---------------------------------------------------------------- the run


class Run:
    """One claim's work."""

    def __init__(self, context: RunContext, claim: Claim, lease: Lease, observer: RunObserver | None = None) -> None:
        self.context = context
        self.claim = claim
        self.lease = lease
        self.journal = Journal(context.store, claim, tell=observer)
        self.announcer = Announcer(context.store, claim, tell=observer)
        self.budget = context.budgets.run_budget(claim) if context.budgets else None
        self.answering: Answering | None = None
        self.error: Exception | None = None
        """What ended the work before its end."""
        self.failure: FailOutcome | None = None
        """What the store made of a failure."""
        self.assistant: Assistant = context.assistants.blank()
        self.model_name = self.assistant.model
        self.probing: str | None = None

    async def perform(self) -> Verdict:
        """Work until there is a verdict, and act upon it. Raises nothing but cancellation: what cannot be settled is
        dropped, and the thread comes back when the lease is over.
        """
        begun_at = asyncio.get_running_loop().time()
        measure_claim(self.context.meter, self.claim)
        reach("claimed")
        try:
            verdict = await self._verdict()
            await self._settle(verdict)
        except LeaseLost:
            verdict = Dropping()
        except (StoreError, TimeoutError) as error:
            log.error(
                "settlement_failed", run_id=self.claim.run_id, error=str(error) or "the store did not answer in time"
            )
            verdict = Dropping()
        except Exception as error:
            log.error("settlement_broke", run_id=self.claim.run_id, exc_info=error)
            verdict = Dropping()
        self._report(verdict, begun_at)
        return verdict

    # ------------------------------------------------------------ deciding

    async def _verdict(self) -> Verdict:
        verdict = await self._decide()
        if isinstance(verdict, Failure) and verdict.retry_in is None:
            await self._stop_there()
        return verdict

    async def _decide(self) -> Verdict:
        try:
            if self.claim.stop is not None:
                return await self._commit_stopped_run(self.claim.stop)
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
                return await self._slowed(error)
            case ModelError() if self._opens_circuit(error):
                return await self._blocked(error)
            case Waiting():
                return Releasing(error.retry_after or 1.0, self._fault(error))
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
        """Answer, beside the keeping of the lease; the first of the two that ends ends the other."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self.lease.keep())
                announcing = group.create_task(self.announcer.run())
                result = await self._answer()
                await self.announcer.wait_until_published()
                keeping.cancel()
                announcing.cancel()
        except BaseExceptionGroup as errors:
            raise _weightiest(errors) from errors
        return result

    async def _answer(self) -> FinalAnswer | NeedsDecision:
        claim, context = self.claim, self.context
        self.assistant = await context.assistants.answering(claim.address.tenant, claim.assistant)
        running = self.journal.open_response
        self.model_name = running.model if running else await self._choose_model()
        self.answering = self._answering()
        deadline = asyncio.timeout(context.rules.deadline)
        try:
            with span(f"invoke_agent {self.assistant.name}", _run_attributes(claim, self.assistant)):
                async with deadline:
                    result = await self.answering.answer()
        except TimeoutError:
            if deadline.expired():
                raise RunTimedOut(f"the run took longer than {context.rules.deadline} s") from None
            raise
        if self.probing is not None:
            await context.store.mend(self.probing)
        return result

    def _answering(self) -> Answering:
        claim, context = self.claim, self.context
        model, meter = context.model(self.model_name), context.meter
        tools = context.toolbox.of(claim.address.tenant)
        calls = Calls(
            claim, self.journal, self.announcer, tools, rules=context.rules.calls, clock=context.clock, meter=meter
        )
        return Answering(
            context.store, claim, self.assistant, model, self.model_name, tools, self.journal, self.announcer,
            calls, context.catalog, context.prices, context.contexts, context.rules.answer,
            lambda: self.lease.wants_steering, self._before_request, self._heard, meter,
        )  # fmt: skip

    async def _choose_model(self) -> str:
        """The first that may answer and whose circuit is closed. Raises `Waiting` when all are open."""
        context = self.context
        circuits = {circuit.endpoint: circuit for circuit in await context.store.circuits()}
        if not circuits:
            return self._candidates()[0]
        blocking: list[Circuit] = []
        for name in self._candidates():
            open_ones = [circuits[key] for key in self._circuits(name) if key in circuits]
            if not open_ones:
                return name
            blocking += open_ones
        return await self._probe(blocking[0])

    def _candidates(self) -> list[str]:
        """Who may answer, in this order: the model that was asked for last, the assistant's, its fallbacks."""
        models = [item.model for item in self.journal.first_messages if item.model]
        return list(dict.fromkeys((*models[-1:], self.assistant.model, *self.assistant.fallbacks)))

    async def _probe(self, circuit: Circuit) -> str:
        """Be the one run that tries whether an open circuit can be closed, or wait."""
        context = self.context
        is_away = circuit.fault.code == ModelUnreachable.code
        every = self._until_reconnecting() if is_away else context.rules.probe_every
        if await context.store.probe(circuit.endpoint, every=every):
            self.probing = circuit.endpoint
            return self._candidates()[0]
        delay = max(1.0, circuit.probe_at - await context.store.now(), every if is_away else 0.0)
        # looked at again within a minute, for the circuit may be closed by hand long before its probe
        delay = min(delay, BRIEF)
        raise Waiting(f"the circuit of {circuit.endpoint} is open: {circuit.fault.details}", retry_after=delay)

    def _until_reconnecting(self) -> float:
        return max(0.5, self.context.rules.reconnect.after(self.claim.attempt))

    def _circuits(self, model_name: str) -> tuple[str, str]:
        endpoint = self.context.model(model_name).endpoint
        return endpoint, f"{endpoint}/{model_name}"

    def _circuit(self, model_name: str, error: ModelError | None = None) -> str:
        endpoint, of_model = self._circuits(model_name)
        # limits are those of a model, mostly: a fallback at the same endpoint may answer meanwhile
        return of_model if isinstance(error, (ModelGone, ModelRateLimited)) else endpoint

    async def _before_request(self, request: ModelRequest, tokens: int) -> None:
        if self.budget is not None:
            await self.budget.before_request(request, tokens, self.context.model(self.model_name).endpoint)

    async def _heard(self, rate: Mapping[str, str]) -> None:
        if self.budget is not None:
            await self.budget.take_rate_limits(rate, self.context.model(self.model_name).endpoint)

    def _verdict_on(self, result: FinalAnswer | NeedsDecision) -> Verdict:
        if isinstance(result, NeedsDecision):
            return HoldVerdict(tuple(result.calls))
        outcome: Literal["incomplete", "completed"] = (
            "incomplete" if result.ending in ("length", "filter") else "completed"
        )
        return self._commit(outcome, result.text, self.journal.transcript)

    async def _commit_stopped_run(self, stop: Stop) -> Verdict:
        """The commit of a stopped run: what was shown stays, or is dropped (rollback), but never a started effect."""
        try:
            async with asyncio.timeout(self.lease.remaining):
                await self.journal.finish()
                text = self.announcer.text_so_far or await self._shown_before()
        except TimeoutError:
            raise LeaseLost(f"the store was away until the lease of run {self.claim.run_id} was over") from None
        if len(text) < len(self.journal.text):
            text = self.journal.text
        self.journal.usage += await self._stop_there()
        items = self.journal.transcript
        if stop == "rollback":
            text, items = "", without_text(items, self.journal.started_calls)
        elif partial := text[len(self.journal.text) :].lstrip("\n"):
            items.append(AssistantItem(partial, interrupted=True))
        items += [
            close_call(call, self.journal.started_calls, OUTCOME_UNKNOWN)
            for call in self.journal.open_calls
            if call in items
        ]
        return self._commit("cancelled", text, items)

    async def _stop_there(self) -> Usage:
        """Stop what the provider works out for this run and nobody wants any more; what it has cost until then."""
        if (running := self.journal.open_response) is None:
            return Usage()
        usage = await stop_response(running, self.context.model(running.model), seconds=self.lease.remaining)
        return self.context.prices.cost(usage, running.model)

    async def _shown_before(self) -> str:
        """The text that an earlier attempt has shown, from the log."""
        page = await retry_until_answered(lambda: self.context.store.read(self.claim.address, after=0, limit=1))
        if page.live_from is None:
            return ""
        answer, after = Answer(), page.live_from - 1
        while after < page.top:
            page = await self._log_after(after)
            if not page.events:
                break
            for event in page.events:
                answer.take(event)
            after = page.events[-1].offset
        return answer.text

    async def _log_after(self, offset: int) -> Page:
        return await retry_until_answered(lambda: self.context.store.read(self.claim.address, after=offset))

    def _commit(self, outcome: Literal["completed", "incomplete", "cancelled"], text: str, items: list[Item]) -> Commit:
        count = tokenizer_for(self.model_name, self.context.catalog).count_item
        entries = [TranscriptEntry(item, count(item)) for item in items]
        return Commit(outcome, text, entries, self.journal.usage, self.journal.model or self.model_name)

    async def _slowed(self, error: ModelRateLimited) -> Verdict:
        """The provider asks to wait: all workers do, and no attempt is used."""
        delay = error.retry_after or self.context.rules.rate_limit_pause.after(self.claim.attempt) + 1.0
        if delay > BRIEF and not self.context.rules.direct:
            return await self._blocked(error, probe_in=delay)
        endpoint, once = self._circuit(self.model_name), self._act_of_attempt("slow_down")
        await retry_until_answered(lambda: self.context.store.slow_down(endpoint, delay, once=once))
        return Releasing(delay, self._fault(error))

    def _opens_circuit(self, error: ModelError) -> bool:
        away = isinstance(error, ModelUnreachable) and not self.context.rules.direct
        return away or isinstance(error, EndpointBlocked)

    def _act_of_attempt(self, name: str) -> str:
        """An attempt does such a thing once: a repeat must not undo what somebody did to the circuit meanwhile."""
        return f"{name} {self.claim.run_id} {self.claim.attempt}"

    async def _blocked(self, error: ModelError, *, probe_in: float | None = None) -> Verdict:
        """Nobody can be answered there for now: open the circuit and wait without using attempts."""
        is_away, fault = isinstance(error, ModelUnreachable), self._fault(error)
        pause = self._until_reconnecting() if is_away else probe_in or self.context.rules.probe_every
        endpoint, once = self._circuit(self.model_name, error), self._act_of_attempt("trip")
        await retry_until_answered(lambda: self.context.store.trip(endpoint, fault, probe_in=pause, once=once))
        log.warning("circuit_opened", endpoint=endpoint, code=error.code)
        fallback = self.model_name != self._candidates()[-1]
        return Releasing(0.0 if fallback else min(pause, BRIEF), fault)

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
        effects = bool(self.journal.started_calls)
        return Failure(
            self._fault(error), retry_in, effects=effects, usage=self.journal.usage if not again else Usage()
        )

    def _fault(self, error: TurnkeepError) -> TurnFault:
        return TurnFault(error.code, self.context.sentences(error), str(error)[:DETAILS])

    # ------------------------------------------------------------ acting

    async def _settle(self, verdict: Verdict) -> None:
        """The one place that acts. Repeated until the store answers or the lease is over."""
        store, claim = self.context.store, self.claim
        async with asyncio.timeout(self.lease.remaining):
            match verdict:
                case Commit():
                    reach("final")
                    await retry_until_answered(lambda: store.commit(claim, verdict))
                    reach("committed")
                case Failure():
                    self.failure = await retry_until_answered(lambda: store.fail(claim, verdict))
                case HoldVerdict():
                    expiry = self.context.rules.action_expiry
                    await retry_until_answered(lambda: store.hold(claim, verdict.calls, expires_in=expiry))
                case Releasing():
                    await retry_until_answered(lambda: store.release(claim, delay=verdict.delay, reason=verdict.reason))
                case Dropping():
                    return
                case _:
                    assert_never(verdict)
        if self.budget is not None and isinstance(verdict, Commit | Failure) and self.failure != "retry":
            await self.budget.settle(verdict.usage)

    def _report(self, verdict: Verdict, begun_at: float) -> None:
        claim, name = self.claim, type(verdict).__name__.lower()
        log.info("run_settled", run_id=claim.run_id, attempt=claim.attempt, verdict=name, messages=len(claim.messages))
        first_shown_at = self.answering.first_shown_at if self.answering else None
        measure_run(self.context.meter, claim, verdict, self.failure, begun_at=begun_at, first_shown_at=first_shown_at)


def _run_attributes(claim: Claim, assistant: Assistant) -> dict[str, object]:
    """A run in the words of the tracing conventions."""
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "openai",
        "gen_ai.agent.name": assistant.name,
        "gen_ai.agent.id": assistant.assistant_id or None,
        "gen_ai.request.model": assistant.model,
        "gen_ai.conversation.id": claim.thread_id,
        "turnkeep.run.id": claim.run_id,
        "turnkeep.run.attempt": claim.attempt,
        "turnkeep.batch.messages": len(claim.messages),
    }


def _weightiest(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of the errors that ended the work, the one that decides: a lost lease before all, then what we were told."""
    flat: list[BaseException] = []
    for error in errors.exceptions:
        flat.append(_weightiest(error) if isinstance(error, BaseExceptionGroup) else error)
    order = (LeaseLost, StopRequest, DrainRequest, TurnkeepError)
    return min(flat, key=lambda e: next((i for i, kind in enumerate(order) if isinstance(e, kind)), len(order)))
