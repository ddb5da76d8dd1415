"""A directory that file tools may not leave: the kernel resolves every path beneath it (Linux).

Paths are opened with `openat2` and RESOLVE_BENEATH, so that `..`, absolute paths, symbolic links
and anything that changes while it is looked at cannot lead out. Symbolic links are not followed at
all, hidden names are refused except a few harmless ones, only regular files are opened. There is no
fallback: without `openat2` a workspace is refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from turnkeep.errors import ConfigurationError, ToolFailed
from turnkeep.tools.quota import DiskQuota

VISIBLE = frozenset({".gitignore", ".gitattributes", ".gitkeep", ".editorconfig", ".dockerignore"})
"""Hidden names that may be read and written; all others may not (.git, .ssh, .env, .bashrc …)."""

LONGEST_PATH = 1024
MOST_PARTS = 64

_OPENAT2 = 437
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_RACES = 16
"""How often a look-up is tried again that the kernel gave up because of a rename beside it."""


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class Workspace:
    """The root of the file tools. Blocking calls: use it in a thread."""

    def __init__(self, root: Path, quota: DiskQuota | None = None) -> None:
        if not openat2_works():
            raise ConfigurationError("file tools need openat2 (Linux 5.6 or newer); this system does not have it")
        if not root.is_absolute() or not root.is_dir() or root.resolve() == Path("/"):
            raise ConfigurationError(f"workspace {str(root)!r} must be an absolute path of a directory other than /")
        self.root = root.resolve()
        self.quota = quota or DiskQuota(self.root)

    def read(self, path: str, most: int) -> bytes:
        """The bytes of a regular file of at most `most` bytes."""
        parts = _parts(path)
        with (
            self._directory(parts[:-1]) as directory,
            _explain_failures(path),
            _open(directory, parts[-1], os.O_PATH) as descriptor,
        ):
            _demand_regular(os.fstat(descriptor), path)
            # opened anew: a descriptor made with O_PATH cannot be read, and only regular files come
            # this far
            # O_NONBLOCK: had it become a FIFO meanwhile, opening would hold the thread for ever
            with _open(directory, parts[-1], os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as file:
                status = os.fstat(file)
                _demand_regular(status, path)
                if status.st_size > most:
                    raise ToolFailed(f"{path!r} has {status.st_size} bytes, more than the {most} that are read")
                return _read_all(file, most, path)

    def write(self, path: str, content: bytes) -> bool:
        """Replace a regular file in one step, or make it and its directories.

        Whether there was one before.
        """
        parts = _parts(path)
        self.quota.demand(len(content))
        with self._directory(parts[:-1], create=True) as directory, _explain_failures(path):
            mode = _mode_of(directory, parts[-1], path)
            # in the same directory: a rename over file systems is none. Hidden, so that no tool
            # reads half a file.
            temporary = f".turnkeep-{secrets.token_hex(8)}"
            try:
                _write_new(directory, temporary, content, mode=mode or 0o644)
                os.rename(temporary, parts[-1], src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            # a file is on disk only with its name: without this the rename may be
            # undone by a crash
            os.fsync(directory)
        return mode is not None

    @contextmanager
    def hold_directory(self, name: str) -> Iterator[int | None]:
        """A descriptor of a directory right beneath the root; None if there is none, or a link."""
        with self._directory([]) as root:
            try:
                descriptor = _open_beneath(root, name, os.O_PATH | os.O_DIRECTORY)
            except OSError:
                yield None
                return
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _directory(self, parts: list[str], *, create: bool = False) -> Iterator[int]:
        """A descriptor of the directory that these names lead to, made on the way if asked."""
        current = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for depth, name in enumerate(parts):
                with _explain_failures("/".join(parts[: depth + 1])):
                    inner = _enter(current, name, create=create)
                os.close(current)
                current = inner
            yield current
        finally:
            os.close(current)


def openat2_works() -> bool:
    """Whether this system can resolve paths beneath a directory."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(_open_beneath(root, ".", os.O_PATH | os.O_DIRECTORY))
    except (OSError, AttributeError):
        return False
    finally:
        os.close(root)
    return True


def _parts(path: str) -> list[str]:
    """The names of a relative path.

    What could lead out or to hidden places is refused with a sentence.
    """
    if not path or len(path) > LONGEST_PATH or not path.isprintable():
        raise ToolFailed(f"a path has 1 to {LONGEST_PATH} printable characters")
    if path.startswith(("/", "~")):
        raise ToolFailed(f"{path!r} is not relative; give a path beneath the workspace, such as 'notes/today.md'")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or len(parts) > MOST_PARTS or path.endswith(("/", "/.")):
        raise ToolFailed(f"{path!r} does not name a file")
    for part in parts:
        if part == "..":
            raise ToolFailed(f"{path!r} leads upwards; give a path beneath the workspace")
        if part.startswith(".") and part not in VISIBLE:
            raise ToolFailed(f"{path!r} is hidden; names that begin with a dot are not open to tools")
    return parts


@contextmanager
def _explain_failures(path: str) -> Iterator[None]:
    """Failures of the system as sentences, without the path of the workspace."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ToolFailed(f"{path!r} is or goes through a symbolic link; links are not followed") from None
        if error.errno == errno.ENOTDIR:
            raise ToolFailed(f"{path!r} is no directory; symbolic links are not followed") from None
        if error.errno == errno.EXDEV:
            raise ToolFailed(f"{path!r} leads out of the workspace") from None
        if error.errno == errno.EAGAIN:
            raise ToolFailed(f"{path!r} keeps changing; try again") from None
        raise ToolFailed(f"{path!r}: {os.strerror(error.errno or 0).lower()}") from None


def _open_beneath(directory: int, name: str, flags: int, *, mode: int = 0) -> int:
    """`openat2` beneath a directory. Raises OSError."""
    # by its number: Python has no openat2
    library = ctypes.CDLL(None, use_errno=True)
    how = _OpenHow(flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
    for _ in range(_RACES):
        descriptor = library.syscall(_OPENAT2, directory, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return int(descriptor)
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))


@contextmanager
def _open(directory: int, name: str, flags: int) -> Iterator[int]:
    descriptor = _open_beneath(directory, name, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(directory: int, name: str, *, create: bool) -> int:
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=directory)
    return _open_beneath(directory, name, os.O_RDONLY | os.O_DIRECTORY)


def _demand_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise ToolFailed(f"{path!r} is a symbolic link; links are not followed")
    if stat.S_ISDIR(status.st_mode):
        raise ToolFailed(f"{path!r} is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise ToolFailed(f"{path!r} is no regular file")


def _mode_of(directory: int, name: str, path: str) -> int | None:
    """The permissions of the file that will be replaced; None if there is none."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _demand_regular(status, path)
    return stat.S_IMODE(status.st_mode) & 0o777


def _read_all(file: int, most: int, path: str) -> bytes:
    """Everything up to the limit: a file that grows meanwhile is refused too."""
    chunks: list[bytes] = []
    size = 0
    while chunk := os.read(file, 65536):
        size += len(chunk)
        if size > most:
            raise ToolFailed(f"{path!r} has more than the {most} bytes that are read")
        chunks.append(chunk)
    return b"".join(chunks)


def _write_new(directory: int, name: str, content: bytes, *, mode: int) -> None:
    descriptor = _open_beneath(directory, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
