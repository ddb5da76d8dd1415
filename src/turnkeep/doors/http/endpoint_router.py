"""The way of nearly every request to its endpoint, past the routing of Starlette.

Starlette tries its routes one after the other, and puts three layers around each for errors that our
endpoints answer themselves. What is not found here (another method, a page, a file, an application
that this one is mounted in) goes on to Starlette, which has the same routes and says why not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from turnkeep.lean_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class _Candidate:
    words: Sequence[tuple[int, str]]
    """Which segments have to be what."""
    names: Sequence[tuple[int, str]]
    """Which segments are names, and of what."""
    route: Route


class EndpointRouter:
    """An ASGI application around another, which has the same routes. Each has one method, names that are
    whole segments of its path, and an endpoint that raises nothing: its errors are answers.
    """

    def __init__(self, inner: ASGIApp, routes: Iterable[Route]) -> None:
        self._inner = inner
        self._candidates: dict[tuple[str, int], list[_Candidate]] = {}
        for route in routes:
            segments = list(enumerate(route.path.split("/")))
            names = [(place, one[1:-1]) for place, one in segments if one.startswith("{")]
            words = [(place, one) for place, one in segments if not one.startswith("{")]
            # The last ones tell most endpoints of one length apart.
            candidate = _Candidate(words[::-1], names, route)
            [method] = (route.methods or set()) - {"HEAD"}
            self._candidates.setdefault((method, len(segments)), []).append(candidate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route_of(scope) if scope["type"] == "http" and not scope.get("root_path") else None
        if route is None:
            await self._inner(scope, receive, send)
            return
        # What Starlette notes of a route that it finds: programs that watch an application read it.
        scope["route"], scope["endpoint"] = route, route.endpoint
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    def _route_of(self, scope: Scope) -> Route | None:
        """Of those that fit the first of the table, as Starlette chooses."""
        segments = scope["path"].split("/")
        for candidate in self._candidates.get((scope["method"], len(segments)), ()):
            if all(segments[place] == word for place, word in candidate.words):
                names = {name: segments[place] for place, name in candidate.names}
                if all(names.values()):
                    scope["path_params"] = names
                    return candidate.route
        return None
