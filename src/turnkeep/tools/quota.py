"""How much a workspace may hold, and how much of its disk stays free.

A disk that runs full takes the store along, and a file system quota needs an administrator: so it
is counted, before a file is written and again and again while a program runs. What was written
between two looks (a second of a fast disk) may lie above the quota; then the program ends and
nothing more is written.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import field
from pathlib import Path

from turnkeep.errors import ToolFailed
from turnkeep.lean_dataclass import dataclass
from turnkeep.tools import thread_pool

BYTES = 2_000_000_000
FREE_BYTES = 1_000_000_000
FREE_FILES = 10_000
"""Of the disk's file entries, where it has a fixed number of them."""

SMALL_DISK = 10
"""Of a small disk a tenth stays free, not more than all of it."""

LEAST_OF_A_FILE = 4096
"""What a name counts at least: a million empty files fill a disk too."""

LOOK_EVERY = 0.2
PATIENT = 10
"""A count that takes long is made less often: so many times its own duration lies between two."""

_FRESH = 2.0


class Full(ToolFailed):
    """the workspace holds what it may hold, or its disk is nearly full"""


@dataclass(slots=True)
class DiskQuota:
    """The bounds of one workspace."""

    root: Path
    bytes: int = BYTES
    free: int = FREE_BYTES
    _size: int = field(default=0, init=False)
    _counted_at: float = field(default=float("-inf"), init=False)

    def demand(self, more: int) -> None:
        """Room for so many bytes more. Blocking. Raises `Full` with a sentence."""
        if (fault := self._disk()) is not None:
            raise Full(fault)
        if time.monotonic() - self._counted_at > _FRESH:
            self._count()
        if self._size + more > self.bytes:
            raise Full(f"{self._sentence()}; remove something first")
        # counted along until the next look, else a burst of writes would all pass one count
        self._size += more

    async def wait_exceeded(self) -> str:
        """Return, once there is more than there may be, why.

        What lies there already may stay, and be removed.
        """
        bound = max(self.bytes, await thread_pool.shared_threads.run(self._count))
        counted_at, took = time.monotonic(), 0.0
        while True:
            if (fault := self._disk()) is not None:
                return fault
            if time.monotonic() - counted_at >= PATIENT * took:
                counted_at = time.monotonic()
                if await thread_pool.shared_threads.run(self._count) > bound:
                    return self._sentence()
                took = time.monotonic() - counted_at
            await asyncio.sleep(LOOK_EVERY)

    def _sentence(self) -> str:
        return f"the workspace may hold {self.bytes} bytes and would hold more"

    def _disk(self) -> str | None:
        """What is wrong with the disk; None if enough is free."""
        disk = os.statvfs(self.root)
        floor = min(self.free, disk.f_blocks * disk.f_frsize // SMALL_DISK)
        if disk.f_bavail * disk.f_frsize < floor:
            return f"the disk of the workspace has less than {floor} bytes free"
        if disk.f_files > FREE_FILES * 2 and disk.f_favail < FREE_FILES:
            return f"the disk of the workspace has room for less than {FREE_FILES} files"
        return None

    def _count(self) -> int:
        self._size, self._counted_at = disk_usage(self.root, self.bytes), time.monotonic()
        return self._size


def disk_usage(root: Path, opaque_size: int) -> int:
    """Bytes on disk beneath a directory.

    One that cannot be looked into counts as `opaque_size`: it may hide anything.
    """
    total = 0
    waiting = [str(root)]
    inodes: set[int] = set()
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    # hard links are one file
                    if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if status.st_ino in inodes:
                            continue
                        inodes.add(status.st_ino)
                    # blocks, not lengths: a sparse file of a terabyte takes none
                    total += max(LEAST_OF_A_FILE, status.st_blocks * 512)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:
            total += opaque_size
    return total
