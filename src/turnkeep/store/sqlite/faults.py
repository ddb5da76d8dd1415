"""What SQLite reports, as our errors: a sentence with the file, and what to do."""

from __future__ import annotations

from pathlib import Path

import apsw

from turnkeep.errors import InvalidMessage, OutcomeUnknown, StoreError, StoreFull, StoreMisconfigured, StoreUnavailable

_Kinds = tuple[type[apsw.Error], ...]

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


def meaning(error: apsw.Error, path: Path) -> StoreError:
    """The error to raise instead."""
    for kinds, raised, sentence in _MEANINGS:
        if isinstance(error, kinds):
            return raised(f"{sentence.format(path=path)} ({error})")
    return StoreError(f"the store {path} failed: {type(error).__name__}: {error}")


def no_text(error: UnicodeEncodeError) -> InvalidMessage:
    """A name that SQLite cannot hold as text."""
    return InvalidMessage(f"a name holds half a character at place {error.start}, send well-formed text")


def at_open(error: apsw.Error, path: Path) -> StoreError:
    """While opening, what cannot be written or found is wrong until somebody corrects it."""
    found = meaning(error, path)
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.CantOpenError):
        return StoreMisconfigured(str(found))
    return found


def at_commit(error: apsw.Error, path: Path) -> StoreError:
    """A failed sync leaves open what a crash would keep of the transaction."""
    found = meaning(error, path)
    return OutcomeUnknown(str(found)) if isinstance(error, apsw.IOError) else found
