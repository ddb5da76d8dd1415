"""A place where programs of the model run: they see system programs and the workspace, and nothing else.

Preferred is bubblewrap: namespaces of their own, no network, an empty environment. Where it is missing, Landlock and
a system call filter keep them in, from Linux 6.12. In both, everything that a program has started ends with it.
`probe` tries what works here by doing it. Linux only; elsewhere nothing is available.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from turnkeep.tools import threads
from turnkeep.tools.processes import MOST_PROCESSES, Group, Kind, ProcessLimit, process_limit
from turnkeep.tools.program import Finished, kill_group, run
from turnkeep.tools.workspace import openat2_works

Mechanism = Literal["bubblewrap", "landlock"]

INSIDE = "/workspace"
"""Where a program under bubblewrap finds the workspace."""

MEGABYTE = 1024 * 1024
LIMITS = {
    "RLIMIT_CORE": 0,
    "RLIMIT_NOFILE": 1024,
    "RLIMIT_FSIZE": 256 * MEGABYTE,
    "RLIMIT_AS": 2048 * MEGABYTE,
}
SCRATCH = 256 * MEGABYTE
"""Bytes of the temporary directory under bubblewrap."""

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TERM": "dumb"}

_LAUNCHER = Path(__file__).with_name("confine.py")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What works on this machine, found out by trying it; `doctor` shows it."""

    openat2: bool
    bubblewrap: str
    """"ok", or why not."""
    landlock: str
    process_limit: Kind | None

    @property
    def mechanism(self) -> Mechanism | None:
        if self.bubblewrap == "ok":
            return "bubblewrap"
        return "landlock" if self.landlock == "ok" else None

    @property
    def refusal(self) -> str | None:
        """Why `execute_bash` cannot be offered here, as a sentence with what to do; None if it can."""
        if self.mechanism is None:
            return (
                f"execute_bash needs bubblewrap ({self.bubblewrap}) or Landlock ({self.landlock});"
                " install bubblewrap 0.8 or newer, or leave bash off"
            )
        if self.process_limit is None:
            return (
                "execute_bash needs a limit on processes: run as an ordinary user, or let this process make pids"
                " cgroups, or leave bash off"
            )
        return None


def probe() -> SandboxReport:
    """Try everything once. Blocking, some ten milliseconds each."""
    if not sys.platform.startswith("linux"):
        return SandboxReport(False, "only on Linux", "only on Linux", None)
    limit = process_limit()
    return SandboxReport(
        openat2=openat2_works(),
        bubblewrap=_tried("bubblewrap", limit),
        landlock=_tried("landlock", limit),
        process_limit=limit.kind if limit else None,
    )


