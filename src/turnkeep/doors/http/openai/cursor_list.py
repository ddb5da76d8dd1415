"""Lists in OpenAI's form, read page by page from a cursor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.errors import NotFound

LARGEST_PAGE = 100
USUAL_PAGE = 20
LIST_QUERY = {
    "limit": "At most so many.",
    "order": "`asc` or `desc` (as it is), by time.",
    "after": "The id of the last one seen.",
    "before": "The id of the first one seen.",
}


def list_response(call: HttpCall, objects: Sequence[Mapping[str, Any]], *, is_whole: bool = False) -> Response:
    """A page of these, which are given oldest first. Raises `InvalidMessage`, `NotFound` for a cursor
    that is none of them. `is_whole`: all of them, as they are.
    """
    if is_whole:
        return _page(objects, has_more=False)
    query = call.request.query_params
    is_ascending = call.word("order", "asc", "desc") == "asc"
    page = list(objects) if is_ascending else list(reversed(objects))
    ids = [one["id"] for one in page]
    start, end = 0, len(page)
    if (after := query.get("after")) is not None:
        start = _index_of(ids, after) + 1
    if (before := query.get("before")) is not None:
        end = _index_of(ids, before)
    limit = min(LARGEST_PAGE, max(1, call.number("limit", USUAL_PAGE, 10_000)))
    # Before a cursor the nearest are meant, not the first of all.
    if before is not None and after is None:
        start = max(start, end - limit)
    objects_shown = page[start:end][:limit]
    return _page(objects_shown, has_more=len(page[start:end]) > len(objects_shown) if before is None else start > 0)


def _page(objects: Sequence[Mapping[str, Any]], *, has_more: bool) -> Response:
    ids = [one["id"] for one in objects] or [None]
    return JsonResponse(
        {"object": "list", "data": list(objects), "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}
    )


def _index_of(ids: Sequence[str], cursor: str) -> int:
    if cursor not in ids:
        raise NotFound(f"there is nothing {cursor[:80]!r} in this list")
    return ids.index(cursor)
