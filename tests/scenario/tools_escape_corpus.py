"""Attempts to get out of the workspace, run as whoever starts this file or as an ordinary user.

    python -m tests.scenario.tools_escape_corpus [--user 65534] [--share 1/2]

A share is every n-th case. Prints one JSON object: what is available here, and for every case whether something came
out or got hurt. Outside the workspace lie canaries: a readable file, an environment variable, listening sockets and a
process. A case has escaped if a canary's text is in its output, a listener was called, a file appeared outside or has
another mode, owner, time or attribute, a file inside has a mode beyond 0777, what must be refused was ALLOWED, or a
process was left or killed.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import resource
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.scenario import tools_escape_families as families
from tests.scenario.tools_escape_ground import (
    ADD,
    CANARY,
    COMMIT,
    DAEMON,
    DIFF,
    Arguments,
    Case,
    Outside,
    beyond_0777,
    configured,
    emptied,
    git,
    hook,
    linked_repository,
    nested_repository,
    python,
    repository,
    repository_file,
    shell,
    template,
)
from turnkeep.clock import SystemClock
from turnkeep.tools import Tool, ToolContext, sandbox
from turnkeep.tools.execution import Result, ToolRequest, call
from turnkeep.tools.files import file_tools
from turnkeep.tools.git import git_tool
from turnkeep.tools.process_limits import Group, process_limit
from turnkeep.tools.shell import bash_tool
from turnkeep.tools.workspaces import Workspaces


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
            emptied(workspace)
            (workspace / "sub/deep").mkdir(parents=True)
            for place in ("file.txt", "sub/deep/file.txt", ".gitignore"):
                (workspace / place).write_text("inside\n")
            repository(workspace, outside)
            result = await _called(tools[name], arguments)
            if result.status != "ok" or expected not in result.output:
                wrong.append(f"{name} {arguments}: {result.output[:200]}")
    return {"damage": wrong, "status": "ok", "output": ""}


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


def _commands() -> list[Case]:
    return [
        shell("reads a file by its path", lambda _, o: f"cat {o.secret}"),
        shell("reads a file upwards", "cat ../outside/secret.txt"),
        shell("reads through a link", lambda _, o: f"ln -s {o.secret} s; cat s"),
        shell("reads through a hard link", lambda _, o: f"ln {o.secret} s; cat s"),
        shell("reads by proc", lambda _, o: f"cat /proc/self/root{o.secret}; cat /proc/1/root{o.secret}"),
        shell("reads the shared temporary folder", lambda _, o: f"cat {o.shared}; cat /tmp/tk-canary-*"),
        shell("searches for it", "find / -name 'secret.txt' -o -name 'tk-canary-*' 2>/dev/null | xargs -r cat"),
        shell("reads the users", "cat /etc/passwd /etc/shadow && echo " + "$(cat /etc/passwd | head -c 4)"),
        shell("writes outside", lambda _, o: f"echo x > {o.folder}/new; echo x > {o.secret}; echo x > {o.shared}"),
        shell("writes upwards", "touch ../outside/new; cp /usr/bin/true ../outside/new2"),
        shell("removes outside", lambda _, o: f"rm -rf {o.folder} {o.shared}"),
        shell("writes the system", "echo x > /usr/bin/tk-new; touch /tk-new; echo x > /etc/tk-new"),
        shell("shows its environment", "env; export; cat /proc/self/environ"),
        shell("reads other environments", "cat /proc/*/environ /proc/$PPID/environ | tr '\\0' '\\n'"),
        shell("reads memory", "cat /proc/$PPID/mem /proc/kcore /dev/mem /proc/1/maps | strings | head -100"),
        shell(
            "reads open descriptors", "for f in /proc/self/fd/*; do [ ${f##*/} -gt 2 ] && timeout 1 cat $f; done; true"
        ),
        shell("connects by tcp", lambda _, o: f"echo x > /dev/tcp/127.0.0.1/{o.ports['tcp']}"),
        shell("sends by udp", lambda _, o: f"echo x > /dev/udp/127.0.0.1/{o.ports['udp']}"),
        shell(
            "connects from python",
            lambda _, o: python(f"import socket; socket.create_connection(('127.0.0.1', {o.ports['tcp']}), 2)"),
        ),
        shell(
            "connects to a unix socket",
            lambda _, o: python(f"import socket; s=socket.socket(socket.AF_UNIX); s.connect('{o.unix}')"),
        ),
        shell(
            "connects to an abstract socket",
            lambda _, o: python(f"import socket; s=socket.socket(socket.AF_UNIX); s.connect('\\0{o.abstract}')"),
        ),
        shell(
            "sends by a raw socket",
            python(
                "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); s.sendto(b'x'*8, ('127.0.0.1', 0))"
            ),
        ),
        shell("makes a namespace", lambda _, o: f"unshare -Urm sh -c 'mount --bind / /tmp; cat /tmp{o.secret}'"),
        shell("enters a namespace", lambda _, o: f"nsenter -t 1 -m cat {o.secret}; nsenter -t $PPID -a cat {o.secret}"),
        shell("mounts", lambda _, o: f"mkdir m; mount --bind {o.folder} m; mount -t proc proc m; cat m/secret.txt"),
        shell("remounts", "mount -o remount,rw /usr; mount -o remount,rw /; touch /usr/tk-new"),
        shell("changes its root", lambda _, o: f"/usr/sbin/chroot /proc/1/root cat {o.secret}; /usr/sbin/chroot .."),
        shell("makes a device", "mknod d b 254 0; mknod d2 c 1 1; head -c 512 d d2 | strings"),
        shell("reads a disk", "head -c 4096 /dev/vda /dev/sda /dev/nvme0n1 | strings | head"),
        shell(
            "becomes somebody else",
            lambda _, o: f"su -c 'cat {o.secret}'; sudo -n cat {o.secret}; setpriv --reuid 0 id",
        ),
        shell("kills outside", lambda _, o: f"kill -9 {o.process.pid}; kill -9 $PPID"),
        shell("kills everybody", "kill -9 -1"),
        shell("slows down outside", lambda _, o: f"renice -n 19 -p {o.process.pid}"),
        shell(
            "limits outside",
            lambda _, o: f"prlimit --pid {o.process.pid} --cpu=1 --nofile=1; prlimit --pid $PPID --nofile=3 --fsize=0",
        ),
        shell(
            "traces outside",
            lambda _, o: python(
                f"import ctypes; c=ctypes.CDLL(None, use_errno=True)\n"
                f"print(c.ptrace(16, {o.process.pid}, 0, 0)); print(c.ptrace(16, 1, 0, 0))"
            ),
        ),
        shell(
            "leaves something in the background",
            lambda _, o: f"sleep {o.sleep} & nohup sleep {o.sleep} & disown -a; echo started",
        ),
        shell(
            "leaves a session",
            lambda _, o: (
                f"setsid -f sleep {o.sleep}; (setsid sh -c 'trap \"\" TERM HUP; sleep {o.sleep}' &); echo started"
            ),
        ),
        shell("leaves a daemon", lambda _, o: python(DAEMON.replace("SECONDS", o.sleep))),
        shell("ignores its end", lambda _, o: f"trap '' TERM HUP INT; sleep {o.sleep} & wait; sleep {o.sleep}"),
        shell("writes without end", "yes"),
        shell("fills the output", "head -c 200000000 /dev/zero | tr '\\0' x"),
        shell("fills the disk", "head -c 2000000000 /dev/zero > big; stat -c %s big; rm -f big"),
        shell("fills the memory", python("x=[]\nwhile True: x.append(bytearray(64*1024*1024))")),
        shell("types into a terminal", python("import fcntl; f=open('/dev/tty','w'); fcntl.ioctl(f, 0x5412, b'x')")),
        shell(
            "asks the kernel",
            "echo b > /proc/sysrq-trigger; echo 1 > /proc/sys/kernel/panic; dmesg | head -1; insmod x",
        ),
        shell(
            "calls what is filtered",
            python(
                "import ctypes\nc=ctypes.CDLL(None, use_errno=True)\n"
                "for n in (425, 321, 323, 250, 304, 272, 428, 438): print(n, c.syscall(n, 0, 0, 0, 0, 0))"
            ),
        ),
        shell(
            "plants a hook", "mkdir -p .git/hooks; printf '#!/bin/sh\\ntouch ../outside/hooked' > .git/hooks/pre-commit"
        ),
        shell(
            "swaps the repository",
            lambda _, o: f"mv .git old; rm -rf .git; ln -s {o.folder} .git; cat .git/secret.txt",
            repository,
        ),
    ]


def _git_cases() -> list[Case]:
    def option(name: str, operation: str, *words: str, paths: list[str] | None = None) -> Case:
        return git(f"option {name}", operation=operation, arguments=list(words), paths=paths)

    return [
        git("hook before a commit", hook("pre-commit"), **COMMIT),
        git("hook for the message", hook("commit-msg"), **COMMIT),
        git("hook after a commit", hook("post-commit"), **COMMIT),
        git("hook on references", hook("reference-transaction"), **COMMIT),
        git("hook on the index", hook("post-index-change"), **ADD),
        git("hook on a switch", hook("post-checkout"), operation="switch", arguments=["-c", "other"]),
        git("configured hooks", configured("[core]\n\thooksPath = WORKSPACE\n"), **COMMIT),
        git("file monitor", configured("[core]\n\tfsmonitor = SCRIPT\n")),
        git("pager", configured("[core]\n\tpager = SCRIPT\n[pager]\n\tlog = SCRIPT\n"), operation="log"),
        git("editor", configured("[core]\n\teditor = SCRIPT\n"), operation="commit", arguments=["--amend"]),
        git("filter on the way in", configured('[filter "planted"]\n\tclean = SCRIPT\n\trequired = true\n'), **ADD),
        git(
            "filter on the way out",
            configured('[filter "planted"]\n\tsmudge = SCRIPT\n'),
            operation="restore",
            paths=["new.txt"],
        ),
        git("external diff", configured("[diff]\n\texternal = SCRIPT\n"), **DIFF),
        git("diff driver", configured('[diff "planted"]\n\tcommand = SCRIPT\n'), **DIFF),
        git("text conversion", configured('[diff "planted"]\n\ttextconv = SCRIPT\n'), **DIFF),
        git("signing program", configured("[gpg]\n\tprogram = SCRIPT\n[commit]\n\tgpgSign = true\n"), **COMMIT),
        git("alias", configured("[alias]\n\tstatus = !SCRIPT\n\tst = !SCRIPT\n")),
        git("included settings", configured("[include]\n\tpath = OUTSIDE/secret.txt\n")),
        git("work tree elsewhere", configured("[core]\n\tworktree = OUTSIDE\n"), **ADD),
        git("credential helper", configured("[credential]\n\thelper = !SCRIPT\n")),
        git("linked repository", linked_repository, operation="log"),
        git("repository by a file", repository_file, operation="log"),
        git("repository within", nested_repository, **ADD),
        git("state of a repository within", nested_repository),
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
        git("path upwards", operation="add", paths=["../outside/secret.txt"]),
        git("path that is absolute", operation="diff", paths=["/etc/passwd"]),
        git("path that is an option", operation="add", paths=["--pathspec-from-file=../outside/secret.txt"]),
        git("magic path", operation="add", paths=[":(top)../outside/secret.txt"]),
        git("verb that pushes", operation="push", arguments=["../outside"]),
        git("verb that clones", operation="clone", arguments=["ext::sh -c touch% ../outside/new", "x"]),
        git("verb that is an option", operation="--exec-path=../outside"),
    ]


def corpus() -> list[Case]:
    return [*_reads(), *_writes(), *_commands(), *_git_cases(), *families.cases()]


# ---------------------------------------------------------------- running


async def attempt(case: Case, tools: dict[str, Tool], workspace: Path, outside: Outside) -> dict[str, Any]:
    emptied(workspace)
    outside.reset()
    case.place(workspace, outside)
    before = {entry.name for entry in outside.folder.iterdir()}
    facts = outside.facts()
    began = time.monotonic()
    result = await _called(tools[case.tool], case.arguments(workspace, outside))
    await asyncio.sleep(0)
    damage = [one for one in outside.damage() if one.removeprefix("appeared: ") not in before]
    if CANARY in result.output or "root:x:" in result.output:
        damage.append("the output holds a canary")
    damage += [f"other mode, owner, time or attribute: {p}" for p, was in outside.facts().items() if facts[p] != was]
    damage += beyond_0777(workspace)
    damage += [f"refused nowhere: {line}" for line in result.output.splitlines() if line.startswith("ALLOWED")]
    if case.ran and (workspace / case.ran).exists():
        damage.append("planted code ran")
    seconds = round(time.monotonic() - began, 2)
    return {"damage": damage, "status": result.status, "output": result.output[:300], "seconds": seconds}


async def _called(tool: Tool, arguments: dict[str, Any]) -> Result:
    asked = ToolRequest("call_1", tool.name, json.dumps(arguments))
    return await call(tool, asked, ToolContext(), clock=SystemClock())


async def race(tools: dict[str, Tool], workspace: Path, outside: Outside) -> dict[str, Any]:
    """A folder and a link to the outside change places all the time while files behind the name are used."""
    emptied(workspace)
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
    result = await _called(tools["execute_bash"], {"command": python(COUNT), "seconds": 20})
    if not result.output.strip().isdigit() or not 8 < int(result.output) < 150:
        return {"damage": ["processes are not bounded"], "status": result.status, "output": result.output[:300]}
    outside.reset()
    bomb = await _called(tools["execute_bash"], {"command": ":(){ :|:& };:; sleep 1", "seconds": 3})
    return {"damage": outside.damage(), "status": bomb.status, "output": bomb.output[:100]}


async def everything(share: tuple[int, int]) -> dict[str, Any]:
    """Every case of this share in each sandbox, and without one; the sandboxes side by side, the crowds alone."""
    report = sandbox.probe()
    mechanisms = [None, sandbox.sandbox(report)] if report.refusal is None else [None]
    results: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        stack.callback(lambda: shutil.rmtree(template(), ignore_errors=True))
        grounds = [Ground(inside, stack) for inside in mechanisms]
        for told in await asyncio.gather(*(ground.all_cases(share) for ground in grounds)):
            results |= told
        for ground in grounds[1:]:
            results[f"{ground.name}: bash fork bomb"] = await crowd(ground.tools, ground.outside)
    return {"report": repr(report), "refusal": report.refusal, "user": os.getuid(), "results": results}


class Ground:
    """A workspace in one sandbox, or in none, with an outside of its own."""

    def __init__(self, inside: sandbox.Sandbox | None, stack: AsyncExitStack) -> None:
        self.name = inside.mechanism if inside else "plain"
        self.outside = Outside()
        stack.callback(self.outside.close)
        self.workspace = self.outside.base / "workspace"
        self.workspace.mkdir()
        workspaces = Workspaces(self.workspace)
        made = [git_tool(workspaces, inside), bash_tool(workspaces, inside)] if inside else file_tools(workspaces)
        self.tools = {one.name: one for one in made}

    async def all_cases(self, share: tuple[int, int]) -> dict[str, Any]:
        """Without a sandbox the files; in a sandbox git and the shell."""
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


async def rehearse() -> None:
    """Use every tool once, so that all they import is loaded while it can be read: a clone may be its owner's alone."""
    report = sandbox.probe()
    async with AsyncExitStack() as stack:
        for inside in [None, sandbox.sandbox(report)] if report.refusal is None else [None]:
            ground = Ground(inside, stack)
            await honest(ground.tools, ground.workspace, ground.outside)
    shutil.rmtree(template(), ignore_errors=True)
    template.cache_clear()


def become(user: int) -> None:
    """An ordinary user from here on."""
    import encodings.idna  # noqa: F401 - loaded while it can be
    import multiprocessing  # noqa: F401

    asyncio.run(rehearse())
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
    if limit is None or limit.pids is None or group is None:
        yield
        return
    pids = Group(tuple(path for path in group.paths if path.parent == limit.pids))
    pids.members[0].write_text("0")
    try:
        yield
    finally:
        (limit.pids / "cgroup.procs").write_text("0")
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
