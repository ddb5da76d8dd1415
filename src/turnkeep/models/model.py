"""The contract between a run and whoever answers.

A model is a stateless function: everything it may know is in the request, and nothing it keeps on
its side is ever needed again. One file per provider protocol implements `Model`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, runtime_checkable

from turnkeep.messages import AssistantItem, CallItem, HostedItem, Item, ReasoningItem
from turnkeep.models.past import Past
from turnkeep.usage import Usage


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What the model is told of a tool.

    `parameters` is a JSON schema; `strict` where the schema allows it.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One step. `items` are complete and paired: each call has exactly one output.

    `current` is how many of the last of them belong to this turn; None: all from the last user's
    turn on.

    `parameters` (temperature, max_output_tokens, presence_penalty, frequency_penalty, reasoning, …)
    are sent only where the server takes them. `labels` (run, tenant, thread, attempt: short ASCII
    strings) travel as metadata or headers and never change the answer. `cache_key` groups requests
    that share a prefix; `user` is a hash of the end user.
    """

    model: str
    items: Sequence[Item]
    instructions: str | None = None
    tools: Sequence[ToolSpec] = ()
    hosted_tools: Sequence[Mapping[str, Any]] = ()
    """Tools that run at the provider, in its words or in those of OpenAI."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    cache_key: str | None = None
    user: str | None = None
    current: int | None = None
    background: bool = False
    """Let the provider work it out whether or not anybody listens, where it can."""
    past: Past | None = None
    """What `items` begin with, where its words are remembered."""
    response_id: str | None = None
    """A response of the background that is gone on with: nothing is asked for anew."""


@dataclass(frozen=True, slots=True)
class Began:
    """The provider has accepted the request; money may be spent from here on."""

    response_id: str | None
    request_id: str | None = None
    rate: Mapping[str, str] = field(default_factory=dict)
    """The `x-ratelimit-*` headers as sent."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Some more text, in order; the answer is the concatenation."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Some more of what the model thinks, where that is shown; no part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ItemDone:
    """One finished output item: text, reasoning, a provider's own tool or a call.

    The order is the provider's.
    """

    item: AssistantItem | ReasoningItem | HostedItem | CallItem


@dataclass(frozen=True, slots=True)
class Finish:
    """The terminal event, always last and exactly once. Without it the stream has failed.

    `reason`: ``stop``; ``calls`` (decided by the calls received, never by the provider's word
    alone); ``pause`` (the provider wants to be asked again with what it has said, to go on); or the
    answer is incomplete: ``length``, ``filter``, ``refusal``. `usage` counts one request; its cost
    is not set here.
    """

    reason: Literal["stop", "calls", "pause", "length", "filter", "refusal"]
    usage: Usage
    model: str | None = None
    tier: str | None = None


StreamPart = Began | Delta | ReasoningDelta | ItemDone | Finish


OnText = Callable[[str], None]
"""Told some more text of an answer, in order. May not wait."""


class Model(Protocol):
    """Where answers come from."""

    endpoint: str
    """Names endpoint and key for circuits and pace: host plus a digest of the key, never the key.
    """

    def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        """Yield `Began`, then deltas, thoughts and finished items in order, then one `Finish`.

        Guarantees: one HTTP request, never repeated here. Closing the iterator (`aclose`, or
        cancelling the task that reads it) closes the connection at once. Every failure, of
        whichever surface (status, error event, nested error, silence, clean end without a terminal
        event, garbage), is raised as a `ModelError` of `turnkeep.errors`; partial deltas may have
        been yielded before.
        """
        ...

    async def close(self) -> None:
        """Close pooled connections."""
        ...


class PushingModel(Model, Protocol):
    """A model that hands text on at the moment it arrives, without waking its reader for each token."""

    def push(self, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
        """As `stream`, but text is told to `on_text` in the place of `Delta`s: in order with the parts,
        and only while the reader waits for the next one. What `on_text` raises ends the stream.
        """
        ...


def open_stream(model: Model, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
    """The parts of an answer, its text told to `on_text`."""
    # Asked by the name and not by the protocol, which lists its members anew for each request.
    if hasattr(model, "push"):
        return cast(PushingModel, model).push(request, on_text)
    return _push_parts(model, request, on_text)


async def _push_parts(model: Model, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
    async with aclosing(model.stream(request)) as stream:
        async for part in stream:
            if isinstance(part, Delta):
                on_text(part.text)
            else:
                yield part


@runtime_checkable
class BackgroundModel(Model, Protocol):
    """A model whose provider can work in the background.

    With `background`, what it answers can be gone on with by the id that `Began` gives
    (`ModelRequest.response_id`), by another process too: the parts come again from the first on.
    ResponseLost says that it is no longer there.
    """

    @property
    def in_background(self) -> bool:
        """Whether its server is one of those that can."""
        ...

    async def cancel(self, response_id: str) -> Usage | None:
        """Stop it there, and give what it has cost, None where that is not told."""
        ...


def works_alone(model: Model) -> bool:
    """Whether its provider can work in the background."""
    return isinstance(model, BackgroundModel) and model.in_background
