"""Tools from a file: HTTP requests, SQL queries and MCP servers in TOML, or functions in Python.

    hosts = ["api.example.com"]              # where http tools may go

    [databases.sales]                        # what sql tools may read
    url = "postgresql+psycopg://reader:${SALES_PASSWORD}@db/sales"

    [[tools]]
    kind = "sql"
    name = "orders_of"
    …

``${NAME}`` stands for a value of the environment that the caller passes in; nothing else of the
environment is seen. All mistakes in a file are reported at once, with their places.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from turnkeep import toml
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import ConfigurationError
from turnkeep.messages import Showing
from turnkeep.tools import http_request, sql
from turnkeep.tools.addresses import networks_of
from turnkeep.tools.mcp import McpServer, McpSettings, ToolsListener
from turnkeep.tools.pins import Pins
from turnkeep.tools.schema import strict_form
from turnkeep.tools.tool import Effect, RunTool, Tool
from turnkeep.tools.toolbox import Toolbox

LONGEST_TIMEOUT = 300.0
MOST_ROWS = 5000
SHORTEST_SECRET = 6
"""Shorter values are not looked for in answers: they would be found everywhere."""

_NAME = re.compile(r"\$\{(\w+)\}")
_IN_URLS = re.compile(r"[%:/?#@\[\] +&]")


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Parameter(_Form):
    """One parameter: its JSON schema, and whether it may be left out."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["string", "integer", "number", "boolean", "array", "object"]
    description: str = ""
    optional: bool = False

    def schema_form(self) -> dict[str, Any]:
        return self.model_dump(exclude={"optional"}, exclude_defaults=True) | {"type": self.type}


class _ToolForm(_Form):
    name: str
    description: str = Field(min_length=1)
    parameters: dict[str, _Parameter] = {}
    timeout: float = Field(10.0, gt=0, le=LONGEST_TIMEOUT)
    needs_approval: bool = False
    self_approval: bool = False
    show: Showing = "name"


class _Http(_ToolForm):
    kind: Literal["http"]
    url: str
    method: http_request.Method = "GET"
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    json_body: dict[str, Any] | None = Field(None, alias="json")
    networks: list[str] = []
    effect: Effect | None = None


class _Shape(_Form):
    rows: str = "rows"
    total: str | None = None
    echo: list[str] = []


class _Sql(_ToolForm):
    kind: Literal["sql"]
    database: str
    query: str | None = None
    procedure: str | None = None
    procedure_parameters: dict[str, str] = {}
    without_procedures: str | None = None
    rows: int = Field(sql.ROWS, ge=1, le=MOST_ROWS)
    result: _Shape = _Shape()


class _Mcp(_Form):
    kind: Literal["mcp"]
    name: str
    command: list[str] = []
    url: str | None = None
    environment: dict[str, str] = {}
    headers: dict[str, str] = {}
    only: list[str] | None = None
    effects: dict[str, Effect] = {}
    needs_approval: bool = False
    self_approval: bool = False
    show: Showing = "name"
    timeout: float = Field(30.0, gt=0, le=LONGEST_TIMEOUT)


class _Database(_Form):
    url: str
    script: str | None = None


class _File(_Form):
    hosts: list[str] = []
    databases: dict[str, _Database] = {}
    tools: list[Annotated[_Http | _Sql | _Mcp, Field(discriminator="kind")]] = []


class DeclaredTools:
    """What a file declares: `tools` that are ready, and servers whose tools come once connected."""

    def __init__(self, tools: list[Tool], servers: list[McpServer], databases: list[sql.Database]) -> None:
        self.tools = tools
        self.servers = servers
        self._databases = databases

    def register(self, toolbox: Toolbox) -> None:
        """Add the tools that are ready."""
        for one in self.tools:
            toolbox.register(one)

    async def keep(self, toolbox: Toolbox) -> None:
        """Keep the servers connected and their tools in the toolbox, until cancelled.

        Returns if there are none.
        """
        async with asyncio.TaskGroup() as group:
            for server in self.servers:
                group.create_task(server.keep(_registration(toolbox)))

    async def ready(self) -> None:
        """Wait until each server was tried once.

        One that cannot be reached is tried on: its tools appear later.
        """
        for server in self.servers:
            await server.first_try.wait()

    def close(self) -> None:
        """Close the databases."""
        for database in self._databases:
            database.close()


