"""Tools from a TOML file: what is told of mistakes, and what HTTP and SQL tools give."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from turnkeep.clock import SystemClock
from turnkeep.errors import ConfigurationError
from turnkeep.tools import Toolbox, ToolContext, sql
from turnkeep.tools.execution import Result, ToolRequest, call
from turnkeep.tools.tool_file import load_tools

KMC = Path(__file__).parents[2] / "examples/tools/kmc.toml"


async def use(box: Toolbox, name: str, context: ToolContext | None = None, **arguments: Any) -> Result:
    asked = ToolRequest("call_1", name, json.dumps(arguments))
    return await call(box.get(name), asked, context or ToolContext(), clock=SystemClock())


Load = Callable[..., Toolbox]


@pytest.fixture
def loaded() -> Iterator[Load]:
    """Reads files of tools into toolboxes, and closes their databases at the end."""
    opened = []

    def load(path: Path, environment: Mapping[str, str] | None = None) -> Toolbox:
        declared = load_tools(path, environment or {})
        opened.append(declared)
        box = Toolbox()
        declared.register(box)
        return box

    yield load
    for declared in opened:
        declared.close()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tools.toml"
    path.write_text(text)
    return path


# ---------------------------------------------------------------- the sample


async def test_active_clients_per_service_are_counted(loaded: Load) -> None:
    result = await use(loaded(KMC), "get_active_clients_per_service")

    told = json.loads(result.output)
    assert told["total"] == 17
    assert told["breakdown"][0] == {"ServiceName": "Serviced Office", "ClientCount": 5}
    assert sum(row["ClientCount"] for row in told["breakdown"]) == told["total"]


async def test_offices_for_20_people_in_makati_are_found(loaded: Load) -> None:
    result = await use(loaded(KMC), "get_available_offices", city="makati", capacity=20)

    told = json.loads(result.output)
    assert list(told) == ["total", "city", "capacity", "offices"]
    assert (told["total"], told["city"], told["capacity"]) == (3, "makati", 20)
    assert [office["OfficeName"] for office in told["offices"]] == ["Suite 1204", "Suite 1502", "Floor 21"]


@pytest.mark.parametrize("city", ["x' OR 1=1 --", "Makati'; DROP TABLE Offices; --", "%", ":capacity", "\x00"])
async def test_values_never_become_part_of_the_statement(city: str, loaded: Load) -> None:
    box = loaded(KMC)

    told = json.loads((await use(box, "get_available_offices", city=city, capacity=1)).output)

    assert told["total"] == 0
    assert json.loads((await use(box, "get_available_offices", city="Makati", capacity=1)).output)["total"] == 4


@pytest.fixture
def sample_file(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, KMC.with_name("make_sample.py"), tmp_path / "kmc.sqlite3"], check=True)
    return tmp_path / "kmc.sqlite3"


@pytest.mark.usefixtures("sample_file")
async def test_the_sample_can_be_written_to_a_file_and_read_from_there(tmp_path: Path, loaded: Load) -> None:
    text = KMC.read_text().replace('url = "sqlite://"\nscript = "kmc-sample.sql"', 'url = "sqlite:///kmc.sqlite3"')

    box = loaded(written(tmp_path, text))

    assert json.loads((await use(box, "get_available_offices", city="Cebu", capacity=40)).output)["total"] == 1


def test_on_sql_server_the_same_file_calls_the_procedure(tmp_path: Path) -> None:
    real = 'url = "mssql+pyodbc://${KMC_USER}:${KMC_PASSWORD}@${KMC_HOST}/KMC?driver=ODBC+Driver+18+for+SQL+Server"'
    assert real.partition("?")[0] in KMC.read_text()
    text = KMC.read_text().replace('url = "sqlite://"\nscript = "kmc-sample.sql"', real)

    declared = load_tools(written(tmp_path, text), {"KMC_USER": "reader", "KMC_PASSWORD": "a:b/c@d", "KMC_HOST": "db"})

    database = declared._databases[0]
    assert database.statement_for("sp_GetAvailableOffices", {"City": "city", "Capacity": "capacity"}) == (
        "SET NOCOUNT ON; EXEC sp_GetAvailableOffices @City = :city, @Capacity = :capacity"
    )
    assert database._url.password == "a:b/c@d"
    assert database._url.host == "db"


# ---------------------------------------------------------------- SQL

SQL = """
[databases.d]
url = "sqlite:///data.sqlite3"

