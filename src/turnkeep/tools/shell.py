"""`execute_bash`: a command of the model, in the sandbox: it sees the workspace and no network."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

from pydantic import Field

from turnkeep.errors import ConfigurationError, ToolFailed
from turnkeep.tools import thread_pool
from turnkeep.tools.process_limits import MOST_TOOL_PROCESSES
from turnkeep.tools.sandbox import Sandbox, SandboxedProgram, can_shield
from turnkeep.tools.tool import OUTPUT_CAP, Tool, ToolContext, tool
from turnkeep.tools.workspaces import Workspaces

TIMEOUT = 30.0
LONGEST_COMMAND = 16 * 1024

_FIRST = f'ulimit -u {MOST_TOOL_PROCESSES} 2>/dev/null; exec /bin/bash --noprofile --norc -c "$1"'
"""Under bubblewrap the limit counts in its own user namespace; root is held by a cgroup."""


def bash_tool(workspaces: Workspaces, sandbox: Sandbox, *, timeout: float = TIMEOUT) -> Tool:
    """The tool, for the workspace of whoever calls.

    Refuses to exist where processes cannot be counted.
    """
    if sandbox.limit is None:
        raise ConfigurationError("execute_bash needs a limit on processes, and this process cannot set one")
    shields = sandbox.mechanism == "bubblewrap" and can_shield()

    @tool(effect="effect", timeout=timeout + 10.0, output_cap=OUTPUT_CAP + 1024)
    async def execute_bash(
        command: Annotated[str, Field(description="A bash command or script.")],
        context: ToolContext,
        seconds: Annotated[
            float | None, Field(description="Stop it after this time; null for the most allowed.")
        ] = None,
    ) -> str:
        """Run a bash command in the workspace. There is no network; nothing it starts outlives it."""
        _demand_sane(command)
        limit = min(timeout, seconds) if seconds is not None and seconds > 0 else timeout
        workspace = await thread_pool.shared_threads.run(lambda: workspaces.of(context.tenant))
        # what a command wrote there (hooks, filters) the next git_operation would obey
        with workspace.hold_directory(".git") if shields else nullcontext() as git:
            result = await sandbox.run(
                SandboxedProgram(
                    words=_words(command, sandbox),
                    workspace=workspace.root,
                    timeout=limit,
                    output_cap=OUTPUT_CAP,
                    environment={},
                    shield=git,
                    watch=workspace.quota.wait_exceeded,
                )
            )
        return result.text_for_model(limit)

    return execute_bash


def _words(command: str, sandbox: Sandbox) -> list[str]:
    shell = ["/bin/bash", "--noprofile", "--norc", "-c"]
    if sandbox.mechanism == "bubblewrap":
        return [*shell, _FIRST, "bash", command]
    return [*shell, command]


def _demand_sane(command: str) -> None:
    try:
        size = len(command.encode())
    except UnicodeEncodeError:
        raise ToolFailed("the command is no valid text") from None
    if "\0" in command or not command.strip():
        raise ToolFailed("the command is empty or has a NUL character")
    if size > LONGEST_COMMAND:
        raise ToolFailed(f"the command is longer than {LONGEST_COMMAND} bytes; write a script file and run that")
