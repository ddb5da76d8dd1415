"""A set of public keys (JWKS) in a file or at a URL: kept for a while, read again when a token
names a new one.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt

from turnkeep.auth.signing import SigningKey, signing_key
from turnkeep.errors import ConfigurationError, NotAuthenticated, StoreUnavailable
from turnkeep.telemetry import get_log

log = get_log(__name__)

EARLY = 0.5
"""The share of its time after which a set is read again, so that a source that is away for a moment
is not missed.
"""
AGAIN = 5.0
"""Seconds between two reads, whatever tokens ask for."""
AFTER_FAILURE = 1.0
"""Seconds after a failed read in which nobody tries again, so that requests do not queue up behind
each other.
"""
PATIENCE = 5.0
LARGEST = 1_000_000
LONGEST_KID = 200


class Jwks:
    """Public keys by `kid`. A `kid` is compared and never opened, fetched or run.

    A set is believed for `ttl` seconds after it was read: a key that is taken out of it is refused
    by then, also where the source cannot be reached, in which case nobody comes in until it can.
    """

    def __init__(
        self, source: str, algorithms: frozenset[str], *, ttl: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        # what is published would be taken for the secret, and everybody could sign
        if algorithms & {"HS256"}:
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
        self._algorithms = algorithms
        self._ttl = ttl
        # seconds that pass: how long a set is believed is no matter of the time of day
        self._now = now
        self._keys: dict[str | None, SigningKey] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading = asyncio.Lock()

    async def key(self, kid: object) -> SigningKey:
        """Raises `NotAuthenticated`; `StoreUnavailable` while no set is known that
        may still be believed.
        """
        if kid is not None and (not isinstance(kid, str) or len(kid) > LONGEST_KID):
            raise NotAuthenticated("this token names its key in a way that is not taken")
        if self._age > self._ttl * EARLY or kid not in self._keys:
            await self._read()
        key = self._keys.get(kid)
        # RFC 7515 leaves `kid` open: with one key there is no doubt which is meant
        if key is None and kid is None and len(self._keys) == 1:
            key = next(iter(self._keys.values()))
        if key is None:
            raise NotAuthenticated("this token is signed with a key that is not known here")
        return key

    async def keys(self) -> tuple[SigningKey, ...]:
        """All of them. Raises as `key`."""
        await self._read()
        return tuple(self._keys.values())

    @property
    def _age(self) -> float:
        return math.inf if self._read_at is None else self._now() - self._read_at

    async def _read(self) -> None:
        """Read the set again, unless somebody has while we waited. One that is too old to be
        believed is dropped.
        """
        async with self._reading:
            pause = AGAIN if self._age <= self._ttl else AFTER_FAILURE
            if self._tried_at is None or self._now() - self._tried_at >= min(pause, self._ttl * EARLY):
                await self._try_to_read()
                self._tried_at = self._now()
            if self._age > self._ttl:
                self._keys = {}
                raise StoreUnavailable("the keys of TURNKEEP_JWT_JWKS cannot be read")

    async def _try_to_read(self) -> None:
        start = self._now()
        try:
            data = await self._fetch(self._url) if self._url else await asyncio.to_thread(self._path.read_bytes)
            self._keys = self._of(data)
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError, RecursionError) as error:
            log.warning("jwks_unreadable", error=f"{type(error).__name__}: {error}"[:200], kept=len(self._keys))
        else:
            # the time before it was asked: a key that was taken out meanwhile must not live longer
            # for it
            self._read_at = start

    async def _fetch(self, url: str) -> bytes:
        # no redirects: they could lead to plain http, or to an address of our own network
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"the key server answers {response.status}")
            # counted while it comes: the length that a server says is only said
            data = bytearray()
            async for piece in response.content.iter_chunked(65_536):
                data += piece
                if len(data) > LARGEST:
                    raise ValueError("the set of keys is too large")
            return bytes(data)

    def _of(self, data: bytes) -> dict[str | None, SigningKey]:
        """The keys that we may use; others are passed over. Raises ValueError if there is none."""
        document = json.loads(data)
        entries = document.get("keys") if isinstance(document, dict) else None
        keys: dict[str | None, SigningKey] = {}
        for entry in entries if isinstance(entries, list) else []:
            key = _usable_key(entry, self._algorithms) if isinstance(entry, dict) else None
            if key is not None:
                keys[entry.get("kid")] = key
        if not keys:
            raise ValueError("the set holds no key that may be used")
        return keys


def _usable_key(entry: dict[str, Any], algorithms: frozenset[str]) -> SigningKey | None:
    """A key and what it is for; None for one that we do not take, or that says it
    is for something else.
    """
    # "oct" is a shared secret, which has no place in a set that is published
    if entry.get("use", "sig") != "sig" or not isinstance(entry.get("kid"), str | None) or entry.get("kty") == "oct":
        return None
    try:
        key = signing_key(jwt.PyJWK(entry).key)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        return None
    if key is None or key.algorithm not in algorithms or entry.get("alg", key.algorithm) != key.algorithm:
        return None
    return key
