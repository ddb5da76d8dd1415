"""The contract between a run and whoever answers.

A model is a stateless function: everything it may know is in the request, and nothing it keeps on
its side is ever needed again. One file per provider protocol implements `Model`.

Parameters of a request are put into the words of each protocol, without those the server or the
model does not take. Either protocol's names may be used; ours are those of Responses
(`max_output_tokens`, `reasoning`, `text`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import field
from typing import Any, Literal, Protocol, runtime_checkable

from turnkeep.errors import ModelRefused
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import AssistantItem, CallItem, HostedItem, Item, ReasoningItem
from turnkeep.models.capabilities import Capabilities
from turnkeep.models.past import Past
from turnkeep.usage import Usage

OnText = Callable[[str], None]
"""Told some more text of an answer, in order. May not wait."""


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
    that share a prefix.
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
    wait: float | None = None
    """Seconds for which nothing more may be asked: the provider says that a limit is used up."""


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


async def push_parts(model: Model, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
    """The parts of the answer of a model that does not push: its text told to `on_text`."""
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


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Decided here, never by a parameter.
_OURS = _names(
    "model input messages instructions tools functions stream stream_options store metadata include n background "
    "conversation previous_response_id prompt_cache_key safety_identifier user"
)

_BOTH = _names("temperature top_p top_logprobs service_tier tool_choice parallel_tool_calls")
_RESPONSES = _BOTH | _names(
    "max_output_tokens reasoning text truncation max_tool_calls moderation prompt_cache_options"
)
_CHAT = _BOTH | _names(
    "presence_penalty frequency_penalty logit_bias logprobs seed stop prediction response_format reasoning_effort "
    "verbosity max_tokens max_completion_tokens"
)
_SAMPLING = _names("temperature top_p top_logprobs logprobs logit_bias presence_penalty frequency_penalty")
_REASONING = _names("reasoning reasoning_effort")


_OBJECTS = _names("reasoning text response_format prediction logit_bias prompt_cache_options")


def wrong_form(parameters: Mapping[str, Any]) -> str | None:
    """What is wrong with these parameters, if they cannot be put into a request; their values are
    the server's matter.

    The same holds of the format in ``text``.
    """
    for name in _OBJECTS & parameters.keys():
        if not isinstance(parameters[name], Mapping | None):
            return f"the parameter {name!r} must be an object"
    text = parameters.get("text") or {}
    return None if isinstance(text.get("format"), Mapping | None) else "the parameter 'text.format' must be an object"


def output_limit(parameters: Mapping[str, Any]) -> int | None:
    """The most tokens an answer may have, by whichever name; None: no limit was set."""
    limit = canonical(parameters).get("max_output_tokens")
    return limit if isinstance(limit, int) else None


def with_output_limit(parameters: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """The parameters with this limit in place of theirs."""
    return {**canonical(parameters), "max_output_tokens": limit}


def responses_parameters(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """What goes into the body of a Responses request that has parameters."""
    options = canonical(request.parameters)
    if form := options.pop("response_format", None):
        options["text"] = {"format": _flat_format(form), **options.get("text", {})}
    return _select(options, request, caps, own=_RESPONSES, other=_CHAT)


def chat_parameters(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """What goes into the body of a Chat Completions request that has parameters."""
    options = canonical(request.parameters)
    if (limit := options.pop("max_output_tokens", None)) is not None:
        options["max_completion_tokens" if caps.takes_max_completion_tokens else "max_tokens"] = limit
    if effort := options.pop("reasoning", {}).get("effort"):
        options["reasoning_effort"] = effort
    text = options.pop("text", {})
    if verbosity := text.get("verbosity"):
        options["verbosity"] = verbosity
    if form := text.get("format"):
        options.setdefault("response_format", _nested_format(form))
    if isinstance(choice := options.get("tool_choice"), Mapping) and "name" in choice:
        options["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    return _select(options, request, caps, own=_CHAT, other=_RESPONSES)


def canonical(parameters: Mapping[str, Any]) -> dict[str, Any]:
    if wrong := wrong_form(parameters):
        raise ModelRefused(wrong)
    options = {name: value for name, value in parameters.items() if value is not None and name not in _OURS}
    for name in ("max_tokens", "max_completion_tokens"):
        if (limit := options.pop(name, None)) is not None:
            options.setdefault("max_output_tokens", limit)
    if effort := options.pop("reasoning_effort", None):
        options["reasoning"] = {"effort": effort, **options.get("reasoning", {})}
    if verbosity := options.pop("verbosity", None):
        options["text"] = {"verbosity": verbosity, **options.get("text", {})}
    choice = options.get("tool_choice")
    if isinstance(choice, Mapping) and isinstance(function := choice.get("function"), Mapping):
        options["tool_choice"] = {"type": "function", "name": function.get("name")}
    return options


def _select(
    options: dict[str, Any], request: ModelRequest, caps: Capabilities, *, own: frozenset[str], other: frozenset[str]
) -> dict[str, Any]:
    drops: set[str] = set()
    if not caps.samples(request.model, request.parameters):
        drops |= _SAMPLING
    if not caps.reasons(request.model):
        drops |= _REASONING
    if not request.tools or not caps.takes_parallel_tool_calls:
        # Both are refused in a request without tools.
        drops.add("parallel_tool_calls")
    if not request.tools:
        drops.add("tool_choice")
    return {
        name: value
        for name, value in options.items()
        # A compatible server may know more names, but not those of the other protocol.
        if name not in drops and (name in own or (caps.takes_unknown_parameters and name not in other))
    }


def _flat_format(form: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(schema := form.get("json_schema"), Mapping):
        return {"type": "json_schema", **schema}
    return dict(form)


def _nested_format(form: Mapping[str, Any]) -> dict[str, Any]:
    if form.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}
    return dict(form)
