"""From what a provider said to what we do about it.

A pure function: first by `error.code` (and `error.type`), then by known sentences of servers that send no code,
then by status. Providers put the same errors into HTTP answers, into `error` events, into `response.failed` and
into chunks of a stream that began with 200: all of them come through here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from turnkeep.errors import (
    ContextTooLong,
    CredentialsRefused,
    EndpointBlocked,
    ModelError,
    ModelGone,
    ModelRateLimited,
    ModelRefused,
    ModelUnavailable,
    QuotaExhausted,
    UnansweredCall,
)

MAX_MESSAGE = 500
LOCKED_RETRY = 2.0
"""Seconds to stay away from a conversation that somebody else holds."""


def classify(
    status: int,
    headers: Mapping[str, str],
    body: object,
    *,
    secrets: Sequence[str] = (),
) -> ModelError:
    """The error that this answer means; `status` is 200 for what arrives inside a stream.

    `body` is the raw body or the decoded object. The message is scrubbed of `secrets` and of everything that looks
    like a key, and at most 500 characters long. `retry_after` is set where the provider named a time.
    """
    fault = read_fault(status, body)
    lowered = {name.lower(): value for name, value in headers.items()}
    kind = _kind(fault)
    return kind(_sentence(fault, lowered, secrets), retry_after=_retry_after(kind, fault, lowered))


# ---------------------------------------------------------------- what was said


@dataclass(frozen=True, slots=True)
class Fault:
    """One error as a provider describes it; what it left out is empty."""

    status: int
    code: str = ""
    type: str = ""
    param: str = ""
    message: str = ""
    about_input: bool = False
    """A moderator in between refused this input: nobody else's requests are concerned."""


def read_fault(status: int, body: object) -> Fault:
    """Finds the error object in any of the forms that servers give it."""
    found = _find(_decoded(body))
    if isinstance(found, str):
        return Fault(status, message=found)
    if not isinstance(found, Mapping):
        return Fault(status)
    code = _text(found.get("code"))
    if code.isdecimal() and len(code) < 10:  # gateways put the status of the server behind them there
        status, code = (int(code) if 300 <= int(code) <= 599 else status), ""
    details = found.get("metadata")
    return Fault(
        status,
        code=code,
        type=_text(found.get("type")),
        param=_text(found.get("param")),
        message=_text(found.get("message") or found.get("detail") or found.get("error")),
        about_input=isinstance(details, Mapping) and "flagged_input" in details,
    )


def _decoded(body: object) -> object:
    if not isinstance(body, (bytes, str)):
        return body
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _find(body: object) -> object:
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return body if isinstance(body, str) else None
    response = body.get("response")
    if isinstance(response, Mapping) and response.get("error"):
        return response["error"]
    return body.get("error") or body


