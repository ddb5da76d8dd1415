"""A limit on the number of processes that a program and everything it starts may have.

`execute_bash` runs under one of two: a pids cgroup of its own, or, for an ordinary user, the resource limit of the
user. The resource limit does not hold back root, so root without cgroups has none.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from turnkeep.clock import SystemClock

MOST_PROCESSES = 64
MEMORY = 2 * 1024**3
ABANDONED = 600.0
"""Seconds after which an empty group belongs to nobody."""

Kind = Literal["cgroup", "user limit"]


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup for one program."""

    path: Path

    @property
    def members(self) -> Path:
        return self.path / "cgroup.procs"

    def kill(self) -> None:
        """End every process in it; no new one can start any more."""
        with suppress(OSError):
            (self.path / "pids.max").write_text("0")
        with suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")
        with suppress(OSError):
            for process in self.members.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)

    def removed(self) -> bool:
        """Kill what is left and remove the group. False while somebody is still on the way out: ask again."""
        self.kill()
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Remove the group, waiting up to two seconds for those who are on the way out. Blocking."""
        for _ in range(200):
            if self.removed():
                return
            time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class ProcessLimit:
    """How processes are counted here."""

    kind: Kind
    parent: Path | None = None

    def group(self, most: int = MOST_PROCESSES) -> Group | None:
        """A group for one program; whoever asked removes it. None with a user limit."""
        return None if self.parent is None else _made(self.parent, most)


def process_limit(user: int | None = None) -> ProcessLimit | None:
    """The limit this process can set for others; None if there is none, and then no shell may run."""
    for parent in _candidates():
        if _usable(parent):
            return ProcessLimit("cgroup", parent)
    return ProcessLimit("user limit") if (os.getuid() if user is None else user) != 0 else None


def _made(parent: Path, most: int) -> Group:
    path = parent / f"turnkeep-{secrets.token_hex(8)}"
    path.mkdir()
    try:
        (path / "pids.max").write_text(str(most))
        with suppress(OSError):  # version 2 counts memory in the same group, where the controller is enabled
            (path / "memory.max").write_text(str(MEMORY))
    except BaseException:
        path.rmdir()
        raise
    return Group(path)


def _usable(parent: Path) -> bool:
    try:
        group = _made(parent, 1)
    except OSError:
        return False
    group.remove()
    _sweep(parent)
    return True


def _sweep(parent: Path) -> None:
    """Remove groups that processes which were killed have left behind; young ones may be about to be joined."""
    now = SystemClock().now()
    for left in parent.glob("turnkeep-*"):
        with suppress(OSError):
            if now - left.stat().st_mtime > ABANDONED:
                left.rmdir()


def _candidates() -> Iterator[Path]:
    """Cgroups below which one with a pids limit might be made."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8")
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError:
        return
    yield from candidates(own, mounts)


def candidates(own: str, mounts: str) -> Iterator[Path]:
    """From the texts of /proc/self/cgroup and mountinfo: the own cgroup of each hierarchy, then those above it."""
    lines = [line.split(":", 2) for line in own.splitlines()]
    groups = {name: path for _, names, path in lines for name in names.split(",")}
    for mount, root, controller in _mounts(mounts):
        path = groups.get(controller, "/")
        with suppress(ValueError):
            path = "/" + str(Path(path).relative_to(root))
        below = Path(os.path.normpath(f"{mount}/{path}"))
        yield from (level for level in (below, *below.parents) if level == mount or mount in level.parents)


def _mounts(text: str) -> Iterator[tuple[Path, str, str]]:
    """Where groups that can count processes are mounted, the root of the mount, and the controller (v2 has no name)."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        _, _, _, root, mount, *_ = before.split(" ")
        if kind == "cgroup" and "pids" in options.split(","):
            yield Path(mount), root, "pids"
        elif kind == "cgroup2":
            yield Path(mount), root, ""
