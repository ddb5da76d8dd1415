"""The built-in tools, all off until the server's configuration turns them on.

Linux only, except the weather.
"""

from __future__ import annotations

import logging

from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings
from turnkeep.tools.files import file_tools
from turnkeep.tools.git import git_tool
from turnkeep.tools.sandbox import Mechanism, SandboxReport, probe, sandbox
from turnkeep.tools.shell import bash_tool
from turnkeep.tools.tool import Tool
from turnkeep.tools.workspaces import Workspaces

log = logging.getLogger(__name__)

WORKSPACE_TOOLS = frozenset({"read_file", "write_file", "git_operation", "execute_bash"})


def configured_tools(settings: Settings) -> list[Tool]:
    """The built-in tools that settings turn on. Raises `ConfigurationError`."""
    key = settings.openweather_api_key
    return builtin_tools(
        workspaces=_workspaces(settings),
        bash=settings.allow_bash,
        mechanism=settings.sandbox,
        weather_key=key.get_secret_value() if key else None,
        weather_url=settings.openweather_url,
    )


def _workspaces(settings: Settings) -> Workspaces | None:
    if settings.workspace is None:
        if settings.tenant_workspaces is not None:
            raise ConfigurationError("TURNKEEP_TENANT_WORKSPACES needs TURNKEEP_WORKSPACE, that of the default tenant")
        return None
    return Workspaces(
        settings.workspace,
        settings.tenant_workspaces,
        quota=settings.workspace_quota,
        free=settings.workspace_free,
    )


def builtin_tools(
    *,
    workspaces: Workspaces | None = None,
    bash: bool = False,
    mechanism: Mechanism = "bubblewrap",
    weather_key: str | None = None,
    weather_url: str | None = None,
    report: SandboxReport | None = None,
) -> list[Tool]:
    """The tools that this configuration turns on.

    `workspaces` turn on read_file and write_file, and, where this machine has a sandbox,
    git_operation; `bash` adds execute_bash, or raises `ConfigurationError` where there is none for
    it. `report` spares a second probe.
    """
    tools = [_weather(weather_key, weather_url)] if weather_key else []
    if workspaces is None:
        if bash:
            raise ConfigurationError("execute_bash needs a workspace: set one, or leave bash off")
        return tools
    report = report or probe(mechanism)
    inside = sandbox(report)
    # bash was asked for by name and must not be missing silently; git only comes along
    # with a workspace
    if bash and (inside is None or report.refusal):
        raise ConfigurationError(report.refusal)
    tools += file_tools(workspaces)
    # files need no sandbox, the kernel holds their paths; git runs programs and is left out
    if inside is None:
        log.warning("git_not_offered reason=%s", report.reason_refused)
        return tools
    if inside.mechanism == "outside":
        log.warning("tools_run_outside_a_sandbox they reach all that this process reaches")
    tools.append(git_tool(workspaces, inside))
    return [*tools, bash_tool(workspaces, inside)] if bash else tools


def _weather(key: str, url: str | None) -> Tool:
    # here and not above: it brings aiohttp, and most services have no weather
    from turnkeep.tools.weather import ENDPOINT, weather_tool

    return weather_tool(key, url or ENDPOINT)
