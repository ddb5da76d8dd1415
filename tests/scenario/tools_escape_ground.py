"""What the attempts to get out of a workspace have in common: the outside, a case, and how a place is prepared."""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import select
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CANARY = os.environ.get("TURNKEEP_CANARY") or f"CANARY-{secrets.token_hex(8)}"
"""In the environment from the very start: only then does the process's own file under /proc hold it."""
_sleeps = itertools.count(10**6 + secrets.randbelow(10**9))
"""Seconds that nobody else on this machine sleeps, not even the same attempts next door."""


# ---------------------------------------------------------------- the outside


class Outside:
    """What must not be reached. Everything is open to any user: only the tools stand in the way."""

    def __init__(self) -> None:
        self.sleep = str(next(_sleeps))
        """Seconds that only processes of these attempts sleep: how they are found."""
        self.base = Path(tempfile.mkdtemp(prefix="tk-escape-"))
        self.base.chmod(0o755)
        self.folder = self.base / "outside"
        self.folder.mkdir()
        self.folder.chmod(0o777)
        self.secret = self.folder / "secret.txt"
        self.shared = Path(f"/tmp/tk-canary-{secrets.token_hex(6)}")
        self.store = self.base / "store.db"
        """Readable by the service alone, and beside the workspace like the real one."""
        self.store.write_text(CANARY)
        self.store.chmod(0o600)
        self.hits: list[str] = []
        self.ports: dict[str, int] = {}
        self.unix = str(self.folder / "socket")
        self.abstract = f"tk-{secrets.token_hex(6)}"
        self._counting = threading.Lock()
        self._sockets = self._listen()
        self.process = bystander()
        self.reset()

    def reset(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for entry in self.folder.iterdir():
            if entry.name != "socket":
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for place in (self.secret, self.shared):
            place.write_text(CANARY)
            place.chmod(0o666)
        self.hits.clear()

    def facts(self) -> dict[str, tuple[object, ...]]:
        """Modes, owners, times and attributes of what lies outside: none of it is a workspace's business."""
        places = (self.secret, self.shared, self.store, self.folder, self.base, *SYSTEM_FILES)
        return {str(place): _facts_of(place) for place in places}

    def damage(self) -> list[str]:
        """What happened outside since the last reset."""
        self._catch_up()
        found = [f"called: {hit}" for hit in self.hits]
        found += [f"appeared: {name}" for name in names_in(self.folder) if name not in ("secret.txt", "socket")]
        found += [f"changed: {one}" for one in (self.secret, self.shared) if content_of(one) != CANARY]
        if self.process.poll() is not None:
            found.append("the process outside was killed")
            self.process = bystander()
        if os.getpriority(os.PRIO_PROCESS, self.process.pid) != os.getpriority(os.PRIO_PROCESS, 0):
            found.append("the process outside was slowed down")
        return found + [f"left: {line}" for line in self._left()]

    def _left(self) -> list[str]:
        """Processes that outlive their call; what was killed may take a moment to vanish on a busy machine."""
        patience = time.monotonic() + 10
        while (left := sleepers(self.sleep)) and time.monotonic() < patience:
            time.sleep(0.05)
        return left

    def close(self) -> None:
        for one in self._sockets:
            one.close()
        self.process.kill()
        self.process.wait()
        self.shared.unlink(missing_ok=True)
        shutil.rmtree(self.base, ignore_errors=True)

    def _listen(self) -> list[socket.socket]:
        places: list[tuple[str, int, int, Any]] = [
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("unix", socket.AF_UNIX, socket.SOCK_STREAM, self.unix),
            ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, "\0" + self.abstract),
        ]
        return [self._listener(*place) for place in places]

    def _listener(self, name: str, family: int, kind: int, place: Any) -> socket.socket:
        listening = socket.socket(family, kind)
        listening.bind(place)
        if name == "unix":
            os.chmod(place, 0o777)
        if family == socket.AF_INET:
            self.ports[name] = listening.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            listening.listen(16)
        threading.Thread(target=self._hear, args=(name, listening), daemon=True).start()
        return listening

    def _hear(self, name: str, listening: socket.socket) -> None:
        with suppress(OSError, ValueError):  # it was closed
            while True:
                if not is_called(listening, 1.0):
                    continue
                with self._counting:
                    if listening.type == socket.SOCK_DGRAM:
                        listening.recv(64)
                    else:
                        listening.accept()[0].close()
                    self.hits.append(name)

    def _catch_up(self) -> None:
        """A call that has come in is counted, however late the thread that hears it is on a busy machine."""
        patience = time.monotonic() + 10
        while any(is_called(one, 0) for one in self._sockets) and time.monotonic() < patience:
            time.sleep(0.001)
        with self._counting:
            pass


def is_called(listening: socket.socket, seconds: float) -> bool:
    """Whether a call is there, or comes within so many seconds."""
    calls = select.poll()
    calls.register(listening.fileno(), select.POLLIN)
    return bool(calls.poll(seconds * 1000))


SYSTEM_FILES = (Path("/usr/bin/true"), Path("/etc/hostname"), Path("/etc/passwd"))


def _facts_of(place: Path) -> tuple[object, ...]:
    try:
        status = place.lstat()
        attributes = {name: os.getxattr(place, name) for name in os.listxattr(place)}
    except OSError as error:
        return (error.errno,)
    changed = 0 if place.is_dir() else status.st_mtime_ns
    return (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, changed, str(attributes))


