"""JSON web tokens: HS256 with a shared secret, EdDSA and RS256 with a public key or a JWKS file or URL.

A token must say `exp` and `aud`. `channels` lists exact names or prefixes that end in ``*`` (a token without it reaches
no channel), `tenant` and `sub` say whose it is, `scope` may be narrower than send and read, or hold admin. Which
algorithm a key is for is decided by us, never by the token; the headers jku, jwk and x5u are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from turnkeep.clock import Clock, SystemClock
from turnkeep.doors.access import Principal
from turnkeep.doors.jwks import Jwks
from turnkeep.doors.keys import read_scopes
from turnkeep.errors import ConfigurationError, NotAuthenticated, StoreError
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.settings import Settings

SHORTEST_SECRET = 32
SHORTEST_RSA = 2048
MAX_CHANNELS = 1_000
MAX_NAME = 512


class KeySource(Protocol):
    """Where the key of a token comes from."""

    async def key(self, kid: object) -> tuple[Any, str]:
        """The key and the one algorithm that it is for. Raises `NotAuthenticated`."""
        ...


class OneKey:
    """The key that is set."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self._known = key, algorithm

    async def key(self, kid: object) -> tuple[Any, str]:
        return self._known


class Tokens:
    """Reads tokens. Whatever is wrong with one, the answer is `NotAuthenticated`."""

    def __init__(self, source: KeySource, *, audience: str, clock: Clock | None = None) -> None:
        self._source = source
        self._audience = audience
        self._clock = clock or SystemClock()

    async def authenticate(self, text: str) -> Principal:
        try:
            header = jwt.get_unverified_header(text)
            key, algorithm = await self._source.key(header.get("kid"))
            claims = jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                options={"require": ["exp", "aud"]},
            )
            return self._principal(claims)
        except (NotAuthenticated, StoreError):
            raise
        except jwt.ExpiredSignatureError:
            raise NotAuthenticated("this token has expired") from None
        except jwt.InvalidAudienceError:
            raise NotAuthenticated("this token is for another audience") from None
        except Exception:
            raise NotAuthenticated("this token is not valid") from None

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        expires_at = _number(claims["exp"])
        if expires_at <= self._clock.now():
            raise NotAuthenticated("this token has expired")
        return Principal(
            tenant=_name(claims, "tenant", DEFAULT_TENANT),
            subject=f"user:{_name(claims, 'sub', 'anonymous')}",
            scopes=frozenset(read_scopes(_words(claims.get("scope", "send read")))),
            channels=_channels(claims.get("channels", [])),
            expires_at=expires_at,
        )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NotAuthenticated("this token is not valid")
    return float(value)


def _name(claims: Mapping[str, Any], claim: str, default: str) -> str:
    value = claims.get(claim, default)
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
    return None if "*" in value else tuple(value)


# ---------------------------------------------------------------- what is set


def tokens_of(settings: Settings) -> Tokens | None:
    """As set; None without a key. Raises `ConfigurationError` for a key that is weak or of another kind."""
    if settings.jwt_jwks is not None:
        allowed = settings.jwt_algorithms or ("EdDSA", "RS256")
        return Tokens(Jwks(settings.jwt_jwks, frozenset(allowed)), audience=settings.jwt_audience)
    if settings.jwt_key is None:
        return None
    key, algorithm = _known(settings.jwt_key.get_secret_value())
    if settings.jwt_algorithms and algorithm not in settings.jwt_algorithms:
        allowed_names = ", ".join(settings.jwt_algorithms)
        raise ConfigurationError(
            f"TURNKEEP_JWT_KEY is a key for {algorithm}, TURNKEEP_JWT_ALGORITHMS has {allowed_names}"
        )
    return Tokens(OneKey(key, algorithm), audience=settings.jwt_audience)


def _known(text: str) -> tuple[Any, str]:
    """The key, and what it is for."""
    if "PRIVATE KEY" in text:
        raise ConfigurationError("TURNKEEP_JWT_KEY is a private key: set the public one")
    if "-----BEGIN" not in text:
        if len(text.encode()) < SHORTEST_SECRET:
            raise ConfigurationError(
                f"TURNKEEP_JWT_KEY is a secret of less than {SHORTEST_SECRET} bytes, take a longer one"
            )
        return text, "HS256"
    try:
        key = load_pem_public_key(text.replace("\\n", "\n").encode())
    except ValueError as error:
        raise ConfigurationError("TURNKEEP_JWT_KEY looks like a PEM file and cannot be read as a public key") from error
    if isinstance(key, Ed25519PublicKey):
        return key, "EdDSA"
    if isinstance(key, RSAPublicKey) and key.key_size >= SHORTEST_RSA:
        return key, "RS256"
    raise ConfigurationError(f"TURNKEEP_JWT_KEY must be an Ed25519 key, or an RSA key of at least {SHORTEST_RSA} bits")
