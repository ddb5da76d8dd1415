"""Starts one program with less than its parent may do.

Run as a script, needs only the standard library: no tracer reaches what is marked as untraced.

    python -I -S confine.py PLAN

PLAN is JSON: `program` (argv), `groups` (cgroup.procs files to join), `limits` (resource limits by
name), `programs` (whether the program may start others), and `bubblewrap`: the program is bwrap,
which is handed the system call filter and ends everything it has started. Else it runs bare, with
`environment`, in `directory`, and `processes` (how many more this user may have, where no group
counts them); then the script stays as a supervisor: when the program ends, or the parent dies or
sends SIGTERM, every descendant is killed, also those that opened a session of their own. Exit code
125 says that the confinement itself failed; then nothing was started.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would double the time to start
    from typing import Any, NoReturn

CONFINE_FAILED = 125

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 36, 38, 22

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# fmt: off
DENIED_CALLS = {  # by name: number on x86_64, on aarch64
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "open_tree_attr": (467, 467),
    "unshare": (272, 97), "setns": (308, 268),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "vhangup": (153, 58),
}
OPAQUE_CALLS = {  # what they do is behind a pointer, where no filter sees it; the C library takes the older call then
    "clone3": (435, 435), "openat2": (437, 437),
}
MODES = {  # the calls that give a file its mode, with the place of that argument
    "chmod": (90, None, 1), "fchmod": (91, 52, 1), "fchmodat": (268, 53, 2), "fchmodat2": (452, 452, 2),
    "creat": (85, None, 1), "mkdir": (83, None, 1), "mkdirat": (258, 34, 2),
    "mknod": (133, None, 1), "mknodat": (259, 33, 2),
}
OPENING = {"open": (2, None, 1), "openat": (257, 56, 2)}  # with the place of the flags; the mode is the next argument
FORKS = {"fork": (57, None), "vfork": (58, None)}
# fmt: on
CLONE, IOCTL, SOCKET = (56, 220), (16, 29), (41, 198)
FAMILIES = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16}
"""All other sockets, vsock above all, know nothing of network namespaces, or are a way in."""
NEW_NAMESPACES, ONLY_A_THREAD = 0x7E020000, 0x00010000
CREATES = 0x40 | 0x400000
"""O_CREAT and O_TMPFILE: without one of them the mode of an open means nothing."""
BEYOND_0777 = 0o7000
"""Set-user-id, set-group-id, sticky: outside, they would give others the service's rights."""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, EACCES, ENOSYS = 1, 13, 38
NUMBER, ARCHITECTURE = 0, 4

FilterLine = tuple[int, int, int, int]
ALLOW_LINE: FilterLine = (RETURN, 0, 0, ALLOW)


def main(plan: dict[str, Any]) -> NoReturn:  # pragma: no cover - untraced
    for members in plan["groups"]:
        with open(members, "w") as group:
            group.write("0")
    for name, value in plan["limits"].items():
        _, hard = resource.getrlimit(getattr(resource, name))
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, name), (limit, limit))
    os.umask(0o022)
    rules = system_call_filter(programs=plan["programs"])
    if plan["bubblewrap"]:
        start_bubblewrap(plan["program"], rules)
    os.chdir(plan["directory"])
    sys.exit(supervise(plan, rules))


def start_bubblewrap(program: list[str], rules: bytes) -> NoReturn:  # pragma: no cover - untraced
    # bubblewrap reads the filter from a descriptor; a file could be replaced before it does
    filters = os.memfd_create("filter", 0)
    os.write(filters, rules)
    os.lseek(filters, 0, os.SEEK_SET)
    # an empty environment: what this process knows (keys, addresses) must not even reach bubblewrap
    os.execve(program[0], [program[0], "--seccomp", str(filters), *program[1:]], {})  # noqa: S606 - no shell is wanted


def tell(error: BaseException) -> None:  # pragma: no cover - untraced
    sys.stderr.write(f"cannot confine: {error}\n")
    sys.stderr.flush()


def check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


class EndRequest(Exception):
    """the parent wants everything to end"""


def supervise(plan: dict[str, Any], rules: bytes) -> int:  # pragma: no cover - untraced
    def end(*_: object) -> None:
        # a second request must not break off the killing
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise EndRequest

    # orphans of a double fork come to us instead of to init, where nobody would find them
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
    # read before the death signal is set and compared after it: a parent that dies in between
    # sends none
    parent = os.getppid()
    signal.signal(signal.SIGTERM, end)
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "death signal")
    code = CONFINE_FAILED
    try:
        if os.getppid() != parent:
            raise EndRequest
        child = os.fork()
        if child == 0:
            become(plan, rules)
        code = wait_for(child)
    except EndRequest:
        code = 128 + signal.SIGKILL
    finally:
        kill_descendants()
    return code


def become(plan: dict[str, Any], rules: bytes) -> NoReturn:  # pragma: no cover - untraced
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        if plan["processes"]:
            # the kernel counts every thread of the user on the whole machine, so the bound is
            # what runs now and so many more
            most = threads_of(os.getuid()) + plan["processes"]
            resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        # without it the kernel takes no filter from an ordinary user, and set-user-id programs
        # would get out
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        apply_filter(rules)
        os.execve(plan["program"][0], plan["program"], plan["environment"])  # noqa: S606 - no shell is wanted
    except BaseException as error:
        tell(error)
    finally:
        os._exit(CONFINE_FAILED)


