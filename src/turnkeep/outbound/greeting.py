"""Who we are, told to every socket: an id that all processes on one store share, so that a relay
knows itself again.
"""

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
            self._instance = await self._load_or_make()
        return self._instance

    async def headers(self) -> list[tuple[bytes, bytes]]:
        """What a socket is greeted with; nothing while the store is away."""
        try:
            return [(HEADER.encode(), (await self.instance()).encode())]
        except StoreError:
            return []

    async def _load_or_make(self) -> str:
        record = await self._store.get("setting", "default", "instance")
        if record is None:
            try:
                body = {"id": secrets.token_hex(8)}
                record = await self._store.put("setting", "default", "instance", body, version=0)
            # Another process made it in the same moment: all have to use the one that is stored.
            except Conflict:
                record = await self._store.get("setting", "default", "instance")
        return str(record.body["id"]) if record else ""
