"""The model in the virtual machine: the simulator's persona and ledger behind the contract of a model client."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

from turnkeep.errors import AnswerMalformed, ModelRateLimited, ModelTimedOut, ModelUnavailable
from turnkeep.messages import AssistantItem, CallItem, Item, OutputItem, UserItem, content_text
from turnkeep.models.model import Began, Delta, Finish, ItemDone, ModelRequest, StreamPart
from turnkeep.simulator.exchanges import Exchange, ExchangeLedger
from turnkeep.simulator.persona import AnswerScript, CallStep, Persona, Say, tokens_of
from turnkeep.simulator.prompt import OfferedTool, Prompt, PromptEntry
from turnkeep.usage import Usage


@dataclass(frozen=True, slots=True)
class Temper:
    """How likely each failure of one request is, and how many seconds a token takes at most."""

    refused: float = 0.02
    limited: float = 0.02
    cut: float = 0.06
    stalled: float = 0.005
    lost: float = 0.01
    token: float = 0.03


class Actor:
    """A `Model` that notes what it was asked. `owned` is asked while it works: may this run go on?"""

    endpoint = "actor"

    def __init__(
        self, ledger: ExchangeLedger, source: random.Random, temper: Temper, owned: Callable[[Mapping[str, str]], None]
    ) -> None:
        self._ledger = ledger
        self._source = source
        self.temper = temper
        self._owned = owned
        self._persona = Persona(0, AnswerScript())

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        prompt = _prompt(request)
        exchange = self._ledger.arrive("responses", "", {})
        self._ledger.label(exchange, {"metadata": dict(request.labels), "stream": True})
        self._ledger.hear(exchange, prompt)
        try:
            async for part in self._played(request, prompt, exchange):
                yield part
        finally:
            self._ledger.finish(exchange, "closed_by_client", None)

    async def close(self) -> None:
        return

    async def _played(
        self, request: ModelRequest, prompt: Prompt, exchange: Exchange
    ) -> AsyncGenerator[StreamPart, None]:
        plan = self._persona.plan(prompt)
        await self._think(request)
        self._may_refuse(exchange)
        yield Began(f"resp_{exchange.n}")
        await asyncio.sleep(plan.first or 0.0)
        cut = self._source.randint(1, 12) if self._happens(self.temper.cut) else None
        stall = self._source.randint(1, 12) if self._happens(self.temper.stalled) else None
        sent = 0
        for place, step in enumerate(plan.parts):
            if isinstance(step, Say):
                for token in tokens_of(step.text):
                    await self._think(request)
                    if sent == cut:
                        self._ledger.finish(exchange, "cut")
                        raise AnswerMalformed("the stream ended without its end")
                    if sent == stall:
                        await self._silence(exchange)
                    sent += 1
                    yield Delta(token)
                yield ItemDone(AssistantItem(step.text))
            elif isinstance(step, CallStep):
                call = CallItem(f"call_{exchange.n:08x}{place}", step.name, step.arguments)
                exchange.calls.append(call.call_id)
                yield ItemDone(call)
        if self._happens(self.temper.lost):
            self._ledger.finish(exchange, "lost")
            raise ModelUnavailable("the end of the answer was lost on its way")
        self._ledger.finish(exchange, "completed")
        usage = Usage(requests=1, input_tokens=prompt.tokens(), output_tokens=sent)
        yield Finish("calls" if plan.calls else "stop", usage, model=request.model)

    async def _think(self, request: ModelRequest) -> None:
        await asyncio.sleep(self._source.uniform(0.0, self.temper.token))
        self._owned(request.labels)

    def _may_refuse(self, exchange: Exchange) -> None:
        if self._happens(self.temper.refused):
            self._ledger.finish(exchange, "refused", 503)
            raise ModelUnavailable("the model is overloaded")
        if self._happens(self.temper.limited):
            self._ledger.finish(exchange, "refused", 429)
            raise ModelRateLimited("too many requests", retry_after=self._source.uniform(0.1, 1.0))

    async def _silence(self, exchange: Exchange) -> None:
        await asyncio.sleep(5.0)
        self._ledger.finish(exchange, "cut")
        raise ModelTimedOut("no event for 5 seconds")

    def _happens(self, chance: float) -> bool:
        return self._source.random() < chance


def _prompt(request: ModelRequest) -> Prompt:
    return Prompt(
        entries=tuple(_entry(item) for item in request.items),
        model=request.model,
        instructions=request.instructions or "",
        tools=tuple(OfferedTool(tool.name, tool.parameters) for tool in request.tools),
        labels=request.labels,
    )


def _entry(item: Item) -> PromptEntry:
    match item:
        case UserItem():
            return PromptEntry("user", content_text(item.content))
        case AssistantItem():
            return PromptEntry("assistant", item.text)
        case CallItem():
            return PromptEntry("call", item.arguments, item.call_id, item.name)
        case OutputItem():
            return PromptEntry("output", item.output, item.call_id)
    return PromptEntry("system" if item.kind == "system" else "reasoning")