def wait_for(child: int) -> int:  # pragma: no cover - untraced
    """The exit code of the child; orphans that end meanwhile are taken in too."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def kill_descendants() -> None:  # pragma: no cover - untraced
    """Kill until nobody is left.

    Orphans become children of the supervisor, so none can get away.
    """
    while True:
        for descendant in descendants_of(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(descendant, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def descendants_of(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    descendants: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        descendants.extend(below)
        waiting.extend(below)
    return descendants


def threads_of(user: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def system_call_filter(*, programs: bool) -> bytes:
    """Rules for seccomp that refuse what no tool needs; without `programs` also every new process.

    Whoever cannot make a process cannot run one: git's hooks, filters, drivers, monitors, helpers
    and nested repositories all begin with a fork, wherever they are configured.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"no system call filter for {machine}")
    architecture, column = ARCHITECTURES[machine]
    # the architecture first: a 32-bit program's numbers mean other calls (seccomp(2), "arch")
    lines: list[FilterLine] = [(LOAD, 0, 0, ARCHITECTURE), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    lines += [(LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        lines += [(JUMP_AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE | ENOSYS)]  # the x32 twins
    for numbers in DENIED_CALLS.values():
        lines += refuse_call(numbers[column], EACCES)
    for numbers in OPAQUE_CALLS.values():
        lines += refuse_call(numbers[column], ENOSYS)
    for call in MODES.values():
        lines += only_if(call[column], refuse_bits(call[2], BEYOND_0777, EPERM))
    for *opening, flags in OPENING.values():
        creating: list[FilterLine] = [(LOAD, 0, 0, argument(flags)), (JUMP_ANY_BIT, 1, 0, CREATES), ALLOW_LINE]
        lines += only_if(opening[column], [*creating, *refuse_bits(flags + 1, BEYOND_0777, EPERM)])
    if not programs:
        for fork in FORKS.values():
            lines += refuse_call(fork[column], EPERM)
    lines += only_if(CLONE[column], cloning(programs=programs))
    families = [(JUMP_EQUAL, len(FAMILIES) - index, 0, family) for index, family in enumerate(FAMILIES.values())]
    lines += only_if(
        SOCKET[column], [(LOAD, 0, 0, argument(0)), *families, (RETURN, 0, 0, REFUSE | EACCES), ALLOW_LINE]
    )
    # CVE-2017-5226: both type into the terminal that we were started from, where our user's shell
    # reads it when the program has ended
    typing: list[FilterLine] = [(LOAD, 0, 0, argument(1)), (JUMP_EQUAL, 1, 0, TIOCSTI), (JUMP_EQUAL, 0, 1, TIOCLINUX)]
    lines += only_if(IOCTL[column], [*typing, (RETURN, 0, 0, REFUSE | EACCES), ALLOW_LINE])
    return b"".join(struct.pack("=HBBI", *line) for line in [*lines, ALLOW_LINE])


def refuse_call(number: int | None, code: int) -> list[FilterLine]:
    return [] if number is None else [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | code)]


def only_if(number: int | None, lines: list[FilterLine]) -> list[FilterLine]:
    """These lines for one call. They have to end it: the number is no longer loaded after them."""
    return [] if number is None else [(JUMP_EQUAL, 0, len(lines), number), *lines]


def cloning(*, programs: bool) -> list[FilterLine]:
    """What may be made by clone: nothing in new namespaces; without `programs` threads only."""
    lines: list[FilterLine] = [
        (LOAD, 0, 0, argument(0)),
        (JUMP_ANY_BIT, 0, 1, NEW_NAMESPACES), (RETURN, 0, 0, REFUSE | EACCES),
    ]  # fmt: skip
    if not programs:
        # git works with threads; CLONE_THREAD alone cannot leave another program behind
        lines += [(JUMP_ANY_BIT, 1, 0, ONLY_A_THREAD), (RETURN, 0, 0, REFUSE | EPERM)]
    return [*lines, ALLOW_LINE]


def refuse_bits(index: int, bits: int, code: int) -> list[FilterLine]:
    """Refuse an argument that has one of these bits."""
    test: list[FilterLine] = [(LOAD, 0, 0, argument(index)), (JUMP_ANY_BIT, 0, 1, bits)]
    return [*test, (RETURN, 0, 0, REFUSE | code), ALLOW_LINE]


def argument(index: int) -> int:
    """Where the lower half of an argument is: flags and modes have no more."""
    return 16 + 8 * index


def apply_filter(rules: bytes) -> None:  # pragma: no cover - untraced
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_char_p)]

    program = Program(len(rules) // 8, rules)
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "system call filter")


if __name__ == "__main__":  # pragma: no cover - untraced
    try:
        main(json.loads(sys.argv[1]))
    except OSError as error:
        tell(error)
        sys.exit(CONFINE_FAILED)
