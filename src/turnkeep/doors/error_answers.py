"""What an error means at a door: one table for HTTP, sockets and AMQP."""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.responses import JSONResponse, Response

from turnkeep import errors
from turnkeep.errors import TurnkeepError

STATUS: dict[type[TurnkeepError], int] = {
    errors.TurnkeepError: 500,
    errors.ConfigurationError: 500,
    errors.Rejection: 400,
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
}


def status_of(error: TurnkeepError) -> int:
    """The HTTP status: that of the nearest class in the tree."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error: TurnkeepError) -> dict[str, Any]:
    """What a caller learns: of his own mistakes everything, of what is inside of us
    only the public sentence.
    """
    ours = status_of(error) >= 500
    # What breaks inside of us may quote addresses, paths and secrets of the operator.
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


class JsonResponse(JSONResponse):
    """What an endpoint answers with: JSON, written by orjson."""

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def error_response(error: TurnkeepError) -> Response:
    """The answer over HTTP: status, body, and when to try again or what to show."""
    headers = {}
    if (seconds := retry_after(error)) is not None:
        # Whole seconds (RFC 9110, 10.2.3). Rounded down, they would bring everybody back too early.
        headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    if isinstance(error, errors.NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="turnkeep"'
    return JsonResponse({"error": error_body(error)}, status_code=status_of(error), headers=headers)
