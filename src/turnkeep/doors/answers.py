"""What an error means at a door: one table for HTTP, sockets and AMQP."""

from __future__ import annotations

from typing import Any

from turnkeep import errors
from turnkeep.errors import TurnkeepError

STATUS: dict[type[TurnkeepError], int] = {
    errors.TurnkeepError: 500,
    errors.ConfigurationError: 500,
    errors.Rejected: 400,
    errors.MessageTooLarge: 413,
    errors.NotAuthenticated: 401,
    errors.NotAllowed: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.ThreadBusy: 409,
    errors.InboxFull: 429,
    errors.TooManyRequests: 429,
    errors.StoreError: 503,
    errors.ModelError: 502,
    errors.StreamError: 410,
}


def status_of(error: TurnkeepError) -> int:
    """The HTTP status: that of the nearest class in the tree."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def told(error: TurnkeepError) -> dict[str, Any]:
    """What a caller learns: of his own mistakes everything, of what is inside of us only the public sentence."""
    ours = status_of(error) >= 500
    body: dict[str, Any] = {"code": error.code, "message": error.public if ours else str(error)}
    if error.retryable:
        body["retryable"] = True
    if error.retry_after is not None:
        body["retry_after"] = round(error.retry_after, 3)
    return body


def retry_after(error: TurnkeepError) -> float | None:
    """Seconds for the Retry-After header, where trying again may help."""
    if not error.retryable:
        return None
    return error.retry_after if error.retry_after is not None else 1.0
