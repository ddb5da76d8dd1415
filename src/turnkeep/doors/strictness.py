"""What every request has to be before anybody looks at it, and what every answer says to browsers.

A request that says its length in two ways is read differently by different programs on its way: it
is refused, and the connection with it.
"""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from turnkeep.doors.request_refusals import AMBIGUOUS_LENGTH, VERSION_NOT_TAKEN, RequestRefusal

VERSIONS = frozenset({"1.0", "1.1", "2", "2.0", "3"})
"""What servers around us may speak; our own speaks the first two (`http_transport`)."""
HEADERS = ((b"x-content-type-options", b"nosniff"),)
API_HEADERS = (*HEADERS, (b"cache-control", b"no-store"))
"""What an answer gets that says nothing else itself."""


class Strictness:
    """An ASGI application around another."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        strict_send = _strict_send(scope["path"], send)
        if (refusal := _refusal_of(scope)) is not None:
            answer = Response(refusal.body, refusal.status, {"Connection": "close"}, "application/json")
            await answer(scope, receive, strict_send)
            return
        await self._inner(scope, receive, strict_send)


def _refusal_of(scope: Scope) -> RequestRefusal | None:
    if scope["http_version"] not in VERSIONS:
        return VERSION_NOT_TAKEN
    names = [name for name, _ in scope["headers"]]
    # RFC 9112, 6.3: one of the two decides, and whoever takes the other sees a second request in
    # the body.
    return AMBIGUOUS_LENGTH if b"transfer-encoding" in names and b"content-length" in names else None


def _strict_send(path: str, send: Send) -> Send:
    """Nothing is taken for what it is not said to be, and no answer of the API is kept by a cache."""
    is_api = path.startswith(("/api", "/v1/"))

    async def send_strictly(message: Message) -> None:
        if message["type"] == "http.response.start":
            # As ASGI has them, in small letters: nothing has to be read of them.
            headers = list(message.get("headers", ()))
            names = [name for name, _ in headers]
            headers += [header for header in (API_HEADERS if is_api else HEADERS) if header[0] not in names]
            message = {**message, "headers": headers}
        await send(message)

    return send_strictly
