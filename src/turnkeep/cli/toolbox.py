"""The tools of a service: the built-in ones that settings turn on, and those of a file."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings
from turnkeep.tools import Tool, Toolbox
from turnkeep.tools.declared import DeclaredTools, load_tools


@asynccontextmanager
async def kept(settings: Settings, environment: Mapping[str, str]) -> AsyncIterator[Toolbox]:
    """All tools, with the servers of a file connected as long as this lasts. Raises `ConfigurationError`."""
    toolbox, declared = _loaded(settings, environment)
    if declared is None:
        yield toolbox
        return
    try:
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(declared.keep(toolbox))
            yield toolbox
            keeping.cancel()
    finally:
        declared.close()


def names(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What tools there are, without connecting to anything. Raises `ConfigurationError`."""
    toolbox, declared = _loaded(settings, environment)
    servers = [f"{server.settings.name}__…" for server in declared.servers] if declared else []
    if declared is not None:
        declared.close()
    return (*toolbox.names, *servers)


def _loaded(settings: Settings, environment: Mapping[str, str]) -> tuple[Toolbox, DeclaredTools | None]:
    toolbox = Toolbox(_built_in(settings))
    return toolbox, _from_file(settings.tools_file, toolbox, environment) if settings.tools_file else None


def _built_in(settings: Settings) -> list[Tool]:
    from turnkeep.tools.builtin import builtin_tools

    key = settings.openweather_api_key
    return builtin_tools(
        workspace=settings.workspace,
        bash=settings.allow_bash,
        weather_key=key.get_secret_value() if key else None,
        weather_url=settings.openweather_url,
    )


def _from_file(path: Path, toolbox: Toolbox, environment: Mapping[str, str]) -> DeclaredTools | None:
    """Register what the file has; a .toml may also declare servers whose tools come later."""
    if path.suffix == ".py":
        for tool in _functions(path):
            toolbox.register(tool)
        return None
    if path.suffix != ".toml":
        raise ConfigurationError(f"tools file {path.name!r} must end in .toml or .py")
    declared = load_tools(path, environment)
    declared.register(toolbox)
    return declared


def _functions(path: Path) -> list[Tool]:
    """The `@tool` functions of a Python file, in their order."""
    module = _imported(path)
    found = [value for value in vars(module).values() if isinstance(value, Tool)]
    if not found:
        raise ConfigurationError(f"tools file {path.name!r} has no @tool function: from turnkeep.tools import tool")
    return list({id(one): one for one in found}.values())


def _imported(path: Path) -> ModuleType:
    name = f"turnkeep_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigurationError(f"tools file {path.name!r} cannot be read: there is no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints of the file look themselves up here
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except ConfigurationError as error:
        raise ConfigurationError(f"tools file {path.name!r}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"tools file {path.name!r} fails with {_described(error)}") from error
    return module


def _described(error: BaseException) -> str:
    """The error, and the line of the file or of what it calls."""
    line = error.lineno if isinstance(error, SyntaxError) else _last_line(error)
    return f"{type(error).__name__}: {error} (line {line})"


def _last_line(error: BaseException) -> int:
    place, line = error.__traceback__, 0
    while place is not None:
        if place.tb_frame.f_globals.get("__name__", "").startswith("turnkeep_tools_"):
            line = place.tb_lineno
        place = place.tb_next
    return line
