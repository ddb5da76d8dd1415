"""A process that has imported what our programs do, and becomes one of them in a fork.

Each connection orders one program, in one line of JSON, and hears its process id, and how it ended; or it is that of a
member, a process of the tests: when it ends, however that comes, what the member has ordered is killed. With the last
member this ends too. See `forks.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from turnkeep.models import load_clients
from turnkeep.pricing.prices import PublishedPrices
from turnkeep.pricing.tokenizer import tokenizer_for
from turnkeep.store.redis.key_names import operation_scripts

ALSO = ("doors.amqp.consumer", "doors.http.endpoint", "doors.server", "simulator", "store.redis", "store.sqlite")
"""What commands import when they begin to serve, beside their own modules."""
WHOLE_LINE = 10.0
"""Seconds that an order may take to come in: everybody else waits meanwhile."""
FIRST_MEMBER = 60.0
"""Seconds after which it ends if who has started it never came."""


@dataclass
class Running:
    """A program that was ordered: by whom, and who hears of its end."""

    owner: str
    connection: socket.socket


def main(folder: str) -> NoReturn:
    """Take orders; each is carried out by a fork."""
    alive = open(f"{folder}/alive", "w")  # noqa: SIM115 - open to the end of the process
    fcntl.flock(alive, fcntl.LOCK_EX)
    warm_up()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/socket")
    listener.listen(64)
    ends, noted = os.pipe()
    os.set_blocking(noted, False)
    signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    members: dict[socket.socket, str] = {}
    running: dict[int, Running] = {}
    os.write(1, b"ready\n")
    here = os.getpid()
    try:
        serve(listener, ends, folder, members, running)
    finally:
        if os.getpid() == here:  # not in a fork, whose program has raised something
            for owner in {program.owner for program in running.values()}:
                kill_all_of(owner, running)


def serve(
    listener: socket.socket, ends: int, folder: str, members: dict[socket.socket, str], running: dict[int, Running]
) -> NoReturn:
    while True:
        waiting: list[int | socket.socket] = [ends, listener, *members]
        ready, _, _ = select.select(waiting, [], [], None if members else FIRST_MEMBER)
        if ends in ready:
            os.read(ends, 4096)
            report(running)
        if listener in ready:
            take_line(listener.accept()[0], members, running)
        for member in [each for each in members if each in ready]:
            kill_all_of(members.pop(member), running)
            member.close()
        if not members:
            end_unless_somebody_comes(listener, folder, running)


def warm_up() -> None:
    cli = importlib.import_module("turnkeep.cli")
    for module in (*(verb.module for verb in cli.VERBS.values()), *(f"turnkeep.{name}" for name in ALSO)):
        importlib.import_module(module)
    load_clients()
    PublishedPrices().load()
    tokenizer_for("").build()
    operation_scripts("PUBLISH")
    gc.collect()
    gc.freeze()  # a fork that collects would write to every page that it shares


def take_line(connection: socket.socket, members: dict[socket.socket, str], running: dict[int, Running]) -> None:
    order = read_order(connection)
    if order is None:
        connection.close()
        return
    if "member" in order:
        members[connection] = order["member"]
        return
    try:
        pid = os.fork()
    except OSError:  # the machine has no more of them now: who asked for this one is told by the end of the line
        connection.close()
        return
    if pid == 0:
        become(order, connection)
    running[pid] = Running(order["owner"], connection)


def read_order(connection: socket.socket) -> dict[str, Any] | None:
    """None of one that was broken off, as its test was: that is no end of all others."""
    connection.settimeout(WHOLE_LINE)
    try:
        with connection.makefile("r") as lines:
            line = lines.readline()
    except OSError:
        return None
    connection.settimeout(None)
    order: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
    return order


def report(running: dict[int, Running]) -> None:
    """Say of each program that has ended how it did."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with running.pop(pid).connection as connection, contextlib.suppress(OSError):
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def kill_all_of(owner: str, running: dict[int, Running]) -> None:
    for pid in [pid for pid, program in running.items() if program.owner == owner]:
        for kill in (os.killpg, os.kill):  # the newest may not lead its group yet
            with contextlib.suppress(OSError):
                kill(pid, signal.SIGKILL)


def end_unless_somebody_comes(listener: socket.socket, folder: str, running: dict[int, Running]) -> None:
    with open(f"{folder}/lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # who comes in has it: it finds us, or finds nobody
        if not select.select([listener], [], [], 0)[0]:
            os.unlink(f"{folder}/socket")
            if not is_there(int(Path(folder, "maker").read_text())):  # else who has made the folder removes it
                shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def become(order: dict[str, Any], connection: socket.socket) -> NoReturn:
    """Be as Python is when it has just been started for this program."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    # By itself, and only now: who hears the number may kill the group of it at once.
    connection.sendall(f"{os.getpid()}\n".encode())
    os.chdir(order["folder"])
    coerced = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}  # as PEP 538 has it
    os.environ.clear()
    os.environ.update(coerced | order["environment"])
    os.dup2(os.open(order["stdin"], os.O_RDONLY), 0)
    os.dup2(opened_for_writing(order["stdout"]), 1)
    os.dup2(1 if order["stderr"] == order["stdout"] else opened_for_writing(order["stderr"]), 2)
    # Not `closerange` up to the limit: in some containers that is a thousand millions, and not every Python has the
    # system call that closes them all at once.
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing itself
                os.close(int(name))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open to the end of the process
    option, what, *arguments = order["program"]
    place = "" if option == "-c" else os.getcwd()
    sys.path[:1] = [place, *filter(None, order["environment"].get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [option, *arguments]
    try:
        if option == "-c":
            exec(what, {"__name__": "__main__"})  # as `python -c` does
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        leave(ended.code)
    leave(None)


def leave(code: object) -> NoReturn:
    """End as Python does, but for taking down what was imported: that costs more than most commands."""
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


def opened_for_writing(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)


if __name__ == "__main__":
    main(sys.argv[1])
