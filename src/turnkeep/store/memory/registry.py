"""The registry of the memory engine: small versioned records."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from turnkeep.clock import Clock
from turnkeep.errors import Conflict
from turnkeep.store.ids import Ids, random_ids
from turnkeep.store.memory.once import once_only
from turnkeep.store.memory.state import DEFAULTS, MemoryState
from turnkeep.store.values import Document, Policies, RegistryKind


class MemoryRegistry(MemoryState):
    """Small records by kind, tenant and name."""

    def __init__(self, policies: Policies = DEFAULTS, *, clock: Clock | None = None, ids: Ids = random_ids) -> None:
        super().__init__(policies, clock=clock, ids=ids)
        self._documents: dict[tuple[str, str, str], tuple[Document, float | None]] = {}

    async def get(self, kind: RegistryKind, tenant: str, name: str) -> Document | None:
        return self._document(kind, tenant, name, self.moment())

    @once_only
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
        now = self.moment()
        old = self._document(kind, tenant, name, now)
        version_now = old.version if old else 0
        # A repeat: its first write made the version one higher than the one that it was made over.
        if old is not None and old.body == body and version in (None, version_now, version_now - 1):
            document = old
        elif version in (None, version_now):
            document = Document(name, version_now + 1, copy.deepcopy(dict(body)), now)
        else:
            raise Conflict(f"{kind} {name!r} has version {version_now}, not {version}: read it again")
        self._documents[kind, tenant, name] = (document, None if ttl is None else now + ttl)
        self.revise()
        return copy.deepcopy(document)

    @once_only
    async def take(self, kind: RegistryKind, tenant: str, name: str, *, once: str | None = None) -> Document | None:
        document = self._document(kind, tenant, name, self.moment())
        self._documents.pop((kind, tenant, name), None)
        self.revise()
        return document

    async def list(self, kind: RegistryKind, tenant: str) -> list[Document]:
        now = self.moment()
        names = sorted(name for k, t, name in self._documents if (k, t) == (kind, tenant))
        documents = [self._document(kind, tenant, name, now) for name in names]
        return [document for document in documents if document is not None]

    def _document(self, kind: str, tenant: str, name: str, now: float) -> Document | None:
        document, until = self._documents.get((kind, tenant, name), (None, None))
        # A copy: a document is the store's, and a caller's change must go through `put`.
        return None if until is not None and until <= now else copy.deepcopy(document)

    def expire_documents(self, now: float) -> None:
        self._documents = {k: v for k, v in self._documents.items() if v[1] is None or v[1] > now}
