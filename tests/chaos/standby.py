"""A replica in the virtual machine: the memory engine as it was at a moment, which takes its own place later on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from turnkeep.store.memory import MemoryStore
from turnkeep.store.memory.state import OperationResult, StoredThread, draft_of
from turnkeep.store.values import Notice


class Standby:
    """What the replica had heard of a store before its wire went dead."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._threads = {address: _copy_of(kept) for address, kept in store.threads.items()}
        self._operations: dict[str, OperationResult] = {name: replace(done) for name, done in store.operations.items()}
        plain = ("wakes", "letters", "totals", "redriven", "_by_thread_id")
        self._plain: dict[str, Any] = {name: dict(getattr(store, name)) for name in plain}
        self._past = {address: dict(ids) for address, ids in store.past.items()}

    def take_over(self, number: int) -> None:
        """Everything since is gone. The logs go on under another epoch, for they may have lost what was told."""
        store = self._store
        store.threads = {address: _renamed(kept, number) for address, kept in self._threads.items()}
        store.operations, store.past = self._operations, self._past
        for name, value in self._plain.items():
            setattr(store, name, value)
        store.bell.ring()
        for feed in store.outbox._feeds:  # their connections end with the server, and they look anew
            for address in [each for names in feed._names.values() for each in names]:
                feed._keep(Notice(address))


def _copy_of(kept: StoredThread) -> StoredThread:
    return replace(
        kept,
        thread=draft_of(kept.thread),
        transcript=list(kept.transcript),
        log=replace(kept.log, events=list(kept.log.events)),
        accepted_ids=dict(kept.accepted_ids),
        runs=list(kept.runs),
    )


def _renamed(kept: StoredThread, number: int) -> StoredThread:
    """As the Redis engine does it: what stands before the dot is the log, what follows its server."""
    epoch = f"{kept.thread.epoch.partition('.')[0]}.{number}"
    kept.thread.epoch = epoch
    kept.log.events = [replace(event, epoch=epoch) for event in kept.log.events]
    return kept
