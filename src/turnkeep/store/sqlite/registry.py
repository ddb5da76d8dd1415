"""Small versioned records, in the SQLite engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from turnkeep.errors import Conflict
from turnkeep.store.sqlite.codec import decode, encode
from turnkeep.store.sqlite.connection import every
from turnkeep.store.sqlite.engine import Engine
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View
from turnkeep.store.values import Document, RegistryKind

_COLUMNS = "SELECT name, version, body, updated_at FROM document"


class SqliteRegistry(Engine):
    """The registry protocol."""

    async def get(self, kind: RegistryKind, tenant: str, name: str) -> Document | None:
        return await self.read_from(lambda view: _document(view, kind, tenant, name))

    async def put(
        self,
        kind: RegistryKind,
        tenant: str,
        name: str,
        body: Mapping[str, Any],
        *,
        version: int | None = None,
        ttl: float | None = None,
        once: str | None = None,
    ) -> Document:
        # on the caller's time: that of the writer is everybody's
        text = encode(dict(body))

        def act(tx: Transaction) -> Document:
            old = _document(tx, kind, tenant, name)
            document = _next(kind, Document(name, 0, decode(text), tx.now), old, version)
            tx.mark()
            tx.connection.execute(
                "REPLACE INTO document (kind, tenant, name, version, updated_at, expires_at, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    kind,
                    tenant,
                    name,
                    document.version,
                    document.updated_at,
                    None if ttl is None else tx.now + ttl,
                    text,
                ),
            )
            return document

        document = await self.write(act, once=Once.of(once, "put", kind, tenant, name, body, version, ttl))
        self.revise()
        return document

    async def take(self, kind: RegistryKind, tenant: str, name: str, *, once: str | None = None) -> Document | None:
        def act(tx: Transaction) -> Document | None:
            document = _document(tx, kind, tenant, name)
            tx.mark()
            tx.connection.execute(
                "DELETE FROM document WHERE kind = ? AND tenant = ? AND name = ?", (kind, tenant, name)
            )
            return document

        document = await self.write(act, "ending", Once.of(once, "take", kind, tenant, name))
        self.revise()
        return document

    async def list(self, kind: RegistryKind, tenant: str) -> list[Document]:
        def look(view: View) -> list[Document]:
            rows = every(
                view.connection,
                f"{_COLUMNS} WHERE kind = ? AND tenant = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY name",
                (kind, tenant, view.now),
            )
            return [Document(name, version, decode(body), at) for name, version, body, at in rows]

        return await self.read_from(look)


def _next(kind: str, new: Document, old: Document | None, version: int | None) -> Document:
    """What a record becomes; a body that is there already is no change."""
    current_version = old.version if old else 0
    # a repeat after a lost reply names the version before, and must not end in
    # a conflict with itself
    if old is not None and old.body == new.body and version in (None, current_version, current_version - 1):
        return old
    if version in (None, current_version):
        return replace(new, version=current_version + 1)
    raise Conflict(f"{kind} {new.name!r} has version {current_version}, not {version}: read it again")


def _document(view: View, kind: str, tenant: str, name: str) -> Document | None:
    row = view.connection.execute(
        f"{_COLUMNS} WHERE kind = ? AND tenant = ? AND name = ? AND (expires_at IS NULL OR expires_at > ?)",
        (kind, tenant, name, view.now),
    ).get
    if row is None:
        return None
    _, version, body, at = row
    return Document(name, version, decode(body), at)
