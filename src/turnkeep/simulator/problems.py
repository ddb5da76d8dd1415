"""Refusals in the shape and, where clients match on them, in the very words of the platform."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MESSAGE_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Problem(Exception):
    """An error reply: status, the `error` object and headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class MessageProblem(Problem):
    """An error reply as Anthropic's platform gives it."""

    def body(self) -> dict[str, Any]:
        kind = _MESSAGE_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    @classmethod
    def of(cls, problem: Problem, model: str = "") -> MessageProblem:
        """What the other platform says of the same."""
        # Translated, not made anew: checks and faults are written once for both platforms.
        status, message = problem.status, problem.message
        if problem.type == "insufficient_quota":
            status, message = 400, "Your credit balance is too low to access the Anthropic API."
        elif problem.code == "context_length_exceeded":
            tokens, limit = (re.findall(r"\d+", message) or ["0", "1"])[::-1][:2]
            message = f"prompt is too long: {tokens} tokens > {limit} maximum"
        elif problem.code == "model_not_found":
            message = f"model: {model}"
        elif problem.code == "conversation_locked":  # there are no conversations there, but there is this
            status = 429
        elif problem.code == "invalid_api_key":
            message = "invalid x-api-key"
        elif status == 529:
            message = "Overloaded"
        headers = {k: v for k, v in problem.headers.items() if not k.startswith("x-ratelimit")}
        return cls(status, message, headers=headers)


def bad(message: str, param: str | None = None, code: str | None = None) -> Problem:
    return Problem(400, message, param=param, code=code)


def missing(param: str) -> Problem:
    return bad(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def wrong_type(param: str, type_name: str, value: object) -> Problem:
    got = _kind(value)
    message = f"Invalid type for '{param}': expected {type_name}, but got {got} instead."
    return bad(message, param, "invalid_type")


def unknown_parameter(name: str) -> Problem:
    return bad(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def wrong_value(param: str, value: object, values: tuple[str, ...]) -> Problem:
    quotes = [f"'{choice}'" for choice in values]
    choices = " and ".join(quotes) if len(quotes) < 3 else f"{', '.join(quotes[:-1])}, and {quotes[-1]}"
    return bad(f"Invalid value: '{value}'. Supported values are: {choices}.", param, "invalid_value")


def unsupported_parameter(param: str) -> Problem:
    message = f"Unsupported parameter: '{param}' is not supported with this model."
    return bad(message, param, "unsupported_parameter")


def too_many(param: str, limit: int, count: int) -> Problem:
    message = (
        f"Invalid '{param}': array too long. Expected an array with maximum length {limit}, "
        f"but got an array with length {count} instead."
    )
    return bad(message, param, "array_above_max_length")


def unanswered_call(call_id: str) -> Problem:
    return bad(f"No tool output found for function call {call_id}.", "input")


def uncalled_output(call_id: str) -> Problem:
    return bad(f"No tool call found for function call output with call_id {call_id}.", "input")


def doubled_output(call_id: str) -> Problem:
    return bad(f"Duplicate function call output found for call_id {call_id}.", "input")


def lonely_item(kind: str, item_id: str, reasoning_id: str) -> Problem:
    message = f"Item '{item_id}' of type '{kind}' was provided without its required 'reasoning' item: '{reasoning_id}'."
    return bad(message, "input")


def lonely_reasoning(reasoning_id: str) -> Problem:
    return bad(f"Item '{reasoning_id}' of type 'reasoning' was provided without its required following item.", "input")


def previous_response_not_found(response_id: str) -> Problem:
    message = f"Previous response with id '{response_id}' not found."
    return bad(message, "previous_response_id", "previous_response_not_found")


def conversation_locked() -> Problem:
    message = "Another process is currently operating on this conversation. Please retry in a few seconds."
    return bad(message, "conversation", "conversation_locked")


def item_not_found(item_id: str) -> Problem:
    message = (
        f"Item with id '{item_id}' not found. Items are not persisted when `store` is set to false. "
        "Try again with `store` set to true, or remove this item from your input."
    )
    return Problem(404, message, param="input")


def not_found(noun: str, thing_id: str) -> Problem:
    return Problem(404, f"{noun} with id '{thing_id}' not found.")


def model_not_found(model: str) -> Problem:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return Problem(404, message, code="model_not_found")


def context_length_exceeded(tokens: int, limit: int, param: str) -> Problem:
    if param == "input":
        message = "Your input exceeds the context window of this model. Please adjust your input and try again."
    else:
        message = (
            f"This model's maximum context length is {limit} tokens. However, your messages resulted in "
            f"{tokens} tokens. Please reduce the length of the messages."
        )
    return bad(message, param, "context_length_exceeded")


def no_key() -> Problem:
    message = (
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY)."
    )
    return Problem(401, message)


def wrong_key() -> Problem:
    return Problem(401, "Incorrect API key provided.", code="invalid_api_key")


def bad_json() -> Problem:
    return bad(
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
        "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
    )


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    return names.get(type(value), "an object")
