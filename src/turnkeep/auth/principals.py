"""Who may do what: one authentication for all doors. A channel id is no credential."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import Literal, Protocol

from starlette.datastructures import Headers

from turnkeep.errors import InvalidMessage, NotAllowed, NotAuthenticated
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import DEFAULT_TENANT

Scope = Literal["read", "send", "approve", "manage", "admin"]
"""read: transcripts and streams. send: messages, and one's own that wait. approve: decide about
calls of tools. manage: who answers and how, instructions, forgetting, what others have waiting; it
sends, too. admin: everything.
"""
ALL_SCOPES: frozenset[Scope] = frozenset({"read", "send", "approve", "manage", "admin"})
HELD_BY: Mapping[Scope, frozenset[Scope]] = {
    "read": frozenset({"read", "admin"}),
    "send": frozenset({"send", "manage", "admin"}),
    "approve": frozenset({"approve", "admin"}),
    "manage": frozenset({"manage", "admin"}),
    "admin": frozenset({"admin"}),
}
"""Each scope, and those that hold it."""
THREAD_PREFIX = "thread_"
COOKIE = "turnkeep_session"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""Where we are reached by TLS: a browser takes this name from us alone, never from another host of
our domain.
"""
CSRF_HEADER = "x-csrf-token"
PROTOCOL = "turnkeep"
"""The WebSocket subprotocol; `ticket.<value>` may stand beside it."""
KEY_PREFIX = "tk_"
LONGEST_CREDENTIAL = 8_192
"""Characters of a credential that are looked at."""


ANONYMOUS = "anonymous"

