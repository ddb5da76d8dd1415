"""Room on the disk that is given up when it is full, so that runs in progress can still end."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

BALLAST = 8_000_000
_CHUNK = 1_000_000


class Ballast:
    """A file of so many bytes in the folder of a store's owners, for as long as somebody has the store open."""

    def __init__(self, path: Path, size: int = BALLAST) -> None:
        self._path = path
        self._size = size
        self.is_there = False

    def fill(self) -> bool:
        """Take the room, if there is enough; whether it is taken now."""
        if not (self.is_there and self._path.exists()):
            try:
                self._take()
                self.is_there = True
            except OSError:
                self.is_there = False
                self._path.unlink(missing_ok=True)
        return self.is_there

    def _take(self) -> None:
        if self._path.exists() and self._path.stat().st_size == self._size:
            return
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            if self._size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, self._size)
            else:
                for start in range(0, self._size, _CHUNK):
                    os.write(handle, bytes(min(_CHUNK, self._size - start)))
        finally:
            os.close(handle)

    def is_made_up_for(self, connection: apsw.Connection) -> bool:
        """Whether pages of the file that are free hold as much: deleting gives no room back to the disk."""
        freed: int = connection.pragma("freelist_count") * connection.pragma("page_size")
        return freed >= self._size

    def free(self) -> bool:
        """Give the room up; whether there was any to give."""
        had_room, self.is_there = self.is_there, False
        self._path.unlink(missing_ok=True)
        return had_room
