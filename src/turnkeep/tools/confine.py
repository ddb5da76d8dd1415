"""Starts one program with less than its parent may do. Run as a script, needs only the standard library.

    python -I -S confine.py PLAN

PLAN is JSON: `program` (argv), `environment`, `directory`, `group` (a cgroup.procs file to join), `limits` (resource
limits by name), `bubblewrap` (the program is bwrap: hand it the system call filter), `landlock` (else: confine here)
with `read` and `write` paths, and `processes` (how many more this user may have, where no group counts them).

With Landlock the script stays as a supervisor: when the program ends, or the parent dies or sends SIGTERM, every
descendant is killed, also those that went to the background or opened a session of their own.
Exit code 125 says that the confinement itself failed; then nothing was started.
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

FAILED = 125

libc = ctypes.CDLL(None, use_errno=True)


def main(plan: dict[str, Any]) -> NoReturn:
    if plan["group"]:
        with open(plan["group"], "w") as group:
            group.write("0")
    for name, value in plan["limits"].items():
        _, hard = resource.getrlimit(getattr(resource, name))
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, name), (allowed, allowed))
    os.umask(0o022)
    if plan["bubblewrap"]:
        start_bubblewrap(plan["program"])
    os.chdir(plan["directory"])
    sys.exit(supervise(plan))


def start_bubblewrap(program: list[str]) -> NoReturn:
    filters = os.memfd_create("filter", 0)
    os.write(filters, system_call_filter(shared=False))
    os.lseek(filters, 0, os.SEEK_SET)
    os.execve(program[0], [program[0], "--seccomp", str(filters), *program[1:]], {})  # noqa: S606 - no shell is wanted


def tell(error: BaseException) -> None:
    sys.stderr.write(f"cannot confine: {error}\n")
    sys.stderr.flush()


def check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


# ---------------------------------------------------------------- supervisor

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 36, 38, 22
PR_CAPBSET_DROP, PR_SET_SECUREBITS = 24, 28


class Ended(Exception):
    """the parent wants everything to end"""


def supervise(plan: dict[str, Any]) -> int:
    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Ended

    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
    parent = os.getppid()
    signal.signal(signal.SIGTERM, end)
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "death signal")
    code = FAILED
    try:
        if os.getppid() != parent:
            raise Ended
        child = os.fork()
        if child == 0:
            become(plan)
        code = wait_for(child)
    except Ended:
        code = 128 + signal.SIGKILL
    finally:
        kill_descendants()
    return code


def become(plan: dict[str, Any]) -> NoReturn:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        if plan["processes"]:
            most = threads_of(os.getuid()) + plan["processes"]
            resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        if os.getuid() == 0:
            drop_capabilities()
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        restrict_files(plan["landlock"])
        apply_filter(system_call_filter(shared=True))
        os.execve(plan["program"][0], plan["program"], plan["environment"])  # noqa: S606 - no shell is wanted
    except BaseException as error:
        tell(error)
    finally:
        os._exit(FAILED)


def wait_for(child: int) -> int:
    """The exit code of the child; orphans that end meanwhile are taken in too."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def kill_descendants() -> None:
    """Kill until nobody is left. Orphans become children of the supervisor, so none can get away."""
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
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.extend(below)
        waiting.extend(below)
    return found