def _text(value: object) -> str:
    """The words of a value; of a list of complaints what and where, not the input that some servers repeat in them."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "; ".join(_text(entry) for entry in value[:5])
    if isinstance(value, Mapping):
        place = value.get("loc")
        where = ".".join(str(step) for step in place) + ": " if isinstance(place, list) else ""
        return where + _text(value.get("msg") or value.get("message") or value.get("detail"))
    return str(value)


# ---------------------------------------------------------------- what it means

_RATE_LIMITED = (
    "rate_limit_exceeded",
    "rate_limit_error",
    "rate_limit",
    "rate_limited",
    "slow_down",
    "too_many_requests",
    "ratelimitreached",
    "conversation_locked",
)
_QUOTA = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_balance",
)
_CREDENTIALS = (
    "invalid_api_key",
    "authentication_error",
    "permission_error",
    "permission_denied",
    "account_deactivated",
    "invalid_organization",
    "unsupported_country_region_territory",
)
_GONE = (
    "model_not_found",
    "model_decommissioned",
    "model_deprecated",
    "model_not_available",
    "invalid_model",
    "unknown_model",
    "deploymentnotfound",
)
_TOO_LONG = (
    "context_length_exceeded",
    "exceed_context_size_error",
    "request_too_large",
)
_UNAVAILABLE = (
    "server_error",
    "internal_error",
    "internal_server_error",
    "overloaded_error",
    "server_is_overloaded",
    "service_unavailable",
    "service_unavailable_error",
    "vector_store_timeout",
    "timeout",
)
_REFUSED = (
    "invalid_prompt",
    "content_filter",
    "content_policy_violation",
    "bio_policy",
    "misalignment_policy_violation",
    "data_residency_mismatch",
    "previous_response_not_found",
    "invalid_image",
)
_UNPAIRED = ("invalid_encrypted_content",)

_BY_CODE: dict[str, type[ModelError]] = {
    **dict.fromkeys(_RATE_LIMITED, ModelRateLimited),
    **dict.fromkeys(_QUOTA, QuotaExhausted),
    **dict.fromkeys(_CREDENTIALS, CredentialsRefused),
    **dict.fromkeys(_GONE, ModelGone),
    **dict.fromkeys(_TOO_LONG, ContextTooLong),
    **dict.fromkeys(_UNAVAILABLE, ModelUnavailable),
    **dict.fromkeys(_REFUSED, ModelRefused),
    **dict.fromkeys(_UNPAIRED, UnansweredCall),
}

_NEVER_FITS = re.compile(r"^Request too large for ")
"""Comes as a rate limit, but one request above the limit per minute fits no more after a wait."""

_BY_SENTENCE: tuple[tuple[re.Pattern[str], type[ModelError]], ...] = (
    (
        re.compile(
            r"No tool (?:output|call) found for|without its required (?:'reasoning'|following) item|"
            r"'?tool_calls'? must be followed by tool messages|role 'tool' must be a response to|"
            r"Items are not persisted when"
        ),
        UnansweredCall,
    ),
    (
        re.compile(
            r"maximum context length|exceeds? the (?:available )?(?:model's )?context|context window|"
            r"prompt is too long|reduce the length of the messages",
            re.IGNORECASE,
        ),
        ContextTooLong,
    ),
)

_MODEL_MISSING = re.compile(r"\bmodel\b.*(?:not found|not exist|not supported|unknown|decommissioned)", re.I | re.S)
_THING_MISSING = re.compile(r"\b(?:item|response|conversation|file|container)\b.*not found", re.I | re.S)

_BY_STATUS: dict[int, type[ModelError]] = {
    401: CredentialsRefused,
    402: QuotaExhausted,
    403: CredentialsRefused,
    405: EndpointBlocked,
    407: EndpointBlocked,
    408: ModelUnavailable,
    409: ModelUnavailable,
    413: ContextTooLong,
    425: ModelUnavailable,
    429: ModelRateLimited,
}


def _kind(fault: Fault) -> type[ModelError]:
    if fault.about_input:
        return ModelRefused
    if _NEVER_FITS.search(fault.message):
        return ContextTooLong
    for word in (fault.code, fault.type):
        if known := _BY_CODE.get(word.lower()):
            return known
    for sentence, kind in _BY_SENTENCE:
        if sentence.search(fault.message):
            return kind
    return _kind_by_status(fault)


def _kind_by_status(fault: Fault) -> type[ModelError]:
    status = fault.status
    if known := _BY_STATUS.get(status):
        return known
    if status == 404:
        return _missing(fault)
    if 300 <= status < 400:
        return EndpointBlocked
    if 400 <= status < 500 or fault.type == "invalid_request_error":
        return ModelGone if fault.param == "model" and _MODEL_MISSING.search(fault.message) else ModelRefused
    return ModelUnavailable


def _missing(fault: Fault) -> type[ModelError]:
    if fault.param == "model" or _MODEL_MISSING.search(fault.message):
        return ModelGone
    return ModelRefused if _THING_MISSING.search(fault.message) else EndpointBlocked


# ---------------------------------------------------------------- in words

_KEYS = re.compile(
    r"\b(?:sk|sess|pk|rk|tk)-[\w*.\-]{4,}"
    r"|\b(?i:bearer|basic)\s+[\w.~+/=*\-]{4,}"
    r"|(?<=://)[^/@\s]+(?=@)"
    r"|(?P<label>(?i:\b(?:[\w-]*key(?:\s+provided)?|authorization)\b[\"']?\s*[:=]\s*[\"']?))(?!(?i:bearer|basic)\b)[^\s\"',;]{4,}"
)


def scrub(text: str, secrets: Sequence[str] = ()) -> str:
    """A text without keys, on one line."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[secret]")
    return " ".join(_KEYS.sub(lambda found: f"{found['label'] or ''}[secret]", text).split())


