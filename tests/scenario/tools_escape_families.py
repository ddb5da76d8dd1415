"""Attempts by family: every way to do a thing, crossed with everything it could be done to.

What one member of a family shows, another door of the kernel or another spelling does too; so they are made, not
written down. Lines that begin with ALLOWED say that something went through which has to be refused.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.scenario.tools_escape_ground import Arguments, Case, Outside, git, python, repository, shell
from turnkeep.tools.confine import DENIED_CALLS


def cases() -> list[Case]:
    made = (_modes, _mode_programs, _outside, _kernel, _sockets, _files_of_the_kernel, _spellings, _within)
    return list(itertools.chain.from_iterable(family() for family in made))


# ---------------------------------------------------------------- modes beyond 0777

_RAW = """import ctypes, os, platform
c = ctypes.CDLL(None, use_errno=True)
n = dict(zip(('chmod','fchmod','fchmodat','fchmodat2','creat','open','openat','openat2','mkdir','mkdirat','mknod',
    'mknodat'), (90,91,268,452,85,2,257,437,83,258,133,259) if platform.machine() == 'x86_64' else
    (None,52,53,452,None,None,56,437,None,34,None,33)))
MODE = {mode}
open('f', 'w').close()
f = os.open('f', os.O_RDWR)
here, AT = os.open('.', os.O_RDONLY), -100
def call(name, *args):
    if n[name] is not None:
        c.syscall(n[name], *args)
{act}
"""
_ACTS = {
    "chmod": "call('chmod', b'f', MODE)",
    "fchmod": "call('fchmod', f, MODE)",
    "fchmodat": "call('fchmodat', AT, b'f', MODE)",
    "fchmodat from a folder": "call('fchmodat', here, b'f', MODE)",
    "fchmodat2": "call('fchmodat2', AT, b'f', MODE, 0)",
    "fchmodat2 of a descriptor": "call('fchmodat2', f, b'', MODE, 0x1000)",
    "chmod by proc": "call('fchmodat', AT, b'/proc/self/fd/%d' % f, MODE)",
    "high bits set": "call('fchmod', f, ctypes.c_ulong(0xFFFF0000 | MODE))",
    "creat": "call('creat', b'g', MODE)",
    "open": "call('open', b'g', os.O_CREAT | os.O_RDWR, MODE)",
    "openat": "call('openat', AT, b'g', os.O_CREAT | os.O_RDWR, MODE)",
    "openat of a nameless file": (
        "t = c.syscall(n['openat'], AT, b'.', os.O_TMPFILE | os.O_RDWR, MODE)\n"
        "t >= 0 and os.link('/proc/self/fd/%d' % t, 'linked', follow_symlinks=True)"
    ),
    "openat2": "call('openat2', AT, b'g', (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_RDWR, MODE, 0), 24)",
    "mkdir": "call('mkdir', b'd', MODE)",
    "mkdirat": "call('mkdirat', AT, b'd', MODE)",
    "mknod": "call('mknod', b'p', 0o100000 | MODE, 0)",
    "mknodat of a pipe": "call('mknodat', AT, b'p', 0o10000 | MODE, 0)",
    "umask first": "os.umask(0); call('openat', AT, b'g', os.O_CREAT, MODE); call('fchmod', f, MODE)",
}


def _modes() -> Iterator[Case]:
    for (name, act), mode in itertools.product(_ACTS.items(), (0o4755, 0o2755, 0o1777, 0o6711)):
        yield shell(f"mode {mode:o} by {name}", python(_RAW.format(mode=oct(mode), act=act)))


def _mode_programs() -> Iterator[Case]:
    said = {
        "chmod": "cp /bin/bash sh; chmod u+s sh; chmod g+s sh; chmod 7777 sh; chmod +t .",
        "install": "install -m 4755 /bin/bash sh; install -d -m 2777 d",
        "mkdir": "mkdir -m 2777 d; mkdir -m 1777 e; mkfifo -m 4666 p",
        "tar": python(
            "import io, tarfile\nt = tarfile.open('a.tar', 'w')\nm = tarfile.TarInfo('sh'); m.mode = 0o6755\n"
            "t.addfile(m, io.BytesIO()); t.close()"
        )
        + "\ntar xpf a.tar; tar xf a.tar --no-same-owner -p",
        "cp": "cp -a /usr/bin/su /usr/bin/passwd . ; cp --preserve=mode /usr/bin/mount .",
        "python": python("import os\nopen('s','w').close()\nos.chmod('s', 0o4755)\nos.chmod('.', 0o3777)"),
        "perl": 'touch s; perl -e \'chmod 04755, "s"; mkdir "d", 02777\'',
        "capabilities": "cp /bin/true t; setcap cap_setuid+ep t; getcap t | sed s/^/ALLOWED/",
        "attributes": python(
            "import os\nopen('t','w').close()\nos.setxattr('t','security.capability',"
            "bytes.fromhex('0100000280000000000000000000000000000000'))\nprint('ALLOWED')"
        ),
        "an owner": "touch t; chown 12345:12345 t && echo ALLOWED; chgrp 12345 t && echo ALLOWED; true",
        "the folder itself": "chmod 4777 .; chmod 2777 /workspace; stat -c %a .",
    }
    return (shell(f"mode by {name}", command) for name, command in said.items())


# ---------------------------------------------------------------- files outside

_TARGETS: Mapping[str, Callable[[Outside], str]] = {
    "the secret": lambda o: str(o.secret),
    "the store": lambda o: str(o.store),
    "the shared folder": lambda o: str(o.shared),
    "the folder": lambda o: str(o.folder),
    "a program": lambda _: "/usr/bin/true",
    "the users": lambda _: "/etc/passwd",
}
_DONE_TO_THEM = {
    "opened to all": "chmod 666 {0}; chmod a+rwx {0}",
    "closed": "chmod 000 {0}",
    "made setuid": "chmod 4755 {0}; chmod 2755 {0}",
    "given away": "chown 65533 {0}; chgrp 65533 {0}",
    "dated back": "touch -d 2001-01-01 {0}; touch -h -d 2001-01-01 {0}",
    "marked": "setfattr -n user.tk -v x {0}; setfattr -n security.tk -v x {0}; setfacl -m u:0:rwx {0}",
    "made unchangeable": "chattr +i {0}; chattr +a {0}",
    "truncated": "truncate -s 0 {0}; : > {0}; dd if=/dev/null of={0} status=none",
    "moved": "mv {0} stolen; ln {0} stolen2; ln -s {0} l; chmod 666 l; touch -d 2001-01-01 l; mv -T stolen {0}",
    "removed": "rm -rf {0}; unlink {0}",
    "reached by proc": "for p in /proc/self/root /proc/1/root /proc/$PPID/root /proc/1/cwd/..; do"
    " chmod 666 $p{0}; touch -d 2001-01-01 $p{0}; cat $p{0}; done",
    "reached upwards": "cd ../../../../../; chmod 666 .{0}; touch -d 2001-01-01 .{0}; cat .{0}",
}  # fmt: skip


def _outside() -> Iterator[Case]:
    for (target, place), (verb, command) in itertools.product(_TARGETS.items(), _DONE_TO_THEM.items()):

        def said(_: Path, outside: Outside, place: Any = place, command: str = command) -> str:
            return f"({command.format(place(outside))}) 2>&1 | grep -v 'root:x:0' | head -5"

        yield shell(f"{target} {verb}", said)


# ---------------------------------------------------------------- the kernel


def _kernel() -> Iterator[Case]:
    """Each call that the filter names, made raw: none may succeed."""
    for name, (x86, arm) in DENIED_CALLS.items():
        script = (
            "import ctypes, platform\nc = ctypes.CDLL(None, use_errno=True)\nb = ctypes.create_string_buffer(4096)\n"
            f"n = {x86} if platform.machine() == 'x86_64' else {arm}\n"
            "for args in ((0, 0, 0, 0, 0), (b, b, b, 0, b), (-100, b'.', b, 0, 0), (1, b, 0, 0, 0)):\n"
            "    if c.syscall(n, *args) >= 0: print('ALLOWED', args)"
        )
        yield shell(f"kernel call {name}", python(script))


def _sockets() -> Iterator[Case]:
    families = {"vsock": 40, "packet": 17, "alg": 38, "bluetooth": 31, "can": 29, "tipc": 30, "rds": 21, "xdp": 44,
                "key": 15, "netrom": 6, "x25": 9, "ax25": 3, "qipcrtr": 42, "smc": 43, "caif": 37, "nfc": 39,
                "ieee802154": 36, "phonet": 35, "llc": 26, "kcm": 41}  # fmt: skip
    for (name, number), kind in itertools.product(families.items(), ("SOCK_STREAM", "SOCK_DGRAM")):
        script = f"import socket\ns = socket.socket({number}, socket.{kind})\nprint('ALLOWED', s)"
        yield shell(f"socket {name} {kind}", python(script))

    def reached(name: str, script: str) -> Case:
        return shell(f"socket {name}", lambda _, o: python(script.format(tcp=o.ports["tcp"], udp=o.ports["udp"])))

    yield reached("to every address of this machine", (
        "import socket\nfor host in ('127.0.0.1','127.1.2.3','0.0.0.0','::1','::ffff:127.0.0.1','169.254.169.254'):\n"
        "    try: socket.create_connection((host, {tcp}), 1)\n    except OSError: pass"
    ))  # fmt: skip
    yield reached("that is connected without a handshake", (
        "import socket\ns = socket.socket()\ntry: s.sendto(b'x', 0x20000000, ('127.0.0.1', {tcp}))\n"
        "except OSError: pass"
    ))  # fmt: skip
    yield reached("broadcast", (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.setsockopt(1, 6, 1)\n"
        "for a in ('255.255.255.255','127.255.255.255','224.0.0.1'):\n"
        "    try: s.sendto(b'x', (a, {udp}))\n    except OSError: pass"
    ))  # fmt: skip


def _files_of_the_kernel() -> Iterator[Case]:
    for place in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/randomize_va_space", "/proc/sys/vm/overcommit_memory", "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/user/max_user_namespaces", "/proc/sys/fs/protected_hardlinks", "/proc/sys/fs/suid_dumpable",
        "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/bus/pci/00/00.0", "/proc/1/oom_score_adj",
        "/proc/1/mem", "/proc/1/attr/current", "/proc/acpi/wakeup", "/proc/mtrr", "/proc/fs/xfs/stat",
        "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/pids/cgroup.procs",
        "/sys/fs/cgroup/memory/release_agent", "/sys/kernel/debug/x", "/sys/power/state", "/dev/mem", "/dev/kmsg",
        "/dev/vda", "/dev/sda", "/dev/fuse", "/dev/net/tun", "/dev/kvm", "/dev/vsock", "/dev/vhost-vsock",
        "/dev/loop-control", "/usr/bin/true", "/lib/x", "/etc/ld.so.preload", "/etc/alternatives/x", "/bin/x",
    ):  # fmt: skip
        yield shell(f"write {place}", f"( true 1<> {place} ) 2>/dev/null && echo ALLOWED {place}; true")


# ---------------------------------------------------------------- spellings of a path


def _spellings() -> Iterator[Case]:
    ups = {
        "doubled slash": "..//", "dot between": ".././", "down first": "a/../../", "four dots": "....//",
        "dot dot semicolon": "..;/", "percent": "%2e%2e%2f", "percent twice": "%252e%252e/",
        "fullwidth": "\uff0e\uff0e\uff0f", "backslash": "..\\", "trailing blank": ".. /", "leading blank": " ../",
        "zero width": "..\u200b/", "nul": "..\0/", "newline": "..\n/", "tilde": "~root/../", "dollar": "$PWD/../",
        "braces": "{..}/", "overlong": "\u2024\u2024/", "bidi": "\u202e../",
        "file scheme": "file://", "proc": "/proc/self/cwd/../", "double link": "up/up/up/",
        "link then down": "folder/../", "dot git": ".git/../../",
    }  # fmt: skip
    goals: Mapping[str, Callable[[Outside], str]] = {
        "outside/secret.txt": lambda o: "outside/secret.txt",
        "the absolute secret": lambda o: str(o.secret).lstrip("/"),
    }
    for (name, up), (goal, path), tool in itertools.product(ups.items(), goals.items(), ("read_file", "write_file")):
        depth = 12 if "absolute" in goal else 1

        def said(_: Path, outside: Outside, up: str = up, path: Any = path, depth: int = depth) -> dict[str, Any]:
            return {"path": up * depth + path(outside)}

        given: Arguments = said if tool == "read_file" else lambda w, o, said=said: {**said(w, o), "content": "x"}  # type: ignore[misc]
        yield Case(f"{tool} {goal} by {name}", tool, given, _up)


def _up(workspace: Path, outside: Outside) -> None:
    (workspace / "up").symlink_to("..")
    (workspace / "folder").symlink_to(outside.folder)
    (workspace / "a").mkdir()


# ---------------------------------------------------------------- repositories within the repository

_RUN = "touch /workspace/RAN; cat"
_PROGRAMS = {
    "a filter": f'[filter "planted"]\n\tclean = {json.dumps(_RUN)}\n\tsmudge = {json.dumps(_RUN)}\n\trequired = true\n',
    "a monitor": f"[core]\n\tfsmonitor = {json.dumps(_RUN)}\n",
    "a process filter": f'[filter "planted"]\n\tprocess = {json.dumps(_RUN)}\n',
    "drivers": f'[diff]\n\texternal = {json.dumps(_RUN)}\n[diff "planted"]\n\ttextconv = {json.dumps(_RUN)}\n'
    f'[merge "planted"]\n\tdriver = {json.dumps(_RUN)}\n',
    "hooks": "[core]\n\thooksPath = /workspace/planted\n",
    "helpers": f"[core]\n\tsshCommand = {json.dumps(_RUN)}\n\tpager = {json.dumps(_RUN)}\n"
    f"\teditor = {json.dumps(_RUN)}\n"
    f'[gpg]\n\tprogram = {json.dumps(_RUN)}\n[alias]\n\tstatus = "!{_RUN}"\n',
}
_VERBS: Mapping[str, Mapping[str, Any]] = {
    "add": {"operation": "add", "paths": ["vendor"]},
    "add all": {"operation": "add", "arguments": ["-A"]},
    "status": {"operation": "status"},
    "diff": {"operation": "diff", "arguments": ["HEAD"]},
    "commit": {"operation": "commit", "message": "m", "arguments": ["-a"]},
    "rm": {"operation": "rm", "arguments": ["--cached", "-r"], "paths": ["vendor"]},
    "rm dry": {"operation": "rm", "arguments": ["-r", "-n"], "paths": ["vendor"]},
    "mv": {"operation": "mv", "paths": ["vendor", "moved"]},
    "restore": {"operation": "restore", "paths": ["."]},
    "switch": {"operation": "switch", "arguments": ["-c", "other"]},
}


def _within() -> Iterator[Case]:
    places = {"a repository within": _inner, "a submodule": _submodule, "attributes of our own": _own}
    for (where, place), (what, text), (verb, arguments) in itertools.product(
        places.items(), _PROGRAMS.items(), _VERBS.items()
    ):

        def laid(workspace: Path, outside: Outside, place: Any = place, text: str = text) -> None:
            place(workspace, outside, text)

        yield git(f"{verb} with {what} in {where}", laid, **arguments)


def _planted(folder: Path, text: str) -> None:
    """Files that ask for every filter and driver, changed since they were committed, and hooks for the rest."""
    (folder / ".gitattributes").write_text("* filter=planted diff=planted merge=planted\n")
    (folder / "new.txt").write_text("changed, and longer\n")
    planted = folder / "planted"
    planted.mkdir(exist_ok=True)
    for name in ("pre-commit", "post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman"):
        (planted / name).write_text(f"#!/bin/sh\n{_RUN}\n")
        (planted / name).chmod(0o755)


def _with_settings(config: Path, text: str) -> None:
    with config.open("a") as file:
        file.write(text)


def _inner(workspace: Path, outside: Outside, text: str) -> None:
    """A repository of its own below, known to the outer one as a link."""
    repository(workspace, outside)
    vendor = workspace / "vendor"
    vendor.mkdir()
    repository(vendor, outside)
    _linked(workspace)
    _planted(vendor, text)
    _with_settings(vendor / ".git/config", text)


def _submodule(workspace: Path, outside: Outside, text: str) -> None:
    """The same, as a submodule whose configuration lies in the outer `.git`, where nobody looks for it."""
    repository(workspace, outside)
    vendor = workspace / "vendor"
    vendor.mkdir()
    repository(workspace / ".git/modules", outside)
    (workspace / ".git/modules/.git").rename(workspace / ".git/modules/vendor")
    (workspace / ".git/modules/new.txt").unlink()
    (vendor / ".git").write_text("gitdir: ../.git/modules/vendor\n")
    (vendor / "new.txt").write_text("new\n")
    (workspace / ".gitmodules").write_text('[submodule "vendor"]\n\tpath = vendor\n\turl = ./x\n\tignore = none\n')
    _linked(workspace)
    _planted(vendor, text)
    _with_settings(workspace / ".git/modules/vendor/config", text + "[core]\n\tworktree = ../../../vendor\n")


def _own(workspace: Path, outside: Outside, text: str) -> None:
    """In the configuration of one work tree, which `--local` does not list."""
    repository(workspace, outside)
    _planted(workspace, text)
    (workspace / "vendor").write_text("a file\n")
    (workspace / ".git/config.worktree").write_text(text)
    _with_settings(workspace / ".git/config", "[extensions]\n\tworktreeConfig = true\n")


def _linked(workspace: Path) -> None:
    import subprocess

    def run(folder: Path, *words: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "safe.directory=*"]
        subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)

    run(workspace / "vendor", "add", "new.txt")
    run(workspace / "vendor", "commit", "-q", "-m", "inner")
    run(workspace, "add", "vendor")
