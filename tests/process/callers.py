"""A server that asks for credentials, with something in it to protect, and everybody who may come to its door."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt

from tests.process.served import Served, served
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.auth.principals import Scope
from turnkeep.doors.http.openai.conversation_key import AnswerName
from turnkeep.errors import ModelRefused
from turnkeep.events import TurnFault
from turnkeep.messages import Address, Message, text_content
from turnkeep.store.values import Failure

SECRET = "v7Qm2ZrT9xKfW4bLcN8sYd3HgPe6RjUa5oXi0tMzBwEk1yVh"
CANARY = "canary-7f3a-what-only-the-owner-may-read"
TENANT, CHANNEL, MESSAGE_ID = "acme", "own-1", "m1"
CALLERS = ("owner", "other user", "other tenant", "anonymous", "expired", "wrong audience", "revoked")
REFUSED = ("anonymous", "expired", "wrong audience", "revoked")


def token(**claims: Any) -> str:
    """A token of the owner, but for what is said otherwise; None leaves a claim out."""
    values = {
        "sub": "olga", "tenant": TENANT, "aud": "turnkeep", "exp": time.time() + 300, "channels": ["*"],
        "scope": "send read admin", **claims,
    }  # fmt: skip
    return jwt.encode({k: v for k, v in values.items() if v is not None}, SECRET, algorithm="HS256")


@dataclass
class Guarded:
    """The server, the ids in it, and a credential for everybody."""

    server: Served
    keys: ApiKeys
    dead_ids: tuple[str, ...]
    assistant_id: str
    epoch: str
    response_id: str
    """The answer to the owner's message, as the Responses dialect names it."""
    thread_id: str
    bearers: dict[str, str | None] = field(default_factory=dict)

    def headers(self, caller: str) -> dict[str, str]:
        bearer = self.bearers[caller]
        return {} if bearer is None else {"Authorization": f"Bearer {bearer}"}

    async def key(self, *scopes: Scope, tenant: str = TENANT, **fields: Any) -> str:
        value, _ = await self.keys.create(tenant=tenant, scopes=scopes, **fields)
        return value

    async def state(self) -> str:
        """Everything that the owner has."""
        store = self.server.queue.store
        seen: list[object] = []
        async for record in store.scan(tenant=TENANT):
            seen += [record, await store.history(record.address), await store.open_messages(record.address)]
        seen += [await store.dead(tenant=TENANT), await store.list("assistant", TENANT)]
        seen += [await store.list("default", TENANT)]
        return repr(seen)


@contextlib.asynccontextmanager
async def guarded(store: str = "memory:", **settings: Any) -> AsyncIterator[Guarded]:
    """Nobody answers here, so that what is stored stays as it is."""
    values = {"auth": "on", "jwt_secret": SECRET, "window": 600.0, "max_wait": 3600.0, **settings}
    async with served(store, role="gateway", **values) as server:
        keys = ApiKeys(server.queue.store)
        dead_ids = tuple([await _dead_letter(server, f"own-dead-{n}") for n in range(2)])
        await _take(server, CHANNEL, MESSAGE_ID)
        made = await server.queue.assistants.create(TENANT, {"instructions": CANARY}, now=0.0)
        await server.queue.assistants.use(TENANT, made.assistant_id)
        record = await server.queue.store.thread(Address(TENANT, server.queue.name, CHANNEL))
        assert record is not None
        response_id = AnswerName(record.thread_id, MESSAGE_ID).id("resp")
        await _take(server, "own-2", MESSAGE_ID)
        other = await server.queue.store.thread(Address(TENANT, server.queue.name, "own-2"))
        assert other is not None
        page = await server.queue.store.read(Address(TENANT, server.queue.name, CHANNEL), after=0)
        house = Guarded(server, keys, dead_ids, made.assistant_id, page.epoch, response_id, other.thread_id)
        house.bearers = await _bearers(keys)
        yield house


async def _take(server: Served, channel: str, message_id: str) -> None:
    address = Address(TENANT, server.queue.name, channel)
    await server.queue.accept([Message(address, message_id, text_content(CANARY), metadata={"about": CANARY})])


async def _dead_letter(server: Served, channel: str) -> str:
    store = server.queue.store
    await _take(server, channel, "poison")
    await store.flush(Address(TENANT, server.queue.name, channel))
    [claim] = await store.claim(owner="tests", limit=1, lease=30.0, queues=(server.queue.name,))
    await store.fail(claim, Failure(TurnFault(ModelRefused.code, ModelRefused.public, CANARY), None))
    return next(one.dead_id for one in await store.dead(tenant=TENANT) if one.address.channel == channel)


async def _bearers(keys: ApiKeys) -> dict[str, str | None]:
    revoked, key = await keys.create(tenant=TENANT, scopes=("send", "read", "admin"))
    await keys.revoke(key.key_id)
    return {
        "owner": token(),
        "other user": token(sub="bob", scope="send read", channels=["bob-*"]),
        "other tenant": token(sub="olga", tenant="rival"),
        "anonymous": None,
        "expired": token(exp=time.time() - 1),
        "wrong audience": token(aud="somebody-else"),
        "revoked": revoked,
    }
