"""A program that is forked is as one that is started anew."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.services import eventually, forks, lives
from tests.services.forks import Process, start_python
from tests.services.process import COVERAGE

SAYS_WHAT_IT_IS = """
import asyncio, json, os, random, signal, sys, threading
numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP]
print(json.dumps({
    "arguments": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ), "path": sys.path,
    "leads": os.getsid(0) == os.getpid(), "signals": [repr(signal.getsignal(number)) for number in numbers],
    "wakes": signal.set_wakeup_fd(-1), "blocked": repr(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "open": sorted(name for name in os.listdir("/dev/fd") if int(name) < 10), "threads": threading.active_count(),
    "input": sys.stdin.read(), "encodings": [stream.encoding for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "buffers": [stream.line_buffering for stream in (sys.stdout, sys.stderr)], "name": __name__,
}))
print("a complaint", file=sys.stderr)
"""


def said_of_itself(folder: Path, name: str) -> dict[str, Any]:
    out, errors, given = (folder / f"{name} {stream}" for stream in ("out", "errors", "input"))
    given.write_text("what is typed")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TURNKEEP_WINDOW": "ü"}
    program = ["-c", SAYS_WHAT_IT_IS, "one", "two words"]
    assert start_python(program, folder, environment, log=out, stdin=given, errors=errors).wait(PATIENCE) == 0
    assert errors.read_text() == "a complaint\n"
    told = json.loads(out.read_text())
    assert isinstance(told, dict)
    if COVERAGE:  # what measures a forked program catches SIGTERM, and is not yet there in one that is started anew
        del told["signals"][1]
    return told


def test_it_finds_what_a_program_finds_that_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forked = said_of_itself(tmp_path, "forked")
    monkeypatch.setattr(forks, "FORKS", False)
    assert forked == said_of_itself(tmp_path, "anew")


def started(folder: Path, code: str) -> Process:
    return start_python(["-c", code], folder, {"PATH": os.environ["PATH"]}, log=folder / "log")


IN_A_THREAD = """
import sys, threading, time
threading.Thread(target=lambda: (time.sleep(0.1), print("said late"))).start()
sys.exit(5)
"""


@pytest.mark.parametrize(
    ("code", "end", "said"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; print('half a line', end=' '); sys.exit('a reason')", 1, "half a line"),
        ("import sys; sys.exit('a reason')", 1, "a reason"),
        (IN_A_THREAD, 5, "said late"),
        ("import atexit; atexit.register(print, 'one more word')", 0, "one more word"),
        ("import atexit, os; atexit.register(os._exit, 4)", 4, ""),
        ("raise ValueError('a bad day')", 1, "ValueError: a bad day"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "KeyboardInterrupt"),
    ],
)
def test_its_end_is_told(tmp_path: Path, code: str, end: int, said: str) -> None:
    process = started(tmp_path, code)
    assert process.wait(PATIENCE) == end
    assert process.poll() == process.returncode == end
    assert said in (tmp_path / "log").read_text()


def test_it_is_waited_for_asked_and_killed(tmp_path: Path) -> None:
    process = started(tmp_path, "import time; time.sleep(600)")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.terminate()
    assert process.wait(PATIENCE) == -signal.SIGTERM
    process.kill()  # of what has ended nothing is killed


def test_its_group_can_be_killed_as_soon_as_its_number_is_known(tmp_path: Path) -> None:
    for _ in range(20):
        process = started(tmp_path, "import time; time.sleep(600)")
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_an_order_that_was_broken_off_ends_no_others(tmp_path: Path) -> None:
    if not forks.FORKS:
        pytest.skip("nothing is forked")
    process = started(tmp_path, "import time; time.sleep(600)")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(forks.ForkServer.shared().path)
    assert started(tmp_path, "pass").wait(PATIENCE) == 0
    assert process.poll() is None
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL


MEMBER = """
import os, sys, time
from pathlib import Path
from tests.services import forks
folder = Path(sys.argv[1])
forks.ForkServer.folder = folder
process = forks.start_python(["-c", "import time; time.sleep(600)"], folder, {}, log=folder / "log")
print(process.pid, forks.ForkServer.shared()._process is not None, flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_workers_share_one_process_and_each_takes_its_programs_along(tmp_path: Path) -> None:
    if not forks.FORKS:
        pytest.skip("nothing is forked")
    folder = forks.made_folder()  # beside the one of this run
    command = [sys.executable, "-c", MEMBER, str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": forks.CHECKOUT}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:
        told = [member.stdout.readline().split() for member in (one, other) if member.stdout]
        assert sorted(launched for _, launched in told) == ["False", "True"]
        pids = [int(pid) for pid, _ in told]
        one.kill()
        one.wait(PATIENCE)
        eventually(lambda: not lives(pids[0]), PATIENCE, "the program of a killed worker to end")
        assert lives(pids[1])
        other.kill()
        other.wait(PATIENCE)
        eventually(lambda: not lives(pids[1]), PATIENCE, "the program of the last worker to end")
        eventually(lambda: not (folder / "socket").exists(), PATIENCE, "the process that forks to end")
    forks.remove_folder(folder)


@pytest.mark.parametrize("said", [b"", b'{"program": ["-c"', b"{"], ids=["nothing", "half a line", "a brace"])
def test_whatever_is_broken_off_the_next_order_is_carried_out(tmp_path: Path, said: bytes) -> None:
    if not forks.FORKS:
        pytest.skip("nothing is forked")
    process = started(tmp_path, "import time; time.sleep(600)")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(forks.ForkServer.shared().path)
        connection.sendall(said)
    assert started(tmp_path, "pass").wait(PATIENCE) == 0
    assert process.poll() is None
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.only_in_prove  # of the tools of tests: it imports everything twice more
def test_after_its_death_another_one_is_started(tmp_path: Path) -> None:
    if not forks.FORKS:
        pytest.skip("nothing is forked")
    server = forks.ForkServer(forks.made_folder())
    assert server._process is not None
    order = {"folder": str(tmp_path), "environment": {}, "stdin": os.devnull}
    order |= {"stdout": str(tmp_path / "log"), "stderr": str(tmp_path / "log")}
    assert server.start({**order, "program": ["-c", "pass"]}).wait(PATIENCE) == 0
    server._process.kill()
    server._process.wait(PATIENCE)
    assert server.start({**order, "program": ["-c", "pass"]}).wait(PATIENCE) == 0
    server._membership.close()
    assert server._process.wait(PATIENCE) == 0


def test_no_two_draw_the_same_numbers(tmp_path: Path) -> None:
    for _ in range(2):
        assert started(tmp_path, "import random; print(random.random())").wait(PATIENCE) == 0
    assert len(set((tmp_path / "log").read_text().split())) == 2
