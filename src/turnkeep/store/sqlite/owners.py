"""Lock files that say which owners live: a lock dies with its process, whatever happened to it.

An owner that holds leases holds ``<store>.owners/<digest>.lock``. Another process that can take
this lock knows that the owner is gone, at once and without comparing clocks. A lock that is not
there says nothing: somebody may have tidied the folder away. Then, and where the system has no such
locks, leases run out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from turnkeep.errors import StoreUnavailable
from turnkeep.store.values import LAYOUT

LOOKS, LOOK = 50, 0.005
"""How often, and after how many seconds each, a lock is asked for again that a look may hold."""
GRAIN = 3.0
"""Seconds after which a change of the folder has another time than the one before, on any file system."""

if sys.platform != "win32":
    import fcntl

    def _lock(handle: int, *, is_look: bool = False) -> bool:
        try:
            # not fcntl's record locks: a process loses those when it closes any handle of the file
            fcntl.flock(handle, (fcntl.LOCK_SH if is_look else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
else:
    # without such locks nobody is ever known to be gone, and leases run out
    def _lock(handle: int, *, is_look: bool = False) -> bool:
        return False


# A child inherits the handles, and flock belongs to the handle: while the child lives its parent
# would seem to.
_INSTANCES: weakref.WeakSet[Owners] = weakref.WeakSet()


class Owners:
    """The owners of this opened store, and a look at those of others."""

    def __init__(self, directory: Path, layout: int = LAYOUT) -> None:
        self._directory, self._directory_name = directory, str(directory)
        self._layout = layout
        self._handles: dict[str, int] = {}
        self._folder_at = -1
        self._folder_seen_at = 0.0
        self._is_alone = False
        """Nobody else had a file at a look after which one that comes changes the time of the folder."""
        _INSTANCES.add(self)

    def __contains__(self, owner: object) -> bool:
        return owner in self._handles

    def hold(self, owner: str) -> None:
        """Lock the file of this owner until the process ends or `let_go`. Again for
        the same owner: nothing.
        """
        if owner in self._handles:
            return
        try:
            self._handles[owner] = self._take_lock(owner)
        except OSError as error:
            raise StoreUnavailable(f"no lock file can be made in {self._directory}: {error.strerror}") from error

    def _take_lock(self, owner: str) -> int:
        """The handle; -1 if another process has this owner."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        handle = _open_locked(self._path(owner))
        if handle is None:
            return -1
        with contextlib.suppress(OSError):  # what it says is for people; the lock counts
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()}, {owner}, layout {self._layout}\n".encode("utf-8", "replace"))
        return handle

    def renew(self) -> None:
        """Make lock files again that somebody has removed, before others ask for them."""
        for owner, handle in list(self._handles.items()):
            if handle >= 0 and not _is_same(handle, self._path(owner)):
                with contextlib.suppress(OSError):  # tried again in a moment
                    self._handles[owner] = self._take_lock(owner)
                    os.close(handle)

    def is_gone(self, owner: str) -> bool:
        """Whether it is known that no process holds this owner's lock any more."""
        return owner not in self._handles and _state_of(self._path(owner)) == "free"

    def has_dead(self, leaseholders: Collection[str]) -> bool:
        """Whether there are files of the dead, other than of these."""
        return any(_state_of(path) == "free" for path in self._files_of_others(leaseholders))

    def remove_dead(self, leaseholders: Collection[str]) -> None:
        """Remove the files of the dead, but of those who have leases: the file is all by which others
        know that they are gone. The caller sees to it that nobody takes a lease meanwhile.
        """
        for path in self._files_of_others(leaseholders):
            _remove_if_free(path)

    @property
    def changed_at(self) -> int:
        """Another number after an owner has come or gone, nearly always: a file system tells moments
        of a few milliseconds apart.
        """
        try:
            return os.stat(self._directory_name).st_mtime_ns  # of a text: this is asked every few milliseconds
        except FileNotFoundError:
            return 0

    def may_have_changed(self) -> bool:
        """Whether anybody may have come, gone or died since this was asked last, or files of ours. Where
        nobody else has a file here, the folder tells.
        """
        folder_at, now = self.changed_at, time.monotonic()
        if folder_at != self._folder_at:
            self._folder_at, self._folder_seen_at, self._is_alone = folder_at, now, False
        if self._is_alone:
            return False
        # who dies leaves his file, and the folder as it is: where there are files they have to be asked
        self._is_alone = now - self._folder_seen_at > GRAIN and not self._files_of_others(())
        return True

    def others(self) -> list[str]:
        """Who else has the store open, each with process id, name and layout."""
        return [_first_line(path) for path in self._files_of_others(()) if _state_of(path) == "held"]

    def let_go(self) -> None:
        """Release all locks, and remove their files and the directory once it is empty."""
        for owner, handle in self._handles.items():
            if handle >= 0:
                if _is_same(handle, self._path(owner)):
                    self._path(owner).unlink(missing_ok=True)
                os.close(handle)
        self._handles.clear()
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    def abandon(self) -> None:
        """In a forked child: close the handles, so that the parent alone keeps its locks."""
        for handle in self._handles.values():
            if handle >= 0:
                os.close(handle)
        self._handles.clear()

    def _files_of_others(self, but_of: Collection[str]) -> list[Path]:
        """The files of other owners, but of these."""
        left_out = {self._path(owner).name for owner in (*self._handles, *but_of)}
        paths = sorted(self._directory.glob("*.lock")) if self._directory.exists() else []
        return [path for path in paths if path.name not in left_out]

    def _path(self, owner: str) -> Path:
        # owners have any name, files do not
        name = hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self._directory / f"{name}.lock"


def _open_locked(path: Path) -> int | None:
    """A handle with the lock; None if another process has it. The file may be removed in between:
    then again.
    """
    tries = 0
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        has_lock = _lock(handle)
        if has_lock and _is_same(handle, path):
            return handle
        os.close(handle)
        if not has_lock:
            # Whoever looks whether this owner lives holds the lock for a moment, and looks just when a
            # file appears. Taken for another holder, we would have no lock, and nobody would see us.
            tries += 1
            if tries > LOOKS or sys.platform == "win32":
                return None
            time.sleep(LOOK)


def _state_of(path: Path) -> Literal["absent", "held", "free"]:
    """How the lock is. A free file stays: who looks may be killed before it has freed what the dead
    had leased, and the next has to see that as well.
    """
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return "absent"
    except OSError:  # of another user, or no file at all: nothing says that its owner is gone
        return "held"
    try:
        # shared, so that two who look at once do not take each other for the owner
        return "free" if _lock(handle, is_look=True) else "held"
    finally:
        os.close(handle)


def _remove_if_free(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:  # gone meanwhile, or not ours
        return
    try:
        # removed while it is locked: nobody can lock the file between the look and its end
        if _lock(handle) and _is_same(handle, path):
            with contextlib.suppress(OSError):
                path.unlink()
    finally:
        os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _first_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip()
    return path.stem


def _abandon_all() -> None:
    for owners in list(_INSTANCES):
        owners.abandon()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_abandon_all)
