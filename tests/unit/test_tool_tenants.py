"""Tenants do not meet in tools: each has the folder and the tools that it was given, and nothing by default."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from turnkeep.clock import SystemClock
from turnkeep.errors import ConfigurationError
from turnkeep.tools import Tool, Toolbox, ToolContext, tool
from turnkeep.tools.execution import Result, ToolRequest, call
from turnkeep.tools.files import file_tools
from turnkeep.tools.git import git_tool
from turnkeep.tools.sandbox import sandbox
from turnkeep.tools.shell import bash_tool
from turnkeep.tools.workspaces import Workspaces, folder_name

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workspace tools are for Linux"),
    pytest.mark.usefixtures("bubblewrap"),
]


async def use(made: Tool, tenant: str, **arguments: Any) -> Result:
    context = ToolContext(tenant=tenant)
    return await call(made, ToolRequest("call_1", made.name, json.dumps(arguments)), context, clock=SystemClock())


def all_tools(tmp_path: Path, *, shared: bool = True) -> dict[str, Tool]:
    (tmp_path / "default").mkdir(exist_ok=True)
    (tmp_path / "tenants").mkdir(exist_ok=True)
    workspaces = Workspaces(tmp_path / "default", tmp_path / "tenants" if shared else None)
    inside = sandbox()
    assert inside is not None
    made = [*file_tools(workspaces), git_tool(workspaces, inside), bash_tool(workspaces, inside)]
    return {one.name: one for one in made}


TENANTS = ("default", "ta", "tb", "TA", "..", "ta/../tb", "default/", "x" * 300)


@pytest.mark.daily(rows=2)  # plain names, and names that lead elsewhere
@pytest.mark.parametrize("reader", TENANTS)
async def test_nobody_reads_what_another_tenant_wrote(reader: str, tmp_path: Path) -> None:
    tools = all_tools(tmp_path)
    for writer in TENANTS:
        written = await use(tools["write_file"], writer, path="secret.txt", content=f"of {writer}")
        assert written.status == "ok", written.output

    assert (await use(tools["read_file"], reader, path="secret.txt")).output == f"of {reader}"
    said = await use(tools["execute_bash"], reader, command="cat secret.txt; ls -a ..; cat ../*/secret.txt; true")
    assert f"of {reader}" in said.output
    assert not [other for other in TENANTS if other != reader and f"of {other}\n" in said.output + "\n"]
    assert "no repository" in (await use(tools["git_operation"], reader, operation="status")).output


async def test_a_repository_is_its_tenants(tmp_path: Path) -> None:
    tools = all_tools(tmp_path)
    await use(tools["git_operation"], "ta", operation="init")

    assert (await use(tools["git_operation"], "ta", operation="status")).status == "ok"
    assert "no repository" in (await use(tools["git_operation"], "default", operation="status")).output


@pytest.mark.parametrize("name", ["read_file", "write_file", "git_operation", "execute_bash"])
async def test_a_tenant_without_a_place_has_none(name: str, tmp_path: Path) -> None:
    tools = all_tools(tmp_path, shared=False)
    given = {"path": "a", "content": "x", "operation": "status", "command": "ls"}
    arguments = {key: value for key, value in given.items() if key in tools[name].parameters["properties"]}

    result = await use(tools[name], "ta", **arguments)

    assert (result.status, result.output) == ("denied", "error: this tenant has no workspace")


def test_every_tenant_has_a_folder_of_its_own() -> None:
    names = [
        "a",
        "A",
        "a.",
        ".",
        "..",
        "a/b",
        "a%2fb",
        "",
        "é",
        "e\u0301",
        "x" * 101,
        "x" * 102,
        "\ud800",
        "a b",
        "a\nb",
    ]

    folders = [folder_name(name) for name in names]

    assert len(set(folders)) == len(names)
    assert not [one for one in folders if "/" in one or one.startswith(".") or len(one) > 200]


async def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    tools = all_tools(tmp_path)
    (tmp_path / "tenants/ta").symlink_to(tmp_path / "default")

    assert (await use(tools["read_file"], "ta", path="x")).status == "denied"


@pytest.mark.parametrize(("one", "other"), [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_workspaces_do_not_lie_within_each_other(one: str, other: str, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)

    with pytest.raises(ConfigurationError, match="lie within each other"):
        Workspaces(tmp_path / one, tmp_path / other)


# ---------------------------------------------------------------- tools by tenant


@tool(effect="pure")
def first() -> str:
    """The first."""
    return "1"


@tool(effect="pure")
def second() -> str:
    """The second."""
    return "2"


@pytest.mark.parametrize(
    ("tenant", "names"),
    [("default", {"first", "second"}), ("shop", {"second"}), ("bank", set()), ("club", {"first", "second"})],
)
def test_a_tenant_has_the_tools_it_was_given(tenant: str, names: set[str]) -> None:
    box = Toolbox([first, second], tenants={"shop": ["second"], "club": ["*"]}).of(tenant)

    assert {spec.name for spec in box.specs()} == set(box.names) == names
    assert {name for name in ("first", "second") if box.get(name)} == names
    assert {spec.name for spec in box.specs(["first", "second"])} == names


def test_every_other_tenant_can_be_given_the_same() -> None:
    box = Toolbox([first, second], tenants={"shop": [], "*": ["first"]})

    assert box.of("shop").names == ()
    assert box.of("anybody").names == ("first",)


def test_what_is_registered_later_counts_for_a_tenant_too() -> None:
    box = Toolbox([first], tenants={"shop": ["second"]})
    of_shop = box.of("shop")
    before = of_shop.names

    box.register(second)

    assert (before, of_shop.names) == ((), ("second",))


def test_a_tool_of_one_tenant_is_nobody_elses() -> None:
    box = Toolbox([first])
    box.own("shop").register(second)

    assert box.of("shop").names == ("second",)
    assert box.of("bank").names == ()
    assert box.of("default").names == ("first",)


def test_the_catch_all_is_for_those_who_may_use_everything() -> None:
    async def handler(*_: Any) -> None:
        return None

    box = Toolbox(handle_requires_action=handler, tenants={"club": ["*"], "shop": ["first"]})

    assert [box.of(one).catches_all for one in ("default", "club", "shop", "bank")] == [handler, handler, None, None]
