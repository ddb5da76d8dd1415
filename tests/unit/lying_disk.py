"""A disk that fails once and does not say so again: what Linux makes of a sync that fails.

Each file has an image of what is on the disk: only what was written before a sync that succeeded. A sync that fails is
told once; the pages count as clean from then on, though they are not on the disk (fsync(2), LSF/MM 2018).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw

Change = tuple[int, bytes] | int
"""What was written at a place, or the size that a file was cut to."""

Choice = Callable[[Sequence[Change]], Sequence[Change]]
"""Which of the changes that no sync was waited for the system has written by itself."""


@dataclass
class Disk:
    """`fails_at`: which call of `fails_in` ("sync" or "write") fails with `error`, by its number from 0."""

    fails_in: str = "sync"
    fails_at: int | None = None
    error: type[apsw.Error] = apsw.IOError
    calls: int = 0
    images: dict[str, bytearray] = field(default_factory=dict)
    unsynced: dict[str, list[Change]] = field(default_factory=dict)
    before_sync: Callable[[], object] = bool
    """Told of each sync before it happens, by the thread that asks for it."""

    @property
    def has_failed(self) -> bool:
        return self.fails_at is not None and self.calls > self.fails_at

    def fails(self, call: str) -> bool:
        if call != self.fails_in:
            return False
        self.calls += 1
        return self.calls - 1 == self.fails_at

    def sync(self, name: str) -> None:
        _apply(self.images[name], self.unsynced[name])
        self.unsynced[name].clear()

    def as_it_is(self) -> Disk:
        """A copy of what is on it now."""
        return replace(self, images=copy.deepcopy(self.images), unsynced=copy.deepcopy(self.unsynced))

    def after_a_power_cut(self, path: Path, folder: Path, written: Choice = lambda changes: ()) -> Path:
        """The store as the machine finds it when it starts again."""
        folder.mkdir()
        for suffix in ("", "-wal"):
            name = f"{path}{suffix}"
            if (image := self.images.get(name)) is not None:
                image = image[:]
                _apply(image, written(self.unsynced[name]))
                (folder / f"{path.name}{suffix}").write_bytes(image)
        return folder / path.name


def _apply(image: bytearray, changes: Sequence[Change]) -> None:
    for change in changes:
        if isinstance(change, int):
            del image[change:]
            continue
        place, data = change
        image.extend(bytes(max(0, place - len(image))))
        image[place : place + len(data)] = data


@contextmanager
def lying_disk(**options: Any) -> Iterator[Disk]:
    """All files that SQLite opens in the block are on such a disk."""
    disk = Disk(**options)

    class File(apsw.VFSFile):
        def __init__(self, name: Any, flags: list[int]) -> None:
            self.name = os.fspath(name.filename() if hasattr(name, "filename") else name or "")
            super().__init__("unix", name, flags)
            if self.name not in disk.images:
                there = Path(self.name).read_bytes() if self.name and Path(self.name).exists() else b""
                disk.images[self.name], disk.unsynced[self.name] = bytearray(there), []

        def xWrite(self, data: Any, offset: int) -> None:  # SQLite's name
            if disk.fails("write"):
                raise disk.error("the disk failed")
            super().xWrite(data, offset)
            disk.unsynced[self.name].append((offset, bytes(data)))

        def xTruncate(self, size: int) -> None:  # SQLite's name
            super().xTruncate(size)
            disk.unsynced[self.name].append(size)

        def xSync(self, flags: int) -> None:  # SQLite's name
            disk.before_sync()
            if disk.fails("sync"):
                disk.unsynced[self.name].clear()
                raise disk.error("the disk failed")
            super().xSync(flags)
            disk.sync(self.name)

    class Files(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("lying", "unix", makedefault=True)

        def xOpen(self, name: Any, flags: list[int]) -> Any:  # SQLite's name
            return File(name, flags)

    files = Files()
    try:
        yield disk
    finally:
        files.unregister()
