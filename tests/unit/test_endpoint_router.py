"""Every endpoint is found at its path, and nothing else is: the same as by the routing of Starlette."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from turnkeep.doors.app import app
from turnkeep.doors.http.endpoint_router import EndpointRouter
from turnkeep.doors.http.routes import ENDPOINTS
from turnkeep.queue import AssistantMessageQueue

METHODS = ("GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "get")
FILLINGS = ("a", "messages", "thread_0a", "a%2Fb", "a%0A", "..", "", "{channel}", "ä")
Told = list[dict[str, Any]]


def telling(method: str, path: str) -> Route:
    """A route that answers with what was found, and what is noted of it for programs that watch."""

    async def answer(request: Request) -> Response:
        scope = request.scope
        is_noted = scope["endpoint"] is answer and scope["route"].endpoint is answer
        return JSONResponse([method, path, request.path_params, is_noted])

    return Route(path, answer, methods=[method])


def paths() -> list[str]:
    """Of each endpoint with names of every kind, and some beside them."""
    filled: list[str] = []
    for endpoint in ENDPOINTS:
        for filling in FILLINGS:
            parts = [filling if one.startswith("{") else one for one in endpoint.path.split("/")]
            filled += ["/".join(parts), "/".join([*parts, ""]), "/".join([*parts, "more"]), "/".join(parts[:-1])]
    return [*dict.fromkeys(filled), "", "/", "//", "/static/app.js", "/healthz", "api/channels/a"]


async def told_by(app: ASGIApp, method: str, path: str, **more: Any) -> Told:
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", **more}
    told: Told = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is read here")

    async def send(message: Any) -> None:
        told.append(message)

    await app(scope, receive, send)
    return told


async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("elsewhere")(scope, receive, send)


def routers() -> tuple[EndpointRouter, Router]:
    routes = [telling(one.method, one.path) for one in ENDPOINTS]
    return EndpointRouter(elsewhere, routes), Router(routes, redirect_slashes=False)


@pytest.mark.slow  # thousands of paths
async def test_the_same_endpoint_is_found_as_by_starlette_with_the_same_names() -> None:
    ours, starlette = routers()
    found = 0
    for method in METHODS:
        for path in paths():
            mine, theirs = await told_by(ours, method, path), await told_by(starlette, method, path)
            if mine[1]["body"] != b"elsewhere":
                found += 1
                assert mine == theirs, (method, path)
                assert mine[1]["body"].endswith(b"true]"), "noted as by Starlette"
            else:  # of HEAD and of paths in vain Starlette says what it says of them
                assert theirs[0]["status"] in (404, 405) or method == "HEAD", (method, path)
    assert found > len(ENDPOINTS) * (len(FILLINGS) - 1) // 2


@pytest.mark.parametrize("scope", [{"root_path": "/mounted"}, {"type": "websocket"}])
async def test_what_is_no_request_of_its_own_goes_on(scope: dict[str, Any]) -> None:
    reached: list[Scope] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)

    await told_by(EndpointRouter(inner, [telling("GET", "/api/queue")]), "GET", "/api/queue", **scope)
    assert len(reached) == 1


def test_every_endpoint_has_one_way() -> None:
    ways = [(one.method, one.path) for one in ENDPOINTS]
    assert len(set(ways)) == len(ways)
    assert not [path for path in chain.from_iterable([one.path.split("/") for one in ENDPOINTS]) if ":" in path]


def test_programs_that_watch_see_each_endpoint_under_the_name_of_its_handler() -> None:
    routes = app(AssistantMessageQueue(store="memory:")).routes[: len(ENDPOINTS)]
    assert [route.endpoint.__qualname__ for route in routes] == [one.handler.__qualname__ for one in ENDPOINTS]  # type: ignore[attr-defined]
