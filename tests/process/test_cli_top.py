"""`turnkeep top`: what runs and what waits, on a terminal, in a pipe and for machines."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.command import PROGRAM, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Where a message was answered, and one waits that nobody answers."""
    desk = Desk(tmp_path, {})
    assert desk.run("send", "answered", "hello").code == 0
    assert desk.run("threads", "new", "--json").code == 0
    return desk


def test_one_look_shows_threads_and_that_nobody_runs(desk: Desk) -> None:
    told = desk.run("top", "--once")
    assert told.code == 0
    assert "0 active" in told.out
    assert "answered" in told.out
    assert "nobody runs with this store: turnkeep serve, or turnkeep worker" in told.out
    assert "\x1b" not in told.out, "a pipe gets no movements of a cursor"


def test_machines_get_the_same_as_one_line(desk: Desk) -> None:
    told = desk.run("top", "--once", "--json").json
    assert {"now", "counts", "circuits", "processes", "activity", "threads"} == set(told)
    assert told["counts"]["completed"] == 1
    assert "answered" in [thread["channel"] for thread in told["threads"]]


def test_a_running_server_is_seen_with_what_it_has_in_hand(desk: Desk) -> None:
    with desk.running("dev") as service:
        told = desk.run("top", "--once", "--json").json
        assert service.process is not None
        [process] = told["processes"]
        assert (process["role"], process["silent"]) == ("all", False)


def test_a_terminal_gets_one_screen_that_stays_until_it_is_interrupted(desk: Desk) -> None:
    ours, theirs = pty.openpty()
    environment = desk.environment({"TERM": "xterm", "COLUMNS": "100", "LINES": "30"})
    process = subprocess.Popen(
        [*PROGRAM, "top", "--every", "0.2"], cwd=desk.folder, env=environment, stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        text = b""
        while text.count(b"answered") < 2:
            ready, _, _ = select.select([ours], [], [], PATIENCE)
            assert ready, text
            text += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\x1b[?1049h" in text, "a screen of its own"
