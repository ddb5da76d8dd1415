"""Copies of a store: taken while it runs, put back while nobody uses it."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from turnkeep.errors import StoreMisconfigured, StoreUnavailable
from turnkeep.store.sqlite import layout
from turnkeep.store.sqlite.connection import at_open, connect_to_read, connect_to_write, empty_log, every, meaning
from turnkeep.store.sqlite.file_identity import sync_folder
from turnkeep.store.sqlite.owners import Owners
from turnkeep.store.values import LAYOUT

_CARRY_CONDITION = """
    kind IN ('revocation', 'audit') OR (kind = 'setting' AND name = 'revocations')
    OR (kind = 'key' AND body ->> '$.revoked_at' IS NOT NULL)
"""
"""What the store that is replaced knows better than the backup: who was sent away since, and what
has happened.
"""

PATIENCE = 10.0


def owners_of(path: Path) -> Path:
    """Where the lock files of a store's owners are."""
    return path.with_name(f"{path.name}.owners")


def backup(path: Path, target: Path) -> int:
    """Copy a store, in use or not, to a file that is complete and checked; its size in bytes.

    Holds everything that was acknowledged before the
    call. Raises `StoreMisconfigured`, `StoreError`.
    """
    _must_exist(path)
    if target.exists():
        raise StoreMisconfigured(f"{target} exists already, give another name for the backup")
    try:
        with closing(connect_to_read(path)) as connection:
            layout.layout_of(connection, path)
            layout.copy_to(connection, target)
    except apsw.Error as error:
        raise meaning(error, path) from error
    except OSError as error:
        raise StoreMisconfigured(f"the backup {target} cannot be written: {error.strerror}") from error
    return target.stat().st_size


def restore(source: Path, path: Path) -> None:
    """Put a backup in the place of a store that nobody uses; what was there is kept as
    `place_aside` says.

    All epochs change, so that subscribers begin anew. Keys and users that were sent away since stay
    so, the audit trail is that of the store that is replaced, and tickets and sessions of the
    backup are over. Raises `StoreMisconfigured` while the store is in use, or when
    the backup is none.
    """
    _must_exist(source)
    path = path.resolve()
    if path.exists() and source.samefile(path):
        raise StoreMisconfigured(f"{source} is the store itself, give the name of a backup")
    _must_be_free(path)
    # beside the store, so that it comes into place by a rename, which is whole or not at all
    draft = path.with_name(f"{path.name}.restored")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            source_layout = layout.layout_of(connection, source)
            if source_layout > LAYOUT:
                raise StoreMisconfigured(
                    f"the backup {source} has layout {source_layout}, newer than {LAYOUT}: upgrade"
                )
            layout.copy_to(connection, draft)
        _begin_anew(draft, _documents_to_carry(path))
    except apsw.Error as error:
        raise at_open(error, source) from error
    _put_in_place(draft, path)


def place_aside(path: Path) -> Path:
    """Where `restore` keeps the old file: ``<path>.replaced``, and with a number where something is
    kept already.
    """
    names = itertools.chain([f"{path.name}.replaced"], (f"{path.name}.replaced-{n}" for n in itertools.count(2)))
    return next(aside for name in names if not (aside := path.with_name(name)).exists())


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise StoreMisconfigured(f"there is no file {path}")


def _must_be_free(path: Path) -> None:
    """Nobody has the store open: neither one of us, nor a tool of SQLite."""
    # their lock files, because a store that is open and idle holds no lock of SQLite
    if users := Owners(owners_of(path)).others():
        raise StoreMisconfigured(f"the store {path} is in use ({users[0]}), stop it first")
    if not path.exists():
        return
    try:
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            # tools of others have no lock file: they are found by the locks of SQLite itself
            connection.pragma("locking_mode", "exclusive")
            connection.execute("BEGIN EXCLUSIVE; COMMIT")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        raise StoreMisconfigured(f"the store {path} is in use by another program, stop it first") from None
    except apsw.Error:
        return  # damaged: the reason why it is replaced


def _documents_to_carry(path: Path) -> list[tuple[Any, ...]]:
    """These documents of the store that is replaced; none if it cannot be read."""
    if not path.exists():
        return []
    columns = "kind, tenant, name, version, updated_at, expires_at, body"
    statement = f"SELECT {columns} FROM document WHERE {_CARRY_CONDITION}"  # noqa: S608  # our own condition
    try:
        with closing(connect_to_read(path)) as connection:
            return every(connection, statement)
    except apsw.Error:
        return []  # damaged: the reason why it is replaced


def _begin_anew(path: Path, documents: Sequence[tuple[Any, ...]]) -> None:
    with closing(connect_to_write(path)) as connection, layout.alone(connection):
        # what was used up since would be good again
        connection.execute("DELETE FROM document WHERE kind = 'ticket'")
        connection.executemany(
            "REPLACE INTO document (kind, tenant, name, version, updated_at, expires_at, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            documents,
        )
        layout.change_epochs(connection, lambda: secrets.token_hex(4))
        layout.put(connection, "open", 0)
        layout.put(connection, "restored", 1)


def _put_in_place(draft: Path, path: Path) -> None:
    """The old file goes aside with its log, which belongs to it alone. Each step is on the disk
    before the next, and the draft keeps its name to the last: while it is there, nobody opens the
    store (`require_whole`).
    """
    sync_folder(path.parent)
    aside = place_aside(path)
    for suffix in ("-wal", "-shm", ""):
        old = path.with_name(f"{path.name}{suffix}")
        if old.exists():
            old.replace(aside.with_name(f"{aside.name}{suffix}"))
            sync_folder(path.parent)
    draft.replace(path)
    sync_folder(path.parent)


def vacuum(path: Path) -> tuple[int, int]:
    """Write the file anew, in use or not; its sizes in bytes before and after. Others
    wait for it meanwhile.

    Needs as much room again. Raises `StoreMisconfigured`, `StoreError`.
    """
    if not path.is_file():
        raise StoreMisconfigured(f"there is no file {path}")
    before = path.stat().st_size
    try:
        with closing(connect_to_write(path)) as connection:
            layout.layout_of(connection, path)
            # in place: a new file under the old name would leave whoever has it open
            # with the old one
            connection.execute("VACUUM")
            if not empty_log(connection, patience=PATIENCE):
                raise StoreUnavailable(f"somebody reads the store {path} without end, end that and try again")
    except apsw.Error as error:
        raise meaning(error, path) from error
    return before, path.stat().st_size
