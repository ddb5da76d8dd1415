"""The place of the file: made so that a power cut does not take it away, and looked after while it
is open.

A file that is deleted or replaced stays open and takes every write, and nobody would
ever find them again.
"""

from __future__ import annotations

import errno
import glob
import os
from pathlib import Path

import apsw

from turnkeep import private_file
from turnkeep.errors import StoreMisconfigured, StoreUnavailable

NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "davfs", "fuse.sshfs",
    "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.davfs2",
})  # fmt: skip
"""File systems that several machines mount: SQLite's log needs memory that its users share, and
locks that hold.
"""

_MOUNTS = Path("/proc/self/mountinfo")


DEFAULT_FOLDER = ".turnkeep"
"""Where stores are that nobody has given a place."""

BALLAST = 8_000_000
_CHUNK = 1_000_000


def make_file(path: Path) -> None:
    """The directory, and an empty file that only its owner can read; both stay after a power cut.

    Raises `StoreMisconfigured` where that is not possible, or would begin an empty store in the
    place of one that a restore was about to put back.
    """
    require_whole(path)
    try:
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        # what people wrote is in it: for its owner alone, whatever the umask
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent in missing and path.parent.name == DEFAULT_FOLDER:
            # it lies in somebody's project, whose repository must not take conversations in
            with open(private_file.make(path.parent / ".gitignore"), "w") as rules:
                rules.write("*\n")
        is_new = not path.exists()
        if is_new:
            # Only then: closing a file gives up all locks that this process has on it, also those of
            # SQLite, for whom else this process has opened it (POSIX, fcntl).
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        for new_path in [*missing, *([path] if is_new else [])]:
            sync_folder(new_path.parent)
        # the log is named after the path: by another name another log would be read
        names = os.stat(path).st_nlink
    except OSError as error:
        raise StoreMisconfigured(f"the store {path} cannot be made: {error.strerror}, give another path") from error
    if names > 1:
        raise StoreMisconfigured(
            f"the store {path} has {names} names (hard links), and each would get a log of its own: remove the others"
        )


def require_whole(path: Path) -> None:
    """Raises `StoreMisconfigured` where a restore was interrupted."""
    draft = path.with_name(f"{path.name}.restored")
    if draft.exists():
        raise StoreMisconfigured(
            f"a restore of {path} was interrupted: run `turnkeep restore` again, or remove {draft.name} to go on"
            " with what is there"
        )
    aside = sorted(path.parent.glob(f"{glob.escape(path.name)}.replaced*"))
    if aside and not path.exists():
        raise StoreMisconfigured(
            f"there is no {path}, but {aside[0].name} beside it, which a restore put aside: move it back, or away to"
            " begin an empty store"
        )


def sync_folder(folder: Path) -> None:
    """The names in it survive a power cut from here on. Where folders cannot be synced, nothing
    more can be done.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EISDIR):
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def require_local(path: Path, mounts: Path = _MOUNTS) -> None:
    """Raises `StoreMisconfigured` for a path on a file system of the network; where that cannot be
    known, nothing.
    """
    try:
        table = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    kind, longest = "", -1
    for line in table:
        before, _, after = line.partition(" - ")
        # the kernel writes blanks and backslashes as octal numbers
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        # of two at the same place the later one covers the other
        if len(point.parts) >= longest and path.is_relative_to(point):
            kind, longest = after.split()[0], len(point.parts)
    if kind in NETWORK:
        raise StoreMisconfigured(
            f"the store {path} is on a network file system ({kind}): SQLite cannot rely on its locks and shared memory,"
            " use a local disk, or Redis for several machines; --allow-network-filesystem opens it all the same, for"
            " one machine alone"
        )


class FileIdentity:
    """Remembers which file a path led to."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when nothing is there."""
        self._path = str(path)
        self._identity = _identity(self._path)

    def check(self) -> None:
        """Raises `StoreUnavailable` while something else is there, or nothing. It costs a
        microsecond or two.
        """
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
    status = os.stat(path)
    return status.st_dev, status.st_ino


class Ballast:
    """A file of so many bytes in the folder of a store's owners, for as long as somebody has the
    store open.
    """

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
                # takes the blocks: a sparse file would promise room that is not there
                os.posix_fallocate(handle, 0, self._size)
            else:
                for start in range(0, self._size, _CHUNK):
                    os.write(handle, bytes(min(_CHUNK, self._size - start)))
        finally:
            os.close(handle)

    def is_made_up_for(self, connection: apsw.Connection) -> bool:
        """Whether pages of the file that are free hold as much: deleting gives no room
        back to the disk.
        """
        free_bytes: int = connection.pragma("freelist_count") * connection.pragma("page_size")
        return free_bytes >= self._size

    def free(self) -> bool:
        """Give the room up; whether there was any to give."""
        had_room, self.is_there = self.is_there, False
        self._path.unlink(missing_ok=True)
        return had_room
