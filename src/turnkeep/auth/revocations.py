"""Users who were sent away: what was issued to them before a moment is refused from then on, in
every process.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets

from turnkeep.auth.principals import Principal
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import Conflict, InvalidMessage, NotAuthenticated
from turnkeep.messages import ALL_TENANTS
from turnkeep.store.contract import Registry

MARK = "revocations"
"""The name of the setting that changes with every revocation, so that a look costs one small read.
"""
FRESH = 0.5
"""Seconds in which what was read is believed."""
KEEP = 400 * 86_400.0
"""Seconds that a revocation is kept: no credential that was issued before it may live longer."""
AHEAD = 1.0
"""Seconds that a moment may lie in the future, for clocks that differ."""
USER_PREFIX = "user:"


class Revocations:
    """All revocations of a store."""

    def __init__(self, registry: Registry, clock: Clock | None = None) -> None:
        self._registry = registry
        self._clock = clock or SystemClock()
        self._moments: dict[tuple[str, str], float] = {}
        self._version = 0
        self._looked_at: float | None = None
        self._looking = asyncio.Lock()

    async def revoke(self, tenant: str, user: str, before: float | None = None) -> float:
        """Refuse what was issued to this user before a moment, now by default. Safe to repeat; a
        later moment counts. `user` is the `sub` of his tokens, or the subject of another principal.
        Raises `InvalidMessage`.
        """
        now = self._clock.now()
        moment = now if before is None else before
        if moment > now + AHEAD:
            raise InvalidMessage("'before' lies in the future: what is not issued yet cannot be taken back")
        name = hashlib.sha256(f"{len(tenant)}:{tenant}{user}".encode("utf-8", "surrogatepass")).hexdigest()
        for _ in range(20):
            # the later moment counts, whoever wrote it: two who send him away at once must not undo
            # each other
            old = await self._registry.get("revocation", ALL_TENANTS, name)
            moment = max(moment, float(old.body["before"]) if old else 0.0)
            body = {"tenant": tenant, "user": user, "before": moment}
            try:
                await self._registry.put(
                    "revocation", ALL_TENANTS, name, body, version=old.version if old else 0, ttl=KEEP
                )
            except Conflict:
                continue
            # after the revocation: whoever sees another mark finds it
            await self._registry.put("setting", ALL_TENANTS, MARK, {"at": now, "mark": secrets.token_hex(8)})
            self._looked_at = None
            return moment
        raise Conflict("this user is being sent away by others at this moment, try again")

    async def revalidate(self, principal: Principal) -> None:
        """Raises `NotAuthenticated` for a credential that was issued before its user was sent away."""
        await self._look()
        # he may have been named by his `sub` or by the whole subject
        for user in {principal.subject, principal.subject.removeprefix(USER_PREFIX)}:
            before = self._moments.get((principal.tenant, user))
            if before is not None and (principal.since or 0.0) < before:
                raise NotAuthenticated("this user was sent away since the credential was issued: sign in again")

    async def _look(self) -> None:
        if self._is_fresh():
            return
        # one look for all who ask at once
        async with self._looking:
            if self._is_fresh():
                return
            start = self._clock.now()
            mark = await self._registry.get("setting", ALL_TENANTS, MARK)
            version = mark.version if mark else 0
            if version != self._version:
                documents = await self._registry.list("revocation", ALL_TENANTS)
                self._moments = {
                    (str(one.body["tenant"]), str(one.body["user"])): float(one.body["before"]) for one in documents
                }
                self._version = version
            # the time before the reads: what came while they ran is looked for again in time
            self._looked_at = start

    def _is_fresh(self) -> bool:
        return self._looked_at is not None and 0 <= self._clock.now() - self._looked_at < FRESH
