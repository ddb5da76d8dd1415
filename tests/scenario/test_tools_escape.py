"""No tool gets out of its workspace: not as root, not as an ordinary user, in no sandbox and without one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scenario import tools_escape_corpus as corpus
from tests.scenario.tools_escape_ground import CANARY, Outside
from tests.services.open_clone import environment, open_clone
from turnkeep.errors import ConfigurationError
from turnkeep.tools import Tool, tool
from turnkeep.tools.builtin import builtin_tools
from turnkeep.tools.process_limits import ProcessLimit
from turnkeep.tools.sandbox import Sandbox, SandboxReport
from turnkeep.tools.shell import bash_tool
from turnkeep.tools.workspace import openat2_works
from turnkeep.tools.workspaces import Workspaces

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workspace tools are for Linux")

ORDINARY = 65534


def run_corpus(user: int | None, share: str) -> dict[str, Any]:
    words = [sys.executable, "-m", corpus.__name__, "--share", share, *(["--user", str(user)] if user else [])]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=900, check=False, cwd=open_clone(),
        env={**environment(), "TURNKEEP_CANARY": CANARY},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
@pytest.mark.prove
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("identity", [pytest.param("root", marks=pytest.mark.only_in_prove), "ordinary user"])
def test_nothing_gets_out_of_the_workspace(
    identity: str, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    """In the small form a sixteenth of the attempts. Every day as a service runs, which is not as root."""
    root = os.getuid() == 0
    if identity == "root" and not root:
        pytest.skip("only root can try as root")
    of = size(16, 1)

    told = run_corpus(ORDINARY if root and identity != "root" else None, f"{1 if identity == 'root' else of}/{of}")

    results = told["results"]
    escaped = {name: result for name, result in results.items() if result["damage"]}
    canaries = sum("the output holds a canary" in result["damage"] for result in escaped.values())
    in_a_shell = sum("bash" in name for name in results)
    proof(
        f"escape corpus as {identity}",
        f"attempts {len(results)}, {in_a_shell} of them in a shell | escapes {len(escaped)} | canary hits {canaries}",
    )
    assert escaped == {}, told["report"]
    # where no sandbox is, git and the shell are not offered, and nothing of them can be tried
    if told["refusal"] is None:
        assert len(results) >= size(40, 700)
        assert in_a_shell >= size(20, 300)


def test_the_corpus_has_at_least_seven_hundred_different_attempts() -> None:
    names = [case.name for case in corpus.corpus()]

    assert len(names) == len(set(names))
    assert len(names) >= 700


# ---------------------------------------------------------------- the corpus can fail


@tool(name="read_file", effect="pure")
def careless_read(path: str) -> str:
    """Reads whatever it is asked for."""
    with open(Path.cwd() / path, errors="replace") as file:
        return file.read(10_000)


@tool(name="write_file", effect="idempotent")
def careless_write(path: str, content: str) -> str:
    """Writes wherever it is asked to."""
    (Path.cwd() / path).parent.mkdir(parents=True, exist_ok=True)
    (Path.cwd() / path).write_text(content)
    return "written"


@pytest.mark.parametrize(
    "name",
    [
        "read upwards",
        "read down and up",
        "read absolute",
        "read link",
        "read relative link",
        "read link to a folder",
        "read link upwards",
        "read chain of links",
        "read repository",
        "read settings",
        "write upwards",
        "write absolute",
        "write over a link",
        "write over a dangling link",
        "write into a linked folder",
        "write into new folders behind a link",
    ],
)
async def test_a_careless_tool_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in corpus.corpus() if case.name == name)
    outside = Outside()
    workspace = outside.base / "workspace"
    workspace.mkdir()
    monkeypatch.chdir(workspace)
    careless: dict[str, Tool] = {"read_file": careless_read, "write_file": careless_write}
    try:
        told = await corpus.attempt(case, careless, workspace, outside)
    finally:
        outside.close()

    assert told["damage"], told


@tool(name="execute_bash")
def careless_bash(command: str, seconds: float | None = None) -> str:
    """Runs whatever it is asked to, where it is."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=seconds, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "bash mode 4755 by fchmodat",
        "bash mode 2755 by openat",
        "bash mode 1777 by mkdirat",
        "bash mode by tar",
        "bash mode by the folder itself",
        "bash the store opened to all",
        "bash the secret dated back",
        "bash the shared folder removed",
        "bash write /proc/sys/kernel/hostname",
        "bash socket to every address of this machine",
    ],
)
async def test_a_careless_shell_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "/proc/sys" in name and os.getuid() != 0:
        pytest.skip("only root may write there anywhere")
    case = next(case for case in corpus.corpus() if case.name == name)
    outside = Outside()
    workspace = outside.base / "workspace"
    workspace.mkdir()
    monkeypatch.chdir(workspace)
    try:
        told = await corpus.attempt(case, {"execute_bash": careless_bash}, workspace, outside)
    finally:
        outside.close()

    assert told["damage"], told


# ---------------------------------------------------------------- refusals


def test_bash_is_refused_where_processes_cannot_be_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="limit on processes"):
        bash_tool(Workspaces(tmp_path), Sandbox("bubblewrap", None))


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (SandboxReport(True, "bubblewrap", "not installed", "cgroup"), "install bubblewrap"),
        (SandboxReport(True, "bubblewrap", None, None), "limit on processes"),
        (SandboxReport(True, "outside", "never as root", "cgroup"), "never as root"),
    ],
)
def test_bash_is_refused_without_a_sandbox_and_says_why(report: SandboxReport, words: str, tmp_path: Path) -> None:
    if not openat2_works():
        pytest.skip("no openat2 here")
    with pytest.raises(ConfigurationError, match=words):
        builtin_tools(workspaces=Workspaces(tmp_path), bash=True, report=report)


def test_all_built_in_tools_are_off_unless_configured(tmp_path: Path) -> None:
    assert builtin_tools() == []
    with pytest.raises(ConfigurationError, match="needs a workspace"):
        builtin_tools(bash=True)


@pytest.mark.parametrize("root", ["relative", "/", "/nowhere/at/all", "/etc/hostname"])
def test_a_workspace_is_an_absolute_directory_other_than_the_root(root: str) -> None:
    with pytest.raises(ConfigurationError, match="workspace"):
        Workspaces(Path(root))


def test_the_user_limit_holds_ordinary_users_only() -> None:
    assert ProcessLimit("user limit").group() is None
