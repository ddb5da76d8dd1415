"""A reset that is told as a moment: with and without a zone, in headers, in the body, in words."""

from __future__ import annotations

from typing import Any

from tests.rows import each_row
from turnkeep.models.classify import classify
from turnkeep.models.waits import LONGEST_WAIT

DATE = {"date": "Sun, 29 Nov 2026 10:00:00 GMT"}


def limited(said: str) -> dict[str, Any]:
    return {"error": {"code": "rate_limit_exceeded", "message": said}}


@each_row(
    ("headers", "body", "seconds"),
    [
        # without a zone it is UTC
        ({"x-ratelimit-reset": "2026-11-29T10:00:45"}, limited("no"), 45.0),
        ({"x-ratelimit-reset-tokens": "2026-11-29 10:00:45"}, limited("no"), 45.0),
        ({"retry-after": "2026-11-29 10:00:45"}, limited("no"), 45.0),
        ({"retry-after": "Sun, 29 Nov 2026 10:00:45"}, limited("no"), 45.0),
        ({"retry-after": "Sun, 29 Nov 2026 10:00:45 -0000"}, limited("no"), 45.0),
        ({}, {"error": {"message": "no", "retry_after": "2026-11-29T10:00:45.500"}}, 45.5),
        ({}, {"error": {"metadata": {"headers": {"X-RateLimit-Reset": "2026-11-29T10:00:45"}}}}, 45.0),
        # Gemini's compatible endpoint: a list with an error with a list of details
        ({}, [{"error": {"code": 429, "details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "7s"}]}}], 7.0),
        # in words
        ({}, limited("Your limit resets at 2026-11-29 10:01:00 UTC."), 60.0),
        ({}, limited("You will regain access on 2026-11-29 at 10:02 UTC."), 120.0),
        ({}, limited("Please try again after 2026-11-29T10:00:30Z"), 30.0),
        ({}, limited("Available again at 2026-11-29T12:00:30+02:00."), 30.0),
        ({}, limited("已达到 5 小时的使用上限。您的限额将在 2026-11-29 10:03:00 重置。"), 180.0),
        # capped, whatever was meant
        ({}, limited("您的限额将在 2026-11-29 18:03:00 重置。"), LONGEST_WAIT),
        ({}, limited("You will regain access on 2026-12-01 at 00:00 UTC."), LONGEST_WAIT),
        # a moment of another zone lies in the past when it is taken for UTC: it says nothing
        ({"x-ratelimit-reset": "2026-11-29T05:00:45"}, limited("no"), None),
        ({}, limited("Your limit resets at 2026-11-29 05:00:45"), None),
        ({"x-ratelimit-reset": "2026-11-29T09:59:00Z"}, limited("no"), 0.0),
        # no moment
        ({}, limited("resets at 2026-99-99 10:00:00"), None),
        ({}, limited("as of 2026-11-29 10:00:45 this model is busy"), None),
    ],
)
def test_a_moment_says_when_to_come_back(headers: dict[str, str], body: Any, seconds: float | None) -> None:
    assert classify(429, {**DATE, **headers}, body).retry_after == seconds


def test_a_moment_is_read_by_the_clock_of_who_named_it_and_not_without_one() -> None:
    assert classify(429, {"x-ratelimit-reset": "2026-11-29T10:00:45"}, limited("no")).retry_after is None
