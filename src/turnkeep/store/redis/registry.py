"""Registry and ledger of the Redis engine: small records, money, pace and circuits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Literal

import orjson

from turnkeep.errors import Conflict
from turnkeep.events import TurnFault
from turnkeep.store.redis.client.pipe import Argument, Reply
from turnkeep.store.redis.codec import dump, exact, flag, parse_json, words
from turnkeep.store.redis.key_names import to_bytes, to_text
from turnkeep.store.redis.part import RedisPart, status_word
from turnkeep.store.shared_ledger import Circuit, Limit, Reservation, Spend
from turnkeep.store.values import Document, RegistryKind

NOTE_INTERVAL = 3_600.0
MOST_NOTES = 10_000

_CANONICAL = orjson.OPT_SORT_KEYS


class RedisRegistry(RedisPart):
    """Small records by kind, tenant and name."""

    async def get(self, kind: RegistryKind, tenant: str, name: str) -> Document | None:
        documents = await self._documents(kind, tenant, to_bytes(name), all_names=False)
        return documents[0] if documents else None

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
        operation = self._operation(once, "put", kind, tenant, name, body, version, ttl)
        expected_version = b"" if version is None else b"%d" % version
        about = (operation, to_bytes(name), _canonical(body), expected_version, exact(ttl))
        reply = await self._on_documents(kind, tenant, "put", *about)
        if status_word(reply) == "conflict":
            raise Conflict(f"{kind} {name!r} has version {reply[1]}, not {version}: read it again")
        self._announce(kind)
        return _document(name, reply)

    async def take(self, kind: RegistryKind, tenant: str, name: str, *, once: str | None = None) -> Document | None:
        operation = self._operation(once, "take", kind, tenant, name)
        reply = await self._on_documents(kind, tenant, "take", operation, to_bytes(name))
        self._announce(kind)
        return None if status_word(reply) == "absent" else _document(name, reply)

    async def list(self, kind: RegistryKind, tenant: str) -> list[Document]:
        return sorted(await self._documents(kind, tenant, b"", all_names=True), key=lambda document: document.name)

    async def _documents(self, kind: str, tenant: str, name: bytes, *, all_names: bool) -> Sequence[Document]:
        key = self._document_keys(kind, tenant)[0]
        reply = await self._link.run_apart("get", key, (key,), self._now(), name, flag(all_names))
        return [_document(to_text(reply[i]), reply[i + 1]) for i in range(0, len(reply), 2)]

    async def _on_documents(self, kind: str, tenant: str, name: str, *arguments: Argument) -> Reply:
        keys = (*self._document_keys(kind, tenant), self._keys.registry("operations"))
        return await self._link.run_apart(name, keys[0], keys, self._now(), *arguments)

    def _document_keys(self, kind: str, tenant: str) -> tuple[bytes, bytes]:
        return self._keys.registry("documents", kind, tenant), self._keys.registry("expiries", kind, tenant)


def _canonical(body: Mapping[str, Any]) -> bytes:
    """Equal for equal bodies."""
    try:
        # Equal bodies are equal bytes: that is how `put.lua` knows that nothing changes.
        return orjson.dumps(dict(body), option=_CANONICAL)
    except TypeError:
        return dump(dict(sorted(body.items())))


def _document(name: str, reply: Sequence[Any]) -> Document:
    _, version, updated_at, body = reply
    return Document(name, version, parse_json(body, "document"), float(updated_at))


class RedisLedger(RedisPart):
    """Money, pace and open circuits, shared by all workers."""

    _ledger_notes: dict[str, float]
    """Tenants that were noted from here, and when."""

    async def reserve(
        self, run_id: str, amount: int, limits: Sequence[Limit], *, tenant: str, once: str | None = None
    ) -> Reservation:
        rows = [value for one in limits for value in (to_bytes(one.account), b"%d" % one.amount, exact(one.keep))]
        await self._note_ledger(tenant)
        operation = self._operation(once, "reserve", run_id, amount, limits, tenant)
        reply = await self._on_ledger("reserve", tenant, operation, to_bytes(run_id), b"%d" % amount, *rows)
        outcome: Literal["granted", "waits", "refused"] = words(reply[0])  # type: ignore[assignment]  # one of the three
        return Reservation(outcome, to_text(reply[1]) if len(reply) > 1 else None)

    async def settle(self, run_id: str, amount: int | None, *, tenant: str, once: str | None = None) -> None:
        operation = self._operation(once, "settle", run_id, amount, tenant)
        await self._on_ledger("settle", tenant, operation, to_bytes(run_id), b"" if amount is None else b"%d" % amount)

    async def sweep(self, *, older_than: float, tenant: str) -> list[str]:
        return [to_text(run_id) for run_id in await self._on_ledger("sweep", tenant, exact(older_than))]

    async def ledgers(self) -> list[str]:
        key = self._keys.registry("ledgers")
        return sorted(to_text(tenant) for tenant in await self._link.call("ledgers", key, None, "ZRANGE", key, 0, -1))

    async def _note_ledger(self, tenant: str) -> None:
        """Ledgers live apart from each other, so who reserves is noted before, now and then."""
        noted_at, moment = self._ledger_notes.get(tenant), monotonic()
        if noted_at is not None and moment - noted_at < NOTE_INTERVAL:
            return
        key = self._keys.registry("ledgers")
        # Before the reservation and not with it: its keys live in another slot. A note without a
        # ledger is harmless, a ledger without a note is never swept.
        await self._link.run_apart("note_ledger", key, (key,), self._now(), to_bytes(tenant))
        if len(self._ledger_notes) >= MOST_NOTES:
            self._ledger_notes.clear()
        self._ledger_notes[tenant] = moment

    async def spend(self, account: str, *, tenant: str) -> Spend:
        settlements, reservations = await self._on_ledger("spend", tenant, to_bytes(account))
        return Spend(int(settlements), int(reservations))

    async def _on_ledger(self, name: str, tenant: str, *arguments: Argument) -> Reply:
        script = self._link.scripts[name]
        keys = tuple(self._keys.ledger(tenant, key) for key in script.keys)
        return await self._link.run_apart(name, keys[0], keys, self._now(), *arguments)

    async def pace(
        self, key: str, *, requests: float, tokens: float, tokens_wanted: int, once: str | None = None
    ) -> float:
        operation = self._operation(once, "pace", key, requests, tokens, tokens_wanted)
        return float(await self._on_pace("pace", key, operation, exact(requests), exact(tokens), exact(tokens_wanted)))

    async def slow_down(self, key: str, seconds: float, *, once: str | None = None) -> None:
        await self._on_pace("slow_down", key, self._operation(once, "slow_down", key, seconds), exact(seconds))
        self._announce()

    async def _on_pace(self, name: str, key: str, *arguments: Argument) -> Reply:
        # Operations of their own, beside the pace: keys of one script must share a slot.
        keys = (self._keys.pace(key), self._keys.pace(key, "operations"))
        return await self._link.run_apart(name, keys[0], keys, self._now(), *arguments)

    async def trip(self, endpoint: str, fault: TurnFault, *, probe_in: float, once: str | None = None) -> Circuit:
        operation = self._operation(once, "trip", endpoint, fault, probe_in)
        about = (to_bytes(endpoint), dump(fault.to_json()), exact(probe_in))
        reply = await self._change_circuits("trip", operation, *about)
        self._announce()
        return _circuit(endpoint, reply)

    async def circuits(self) -> list[Circuit]:
        key = self._keys.registry("circuits")
        reply = await self._link.run_apart("circuits", key, (key,))
        return sorted(
            (_circuit(to_text(reply[i]), reply[i + 1]) for i in range(0, len(reply), 2)),
            key=lambda circuit: circuit.endpoint,
        )

    async def probe(self, endpoint: str, *, every: float, once: str | None = None) -> bool:
        operation = self._operation(once, "probe", endpoint, every)
        return bool(await self._change_circuits("probe", operation, to_bytes(endpoint), exact(every)))

    async def mend(self, endpoint: str, *, once: str | None = None) -> bool:
        operation = self._operation(once, "mend", endpoint)
        was_open = bool(await self._change_circuits("mend", operation, to_bytes(endpoint)))
        self._announce()
        return was_open

    async def _change_circuits(self, name: str, *arguments: Argument) -> Reply:
        keys = (self._keys.registry("circuits"), self._keys.registry("operations"))
        return await self._link.run_apart(name, keys[0], keys, self._now(), *arguments)


def _circuit(endpoint: str, reply: Sequence[bytes]) -> Circuit:
    opened_at, probe_at, fault = reply
    return Circuit(endpoint, TurnFault(**parse_json(fault, "circuit")), float(opened_at), float(probe_at))
