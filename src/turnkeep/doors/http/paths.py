"""A name in a path may hold any character: routes see the path as it was sent, not as
it reads when decoded.

Decoded, `/api/channels/a%2Fmessages` is the transcript of the channel `a` instead of the thread
behind `a/messages`.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from turnkeep.errors import InvalidMessage

_PLAIN = re.compile(rb"/[\w.~/-]*", re.ASCII)
"""What has one spelling: what `quote` leaves alone."""


class Paths:
    """An ASGI application around ours that gives it the path still encoded, in one spelling."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Sockets have no names in their path.
        if scope["type"] == "http":
            scope = {**scope, "path": _as_sent(scope)}
        await self._inner(scope, receive, send)


def segment_name(segment: str) -> str:
    """The name in a segment of such a path. Raises `InvalidMessage`."""
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidMessage(f"{segment[:80]!r} in the path is not UTF-8") from None


def _as_sent(scope: Scope) -> str:
    """Where the application is mounted, as it is routed there; the segments beneath with only the
    least encoded.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    raw_path = scope.get("raw_path")
    if raw_path and not root and _PLAIN.fullmatch(raw_path):  # nearly every path
        return str(raw_path.decode())
    raw = (raw_path or quote(path).encode()).split(b"?")[0].decode("latin-1")
    above = root.count("/") if path.startswith(f"{root}/") else 0
    beneath = raw.split("/")[1 + above :]
    return "/".join([root if above else "", *(quote(unquote_to_bytes(one), safe="") for one in beneath)])