[[tools]]
kind = "sql"
name = "numbers"
description = "Numbers."
database = "d"
query = "SELECT n, n * 1.5 AS half, x'00ff' AS bytes FROM numbers WHERE n >= :least ORDER BY n"
rows = 3
result = { total = "n", rows = "list", echo = ["least"] }
parameters.least = { type = "integer", optional = true }

[[tools]]
kind = "sql"
name = "endless"
description = "Never ends."
database = "d"
query = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT COUNT(*) FROM c"
timeout = 0.2
"""


@pytest.fixture
def numbers(tmp_path: Path, loaded: Load) -> Toolbox:
    connection = sqlite3.connect(tmp_path / "data.sqlite3")
    connection.executescript("CREATE TABLE numbers (n INTEGER); INSERT INTO numbers VALUES (1), (2), (3), (4), (5);")
    connection.close()
    return loaded(written(tmp_path, SQL))


async def test_rows_are_capped_and_it_is_said(numbers: Toolbox) -> None:
    told = json.loads((await use(numbers, "numbers", least=1)).output)

    assert told["total"] == 6
    assert told["list"][0] == {"n": 1, "half": 1.5, "bytes": "2 bytes"}
    assert len(told["list"]) == 3
    assert told["note"] == "only the first 3 rows; there are more, and the total counts these only"


async def test_rows_that_fit_need_no_note(numbers: Toolbox) -> None:
    assert json.loads((await use(numbers, "numbers", least=3)).output).keys() == {"total", "least", "list"}


async def test_a_parameter_that_is_left_out_is_null(numbers: Toolbox) -> None:
    assert json.loads((await use(numbers, "numbers")).output) == {"total": 0, "least": None, "list": []}


async def test_a_query_that_takes_too_long_is_broken_off(numbers: Toolbox) -> None:
    result = await use(numbers, "endless")

    assert result == Result("error: the database gave no answer within 0.2 seconds", "error", "tool_timed_out")


async def test_a_database_that_fails_is_told_without_statement_or_place(tmp_path: Path, loaded: Load) -> None:
    result = await use(loaded(written(tmp_path, SQL)), "numbers", least=1)

    assert result.output == "error: the database 'd' failed (OperationalError)"


async def test_nothing_can_be_written(tmp_path: Path, numbers: Toolbox) -> None:
    script = tmp_path / "make.sql"
    script.write_text("CREATE TABLE t (n INTEGER);")
    text = SQL.replace('url = "sqlite:///data.sqlite3"', 'url = "sqlite://"\nscript = "make.sql"')
    for database in (SQL, text):
        declared = load_tools(written(tmp_path, database), {})
        connection = declared._databases[0]._connect_sqlite()
        with pytest.raises(sqlite3.DatabaseError, match=r"attempt to write a readonly|not authorized"):
            connection.execute("CREATE TABLE evil (n INTEGER)")
        connection.close()
        declared.close()


# ---------------------------------------------------------------- HTTP


@dataclass
class Service:
    port: int = 0
    seen: list[tuple[str, str, Mapping[str, str], str]] = field(default_factory=list)
    response: web.Response | None = None

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.raw_path, dict(request.headers), await request.text()))
        echo = {"offices": 3, "authorization": request.headers.get("Authorization", "")}
        return self.response or web.json_response(echo)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    served = Service()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.port = runner.addresses[0][1]
    yield served
    await runner.cleanup()


HTTP = """
hosts = ["127.0.0.1"]

[[tools]]
kind = "http"
name = "offices"
description = "Offices of a city."
url = "http://127.0.0.1:PORT/cities/{city}/offices?v=1"
networks = ["127.0.0.1/32"]
query = { people = "{people}", sort = "name" }
headers = { Authorization = "Bearer ${TOKEN}" }
parameters.city = { type = "string" }
parameters.people = { type = "integer", optional = true }

