"""The parameters of a request in the words of each protocol, without those the server or the model
does not take.

Either protocol's names may be used; ours are those of
Responses (`max_output_tokens`, `reasoning`, `text`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeep.errors import ModelRefused
from turnkeep.models.capabilities import Capabilities
from turnkeep.models.model import ModelRequest


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
    """What goes into the body of a Responses request."""
    if not request.parameters:
        return {}
    options = canonical(request.parameters)
    if form := options.pop("response_format", None):
        options["text"] = {"format": _flat_format(form), **options.get("text", {})}
    return _select(options, request, caps, own=_RESPONSES, other=_CHAT)


def chat_parameters(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """What goes into the body of a Chat Completions request."""
    if not request.parameters:
        return {}
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


def origin_fields(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """Whose request it is, as far as the server takes that: labels, the group of the prompt cache,
    the end user.
    """
    fields: dict[str, Any] = {}
    if caps.takes_metadata and request.labels:
        fields["metadata"] = dict(request.labels)
    if caps.takes_cache_key and request.cache_key:
        fields["prompt_cache_key"] = request.cache_key
    if caps.takes_safety_identifier and request.user:
        fields["safety_identifier"] = request.user
    return fields


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
