"""A disk that fails once: in the processes of a storm that share a SQLite file, the next call of one kind fails.

Whoever wants that leaves a file with the name of the kind behind `DISK`; the first process that removes it fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

DISK = "CHAOS_DISK"
"""Names the beginning of the names of those files."""

FAILURES = ("sync", "write", "truncate", "full")


def order_failure(path: Path, kind: str) -> None:
    """Let the next call of this kind fail, whosever it is."""
    Path(f"{path}.{kind}").touch()


def withdraw_failures(path: Path) -> None:
    """What has not failed yet will not."""
    for kind in FAILURES:
        Path(f"{path}.{kind}").unlink(missing_ok=True)


@contextmanager
def failing_disk(path: str) -> Iterator[None]:
    """All that SQLite opens in this process is on such a disk."""
    files = _Files(path)
    try:
        yield
    finally:
        files.unregister()


class _Files(apsw.VFS):
    def __init__(self, path: str) -> None:
        self._path = path
        self._below = apsw.vfs_names()[0]
        super().__init__("failing", self._below, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # the names are SQLite's
        return _File(self._path, self._below, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, path: str, below: str, name: Any, flags: list[int]) -> None:
        self._path = path
        super().__init__(below, name, flags)

    def _fails(self, kind: str) -> bool:
        try:
            os.unlink(f"{self._path}.{kind}")  # of several processes one succeeds
        except FileNotFoundError:
            return False
        return True

    def xWrite(self, data: Any, offset: int) -> None:
        if self._fails("write"):
            raise apsw.IOError("the disk failed in a write")
        if self._fails("full"):
            raise apsw.FullError("the disk is full for a moment")
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        if self._fails("truncate"):
            raise apsw.IOError("the disk failed to cut a file")
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        if self._fails("sync"):
            raise apsw.IOError("the disk failed in a sync")
        super().xSync(flags)
