"""Who may speak to a simulator that listens on a port: no page of a browser, nobody by a stranger's
name, and only with its key where it has one.

It steers what tools are called with and knows what was said, so a port without this would be a way
around every guard of the service that asks it.
"""

from __future__ import annotations

import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from turnkeep.simulator.delivery import JsonReply
from turnkeep.simulator.problems import Problem, no_key, wrong_key

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Admission:
    """An ASGI application around the simulator's."""

    def __init__(self, inner: ASGIApp, *, host: str, key: str | None) -> None:
        self._inner = inner
        self._host = host.lower()
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(Headers(scope=scope))
            except Problem as problem:
                await JsonReply(problem.body(), problem.status, problem.headers)(scope, receive, send)
                return
        await self._inner(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        """Raises `Problem`."""
        # A page of any site may post to a loopback port without asking first; Origin gives it away.
        # Programs that speak the protocol send none.
        if "origin" in headers:
            raise Problem(403, "Pages of a browser may not call the simulator.", code="origin_refused")
        if not self._is_ours(headers.getlist("host")):
            raise Problem(403, "The simulator does not answer to that host name.", code="host_refused")
        if self._key is not None:
            self._check_key(headers.get("authorization", ""))

    def _check_key(self, credential: str) -> None:
        scheme, _, key = credential.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise no_key()
        # Takes equally long for every wrong key.
        if not hmac.compare_digest(key.encode(), (self._key or "").encode()):
            raise wrong_key()

    def _is_ours(self, hosts: list[str]) -> bool:
        """Addresses cannot be pointed at us by a stranger's domain; a name without a dot
        can, in a network where names are looked up in more than one place: it is taken
        only where others are meant to come in.
        """
        # Two Host headers are read differently by different parsers: neither is believed.
        if len(hosts) != 1:
            return False
        name = _name(hosts[0])
        if name in LOOPBACK or name == self._host or _is_address(name):
            return True
        return self._host not in LOOPBACK and bool(name) and "." not in name


def _name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
