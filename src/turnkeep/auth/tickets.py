"""What a browser holds in place of a key: tickets that open one socket, and
sessions of the dashboard.

Both are 256 random bits, kept by their SHA-256. A ticket lives 30 s and is used up by its first
use; of two takers one gets it. A session lives at most eight hours, and its cookie alone changes
nothing: a CSRF token has to come beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from turnkeep.auth.api_keys import digest_of, read_scopes
from turnkeep.auth.principals import Principal
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import NotAllowed, NotAuthenticated
from turnkeep.messages import ALL_TENANTS
from turnkeep.store.contract import Registry

TICKET_LIFE = 30.0
SESSION_LIFE = 8 * 3600.0


class Tickets:
    """Tickets and sessions of all processes. The store ends them, by its own time: hosts may have
    other clocks.
    """

    def __init__(self, registry: Registry, clock: Clock | None = None) -> None:
        self._registry = registry
        self._clock = clock or SystemClock()

    async def issue(self, principal: Principal) -> tuple[str, float]:
        """A ticket that stands for this principal, and when it ends."""
        value, until = secrets.token_urlsafe(32), self._clock.now() + TICKET_LIFE
        await self._put("socket", value, principal, until=until, ttl=TICKET_LIFE)
        return value, until

    async def redeem(self, value: str) -> Principal:
        """Use it up. Raises `NotAuthenticated`."""
        # taking is one act of the store: of two who show it one gets it, at whichever process
        document = await self._registry.take("ticket", ALL_TENANTS, _name("socket", value))
        if document is None:
            raise NotAuthenticated("this ticket was used already, has expired, or never was: ask for another")
        return _principal(document.body)

    async def begin(self, principal: Principal) -> tuple[str, Principal]:
        """A session for this principal: the value of its cookie, and who it makes one."""
        value, until = secrets.token_urlsafe(32), self._clock.now() + SESSION_LIFE
        # a session must not outlive the credential that it was exchanged for
        if principal.expires_at is not None:
            until = min(until, principal.expires_at)
        session_principal = replace(principal, expires_at=until)
        await self._put("session", value, session_principal, until=until, ttl=SESSION_LIFE)
        return value, session_principal

    async def of_session(self, value: str, csrf: str | None, *, changes: bool) -> Principal:
        """Raises `NotAuthenticated`, and `NotAllowed` for a change without its token."""
        document = await self._registry.get("ticket", ALL_TENANTS, _name("session", value))
        if document is None:
            raise NotAuthenticated("this session is over, sign in again")
        # a browser sends the cookie along with what another site makes it ask; that site cannot
        # read the token
        if changes and not hmac.compare_digest(csrf_of(value).encode(), (csrf or "").encode("utf-8", "surrogatepass")):
            raise NotAllowed("a change made with a session needs its token in the header X-CSRF-Token")
        return _principal(document.body)

    async def end(self, value: str) -> None:
        """Forget a session."""
        await self._registry.take("ticket", ALL_TENANTS, _name("session", value))

    async def _put(self, use: str, value: str, principal: Principal, *, until: float, ttl: float) -> None:
        body = {
            "tenant": principal.tenant,
            "subject": principal.subject,
            "scopes": sorted(principal.scopes),
            "channels": None if principal.channels is None else list(principal.channels),
            "expires_at": principal.expires_at,
            "key": principal.key,
            "since": principal.since,
            "until": until,
        }
        await self._registry.put("ticket", ALL_TENANTS, _name(use, value), body, version=0, ttl=ttl)


def csrf_of(session: str) -> str:
    """The token that goes with a session: known to whoever may read our answers, which no other
    site may.
    """
    return hmac.new(session.encode("utf-8", "surrogatepass"), b"turnkeep csrf", hashlib.sha256).hexdigest()


def _name(use: str, value: str) -> str:
    return f"{use}:{digest_of(value)}"


def _principal(body: Mapping[str, Any]) -> Principal:
    channels = body["channels"]
    return Principal(
        tenant=str(body["tenant"]),
        subject=str(body["subject"]),
        scopes=frozenset(read_scopes(body["scopes"])),
        channels=None if channels is None else tuple(str(name) for name in channels),
        expires_at=body["expires_at"],
        key=body["key"],
        since=body.get("since", 0.0),
    )
