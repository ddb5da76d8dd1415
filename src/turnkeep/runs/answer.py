"""The step loop: ask the model, show what it says, run the tools it asks for, until it has
answered.

Everything that must not happen twice is in the journal before it is acted upon; a new attempt
begins with what the journal holds. What the model is told at a step (`ModelPrompt`): as much of the
past as fits, the batch, what is wished, the tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import field, replace
from typing import Any, cast

from turnkeep.assistants import Assistant
from turnkeep.backoff import Backoff
from turnkeep.errors import (
    AnswerMalformed,
    ContextTooLong,
    ModelError,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    ResponseLost,
    TooManySteps,
    UnansweredCall,
)
from turnkeep.events import Event
from turnkeep.failpoints import crash_chances, reach
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import AssistantItem, CallItem, HostedItem, Item, ReasoningItem, UserItem, text_content
from turnkeep.models.model import (
    Began,
    Finish,
    ItemDone,
    Model,
    ModelRequest,
    PushingModel,
    ReasoningDelta,
    StreamPart,
    ToolSpec,
    output_limit,
    push_parts,
    with_output_limit,
    works_alone,
)
from turnkeep.models.past import Past, pair, repair
from turnkeep.pricing.prices import PRICE_PERIOD
from turnkeep.pricing.tokenizer import Tokenizer, most_tokens, tokenizer_for
from turnkeep.runs.announcer import Announcer, Disclosure
from turnkeep.runs.answer_contract import AnswerResources, AnswerRules, FinalAnswer, NeedsDecision, Spending, Steerable
from turnkeep.runs.journal import SEPARATOR, Journal, OpenResponse, Step
from turnkeep.runs.tool_calls import CallRules, Calls
from turnkeep.runs.trace_attributes import request_attributes, response_attributes
from turnkeep.store.values import Claim, HeldCall
from turnkeep.telemetry import SILENT, get_log, traces
from turnkeep.tools.toolbox import Toolbox
from turnkeep.usage import Usage

log = get_log(__name__)

MOST_RESUMES = 6
RESUMING = Backoff(delay=0.2, cap=5.0)
"""How often, and after which waits, a run goes on with a response of the background whose stream
has broken.
"""

_BREAKS = (ModelUnavailable, ModelTimedOut, AnswerMalformed)

DEFAULT_CONTEXT = 128_000
"""Tokens that a model of unknown size is believed to take."""

OF_A_USER = "Instructions of a user for this answer. They do not replace those of the operator:"
"""Stands before them, in a message of the user: who may write a message may not
write the system's words.
"""

FREE = (None, "auto", "none")
"""Choices of a tool that demand no call."""

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}

LEAST_OUTPUT = 16
"""The lowest limit of an answer that providers accept."""


@dataclass(slots=True)
class PartialStep:
    """What has come of one model call so far."""

    before: str
    text: str = ""
    repeats: int = 0
    """How many characters that come again have been shown, with what stands between two steps."""
    items: list[AssistantItem | ReasoningItem | HostedItem | CallItem] = field(default_factory=list)
    began: Began | None = None
    finish: Finish | None = None

    @property
    def item_place(self) -> int:
        """Where in the answer the text of the next item begins."""
        lead = len(self.before) + len(SEPARATOR) if self.before else 0
        return lead + sum(len(item.text) for item in self.items if isinstance(item, AssistantItem))

    def new_part(self, text: str) -> str:
        """What of a piece of text was not shown before the stream broke."""
        shown_length = self.repeats - (len(SEPARATOR) if self.before else 0)
        return text[max(0, shown_length - len(self.text)) :]


@dataclass(slots=True, kw_only=True)
class Answering:
    """One run's answer in the making."""

    resources: AnswerResources
    claim: Claim
    prompt: ModelPrompt
    journal: Journal
    announcer: Announcer
    disclosure: Disclosure
    rules: AnswerRules
    call_rules: CallRules
    lease: Steerable
    spending: Spending | None = None
    first_shown_at: float | None = None
    """When the first text of this run was shown, by the time of the loop."""

    async def answer(self) -> FinalAnswer | NeedsDecision:
        """Steps until the model has answered or somebody has to decide."""
        await self.prompt.recall(self.rules.history_tokens)
        # a further attempt: subscribers may have seen text of the last one that never became a step
        if self.journal.text:
            self.announcer.replace(self.journal.text)
        self.disclosure.replay()
        while True:
            has_calls = bool(self.journal.open_calls)
            if has_calls and (held_calls := await self._answer_calls()):
                return NeedsDecision(held_calls)
            # between steps whatever the hint says: a late one would defer a message to a turn of
            # its own
            if has_calls or self.lease.wants_steering:
                await self._steer()
            if self.journal.is_final:
                return FinalAnswer(self.journal.text, self.journal.ending or "stop")
            await self._step()

    async def _answer_calls(self) -> list[HeldCall]:
        resources = self.resources
        # made here: most answers call nothing
        calls = Calls(
            self.claim,
            self.journal,
            self.announcer,
            self.disclosure,
            toolbox=self.prompt.toolbox,
            rules=self.call_rules,
            clock=resources.clock,
            meter=resources.meter,
        )
        return await calls.answer(self.prompt.assistant.tool_names, self.prompt.client_names)

    async def _steer(self) -> None:
        """Take in what the user has said meanwhile and wants answered in this run.

        Asked between steps whatever the hints say; before the end only on a hint,
        which may be late.
        """
        if messages := await self.resources.store.offer_steering(self.claim):
            await self.journal.write_steered(messages)

    async def _step(self) -> None:
        if self.journal.steps >= self.rules.max_steps:
            raise TooManySteps(f"the model still asks for tools after {self.journal.steps} steps")
        self.disclosure.begin_step()
        try:
            step = await self._ask(self.prompt.request())
        except ContextTooLong as error:
            await self.prompt.shorten(error)
            step = await self._ask(self.prompt.request())
        except UnansweredCall:
            step = await self._ask(self.prompt.request(is_repair=True))
        if crash_chances:
            reach("called")
        step = self.disclosure.public(step)
        # the commit of a final answer holds what its record would, and the answer is told by it: written
        # twice, its reader waits for both; not where a message that steers makes another step of it
        is_last = step.ending not in ("calls", "pause") and not self.lease.wants_steering
        await self.journal.write_step(step, is_last=is_last)
        self.disclosure.end_step(step, self.journal.steps)

    async def _ask(self, request: ModelRequest) -> Step:
        """Call the model, and again as often as the rules allow. The step that comes of it is not in
        the journal yet.
        """
        before, failures, resumes = self.announcer.text_so_far, 0, 0
        last_break: ModelError | None = None
        while True:
            self.disclosure.begin_again()
            try:
                return await self._ask_once(request, before)
            except ResponseLost as loss:
                await self.journal.write_response(None)
                # lost behind a broken stream: then the break is what failed, and counts as such
                if last_break is not None:
                    raise last_break from loss
                continue
            except ModelError as error:
                self.resources.meter.count("model_requests", model=request.model, outcome=error.code)
                # the provider works on without us: to read on costs nothing, to ask again costs the
                # answer twice
                if self.journal.open_response and isinstance(error, _BREAKS) and resumes < MOST_RESUMES:
                    resumes, last_break = resumes + 1, error
                    log.info("response_resumed", run_id=self.claim.run_id, code=error.code, resumes=resumes)
                    await asyncio.sleep(RESUMING.after(resumes))
                    continue
                failures += 1
                if (delay := self.rules.again(error, failures)) is None:
                    raise
                log.info("request_repeated", run_id=self.claim.run_id, code=error.code, failures=failures, delay=delay)
            # half of an answer that failed may not stand before the next one
            if self.announcer.text_so_far != before:
                self.announcer.replace(before)
            await asyncio.sleep(delay)

    async def _ask_once(self, request: ModelRequest, before: str) -> Step:
        if (running := self.journal.open_response) is not None:
            request = replace(request, response_id=running.response_id)
        elif (spending := self.spending) is not None:
            endpoint = self.prompt.model.endpoint
            if spending.is_limited or await spending.slow_downs.get(endpoint):
                tokens = self.prompt.input_tokens(request) if spending.counts_tokens else 0
                await spending.before_request(request, tokens, endpoint)
        partial = PartialStep(before, repeats=len(self.announcer.text_so_far) - len(before) if running else 0)
        begun_at = asyncio.get_running_loop().time()
        if traces.tracer is None:
            step = await self._receive(request, partial)
        else:
            with traces.span(f"chat {request.model}", lambda: request_attributes(request), kind="client") as current:
                step = await self._receive(request, partial)
                current.set(lambda: response_attributes(step, partial.began))
        if self.resources.meter is not SILENT:
            self._measure(request.model, step.usage, asyncio.get_running_loop().time() - begun_at)
        return step

    async def _receive(self, request: ModelRequest, partial: PartialStep) -> Step:
        """What the model answers, shown while it comes."""
        is_heard = False
        try:
            async with aclosing(self._stream(request, partial)) as stream:
                async for part in stream:
                    # the first words go out before the rest of what came with them is read
                    if partial.text and not is_heard:
                        is_heard = True
                        await asyncio.sleep(0)
                    if isinstance(part, Began):
                        await self._on_begin(part, partial, request)
                    self._show(part, partial)
        except (ContextTooLong, UnansweredCall):
            self.announcer.text_so_far = partial.before
            raise
        try:
            return self._finish_step(request, partial)
        except ModelError:
            if self.journal.open_response:
                await self.journal.write_response(None)  # it has ended, and gives nothing else the next time
            raise

    def _stream(self, request: ModelRequest, partial: PartialStep) -> AsyncGenerator[StreamPart, None]:
        model, show = self.prompt.model, self._show_text

        def on_text(text: str) -> None:
            show(text, partial)

        # by the name and not by the protocol, which lists its members anew for each request
        if hasattr(model, "push"):
            return cast(PushingModel, model).push(request, on_text)
        return push_parts(model, request, on_text)

    async def _on_begin(self, began: Began, partial: PartialStep, request: ModelRequest) -> None:
        """The provider has accepted: what it works out in the background is known before anything
        else is done.
        """
        if request.background and request.response_id is None and began.response_id:
            await self.journal.write_response(OpenResponse(began.response_id, request.model))
        if began.wait is not None and self.spending is not None:
            await self.spending.slow_down(began.wait, self.prompt.model.endpoint)
        partial.began = began
        if crash_chances:
            reach("asked")

    def _measure(self, model: str, usage: Usage, seconds: float) -> None:
        meter = self.resources.meter
        meter.count("model_requests", model=model, outcome="ok")
        meter.observe("model_seconds", seconds, model=model)
        for kind in ("input", "cached", "cache_write", "output", "reasoning"):
            meter.count("tokens", getattr(usage, f"{kind}_tokens"), model=model, kind=kind)
        meter.count("cost_nano", usage.cost_nano, model=model)
        meter.count("unpriced_requests", usage.unpriced, model=model)
        meter.count("estimated_requests", usage.estimated, model=model)
        if usage.output_tokens and seconds > 0:
            meter.observe("tokens_per_second", usage.output_tokens / seconds, model=model)

    def _show_text(self, text: str, partial: PartialStep) -> None:
        """Called by the connection on which it arrives: once for each token."""
        # a response is read from its first word again: to go on at the last would need
        # a record per token
        new_text = partial.new_part(text) if partial.repeats else text
        if not (partial.repeats or partial.text):
            self.disclosure.end_thought()
            self._respond(bool(partial.before))
        partial.text += text
        if new_text:
            self.announcer.text(new_text)
        if crash_chances:
            reach("midstream")

    def _show(self, part: StreamPart, partial: PartialStep) -> None:
        if isinstance(part, ReasoningDelta):
            self.disclosure.think(part.text)
        elif isinstance(part, ItemDone):
            self.disclosure.item(part.item, partial.item_place)
            partial.items.append(part.item)
        elif isinstance(part, Finish):
            partial.finish = part

    def _respond(self, continues: bool) -> None:
        claim = self.claim
        if self.first_shown_at is None:
            self.first_shown_at = asyncio.get_running_loop().time()
        self.announcer.say(Event("responding", claim.message_ids, run_id=claim.run_id, attempt=claim.attempt))
        if continues:
            self.announcer.text(SEPARATOR)

    def _finish_step(self, request: ModelRequest, partial: PartialStep) -> Step:
        finish = partial.finish
        if finish is None:
            raise RuntimeError("the model's stream ended without its finish, which its contract forbids")
        self._refuse_silence(partial, finish)
        name = finish.model or request.model
        usage = finish.usage
        if not usage.total_tokens:
            usage = self.prompt.count_usage(request, partial.items, usage)
        price = self.resources.prices.price_in(int(self.resources.clock.now() // PRICE_PERIOD), name, finish.tier)
        return Step(
            items=tuple(partial.items),
            text=partial.text,
            usage=usage.with_cost(price),
            ending=finish.reason,
            model=name,
        )

    def _refuse_silence(self, partial: PartialStep, finish: Finish) -> None:
        """Silence is no answer.

        A step may be silent where an earlier one of this run has said something.
        """
        has_acted = any(item.kind in ("call", "hosted") for item in partial.items)
        if partial.text.strip() or has_acted or self.journal.text.strip():
            return
        if finish.reason == "refusal":
            raise ModelRefused("the model refused to answer and did not say why")
        if finish.reason in ("stop", "calls"):
            has_thought = any(item.kind == "reasoning" for item in partial.items)
            raise AnswerMalformed(f"the model answered with {'a thought alone' if has_thought else 'nothing'}")


@dataclass(slots=True, kw_only=True)
class ModelPrompt:
    """What is told of one run to the model that answers it."""

    resources: AnswerResources
    claim: Claim
    assistant: Assistant
    model: Model
    model_name: str
    journal: Journal
    rules: AnswerRules
    past: Past = field(default_factory=Past)
    context_size: int | None = None
    """Tokens that the model takes, where that is known."""
    summary: str | None = None
    warnings: list[str] = field(default_factory=list)
    """What the caller of a direct run should know."""

    async def recall(self, tokens: int) -> None:
        """The newest whole turns that fit beside the batch, and the system messages of older ones."""
        self.context_size = await self._context_size()
        context = self.context_size or DEFAULT_CONTEXT
        # a quarter at most: a small model must not keep all its room free for the answer
        room = context - min(self.rules.output_tokens, context // 4)
        recollection = await self.resources.histories.recall(self.claim, tokens=max(0, min(tokens, room)))
        self.summary = recollection.summary
        self.past = recollection.past.newest(max(0, room - self._batch_tokens(room - recollection.past.tokens)))

    async def shorten(self, error: ContextTooLong) -> None:
        """Tell less of the past from here on; what the refusal taught spares the
        next turns this detour.
        """
        self.resources.contexts.learn(self.model_name, window=error.window, tokens=self.input_tokens(self.request()))
        await self.recall(self.past.tokens // 4)

    def _batch_tokens(self, free: int) -> int:
        """What this turn takes so far: counted only where it may not fit into what is free."""
        items, instructions = [*self._wishes(), *self.journal.transcript], self._instructions()
        most = most_tokens(items, instructions)
        return most if most <= free else self.tokenizer.count_items(items, instructions=instructions)

    async def _context_size(self) -> int | None:
        """What the table says, else the server; a refusal that taught otherwise
        is believed before both.
        """
        name, contexts = self.model_name, self.resources.contexts
        facts, learned_size = self.resources.catalog.model(name), contexts.learned_sizes.get(name)
        stated_size = (facts.context if facts else None) or await contexts.ask_server(name)
        return min(learned_size or stated_size or 0, stated_size or learned_size or 0) or None

    def request(self, *, is_repair: bool = False) -> ModelRequest:
        """What the model is told; a repair leaves out the reasoning of others, after a provider
        refused a pairing.
        """
        claim = self.claim
        pairing = repair if is_repair else pair
        wishes, transcript = self._wishes(), self.journal.transcript
        current = pairing(transcript)
        # a past that pairing leaves as it is: its words are remembered
        past = self.past if not is_repair and self.past.leads_to([*wishes, *transcript]) else None
        # wishes stand before all of a turn, where there is nothing to pair them with
        items = [*past.items, *wishes, *current] if past else pairing([*self.past.items, *wishes, *transcript])
        request = ModelRequest(
            model=self.model_name,
            items=items,
            past=past,
            current=len(current),
            instructions=self._instructions(),
            tools=self._tools(),
            hosted_tools=self.assistant.hosted_tools,
            parameters=self._parameters(),
            labels={
                "turnkeep_run": claim.run_id,
                "turnkeep_thread": claim.thread_id,
                # the longest value that OpenAI takes
                "turnkeep_tenant": claim.address.tenant[:512],
                "turnkeep_attempt": str(claim.attempt),
            },
            # what repeats from request to request is the past of one thread
            cache_key=claim.thread_id,
            background=self.assistant.background and works_alone(self.model),
        )
        return self._fitting(request) if request.parameters else request

    def _fitting(self, request: ModelRequest) -> ModelRequest:
        """The request with a limit of its answer that the model and its window allow."""
        limit = output_limit(request.parameters)
        facts = self.resources.catalog.model(self.model_name) if limit is not None else None
        if limit is None or facts is None:
            return request
        free = self.context_size - self.input_tokens(request) if self.context_size else limit
        room = max(LEAST_OUTPUT, min(limit, facts.output or limit, free))
        if room == limit:
            return request
        log.warning("max_tokens_lowered", run_id=self.claim.run_id, model=request.model, asked=limit, left=room)
        # one for the whole turn: each step, and each request that is only counted, comes by here
        self.warnings = [
            f"max_tokens was lowered from {limit} to {room}, which is what {request.model} leaves room for"
        ]
        return replace(request, parameters=with_output_limit(request.parameters, room))

    def _instructions(self) -> str:
        """The assistant's, or what a message of this batch has in their place; what is left of the pruned
        past, and what the messages ask for beside it.
        """
        messages = self.claim.messages
        base = next((m.assistant_instructions for m in reversed(messages) if m.assistant_instructions), None)
        wishes = dict.fromkeys(m.instructions for m in messages if m.instructions)
        past = f"Summary of the conversation so far:\n{self.summary}" if self.summary else None
        return "\n\n".join(text for text in (base or self.assistant.instructions, past, *wishes) if text)

    def _wishes(self) -> list[Item]:
        """What users ask of the answer who may not speak for the operator: said by them, before
        their messages.
        """
        wishes = dict.fromkeys(m.user_instructions for m in self.claim.messages if m.user_instructions)
        return [UserItem(text_content(f"{OF_A_USER}\n{text}")) for text in wishes]

    def _parameters(self) -> dict[str, Any]:
        """The assistant's, with what messages of this run ask for: of each parameter
        what was said last.
        """
        parameters = dict(self.assistant.parameters)
        for item in self.journal.transcript:
            if isinstance(item, UserItem) and item.parameters:
                parameters |= item.parameters
        # A call that was demanded has been made: demanded again, there would never be an answer.
        if any(item.kind == "output" for item in self.journal.items) and parameters.get("tool_choice") not in FREE:
            del parameters["tool_choice"]
        return parameters

    def _tools(self) -> list[ToolSpec]:
        """None at the last permitted step: then the model has to answer with what it has."""
        if self.journal.steps + 1 >= self.rules.max_steps:
            return []
        specs = () if self.resources.toolbox.is_empty else self.toolbox.specs(self.assistant.tool_names)
        tools = {s.name: ToolSpec(s.name, s.description, s.parameters, s.strict) for s in specs}
        # The caller's own goes before one of the house that has its name: he says that he runs it.
        return list((tools | {spec.name: spec for spec in self._client_specs()}).values())

    @property
    def toolbox(self) -> Toolbox:
        """What the tenant may use, as it changes."""
        return self.resources.toolbox.of(self.claim.address.tenant)

    @property
    def client_names(self) -> set[str]:
        """Functions that callers of this run do themselves."""
        return {spec.name for spec in self._client_specs()}

    def _client_specs(self) -> list[ToolSpec]:
        """The assistant's, and those of its messages."""
        items = [item for item in self.journal.transcript if isinstance(item, UserItem)]
        functions = [*self.assistant.client_tools, *(tool for item in items for tool in item.client_tools)]
        return [
            ToolSpec(tool["name"], tool.get("description") or "", tool.get("parameters") or NO_ARGUMENTS,
                     bool(tool.get("strict")))
            for tool in functions
        ]  # fmt: skip

    def input_tokens(self, request: ModelRequest) -> int:
        # what was stored was counted when it was written
        past = request.past or Past()
        batch = request.items[len(past.items) :]
        return past.tokens + self.tokenizer.count_items(batch, instructions=request.instructions, tools=request.tools)

    def count_usage(self, request: ModelRequest, items: Sequence[Item], usage: Usage) -> Usage:
        """Our own count of a request and its answer, where the provider sent none."""
        output = sum(self.tokenizer.count_item(item) for item in items)
        return replace(usage, requests=1, input_tokens=self.input_tokens(request), output_tokens=output, estimated=1)

    @property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_for(self.model_name, self.resources.catalog)