def sandbox(report: SandboxReport | None = None, *, mechanism: Mechanism | None = None) -> Sandbox | None:
    """The sandbox of this machine, or None if it has none."""
    chosen = mechanism or (report or probe()).mechanism
    return Sandbox(chosen, process_limit()) if chosen else None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Starts programs inside. `limit` is None where processes cannot be counted: then no shell may run."""

    mechanism: Mechanism
    limit: ProcessLimit | None

    def inside(self, workspace: Path) -> str:
        """The path under which a program finds the workspace."""
        return INSIDE if self.mechanism == "bubblewrap" else str(workspace)

    async def run(
        self,
        program: Sequence[str],
        workspace: Path,
        *,
        timeout: float,
        output_cap: int,
        environment: Mapping[str, str] | None = None,
        shielded: int | None = None,
    ) -> Finished:
        """Run a program with the workspace as its directory and nothing to read from; output and errors in one.

        `shielded` is a descriptor of the directory ``.git`` there, to be read-only inside (bubblewrap only).
        Guarantees: when this returns or is cancelled, nothing that the program started is left.
        """
        async with self._scratch() as scratch, self._grouped() as group:
            told = {**ENVIRONMENT, "HOME": scratch, "TMPDIR": scratch, **(environment or {})}
            plan = self._plan(program, workspace, told, scratch=scratch, group=group, shielded=shielded)
            return await run(
                _command(plan),
                environment={},
                directory="/",
                timeout=timeout,
                output_cap=output_cap,
                descriptors=() if shielded is None else (shielded,),
                stop=_end_supervised if self.mechanism == "landlock" else kill_group,
            )

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[str]:
        """A temporary directory of its own; bubblewrap has one inside."""
        if self.mechanism == "bubblewrap":
            yield "/tmp"  # noqa: S108 - the one inside
            return
        made = await threads.shared.run(lambda: tempfile.mkdtemp(prefix="turnkeep-"))
        try:
            yield made
        finally:
            await threads.shared.run(lambda: shutil.rmtree(made, ignore_errors=True))

    @asynccontextmanager
    async def _grouped(self) -> AsyncIterator[Group | None]:
        group = self.limit.group() if self.limit else None
        try:
            yield group
        finally:
            if group is not None and not group.removed():
                await threads.shared.run(group.remove)

    def _plan(
        self,
        program: Sequence[str],
        workspace: Path,
        environment: Mapping[str, str],
        *,
        scratch: str,
        group: Group | None,
        shielded: int | None = None,
    ) -> dict[str, Any]:
        common: dict[str, Any] = {"group": str(group.members) if group else None, "limits": LIMITS}
        if self.mechanism == "bubblewrap":
            wrapped = _bubblewrap(program, workspace, environment, shielded)
            return {**common, "bubblewrap": True, "program": wrapped}
        counted = self.limit is not None and self.limit.kind == "user limit"
        return {
            **common,
            "bubblewrap": False,
            "program": list(program),
            "environment": dict(environment),
            "directory": str(workspace),
            "landlock": {
                "read": [*_SYSTEM, *_SYSTEM_FILES],
                "write": [str(workspace), scratch, *_DEVICES],
            },
            "processes": MOST_PROCESSES if counted else None,
        }


def _bubblewrap(
    program: Sequence[str], workspace: Path, environment: Mapping[str, str], shielded: int | None
) -> list[str]:
    words = [_bwrap() or "bwrap"]
    words += ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    words += ["--cap-drop", "ALL", "--hostname", "workspace"]
    for path in _SYSTEM:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind-try", path, path]
    for path in _SYSTEM_FILES:
        words += ["--ro-bind-try", path, path]
    words += ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH), "--tmpfs", "/dev/shm"]  # noqa: S108 - inside
    words += ["--size", str(SCRATCH), "--tmpfs", "/tmp", "--bind", str(workspace), INSIDE]  # noqa: S108 - inside
    if shielded is not None:
        words += ["--ro-bind-fd", str(shielded), f"{INSIDE}/.git"]
    words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", INSIDE]
    for name, value in environment.items():
        words += ["--setenv", name, value]
    return [*words, "--", *program]


def _bwrap() -> str | None:
    return shutil.which("bwrap", path=f"{os.defpath}:/usr/local/bin")


def can_shield() -> bool:
    """Whether bubblewrap here can make a directory read-only by its descriptor, which no race can redirect."""
    found = _bwrap()
    if found is None:
        return False
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run([found, "--help"], capture_output=True, text=True, timeout=10, env={}, check=False)  # noqa: S603 - a fixed program
        return "--ro-bind-fd" in told.stdout + told.stderr
    return False


# ---------------------------------------------------------------- starting


def _end_supervised(process: asyncio.subprocess.Process) -> None:
    """The supervisor of Landlock is asked to end: only it finds what has left the process group."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)


def _command(plan: Mapping[str, Any]) -> list[str]:
    return [_interpreter(), "-I", "-S", str(_LAUNCHER), json.dumps(plan, ensure_ascii=False)]


def _interpreter() -> str:
    """A Python that this user may start: the own one, except where it lies in somebody else's home."""
    for path in (sys.executable, "/usr/bin/python3"):
        if path and os.access(os.path.realpath(path), os.X_OK):
            return path
    return "python3"


def _tried(mechanism: Mechanism, limit: ProcessLimit | None) -> str:
    """The word "ok" if a program runs inside, else the reason in one line."""
    if mechanism == "bubblewrap" and _bwrap() is None:
        return "not installed"
    with tempfile.TemporaryDirectory(prefix="turnkeep-") as directory:
        group = limit.group() if limit else None
        try:
            counted = mechanism == "bubblewrap" and limit is not None and limit.kind == "user limit"
            first = f"ulimit -u {MOST_PROCESSES} && " if counted else ""
            program = ["/bin/bash", "-c", f"{first}/bin/true && /bin/true"]
            plan = Sandbox(mechanism, limit)._plan(
                program, Path(directory), ENVIRONMENT, scratch=directory, group=group
            )
            return _tried_plan(plan)
        finally:
            if group:
                group.remove()


def _tried_plan(plan: Mapping[str, Any]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program
            _command(plan), capture_output=True, text=True, timeout=20, env={}, cwd="/", check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be started ({type(error).__name__})"
    said = (done.stderr or done.stdout).strip().splitlines()
    return "ok" if done.returncode == 0 else (said[0][:200] if said else f"exit code {done.returncode}")