def _sentence(fault: Fault, headers: Mapping[str, str], secrets: Sequence[str]) -> str:
    label = fault.code or fault.type
    where = "the stream says" if fault.status < 300 else f"the provider answered {fault.status}"
    start = f"{where} {label}".rstrip()
    request = request_id(headers)
    end = f" (request {request[:80]})" if request else ""
    if fault.message:
        start += f": {fault.message}"
    elif 300 <= fault.status < 400:
        start += ", a redirect, which is not followed: set the base url to the address it names"
    elif "html" in headers.get("content-type", ""):
        start += " with an HTML page: is the base url the address of an API?"
    said = scrub(start, secrets)
    room = MAX_MESSAGE - len(end)
    return (said if len(said) <= room else said[: room - 1] + "…") + end


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's name for this request; expects lower-case header names."""
    for name in ("x-request-id", "apim-request-id", "x-ms-request-id", "cf-ray"):
        if value := headers.get(name):
            return value
    return None


# ---------------------------------------------------------------- when again

_GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|µs|us|ns|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}
_TRY_AGAIN = re.compile(r"try again in ((?:\d+(?:\.\d+)?(?:ms|h|m|s))+)")


def go_duration(text: str) -> float | None:
    """Seconds of a duration like `6m0s` or `120ms`; None when it is none."""
    parts = _GO_DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _retry_after(kind: type[ModelError], fault: Fault, headers: Mapping[str, str]) -> float | None:
    if not kind.retryable:
        return None
    named = _milliseconds(headers) or _seconds_or_date(headers)
    if named is None and kind is ModelRateLimited:
        named = _from_sentence(fault) or _from_limits(headers)
    if named is None and fault.code == "conversation_locked":
        return LOCKED_RETRY
    return named


def _milliseconds(headers: Mapping[str, str]) -> float | None:
    value = _number(headers.get("retry-after-ms"))
    return None if value is None else value / 1000


def _seconds_or_date(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after")
    if text is None or (seconds := _number(text)) is not None:
        return seconds if text is not None else None
    try:  # a date is read against the server's own clock
        until, now = parsedate_to_datetime(text), parsedate_to_datetime(headers["date"])
        return max(0.0, (until - now).total_seconds())
    except (LookupError, ValueError, TypeError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None


def _from_sentence(fault: Fault) -> float | None:
    match = _TRY_AGAIN.search(fault.message)
    return go_duration(match.group(1)) if match else None


def _from_limits(headers: Mapping[str, str]) -> float | None:
    """The reset of whatever is used up; of everything when the headers do not say what is."""
    resets: dict[str, float] = {}
    for name, value in headers.items():
        if name.startswith("x-ratelimit-reset-") and (seconds := go_duration(value)) is not None:
            resets[name.removeprefix("x-ratelimit-reset-")] = seconds
    spent = [seconds for what, seconds in resets.items() if headers.get(f"x-ratelimit-remaining-{what}") == "0"]
    return max(spent or resets.values(), default=None)


def error_in(event: Mapping[str, Any]) -> object | None:
    """The error that a decoded chunk or event carries, if it carries one."""
    return event.get("error") or (event if event.get("type") == "error" else None)
