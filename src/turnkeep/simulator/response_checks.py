"""Checks of request bodies: what the platform refuses, the simulator refuses in the same words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from turnkeep.simulator.model_list import KNOWN_MODELS, RETIRED_MODELS
from turnkeep.simulator.problems import (
    Problem,
    bad,
    missing,
    model_not_found,
    too_many,
    unknown_parameter,
    unsupported_parameter,
    wrong_type,
    wrong_value,
)
from turnkeep.simulator.prompt import Json

# Closed lists, as the platform has them: what is unknown is a 400, never passed over.
RESPONSE_PARAMETERS = frozenset(
    (
        *("access_programs", "background", "context_management", "conversation", "image", "include"),
        *("input", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "model", "moderation"),
        *("parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier"),
        *("service_tier", "store", "stream", "stream_options", "temperature", "text", "tool_choice"),
        *("tools", "top_logprobs", "top_p", "truncation", "user"),
    )
)
CHAT_PARAMETERS = frozenset(
    (
        *("messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias"),
        *("logprobs", "max_completion_tokens", "max_tokens", "metadata", "modalities", "moderation", "n"),
        *("parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "response_format"),
        *("safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options"),
        *("temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity"),
        *("web_search_options",),
    )
)
ROLES = ("assistant", "system", "developer", "user")
CHAT_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# The platform's own bounds, which its refusals name; nothing here is ours to choose.
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512
LEAST_OUTPUT_TOKENS = 16
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_STRING: tuple[tuple[type, ...], str] = ((str,), "a string")
_FLAG: tuple[tuple[type, ...], str] = ((bool,), "a boolean")
_INTEGER: tuple[tuple[type, ...], str] = ((int,), "an integer")
_DECIMAL: tuple[tuple[type, ...], str] = ((int, float), "a decimal")
_LIST: tuple[tuple[type, ...], str] = ((list,), "an array")
_OBJECT: tuple[tuple[type, ...], str] = ((dict,), "an object")
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("model", "instructions", "previous_response_id", "prompt_cache_key", "user", "truncation"), _STRING
    ),
    **dict.fromkeys(("safety_identifier", "service_tier", "reasoning_effort", "verbosity"), _STRING),
    **dict.fromkeys(("background", "store", "stream", "parallel_tool_calls", "logprobs"), _FLAG),
    **dict.fromkeys(("max_output_tokens", "max_tool_calls", "max_completion_tokens", "max_tokens", "n"), _INTEGER),
    **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty"), _DECIMAL),
    **dict.fromkeys(("tools", "include", "messages", "context_management"), _LIST),
    **dict.fromkeys(("metadata", "reasoning", "text", "stream_options", "response_format"), _OBJECT),
}
_RANGES = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_REQUIRED_FIELDS: Mapping[str, tuple[tuple[str, tuple[type, ...], str], ...]] = {
    "message": (("role", *_STRING), ("content", (str, list), "a string or an array")),
    "function_call": (("call_id", *_STRING), ("name", *_STRING), ("arguments", *_STRING)),
    "function_call_output": (("call_id", *_STRING), ("output", (str, list), "a string or an array")),
    "custom_tool_call": (("call_id", *_STRING), ("name", *_STRING), ("input", *_STRING)),
    "custom_tool_call_output": (("call_id", *_STRING), ("output", (str, list), "a string or an array")),
    "reasoning": (("summary", *_LIST),),
    "item_reference": (("id", *_STRING),),
}
_ID_HEADS = {"message": "msg", "function_call": "fc", "reasoning": "rs", "custom_tool_call": "ctc"}


def response_body(body: object, *, strict_models: bool) -> Json:
    """A body for POST /v1/responses, or the `Problem` with it."""
    request = _body(body, RESPONSE_PARAMETERS, strict_models=strict_models)
    if request.get("input") is None and request.get("previous_response_id") is None:
        raise missing("input")
    if request.get("previous_response_id") is not None and request.get("conversation") is not None:
        raise bad(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Ensure you are only providing "
            "one of: 'previous_response_id' or 'conversation'.",
            None,
            "mutually_exclusive_parameters",
        )
    limit = request.get("max_output_tokens")
    if limit is not None and limit < LEAST_OUTPUT_TOKENS:
        raise bad(
            "Invalid 'max_output_tokens': integer below minimum value. "
            f"Expected a value >= {LEAST_OUTPUT_TOKENS}, but got {limit} instead.",
            "max_output_tokens",
            "integer_below_min_value",
        )
    _check_sampling(request, (request.get("reasoning") or {}).get("effort"))
    tools(request.get("tools") or (), chat=False)
    return request


def chat_body(body: object, *, strict_models: bool, rejects: frozenset[str]) -> Json:
    """A body for POST /v1/chat/completions, or the `Problem` with it."""
    request = _body(body, CHAT_PARAMETERS, strict_models=strict_models)
    for name in sorted(rejects & request.keys()):
        raise unknown_parameter(name)
    if not request.get("messages"):
        raise missing("messages") if request.get("messages") is None else _empty("messages")
    if request.get("n") not in (None, 1):
        raise bad("The simulator gives one choice only: 'n' must be 1.", "n")
    if request.get("tools") == []:
        raise _empty("tools")
    if (request.get("stream_options") is not None) and not request.get("stream"):
        raise bad("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    _check_sampling(request, request.get("reasoning_effort"))
    tools(request.get("tools") or (), chat=True)
    for at, message in enumerate(request["messages"]):
        _chat_message(message, f"messages[{at}]")
    return request


def metadata(value: object, param: str = "metadata") -> dict[str, str]:
    """At most 16 pairs of strings, keys up to 64 and values up to 512 characters."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    if len(value) > METADATA_PAIRS:
        message = (
            f"Invalid '{param}': too many properties. "
            f"Expected an object with at most {METADATA_PAIRS} properties, "
            f"but got an object with {len(value)} properties instead."
        )
        raise bad(message, param, "object_above_max_properties")
    for key, text in value.items():
        if not isinstance(text, str):
            raise wrong_type(f"{param}.{key}", "a string", text)
        _length(f"{param}.{key}", text, METADATA_VALUE)
        _length(f"{param} keys", key, METADATA_KEY)
    return value


