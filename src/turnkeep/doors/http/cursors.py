"""Where a list that is read page by page goes on: behind a moment and an id, as one word."""

from __future__ import annotations

import math

from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.errors import InvalidMessage

MAX_SEARCH = 200
"""Characters of what is looked for, and of a cursor."""


def cursor_behind(moment: float, name: str) -> str:
    return f"{moment!r}:{name}"


def read_cursor(call: HttpCall) -> tuple[float, str] | None:
    """What the query says as `after`. Raises `InvalidMessage`."""
    text = call.request.query_params.get("after", "")
    at, colon, name = text[:MAX_SEARCH].partition(":")
    if not text:
        return None
    try:
        moment = float(at)
    except ValueError:
        moment = math.nan
    if not colon or not math.isfinite(moment):
        raise InvalidMessage("'after' is the 'next' of an earlier answer, as it came")
    return moment, name
