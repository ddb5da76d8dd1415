"""The way of nearly every request to its endpoint, past the routing of Starlette.

Starlette tries its routes one after the other, and puts three layers around each for errors that our
endpoints answer themselves. What is not found here (another method, a page, a file, an application
that this one is mounted in) goes on to Starlette, which has the same routes and says why not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Responder = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """What answers at one path. It raises nothing: its errors are answers."""

    method: str
    path: str
    """Segments in braces are names."""
    answer: Responder


@dataclass(frozen=True, slots=True)
class _Candidate:
    words: Sequence[tuple[int, str]]
    """Which segments have to be what."""
    names: Sequence[tuple[int, str]]
    """Which segments are names, and of what."""
    answer: Responder


class EndpointRouter:
    """An ASGI application around another."""

    def __init__(self, inner: ASGIApp, targets: Iterable[RouteTarget]) -> None:
        self._inner = inner
        self._candidates: dict[tuple[str, int], list[_Candidate]] = {}
        for target in targets:
            segments = list(enumerate(target.path.split("/")))
            names = [(place, one[1:-1]) for place, one in segments if one.startswith("{")]
            words = [(place, one) for place, one in segments if not one.startswith("{")]
            # The last ones tell most endpoints of one length apart.
            candidate = _Candidate(words[::-1], names, target.answer)
            self._candidates.setdefault((target.method, len(segments)), []).append(candidate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer_to(scope) if scope["type"] == "http" and not scope.get("root_path") else None
        if answer is None:
            await self._inner(scope, receive, send)
            return
        response = await answer(Request(scope, receive, send))
        await response(scope, receive, send)

    def _answer_to(self, scope: Scope) -> Responder | None:
        """Of those that fit the first of the table, as Starlette chooses."""
        segments = scope["path"].split("/")
        for candidate in self._candidates.get((scope["method"], len(segments)), ()):
            if all(segments[place] == word for place, word in candidate.words):
                names = {name: segments[place] for place, name in candidate.names}
                if all(names.values()):
                    scope["path_params"] = names
                    return candidate.answer
        return None
