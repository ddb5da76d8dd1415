"""The guard: says who somebody is, whatever he shows and at whichever door."""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import TYPE_CHECKING

from turnkeep.auth.api_keys import FRESH_KEY, ApiKeys, digest_of
from turnkeep.auth.audit_trail import report_refusal, report_use
from turnkeep.auth.principals import KEY_PREFIX, OPERATOR, Access, Credentials, OpenAccess, Principal
from turnkeep.auth.revocations import Revocations
from turnkeep.auth.tickets import Tickets
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import ConfigurationError, NotAllowed, NotAuthenticated
from turnkeep.settings import Settings
from turnkeep.store.contract import Registry
from turnkeep.telemetry import get_log

log = get_log(__name__)

if TYPE_CHECKING:
    from turnkeep.auth.tokens import Tokens


class Guard:
    """Takes API keys, tokens, tickets and sessions. The strongest that is shown counts alone: a
    wrong one is refused, whatever else is right.
    """

    def __init__(
        self,
        keys: ApiKeys,
        tickets: Tickets,
        tokens: Tokens | None = None,
        clock: Clock | None = None,
        *,
        start_token: str | None = None,
    ) -> None:
        self.keys = keys
        self.tickets = tickets
        self._tokens = tokens
        self._clock = clock or SystemClock()
        self._start_token = start_token
        self.revocations = Revocations(keys.registry, self._clock)

    @property
    def is_open(self) -> bool:
        """Nobody is asked now."""
        return False

    async def authenticate(self, credentials: Credentials) -> Principal:
        try:
            principal = await self._identify(credentials)
            # an API key has no time of issue: who shows it now was not sent away
            # by what happened before
            if principal.since is None:
                principal = replace(principal, since=self._clock.now())
            await self.revalidate(principal)
        except (NotAuthenticated, NotAllowed) as error:
            await report_refusal("auth_failed", str(error), credential=credentials.kind)
            raise
        if principal.key is not None:
            await report_use(principal.key, tenant=principal.tenant)
        return principal

    async def revalidate(self, principal: Principal) -> None:
        if principal.expires_at is not None and principal.expires_at <= self._clock.now():
            raise NotAuthenticated("the credential has expired")
        if principal.key is not None and principal.key != self._start_key:
            await self.keys.revalidate(principal.key)
        await self.revocations.revalidate(principal)

    @property
    def _start_key(self) -> str | None:
        """Stands for the token of this start, so that what it was exchanged for ends with it."""
        return None if self._start_token is None else f"start:{digest_of(self._start_token)[:16]}"

    async def _identify(self, credentials: Credentials) -> Principal:
        if credentials.bearer is not None:
            return await self._of_bearer(credentials.bearer)
        if credentials.ticket is not None:
            return await self.tickets.redeem(credentials.ticket)
        if credentials.session is not None:
            return await self.tickets.of_session(credentials.session, credentials.csrf, changes=credentials.is_change)
        raise NotAuthenticated("send an API key or a token as 'Authorization: Bearer …'")

    async def _of_bearer(self, value: str) -> Principal:
        if value.startswith(KEY_PREFIX):
            return await self.keys.authenticate(value)
        # of digests, so that the length does not tell either
        if self._start_token is not None and hmac.compare_digest(digest_of(value), digest_of(self._start_token)):
            return replace(OPERATOR, key=self._start_key)
        if self._tokens is None:
            raise NotAuthenticated("this is no API key, and tokens are not taken here")
        return await self._tokens.authenticate(value)


class OpenGuard(Guard):
    """Asks nobody while the store holds no key. The first one locks the door, also of what is open
    already; a key that is taken back does not unlock it.
    """

    _is_locked = False
    _looked_at = -FRESH_KEY

    @property
    def is_open(self) -> bool:
        return not self._is_locked

    async def authenticate(self, credentials: Credentials) -> Principal:
        await self.look()
        return await super().authenticate(credentials) if self._is_locked else OPERATOR

    async def revalidate(self, principal: Principal) -> None:
        await self.look()
        if self._is_locked and principal is OPERATOR:
            raise NotAuthenticated("an API key was made, so that everybody is asked for one from now on")
        await super().revalidate(principal)

    async def look(self) -> None:
        now = self._clock.now()
        # one look in half a second for all; a door that is locked is never looked at again
        if not self._is_locked and not 0 <= now - self._looked_at < FRESH_KEY:
            self._is_locked = await self.keys.has_any()
            self._looked_at = now


def asks_for_credentials(settings: Settings, *, has_keys: bool) -> bool:
    """The one decision about an open door. `has_keys`: the store holds an API key, valid or not.

    Raises `ConfigurationError` where everybody from elsewhere could do
    everything, or nobody anything.
    """
    if settings.insecure_no_auth:
        if settings.auth == "on":
            raise ConfigurationError("TURNKEEP_AUTH=on and TURNKEEP_INSECURE_NO_AUTH contradict each other: unset one")
        return False
    if settings.auth == "on":
        return True
    has_credentials = settings.takes_tokens or settings.start_token is not None or has_keys
    # a proxy in front brings others to this address, and then `hosts` names what they call us
    if settings.is_loopback and not settings.hosts:
        return has_credentials and settings.auth != "off"
    if settings.auth == "off" or not has_credentials:
        raise ConfigurationError(
            f"{_exposure(settings)} from other machines and no authentication is configured: make an API key with "
            "`turnkeep keys create`, or set TURNKEEP_JWT_SECRET, TURNKEEP_JWT_KEY or TURNKEEP_JWT_JWKS, or "
            "TURNKEEP_AUTH=on; --insecure-no-auth (TURNKEEP_INSECURE_NO_AUTH=1) lets everybody do everything"
        )
    return True


def _exposure(settings: Settings) -> str:
    return f"{settings.host} is reached" if not settings.is_loopback else "with TURNKEEP_HOSTS set we are reached"


async def access_of(settings: Settings, registry: Registry) -> Access:
    """As set. Raises `ConfigurationError`."""
    keys, tickets = ApiKeys(registry), Tickets(registry)
    if asks_for_credentials(settings, has_keys=await keys.has_any()):
        start_token = settings.start_token.get_secret_value() if settings.start_token else None
        return Guard(keys, tickets, tokens_of(settings), start_token=start_token)
    if not settings.is_open_aloud:
        return OpenGuard(keys, tickets)
    if settings.takes_tokens or await keys.has_any():
        log.warning("nobody_is_asked", reason="TURNKEEP_AUTH=off or TURNKEEP_INSECURE_NO_AUTH, though there are keys")
    return OpenAccess()


def tokens_of(settings: Settings) -> Tokens | None:
    """Raises `ConfigurationError`, with the command that installs what is missing."""
    if not settings.takes_tokens:
        return None
    try:
        from turnkeep.auth import tokens
    except ModuleNotFoundError as missing:
        # anything else that is missing is a fault of ours, and has to be seen as one
        if (missing.name or "").partition(".")[0] in ("jwt", "cryptography"):
            raise ConfigurationError(
                "tokens (TURNKEEP_JWT_…) are not installed, run: python -m pip install 'turnkeep[jwt]'"
            ) from missing
        raise
    return tokens.tokens_of(settings)
