"""Connections to the file: current SQLite, write-ahead log, patient with other processes."""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from turnkeep.errors import StoreMisconfigured

OLDEST = (3, 53, 0)
"""Older releases can lose or damage data when a write-ahead log is reset beside another connection."""

PATIENCE = 10.0
_STEP = 0.0005
LOG_LIMIT = 64 * 1024 * 1024
"""Bytes of the log of changes that are kept once it was written into the file."""


class Patience:
    """Asks for a lock again every half millisecond, evenly, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._until = now + self._seconds
        if now >= self._until:
            return False
        time.sleep(_STEP)
        return True


def check_version(version: str) -> None:
    """Raises `StoreMisconfigured` for a SQLite that is too old."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST:
        wanted = ".".join(str(part) for part in OLDEST)
        raise StoreMisconfigured(f"SQLite {version} is too old, at least {wanted} is needed: upgrade apsw")


def connect_to_write(path: Path, *, patience: float = PATIENCE) -> apsw.Connection:
    connection = _connect(path, patience, pages_kib=16_384)
    if connection.pragma("journal_mode", "wal") != "wal":
        connection.close()
        raise StoreMisconfigured(f"the file system of {path} cannot hold a write-ahead log, use a local disk")
    connection.pragma("synchronous", "full")
    connection.pragma("fullfsync", "on")
    connection.pragma("journal_size_limit", LOG_LIMIT)
    connection.pragma("secure_delete", 1)
    return connection


def connect_to_read(path: Path, *, patience: float = PATIENCE) -> apsw.Connection:
    connection = _connect(path, patience, pages_kib=8_192)
    connection.pragma("query_only", "on")
    return connection


def empty_log(connection: apsw.Connection, *, patience: float = 0.02) -> bool:
    """Write the log into the file and cut it to nothing. False while a reader or writer is in the way: ask again."""
    connection.set_busy_handler(Patience(patience))
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        return False
    finally:
        connection.set_busy_handler(Patience(PATIENCE))
    return True


def _connect(path: Path, patience: float, *, pages_kib: int) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=200)
    connection.set_busy_handler(Patience(patience))
    connection.pragma("cache_size", -pages_kib)
    connection.pragma("temp_store", "memory")
    connection.pragma("trusted_schema", "off")
    return connection
