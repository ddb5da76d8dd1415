"""Which host names we answer to and which pages may call us: checked before any route, on HTTP and
sockets alike.

A Host that is none, or a name that somebody else could point at us, is refused (DNS rebinding). A
browser tells where a request comes from in Origin: our own pages may always, others when
`TURNKEEP_ORIGINS` names them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from turnkeep.auth.audit_trail import AuditContext, Trail, report_refusal, watch
from turnkeep.auth.principals import Access, is_open, look
from turnkeep.doors.error_answers import error_response
from turnkeep.errors import InvalidMessage, NotAllowed, StoreError, TurnkeepError
from turnkeep.settings import Settings

ANY = "*"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)(?::(\d{1,5}))?", re.IGNORECASE)
NOT_ALLOWED = 4403
MOST_HOSTS = 64
"""Names of a host that are remembered with what was found of them."""
PROBES = ("/healthz", "/readyz")
"""Asked by balancers, which name no Host or one of their own; they answer yes or no, and nothing
about anybody.
"""
LOOPBACK = ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")
PROXY_HEADERS = frozenset({
    "forwarded", "via", "client-ip", "front-end-https", "remote-addr", "true-client-ip", "x-client-ip",
    "x-cluster-client-ip", "x-forwarded", "x-host", "x-proxy-id", "x-real-ip", "x-real-port", "x-remote-addr",
    "x-remote-ip", "x-scheme", "x-url-scheme", "x-varnish",
})  # fmt: skip
PROXIED_PREFIXES = (
    "x-forwarded-", "x-original-", "x-proxyuser-", "wl-proxy-", "cdn-", "cf-", "fastly-", "fly-", "tailscale-", "ali-",
    "x-akamai-", "x-amz-cf-", "x-amzn-", "x-appengine-", "x-arr-", "x-azure-", "x-cloud-trace-", "x-envoy-", "x-nf-",
    "x-sucuri-", "x-vercel-",
)  # fmt: skip
"""Headers of proxies, balancers and networks that deliver for others."""


class Origins:
    """An ASGI application around another."""

    def __init__(self, inner: ASGIApp, settings: Settings, access: Access, trail: Trail) -> None:
        self._inner = inner
        self._trail = trail
        self._access = access
        self._insecure = settings.insecure_no_auth
        self._is_open_aloud = settings.is_open_aloud
        self._hosts = frozenset(host.lower() for host in (*settings.hosts, settings.host))
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.origins)
        # Nearly every request names the same host; somebody who names many pushes out his own.
        self._is_ours = lru_cache(MOST_HOSTS)(self._judge_name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in PROBES:
            watch(AuditContext(self._trail, scope["type"], (scope.get("client") or ("",))[0]))
            with contextlib.suppress(StoreError):  # then what was seen last counts
                await look(self._access)
            try:
                self.check(Headers(scope=scope), scope.get("http_version", "1.1"))
            except TurnkeepError as error:
                await report_refusal("origin_refused", str(error))
                await _refuse(scope, receive, send, error)
                return
        await self._inner(scope, receive, send)

    def check(self, headers: Headers, version: str = "1.1") -> None:
        """Raises `InvalidMessage` for the host, `NotAllowed` for a proxy and for the origin."""
        open_now = is_open(self._access)
        if open_now and not self._is_open_aloud and came_through_proxy(headers, version):
            raise NotAllowed(
                "this came through a proxy and no authentication is configured: make an API key with "
                "`turnkeep keys create`, or say TURNKEEP_AUTH=off if everybody behind the proxy may do everything"
            )
        host = _one(headers.getlist("host"), "Host")
        if not self._is_ours(host, only_local=open_now and not self._insecure):
            raise InvalidMessage("this server does not answer to that host name, add it to TURNKEEP_HOSTS")
        if "origin" in headers:
            origin = _one(headers.getlist("origin"), "Origin").lower()
            if not {origin, ANY} & self._origins and _netloc(origin) != host.lower():
                raise NotAllowed("pages of that origin may not call this server, add it to TURNKEEP_ORIGINS")

    def _judge_name(self, host: str, *, only_local: bool) -> bool:
        """Whether this header names us. Addresses and names without a dot cannot be pointed at us by a
        stranger's domain. Where nobody is asked for a credential, a neighbour in the network could
        answer for such a name: then only this machine's count.
        """
        form = _HOST.fullmatch(host)
        if form is None:
            return False
        name = form[1].lower()
        if name in self._hosts or ANY in self._hosts or is_local(name):
            return True
        if only_local:
            return False
        return "." not in name.strip("[]") or _address(name) is not None


def came_through_proxy(headers: Headers, version: str) -> bool:
    """Whether somebody else delivers this request. HTTP/1.0 is what nginx speaks to those it was
    told nothing about, and no client of today.
    """
    return version == "1.0" or any(name in PROXY_HEADERS or name.startswith(PROXIED_PREFIXES) for name in headers)


def is_local(name: str) -> bool:
    """Whether a host is this machine for whoever says it (RFC 6761 for names under localhost)."""
    address = _address(name)
    if address is None:
        return name == "localhost" or name.endswith(".localhost")
    return any(address in network for network in LOOPBACK)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


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
        await error_response(error)(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": NOT_ALLOWED, "reason": str(error)[:100]})
