"""What holds a program of the model: memory in all, and the process itself where that is the sandbox."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import LONG_PATIENCE
from tests.scenario.tools_escape_ground import sleepers
from tests.services.open_clone import environment, open_clone
from turnkeep.clock import SystemClock
from turnkeep.tools import Tool, ToolContext
from turnkeep.tools.execution import Result, ToolRequest, call
from turnkeep.tools.process_limits import MEMORY, process_limit
from turnkeep.tools.sandbox import probe, sandbox
from turnkeep.tools.shell import bash_tool
from turnkeep.tools.workspaces import Workspaces

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workspace tools are for Linux")

ORDINARY = 65534


async def use(made: Tool, command: str) -> Result:
    text = json.dumps({"command": command})
    return await call(made, ToolRequest("call_1", made.name, text), ToolContext(), clock=SystemClock())


TOUCHED = """python3 - <<'END'
import os, signal
children = []
for _ in range(8):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        x = b'x' * (400 * 2**20)
        os.write(writing, b'1')
        os.close(writing)
        signal.pause()
    os.close(writing)
    os.read(reading, 1)
    children.append(child)
print(sum(os.waitpid(child, os.WNOHANG)[0] == 0 for child in children))
END"""


@pytest.mark.usefixtures("bubblewrap")
async def test_the_memory_of_all_processes_together_is_held_or_said_not_to_be(tmp_path: Path) -> None:
    """Eight processes touch 400 MB each: a group takes less than six of them in."""
    report = probe()
    inside = sandbox(report)
    assert inside is not None
    assert report.refusal is None
    if not report.total_memory:
        assert "together NOT limited" in report.description
        return
    assert "2 GB in all" in report.description

    alive = (await use(bash_tool(Workspaces(tmp_path), inside, timeout=LONG_PATIENCE), TOUCHED)).output

    assert int(alive) * 400 * 2**20 <= MEMORY, alive


def test_every_controller_is_looked_for_in_its_own_hierarchy() -> None:
    limit = process_limit()
    if limit is None or limit.kind != "cgroup":
        pytest.skip("this process makes no cgroups")
    group = limit.group()
    assert group is not None
    try:
        assert all(path.parent in (limit.pids, limit.memory) for path in group.paths)
        assert (group.paths[0] / "pids.max").read_text().strip() == "64"
    finally:
        group.remove()
    assert not any(path.exists() for path in group.paths)


# ---------------------------------------------------------------- the process itself as the sandbox

OUTSIDE = """
import asyncio, json, os, sys
from pathlib import Path
from tests.scenario.tools_escape_ground import sleepers
from turnkeep.clock import SystemClock
from turnkeep.tools import ToolContext
from turnkeep.tools.builtin import builtin_tools
from turnkeep.tools.execution import ToolRequest, call
from turnkeep.tools.workspaces import Workspaces
os.environ["CANARY"] = "in-the-environment"

async def main():
    made = builtin_tools(workspaces=Workspaces(Path(sys.argv[1])), bash=True, mechanism="outside")
    tools = {one.name: one for one in made}
    for name, arguments in json.loads(sys.argv[2]):
        request = ToolRequest("c", name, json.dumps(arguments))
        print(json.dumps((await call(tools[name], request, ToolContext(), clock=SystemClock())).output))
asyncio.run(main())
"""


def outside(workspace: Path, *calls: tuple[str, dict[str, Any]]) -> list[str]:
    """What calls of an ordinary user say, with this process as the sandbox."""
    words = [sys.executable, "-c", OUTSIDE, str(workspace), json.dumps(calls)]
    if os.getuid() == 0:
        workspace.chmod(0o777)
        words = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups", *words]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=280, check=False, cwd=open_clone(), env=environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def workspace() -> Iterator[Path]:
    """Where an ordinary user comes to as well."""
    with tempfile.TemporaryDirectory(prefix="tk-bare-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_bare_shell_works_with_limits_and_an_empty_environment(workspace: Path) -> None:
    said = outside(
        workspace,
        ("execute_bash", {"command": "pwd; echo x > made; cat made; env; ulimit -v; umask"}),
        ("git_operation", {"operation": "init"}),
        ("git_operation", {"operation": "status"}),
    )

    assert said[0].startswith(f"{workspace}\nx\n")
    assert "in-the-environment" not in said[0]
    assert "2097152\n0022" in said[0]
    assert "No commits yet" in said[2]


def test_a_bare_shell_leaves_nothing_behind_and_makes_no_setuid_file(workspace: Path) -> None:
    said = outside(
        workspace,
        ("execute_bash", {"command": "setsid -f sleep 86399.25; cp /bin/true t; chmod 4755 t; stat -c %a t"}),
    )

    assert "755\n" in said[0]
    assert "4755" not in said[0]
    assert sleepers("86399.25") == []


def test_git_runs_no_program_of_the_workspace_there_either(workspace: Path) -> None:
    said = outside(
        workspace,
        ("git_operation", {"operation": "init"}),
        (
            "execute_bash",
            {
                "command": "git init -q vendor; cd vendor; echo a > a; git add a;"
                " git -c user.name=x -c user.email=x@y commit -qm a; echo '* filter=p' > .gitattributes; echo bb > a;"
                " git config filter.p.clean 'touch ../RAN; cat'"
            },
        ),
        ("git_operation", {"operation": "add", "paths": ["vendor"]}),
        ("git_operation", {"operation": "add", "paths": ["vendor"]}),
        ("git_operation", {"operation": "rm", "arguments": ["-r", "-n"], "paths": ["vendor"]}),
        ("execute_bash", {"command": "ls"}),
    )

    assert said[-1] == "vendor\n", said


@pytest.mark.skipif(os.getuid() != 0, reason="only root can try as root")
def test_root_never_runs_bare() -> None:
    report = probe("outside")

    assert report.mechanism is None
    assert "never as root" in str(report.refusal)
    assert sandbox(report) is None


def test_nothing_runs_bare_by_default() -> None:
    from turnkeep.settings import Settings

    assert Settings.model_fields["sandbox"].default == "bubblewrap"
    assert probe().mechanism in ("bubblewrap", None)