def load_tools(
    path: Path, environment: Mapping[str, str], *, clock: Clock | None = None, pins: Pins | None = None
) -> DeclaredTools:
    """Read a file of tools: TOML, or Python whose module-level tools are taken.

    Raises `ConfigurationError`.

    `environment` is where ``${NAME}`` is looked up, `pins` remember what tools of servers looked
    like. A Python file is run: it comes from the server's configuration, like every other program
    it starts.
    """
    if path.suffix == ".py":
        return DeclaredTools(_python_tools(path), [], [])
    form = _form(path)
    values = _Values(environment)
    databases: dict[str, sql.Database] = {}
    for name, database in form.databases.items():
        with _locate_errors(path, f"database {name!r}"):
            url = values.url(database.url)
            databases[name] = sql.Database(name, url, folder=path.resolve().parent, script=database.script)
    tools: list[Tool] = []
    servers: list[McpServer] = []
    for one in form.tools:
        with _locate_errors(path, f"tool {one.name!r}"):
            if isinstance(one, _Http):
                # values of its own: an answer is searched for the secrets of this tool alone
                tools.append(_http_tool(one, form.hosts, _Values(environment)))
            elif isinstance(one, _Sql):
                tools.append(_sql_tool(one, databases))
            else:
                servers.append(McpServer(_mcp_settings(one, form.hosts, values), clock or SystemClock(), pins))
    return DeclaredTools(tools, servers, list(databases.values()))


def _python_tools(path: Path) -> list[Tool]:
    spec = importlib.util.spec_from_file_location(f"turnkeep_tools_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigurationError(f"tools file {path.name!r} cannot be read")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # type hints are looked up there
    try:
        spec.loader.exec_module(module)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"tools file {path.name!r} fails with {type(error).__name__}: {error}") from error
    tools = [value for value in vars(module).values() if isinstance(value, Tool)]
    if not tools:
        raise ConfigurationError(f"tools file {path.name!r} has no tools; decorate functions with @tool")
    # one tool may stand under two names in a module
    return list({one.name: one for one in tools}.values())


def _form(path: Path) -> _File:
    try:
        data = toml.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"tools file {path.name!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and arrays a thousand deep
        raise ConfigurationError(f"tools file {path.name!r} is no TOML: {error}") from None
    try:
        return _File.model_validate(data)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise ConfigurationError(f"tools file {path.name!r}: {'; '.join(faults)}") from None


@contextmanager
def _locate_errors(path: Path, what: str) -> Iterator[None]:
    """Mistakes with the file and the entry in front."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"tools file {path.name!r}, {what}: {error}") from None


class _Values:
    """Looks up ``${NAME}`` and remembers what it gave out: those are secrets."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.names_used: list[str] = []

    def fill(self, text: str) -> str:
        return _NAME.sub(lambda match: self._value(match[1]), text)

    def url(self, text: str) -> str:
        """A value inside a URL is encoded: a password may have any character. A whole URL stays."""
        if whole := _NAME.fullmatch(text):
            return self._value(whole[1])
        return _NAME.sub(lambda match: _IN_URLS.sub(_encode, self._value(match[1])), text)

    def all_filled(self, texts: Mapping[str, str]) -> dict[str, str]:
        return {name: self.fill(text) for name, text in texts.items()}

    def _value(self, name: str) -> str:
        value = self._environment.get(name)
        if not value:
            raise ConfigurationError(f"${{{name}}} is not set in the environment")
        self.names_used.append(value)
        return value


def _encode(character: re.Match[str]) -> str:
    return f"%{ord(character[0]):02X}"


