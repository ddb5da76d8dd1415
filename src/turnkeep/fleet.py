"""The fleet: the processes that run with one store. Each says so itself, every few seconds.

Nobody decides by it: leases alone say who owns a thread. It is for people, who want to see who
works, how much is in hand, and who has gone silent.
"""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from turnkeep.errors import StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import ALL_TENANTS
from turnkeep.store.contract import Registry, Store
from turnkeep.telemetry import get_log

log = get_log(__name__)

BEAT = 10.0
"""Seconds between two words of a process."""
SILENT_AFTER = 3 * BEAT
"""Seconds after which a process counts as silent: killed, stopped, or cut off from the store."""
KEEP_SILENT = 600.0
"""Seconds for which a process that ended without a word is listed as silent."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process: where it runs, what it does, and how much of it. Moments are the store's.

    `slots`: runs that it works on at once (0: it answers nothing); `active_runs`: those in hand.
    """

    name: str
    host: str
    pid: int
    role: str
    version: str
    queues: tuple[str, ...]
    slots: int
    active_runs: int
    started_at: float
    renewed_at: float

    def is_silent(self, now: float) -> bool:
        return now - self.renewed_at > SILENT_AFTER

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"queues": list(self.queues)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        values = {f.name: data[f.name] for f in fields(cls)}
        return cls(**values | {"queues": tuple(data["queues"])})


async def list_processes(store: Registry) -> list[ProcessRecord]:
    """Who runs with this store, or has ended without a word within `KEEP_SILENT`; by role and host."""
    documents = await store.list("process", ALL_TENANTS)
    records = [ProcessRecord.from_json(document.body) for document in documents]
    return sorted(records, key=lambda record: (record.role, record.host, record.pid))


class Heartbeat:
    """Says for one process that it is there. `active_runs` is asked at each beat."""

    def __init__(
        self, store: Store, *, role: str, queues: Sequence[str], slots: int, active_runs: Callable[[], int]
    ) -> None:
        self._store = store
        self._role = role
        self._queues = tuple(queues)
        self._slots = slots
        self._active_runs = active_runs
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._started_at: float | None = None

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            try:
                await self._beat()
            except StoreError as error:
                log.warning("heartbeat_failed", error=str(error))
            await asyncio.sleep(BEAT)

    async def _beat(self) -> None:
        now = await self._store.now()
        if self._started_at is None:
            self._started_at = now
        record = ProcessRecord(
            name=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            role=self._role,
            version=_version(),
            queues=self._queues,
            slots=self._slots,
            active_runs=self._active_runs(),
            started_at=self._started_at,
            renewed_at=now,
        )
        await self._store.put("process", ALL_TENANTS, self._name, record.to_json(), ttl=KEEP_SILENT)

    async def end(self) -> None:
        """Leave the list: whoever ends in order is not silent, but gone."""
        if self._started_at is None:
            return
        with suppress(StoreError, TimeoutError):
            # it must not hold up an end in order: the list forgets the process by itself
            async with asyncio.timeout(2.0):
                await self._store.take("process", ALL_TENANTS, self._name)


# Asked once: it is read and parsed from a file, which is more than all else that a beat costs.
@functools.cache
def _version() -> str:
    try:
        return version("turnkeep")
    except PackageNotFoundError:
        return ""
