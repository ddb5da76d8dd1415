"""Which host names we answer to and which pages may call us: checked before any route, on HTTP and sockets alike.

A Host that is none, or a name that somebody else could point at us, is refused (DNS rebinding). A browser tells where
a request comes from in Origin: our own pages may always, others when `TURNKEEP_ORIGINS` names them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from turnkeep.doors.answers import refused
from turnkeep.errors import InvalidMessage, NotAllowed, TurnkeepError
from turnkeep.settings import Settings

ANY = "*"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)(?::(\d{1,5}))?", re.IGNORECASE)
NOT_ALLOWED = 4403
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Whoever listens for this machine alone, and sees these, is behind a proxy that lets others in."""


class Origins:
    """An ASGI application around another."""

    def __init__(self, inner: ASGIApp, settings: Settings, *, is_open: bool) -> None:
        self._inner = inner
        self._is_only_local = is_open and settings.auth is None and not settings.insecure_no_auth
        self._hosts = frozenset(host.lower() for host in (*settings.hosts, settings.host))
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self.check(Headers(scope=scope))
            except TurnkeepError as error:
                await _refuse(scope, receive, send, error)
                return
        await self._inner(scope, receive, send)

    def check(self, headers: Headers) -> None:
        """Raises `InvalidMessage` for the host, `NotAllowed` for the origin."""
        if self._is_only_local and any(name in headers for name in FORWARDED):
            raise NotAllowed(
                "this came through a proxy and no authentication is configured: set TURNKEEP_AUTH=on or off"
            )
        host = _one(headers.getlist("host"), "Host")
        form = _HOST.fullmatch(host)
        if form is None or not self._is_ours(form[1].lower()):
            raise InvalidMessage("this server does not answer to that host name, add it to TURNKEEP_HOSTS")
        if "origin" in headers:
            origin = _one(headers.getlist("origin"), "Origin").lower()
            if origin not in self._origins and ANY not in self._origins and _netloc(origin) != host.lower():
                raise NotAllowed("pages of that origin may not call this server, add it to TURNKEEP_ORIGINS")

    def _is_ours(self, name: str) -> bool:
        """Addresses and names without a dot cannot be pointed at us by a stranger's domain."""
        if name in self._hosts or ANY in self._hosts or "." not in name.strip("[]"):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _one(values: Sequence[str], name: str) -> str:
    if len(values) != 1:
        raise InvalidMessage(f"expected one header {name}")
    return values[0]


def _netloc(origin: str) -> str | None:
    """Host and port of an origin; None for "null" and for what is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    is_one = parts.scheme in ("http", "https") and not (parts.path or parts.query or parts.fragment)
    return parts.netloc if is_one else None


async def _refuse(scope: Scope, receive: Receive, send: Send, error: TurnkeepError) -> None:
    if scope["type"] == "http":
        await refused(error)(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": NOT_ALLOWED, "reason": str(error)[:100]})
