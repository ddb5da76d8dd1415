"""Where programs of the model run: they see system programs and the workspace, nothing else.

It is bubblewrap: namespaces of their own, no network, an empty environment, a system call filter,
limits. Everything that a program has started ends with it. `probe` tries what works here by doing
it. Linux only; elsewhere, and where bubblewrap is missing, there is none, and what needs
one is not offered.

Where the process itself is the sandbox (a container that the operator vouches for), `outside` runs
programs bare: with the same limits and an empty environment, but with all that this process can
reach. Never as root, never by default.
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
from pathlib import Path
from typing import Any, Literal

from turnkeep.lean_dataclass import dataclass
from turnkeep.tools import thread_pool
from turnkeep.tools.process_limits import MOST_TOOL_PROCESSES, Group, LimitKind, ProcessLimit, process_limit
from turnkeep.tools.program import ProgramResult, Watch, kill_group, run
from turnkeep.tools.workspace import openat2_works

# No Landlock: it was the second mechanism and let programs change modes, times and attributes of
# files outside the workspace, which it does not govern. "outside" claims nothing.
Mechanism = Literal["bubblewrap", "outside"]

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
# Of /etc only what the loader and links into /usr need: passwords, hosts and keys stay outside.
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives")


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What works on this machine, found out by trying it; `doctor` shows it.

    `reason_refused` says why the mechanism that was asked for cannot be had; None if it can.
    """

    openat2: bool
    requested_mechanism: Mechanism
    reason_refused: str | None
    process_limit: LimitKind | None
    total_memory: bool = False
    """Whether the memory of all processes together is limited."""
    root: bool = False

    @property
    def mechanism(self) -> Mechanism | None:
        return self.requested_mechanism if self.reason_refused is None else None

    @property
    def refusal(self) -> str | None:
        """Why `execute_bash` cannot be offered here, and what to do; None if it can."""
        if self.reason_refused is not None and self.requested_mechanism == "outside":
            return f"execute_bash cannot run outside a sandbox: {self.reason_refused}"
        if self.reason_refused is not None:
            return (
                f"execute_bash needs bubblewrap ({self.reason_refused}); "
                "install bubblewrap 0.8 or newer, or leave bash off"
            )
        if self.process_limit is None:
            return (
                "execute_bash needs a limit on processes: run as an ordinary user, or let this process make pids"
                " cgroups, or leave bash off"
            )
        return None

    @property
    def description(self) -> str:
        """What holds programs here, for people."""
        bare = " (bare: with all that this process can reach)" if self.mechanism == "outside" else ""
        memory = "2 GB in all" if self.total_memory else "2 GB for each process, together NOT limited"
        return f"{self.mechanism}{bare}, processes limited by {self.process_limit}, memory {memory}"


def probe(mechanism: Mechanism = "bubblewrap") -> SandboxReport:
    """Try everything once. Blocking, some ten milliseconds each."""
    if not sys.platform.startswith("linux"):
        return SandboxReport(False, mechanism, "only on Linux", None)
    limit = process_limit()
    root = os.geteuid() == 0
    reason = _try(mechanism, limit)
    # no limit on processes holds root, and what is bare would be root on this machine
    if mechanism == "outside" and root:
        reason = "never as root; run as an ordinary user, or unset TURNKEEP_SANDBOX"
    return SandboxReport(
        openat2=openat2_works(),
        requested_mechanism=mechanism,
        reason_refused=reason,
        process_limit=limit.kind if limit else None,
        total_memory=limit is not None and limit.memory is not None,
        root=root,
    )


