"""The step loop: ask the model, show what it says, run the tools it asks for, until it has answered.

Everything that must not happen twice is in the journal before it is acted upon; a new attempt begins with what the
journal holds.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from turnkeep.announcer import Announcer
from turnkeep.assistants import Assistant
from turnkeep.calls import Calls
from turnkeep.errors import ContextTooLong, TooManySteps, UnansweredCall
from turnkeep.events import Event
from turnkeep.journal import SEPARATOR, Ending, Journal, Step
from turnkeep.messages import AssistantItem, CallItem, Item, ReasoningItem
from turnkeep.models.base import Began, Delta, Finish, ItemDone, Model, ModelRequest, ToolSpec
from turnkeep.models.pairing import pair
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import PriceBook
from turnkeep.pricing.tokens import Tokenizer, tokenizer_for
from turnkeep.store.base import Call, Claim, Store
from turnkeep.tools.toolbox import Toolbox
from turnkeep.usage import Usage

DEFAULT_CONTEXT = 128_000
"""Tokens that a model of unknown size is believed to take."""


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """Limits of one run. `history_tokens`: how much of the past is told; `output_tokens`: kept free for the answer."""

    max_steps: int = 8
    history_tokens: int = 64_000
    output_tokens: int = 8_000


@dataclass(frozen=True, slots=True)
class Answered:
    """The model has answered: `ending` says whether wholly."""

    text: str
    ending: Ending


@dataclass(frozen=True, slots=True)
class Asked:
    """The turn waits for somebody's decision."""

    calls: Sequence[Call]


