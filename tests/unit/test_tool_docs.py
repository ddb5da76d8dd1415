"""What the documentation shows works."""

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from turnkeep.clock import SystemClock
from turnkeep.tools import Tool, Toolbox, ToolContext
from turnkeep.tools.execution import Result, ToolRequest, call, call_catch_all
from turnkeep.tools.files import READ_CAP
from turnkeep.tools.git import GIT_VERBS
from turnkeep.tools.process_limits import MOST_TOOL_PROCESSES
from turnkeep.tools.tool_file import load_tools
from turnkeep.tools.workspace import VISIBLE

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.S | re.M)


async def use(made: Tool, **arguments: Any) -> Result:
    return await call(made, ToolRequest("call_1", made.name, json.dumps(arguments)), ToolContext(), clock=SystemClock())


def test_a_tool_is_at_most_ten_lines_and_works_from_a_file(tmp_path: Path) -> None:
    first = blocks("how-to/write-a-tool.md", "python")[0]
    file = tmp_path / "my_tools.py"
    file.write_text(first)

    declared = load_tools(file, {})

    assert len(first.strip().splitlines()) <= 10
    assert [one.name for one in declared.tools] == ["opening_hours"]


async def test_every_python_snippet_runs_in_order() -> None:
    space: dict[str, Any] = {"__name__": "snippets"}
    for snippet in blocks("how-to/write-a-tool.md", "python"):
        exec(compile(ast.parse(snippet), "write-a-tool.md", "exec"), space)

    box: Toolbox = space["toolbox"]
    assert box.names == ("opening_hours", "custom_tool")
    assert (await use(space["opening_hours"], city="Makati")).output.startswith('{"city": "Makati"')
    assert (
        await use(space["find_offices"], city="Makati", people=3, kind=None)
    ).output == '["Makati: any office for 3"]'
    assert "for tenant default" in (await use(space["refund"], order="7", amount=3)).output
    assert (
        await use(space["floor_plan"], office="9")
    ).output == "error: there is no office '9'; use find_offices first"
    assert (await use(box.get("custom_tool"), input="x")).output == '{"result": "Got: x"}'  # type: ignore[arg-type]
    assert space["open_door"].client_side
    assert box.catches_all is not None
    caught = await call_catch_all(box.catches_all, [ToolRequest("c", "x", "{}")], ToolContext(), clock=SystemClock())
    assert caught == {"c": Result("not today")}


def test_every_toml_snippet_is_read(tmp_path: Path) -> None:
    environment = {"SALES_PASSWORD": "x", "ROOMS_TOKEN": "secret", "CALENDAR_TOKEN": "y"}
    tried = 0
    for snippet in blocks("how-to/declare-a-tool.md", "toml"):
        if "[[tools]]" in snippet and "postgresql" not in snippet:
            file = tmp_path / "tools.toml"
            file.write_text(snippet)
            load_tools(file, environment)
            tried += 1
        else:
            tomllib.loads(snippet)

    assert tried == 2


def test_the_query_snippet_is_read_with_a_database_that_is_at_hand(tmp_path: Path) -> None:
    snippet = next(one for one in blocks("how-to/declare-a-tool.md", "toml") if "postgresql" in one)
    file = tmp_path / "tools.toml"
    file.write_text(re.sub(r'^url = ".*"$', 'url = "sqlite:///sales.sqlite3"', snippet, flags=re.M))

    assert [one.name for one in load_tools(file, {}).tools] == ["orders_of"]


def test_the_reference_tells_the_verbs_names_and_limits() -> None:
    page = (DOCS / "reference/built-in-tools.md").read_text()

    assert set(GIT_VERBS) <= set(re.findall(r"`([\w-]+)`", page))
    assert set(re.findall(r"`(\.[\w]+)`", page)) >= VISIBLE
    assert f"{READ_CAP // 1024} kB" in page
    assert f"| processes | {MOST_TOOL_PROCESSES} |" in page
