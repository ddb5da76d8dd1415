"""Attempts to get out of the workspace, run as whoever starts this file or as an ordinary user.

    python tools_escape_corpus.py [--user 65534] [--share 1/2]

A share is every n-th case. Prints one JSON object: what is available here, and for every case whether something came
out or got hurt. Outside the workspace lie canaries: a readable file, an environment variable, listening sockets and a
process. A case has escaped if a canary's text is in its output, a listener was called, a file appeared outside, or a
process was left or killed.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import functools
import itertools
import json
import os
import resource
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnkeep.clock import SystemClock
from turnkeep.tools import Tool, ToolContext, sandbox
from turnkeep.tools.execution import Asked, Result, call
from turnkeep.tools.files import file_tools
from turnkeep.tools.git import git_tool
from turnkeep.tools.processes import process_limit
from turnkeep.tools.shell import bash_tool
from turnkeep.tools.workspace import Workspace

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
        self.hits: list[str] = []
        self.ports: dict[str, int] = {}
        self.unix = str(self.folder / "socket")
        self.abstract = f"tk-{secrets.token_hex(6)}"
        self._sockets = self._listen()
        self.process = subprocess.Popen(["sleep", "3600"])
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

    def damage(self) -> list[str]:
        """What happened outside since the last reset."""
        found = [f"called: {hit}" for hit in self.hits]
        found += [f"appeared: {name}" for name in _names(self.folder) if name not in ("secret.txt", "socket")]
        found += [f"changed: {one}" for one in (self.secret, self.shared) if _content(one) != CANARY]
        if self.process.poll() is not None:
            found.append("the process outside was killed")
            self.process = subprocess.Popen(["sleep", "3600"])
        if os.getpriority(os.PRIO_PROCESS, self.process.pid) != 0:
            found.append("the process outside was slowed down")
        return found + [f"left: {line}" for line in self._left()]

    def _left(self) -> list[str]:
        """Processes that outlive their call; what was killed may take a moment to vanish on a busy machine."""
        patience = time.monotonic() + 10
        while (left := _sleepers(self.sleep)) and time.monotonic() < patience:
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
        with suppress(OSError):
            while True:
                if listening.type == socket.SOCK_DGRAM:
                    listening.recv(64)
                else:
                    listening.accept()[0].close()
                self.hits.append(name)


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else ["nothing is left"]


def _content(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def _sleepers(seconds: str) -> list[str]:
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


def _fixed(**arguments: Any) -> Arguments:
    return lambda _, __: arguments


def _links(workspace: Path, outside: Outside) -> None:
    (workspace / "file.txt").write_text("inside")
    (workspace / "link").symlink_to(outside.secret)
    (workspace / "relative").symlink_to("../outside/secret.txt")
    (workspace / "folder").symlink_to(outside.folder)
    (workspace / "up").symlink_to("..")
    (workspace / "chain").symlink_to("link")
    (workspace / "loop").symlink_to("loop")
    (workspace / "dangling").symlink_to(outside.folder / "new.txt")
    (workspace / "environ").symlink_to("/proc/self/environ")
    (workspace / "root").symlink_to("/proc/self/root")
    (workspace / "cwd").symlink_to("/proc/self/cwd")
    (workspace / "zero").symlink_to("/dev/zero")
    (workspace / "stdin").symlink_to("/dev/stdin")
    for hidden in (".git", ".ssh", "sub/.git"):
        (workspace / hidden / "hooks").mkdir(parents=True)
        (workspace / hidden / "config").write_text(CANARY)
    (workspace / ".env").write_text(CANARY)
    os.mkfifo(workspace / "fifo")
    with suppress(PermissionError):
        os.mknod(workspace / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with open(workspace / "sparse", "wb") as file:
        file.truncate(10 * 1024**3)


HONEST: list[tuple[str, dict[str, Any], str]] = [
    ("read_file", {"path": "file.txt"}, "inside"),
    ("read_file", {"path": "./sub//deep/file.txt"}, "inside"),
    ("read_file", {"path": ".gitignore"}, "inside"),
    ("write_file", {"path": "new/deep/file.txt", "content": "x"}, "created"),
    ("write_file", {"path": "file.txt", "content": "x"}, "replaced"),
    ("execute_bash", {"command": "cat file.txt && echo x > made && rm made && python3 -c 'print(6*7)'"}, "42"),
    ("git_operation", {"operation": "log", "arguments": ["--oneline"]}, "first"),
    ("git_operation", {"operation": "commit", "message": "m", "arguments": ["--allow-empty"]}, "[main"),
]
"""What must work: a corpus of attempts that all fail proves nothing if nothing works."""


async def honest(tools: dict[str, Tool], workspace: Path, outside: Outside) -> dict[str, Any]:
    wrong = []
    for name, arguments, expected in HONEST:
        if name in tools:
            _emptied(workspace)
            (workspace / "sub/deep").mkdir(parents=True)
            for place in ("file.txt", "sub/deep/file.txt", ".gitignore"):
                (workspace / place).write_text("inside\n")
            _repository(workspace, outside)
            result = await _called(tools[name], arguments)
            if result.status != "ok" or expected not in result.output:
                wrong.append(f"{name} {arguments}: {result.output[:200]}")
    return {"damage": wrong, "status": "ok", "output": ""}


def _emptied(workspace: Path) -> None:
    for entry in workspace.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _reads() -> list[Case]:
    paths: dict[str, Callable[[Outside], str]] = {
        "upwards": lambda o: "../outside/secret.txt",
        "down and up": lambda o: "sub/../../outside/secret.txt",
        "dots and up": lambda o: "./.././outside/secret.txt",
        "up by many": lambda o: "../" * 40 + str(o.secret).lstrip("/"),
        "absolute": lambda o: str(o.secret),
        "double slash": lambda o: "/" + str(o.secret),
        "home": lambda o: "~/../" + str(o.secret),
        "link": lambda o: "link",
        "relative link": lambda o: "relative",
        "link to a folder": lambda o: "folder/secret.txt",
        "link upwards": lambda o: "up/outside/secret.txt",
        "chain of links": lambda o: "chain",
        "loop of links": lambda o: "loop",
        "environment": lambda o: "/proc/self/environ",
        "linked environment": lambda o: "environ",
        "root by proc": lambda o: "root" + str(o.secret),
        "directory by proc": lambda o: "cwd/../outside/secret.txt",
        "endless device": lambda o: "zero",
        "own device": lambda o: "device",
        "standard input": lambda o: "stdin",
        "descriptor": lambda o: "/dev/fd/0",
        "fifo": lambda o: "fifo",
        "socket": lambda o: "../outside/socket",
        "folder as a file": lambda o: "sub",
        "ten gigabytes": lambda o: "sparse",
        "repository": lambda o: ".git/config",
        "repository below": lambda o: "sub/.git/config",
        "keys": lambda o: ".ssh/config",
        "settings": lambda o: ".env",
        "percent": lambda o: "%2e%2e/outside/secret.txt",
        "backslash": lambda o: "..\\outside\\secret.txt",
        "wide dots": lambda o: "．．/outside/secret.txt",
        "null": lambda o: "file.txt\0/../../outside/secret.txt",
        "newline": lambda o: "file.txt\n../outside/secret.txt",
        "empty": lambda o: "",
        "only dots": lambda o: "..",
        "very long": lambda o: "x/" * 5000 + "../" * 5000 + "outside/secret.txt",
        "mangled text": lambda o: "\ud800/../../outside/secret.txt",
    }

    def case(name: str, path: Callable[[Outside], str]) -> Case:
        return Case(f"read {name}", "read_file", lambda _, outside: {"path": path(outside)}, _links)

    return [case(name, path) for name, path in paths.items()]


def _writes() -> list[Case]:
    paths: dict[str, Callable[[Outside], str]] = {
        "upwards": lambda o: "../outside/new.txt",
        "down and up": lambda o: "sub/../../outside/new.txt",
        "absolute": lambda o: str(o.folder / "new.txt"),
        "over a link": lambda o: "link",
        "over a chain": lambda o: "chain",
        "over a dangling link": lambda o: "dangling",
        "into a linked folder": lambda o: "folder/new.txt",
        "into new folders behind a link": lambda o: "folder/a/b/new.txt",
        "upwards by link": lambda o: "up/outside/new.txt",
        "by proc": lambda o: "cwd/../outside/new.txt",
        "a hook": lambda o: ".git/hooks/pre-commit",
        "a hook below": lambda o: "sub/.git/hooks/pre-commit",
        "a new hook": lambda o: "other/.git/hooks/pre-commit",
        "a repository file": lambda o: "other/.git",
        "keys": lambda o: ".ssh/authorized_keys",
        "a shell start": lambda o: ".bashrc",
        "settings": lambda o: ".env",
        "a fifo": lambda o: "fifo",
        "a device": lambda o: "zero",
        "a folder": lambda o: "sub",
        "behind a file": lambda o: "file.txt/new.txt",
        "a long name": lambda o: "x" * 300,
    }

    def case(name: str, path: Callable[[Outside], str]) -> Case:
        arguments: Arguments = lambda _, outside: {"path": path(outside), "content": "#!/bin/sh\n"}  # noqa: E731 - reads as one line
        return Case(f"write {name}", "write_file", arguments, _links)

    return [case(name, path) for name, path in paths.items()]


ENDLESS = ("ignores its end", "writes without end", "fills the memory", "fills the disk")


def _shell(name: str, command: Callable[[Path, Outside], str] | str, place: Place = nothing) -> Case:
    said = command if callable(command) else lambda _, __: command
    seconds = 1 if name in ENDLESS else 10
    return Case(f"bash {name}", "execute_bash", lambda w, o: {"command": said(w, o), "seconds": seconds}, place)


def _python(script: str) -> str:
    return f"python3 - <<'END'\n{script}\nEND"


DAEMON = """import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execlp('sleep', 'sleep', 'SECONDS')
"""


def _commands() -> list[Case]:
    return [
        _shell("reads a file by its path", lambda _, o: f"cat {o.secret}"),
        _shell("reads a file upwards", "cat ../outside/secret.txt"),
        _shell("reads through a link", lambda _, o: f"ln -s {o.secret} s; cat s"),
        _shell("reads through a hard link", lambda _, o: f"ln {o.secret} s; cat s"),
        _shell("reads by proc", lambda _, o: f"cat /proc/self/root{o.secret}; cat /proc/1/root{o.secret}"),
        _shell("reads the shared temporary folder", lambda _, o: f"cat {o.shared}; cat /tmp/tk-canary-*"),
        _shell("searches for it", "find / -name 'secret.txt' -o -name 'tk-canary-*' 2>/dev/null | xargs -r cat"),
        _shell("reads the users", "cat /etc/passwd /etc/shadow && echo " + "$(cat /etc/passwd | head -c 4)"),
        _shell("writes outside", lambda _, o: f"echo x > {o.folder}/new; echo x > {o.secret}; echo x > {o.shared}"),
        _shell("writes upwards", "touch ../outside/new; cp /usr/bin/true ../outside/new2"),
        _shell("removes outside", lambda _, o: f"rm -rf {o.folder} {o.shared}"),
        _shell("writes the system", "echo x > /usr/bin/tk-new; touch /tk-new; echo x > /etc/tk-new"),
        _shell("shows its environment", "env; export; cat /proc/self/environ"),
        _shell("reads other environments", "cat /proc/*/environ /proc/$PPID/environ | tr '\\0' '\\n'"),
        _shell("reads memory", "cat /proc/$PPID/mem /proc/kcore /dev/mem /proc/1/maps | strings | head -100"),
        _shell(
            "reads open descriptors", "for f in /proc/self/fd/*; do [ ${f##*/} -gt 2 ] && timeout 1 cat $f; done; true"
        ),
        _shell("connects by tcp", lambda _, o: f"echo x > /dev/tcp/127.0.0.1/{o.ports['tcp']}"),
        _shell("sends by udp", lambda _, o: f"echo x > /dev/udp/127.0.0.1/{o.ports['udp']}"),
        _shell(
            "connects from python",
            lambda _, o: _python(f"import socket; socket.create_connection(('127.0.0.1', {o.ports['tcp']}), 2)"),
        ),
        _shell(
            "connects to a unix socket",
            lambda _, o: _python(f"import socket; s=socket.socket(socket.AF_UNIX); s.connect('{o.unix}')"),
        ),
        _shell(
            "connects to an abstract socket",
            lambda _, o: _python(f"import socket; s=socket.socket(socket.AF_UNIX); s.connect('\\0{o.abstract}')"),
        ),
        _shell(
            "sends by a raw socket",
            _python(
                "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); s.sendto(b'x'*8, ('127.0.0.1', 0))"
            ),
        ),
        _shell("makes a namespace", lambda _, o: f"unshare -Urm sh -c 'mount --bind / /tmp; cat /tmp{o.secret}'"),
        _shell(
            "enters a namespace", lambda _, o: f"nsenter -t 1 -m cat {o.secret}; nsenter -t $PPID -a cat {o.secret}"
        ),
        _shell("mounts", lambda _, o: f"mkdir m; mount --bind {o.folder} m; mount -t proc proc m; cat m/secret.txt"),
        _shell("remounts", "mount -o remount,rw /usr; mount -o remount,rw /; touch /usr/tk-new"),
        _shell("changes its root", lambda _, o: f"/usr/sbin/chroot /proc/1/root cat {o.secret}; /usr/sbin/chroot .."),
        _shell("makes a device", "mknod d b 254 0; mknod d2 c 1 1; head -c 512 d d2 | strings"),
        _shell("reads a disk", "head -c 4096 /dev/vda /dev/sda /dev/nvme0n1 | strings | head"),
        _shell(
            "becomes somebody else",
            lambda _, o: f"su -c 'cat {o.secret}'; sudo -n cat {o.secret}; setpriv --reuid 0 id",
        ),
        _shell("kills outside", lambda _, o: f"kill -9 {o.process.pid}; kill -9 $PPID"),
        _shell("kills everybody", "kill -9 -1"),
        _shell("slows down outside", lambda _, o: f"renice -n 19 -p {o.process.pid}"),
        _shell(
            "limits outside",
            lambda _, o: f"prlimit --pid {o.process.pid} --cpu=1 --nofile=1; prlimit --pid $PPID --nofile=3 --fsize=0",
        ),
        _shell(
            "traces outside",
            lambda _, o: _python(
                f"import ctypes; c=ctypes.CDLL(None, use_errno=True)\n"
                f"print(c.ptrace(16, {o.process.pid}, 0, 0)); print(c.ptrace(16, 1, 0, 0))"
            ),
        ),
        _shell(
            "leaves something in the background",
            lambda _, o: f"sleep {o.sleep} & nohup sleep {o.sleep} & disown -a; echo started",
        ),
        _shell(
            "leaves a session",
            lambda _, o: (
                f"setsid -f sleep {o.sleep}; (setsid sh -c 'trap \"\" TERM HUP; sleep {o.sleep}' &); echo started"
            ),
        ),
        _shell("leaves a daemon", lambda _, o: _python(DAEMON.replace("SECONDS", o.sleep))),
        _shell("ignores its end", lambda _, o: f"trap '' TERM HUP INT; sleep {o.sleep} & wait; sleep {o.sleep}"),
        _shell("writes without end", "yes"),
        _shell("fills the output", "head -c 200000000 /dev/zero | tr '\\0' x"),
        _shell("fills the disk", "head -c 2000000000 /dev/zero > big; stat -c %s big; rm -f big"),
        _shell("fills the memory", _python("x=[]\nwhile True: x.append(bytearray(64*1024*1024))")),
        _shell("types into a terminal", _python("import fcntl; f=open('/dev/tty','w'); fcntl.ioctl(f, 0x5412, b'x')")),
        _shell(
            "asks the kernel",
            "echo b > /proc/sysrq-trigger; echo 1 > /proc/sys/kernel/panic; dmesg | head -1; insmod x",
        ),
        _shell(
            "calls what is filtered",
            _python(
                "import ctypes\nc=ctypes.CDLL(None, use_errno=True)\n"
                "for n in (425, 321, 323, 250, 304, 272, 428, 438): print(n, c.syscall(n, 0, 0, 0, 0, 0))"
            ),
        ),
        _shell(
            "plants a hook", "mkdir -p .git/hooks; printf '#!/bin/sh\\ntouch ../outside/hooked' > .git/hooks/pre-commit"
        ),
        _shell(
            "swaps the repository",
            lambda _, o: f"mv .git old; rm -rf .git; ln -s {o.folder} .git; cat .git/secret.txt",
            _repository,
        ),
    ]


# ---------------------------------------------------------------- git


@functools.cache
def _template() -> Path:
    """A repository to copy: starting git three times for every case takes most of the time."""
    template = Path(tempfile.mkdtemp(prefix="tk-template-"))
    identity = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "safe.directory=*"]
    for words in (["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *identity, *words], cwd=template, check=True, capture_output=True)
    return template


def _repository(workspace: Path, _: Outside) -> None:
    shutil.copytree(_template() / ".git", workspace / ".git")
    (workspace / "new.txt").write_text("new\n")


def _script(workspace: Path, outside: Outside) -> Path:
    """Planted code: leaves a mark in the workspace and tries to leave one outside."""
    script = workspace / "planted.sh"
    script.write_text(f"#!/bin/sh\ntouch '{workspace}/RAN' /workspace/RAN '{outside.folder}/planted'\ncat\n")
    script.chmod(0o755)
    return script


def _hook(name: str) -> Place:
    def place(workspace: Path, outside: Outside) -> None:
        _repository(workspace, outside)
        shutil.copy(_script(workspace, outside), workspace / ".git/hooks" / name)

    return place


def _config(text: str) -> Place:
    """A repository whose configuration says more; SCRIPT, WORKSPACE and OUTSIDE are replaced."""

    def place(workspace: Path, outside: Outside) -> None:
        _repository(workspace, outside)
        script = _script(workspace, outside)
        said = (
            text.replace("SCRIPT", str(script))
            .replace("OUTSIDE", str(outside.folder))
            .replace("WORKSPACE", str(workspace))
        )
        with open(workspace / ".git/config", "a") as file:
            file.write(said)
        (workspace / ".gitattributes").write_text("* filter=planted diff=planted merge=planted\n")

    return place


def _linked_repository(workspace: Path, outside: Outside) -> None:
    _repository(outside.folder, outside)
    (workspace / ".git").symlink_to(outside.folder / ".git")


def _repository_file(workspace: Path, outside: Outside) -> None:
    _repository(outside.folder, outside)
    (workspace / ".git").write_text(f"gitdir: {outside.folder}/.git\n")


def _nested_repository(workspace: Path, outside: Outside) -> None:
    _repository(workspace, outside)
    (workspace / "sub").mkdir()
    _config('[core]\n\tfsmonitor = SCRIPT\n[filter "planted"]\n\tclean = SCRIPT\n')(workspace / "sub", outside)
    script = (workspace / "sub/planted.sh").read_text().replace(f"{workspace}/sub/RAN", f"{workspace}/RAN")
    (workspace / "sub/planted.sh").write_text(script)


def _git(name: str, place: Place = _repository, **arguments: Any) -> Case:
    arguments.setdefault("operation", "status")
    return Case(f"git {name}", "git_operation", _fixed(**arguments), place, ran="RAN")


_COMMIT = {"operation": "commit", "message": "second", "arguments": ["-a", "--allow-empty"]}
_ADD = {"operation": "add", "paths": ["."]}
_DIFF = {"operation": "diff", "arguments": ["HEAD"]}


def _git_cases() -> list[Case]:
    def option(name: str, operation: str, *words: str, paths: list[str] | None = None) -> Case:
        return _git(f"option {name}", operation=operation, arguments=list(words), paths=paths)

    return [
        _git("hook before a commit", _hook("pre-commit"), **_COMMIT),
        _git("hook for the message", _hook("commit-msg"), **_COMMIT),
        _git("hook after a commit", _hook("post-commit"), **_COMMIT),
        _git("hook on references", _hook("reference-transaction"), **_COMMIT),
        _git("hook on the index", _hook("post-index-change"), **_ADD),
        _git("hook on a switch", _hook("post-checkout"), operation="switch", arguments=["-c", "other"]),
        _git("configured hooks", _config("[core]\n\thooksPath = WORKSPACE\n"), **_COMMIT),
        _git("file monitor", _config("[core]\n\tfsmonitor = SCRIPT\n")),
        _git("pager", _config("[core]\n\tpager = SCRIPT\n[pager]\n\tlog = SCRIPT\n"), operation="log"),
        _git("editor", _config("[core]\n\teditor = SCRIPT\n"), operation="commit", arguments=["--amend"]),
        _git("filter on the way in", _config('[filter "planted"]\n\tclean = SCRIPT\n\trequired = true\n'), **_ADD),
        _git(
            "filter on the way out",
            _config('[filter "planted"]\n\tsmudge = SCRIPT\n'),
            operation="restore",
            paths=["new.txt"],
        ),
        _git("external diff", _config("[diff]\n\texternal = SCRIPT\n"), **_DIFF),
        _git("diff driver", _config('[diff "planted"]\n\tcommand = SCRIPT\n'), **_DIFF),
        _git("text conversion", _config('[diff "planted"]\n\ttextconv = SCRIPT\n'), **_DIFF),
        _git("signing program", _config("[gpg]\n\tprogram = SCRIPT\n[commit]\n\tgpgSign = true\n"), **_COMMIT),
        _git("alias", _config("[alias]\n\tstatus = !SCRIPT\n\tst = !SCRIPT\n")),
        _git("included settings", _config("[include]\n\tpath = OUTSIDE/secret.txt\n")),
        _git("work tree elsewhere", _config("[core]\n\tworktree = OUTSIDE\n"), **_ADD),
        _git("credential helper", _config("[credential]\n\thelper = !SCRIPT\n")),
        _git("linked repository", _linked_repository, operation="log"),
        _git("repository by a file", _repository_file, operation="log"),
        _git("repository within", _nested_repository, **_ADD),
        _git("state of a repository within", _nested_repository),
        option("output", "diff", "--output=../outside/new"),
        option("output of log", "log", "--output=../outside/new"),
        option("no index", "diff", "--no-index", paths=["/dev/null", "../outside/secret.txt"]),
        option("external diff", "diff", "--ext-diff"),
        option("configuration", "status", "-c", "core.fsmonitor=touch ../outside/new"),
        option("directory", "status", "--git-dir=../outside"),
        option("message file", "commit", "-F", "../outside/secret.txt"),
        option("message file joined", "commit", "--file=../outside/secret.txt"),
        option("template", "commit", "--template=../outside/secret.txt"),
        option("path list", "add", "--pathspec-from-file=../outside/secret.txt"),
        option("contents", "blame", "--contents=../outside/secret.txt", paths=["new.txt"]),
        option("ignored revisions", "blame", "--ignore-revs-file=../outside/secret.txt", paths=["new.txt"]),
        option("revision that is an option", "log", "HEAD", "--", "--output=../outside/new"),
        _git("path upwards", operation="add", paths=["../outside/secret.txt"]),
        _git("path that is absolute", operation="diff", paths=["/etc/passwd"]),
        _git("path that is an option", operation="add", paths=["--pathspec-from-file=../outside/secret.txt"]),
        _git("magic path", operation="add", paths=[":(top)../outside/secret.txt"]),
        _git("verb that pushes", operation="push", arguments=["../outside"]),
        _git("verb that clones", operation="clone", arguments=["ext::sh -c touch% ../outside/new", "x"]),
        _git("verb that is an option", operation="--exec-path=../outside"),
    ]


def corpus() -> list[Case]:
    return [*_reads(), *_writes(), *_commands(), *_git_cases()]


# ---------------------------------------------------------------- running


async def attempt(case: Case, tools: dict[str, Tool], workspace: Path, outside: Outside) -> dict[str, Any]:
    _emptied(workspace)
    outside.reset()
    case.place(workspace, outside)
    before = {entry.name for entry in outside.folder.iterdir()}
    began = time.monotonic()
    result = await _called(tools[case.tool], case.arguments(workspace, outside))
    await asyncio.sleep(0)
    damage = [one for one in outside.damage() if one.removeprefix("appeared: ") not in before]
    if CANARY in result.output or "root:x:" in result.output:
        damage.append("the output holds a canary")
    if case.ran and (workspace / case.ran).exists():
        damage.append("planted code ran")
    seconds = round(time.monotonic() - began, 2)
    return {"damage": damage, "status": result.status, "output": result.output[:300], "seconds": seconds}


async def _called(tool: Tool, arguments: dict[str, Any]) -> Result:
    asked = Asked("call_1", tool.name, json.dumps(arguments))
    return await call(tool, asked, ToolContext(), clock=SystemClock())


async def race(tools: dict[str, Tool], workspace: Path, outside: Outside) -> dict[str, Any]:
    """A folder and a link to the outside change places all the time while files behind the name are used."""
    _emptied(workspace)
    outside.reset()
    (workspace / "real").mkdir()
    (workspace / "real/secret.txt").write_text("inside")
    (workspace / "evil").symlink_to(outside.folder)
    stop = threading.Event()
    swapping = threading.Thread(target=_swap, args=(workspace, stop))
    swapping.start()
    seen: dict[str, int] = {}
    try:
        for number in range(400):
            path = "door/secret.txt" if number % 2 else f"door/new/{number}.txt"
            name = "read_file" if number % 2 else "write_file"
            result = await _called(tools[name], {"path": path} | ({} if number % 2 else {"content": "x"}))
            seen[result.status] = seen.get(result.status, 0) + 1
            if CANARY in result.output:
                return {"damage": ["the output holds a canary"], "status": "ok", "output": path}
    finally:
        stop.set()
        swapping.join()
    return {"damage": outside.damage(), "status": json.dumps(seen), "output": ""}


def _swap(workspace: Path, stop: threading.Event) -> None:
    while not stop.is_set():
        for name in ("real", "evil"):
            with suppress(OSError):
                os.rename(workspace / name, workspace / "door")
                os.rename(workspace / "door", workspace / name)


COUNT = """import os, time
n = 0
try:
    while n < 300:
        if os.fork() == 0:
            time.sleep(15); os._exit(0)
        n += 1
