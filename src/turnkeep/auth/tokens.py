"""JSON web tokens: HS256 with a shared secret; EdDSA, ES256, ES384 and RS256 with a public key, or
a JWKS file or URL.

A token must say `exp`, `aud` and `sub`, and `iss` where an issuer is set. `channels` lists exact
names or prefixes that end in ``*`` (a token without it reaches no channel), `tenant` and `sub` say
whose it is, `scope` may be narrower than send and read, or hold more. Identity providers that call
these otherwise are understood by `TURNKEEP_JWT_CLAIMS`. Which algorithm a key is for is decided by
us, never by the token; the headers jku, jwk and x5u are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

import jwt

from turnkeep.auth.api_keys import read_scopes
from turnkeep.auth.principals import Principal
from turnkeep.auth.signing import PUBLIC, SigningKey, public_key, shared_secret
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import ConfigurationError, NotAuthenticated, StoreError
from turnkeep.inputs import MAX_NAME
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.settings import Settings

MAX_CHANNELS = 1_000
LEEWAY = 30.0
"""Seconds that the clocks of an issuer and of this machine may differ."""


class KeySource(Protocol):
    """Where the key of a token comes from."""

    async def key(self, kid: object) -> SigningKey:
        """Raises `NotAuthenticated`."""
        ...

    async def keys(self) -> Sequence[SigningKey]:
        """All of them, for people."""
        ...


class OneKey:
    """The key that is set."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    async def key(self, kid: object) -> SigningKey:
        return self._key

    async def keys(self) -> Sequence[SigningKey]:
        return (self._key,)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say. `issuer` None: any that signs with our keys. `claims`: what an issuer
    calls a claim of ours, which then has to be there; a name with dots leads into objects.
    """

    audience: str
    issuer: str | None = None
    leeway: float = LEEWAY
    claims: Mapping[str, str] = field(default_factory=dict)


class Tokens:
    """Reads tokens. Whatever is wrong with one, the answer is `NotAuthenticated`."""

    def __init__(self, source: KeySource, rules: TokenRules, clock: Clock | None = None) -> None:
        self._source = source
        self._rules = rules
        self._clock = clock or SystemClock()

    async def authenticate(self, text: str) -> Principal:
        try:
            # for the name of the key alone: the algorithm is that of the key,
            # whatever the header says
            header = jwt.get_unverified_header(text)
            signing_key = await self._source.key(header.get("kid"))
            return self._principal(self._claims(text, signing_key))
        except (NotAuthenticated, StoreError):
            raise
        except jwt.ExpiredSignatureError:
            raise NotAuthenticated("this token has expired") from None
        except jwt.ImmatureSignatureError:
            raise NotAuthenticated("this token is not valid yet, look at the clocks of its issuer and of us") from None
        except jwt.InvalidAudienceError:
            raise NotAuthenticated("this token is for another audience") from None
        except (jwt.InvalidIssuerError, jwt.MissingRequiredClaimError) as error:
            about = "comes from another issuer" if isinstance(error, jwt.InvalidIssuerError) else "lacks a claim"
            raise NotAuthenticated(f"this token {about}") from None
        # the parser reads what strangers send: whatever it raises, the answer is one
        except Exception:
            raise NotAuthenticated("this token is not valid") from None

    async def describe(self) -> str:
        """Algorithms, kinds of keys, audience and issuer, for `doctor`. Raises as `authenticate`."""
        kinds = dict.fromkeys(f"{one.algorithm} ({one.kind})" for one in await self._source.keys())
        return f"{', '.join(kinds)} for {self._rules.audience!r} from {self._rules.issuer or 'any issuer'}"

    def _claims(self, text: str, signing_key: SigningKey) -> Mapping[str, Any]:
        """Leeway is for what has to have begun; what is over is over, as its holder was told."""
        rules = self._rules
        claims: Mapping[str, Any] = jwt.decode(
            text,
            signing_key.key,
            algorithms=[signing_key.algorithm],
            audience=rules.audience,
            issuer=rules.issuer,
            leeway=rules.leeway,
            # not 'sub': an issuer may call it otherwise, so `_whose` looks for it
            options={"require": ["exp", "aud", *(["iss"] if rules.issuer else [])]},
        )
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        expires_at = _number(claims["exp"])
        # once more, and without the leeway that the library gives
        if expires_at <= self._clock.now():
            raise NotAuthenticated("this token has expired")
        return Principal(
            tenant=_name("tenant", self._claim_value(claims, "tenant", DEFAULT_TENANT)),
            subject=f"user:{_name('sub', self._whose(claims))}",
            scopes=frozenset(read_scopes(_words(self._claim_value(claims, "scope", "send read")))),
            channels=_channels(self._claim_value(claims, "channels", [])),
            expires_at=expires_at,
            since=self._since(claims),
        )

    def _whose(self, claims: Mapping[str, Any]) -> object:
        """All tokens that do not say it would be one user, who edits and withdraws
        what others have sent.
        """
        if (whose := self._claim_value(claims, "sub", None)) is None:
            raise NotAuthenticated("this token lacks the claim 'sub', which says whose it is")
        return whose

    def _since(self, claims: Mapping[str, Any]) -> float:
        """When it was issued at the earliest: by a clock ahead of ours it may say that it was after
        a moment before which all are taken back.
        """
        return _number(claims["iat"]) - self._rules.leeway if "iat" in claims else 0.0

    def _claim_value(self, claims: Mapping[str, Any], claim: str, default: object) -> object:
        """What a token says under the issuer's name for a claim: as it stands, else along its dots."""
        name = self._rules.claims.get(claim, claim)
        value: object = claims
        for part in [name] if name in claims else name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                if claim in self._rules.claims:
                    raise NotAuthenticated(f"this token lacks the claim {name!r}")
                return default
            value = value[part]
        return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NotAuthenticated("this token is not valid")
    return float(value)


