"""A set of public keys (JWKS) in a file or at a URL: kept for a while, read again when a token names a new one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from turnkeep.errors import ConfigurationError, NotAuthenticated, StoreUnavailable
from turnkeep.telemetry import get_log

log = get_log(__name__)

KEPT = 600.0
"""Seconds a set is used without looking again."""
AGAIN = 30.0
"""Seconds between two reads, whatever tokens ask for."""
AFTER_FAILURE = 1.0
"""Seconds after a failed read in which nobody tries again, so that requests do not queue up behind each other."""
PATIENCE = 5.0
SHORTEST_RSA = 2048
LARGEST = 1_000_000
KINDS = {"RSA": "RS256", "OKP": "EdDSA"}
LONGEST_KID = 200


class Jwks:
    """Public keys by `kid`. A `kid` is compared and never opened, fetched or run."""

    def __init__(self, source: str, allowed: frozenset[str]) -> None:
        if allowed & {"HS256"}:
            raise ConfigurationError(
                "TURNKEEP_JWT_JWKS holds public keys: HS256 cannot be among TURNKEEP_JWT_ALGORITHMS"
            )
        parts = urlsplit(source)
        self._url = source if parts.scheme in ("http", "https") else None
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ConfigurationError(
                "TURNKEEP_JWT_JWKS must be a file or an https URL: keys over http can be exchanged"
            )
        self._path = Path(source)
        self._allowed = allowed
        self._keys: dict[str | None, tuple[Any, str]] = {}
        self._read_at: float | None = None
        self._failed_at: float | None = None
        self._reading = asyncio.Lock()

    async def key(self, kid: object) -> tuple[Any, str]:
        """Raises `NotAuthenticated`; `StoreUnavailable` when the set was never to be had."""
        if kid is not None and (not isinstance(kid, str) or len(kid) > LONGEST_KID):
            raise NotAuthenticated("this token names its key in a way that is not taken")
        if self._is_older_than(KEPT) or (kid not in self._keys and self._is_older_than(AGAIN)):
            await self._read()
        found = self._keys.get(kid)
        if found is None and kid is None and len(self._keys) == 1:
            found = next(iter(self._keys.values()))
        if found is None:
            raise NotAuthenticated("this token is signed with a key that is not known here")
        return found

    def _is_older_than(self, seconds: float) -> bool:
        return self._read_at is None or asyncio.get_running_loop().time() - self._read_at > seconds

    async def _read(self) -> None:
        """Read the set again, unless somebody has while we waited. One that was read before outlives its source."""
        async with self._reading:
            now = asyncio.get_running_loop().time
            if not self._is_older_than(AGAIN):
                return
            if self._failed_at is not None and now() - self._failed_at < AFTER_FAILURE:
                raise StoreUnavailable("the keys of TURNKEEP_JWT_JWKS could not be read a moment ago")
            try:
                data = await self._fetched(self._url) if self._url else await asyncio.to_thread(self._path.read_bytes)
                self._keys = self._of(data)
            except (OSError, TimeoutError, aiohttp.ClientError, ValueError, RecursionError) as error:
                log.warning("jwks_unreadable", error=f"{type(error).__name__}: {error}"[:200], kept=len(self._keys))
                if self._read_at is None:
                    self._failed_at = now()
                    raise StoreUnavailable("the keys of TURNKEEP_JWT_JWKS cannot be read") from error
            self._read_at = now()

    async def _fetched(self, url: str) -> bytes:
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"the key server answers {response.status}")
            data = bytearray()
            async for piece in response.content.iter_chunked(65_536):
                data += piece
                if len(data) > LARGEST:
                    raise ValueError("the set of keys is too large")
            return bytes(data)

    def _of(self, data: bytes) -> dict[str | None, tuple[Any, str]]:
        """The keys that we may use; others are passed over. Raises ValueError if there is none."""
        told = json.loads(data)
        entries = told.get("keys") if isinstance(told, dict) else None
        found: dict[str | None, tuple[Any, str]] = {}
        for entry in entries if isinstance(entries, list) else []:
            known = _known(entry, self._allowed) if isinstance(entry, dict) else None
            if known is not None:
                found[entry.get("kid")] = known
        if not found:
            raise ValueError("the set holds no key that may be used")
        return found


def _known(entry: dict[str, Any], allowed: frozenset[str]) -> tuple[Any, str] | None:
    """A key and what it is for; None for one that we do not take."""
    algorithm, kid = _algorithm(entry), entry.get("kid")
    if algorithm not in allowed or not isinstance(kid, str | None):
        return None
    try:
        key = jwt.PyJWK(entry, algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < SHORTEST_RSA:
        return None
    return key, algorithm


def _algorithm(entry: dict[str, Any]) -> str:
    """What a key is for; empty for what we do not take."""
    algorithm = KINDS.get(str(entry.get("kty")), "")
    fits = entry.get("alg", algorithm) == algorithm and entry.get("use", "sig") == "sig"
    is_other_curve = algorithm == "EdDSA" and entry.get("crv") != "Ed25519"
    return algorithm if fits and not is_other_curve else ""
