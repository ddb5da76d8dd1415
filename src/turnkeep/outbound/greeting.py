"""Who we are, told to every socket: an id that all processes on one store share, so that a relay knows itself again."""

from __future__ import annotations

import secrets

from turnkeep.errors import Conflict, StoreError
from turnkeep.store.contract import Registry

HEADER = "turnkeep-instance"


class Greeting:
    """The id of a namespace, made once and kept in its store."""

    def __init__(self, store: Registry) -> None:
        self._store = store
        self._instance: str | None = None

    async def instance(self) -> str:
        """Raises `StoreError`."""
        if self._instance is None:
            self._instance = await self._kept()
        return self._instance

    async def headers(self) -> list[tuple[bytes, bytes]]:
        """What a socket is greeted with; nothing while the store is away."""
        try:
            return [(HEADER.encode(), (await self.instance()).encode())]
        except StoreError:
            return []

    async def _kept(self) -> str:
        found = await self._store.get("setting", "default", "instance")
        if found is None:
            try:
                body = {"id": secrets.token_hex(8)}
                found = await self._store.put("setting", "default", "instance", body, version=0)
            except Conflict:
                found = await self._store.get("setting", "default", "instance")
        return str(found.body["id"]) if found else ""
