"""Assistants: of several who begin together one counts, a change is of the version that was read, secrets stay here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from turnkeep.assistants import MASK, Assistants
from turnkeep.errors import Conflict
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Document, Policies, Policy


class Contested(MemoryStore):
    """Somebody else begins just before a default is written down, where he `is_faster`."""

    is_faster = True

    async def put(self, kind: Any, tenant: str, name: str, body: Mapping[str, Any], **terms: Any) -> Document:
        if kind == "default" and self.is_faster:
            self.is_faster = False
            await Assistants(self, model="of the other").begin(tenant, now=1.0)
        return await super().put(kind, tenant, name, body, **terms)


@asynccontextmanager
async def contested() -> AsyncIterator[Contested]:
    store = Contested(Policies(Policy()))
    await store.open()
    yield store
    await store.close()


async def test_of_those_who_begin_together_all_get_the_same_assistant_and_no_other_is_left() -> None:
    async with contested() as store:
        assistants = Assistants(store, model="ours")
        begun = await assistants.begin("t", now=1.0)
        assert begun.model == "of the other"
        assert [one.assistant_id for one in await assistants.list("t")] == [begun.assistant_id]
        assert await assistants.begin("t", now=2.0) == begun


async def test_a_change_of_another_version_than_that_of_now_is_refused() -> None:
    async with contested() as store:
        assistants = Assistants(store, model="ours")
        first = await assistants.create("t", {"name": "a"}, now=1.0)
        second = await assistants.change("t", first.assistant_id, {"name": "b"}, version=first.version)
        with pytest.raises(Conflict, match="has version 2 now"):
            await assistants.change("t", first.assistant_id, {"name": "c"}, version=first.version)
        assert (second.name, (await assistants.get("t", first.assistant_id)).name) == ("b", "b")


async def test_what_opens_the_servers_of_hosted_tools_is_shown_to_nobody() -> None:
    async with contested() as store:
        tool = {"type": "mcp", "server_label": "s", "server_url": "https://s.example", "authorization": "secret"}
        assistant = await Assistants(store, model="ours").create("t", {"tools": ["look", tool]}, now=1.0)
        assert assistant.to_public()["tools"] == ["look", {**tool, "authorization": MASK}]
        assert assistant.to_json()["tools"] == ["look", tool]
