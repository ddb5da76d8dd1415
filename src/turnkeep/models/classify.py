"""From what a provider said to what we do about it.

A pure function: first by the codes, then by the sentences of `servers.toml`, then by status.
Providers put the same errors into HTTP answers, into `error` events, into `response.failed` and
into chunks of a stream that began with 200: all of them come through here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson

from turnkeep.errors import (
    AnswerMalformed,
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
from turnkeep.lean_dataclass import dataclass
from turnkeep.models.reading import request_id
from turnkeep.models.servers import Meaning, meaning_of_code, sentence_in, window_in
from turnkeep.models.waits import LONGEST_WAIT, named_wait, reset_of_limits
from turnkeep.telemetry.redaction import without

MAX_MESSAGE = 500
LOCKED_RETRY = 2.0
"""Seconds to stay away from a conversation that somebody else holds."""

# Where servers put the sentence, in any spelling of its case; the first that holds words counts.
_SAYING = ("message", "msg", "detail", "details", "error_msg", "error_message", "errormessage", "errors", "error",
           "status_msg", "description", "reason", "title", "text")  # fmt: skip

_PHRASES = frozenset(status.phrase for status in HTTPStatus)

_KINDS: Mapping[Meaning, type[ModelError]] = {
    "too_long": ContextTooLong,
    "credentials": CredentialsRefused,
    "quota": QuotaExhausted,
    "rate_limit": ModelRateLimited,
    "gone": ModelGone,
    "unavailable": ModelUnavailable,
    "malformed": AnswerMalformed,
    "refused": ModelRefused,
    "unpaired": UnansweredCall,
}
# Comes as a rate limit, but one request above the limit per minute fits no more after a wait.
_NEVER_FITS = re.compile(r"^Request too large for ")
# Characters of a message that are held against the table: what matters stands at the front, and a
# body has 64 kB.
_READ_LIMIT = 2000

_MODEL_MISSING = re.compile(
    r"\bmodel\b.*(?:not found|not exist|not supported|unknown|decommissioned)|^model: \S+$", re.I | re.S
)
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
    529: ModelRateLimited,
}

_KEYS = re.compile(
    r"\b(?:sk|sess|pk|rk|tk)-[\w*.\-]{4,}"
    r"|\b(?i:bearer|basic)\s+[\w.~+/=*\-]{4,}"
    r"|(?<=://)[^/@\s]+(?=@)"
    # the name of a field is no secret: `Unknown key: stream_options`
    r"|(?:(?<!known )(?<!recognized )(?<!expected )|(?!key[\"']?: ?[\"']?[a-z]+(?:_[a-z]+)*(?![\w-])))"
    r"(?P<label>(?i:\b(?:[\w-]*key(?:\s+provided)?|authorization)\b[\"']?\s*[:=]\s*[\"']?))(?!(?i:bearer|basic)\b)[^\s\"',;]{4,}"
)


def classify(
    status: int,
    headers: Mapping[str, str],
    body: object,
    *,
    secrets: Sequence[str] = (),
) -> ModelError:
    """The error that this answer means; `status` is 200 for what arrives inside a stream.

    `body` is the raw body or the decoded object. The message is scrubbed of `secrets` and of
    everything that looks like a key, and at most 500 characters long. `retry_after` is set where
    the provider named a time, never to more than ten minutes.
    """
    document = _decode(body)
    fault = read_fault(status, document)
    lower_headers = {name.lower(): value for name, value in headers.items()}
    wait = named_wait(lower_headers, document, fault.message[:_READ_LIMIT])
    kind = _kind(fault, wait)
    sentence = _sentence(fault, lower_headers, secrets)
    if kind is ContextTooLong:
        return ContextTooLong(sentence, window=window_in(fault.message[:_READ_LIMIT].lower()))
    return kind(sentence, retry_after=_retry_after(kind, fault, wait=wait, headers=lower_headers))


@dataclass(frozen=True, slots=True)
class ProviderFault:
    """One error as a provider describes it; what it left out is empty."""

    status: int
    code: str = ""
    type: str = ""
    param: str = ""
    message: str = ""
    reason: str = ""
    """Google's `details[].reason`, the narrowest code there is."""
    is_about_input: bool = False
    """A moderator in between refused this input: nobody else's requests are concerned."""


def read_fault(status: int, body: object) -> ProviderFault:
    """Finds the error object in any of the forms that servers give it."""
    error = _find(_decode(body))
    if isinstance(error, str):
        return ProviderFault(status, message=error)
    if not isinstance(error, Mapping):
        return ProviderFault(status)
    code = _text(error.get("code") or error.get("error_code"))
    if re.fullmatch("[345][0-9][0-9]", code):  # gateways put the status of the server behind them there
        status, code = int(code), ""
    details = error.get("metadata")
    param, message = _text(error.get("param")), _message(error)
    return ProviderFault(
        status,
        code=code,
        type=_text(error.get("type") or error.get("status")),
        param=param,
        message=f"{message}: {param}" if " " in param else message,  # MiMo: `Param Incorrect`, and there what is wrong
        reason=_reason(error.get("details")),
        is_about_input=isinstance(details, Mapping) and "flagged_input" in details,
    )


def _message(error: Mapping[str, Any]) -> str:
    """The sentence; behind a gateway's own the one of the server behind it, which says more."""
    sentence = _words(error)
    details = error.get("metadata")
    raw = details.get("raw") if isinstance(details, Mapping) else None
    if not raw:
        return sentence
    behind = read_fault(0, raw).message or (raw if isinstance(raw, str) else "")
    return f"{sentence}: {behind[:MAX_MESSAGE]}" if behind else sentence