def items(value: object, param: str = "input") -> list[Json]:
    """Input items in their full form; a string is one user message."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if not isinstance(value, list):
        raise wrong_type(param, "one of an array of input items or a string", value)
    return [_item(item, f"{param}[{at}]") for at, item in enumerate(value)]


def tools(value: Sequence[object], *, chat: bool) -> None:
    for at, tool in enumerate(value):
        where = f"tools[{at}]"
        if not isinstance(tool, dict):
            raise wrong_type(where, "an object", tool)
        if tool.get("type") is None:
            raise missing(f"{where}.type")
        if tool["type"] == "function":
            _function(tool.get("function") if chat else tool, f"{where}.function" if chat else where)


def _body(body: object, parameters: frozenset[str], *, strict_models: bool) -> Json:
    if not isinstance(body, dict):
        raise wrong_type("body", "an object", body)
    for name, value in body.items():
        if name not in parameters:
            raise unknown_parameter(name)
        kinds = _TYPES.get(name)
        if kinds is not None and value is not None and not _is(value, kinds[0]):
            raise wrong_type(name, kinds[1], value)
    if not body.get("model"):
        raise missing("model")
    metadata(body.get("metadata"))
    model = body["model"]
    # Other names are served, so that any client's setting works; a retired one is a mistake that
    # has to be found before production.
    if model in RETIRED_MODELS or (strict_models and model not in KNOWN_MODELS):
        raise model_not_found(model)
    return body


def _check_sampling(body: Json, effort: object) -> None:
    for name, (low, high) in _RANGES.items():
        value = body.get(name)
        if value is None:
            continue
        if not low <= value <= high:
            edge, word = (low, "below minimum") if value < low else (high, "above maximum")
            sign = ">=" if value < low else "<="
            raise bad(
                f"Invalid '{name}': decimal {word} value. Expected a value {sign} {edge}, but got {value} instead.",
                name,
                f"decimal_{word.replace(' ', '_').removesuffix('imum')}_value",
            )
    if effort is not None and effort not in EFFORTS:
        raise wrong_value("reasoning.effort", effort, EFFORTS)
    model = KNOWN_MODELS.get(body["model"])
    # Reasoning models take no temperature while they reason.
    if model is not None and model.fixed_sampling and effort != "none":
        for name in _RANGES:
            if body.get(name) is not None:
                raise unsupported_parameter(name)


def _function(function: object, where: str) -> None:
    if not isinstance(function, dict) or not function.get("name"):
        raise missing(f"{where}.name")
    name = function["name"]
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise bad(
            f"Invalid '{where}.name': string does not match pattern. Expected a string that matches the pattern "
            "'^[a-zA-Z0-9_-]+$'.",
            f"{where}.name",
            "invalid_value",
        )
    schema = function.get("parameters")
    if schema is not None and not isinstance(schema, dict):
        raise wrong_type(f"{where}.parameters", "an object", schema)
    if function.get("strict") is True:
        _strict_schema(name, schema or {}, where)


def _strict_schema(name: str, schema: Mapping[str, Any], where: str) -> None:
    properties = schema.get("properties", {})
    complaint = None
    if schema.get("additionalProperties") is not False:
        complaint = "'additionalProperties' is required to be supplied and to be false."
    elif absent := sorted(set(properties) - set(schema.get("required", ()))):
        complaint = (
            "'required' is required to be supplied and to be an array including every key in properties. "
            f"Missing '{absent[0]}'."
        )
    if complaint is not None:
        message = f"Invalid schema for function '{name}': In context=(), {complaint}"
        raise bad(message, f"{where}.parameters", "invalid_function_parameters")


def _item(item: object, where: str) -> Json:
    if not isinstance(item, dict):
        raise wrong_type(where, "an object", item)
    kind = item.get("type", "message")
    if not isinstance(kind, str):
        raise wrong_type(f"{where}.type", "a string", kind)
    # Kinds that are not listed pass: the platform adds some without notice.
    for name, kinds, phrase in _REQUIRED_FIELDS.get(kind, ()):
        if item.get(name) is None:
            raise missing(f"{where}.{name}")
        if not _is(item[name], kinds):
            raise wrong_type(f"{where}.{name}", phrase, item[name])
    head = _ID_HEADS.get(kind)
    item_id = item.get("id")
    if head is not None and item_id is not None and not str(item_id).startswith(head):
        message = f"Invalid '{where}.id': '{item_id}'. Expected an ID that begins with '{head}'."
        raise bad(message, f"{where}.id", "invalid_value")
    return _message(item, where) if kind == "message" else item


def _message(item: Json, where: str) -> Json:
    role = item["role"]
    if role not in ROLES:
        raise wrong_value(f"{where}.role", role, ROLES)
    content = item["content"]
    text_type = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        return {**item, "type": "message", "content": [{"type": text_type, "text": content}]}
    part_types = ("output_text", "refusal") if role == "assistant" else ("input_text", "input_image", "input_file")
    for at, part in enumerate(content):
        if not isinstance(part, dict):
            raise wrong_type(f"{where}.content[{at}]", "an object", part)
        if part.get("type") not in part_types:
            raise wrong_value(f"{where}.content[{at}]", part.get("type"), part_types)
        if part["type"] == text_type and not isinstance(part.get("text"), str):
            raise missing(f"{where}.content[{at}].text")
    return {**item, "type": "message"}


def _chat_message(message: object, where: str) -> None:
    if not isinstance(message, dict):
        raise wrong_type(where, "an object", message)
    role = message.get("role")
    if role not in CHAT_ROLES:
        raise wrong_value(f"{where}.role", role, CHAT_ROLES)
    calls = message.get("tool_calls")
    content = message.get("content")
    if content is None and not (role == "assistant" and calls):
        raise bad(f"Invalid value for 'content': expected a string, got null. ({where}.content)", f"{where}.content")
    if content is not None and not isinstance(content, (str, list)):
        raise wrong_type(f"{where}.content", "one of a string or array of objects", content)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise missing(f"{where}.tool_call_id")
    if calls is not None:
        _chat_calls(calls, f"{where}.tool_calls")


def _chat_calls(calls: object, where: str) -> None:
    if not isinstance(calls, list):
        raise wrong_type(where, "an array", calls)
    if not calls:
        raise _empty(where)
    for at, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(call.get("id"), str):
            raise missing(f"{where}[{at}].id")
        for name in ("name", "arguments"):
            if not isinstance(function.get(name), str):
                raise wrong_type(f"{where}[{at}].function.{name}", "a string", function.get(name))


def check_items_limit(value: object, limit: int) -> None:
    if isinstance(value, list) and len(value) > limit:
        raise too_many("items", limit, len(value))


def _length(param: str, text: str, limit: int) -> None:
    if len(text) > limit:
        message = (
            f"Invalid '{param}': string too long. Expected a string with maximum length {limit}, "
            f"but got a string with length {len(text)} instead."
        )
        raise bad(message, param, "string_above_max_length")


def _empty(param: str) -> Problem:
    message = (
        f"Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    )
    return bad(message, param, "empty_array")


def _is(value: object, kinds: tuple[type, ...]) -> bool:
    # In Python a bool is an int; in JSON it is not.
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds)
