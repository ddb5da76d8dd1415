"""The tools of a service: the built-in ones that settings turn on, and those of a file."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from turnkeep.errors import ConfigurationError
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.settings import Settings
from turnkeep.tools import Tool, Toolbox
from turnkeep.tools.builtin import WORKSPACE_TOOLS, configured_tools
from turnkeep.tools.pins import Pins
from turnkeep.tools.toolbox import WILDCARD

if TYPE_CHECKING:
    from turnkeep.tools.tool_file import DeclaredTools

Files = list[tuple[Toolbox, "DeclaredTools"]]
"""What files declare beside functions, with the toolbox it belongs into."""


@asynccontextmanager
async def open_toolbox(settings: Settings, environment: Mapping[str, str], pins: Pins) -> AsyncIterator[Toolbox]:
    """All tools, with the servers of a file connected as long as this lasts; theirs appear once
    `pins` has a registry.

    Raises `ConfigurationError`.
    """
    toolbox, files = _load(settings, environment, pins)
    try:
        async with asyncio.TaskGroup() as group:
            keeping = [group.create_task(declarations.keep(box)) for box, declarations in files]
            yield toolbox
            for task in keeping:
                task.cancel()
    except BaseExceptionGroup as errors:
        # a caller that stops listening closes its generators: that is no error of the group's
        if errors.split(GeneratorExit)[1] is None:
            raise GeneratorExit from None
        raise
    finally:
        for _, declarations in files:
            declarations.close()


def names(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What tools there are, without connecting to anything. Raises `ConfigurationError`."""
    toolbox, files = _load(settings, environment)
    labels = list(toolbox.names)
    for box, declarations in files:
        # Which tools a server has is known only to whoever asks it.
        labels += [f"{server.settings.name}__…" for server in declarations.servers] if box is toolbox else []
        declarations.close()
    for tenant in settings.tenant_tool_files:
        labels += [f"{name} ({tenant} alone)" for name in toolbox.own(tenant).names]
    return tuple(labels)


def _load(settings: Settings, environment: Mapping[str, str], pins: Pins | None = None) -> tuple[Toolbox, Files]:
    settings.demand_vouched()
    toolbox = Toolbox(configured_tools(settings), tenants=settings.tenant_tools or {})
    paths = [(toolbox, settings.tools_file)] if settings.tools_file else []
    paths += [(toolbox.own(tenant), path) for tenant, path in settings.tenant_tool_files.items()]
    files = [(box, _from_file(path, box, environment, pins=pins)) for box, path in paths]
    demand_separate(settings, toolbox)
    return toolbox, [(box, declarations) for box, declarations in files if declarations is not None]


def demand_separate(settings: Settings, toolbox: Toolbox) -> None:
    """Tools of the workspace are given to another tenant only where it has a workspace. Raises
    `ConfigurationError`.
    """
    if DEFAULT_TENANT in (settings.tenant_tools or {}):
        raise ConfigurationError("TURNKEEP_TENANT_TOOLS names the tenant 'default', which has every tool: leave it out")
    for tenant, names in (settings.tenant_tools or {}).items():
        workspace_tools = WORKSPACE_TOOLS & set(toolbox.names) if WILDCARD in names else WORKSPACE_TOOLS & set(names)
        if workspace_tools and settings.tenant_workspaces is None:
            raise ConfigurationError(
                f"TURNKEEP_TENANT_TOOLS gives tenant {tenant!r} {', '.join(sorted(workspace_tools))}, but it has no"
                " workspace of its own: set TURNKEEP_TENANT_WORKSPACES"
            )
        missing = [name for name in names if name != WILDCARD and "__" not in name and name not in toolbox]
        if missing:
            raise ConfigurationError(
                f"TURNKEEP_TENANT_TOOLS gives tenant {tenant!r} {', '.join(missing)[:200]}, which no setting turns on;"
                f" there are: {', '.join(toolbox.names) or 'none'}"
            )


def _from_file(
    path: Path, toolbox: Toolbox, environment: Mapping[str, str], *, pins: Pins | None
) -> DeclaredTools | None:
    """Register what the file has; a .toml may also declare servers whose tools come later."""
    if path.suffix == ".py":
        for tool in _functions(path):
            toolbox.register(tool)
        return None
    if path.suffix != ".toml":
        raise ConfigurationError(f"tools file {path.name!r} must end in .toml or .py")
    from turnkeep.tools.tool_file import load_tools

    declarations = load_tools(path, environment, pins=pins)
    declarations.register(toolbox)
    return declarations


def _functions(path: Path) -> list[Tool]:
    """The `@tool` functions of a Python file, in their order."""
    module = _import(path)
    tools = [value for value in vars(module).values() if isinstance(value, Tool)]
    if not tools:
        raise ConfigurationError(f"tools file {path.name!r} has no @tool function: from turnkeep.tools import tool")
    # A function under two names is one tool.
    return list({id(one): one for one in tools}.values())


class _Text(SourceFileLoader):
    """Loads what is written now. Bytecode knows its text by size and whole seconds only: of a file that is changed
    within the second in which it was loaded, `dev --reload` would load again what had been there.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _import(path: Path) -> ModuleType:
    name = f"turnkeep_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Text(name, str(path)))
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigurationError(f"tools file {path.name!r} cannot be read: there is no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints of the file look themselves up here
    # A tools file may import what lies beside it.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except ConfigurationError as error:
        raise ConfigurationError(f"tools file {path.name!r}: {error}") from error
    # A file that ends the process when it is imported must not end the service without a word.
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"tools file {path.name!r} fails with {_describe(error)}") from error
    return module


def _describe(error: BaseException) -> str:
    """The error, and the line of the file or of what it calls."""
    line = error.lineno if isinstance(error, SyntaxError) else _last_line(error)
    return f"{type(error).__name__}: {error} (line {line})"


def _last_line(error: BaseException) -> int:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").startswith("turnkeep_tools_"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