@dataclass(slots=True)
class Answering:
    """One run's answer in the making, with everything it needs. `wants_steering` asks whether messages want to join."""

    store: Store
    claim: Claim
    assistant: Assistant
    model: Model
    model_name: str
    toolbox: Toolbox
    journal: Journal
    announcer: Announcer
    calls: Calls
    catalog: Catalog
    prices: PriceBook
    rules: AnswerRules
    wants_steering: Callable[[], bool]
    before_request: Callable[[ModelRequest, int], Awaitable[None]] | None = None
    """Awaited before each model request with its input tokens; raises when the request has to wait or is refused."""
    past: list[Item] = field(default_factory=list)
    summary: str | None = None

    async def answer(self) -> Answered | Asked:
        """Steps until the model has answered or somebody has to decide."""
        await self._recall(self.rules.history_tokens)
        if self.journal.text:
            self.announcer.replace(self.journal.text)
        while True:
            if self.journal.open_calls and (asked := await self.calls.answer(self.assistant.tools)):
                return Asked(asked)
            await self._steer()
            if self.journal.is_final:
                return Answered(self.journal.text, self.journal.ending or "stop")
            await self._step()

    async def _recall(self, tokens: int) -> None:
        """The newest whole turns that fit beside the batch."""
        facts = self.catalog.model(self.model_name)
        context = (facts.context if facts else None) or DEFAULT_CONTEXT
        batch = self.tokenizer.count_items(self.journal.transcript, instructions=self._instructions())
        room = max(0, min(tokens, context - self.rules.output_tokens - batch))
        history = await self.store.history(self.claim.address, tokens=room)
        self.past = [entry.item for entry in history.entries]
        self.summary = history.summary

    async def _steer(self) -> None:
        """Take in what the user has said meanwhile and wants answered in this run."""
        if not self.wants_steering():
            return
        if messages := await self.store.offered(self.claim):
            await self.journal.write_steered(messages)

    async def _step(self) -> None:
        if self.journal.steps >= self.rules.max_steps:
            raise TooManySteps(f"the model still asks for tools after {self.journal.steps} steps")
        try:
            step = await self._ask(self._request())
        except ContextTooLong:
            await self._recall(self.rules.history_tokens // 4)
            step = await self._ask(self._request())
        except UnansweredCall:
            self.past = [item for item in self.past if item.kind in ("user", "assistant", "system")]
            step = await self._ask(self._request())
        await self.journal.write_step(step)

    # ---------------------------------------------------------------- one model call

    def _request(self) -> ModelRequest:
        claim, assistant = self.claim, self.assistant
        return ModelRequest(
            model=self.model_name,
            items=pair([*self.past, *self.journal.transcript]),
            instructions=self._instructions(),
            tools=self._tools(),
            parameters=assistant.parameters,
            labels={
                "turnkeep_run": claim.run_id,
                "turnkeep_thread": claim.thread_id,
                "turnkeep_tenant": claim.address.tenant[:512],
                "turnkeep_attempt": str(claim.attempt),
            },
            cache_key=claim.thread_id,
        )

    def _instructions(self) -> str:
        """The assistant's, what is left of the pruned past, and what the messages of this batch ask for."""
        asked = dict.fromkeys(m.instructions for m in self.claim.messages if m.instructions)
        past = f"Summary of the conversation so far:\n{self.summary}" if self.summary else None
        return "\n\n".join(text for text in (self.assistant.instructions, past, *asked) if text)

    def _tools(self) -> list[ToolSpec]:
        """None at the last permitted step: then the model has to answer with what it has."""
        if self.journal.steps + 1 >= self.rules.max_steps:
            return []
        specs = self.toolbox.specs(self.assistant.tools)
        return [ToolSpec(s.name, s.description, s.parameters, s.strict) for s in specs]

    async def _ask(self, request: ModelRequest) -> Step:
        """Stream one model call; its finished step, which is not yet believed to have happened."""
        if self.before_request is not None:
            await self.before_request(request, self._input_tokens(request))
        before = self.announcer.shown
        received = _Received(before)
        try:
            async with aclosing(self.model.stream(request)) as stream:
                async for part in stream:
                    self._show(part, received)
        except (ContextTooLong, UnansweredCall):
            self.announcer.shown = before
            raise
        return self._finished(request, received)

    def _show(self, part: object, received: _Received) -> None:
        if isinstance(part, Delta):
            if not received.text:
                self._respond(bool(received.before))
            received.text += part.text
            self.announcer.text(part.text)
        elif isinstance(part, ItemDone):
            received.items.append(part.item)
        elif isinstance(part, Finish):
            received.finish = part
        elif isinstance(part, Began):
            received.began = part

    def _respond(self, continues: bool) -> None:
        claim = self.claim
        self.announcer.say(Event("responding", claim.message_ids, run_id=claim.run_id, attempt=claim.attempt))
        if continues:
            self.announcer.text(SEPARATOR)

    def _finished(self, request: ModelRequest, received: _Received) -> Step:
        finish = received.finish
        if finish is None:
            raise RuntimeError("the model's stream ended without its finish, which its contract forbids")
        name = finish.model or request.model
        usage = finish.usage
        if not usage.total_tokens:
            usage = self._counted(request, received, usage)
        return Step(
            items=tuple(self._own_ids(received.items)),
            text=received.text,
            usage=self.prices.cost(usage, name, finish.tier),
            ending=finish.reason,
            model=name,
        )

    def _counted(self, request: ModelRequest, received: _Received, usage: Usage) -> Usage:
        """Our own count, where the provider sent none."""
        output = sum(self.tokenizer.count_item(item) for item in received.items)
        return replace(usage, requests=1, input_tokens=self._input_tokens(request), output_tokens=output, estimated=1)

    def _input_tokens(self, request: ModelRequest) -> int:
        return self.tokenizer.count_items(request.items, instructions=request.instructions, tools=request.tools)

    def _own_ids(self, items: Sequence[AssistantItem | ReasoningItem | CallItem]) -> list[Item]:
        """Every call of a run has an id of its own, whatever the model says."""
        seen = {item.call_id for item in self.journal.items if isinstance(item, CallItem)}
        result: list[Item] = []
        for item in items:
            own = item
            if isinstance(item, CallItem):
                if not item.call_id or item.call_id in seen:
                    own = replace(item, call_id=f"{item.call_id or 'call'}_{secrets.token_hex(4)}")
                seen.add(item.call_id)
            result.append(own)
        return result

    @property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_for(self.model_name, self.catalog)


@dataclass(slots=True)
class _Received:
    """What has come of one model call so far."""

    before: str
    text: str = ""
    items: list[AssistantItem | ReasoningItem | CallItem] = field(default_factory=list)
    began: Began | None = None
    finish: Finish | None = None
