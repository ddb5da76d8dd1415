"""Limits on how many processes and how much memory a program and everything it starts may have.

`execute_bash` runs under one of two: cgroups of its own, or, for an ordinary user, the resource
limit of the user. The resource limit does not hold back root, so root without cgroups has none.
Memory of all processes together is held by a cgroup only (version 2, or the memory controller of
version 1); without one each process has its own limit.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from turnkeep.clock import SystemClock
from turnkeep.lean_dataclass import dataclass

MOST_TOOL_PROCESSES = 64
MEMORY = 2 * 1024**3
GROUP_LIFETIME = 600.0
"""Seconds after which an empty group belongs to nobody."""

LimitKind = Literal["cgroup", "user limit"]
Controller = Literal["pids", "memory"]

_MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")
"""Version 2, version 1."""
_SWAP_FILES = (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", str(MEMORY)))


@dataclass(frozen=True, slots=True)
class Group:
    """The cgroups of one program: one that counts all, or one for each controller."""

    paths: tuple[Path, ...]

    @property
    def members(self) -> tuple[Path, ...]:
        """The files that a process joins by."""
        return tuple(path / "cgroup.procs" for path in self.paths)

    def kill(self) -> None:
        """End every process in it; no new one can start any more."""
        for path in self.paths:
            with suppress(OSError):
                # first nothing new, else a fork bomb outruns the killing
                (path / "pids.max").write_text("0")
            with suppress(OSError):
                # Linux 5.14; before it, and in version 1, one by one below
                (path / "cgroup.kill").write_text("1")
            with suppress(OSError):
                for process in (path / "cgroup.procs").read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)

    def try_remove(self) -> bool:
        """Kill what is left and remove the group.

        False while somebody is still on the way out: ask again.
        """
        self.kill()
        remaining = [path for path in self.paths if not _try_rmdir(path)]
        return not remaining

    def remove(self) -> None:
        """Remove the group, waiting up to two seconds for those who are on the way out.

        Blocking.
        """
        for _ in range(200):
            if self.try_remove():
                return
            time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class ProcessLimit:
    """How processes and memory are counted here: below these cgroups, else processes by user."""

    kind: LimitKind
    pids: Path | None = None
    memory: Path | None = None

    def group(self, most: int = MOST_TOOL_PROCESSES) -> Group | None:
        """A group for one program; whoever asked removes it.

        None where no cgroup counts anything.
        """
        paths: list[Path] = []
        try:
            # one group where both controllers share a hierarchy (version 2), else one for each
            for parent in dict.fromkeys(path for path in (self.pids, self.memory) if path is not None):
                paths.append(_make_group(parent, most))
        except BaseException:
            Group(tuple(paths)).remove()
            raise
        return Group(tuple(paths)) if paths else None


def process_limit(user: int | None = None) -> ProcessLimit | None:
    """The limit this process can set for others; None if there is none: then no shell may run."""
    pids = next((parent for parent in _candidates("pids") if _usable(parent, "pids")), None)
    memory = next((parent for parent in _candidates("memory") if _usable(parent, "memory")), None)
    if pids is not None:
        return ProcessLimit("cgroup", pids, memory)
    return ProcessLimit("user limit", None, memory) if (os.getuid() if user is None else user) != 0 else None


def _make_group(parent: Path, most: int) -> Path:
    """A group with every limit that can be set there."""
    path = parent / f"turnkeep-{secrets.token_hex(8)}"
    path.mkdir()
    # swap after memory: version 1 refuses a sum of both that is below the limit on memory
    limits = [("pids.max", str(most)), *((name, str(MEMORY)) for name in _MEMORY_FILES), *_SWAP_FILES]
    for name, value in limits:
        with suppress(OSError):  # each hierarchy has files of its own; `_usable` has looked whether ours are there
            _set(path / name, value)
    return path


def _set(file: Path, value: str) -> None:
    """Write to a file that is there: a cgroup's files come with it, none can be added."""
    with file.open("r+") as stream:
        stream.write(value)


def _try_rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _usable(parent: Path, controller: Controller) -> bool:
    """Whether a group below it counts what it should."""
    try:
        # tried, not looked up: read-only mounts, missing delegation and absent controllers all
        # look alike before a number is written
        path = _make_group(parent, 1)
    except OSError:
        return False
    try:
        return _has_limit(path, controller)
    finally:
        Group((path,)).remove()
        _sweep(parent)


def _has_limit(path: Path, controller: Controller) -> bool:
    if controller == "pids":
        return _number(path / "pids.max") == 1
    return any(0 < _number(path / name) <= MEMORY for name in _MEMORY_FILES)


def _number(file: Path) -> int:
    """What a limit is now; 0 where there is none."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return 0
    return int(text) if text.isdigit() else 0


def _sweep(parent: Path) -> None:
    """Remove groups that killed processes have left; young ones may be about to be joined."""
    now = SystemClock().now()
    for leftover in parent.glob("turnkeep-*"):
        with suppress(OSError):
            if now - leftover.stat().st_mtime > GROUP_LIFETIME:
                leftover.rmdir()


def _candidates(controller: Controller) -> Iterator[Path]:
    """Cgroups below which one with such a limit might be made."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8")
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError:
        return
    yield from candidates(own, mounts, controller)


def candidates(own: str, mounts: str, controller: Controller) -> Iterator[Path]:
    """From /proc/self/cgroup and mountinfo: the own cgroup of each hierarchy, then those above."""
    lines = [line.split(":", 2) for line in own.splitlines()]
    groups = {name: path for _, names, path in lines for name in names.split(",")}
    for mount, root, name in _mounts(mounts, controller):
        path = groups.get(name, "/")
        with suppress(ValueError):
            path = "/" + str(Path(path).relative_to(root))
        below = Path(os.path.normpath(f"{mount}/{path}"))
        # upwards: a group of version 2 that holds processes, as our own does, cannot
        # limit its children
        yield from (level for level in (below, *below.parents) if level == mount or mount in level.parents)


def _mounts(text: str, controller: Controller) -> Iterator[tuple[Path, str, str]]:
    """Where this controller's groups are mounted, the mount's root and name (none in version 2)."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        _, _, _, root, mount, *_ = before.split(" ")
        if kind == "cgroup" and controller in options.split(","):
            yield Path(mount), root, controller
        elif kind == "cgroup2":
            yield Path(mount), root, ""
