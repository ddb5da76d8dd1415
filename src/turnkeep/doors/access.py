"""Who may do what: one authentication for all doors. A channel id is no credential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from turnkeep.errors import NotAllowed
from turnkeep.messages import DEFAULT_TENANT

Scope = Literal["send", "read", "admin"]
ALL_SCOPES: frozenset[Scope] = frozenset({"send", "read", "admin"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose credential was checked. `channels` None: all of the tenant; else exact names, or prefixes that
    end in ``*``.

    `expires_at` in Unix seconds; None: never.
    """

    tenant: str = DEFAULT_TENANT
    subject: str = "anonymous"
    scopes: frozenset[Scope] = ALL_SCOPES
    channels: tuple[str, ...] | None = None
    expires_at: float | None = None

    def require(self, scope: Scope, channel: str | None = None) -> None:
        """Raises `NotAllowed` unless this credential reaches that far."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise NotAllowed(f"this credential has no scope {scope!r}")
        if channel is not None and not self.reaches(channel):
            raise NotAllowed("this credential does not reach that channel")

    def reaches(self, channel: str) -> bool:
        if self.channels is None:
            return True
        return any(channel.startswith(name[:-1]) if name.endswith("*") else channel == name for name in self.channels)


class Access(Protocol):
    """Decides who somebody is."""

    async def authenticate(self, headers: Mapping[str, str], *, cookies: Mapping[str, str]) -> Principal:
        """Raises `NotAuthenticated`."""
        ...


class Open:
    """Everybody on this machine is the one user of the one tenant."""

    async def authenticate(self, headers: Mapping[str, str], *, cookies: Mapping[str, str]) -> Principal:
        return Principal()
