"""Every error of every server becomes the one class that says what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rows import each_row
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
from turnkeep.models import servers
from turnkeep.models.classify import classify
from turnkeep.models.reading import error_in
from turnkeep.models.waits import BRIEF_WAIT, LONGEST_WAIT, go_duration, named_wait, wait_for_spent

KEY = "sk-proj-Zx81kd72hs9Q"


def error(code: Any = None, message: str = "", type: str = "invalid_request_error", param: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": type, "param": param, "code": code}})


# ---------------------------------------------------------------- what it means

CASES: list[tuple[str, int, Any, type[ModelError]]] = [
    ("rate limit", 429, error("rate_limit_exceeded", type="tokens"), ModelRateLimited),
    ("slow down", 429, error("slow_down", type="rate_limit_error"), ModelRateLimited),
    ("slow down under 503", 503, error("slow_down"), ModelRateLimited),
    ("rate limit without a code", 429, b"", ModelRateLimited),
    ("no quota by code", 429, error("insufficient_quota"), QuotaExhausted),
    ("no quota by type", 429, error(type="insufficient_quota"), QuotaExhausted),
    ("no credit", 429, error("credit_balance_exhausted", type="insufficient_quota"), QuotaExhausted),
    ("organisation limit", 429, error("organization_spend_limit_exceeded"), QuotaExhausted),
    ("project limit", 429, error("project_spend_limit_exceeded"), QuotaExhausted),
    ("usage limit", 429, error("organization_usage_limit_exceeded"), QuotaExhausted),
    ("payment required", 402, error(message="Insufficient Balance", type="unknown_error"), QuotaExhausted),
    ("overloaded", 503, error("server_is_overloaded", type="service_unavailable_error"), ModelUnavailable),
    ("server error", 500, error("server_error", type="server_error"), ModelUnavailable),
    ("edge page", 502, b"<html><title>Bad gateway</title></html>", ModelUnavailable),
    ("edge timeout", 524, b"", ModelUnavailable),
    ("conflict", 409, b"", ModelUnavailable),
    ("request timeout", 408, b"", ModelUnavailable),
    ("conversation locked", 400, error("conversation_locked", param="conversation"), ModelRateLimited),
    ("chain lost", 400, error("previous_response_not_found"), ModelRefused),
    ("too long by code", 400, error("context_length_exceeded"), ContextTooLong),
    ("too long by words", 400, error(message="This model's maximum context length is 8192 tokens."), ContextTooLong),
    ("too long for llama.cpp", 400, error(400, type="exceed_context_size_error"), ContextTooLong),
    ("body too large", 413, b"", ContextTooLong),
    (
        "one request above the limit per minute",
        429,
        error("rate_limit_exceeded", "Request too large for gpt-4o on tokens per min (TPM): Limit 10, Requested 20"),
        ContextTooLong,
    ),
    (
        "unanswered call",
        400,
        error(message="No tool output found for function call call_9.", param="input"),
        UnansweredCall,
    ),
    ("stray output", 400, error(message="No tool call found for function call output with call_id c."), UnansweredCall),
    (
        "reasoning torn off",
        400,
        error(message="Item 'fc_1' was provided without its required 'reasoning' item: 'rs_1'."),
        UnansweredCall,
    ),
    (
        "unanswered call in chat",
        400,
        error(message="An assistant message with 'tool_calls' must be followed by tool messages responding to each"),
        UnansweredCall,
    ),
    ("foreign reasoning", 400, error("invalid_encrypted_content"), UnansweredCall),
    ("bad request", 400, error(message="Unknown parameter: 'x'.", param="x"), ModelRefused),
    ("unprocessable", 422, b'{"detail":[{"loc":["body","store"],"msg":"Extra inputs"}]}', ModelRefused),
    ("content filter", 400, error("content_filter"), ModelRefused),
    ("wrong key", 401, error("invalid_api_key"), CredentialsRefused),
    ("no right", 403, error(), CredentialsRefused),
    ("moderated input", 403, {"error": {"code": 403, "metadata": {"flagged_input": "…"}}}, ModelRefused),
    ("model gone", 404, error("model_not_found"), ModelGone),
    ("model not allowed", 403, error("model_not_found"), ModelGone),
    ("model unknown to vllm", 404, error(404, "The model `x` does not exist.", "NotFoundError"), ModelGone),
    ("model unknown to ollama", 404, error(message='model "x" not found, try pulling it', type="api_error"), ModelGone),
    ("model decommissioned", 400, error("model_decommissioned"), ModelGone),
    ("azure deployment", 404, error("DeploymentNotFound"), ModelGone),
    ("wrong address", 404, error(message="Invalid URL (POST /v1/v1/responses)"), EndpointBlocked),
    ("wrong address, no json", 404, b"404 page not found", EndpointBlocked),
    ("not an api", 405, b"<html>", EndpointBlocked),
    ("redirect", 308, b"", EndpointBlocked),
    ("file missing", 404, error(message="File file_1 not found"), ModelRefused),
    ("error event", 200, {"type": "error", "code": "insufficient_quota", "message": "x"}, QuotaExhausted),
    ("failed response", 200, {"response": {"error": {"code": "rate_limit_exceeded", "message": ""}}}, ModelRateLimited),
    ("failed response, too long", 200, {"response": {"error": {"code": "context_length_exceeded"}}}, ContextTooLong),
    ("failed for the prompt", 200, {"response": {"error": {"code": "invalid_prompt"}}}, ModelRefused),
    ("failed for no known reason", 200, {"response": {"error": {"code": "new_code"}}}, ModelUnavailable),
    ("gateway status as code", 200, {"error": {"code": 502, "message": "Provider returned error"}}, ModelUnavailable),
    ("gateway limit as code", 200, {"error": {"code": 429, "message": "slow"}}, ModelRateLimited),
    ("gateway status as text", 200, {"error": {"code": "401", "message": "no"}}, CredentialsRefused),
    ("error is a sentence", 200, {"error": "upstream went away"}, ModelUnavailable),
    ("list of errors", 400, b'[{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"no"}}]', ModelRefused),
]


@each_row(("status", "body", "kind"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_error_gets_the_class_that_says_what_to_do(status: int, body: Any, kind: type[ModelError]) -> None:
    assert type(classify(status, {}, body)) is kind


@given(
    st.integers(100, 999),
    st.dictionaries(st.sampled_from(["Retry-After", "retry-after-ms", "x-ratelimit-reset-tokens", "date"]), st.text()),
    st.one_of(
        st.binary(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "response", "detail"]), inner)
            ),
        ),
    ),
)
def test_no_answer_is_so_strange_that_it_cannot_be_classified(status: int, headers: dict[str, str], body: Any) -> None:
    failure = classify(status, headers, body)
    assert isinstance(failure, ModelError)
    assert len(str(failure)) <= 500


# ---------------------------------------------------------------- what servers say

ROWS = servers.table()["sentence"]
KINDS: dict[str, type[ModelError]] = {
    "too_long": ContextTooLong, "credentials": CredentialsRefused, "quota": QuotaExhausted,
    "rate_limit": ModelRateLimited, "gone": ModelGone, "unavailable": ModelUnavailable, "malformed": AnswerMalformed,
    "refused": ModelRefused, "unpaired": UnansweredCall,
}  # fmt: skip
ENVELOPES: dict[str, Callable[[str], Any]] = {
    "OpenAI": lambda said: {"error": {"message": said, "type": "invalid_request_error", "param": None, "code": None}},
    "vLLM and SGLang": lambda said: {"object": "error", "message": said, "type": "BadRequestError", "code": 400},
    "LM Studio and xAI": lambda said: {"code": "Client specified an invalid argument", "error": said},
    "Gemini": lambda said: [{"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}],
    "FastAPI": lambda said: {"detail": said},
    "Databricks": lambda said: {"error_code": "BAD_REQUEST", "message": said},
    "OpenRouter, of the server behind it": lambda said: {
        "error": {
            "code": 400,
            "message": "Request failed",
            "metadata": {"raw": orjson.dumps({"message": said}).decode()},
        }
    },
    "Cloudflare": lambda said: {"success": False, "errors": [{"message": said, "code": 7009}], "result": {}},
    "AWS": lambda said: {"Message": said},
    "Baidu": lambda said: {"error_code": 336, "error_msg": said},
    "Zhipu": lambda said: {"code": 400, "msg": said, "success": False},
    "NVIDIA": lambda said: {"type": "about:blank", "status": 400, "title": "Bad", "detail": said},
    "Node": lambda said: {"statusCode": 400, "error": "Bad Request", "message": said},
    "Spark": lambda said: {"error": True, "message": said},
    "an error in an error": lambda said: {"error": {"error": {"message": said}}},
    "a list of errors": lambda said: {"error": [{"message": said}]},
    "a sentence alone, as axum sends it": lambda said: said,
    "MiniMax": lambda said: {"choices": None, "base_resp": {"status_code": 2013, "status_msg": said}},
}


@each_row("row", ROWS, ids=[f"{row['means']}: {row['server']}" for row in ROWS])
def test_a_sentence_means_the_same_in_every_envelope(row: Any) -> None:
    read = {}
    for name, envelope in ENVELOPES.items():
        sent = envelope(row["said"])
        raw = sent.encode() if isinstance(sent, str) else orjson.dumps(sent)
        read[name] = (type(classify(400, {}, raw)), type(classify(200, {}, sent)))

    assert read == dict.fromkeys(ENVELOPES, (KINDS[row["means"]],) * 2)


@each_row("row", ROWS, ids=[f"{row['means']}: {row['server']}" for row in ROWS])
def test_a_row_of_the_table_says_who_says_it(row: Any) -> None:
    assert row["means"] in KINDS
    assert row["server"]
    assert row["pattern"] == row["pattern"].lower() or "\\" in row["pattern"]


@each_row("row", [row for row in ROWS if "window" in row], ids=lambda row: str(row["server"]))
def test_a_refusal_that_names_the_window_tells_it(row: Any) -> None:
    failure = classify(400, {}, {"error": {"message": row["said"]}})
    windows = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d", row["said"])]
    assert isinstance(failure, ContextTooLong)
    if failure.window is not None:  # a row of several servers names it in some of their sentences
        assert failure.window in windows
        assert (
            failure.window != max(windows) or windows.count(max(windows)) == len(windows) or "allow" not in row["said"]
        )


def test_most_refusals_that_name_the_window_are_understood() -> None:
    told = [classify(400, {}, {"error": {"message": row["said"]}}) for row in ROWS if "window" in row]
    assert sum(getattr(one, "window", None) is not None for one in told) >= 20


CODES = [(code, KINDS[means]) for means, codes in servers.table()["codes"].items() for code in codes]


PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "code": lambda code: {"code": code},
    "type": lambda code: {"type": code},
    "status": lambda code: {"status": code},
    "reason": lambda code: {"details": [{"@type": "ErrorInfo", "reason": code}]},
}


@each_row(("code", "kind"), CODES, ids=[code for code, _ in CODES])
def test_a_code_means_the_same_in_every_place(code: str, kind: type[ModelError]) -> None:
    errors = {place: {"error": {"message": "no", **put(code.upper())}} for place, put in PLACES.items()}

    read = {place: type(classify(400, {}, body)) for place, body in errors.items()}

    assert read == dict.fromkeys(PLACES, kind)


@pytest.mark.parametrize(
    ("said", "status", "kind"),
    [
        ("You exceeded your current quota. Please retry in 36.2s.", 429, ModelRateLimited),
        ("Insufficient balance or no resource package. Please recharge.", 429, QuotaExhausted),
        ("The engine is currently overloaded, please try again later", 429, ModelRateLimited),
        ("Too many tokens, please wait before trying again.", 429, ModelRateLimited),
        ("Rate limit reached for model. Please try again in 7m66.58s.", 429, ModelRateLimited),
        ("Request too large for model `x` on tokens per minute (TPM)", 413, ContextTooLong),
        ("The temperature must be below 2", 400, ModelRefused),
        ("Too many requests, maximum context length of the day", 429, ModelRateLimited),
    ],
)
def test_a_server_that_asks_to_wait_is_believed(said: str, status: int, kind: type[ModelError]) -> None:
    assert type(classify(status, {}, error(message=said))) is kind


def test_a_refusal_that_nobody_knows_is_told_with_what_the_server_said() -> None:
    said = "The parameter `frobnicate` must be a prime number"
    assert said in str(classify(400, {}, error(message=said)))


# ---------------------------------------------------------------- when again


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"Retry-After": "Fri, 20 Nov 2026 10:01:30 GMT", "Date": "Fri, 20 Nov 2026 10:00:00 GMT"}, 90.0),
        ({"Retry-After": "Fri, 20 Nov 2026 10:01:30 GMT"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-4"}, 0.0),
        ({"Retry-After": "inf"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-reset-requests": "120ms"}, 360.0),
        (
            {
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "500",
                "x-ratelimit-reset-requests": "120ms",
                "x-ratelimit-remaining-requests": "0",
            },
            0.12,
        ),
        ({"retry-after": "3", "x-ratelimit-reset-tokens": "6m0s"}, 3.0),
        ({}, None),
    ],
)
def test_the_provider_says_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    assert classify(429, headers, error("rate_limit_exceeded")).retry_after == seconds


def test_inside_a_stream_the_sentence_says_when_to_come_back() -> None:
    said = {"type": "error", "code": "rate_limit_exceeded", "message": "Limit 9. Please try again in 1m2.5s. See"}
    assert classify(200, {}, said).retry_after == 62.5


def test_a_locked_conversation_is_left_alone_for_a_moment() -> None:
    assert classify(400, {}, error("conversation_locked")).retry_after == 2.0


def test_what_is_not_to_be_repeated_has_no_time() -> None:
    assert classify(401, {"retry-after": "5"}, b"").retry_after is None


def test_a_server_error_may_say_when_to_come_back() -> None:
    assert classify(503, {"retry-after": "5"}, b"").retry_after == 5.0


DATE = {"date": "Sun, 29 Nov 2026 10:00:00 GMT"}


@each_row(
    ("headers", "body", "seconds"),
    [
        (
            {},
            {"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}]}},
            36.0,
        ),
        ({}, {"error": {"message": "You exceeded your current quota. Please retry in 36.2s."}}, 36.2),
        ({}, {"error": {"message": "Please retry after 22 seconds."}}, 22.0),
        ({}, {"error": {"message": "Please try again in 7m66.58s."}}, 486.58),
        ({}, {"error": {"message": "Rate limited. Try again in 2 minutes"}}, 120.0),
        ({}, {"error": {"message": "Please wait 1 minute and 5 seconds before the next request"}}, 65.0),
        ({}, {"error": {"message": "Limit reached, resets in 850ms"}}, 0.85),
        ({}, {"detail": "Request was throttled. Expected available in 43 seconds."}, 43.0),
        ({}, {"error": {"message": "slow", "retry_after": 5}}, 5.0),
        ({}, {"error": {"message": "slow"}, "retry_after_ms": "2500"}, 2.5),
        ({}, {"error": {"metadata": {"retry_after_seconds": 11}}}, 11.0),
        (DATE, {"error": {"metadata": {"headers": {"X-RateLimit-Reset": "1795946430000"}}}}, 30.0),
        ({**DATE, "x-ratelimit-reset": "1795946430"}, {}, 30.0),
        ({**DATE, "anthropic-ratelimit-requests-reset": "2026-11-29T10:00:45Z"}, {}, 45.0),
        ({**DATE, "anthropic-ratelimit-tokens-reset": "2026-11-29T10:00:45+00:00"}, {}, 45.0),
        ({"x-ratelimit-reset": "1795946430"}, {}, None),
        ({"x-ratelimit-reset-requests": "1.5"}, {}, 1.5),
        ({"ratelimit-reset": "17"}, {}, 17.0),
        ({"retry-after": "31536000"}, {}, LONGEST_WAIT),
        ({**DATE, "retry-after": "Tue, 29 Nov 2049 10:00:00 GMT"}, {}, LONGEST_WAIT),
        ({"retry-after": "1e300"}, {}, LONGEST_WAIT),
        ({"x-ratelimit-reset-tokens": "999999h"}, {}, LONGEST_WAIT),
        ({}, {"error": {"message": "try again in 9000 hours"}}, LONGEST_WAIT),
        ({}, {"error": {"message": "try again in a moment"}}, None),
        ({}, {"error": {"message": "retry 3 times"}}, None),
    ],
)
def test_every_place_of_a_wait_is_read_and_bounded(headers: dict[str, str], body: Any, seconds: float | None) -> None:
    told = classify(429, headers, body).retry_after
    assert told == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=60), st.recursive(st.none() | st.floats() | st.text(), st.lists))
def test_no_wait_is_so_strange_that_it_cannot_be_read(text: str, body: Any) -> None:
    for name in ("retry-after", "x-ratelimit-reset-requests", "retry-after-ms"):
        wait = named_wait({name: text, "date": text}, {"retryDelay": body, "headers": {name: text}}, text)
        assert wait is None or wait >= 0.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, BRIEF_WAIT),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-requests": "0"}, 1.0),
        (
            {
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "45s",
                "x-ratelimit-reset-requests": "1h",
            },
            45.0,
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9999h"}, BRIEF_WAIT),
        (
            {
                **DATE,
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-11-29T10:01:00Z",
            },
            60.0,
        ),
        ({}, None),
    ],
)
def test_what_is_used_up_is_waited_for(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_for_spent(headers) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("", None), ("12", None), ("1s!", None)],
)
def test_durations_are_read_as_go_writes_them(text: str, seconds: float | None) -> None:
    assert go_duration(text) == seconds


# ---------------------------------------------------------------- in words


@pytest.mark.parametrize(
    "said",
    [
        f"Incorrect API key provided: {KEY}. You can find your key at",
        "Incorrect API key provided: sk-proj-********************hs9Q.",
        f"header Authorization: Bearer {KEY} was refused",
        f'{{"api-key": "{KEY}"}}',
        "token own-credential-77 is not known",
        "proxy http://me:pass-word@10.0.0.1:3128 refused",
    ],
)
def test_no_key_gets_into_a_message(said: str) -> None:
    message = str(classify(401, {}, error("invalid_api_key", said), secrets=(KEY, "own-credential-77")))
    for secret in (KEY, "hs9Q", "own-credential-77", "pass-word"):
        assert secret not in message
    assert "401 invalid_api_key" in message


def test_a_message_is_cut_at_500_characters_and_keeps_the_name_of_the_request() -> None:
    message = str(classify(400, {"x-request-id": "req_42"}, error(message="long " * 1000)))
    assert len(message) <= 500
    assert message.endswith("(request req_42)")


def test_a_list_of_complaints_says_what_and_where_and_repeats_no_input() -> None:
    body = b'{"detail":[{"loc":["body","messages",0],"msg":"Extra inputs are not permitted","input":"dear diary"}]}'
    message = str(classify(422, {}, body))
    assert message == "the provider answered 422: body.messages.0: Extra inputs are not permitted"


def test_a_message_begins_with_what_happened() -> None:
    assert str(classify(400, {}, error("bad", "No."))) == "the provider answered 400 bad: No."
    assert str(classify(200, {}, {"type": "error", "code": "bad", "message": "No."})) == "the stream says bad: No."
    assert "HTML page" in str(classify(404, {"Content-Type": "text/html"}, b"<html>"))
    assert "redirect" in str(classify(307, {}, b""))


@pytest.mark.parametrize("error", [{}, [], 0, False, True, [None], [[]], {"message": {}}, {"message": [{}]}])
def test_an_error_of_any_type_is_one(error: object) -> None:
    assert type(classify(400, {}, {"error": error})) is ModelRefused


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        ("Unknown key: stream_options", True),
        ('Unrecognized key: "store"', True),
        ("Unknown key: Zx81kd72hs9Q", False),
        ("Unknown key: abc-def-123", False),
        ("Invalid key: stream_options", False),
    ],
)
def test_the_name_of_an_unknown_field_is_told_and_a_key_is_not(said: str, is_told: bool) -> None:
    assert (said in str(classify(400, {}, {"error": {"message": said}}))) is is_told


@pytest.mark.parametrize(
    "said", ["max_tokens 9000 exceeds the limit of 4096", "output tokens exceed the limit of 4096"]
)
def test_too_long_an_answer_says_nothing_of_the_context(said: str) -> None:
    assert type(classify(400, {}, {"error": {"message": said}})) is ModelRefused


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"type": "response.created"}, None),
        ({"error": None, "object": "chat.completion.chunk"}, None),
        ({"error": {"code": "x"}}, {"code": "x"}),
        ({"error": "words"}, "words"),
        ({"type": "error", "code": "x"}, {"type": "error", "code": "x"}),
        ({"object": "error", "message": "m"}, {"object": "error", "message": "m"}),
        ({"type": "error", "error": {"code": "x"}}, {"code": "x"}),
        ({"x_groq": {"error": "over"}}, {"error": "over"}),
        ({"x_groq": {"id": "req"}}, None),
        ({"x_groq": "req"}, None),
        ({"base_resp": {"status_code": 1004}}, {"base_resp": {"status_code": 1004}}),
        ({"base_resp": {"status_code": 0}}, None),
    ],
)
def test_an_event_carries_an_error_only_where_it_says_so(event: dict[str, Any], error: object) -> None:
    assert error_in(event) == error
