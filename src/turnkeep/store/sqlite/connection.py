"""Connections to the file: current SQLite, write-ahead log, patient with other processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw

from turnkeep.errors import InvalidMessage, OutcomeUnknown, StoreError, StoreFull, StoreMisconfigured, StoreUnavailable

OLDEST = (3, 53, 0)
"""Older releases can lose or damage data when a write-ahead log is reset beside another connection.
"""

PATIENCE = 10.0
_STEP = 0.001
LOG_LIMIT = 64 * 1024 * 1024
"""Bytes of the log of changes that are kept once it was written into the file."""

CHECKPOINT = 4_000
"""Pages in the log of changes after which they are written into the file."""

_Kinds = tuple[type[apsw.Error], ...]

# A table, so that no error of SQLite reaches anybody without the path and what to do; the first
# that fits counts.
_MEANINGS: tuple[tuple[_Kinds, type[StoreError], str], ...] = (
    ((apsw.FullError,), StoreFull, "the disk of {path} is full, free some space; runs in progress still end"),
    (
        (apsw.BusyError, apsw.LockedError, apsw.ProtocolError),
        StoreUnavailable,
        "another process keeps the store {path} locked, look for one that hangs",
    ),
    ((apsw.NotADBError,), StoreMisconfigured, "{path} is not a turnkeep store, give another path or move it away"),
    (
        (apsw.CorruptError,),
        StoreError,
        "the store {path} is damaged, stop turnkeep and put a backup in its place with `turnkeep restore`",
    ),
    (
        (apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError),
        StoreUnavailable,
        "the store {path} cannot be written, check its permissions and those of its directory",
    ),
    ((apsw.CantOpenError,), StoreUnavailable, "the store {path} cannot be opened, check that it and its disk exist"),
    ((apsw.IOError,), StoreUnavailable, "reading or writing {path} failed, check its disk"),
)


class Patience:
    """Asks for a lock again every millisecond, evenly, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._until = now + self._seconds
        if now >= self._until:
            return False
        # SQLite's own handler sleeps longer after every try, up to 100 ms: who waits longest would
        # ask least often, and under load never have the lock
        time.sleep(_STEP)
        return True


def check_version(version: str) -> None:
    """Raises `StoreMisconfigured` for a SQLite that is too old."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST:
        minimum = ".".join(str(part) for part in OLDEST)
        raise StoreMisconfigured(f"SQLite {version} is too old, at least {minimum} is needed: upgrade apsw")


def connect_to_write(path: Path, *, patience: float = PATIENCE) -> apsw.Connection:
    connection = _connect(path, patience, pages_kib=16_384)
    try:
        mode = _begin_log(connection, Patience(patience))
    except apsw.Error:
        connection.close()
        raise
    if mode != "wal":
        connection.close()
        raise StoreMisconfigured(f"the file system of {path} cannot hold a write-ahead log, use a local disk")
    # with a write-ahead log "normal" syncs at checkpoints alone: a power cut would
    # take what was acknowledged
    connection.pragma("synchronous", "full")
    # for macOS, whose plain fsync leaves data in the cache of the disk
    connection.pragma("fullfsync", "on")
    # the log would stay as long as it ever was, because one that is begun anew is overwritten and
    # not cut
    connection.pragma("journal_size_limit", LOG_LIMIT)
    # every checkpoint writes each page once, however often it is in the log: SQLite's own thousand
    # pages are a second of many threads
    connection.wal_autocheckpoint(CHECKPOINT)
    # pages that are free would keep the words of threads that were forgotten
    connection.pragma("secure_delete", 1)
    return connection


def connect_to_read(path: Path, *, patience: float = PATIENCE) -> apsw.Connection:
    connection = _connect(path, patience, pages_kib=8_192)
    # a reader that writes by mistake has to fail: the one writer decides what is stored, and in
    # which order
    connection.pragma("query_only", "on")
    return connection


def empty_log(connection: apsw.Connection, *, patience: float = 0.02) -> bool:
    """Write the log into the file and cut it to nothing. False while a reader or writer is in the
    way: ask again.
    """
    connection.set_busy_handler(Patience(patience))
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        return False
    finally:
        connection.set_busy_handler(Patience(PATIENCE))
    return True


def _begin_log(connection: apsw.Connection, patience: Patience) -> str:
    # SQLite reads the file first and then wants to write. Who finds another one between the two is
    # refused at once, without its busy handler: of two readers that wait to write, neither would get on.
    tries = 0
    while True:
        try:
            mode: str = connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if not patience(tries):
                raise
            tries += 1
        else:
            return mode


def _connect(path: Path, patience: float, *, pages_kib: int) -> apsw.Connection:
    # Also to read: readers of a write-ahead log write the memory that they share with the writer.
    # Without CREATE: the file was made by `make_file`, and one that is missing now must not begin
    # as an empty store.
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=200)
    connection.set_busy_handler(Patience(patience))
    # plans by the statement alone: else those with an index to choose are made anew for all values, which
    # costs more than most of them do, and there is nothing to choose by (nobody runs ANALYZE)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.pragma("cache_size", -pages_kib)
    # sorting would spill to another disk, which may be full, and leave words of threads there
    connection.pragma("temp_store", "memory")
    # what SQLite advises for files that others may have prepared: their schema runs no functions
    connection.pragma("trusted_schema", "off")
    return connection


def every(
    connection: apsw.Connection, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = connection.execute(statement, values).fetchall()
    return rows


def one(connection: apsw.Connection, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> tuple[Any, ...]:
    """The first row, which has to be there."""
    return every(connection, statement, values)[0]


def meaning(error: apsw.Error, path: Path) -> StoreError:
    """The error to raise instead."""
    for kinds, error_type, sentence in _MEANINGS:
        if isinstance(error, kinds):
            return error_type(f"{sentence.format(path=path)} ({error})")
    return StoreError(f"the store {path} failed: {type(error).__name__}: {error}")


def no_text(error: UnicodeEncodeError) -> InvalidMessage:
    """A name that SQLite cannot hold as text."""
    # Python's strings hold lone surrogates and UTF-8 does not: the caller is wrong, not the store
    return InvalidMessage(f"a name holds half a character at place {error.start}, send well-formed text")


def at_open(error: apsw.Error, path: Path) -> StoreError:
    """While opening, what cannot be written or found is wrong until somebody corrects it."""
    store_error = meaning(error, path)
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.CantOpenError):
        return StoreMisconfigured(str(store_error))
    return store_error


def at_commit(error: apsw.Error, path: Path) -> StoreError:
    """A failed sync leaves open what a crash would keep of the transaction."""
    store_error = meaning(error, path)
    return OutcomeUnknown(str(store_error)) if isinstance(error, apsw.IOError) else store_error
