"""When a provider wants to be asked again: in headers, in the body, in words; as seconds, durations
and moments.

Everything here comes from outside, so nothing waits longer than `LONGEST_WAIT`, whatever was said:
a mistaken header must not stop a house for a year. After that somebody looks again, as
at an open circuit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_WAIT = 600.0
"""Seconds after which a provider is asked again though it named a later time."""

BRIEF_WAIT = 60.0
"""Seconds that are just waited.

Whoever asks for more opens the circuit, which people see and can close.
"""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|µs|us|ns|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}
_WORDS = {"milliseconds": "ms", "millisecond": "ms", "seconds": "s", "second": "s", "secs": "s", "sec": "s",
          "minutes": "m", "minute": "m", "mins": "m", "min": "m", "hours": "h", "hour": "h", "hrs": "h"}  # fmt: skip
_IN_WORDS = re.compile(
    r"(?:try again|retry(?:ing)?|wait|available|resets?|asked again)[^0-9\n]{0,24}?"
    r"((?:\d+(?:\.\d+)?\s*(?:[a-zµ]+)[\s,]*(?:and\s+)?){1,4})"
)
_MOMENT_IN_WORDS = re.compile(
    r"(?:again|retry|wait|available|resets?|access|until|将在)[^0-9\n]{0,24}?"
    r"(\d{4}-\d\d-\d\d)(?:t| at |\s+)(\d\d:\d\d(?::\d\d(?:\.\d+)?)?)\s?(z|utc|gmt|[+-]\d\d:?\d\d)?"
)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)")
NOTHING_LEFT = ("0", "0.0", "-1")
# A larger number of seconds is a moment, not a duration: 31 years against 2001.
_EPOCH = 1_000_000_000.0

_FIELDS = ("retry_after", "retryafter", "retry_after_seconds", "retry_after_s", "retrydelay", "retry_delay",
           "reset_in", "estimated_time")  # fmt: skip


def named_wait(headers: Mapping[str, str], body: object, message: str) -> float | None:
    """Seconds until this provider wants to be asked again, None where it names
    no time; not bounded.

    `headers` have lower-case names; `body` is the decoded error. Moments are read against the
    provider's own `Date`, for its clock and ours are not the same; without one they are left aside.
    A moment without a zone is one of UTC.
    """
    # From the most exact to the vaguest: headers are made for programs, sentences are not.
    for wait in (
        _milliseconds(headers),
        moment_or_seconds(headers.get("retry-after"), headers),
        _in_body(body, headers),
        _in_words(message),
        _moment_in_words(message, headers),
    ):
        if wait is not None:
            return wait
    return None


def wait_for_spent(headers: Mapping[str, str]) -> float | None:
    """Seconds until there is something again of what an answer says is used up; None where
    something is left.

    Bounded by `BRIEF_WAIT`, for this answer came well; a second where nothing says when.
    """
    resets = {
        name: moment_or_seconds(headers.get(name.replace("remaining", "reset")), headers)
        for name, value in headers.items()
        if "ratelimit" in name and "remaining" in name and value in NOTHING_LEFT
    }
    return min(max(wait or 1.0 for wait in resets.values()), BRIEF_WAIT) if resets else None


def reset_of_limits(headers: Mapping[str, str]) -> float | None:
    """The reset of whatever is used up; of everything where the headers do not say what is."""
    resets = {
        name: wait
        for name, value in headers.items()
        if "ratelimit" in name and "reset" in name and (wait := moment_or_seconds(value, headers)) is not None
    }
    waits = [wait for name, wait in resets.items() if _is_spent(name, headers)]
    # The latest: who comes back while one of two limits is still used up is refused again.
    return max(waits or resets.values(), default=None)


def _is_spent(reset: str, headers: Mapping[str, str]) -> bool:
    """Whether the twin of a header with a reset says that nothing is left."""
    return headers.get(reset.replace("reset", "remaining"), "").strip() in NOTHING_LEFT


def moment_or_seconds(text: object, headers: Mapping[str, str]) -> float | None:
    """Seconds of `12.5`, `6m0s`, an HTTP date, an ISO moment, an epoch in (milli)seconds."""
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        return None
    words = str(text).strip().lower()
    number = _number(words)
    if number is None:
        return go_duration(words) if _DURATION.match(words) else _until(_moment(str(text).strip()), headers)
    if number < _EPOCH:
        return number
    seconds = number / 1000 if number > _EPOCH * 100 else number
    return _until(datetime.fromtimestamp(seconds, UTC), headers) if seconds < _EPOCH * 100 else number


def go_duration(text: str) -> float | None:
    """Seconds of a duration like `6m0s` or `120ms`; None when it is none."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != "".join(text.split()):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _milliseconds(headers: Mapping[str, str]) -> float | None:
    value = _number(headers.get("retry-after-ms"))
    return None if value is None else value / 1000


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None


def _until(moment: datetime | None, headers: Mapping[str, str]) -> float | None:
    now = _moment(headers.get("date", ""))
    if moment is None or now is None:
        return None
    remaining = (_in_utc(moment) - _in_utc(now)).total_seconds()
    # Of another zone than was taken for granted: to ask again at once would be to ask for nothing.
    return None if remaining < 0 and moment.tzinfo is None else max(0.0, remaining)


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _in_body(body: object, headers: Mapping[str, str], depth: int = 6) -> float | None:
    """A field that names a wait, wherever the error has it:
    Google's `details`, OpenRouter's `metadata.headers`.
    """
    if isinstance(body, list):
        # Bounded, and so is the depth: the body is whatever a server sends.
        body = {str(index): entry for index, entry in enumerate(body[:20])}
    if not isinstance(body, Mapping) or not depth:
        return None
    fields = {str(name).lower().replace("-", "_"): value for name, value in body.items()}
    if (milliseconds := _number(_plain(fields.get("retry_after_ms")))) is not None:
        return milliseconds / 1000
    for name in _FIELDS:
        if (wait := moment_or_seconds(fields.get(name), headers)) is not None:
            return wait
    if isinstance(inner := fields.get("headers"), Mapping):
        lower = {str(name).lower(): str(value) for name, value in inner.items()}
        own = {"date": headers.get("date", ""), **lower}
        if (wait := named_wait(own, None, "") or reset_of_limits(own)) is not None:
            return wait
    deeper = (_in_body(value, headers, depth - 1) for value in fields.values() if isinstance(value, (Mapping, list)))
    return next((wait for wait in deeper if wait is not None), None)


def _plain(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None


def _in_words(message: str) -> float | None:
    """`Please try again in 7m66.58s`, `retry after 22 seconds`, `wait 1 minute and 5 seconds`."""
    match = _IN_WORDS.search(message.lower())
    if match is None:
        return None
    total, any_unit = 0.0, False
    # Up to the first word that is no unit: the sentence goes on with other numbers.
    for number, word in _AMOUNT.findall(match.group(1)):
        unit = _WORDS.get(word, word)
        if unit not in _SECONDS:
            break
        total, any_unit = total + float(number) * _SECONDS[unit], True
    return total if any_unit else None


def _moment_in_words(message: str, headers: Mapping[str, str]) -> float | None:
    """`resets at 2026-11-29 10:01:00 UTC`, `regain access on 2026-12-01 at 00:00 UTC`."""
    match = _MOMENT_IN_WORDS.search(message.lower())
    if match is None:
        return None
    day, time, zone = match.groups()
    offset = "+00:00" if zone in ("z", "utc", "gmt") else zone or ""
    return _until(_moment(f"{day}T{time}{offset}"), headers)