def _words(error: Mapping[str, Any], depth: int = 3) -> str:
    fields = {str(name).lower(): value for name, value in error.items()}
    for name in _SAYING:
        value = fields.get(name)
        if isinstance(value, Mapping) and depth:
            sentence = _words(value, depth - 1)
        elif isinstance(value, bool | Mapping):
            sentence = ""
        else:
            sentence = _text(value)
        if sentence:
            return sentence
    return ""


def _reason(details: object) -> str:
    entries = details if isinstance(details, list) else []
    reasons = (entry.get("reason") for entry in entries[:10] if isinstance(entry, Mapping))
    return next((reason for reason in reasons if isinstance(reason, str)), "")


def _decode(body: object) -> object:
    if not isinstance(body, (bytes, str)):
        return body
    try:
        return orjson.loads(body)
    except ValueError:
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
        return None if text.lstrip().startswith("<") else text.strip()  # DeepSeek and all that use axum


def _find(body: object) -> object:
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return body if isinstance(body, str) else None
    response = body.get("response")
    if isinstance(response, Mapping) and response.get("error"):
        return response["error"]
    beside = body.get("x_groq")
    if isinstance(beside, Mapping) and beside.get("error"):
        return beside["error"]
    verdict = body.get("base_resp")
    if isinstance(verdict, Mapping) and verdict.get("status_code"):  # MiniMax, within an answer of status 200
        return verdict
    error = body.get("error")
    return error if isinstance(error, Mapping) and error else _words_beside(body, error)


def _words_beside(body: Mapping[str, Any], error: object) -> object:
    """The error where `error` is no object: its words, unless it only says what the status says,
    like `Bad Request`.
    """
    if isinstance(error, list) and error:
        return {**body, "message": error}
    if not isinstance(error, str) or not error or "code" in body:
        return body
    return body if error in _PHRASES and body.get("message") else error


def _text(value: object) -> str:
    """The words of a value; of a list of complaints what and where, not the input that some servers
    repeat in them.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "; ".join(_text(entry) for entry in value[:5])
    if isinstance(value, Mapping):
        place = value.get("loc")
        where = ".".join(str(step) for step in place) + ": " if isinstance(place, list) else ""
        return where + _text(value.get("msg") or value.get("message") or value.get("detail"))
    return str(value)


def _kind(fault: ProviderFault, wait: float | None) -> type[ModelError]:
    if fault.is_about_input:
        return ModelRefused
    if _NEVER_FITS.search(fault.message):
        return ContextTooLong
    # The narrowest first. Codes are made for programs, sentences change with the next release.
    for code in (fault.reason, fault.code, fault.type):
        if means := meaning_of_code(code):
            return _KINDS[means]
    sentence = sentence_in(fault.message[:_READ_LIMIT].lower())
    if sentence is None or not _may_mean(sentence.means, fault, wait):
        return _kind_by_status(fault)
    return _KINDS[sentence.means]


def _may_mean(means: Meaning, fault: ProviderFault, wait: float | None) -> bool:
    """A server that asks to wait is a limit, whatever its sentence sounds like: `429` and `quota …
    retry in 36 s`.
    """
    if fault.status == 429:
        return means == "quota" and wait is None
    return means != "rate_limit" or fault.status < 500


def _kind_by_status(fault: ProviderFault) -> type[ModelError]:
    status = fault.status
    if kind := _BY_STATUS.get(status):
        return kind
    if status == 404:
        return _missing(fault)
    if 300 <= status < 400:
        return EndpointBlocked
    if 400 <= status < 500 or fault.type == "invalid_request_error":
        return ModelGone if fault.param == "model" and _MODEL_MISSING.search(fault.message) else ModelRefused
    return ModelUnavailable


def _missing(fault: ProviderFault) -> type[ModelError]:
    if fault.param == "model" or _MODEL_MISSING.search(fault.message):
        return ModelGone
    # A 404 that names neither model nor thing is an address that leads nowhere, for every request.
    return ModelRefused if _THING_MISSING.search(fault.message) else EndpointBlocked


def scrub(text: str, secrets: Sequence[str] = ()) -> str:
    """A text without keys, on one line."""
    for secret in secrets:
        # A shorter one would cut pieces out of ordinary words.
        if len(secret) >= 4:
            text = without(text, secret)
    return " ".join(_KEYS.sub(lambda match: f"{match['label'] or ''}[secret]", text).split())


def _sentence(fault: ProviderFault, headers: Mapping[str, str], secrets: Sequence[str]) -> str:
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
    text = scrub(start, secrets)
    room = MAX_MESSAGE - len(end)
    return (text if len(text) <= room else text[: room - 1] + "…") + end


def _retry_after(
    kind: type[ModelError], fault: ProviderFault, *, wait: float | None, headers: Mapping[str, str]
) -> float | None:
    """Bounded: a provider may name a wait, but not stop the house."""
    if not kind.retryable:
        return None
    # Limits come with every answer; only after a refusal they say when to come again.
    if wait is None and kind is ModelRateLimited:
        wait = reset_of_limits(headers)
    if wait is None and fault.code == "conversation_locked":
        return LOCKED_RETRY
    return None if wait is None else min(wait, LONGEST_WAIT)
