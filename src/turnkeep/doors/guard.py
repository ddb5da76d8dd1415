"""The guard: one function that says who somebody is, whatever he shows and at whichever door."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnkeep.clock import Clock, SystemClock
from turnkeep.doors.access import Access, Open, Principal, Shown
from turnkeep.doors.keys import PREFIX, Keys
from turnkeep.doors.tickets import Tickets
from turnkeep.errors import ConfigurationError, NotAuthenticated
from turnkeep.settings import Settings
from turnkeep.store.base import Registry

if TYPE_CHECKING:
    from turnkeep.doors.tokens import Tokens


class Guard:
    """Takes API keys, tokens, tickets and sessions. The strongest that is shown counts alone: a wrong one is refused,
    whatever else is right.
    """

    def __init__(self, keys: Keys, tickets: Tickets, tokens: Tokens | None = None, clock: Clock | None = None) -> None:
        self.keys = keys
        self.tickets = tickets
        self._tokens = tokens
        self._clock = clock or SystemClock()

    async def authenticate(self, shown: Shown) -> Principal:
        principal = await self._known(shown)
        await self.still(principal)
        return principal

    async def still(self, principal: Principal) -> None:
        if principal.expires_at is not None and principal.expires_at <= self._clock.now():
            raise NotAuthenticated("the credential has expired")
        if principal.key is not None:
            await self.keys.still(principal.key)

    async def _known(self, shown: Shown) -> Principal:
        if shown.bearer is not None:
            return await self._of_bearer(shown.bearer)
        if shown.ticket is not None:
            return await self.tickets.redeem(shown.ticket)
        if shown.session is not None:
            return await self.tickets.of_session(shown.session, shown.csrf, changes=shown.changes)
        raise NotAuthenticated("send an API key or a token as 'Authorization: Bearer …'")

    async def _of_bearer(self, value: str) -> Principal:
        if value.startswith(PREFIX):
            return await self.keys.authenticate(value)
        if self._tokens is None:
            raise NotAuthenticated("this is no API key, and tokens are not taken here")
        return await self._tokens.authenticate(value)


def asks_for_credentials(settings: Settings, *, has_keys: bool) -> bool:
    """The one decision about an open door. `has_keys`: the store holds an API key.

    Raises `ConfigurationError` where everybody from elsewhere could do everything, or nobody anything.
    """
    configured = settings.jwt_key is not None or settings.jwt_jwks is not None or has_keys
    if settings.insecure_no_auth:
        if settings.auth == "on":
            raise ConfigurationError("TURNKEEP_AUTH=on and TURNKEEP_INSECURE_NO_AUTH contradict each other: unset one")
        return False
    if settings.auth == "on":
        return True
    if settings.is_loopback and not settings.hosts:
        asks = settings.jwt_key is not None or settings.jwt_jwks is not None
        return asks and settings.auth != "off"
    if settings.auth == "off" or not configured:
        raise ConfigurationError(
            f"{_reached(settings)} from other machines and no authentication is configured: make an API key with "
            "`turnkeep keys create`, or set TURNKEEP_JWT_KEY or TURNKEEP_JWT_JWKS, or TURNKEEP_AUTH=on; "
            "TURNKEEP_INSECURE_NO_AUTH=1 lets everybody do everything"
        )
    return True


def _reached(settings: Settings) -> str:
    return f"{settings.host} is reached" if not settings.is_loopback else "with TURNKEEP_HOSTS set we are reached"


async def access_of(settings: Settings, registry: Registry) -> Access:
    """As set. Raises `ConfigurationError`."""
    keys = Keys(registry)
    if not asks_for_credentials(settings, has_keys=await keys.has_any()):
        return Open()
    return Guard(keys, Tickets(registry), _tokens(settings))


def _tokens(settings: Settings) -> Tokens | None:
    """Raises `ConfigurationError` with the command that installs what is missing."""
    if settings.jwt_key is None and settings.jwt_jwks is None:
        return None
    try:
        from turnkeep.doors.tokens import tokens_of
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("jwt", "cryptography"):
            raise ConfigurationError(
                "tokens (TURNKEEP_JWT_KEY) are not installed, run: python -m pip install 'turnkeep[jwt]'"
            ) from missing
        raise
    return tokens_of(settings)