def _http_tool(form: _Http, hosts: list[str], values: _Values) -> Tool:
    effect: Effect = form.effect or ("pure" if form.method in ("GET", "HEAD") else "effect")
    headers, query = values.all_filled(form.headers), values.all_filled(form.query)
    endpoint = http_request.endpoint_checked(
        http_request.ToolEndpoint(
            url=form.url,
            method=form.method,
            query=query,
            headers=headers,
            json=form.json_body,
            networks=networks_of(form.networks),
            secrets=tuple(value for value in values.names_used if len(value) >= SHORTEST_SECRET),
            timeout=form.timeout,
            idempotent=effect == "idempotent",
        ),
        hosts,
    )
    _demand_same(endpoint.places, form, used_elsewhere=set())
    return _tool(form, http_request.request_tool(endpoint), effect)


def _sql_tool(form: _Sql, databases: Mapping[str, sql.Database]) -> Tool:
    database = databases.get(form.database)
    if database is None:
        raise ConfigurationError(f"there is no database {form.database!r} in the file")
    if (form.query is None) == (form.procedure is None):
        raise ConfigurationError("give either a query or a procedure")
    if form.query is not None:
        statement = sql.query_statement(form.query)
    else:
        places = form.procedure_parameters
        statement = sql.procedure_statement(database, form.procedure or "", places, without=form.without_procedures)
    shape = sql.Shape(rows=form.result.rows, total=form.result.total, echo=form.result.echo)
    query = sql.Query(database=database, statement=statement, shape=shape, rows=form.rows, timeout=form.timeout)
    _demand_same(query.places, form, used_elsewhere={*shape.echo, *form.procedure_parameters.values()})
    return _tool(form, sql.query_tool(query), "pure")


def _mcp_settings(form: _Mcp, hosts: list[str], values: _Values) -> McpSettings:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", form.name):
        raise ConfigurationError("the name of an MCP server has 1 to 32 of A-Z a-z 0-9 _ -")
    if form.url is not None:
        _demand_listed(form.url, hosts)
    return McpSettings(
        name=form.name,
        command=[values.fill(word) for word in form.command],
        url=form.url,
        environment=values.all_filled(form.environment),
        headers=values.all_filled(form.headers),
        only=form.only,
        effects=form.effects,
        needs_approval=form.needs_approval,
        self_approval=form.self_approval,
        show=form.show,
        timeout=form.timeout,
    )


def _demand_listed(url: str, hosts: list[str]) -> None:
    parts = urlsplit(url)
    if parts.hostname not in {name.lower() for name in hosts}:
        raise ConfigurationError(f"host {parts.hostname!r} is not in `hosts`; add it there if the tools may reach it")
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigurationError(f"url {url[:200]!r} must be https, except on this machine")


def _demand_same(places: set[str], form: _ToolForm, *, used_elsewhere: set[str]) -> None:
    """Every place has a parameter, every parameter a place."""
    if without_parameter := places - form.parameters.keys():
        raise ConfigurationError(f"{', '.join(sorted(without_parameter))}: used, but not among the parameters")
    if without_place := form.parameters.keys() - places - used_elsewhere:
        raise ConfigurationError(f"{', '.join(sorted(without_place))}: a parameter that is used nowhere")


def _tool(form: _ToolForm, run: RunTool, effect: Effect) -> Tool:
    schema = {
        "type": "object",
        "properties": {name: parameter.schema_form() for name, parameter in form.parameters.items()},
        "required": [name for name, parameter in form.parameters.items() if not parameter.optional],
        "additionalProperties": False,
    }
    strict = strict_form(schema)
    return Tool(
        name=form.name,
        description=form.description,
        parameters=strict or schema,
        strict=strict is not None,
        run=run,
        effect=effect,
        # the request or query stops itself first, and says more than our timeout could
        timeout=form.timeout + 2.0,
        needs_approval=form.needs_approval,
        self_approval=form.self_approval,
        show=form.show,
    )


def _registration(toolbox: Toolbox) -> ToolsListener:
    """Keeps a toolbox up to date with what one server offers."""
    names: set[str] = set()

    def update(tools: Sequence[Tool]) -> None:
        for name in names - {one.name for one in tools}:
            toolbox.remove(name)
        for one in tools:
            toolbox.register(one, replace=True)
        names.clear()
        names.update(one.name for one in tools)

    return update
