"""Where programs of tools run: what is said when they cannot, and that what runs bare leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from turnkeep.tools import sandbox
from turnkeep.tools.program import ProgramResult
from turnkeep.tools.sandbox import Sandbox, SandboxedProgram, probe

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
BARE = Sandbox("outside", None)


def is_there(path: Path) -> bool:
    return path.exists()


async def run_bare(workspace: Path, script: str) -> ProgramResult:
    program = SandboxedProgram(
        words=["/bin/sh", "-c", script], workspace=workspace, timeout=PATIENCE, output_cap=4_096,
        environment={"OWN": "given"},
    )  # fmt: skip
    return await BARE.run(program)


async def test_a_bare_program_runs_in_its_workspace_with_what_it_was_given_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "ours")

    result = await run_bare(tmp_path, 'pwd; echo "$OWN$SECRET"; echo kept > file; echo "$TMPDIR"; exit 7')

    place, given, scratch = result.output.splitlines()
    assert (place, given, result.exit_code) == (str(tmp_path), "given", 7)
    assert (tmp_path / "file").read_text() == "kept\n"
    assert not is_there(Path(scratch))


async def test_a_bare_program_that_is_cancelled_ends_with_all_that_left_its_session(tmp_path: Path) -> None:
    runaway = tmp_path / "pid"
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        running = group.create_task(run_bare(tmp_path, f"setsid sleep {PATIENCE} & echo $! > new; mv new pid; wait"))
        while not is_there(runaway):
            await asyncio.sleep(0.01)
        running.cancel()
    # gone, not only dead: its supervisor has taken it in
    assert not is_there(Path("/proc", runaway.read_text().strip()))


def test_a_program_that_cannot_be_confined_says_why(tmp_path: Path) -> None:
    trial = SandboxedProgram(words=["/no/such"], workspace=tmp_path, timeout=20, output_cap=0, environment={})
    plan = BARE._plan(trial, scratch=str(tmp_path), group=None)
    assert sandbox._try_plan(plan) == "cannot confine: [Errno 2] No such file or directory: '/no/such'"
    assert sandbox._try_plan({**plan, "program": ["/bin/false"]}) == "exit code 1"


def test_a_python_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_interpreter", lambda: str(tmp_path / "python"))
    assert sandbox._try_plan({}) == "cannot be started (FileNotFoundError)"


def test_the_python_of_somebody_else_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox._interpreter() == sys.executable
    monkeypatch.setattr(sys, "executable", "/home/somebody/python")  # ours may be a link to that of the system
    monkeypatch.setattr(os, "access", lambda path, mode: path == os.path.realpath("/usr/bin/python3"))
    assert sandbox._interpreter() == "/usr/bin/python3"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert sandbox._interpreter() == "python3"


def test_another_system_has_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    report = probe()
    assert (report.mechanism, report.reason_refused) == (None, "only on Linux")
    assert report.refusal is not None
    assert "only on Linux" in report.refusal


def test_a_machine_without_bubblewrap_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_bwrap", lambda: None)
    assert sandbox._try("bubblewrap", None) == "not installed"
    assert not sandbox.can_shield()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_runs_nothing_bare() -> None:
    report = probe("outside")
    assert report.mechanism is None
    assert report.refusal == (
        "execute_bash cannot run outside a sandbox: never as root; run as an ordinary user, or unset TURNKEEP_SANDBOX"
    )
