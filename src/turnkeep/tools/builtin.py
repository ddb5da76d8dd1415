"""The built-in tools, all off until the server's configuration turns them on. Linux only, except the weather."""

from __future__ import annotations

from pathlib import Path

from turnkeep.errors import ConfigurationError
from turnkeep.tools.base import Tool
from turnkeep.tools.files import file_tools
from turnkeep.tools.git import git_tool
from turnkeep.tools.sandbox import SandboxReport, probe, sandbox
from turnkeep.tools.shell import bash_tool
from turnkeep.tools.weather import ENDPOINT, weather_tool
from turnkeep.tools.workspace import Workspace


def builtin_tools(
    *,
    workspace: Path | None = None,
    bash: bool = False,
    weather_key: str | None = None,
    weather_url: str = ENDPOINT,
    report: SandboxReport | None = None,
) -> list[Tool]:
    """The tools that this configuration turns on.

    `workspace` turns on read_file, write_file and git_operation; `bash` adds execute_bash, or raises
    `ConfigurationError` where this machine has no sandbox for it. `report` spares a second probe.
    """
    tools = [weather_tool(weather_key, weather_url)] if weather_key else []
    if workspace is None:
        if bash:
            raise ConfigurationError("execute_bash needs a workspace: set one, or leave bash off")
        return tools
    found = report or probe()
    inside = sandbox(found)
    tools += [*file_tools(Workspace(workspace)), git_tool(workspace, inside)]
    if bash:
        if inside is None or found.refusal:
            raise ConfigurationError(found.refusal)
        tools.append(bash_tool(workspace, inside))
    return tools