def _name(claim: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise NotAuthenticated(f"the claim {claim!r} of this token is not a printable name")
    return value


def _words(value: object) -> list[object]:
    if isinstance(value, str):
        return list(value.split())
    if isinstance(value, list):
        return value
    raise NotAuthenticated("the claim 'scope' of this token is neither a text nor a list")


def _channels(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or len(value) > MAX_CHANNELS:
        raise NotAuthenticated(f"the claim 'channels' of this token is no list of at most {MAX_CHANNELS} names")
    if not all(isinstance(name, str) and 0 < len(name) <= MAX_NAME for name in value):
        raise NotAuthenticated("the claim 'channels' of this token holds something that is no name")
    # "*" alone is all of the tenant, for which None stands everywhere
    return None if "*" in value else tuple(value)


def tokens_of(settings: Settings) -> Tokens | None:
    """As set; None without a key. Raises `ConfigurationError` for a key that is weak
    or of another kind.
    """
    source = _source(settings)
    if source is None:
        return None
    names = {str(claim): name for claim, name in settings.jwt_claims.items()}
    return Tokens(source, TokenRules(settings.jwt_audience, settings.jwt_issuer, settings.jwt_leeway, names))


def _source(settings: Settings) -> KeySource | None:
    """The one place that keys of tokens come from. Of several nobody could say which counts."""
    names = ("jwt_secret", "jwt_key", "jwt_jwks")
    sources = [name for name in names if getattr(settings, name) is not None]
    # the one that was forgotten would go on to let people in
    if len(sources) > 1:
        variables = " and ".join(f"TURNKEEP_{name.upper()}" for name in sources)
        raise ConfigurationError(f"{variables} are set: tokens are signed in one way, unset the others")
    if settings.jwt_jwks is not None:
        # here and not above: with aiohttp behind it
        from turnkeep.auth.jwks import Jwks

        return Jwks(settings.jwt_jwks, frozenset(settings.jwt_algorithms or PUBLIC), ttl=settings.jwt_jwks_ttl)
    if settings.jwt_secret is not None:
        return _one_key(settings, "SECRET", shared_secret(settings.jwt_secret.get_secret_value()))
    if settings.jwt_key is not None:
        return _one_key(settings, "KEY", public_key(settings.jwt_key))
    return None


def _one_key(settings: Settings, name: str, signing_key: SigningKey) -> KeySource:
    if settings.jwt_algorithms and signing_key.algorithm not in settings.jwt_algorithms:
        raise ConfigurationError(
            f"TURNKEEP_JWT_{name} is a key for {signing_key.algorithm}, TURNKEEP_JWT_ALGORITHMS has "
            f"{', '.join(settings.jwt_algorithms)}"
        )
    return OneKey(signing_key)