def threads_of(user: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def drop_capabilities() -> None:
    no_root_locked = 0b1111  # uid 0 gets no capabilities at exec, for good
    check(libc.prctl(PR_SET_SECUREBITS, no_root_locked, 0, 0, 0), "secure bits")
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    header = struct.pack("=II", 0x20080522, 0)
    check(libc.capset(header, bytes(24)), "capabilities")


# ---------------------------------------------------------------- Landlock

LANDLOCK_ABI = 6
"""The first that keeps signals and abstract sockets inside (Linux 6.12)."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
EVERY_ACCESS = (1 << 16) - 1
READABLE = EXECUTE | READ_FILE | READ_DIR
WRITABLE = EVERY_ACCESS & ~(MAKE_CHAR | MAKE_SOCK | MAKE_BLOCK)
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE


def landlock_abi() -> int:
    return max(0, int(libc.syscall(444, None, 0, 1)))


def restrict_files(paths: dict[str, list[str]]) -> None:
    """Reach only these paths, no TCP port, no process and no abstract socket outside."""
    if landlock_abi() < LANDLOCK_ABI:
        raise OSError(f"Landlock {LANDLOCK_ABI} is needed (Linux 6.12), this system has {landlock_abi()}")
    rules = struct.pack("=QQQ", EVERY_ACCESS, 0b11, 0b11)
    ruleset = check(libc.syscall(444, rules, len(rules), 0), "landlock ruleset")
    for path in paths["read"]:
        allow(ruleset, path, READABLE)
    for path in paths["write"]:
        allow(ruleset, path, WRITABLE)
    check(libc.syscall(446, ruleset, 0), "landlock restrict")
    os.close(ruleset)


def allow(ruleset: int, path: str, access: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(f"/proc/self/fd/{opened}"):
        access &= OF_FILES
    check(libc.syscall(445, ruleset, 1, struct.pack("=Qi", access, opened), 0), f"landlock rule for {path}")
    os.close(opened)


# ---------------------------------------------------------------- system calls

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# fmt: off
DENIED = {  # by name: number on x86_64, on aarch64
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
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "vhangup": (153, 58),
}
DENIED_WHERE_SHARED = {  # where processes, sockets and memory of others are in reach
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setaffinity": (203, 122),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "socket": (41, 198),
}
# fmt: on
CLONE, CLONE3, IOCTL, PRLIMIT = (56, 220), (435, 435), (16, 29), (302, 261)
NEW_NAMESPACES = 0x7E020000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
EACCES, ENOSYS = 13, 38
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24


def system_call_filter(*, shared: bool) -> bytes:
    """A program for seccomp that refuses what no tool needs; `shared` where there are no namespaces of its own."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"no system call filter for {machine}")
    architecture, column = ARCHITECTURES[machine]
    lines = [(LOAD, 0, 0, ARCHITECTURE), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        lines += [(JUMP_AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE | ENOSYS)]  # the x32 twins
    for numbers in (DENIED | DENIED_WHERE_SHARED if shared else DENIED).values():
        lines += refused(numbers[column], EACCES)
    lines += refused(CLONE3[column], ENOSYS)  # its flags are behind a pointer; the C library falls back to clone
    lines += [(JUMP_EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, FIRST_ARGUMENT), (JUMP_ANY_BIT, 0, 1, NEW_NAMESPACES)]
    lines += [(RETURN, 0, 0, REFUSE | EACCES), (RETURN, 0, 0, ALLOW)]
    if shared:  # only its own limits
        lines += [(JUMP_EQUAL, 0, 4, PRLIMIT[column]), (LOAD, 0, 0, FIRST_ARGUMENT), (JUMP_EQUAL, 1, 0, 0)]
        lines += [(RETURN, 0, 0, REFUSE | EACCES), (RETURN, 0, 0, ALLOW)]
    lines += [(JUMP_EQUAL, 0, 4, IOCTL[column]), (LOAD, 0, 0, SECOND_ARGUMENT), (JUMP_EQUAL, 1, 0, TIOCSTI)]
    lines += [(JUMP_EQUAL, 0, 1, TIOCLINUX), (RETURN, 0, 0, REFUSE | EACCES), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def refused(number: int, code: int) -> list[tuple[int, int, int, int]]:
    return [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | code)]


def apply_filter(program: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_char_p)]

    loaded = Program(len(program) // 8, program)
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(loaded), 0, 0), "system call filter")


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except OSError as error:
        tell(error)
        sys.exit(FAILED)
