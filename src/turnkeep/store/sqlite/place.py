"""The place of the file: whether its path still leads to what was opened.

A file that is deleted or replaced stays open and takes every write, and nobody would ever find them again.
"""

from __future__ import annotations

import os
from pathlib import Path

from turnkeep.errors import StoreUnavailable


class Place:
    """Remembers which file a path led to."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when nothing is there."""
        self._path = str(path)
        self._identity = _identity(self._path)

    def check(self) -> None:
        """Raises `StoreUnavailable` while something else is there, or nothing. It costs a microsecond or two."""
        try:
            is_ours = _identity(self._path) == self._identity
        except FileNotFoundError:
            raise StoreUnavailable(
                f"the store {self._path} was deleted or moved while it is open: put it back, or start again"
            ) from None
        except OSError as error:
            raise StoreUnavailable(f"the store {self._path} cannot be looked at: {error.strerror}") from None
        if not is_ours:
            raise StoreUnavailable(
                f"the store {self._path} was replaced by another file while it is open: start again to use that one"
            )


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
