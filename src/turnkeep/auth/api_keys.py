"""API keys: `tk_<id>_<secret>`. The secret is 256 random bits, shown once; what is
kept is its SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from turnkeep.auth.principals import ALL_SCOPES, KEY_PREFIX, Principal, Scope
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import InvalidMessage, NotAuthenticated, NotFound
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import ALL_TENANTS, DEFAULT_TENANT
from turnkeep.store.contract import Registry
from turnkeep.store.values import Document

FRESH_KEY = 0.5
"""Seconds a key that was read is believed without a second look."""
MOST_CACHED_KEYS = 10_000
_FORM = re.compile(r"tk_([0-9a-f]{16})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key."""

    key_id: str
    digest: str
    tenant: str
    scopes: tuple[Scope, ...]
    channels: tuple[str, ...] | None
    name: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Without the digest, for people."""
        return {
            "id": self.key_id,
            "name": self.name,
            "tenant": self.tenant,
            "scopes": list(self.scopes),
            "channels": None if self.channels is None else list(self.channels),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
        }

    def is_valid(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def principal(self) -> Principal:
        return Principal(
            self.tenant, f"key:{self.key_id}", frozenset(self.scopes), self.channels, self.expires_at, self.key_id
        )


class ApiKeys:
    """All keys of a store. A key that was revoked is refused within `FRESH_KEY` seconds, everywhere."""

    def __init__(self, registry: Registry, clock: Clock | None = None) -> None:
        self.registry = registry
        self._clock = clock or SystemClock()
        self._cache: OrderedDict[str, tuple[Key, float]] = OrderedDict()

    async def create(
        self,
        *,
        name: str = "",
        tenant: str = DEFAULT_TENANT,
        scopes: Sequence[Scope] = ("send", "read"),
        channels: Sequence[str] | None = None,
        expires_at: float | None = None,
    ) -> tuple[str, Key]:
        """The key itself, told this once, and what is kept of it. Raises `InvalidMessage` for a key
        of no use.
        """
        if not tenant or (channels is not None and not all(channels)):
            raise InvalidMessage("the tenant and the channels of a key are texts of at least one character")
        if expires_at is not None and not self._clock.now() < expires_at < math.inf:
            raise InvalidMessage("a key must end later than now")
        key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
        reach = None if channels is None else tuple(channels)
        key = Key(key_id, digest_of(secret), tenant, tuple(scopes), reach, name, self._clock.now(), expires_at)
        # version 0: an id that there is already, however unlikely, must not be
        # given to somebody else
        await self.registry.put("key", ALL_TENANTS, key_id, _body(key), version=0)
        return f"{KEY_PREFIX}{key_id}_{secret}", key

    async def list(self) -> list[Key]:
        keys = [_key(document) for document in await self.registry.list("key", ALL_TENANTS)]
        return sorted(keys, key=lambda key: (key.created_at, key.key_id))

    async def has_any(self) -> bool:
        """Somebody has made a key. It counts also when it is over: who takes the last one back
        opens no door.
        """
        return bool(await self.registry.list("key", ALL_TENANTS))

    async def revoke(self, key_id: str) -> Key:
        """Refuse it from now on. Safe to repeat. Raises `NotFound`."""
        document = await self.registry.get("key", ALL_TENANTS, key_id)
        if document is None:
            raise NotFound(f"there is no key {key_id!r}, list them with `turnkeep keys list`")
        if document.body.get("revoked_at") is None:
            body = {**document.body, "revoked_at": self._clock.now()}
            document = await self.registry.put("key", ALL_TENANTS, key_id, body, version=document.version)
        self._cache.pop(key_id, None)
        return _key(document)

    async def authenticate(self, text: str) -> Principal:
        """Raises `NotAuthenticated`, with one sentence for every reason."""
        form = _FORM.fullmatch(text)
        key = await self._read(form[1]) if form else None
        # compared in any case, so that the time does not tell whether there is such an id
        matches = hmac.compare_digest(digest_of(form[2] if form else ""), key.digest if key else digest_of("no key"))
        if key is None or not matches or not key.is_valid(self._clock.now()):
            raise NotAuthenticated("this API key is not valid (any more)")
        return key.principal()

    async def revalidate(self, key_id: str) -> None:
        """Raises `NotAuthenticated` if it was revoked or has expired."""
        key = await self._read(key_id)
        if key is None or not key.is_valid(self._clock.now()):
            raise NotAuthenticated("this API key is not valid (any more)")

    async def _read(self, key_id: str) -> Key | None:
        now = self._clock.now()
        key, at = self._cache.get(key_id, (None, 0.0))
        # "0 <=": a clock that was set back would have it believed for as long
        if key is not None and 0 <= now - at < FRESH_KEY:
            return key
        document = await self.registry.get("key", ALL_TENANTS, key_id)
        # remembered only while it is there: ids that somebody makes up take no memory
        self._cache.pop(key_id, None)
        if document is None:
            return None
        key = _key(document)
        self._cache[key_id] = (key, now)
        while len(self._cache) > MOST_CACHED_KEYS:
            self._cache.popitem(last=False)
        return key


def digest_of(secret: str) -> str:
    # A slow hash is for secrets that can be guessed; these are 256 random bits, and every request
    # would pay for it. `surrogatepass`: whatever is shown is wrong, and no error.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _body(key: Key) -> dict[str, Any]:
    return {name: value for name, value in key.to_json().items() if name != "id"} | {"digest": key.digest}


def _key(document: Document) -> Key:
    body = document.body
    return Key(
        key_id=document.name,
        digest=str(body["digest"]),
        tenant=str(body["tenant"]),
        scopes=read_scopes(body["scopes"]),
        channels=None if body["channels"] is None else tuple(str(name) for name in body["channels"]),
        name=str(body.get("name", "")),
        created_at=float(body["created_at"]),
        expires_at=_moment(body, "expires_at"),
        revoked_at=_moment(body, "revoked_at"),
    )


def read_scopes(words: Sequence[object]) -> tuple[Scope, ...]:
    """The scopes among these words."""
    return tuple(sorted(scope for scope in ALL_SCOPES if scope in words))


def _moment(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    return None if value is None else float(value)