_NAMES = frozenset({
    "token", "access_token", "api_key", "apikey", "key", "ticket", "authorization", "auth", "jwt", "bearer", "session",
    "password", "secret",
})  # fmt: skip
_LOOKS_SECRET = re.compile(r"^(?:bearer\s+)?(?:tk_[0-9a-f]+_|eyJ[\w-]+\.[\w-]+\.)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose credential was checked. It may nothing and reaches nothing but what it is
    given: `channels` are exact names, or prefixes that end in ``*``; None: all of the tenant.

    `expires_at` in Unix seconds; None: never. `since` is when its credential was issued; None: it
    was shown just now. `key` is the id of the API key that all of it rests on, if it does.
    """

    tenant: str = DEFAULT_TENANT
    subject: str = ANONYMOUS
    scopes: frozenset[Scope] = frozenset()
    channels: tuple[str, ...] | None = ()
    expires_at: float | None = None
    key: str | None = None
    since: float | None = None
    user: str | None = field(init=False, repr=False, compare=False)
    """Who it is, for budgets; None where nobody asked."""
    person: str | None = field(init=False, repr=False, compare=False)
    """Who it is, if it is one person: an API key is a program's, which may speak for many."""
    rights: frozenset[Scope] = field(init=False, repr=False, compare=False)
    """The scopes that its own ones hold: what it may, where it reaches."""
    rights_everywhere: frozenset[Scope] = field(init=False, repr=False, compare=False)
    """What it may on whichever channel of its tenant, without a look at which: `require` says the same."""

    def __post_init__(self) -> None:
        # Here and not where it is asked: a socket asks it of one credential for each message, and another
        # credential is another principal.
        user = None if self.subject == ANONYMOUS else self.subject
        rights = _rights_of(frozenset(self.scopes))  # programs of users give any set
        object.__setattr__(self, "user", user)
        object.__setattr__(self, "person", None if self.key is not None else user)
        object.__setattr__(self, "rights", rights)
        object.__setattr__(self, "rights_everywhere", rights if self.channels is None else frozenset())

    def require(self, scope: Scope, channel: str | None = None) -> None:
        """Raises `NotAllowed` unless this credential reaches that far; without a channel: all of
        its tenant.
        """
        if scope not in self.rights:
            raise NotAllowed(f"this credential has no scope {scope!r}")
        if channel is None and self.channels is not None:
            raise NotAllowed("this credential reaches some channels only, not the whole tenant")
        if channel is not None and not self.reaches(channel):
            raise NotAllowed("this credential does not reach that channel")

    @property
    def sees_calls(self) -> bool:
        """Whether calls that wait are told to it in full: who decides about them, and who manages."""
        return not self.rights.isdisjoint(("approve", "manage"))

    def reaches(self, channel: str) -> bool:
        return self.channels is None or any(_covers(pattern, channel) for pattern in self.channels)


@cache  # of the few sets that five scopes make
def _rights_of(scopes: frozenset[Scope]) -> frozenset[Scope]:
    return frozenset(scope for scope, holders in HELD_BY.items() if not scopes.isdisjoint(holders))


def _covers(pattern: str, channel: str) -> bool:
    """A thread is named by its id in place of its channel: a prefix meant for channels does not
    reach it.
    """
    prefix, star = pattern[:-1], pattern.endswith("*")
    if not star:
        return channel == pattern
    # "t*" is meant for channels like "team", and would reach every thread of the tenant
    if channel.startswith(THREAD_PREFIX) and prefix and not prefix.startswith(THREAD_PREFIX):
        return False
    return channel.startswith(prefix)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything a request showed that may be a credential. `is_change`: it asks for more than
    to look, so a session needs its CSRF token beside it.
    """

    bearer: str | None = None
    ticket: str | None = None
    session: str | None = None
    csrf: str | None = None
    is_change: bool = False

    @property
    def is_nothing(self) -> bool:
        return self.kind == "nothing"

    @property
    def kind(self) -> Literal["key", "token", "ticket", "session", "nothing"]:
        """What counts of it."""
        if self.bearer is not None:
            return "key" if self.bearer.startswith(KEY_PREFIX) else "token"
        return "ticket" if self.ticket is not None else "session" if self.session is not None else "nothing"


def credentials_of_request(
    headers: Headers, cookies: Mapping[str, str], query: Mapping[str, str], *, changes: bool, socket: bool = False
) -> Credentials:
    """Raises `InvalidMessage` for a credential in the address, `NotAuthenticated` for one that
    makes no sense.
    """
    _refuse_in_query(query)
    session = session_in(cookies)
    if socket and "origin" not in headers:
        session = None  # only a browser has cookies, and a browser says where it comes from
    return Credentials(
        bearer=_bearer(headers),
        ticket=_ticket(headers) if socket else None,
        session=session[:LONGEST_CREDENTIAL] if session else None,
        csrf=headers.get(CSRF_HEADER),
        is_change=changes,
    )


def session_in(cookies: Mapping[str, str]) -> str | None:
    """The value of a session's cookie, by either of its names."""
    return cookies.get(SECURE_COOKIE) or cookies.get(COOKIE)


def _bearer(headers: Headers) -> str | None:
    values = headers.getlist("authorization")
    if not values:
        return None
    scheme, _, value = values[0].partition(" ")
    # of two headers a proxy in front may have checked the other one
    if len(values) > 1 or scheme.lower() != "bearer" or not value.strip() or len(value) > LONGEST_CREDENTIAL:
        raise NotAuthenticated("expected one header 'Authorization: Bearer …' with an API key or a token")
    return value.strip()


def _ticket(headers: Headers) -> str | None:
    # the one header that a browser's script can set on a socket
    protocols = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
    tickets = [name.removeprefix("ticket.") for name in protocols if name.startswith("ticket.")]
    return tickets[0][:LONGEST_CREDENTIAL] if tickets else None


def _refuse_in_query(query: Mapping[str, str]) -> None:
    """Addresses end in logs, histories and Referer headers."""
    for name, value in query.items():
        if name.lower() in _NAMES or _LOOKS_SECRET.match(value):
            raise InvalidMessage(
                "a credential is never taken from the address: send it as 'Authorization: Bearer …', "
                "and from a browser's socket a ticket (POST /api/tickets)"
            )


class Access(Protocol):
    """Decides who somebody is."""

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Raises `NotAuthenticated`."""
        ...

    async def revalidate(self, principal: Principal) -> None:
        """Raises `NotAuthenticated` once the credential has expired or was revoked."""
        ...


OPERATOR = Principal(scopes=ALL_SCOPES, channels=None)
"""Whoever comes in where nobody is asked."""


class OpenAccess:
    """Everybody on this machine is the one user of the one tenant."""

    is_open = True

    async def authenticate(self, credentials: Credentials) -> Principal:
        return OPERATOR

    async def revalidate(self, principal: Principal) -> None:
        return


async def look(access: Access) -> None:
    """Let an `Access` that is open for the time being see whether it still is. Raises `StoreError`."""
    if (see := getattr(access, "look", None)) is not None:
        await see()


def is_open(access: Access) -> bool:
    """Whether nobody is asked for a credential now. An `Access` of others asks, unless it says that
    it does not.
    """
    return bool(getattr(access, "is_open", False))