def beyond_0777(workspace: Path) -> list[str]:
    """Files of the workspace with bits that would hand their owner's rights to whoever starts them."""
    found = [
        path for path in (workspace, *workspace.rglob("*")) if not path.is_symlink() and path.lstat().st_mode & 0o7000
    ]
    return [f"mode {stat.S_IMODE(path.lstat().st_mode):o}: {path.name}" for path in found]


def names_in(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else ["nothing is left"]


def content_of(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def bystander() -> subprocess.Popen[bytes]:
    """A process that no tool may end. It holds no pipe of ours: who waits for our last words waits for it too."""
    return subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sleepers(seconds: str) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and seconds in (line := Path(f"/proc/{name}/cmdline").read_text()):
                found.append(line.replace("\0", " ")[:80])
    return [line for line in found if "tools_escape_corpus" not in line]


# ---------------------------------------------------------------- cases

Place = Callable[[Path, Outside], None]
Arguments = Callable[[Path, Outside], dict[str, Any]]


def nothing(_: Path, __: Outside) -> None:
    """Prepares nothing."""


@dataclass(frozen=True)
class Case:
    """One attempt. `ran` names files in the workspace that only appear if planted code ran."""

    name: str
    tool: str
    arguments: Arguments
    place: Place = nothing
    ran: str | None = None


def fixed(**arguments: Any) -> Arguments:
    return lambda _, __: arguments


def emptied(workspace: Path) -> None:
    workspace.chmod(0o755)
    for entry in workspace.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


ENDLESS = ("ignores its end", "writes without end", "fills the memory", "fills the disk")


def shell(name: str, command: Callable[[Path, Outside], str] | str, place: Place = nothing) -> Case:
    said = command if callable(command) else lambda _, __: command
    seconds = 1 if name in ENDLESS else 10
    return Case(f"bash {name}", "execute_bash", lambda w, o: {"command": said(w, o), "seconds": seconds}, place)


def python(script: str) -> str:
    return f"python3 - <<'END'\n{script}\nEND"


DAEMON = """import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execlp('sleep', 'sleep', 'SECONDS')
"""

# ---------------------------------------------------------------- git


@functools.cache
def template() -> Path:
    """A repository to copy: starting git three times for every case takes most of the time."""
    template = Path(tempfile.mkdtemp(prefix="tk-template-"))
    identity = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "safe.directory=*"]
    for words in (["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *identity, *words], cwd=template, check=True, capture_output=True)
    return template


def repository(workspace: Path, _: Outside) -> None:
    shutil.copytree(template() / ".git", workspace / ".git")
    (workspace / "new.txt").write_text("new\n")


def script_in(workspace: Path, outside: Outside) -> Path:
    """Planted code: leaves a mark in the workspace and tries to leave one outside."""
    script = workspace / "planted.sh"
    script.write_text(f"#!/bin/sh\ntouch '{workspace}/RAN' /workspace/RAN '{outside.folder}/planted'\ncat\n")
    script.chmod(0o755)
    return script


def hook(name: str) -> Place:
    def place(workspace: Path, outside: Outside) -> None:
        repository(workspace, outside)
        shutil.copy(script_in(workspace, outside), workspace / ".git/hooks" / name)

    return place


def configured(text: str) -> Place:
    """A repository whose configuration says more; SCRIPT, WORKSPACE and OUTSIDE are replaced."""

    def place(workspace: Path, outside: Outside) -> None:
        repository(workspace, outside)
        script = script_in(workspace, outside)
        said = (
            text.replace("SCRIPT", str(script))
            .replace("OUTSIDE", str(outside.folder))
            .replace("WORKSPACE", str(workspace))
        )
        with open(workspace / ".git/config", "a") as file:
            file.write(said)
        (workspace / ".gitattributes").write_text("* filter=planted diff=planted merge=planted\n")

    return place


def linked_repository(workspace: Path, outside: Outside) -> None:
    repository(outside.folder, outside)
    (workspace / ".git").symlink_to(outside.folder / ".git")


def repository_file(workspace: Path, outside: Outside) -> None:
    repository(outside.folder, outside)
    (workspace / ".git").write_text(f"gitdir: {outside.folder}/.git\n")


def nested_repository(workspace: Path, outside: Outside) -> None:
    repository(workspace, outside)
    (workspace / "sub").mkdir()
    configured('[core]\n\tfsmonitor = SCRIPT\n[filter "planted"]\n\tclean = SCRIPT\n')(workspace / "sub", outside)
    script = (workspace / "sub/planted.sh").read_text().replace(f"{workspace}/sub/RAN", f"{workspace}/RAN")
    (workspace / "sub/planted.sh").write_text(script)


def git(name: str, place: Place = repository, **arguments: Any) -> Case:
    arguments.setdefault("operation", "status")
    return Case(f"git {name}", "git_operation", fixed(**arguments), place, ran="RAN")


COMMIT = {"operation": "commit", "message": "second", "arguments": ["-a", "--allow-empty"]}
ADD = {"operation": "add", "paths": ["."]}
DIFF = {"operation": "diff", "arguments": ["HEAD"]}