def sandbox(report: SandboxReport | None = None) -> Sandbox | None:
    """The sandbox of this machine, or None if it has none."""
    mechanism = (report or probe()).mechanism
    return Sandbox(mechanism, process_limit()) if mechanism else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxedProgram:
    """A program to start: its words, in which directory, with which environment.

    `programs`: whether it may start others. `shield` is a descriptor of the directory ``.git``
    there, to be read-only inside. `watch` ends it before its time.
    """

    words: Sequence[str]
    workspace: Path
    timeout: float
    output_cap: int
    environment: Mapping[str, str]
    programs: bool = True
    shield: int | None = None
    watch: Watch | None = None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Starts programs inside.

    `limit` is None where processes cannot be counted: then no shell may run.
    """

    mechanism: Mechanism
    limit: ProcessLimit | None

    def inside(self, workspace: Path) -> str:
        """The path under which a program finds the workspace."""
        return INSIDE if self.mechanism == "bubblewrap" else str(workspace)

    async def run(self, program: SandboxedProgram) -> ProgramResult:
        """Run a program in the workspace, with nothing to read; output and errors are one text.

        Guarantees: when this returns or is cancelled, nothing that the program started is left.
        """
        async with self._scratch() as scratch, self._joined_group() as group:
            return await run(
                _command(self._plan(program, scratch=scratch, group=group)),
                environment={},
                directory="/",
                timeout=program.timeout,
                output_cap=program.output_cap,
                descriptors=() if program.shield is None else (program.shield,),
                stop=_end_supervised if self.mechanism == "outside" else kill_group,
                watch=program.watch,
            )

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[str]:
        """A temporary directory of its own; bubblewrap has one inside."""
        if self.mechanism == "bubblewrap":
            yield "/tmp"  # noqa: S108 - the one inside
            return
        directory = await thread_pool.shared_threads.run(lambda: tempfile.mkdtemp(prefix="turnkeep-"))
        try:
            yield directory
        finally:
            await thread_pool.shared_threads.run(lambda: shutil.rmtree(directory, ignore_errors=True))

    @asynccontextmanager
    async def _joined_group(self) -> AsyncIterator[Group | None]:
        group = self.limit.group() if self.limit else None
        try:
            yield group
        finally:
            if group is not None and not group.try_remove():
                await thread_pool.shared_threads.run(group.remove)

    def _plan(self, program: SandboxedProgram, *, scratch: str, group: Group | None) -> dict[str, Any]:
        environment = {**ENVIRONMENT, "HOME": scratch, "TMPDIR": scratch, **program.environment}
        common: dict[str, Any] = {
            "groups": [str(members) for members in group.members] if group else [],
            "limits": LIMITS,
            "programs": program.programs,
        }
        if self.mechanism == "bubblewrap":
            return {**common, "bubblewrap": True, "program": _bubblewrap(program, environment)}
        is_user_limit = self.limit is not None and self.limit.kind == "user limit"
        return {
            **common,
            "bubblewrap": False,
            "program": list(program.words),
            "environment": environment,
            "directory": str(program.workspace),
            "processes": MOST_TOOL_PROCESSES if is_user_limit else None,
        }


def _bubblewrap(program: SandboxedProgram, environment: Mapping[str, str]) -> list[str]:
    words = [_bwrap() or "bwrap"]
    # --disable-userns (bubblewrap 0.8): in a user namespace of its own a program would be root
    # again, before the largest surface of the kernel. --new-session: no typing into our terminal.
    words += ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    words += ["--cap-drop", "ALL", "--hostname", "workspace"]
    for path in _SYSTEM:
        # with a merged /usr these are links, and programs expect to find them so
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind-try", path, path]
    for path in _SYSTEM_FILES:
        words += ["--ro-bind-try", path, path]
    words += ["--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH), "--tmpfs", "/dev/shm"]  # noqa: S108 - inside
    words += ["--size", str(SCRATCH), "--tmpfs", "/tmp", "--bind", str(program.workspace), INSIDE]  # noqa: S108 - inside
    if program.shield is not None:
        words += ["--ro-bind-fd", str(program.shield), f"{INSIDE}/.git"]
    # /proc too: the kernel's settings (core_pattern …) ask for the user alone, and root's user is
    # root's everywhere
    words += ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", INSIDE]
    for name, value in environment.items():
        words += ["--setenv", name, value]
    return [*words, "--", *program.words]


def _bwrap() -> str | None:
    return shutil.which("bwrap", path=f"{os.defpath}:/usr/local/bin")


def can_shield() -> bool:
    """Whether bubblewrap here can shield a directory by its descriptor, which no race redirects."""
    bwrap = _bwrap()
    if bwrap is None:
        return False
    with suppress(OSError, subprocess.SubprocessError):
        usage = subprocess.run([bwrap, "--help"], capture_output=True, text=True, timeout=10, env={}, check=False)  # noqa: S603 - a fixed program
        return "--ro-bind-fd" in usage.stdout + usage.stderr
    return False


def _end_supervised(process: asyncio.subprocess.Process) -> None:
    """Ask the supervisor of a bare program to end: only it finds who left the process group."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)


def _command(plan: Mapping[str, Any]) -> list[str]:
    # -I -S: no packages of the user and no PYTHON* variables, so nothing that a program left in
    # the workspace is imported at the next start
    return [_interpreter(), "-I", "-S", str(_LAUNCHER), json.dumps(plan, ensure_ascii=False)]


def _interpreter() -> str:
    """A Python that this user may start: ours, unless it lies in somebody else's home."""
    for path in (sys.executable, "/usr/bin/python3"):
        if path and os.access(os.path.realpath(path), os.X_OK):
            return path
    return "python3"


def _try(mechanism: Mechanism, limit: ProcessLimit | None) -> str | None:
    """None if a program runs inside, else the reason in one line."""
    if mechanism == "bubblewrap" and _bwrap() is None:
        return "not installed"
    with tempfile.TemporaryDirectory(prefix="turnkeep-") as directory:
        group = limit.group() if limit else None
        try:
            is_user_limit = mechanism == "bubblewrap" and limit is not None and limit.kind == "user limit"
            first = f"ulimit -u {MOST_TOOL_PROCESSES} && " if is_user_limit else ""
            # `&&`, so that bash forks: a limit that lets nothing start is found out here
            words = ["/bin/bash", "-c", f"{first}/bin/true && /bin/true"]
            trial = SandboxedProgram(words=words, workspace=Path(directory), timeout=20, output_cap=0, environment={})
            return _try_plan(Sandbox(mechanism, limit)._plan(trial, scratch=directory, group=group))
        finally:
            if group:
                group.remove()


def _try_plan(plan: Mapping[str, Any]) -> str | None:
    try:
        result = subprocess.run(  # noqa: S603 - a fixed program
            _command(plan), capture_output=True, text=True, timeout=20, env={}, cwd="/", check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be started ({type(error).__name__})"
    if result.returncode == 0:
        return None
    lines = (result.stderr or result.stdout).strip().splitlines()
    return lines[0][:200] if lines else f"exit code {result.returncode}"
