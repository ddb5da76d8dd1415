"""How tools of foreign servers looked when they were first seen: a changed one asks the operator.

A server may describe its tools in one way until it is trusted, and in another afterwards. So the
digest of name, description and parameters is pinned at first sight, in the registry that all
processes share; a tool that has another one is withheld until somebody accepts it (`turnkeep tools
accept`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence

from turnkeep.errors import Conflict, NotFound, StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.store.contract import Registry
from turnkeep.tools.tool import Tool

PIN_PREFIX = "tool:"
MOST_ATTEMPTS = 5
PATIENCE = 30.0
"""Seconds that a store may take to open, before a server is tried again."""

log = logging.getLogger(__name__)

_FIELDS = ("accepted", "offered", "description")


@dataclass(frozen=True, slots=True)
class Pin:
    """One tool: what was accepted of it, and what it offers now."""

    name: str
    accepted_digest: str
    offered_digest: str
    description: str
    """As offered now."""

    @property
    def is_changed(self) -> bool:
        return self.accepted_digest != self.offered_digest


class Pins:
    """The pins of a registry, which is given when it is there."""

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry
        self._has_registry = asyncio.Event()
        if registry is not None:
            self._has_registry.set()

    def use(self, registry: Registry) -> None:
        """Look here from now on."""
        self._registry = registry
        self._has_registry.set()

    async def accepted_of(self, tools: Sequence[Tool]) -> list[Tool]:
        """Those that look as they were accepted; one that is seen for the first time is.

        Raises `StoreError`.
        """
        async with asyncio.timeout(PATIENCE):
            await self._has_registry.wait()
            return [one for one in tools if await self._is_accepted(one)]

    async def _is_accepted(self, tool: Tool) -> bool:
        digest, name = digest_of(tool), f"{PIN_PREFIX}{tool.name}"
        # all processes that start together write the same pin at once
        for _ in range(MOST_ATTEMPTS):
            document = await self._require_registry().get("setting", DEFAULT_TENANT, name)
            pin = {"accepted": digest} if document is None else dict(document.body)
            # written also when it has not changed: `offered` is what the operator sees and accepts
            body = {**pin, "offered": digest, "description": tool.description}
            try:
                await self._require_registry().put(
                    "setting", DEFAULT_TENANT, name, body, version=document.version if document else 0
                )
            except Conflict:
                continue
            if pin["accepted"] != digest:
                log.warning("tool_changed_and_withheld tool=%s", tool.name)
            return bool(pin["accepted"] == digest)
        # after so many conflicts: withheld, as everything that could not be compared
        return False

    async def list(self) -> list[Pin]:
        """All that were ever seen, by name."""
        documents = await self._require_registry().list("setting", DEFAULT_TENANT)
        return [
            Pin(one.name.removeprefix(PIN_PREFIX), *(str(one.body.get(name, "")) for name in _FIELDS))
            for one in documents
            if one.name.startswith(PIN_PREFIX)
        ]

    async def accept(self, name: str) -> Pin:
        """Take a tool as it offers itself now. Raises `NotFound`."""
        document = await self._require_registry().get("setting", DEFAULT_TENANT, f"{PIN_PREFIX}{name}")
        if document is None:
            raise NotFound(f"no server has offered a tool {name!r}, list them with `turnkeep tools list`")
        body = {**document.body, "accepted": document.body["offered"]}
        await self._require_registry().put("setting", DEFAULT_TENANT, document.name, body, version=document.version)
        return Pin(name, *(str(body.get(one, "")) for one in _FIELDS))

    def _require_registry(self) -> Registry:
        if self._registry is None:
            raise StoreError("no registry was given to look for pins in")
        return self._registry


def digest_of(tool: Tool) -> str:
    """Equal for tools that look the same to a model."""
    looks = json.dumps([tool.name, tool.description, tool.parameters], sort_keys=True, default=str)
    return hashlib.sha256(looks.encode("utf-8", "surrogatepass")).hexdigest()[:32]
