"""Tools that are one query: read-only, parameterised, bounded in rows and time (extra `sql`).

A query reads a table or view; a procedure is called by name. Values travel as bound parameters and
never become part of the statement. Nothing is ever committed. SQLite files are opened read-only;
PostgreSQL, MySQL, MariaDB and Oracle are told that the transaction reads only; SQL Server has no
such transaction, so give it a login that may only read.
"""

from __future__ import annotations

import importlib
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from turnkeep.errors import ConfigurationError, ToolFailed, ToolTimedOut
from turnkeep.lean_dataclass import dataclass
from turnkeep.tools import thread_pool
from turnkeep.tools.tool import RunTool, ToolContext, as_text

ROWS = 200
TIMEOUT = 10.0
CONNECTIONS = 4
LONGEST_VALUE = 4_000_000
"""Bytes of one value that SQLite makes or reads: within one function no time limit is heard."""

_READ_ONLY = ("postgresql", "mysql", "mariadb", "oracle")
# Not the `::` of a PostgreSQL cast, not the colon of 12:30.
_BIND = re.compile(r"(?<![:\w]):(\w+)")
_PROCEDURE_NAME = re.compile(r"[\w.\[\]]{1,128}")

_READING = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION))
_REACHING_OUT = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"})


class Database:
    """Where declared queries go. Nothing is opened before the first call."""

    def __init__(self, name: str, url: str, *, folder: Path, script: str | None = None) -> None:
        self._name = name
        self._alchemy = _sqlalchemy()
        self._folder = folder
        try:
            self._url = self._alchemy.engine.make_url(url)
        except self._alchemy.exc.ArgumentError:
            # without the URL: it holds the password
            raise ConfigurationError("the url is no SQLAlchemy URL") from None
        self._script = None if script is None else (folder / script)
        self._engine: Any = None
        self._guard = threading.Lock()
        if self._script and (self._engine_name != "sqlite" or self._url.database):
            raise ConfigurationError("`script` fills a database in memory: use url sqlite://")

    @property
    def _engine_name(self) -> str:
        return str(self._url.get_backend_name())

    @property
    def has_procedures(self) -> bool:
        return self._engine_name != "sqlite"

    def statement_for(self, procedure: str, places: Mapping[str, str]) -> str:
        """How this engine calls a procedure: `places` names its parameters and ours."""
        if self._engine_name == "mssql":
            arguments = ", ".join(f"@{theirs} = :{ours}" for theirs, ours in places.items())
            return f"SET NOCOUNT ON; EXEC {procedure} {arguments}"
        arguments = ", ".join(f":{ours}" for ours in places.values())
        if self._engine_name in ("mysql", "mariadb"):
            return f"CALL {procedure}({arguments})"
        return f"SELECT * FROM {procedure}({arguments})"  # noqa: S608 - a checked name and bind places

    def read(self, statement: str, values: Mapping[str, Any], *, rows: int, seconds: float) -> list[dict[str, Any]]:
        """At most `rows` + 1 rows: one more says that there are more.

        Blocking; always rolled back.
        """
        try:
            with self._open().connect() as connection, _stopped_after(seconds, connection) as late:
                try:
                    self._demand_reading(connection)
                    result = connection.execute(self._alchemy.text(statement), values)
                    return [dict(row) for row in result.mappings().fetchmany(rows + 1)]
                except self._alchemy.exc.DBAPIError:
                    if late.is_set():
                        raise ToolTimedOut(f"the database gave no answer within {seconds:g} seconds") from None
                    raise
                finally:
                    connection.rollback()
        except self._alchemy.exc.SQLAlchemyError as error:
            # its words hold the statement, the values and sometimes the address
            raise ToolFailed(f"the database {self._name!r} failed ({type(error).__name__})") from None

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()

    def _open(self) -> Any:
        with self._guard:
            if self._engine is None:
                self._engine = self._create_engine()
            return self._engine

    def _create_engine(self) -> Any:
        options: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True}
        if self._engine_name == "sqlite":
            pool = self._alchemy.pool.QueuePool
            return self._alchemy.create_engine(
                "sqlite://", creator=self._connect_sqlite, poolclass=pool, pool_size=CONNECTIONS, **options
            )
        return self._alchemy.create_engine(self._url, pool_size=CONNECTIONS, max_overflow=0, **options)

    def _connect_sqlite(self) -> sqlite3.Connection:
        if self._script is not None:
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            connection.executescript(self._script.read_text(encoding="utf-8"))
        else:
            path = (self._folder / (self._url.database or "")).resolve()
            # the pool lends a connection to whichever thread comes, to one at a time
            connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        # query_only stops writing; ATTACH would still open other files, and pragmas tell of paths
        connection.set_authorizer(_authorize)
        return connection

    def _demand_reading(self, connection: Any) -> None:
        if self._engine_name in _READ_ONLY:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Rows may be read and functions called, but nothing that tells of files or reaches others."""
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if (second or "").lower() in _REACHING_OUT else sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_READ and (first or "").lower().startswith(("pragma_", "dbstat", "sqlite_dbpage")):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_PRAGMA and (first, second) == ("read_uncommitted", None):  # SQLAlchemy's own question
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def _sqlalchemy() -> Any:
    try:
        for part in ("engine", "exc", "pool"):
            importlib.import_module(f"sqlalchemy.{part}")
        return importlib.import_module("sqlalchemy")
    except ImportError:
        raise ConfigurationError("declared SQL tools need SQLAlchemy: pip install 'turnkeep[sql]'") from None


@contextmanager
def _stopped_after(seconds: float, connection: Any) -> Iterator[threading.Event]:
    """Ask the driver to break off what runs when the time is up; the event says that it was."""
    late = threading.Event()
    driver = connection.connection.driver_connection
    if hasattr(driver, "timeout") and not hasattr(driver, "interrupt"):
        with suppress(Exception):  # a hint to the driver: without it the tool's own timeout remains
            driver.timeout = max(1, int(seconds))
    break_off = getattr(driver, "interrupt", None) or getattr(driver, "cancel", None)

    def stop() -> None:
        late.set()
        if break_off is not None:
            break_off()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How rows are told: the key they stand under, what is counted, which arguments are repeated.

    `total` is ``rows`` for their number, or the column that is added up.
    """

    rows: str = "rows"
    total: str | None = None
    echo: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One declared query, checked: `statement` holds ``:name`` where a parameter goes."""

    database: Database
    statement: str
    shape: Shape
    rows: int = ROWS
    timeout: float = TIMEOUT

    @property
    def places(self) -> set[str]:
        return set(_BIND.findall(self.statement))


def query_statement(query: str) -> str:
    """The query, if it only reads and is one statement. Raises `ConfigurationError`."""
    statement = query.strip().rstrip(";")
    if not re.match(r"(?:select|with|values)\b", statement, re.IGNORECASE) or ";" in statement:
        raise ConfigurationError("a query must be one SELECT; writing is not what declared SQL tools are for")
    return statement


def procedure_statement(database: Database, procedure: str, places: Mapping[str, str], *, without: str | None) -> str:
    """The call of a procedure; on an engine that has none the query that stands in for it."""
    names = [procedure, *places, *places.values()]
    if not all(_PROCEDURE_NAME.fullmatch(name) for name in names):
        raise ConfigurationError(f"procedure {procedure[:80]!r}: names have letters, digits, _ and . only")
    if database.has_procedures:
        return database.statement_for(procedure, places)
    if without is None:
        raise ConfigurationError(f"SQLite has no procedures: give {procedure!r} a query in `without_procedures`")
    return query_statement(without)


def query_tool(query: Query) -> RunTool:
    """What the tool does with arguments that fit its parameters."""

    async def run(arguments: Mapping[str, Any], _: ToolContext) -> str:
        values = {name: arguments.get(name) for name in query.places}
        rows = await thread_pool.shared_threads.run(
            lambda: query.database.read(query.statement, values, rows=query.rows, seconds=query.timeout)
        )
        return as_text(rows_for_model(query.shape, rows, most=query.rows, arguments=arguments))

    return run


def rows_for_model(
    shape: Shape, rows: Sequence[Mapping[str, Any]], *, most: int, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The rows as the model reads them."""
    entries = [{name: _plain(value) for name, value in row.items()} for row in rows[:most]]
    answer: dict[str, Any] = {}
    if shape.total == "rows":
        answer["total"] = len(entries)
    elif shape.total is not None:
        answer["total"] = _plain(sum(row.get(shape.total) or 0 for row in entries))
    answer |= {name: arguments.get(name) for name in shape.echo}
    answer[shape.rows] = entries
    if len(rows) > most:
        answer["note"] = f"only the first {most} rows; there are more, and the total counts these only"
    return answer


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | memoryview):
        return f"{len(bytes(value))} bytes"
    return value