except OSError:
    pass
print(n)"""


async def crowd(tools: dict[str, Tool], outside: Outside) -> dict[str, Any]:
    """How many processes can be started at most; only where that is bounded the fork bomb goes off."""
    result = await _called(tools["execute_bash"], {"command": _python(COUNT), "seconds": 20})
    if not result.output.strip().isdigit() or not 8 < int(result.output) < 150:
        return {"damage": ["processes are not bounded"], "status": result.status, "output": result.output[:300]}
    outside.reset()
    bomb = await _called(tools["execute_bash"], {"command": ":(){ :|:& };:; sleep 1", "seconds": 3})
    return {"damage": outside.damage(), "status": bomb.status, "output": bomb.output[:100]}


async def everything(share: tuple[int, int]) -> dict[str, Any]:
    """Every case of this share in each sandbox, and without one; the sandboxes side by side, the crowds alone."""
    report = sandbox.probe()
    mechanisms: list[Any] = [None]
    if report.process_limit:
        mechanisms += [one for one in ("bubblewrap", "landlock") if getattr(report, one) == "ok"]
    results: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        stack.callback(lambda: shutil.rmtree(_template(), ignore_errors=True))
        grounds = [Ground(mechanism) for mechanism in mechanisms]
        for ground in grounds:
            stack.callback(ground.outside.close)
        for told in await asyncio.gather(*(ground.all_cases(share) for ground in grounds)):
            results |= told
        for ground in grounds[1:]:
            results[f"{ground.name}: bash fork bomb"] = await crowd(ground.tools, ground.outside)
    return {"report": repr(report), "refusal": report.refusal, "user": os.getuid(), "results": results}


class Ground:
    """A workspace in one sandbox, or in none, with an outside of its own."""

    def __init__(self, mechanism: Any) -> None:
        self.name = mechanism or "plain"
        self.outside = Outside()
        self.workspace = self.outside.base / "workspace"
        self.workspace.mkdir()
        inside = sandbox.sandbox(mechanism=mechanism) if mechanism else None
        made = [git_tool(self.workspace, inside)]
        made += [bash_tool(self.workspace, inside)] if inside else file_tools(Workspace(self.workspace))
        self.tools = {one.name: one for one in made}

    async def all_cases(self, share: tuple[int, int]) -> dict[str, Any]:
        """Without a sandbox the files and git; in a sandbox git and the shell."""
        results = {}
        for number, case in enumerate(corpus()):
            if case.tool in self.tools and number % share[1] == share[0] - 1:
                results[f"{self.name}: {case.name}"] = await attempt(case, self.tools, self.workspace, self.outside)
        results[f"{self.name}: what must work"] = await honest(self.tools, self.workspace, self.outside)
        if "read_file" in self.tools:
            results[f"{self.name}: race"] = await race(self.tools, self.workspace, self.outside)
        return results


MOST = 600
"""Processes that the whole corpus may have, whatever the tools allow: it sets off fork bombs."""


def become(user: int) -> None:
    """An ordinary user from here on. What is imported later must be readable for it."""
    import encodings.idna  # noqa: F401 - loaded while it can be
    import multiprocessing  # noqa: F401

    resource.setrlimit(resource.RLIMIT_NPROC, (MOST, MOST))
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable, or the kernel itself would hide its environment


@contextmanager
def bounded() -> Iterator[None]:
    """A pids cgroup around everything, where this user can make one."""
    limit = process_limit()
    group = limit.group(MOST) if limit else None
    if limit is None or limit.parent is None or group is None:
        yield
        return
    group.members.write_text("0")
    try:
        yield
    finally:
        (limit.parent / "cgroup.procs").write_text("0")
        group.remove()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", type=int)
    parser.add_argument("--share", default="1/1")
    given = parser.parse_args()
    part, of = map(int, given.share.split("/"))
    if given.user is not None:
        become(given.user)
    with bounded():
        print(json.dumps(asyncio.run(everything((part, of)))))