[[tools]]
kind = "http"
name = "book"
description = "Book an office."
method = "POST"
effect = "idempotent"
url = "http://127.0.0.1:PORT/bookings"
networks = ["127.0.0.1/32"]
json = { office = "{office}", seats = "{seats}", note = "for {office}", tags = ["x", "{seats}"] }
parameters.office = { type = "string" }
parameters.seats = { type = "integer" }
"""

TOKEN = "secret-token-123"


@pytest.fixture
def offices(tmp_path: Path, service: Service, loaded: Load) -> Toolbox:
    return loaded(written(tmp_path, HTTP.replace("PORT", str(service.port))), {"TOKEN": TOKEN})


async def test_a_request_is_filled_in_and_its_secret_does_not_come_back(offices: Toolbox, service: Service) -> None:
    result = await use(offices, "offices", city="Makati City/é?", people=20)
    assert result.output == "error: city must not be empty or have a slash"

    result = await use(offices, "offices", city="Makati City é?", people=20)

    method, path, headers, _ = service.seen[0]
    assert (method, path) == ("GET", "/cities/Makati%20City%20%C3%A9%3F/offices?v=1&people=20&sort=name")
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert json.loads(result.output) == {"offices": 3, "authorization": "Bearer ***"}


async def test_a_field_whose_parameter_is_left_out_is_left_out(offices: Toolbox, service: Service) -> None:
    await use(offices, "offices", city="Cebu")

    assert service.seen[0][1] == "/cities/Cebu/offices?v=1&sort=name"


async def test_a_body_keeps_types_and_an_idempotent_call_its_key(offices: Toolbox, service: Service) -> None:
    await use(offices, "book", ToolContext(idempotency_key="key_1"), office='Suite "7"', seats=3)

    _, _, headers, body = service.seen[0]
    assert json.loads(body) == {"office": 'Suite "7"', "seats": 3, "note": 'for Suite "7"', "tags": ["x", 3]}
    assert headers["Idempotency-Key"] == "key_1"
    assert offices.get("book").effect == "idempotent"  # type: ignore[union-attr]
    assert offices.get("offices").effect == "pure"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (web.Response(status=404, text="no such city"), "status 404: no such city"),
        (web.Response(status=500, text=f"failed with {TOKEN}"), "status 500: failed with ***"),
        (web.Response(body=b"\xff\xfe\x00", content_type="image/png"), "3 bytes that are no text (image/png)"),
        (web.Response(text="x" * 1_100_000), "longer than 1048576 bytes"),
        (web.Response(body=b"x", headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
    ids=["missing", "failed", "image", "long", "compressed"],
)
async def test_other_answers_are_told(response: web.Response, words: str, offices: Toolbox, service: Service) -> None:
    service.response = response

    result = await use(offices, "offices", city="Cebu")

    assert result.status == "error"
    assert words in result.output


# ---------------------------------------------------------------- mistakes

ONE = """
[[tools]]
kind = "http"
name = "t"
description = "x"
url = "https://api.example/{a}"
parameters.a = { type = "string" }
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[tools]", "is no TOML"),
        ("[[tools]]\nkind = 'ftp'", "tools.0"),
        ("[[tools]]\nkind = 'http'\nname = 't'", "tools.0.http.url: Field required"),
        ("[[tools]]\nkind = 'http'\nname = 't'", "tools.0.http.description: Field required"),
        ("surprise = 1", "surprise: Extra inputs"),
        (ONE, "tool 't': host 'api.example' is not in `hosts`"),
        ('hosts = ["api.example"]\n' + ONE.replace("/{a}", "/"), "a: a parameter that is used nowhere"),
        ('hosts = ["api.example"]\n' + ONE.replace("{a}", "{b}"), "b: used, but not among the parameters"),
        ('hosts = ["api.example"]\n' + ONE.replace("https", "http"), "must be https"),
        (
            'hosts = ["api.example"]\n' + ONE.replace("url =", 'headers = { A = "${NONE}" }\nurl ='),
            "${NONE} is not set in the environment",
        ),
        (SQL.replace('database = "d"', 'database = "e"'), "there is no database 'e'"),
        (SQL.replace("SELECT n,", "DELETE n,"), "must be one SELECT"),
        (SQL.replace("ORDER BY n", "; DROP TABLE numbers"), "must be one SELECT"),
        (SQL.replace(":least", ":most"), "most: used, but not among the parameters"),
        (SQL.replace('"sqlite:///data.sqlite3"', '"no url"'), "is no SQLAlchemy URL"),
        (SQL.replace('url = "sqlite:///data.sqlite3"', 'url = "sqlite:///x"\nscript = "y"'), "sqlite://"),
        ("[[tools]]\nkind = 'mcp'\nname = 'a b'\ncommand = ['x']", "name of an MCP server"),
        ("[[tools]]\nkind = 'mcp'\nname = 'm'", "either a command or a url"),
        ("[[tools]]\nkind = 'mcp'\nname = 'm'\nurl = 'https://x.example/mcp'", "not in `hosts`"),
        ("hosts = ['x.example']\n[[tools]]\nkind = 'mcp'\nname = 'm'\nurl = 'http://x.example/mcp'", "must be https"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_tools(written(tmp_path, text), {})

    said = str(caught.value)
    assert said.startswith("tools file 'tools.toml'")
    assert words in said


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_tools(tmp_path / "none.toml", {})


def test_a_procedure_on_sqlite_needs_a_query_to_stand_in(tmp_path: Path) -> None:
    text = SQL.replace(
        "query = \"SELECT n, n * 1.5 AS half, x'00ff' AS bytes FROM numbers WHERE n >= :least ORDER BY n\"",
        'procedure = "sp_Numbers"\nprocedure_parameters = { Least = "least" }',
    )

    with pytest.raises(ConfigurationError, match="SQLite has no procedures"):
        load_tools(written(tmp_path, text), {})
    with pytest.raises(ConfigurationError, match="letters, digits"):
        load_tools(written(tmp_path, text.replace("sp_Numbers", "sp; DROP")), {})


@pytest.mark.parametrize(
    ("url", "statement"),
    [
        ("mysql+pymysql://u:p@h/d", "CALL p(:a, :b)"),
        ("postgresql+psycopg://u:p@h/d", "SELECT * FROM p(:a, :b)"),
        ("mssql+pyodbc://u:p@h/d", "SET NOCOUNT ON; EXEC p @A = :a, @B = :b"),
    ],
)
def test_each_engine_calls_procedures_its_way(url: str, statement: str, tmp_path: Path) -> None:
    from turnkeep.tools.sql import Database

    assert Database("d", url, folder=tmp_path).statement_for("p", {"A": "a", "B": "b"}) == statement


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "has no tools"),
        ("import nothing_of_this_name\n", "fails with ModuleNotFoundError"),
        ("from turnkeep.tools import tool\n@tool\ndef f(x): 'y'\n", "has no type hint"),
    ],
)
def test_mistakes_in_a_python_file_are_told(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mistaken.py"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=words):
        load_tools(path, {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_tools(tmp_path / "none.py", {})


# ---------------------------------------------------------------- SQL


@pytest.mark.parametrize(
    ("value", "told"),
    [(Decimal("7.00"), 7), (Decimal("7.25"), 7.25), (b"abc", "3 bytes"), (memoryview(b"ab"), "2 bytes"), ("x", "x")],
)
def test_a_value_of_a_database_is_told_in_plain_words(value: Any, told: object) -> None:
    assert sql._plain(value) == told
    assert type(sql._plain(value)) is type(told)


@pytest.mark.parametrize(
    ("action", "first", "second", "allowed"),
    [
        (sqlite3.SQLITE_SELECT, None, None, True),
        (sqlite3.SQLITE_READ, "offices", "city", True),
        (sqlite3.SQLITE_READ, "pragma_database_list", "file", False),
        (sqlite3.SQLITE_READ, "DBSTAT", "path", False),
        (sqlite3.SQLITE_FUNCTION, None, "upper", True),
        (sqlite3.SQLITE_FUNCTION, None, "LOAD_EXTENSION", False),
        (sqlite3.SQLITE_PRAGMA, "read_uncommitted", None, True),
        (sqlite3.SQLITE_PRAGMA, "read_uncommitted", "1", False),
        (sqlite3.SQLITE_ATTACH, "/etc/passwd", None, False),
        (sqlite3.SQLITE_INSERT, "offices", None, False),
    ],
)
def test_a_query_may_read_rows_and_nothing_else(
    action: int, first: str | None, second: str | None, allowed: bool
) -> None:
    assert sql._authorize(action, first, second, "main", None) == (
        sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
    )
