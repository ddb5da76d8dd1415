"""What the model is told at a step of a run: as much of the past as fits, the batch, what is wished, the tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from turnkeep.assistants import Assistant
from turnkeep.errors import ContextTooLong
from turnkeep.messages import Item, UserItem, text_content
from turnkeep.models.model import Model, ModelRequest, ToolSpec, works_alone
from turnkeep.models.pairing import pair, repair
from turnkeep.models.parameters import output_limit, with_output_limit
from turnkeep.models.past import Past
from turnkeep.pricing.tokenizer import Tokenizer, most_tokens, tokenizer_for
from turnkeep.runs.answer_contract import AnswerResources, AnswerRules
from turnkeep.runs.journal import Journal
from turnkeep.store.values import Claim
from turnkeep.telemetry import get_log
from turnkeep.usage import Usage

log = get_log(__name__)

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
        facts, learned_size = (
            self.resources.catalog.model(self.model_name),
            self.resources.contexts.learned_size(self.model_name),
        )
        stated_size = (facts.context if facts else None) or await self.resources.contexts.ask_server(self.model_name)
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
        return self._fitting(request)

    def _fitting(self, request: ModelRequest) -> ModelRequest:
        """The request with a limit of its answer that the model and its window allow."""
        limit = output_limit(request.parameters) if request.parameters else None
        facts = self.resources.catalog.model(self.model_name) if limit is not None else None
        if limit is None or facts is None:
            return request
        free = self.context_size - self.input_tokens(request) if self.context_size else limit
        room = max(LEAST_OUTPUT, min(limit, facts.output or limit, free))
        if room == limit:
            return request
        self.warnings.append(
            f"max_tokens was lowered from {limit} to {room}, which is what {request.model} leaves room for"
        )
        log.warning("max_tokens_lowered", run_id=self.claim.run_id, model=request.model, asked=limit, left=room)
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
        specs = self.resources.toolbox.of(self.claim.address.tenant).specs(self.assistant.tool_names)
        tools = {s.name: ToolSpec(s.name, s.description, s.parameters, s.strict) for s in specs}
        # The caller's own goes before one of the house that has its name: he says that he runs it.
        return list((tools | {spec.name: spec for spec in self._client_specs()}).values())

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
