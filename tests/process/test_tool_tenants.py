"""A service with tools and several tenants starts when somebody has said who may use what, and keeps them apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.process.command import Desk
from tests.process.served import served
from turnkeep.messages import OutputItem
from turnkeep.tools.files import file_tools
from turnkeep.tools.workspaces import Workspaces

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workspace tools are for Linux")

UNSAID = "nothing says which of them other tenants may use"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "tenants").mkdir()
    return Desk(tmp_path, {"TURNKEEP_WORKSPACE": str(tmp_path / "workspace")})


@pytest.mark.daily(rows=2)  # both ask the same settings
@pytest.mark.parametrize("role", ["serve", "worker"])
def test_tools_and_keys_of_several_tenants_need_a_word(role: str, desk: Desk) -> None:
    desk.run("keys", "create", "--tenant", "shop")

    said = desk.execute(role, *(["--port", "0"] if role == "serve" else []))

    assert said.code == 2
    assert UNSAID in said.err
    assert "tenant shop" in said.err


@pytest.mark.parametrize(
    "said",
    [
        {"TURNKEEP_TENANT_TOOLS": "{}"},
        {"TURNKEEP_TENANT_TOOLS": '{"shop": []}'},
        {"TURNKEEP_TENANT_TOOLS": '{"shop": ["read_file"]}', "TURNKEEP_TENANT_WORKSPACES": "TENANTS"},
    ],
)
def test_with_a_word_it_starts(said: dict[str, str], desk: Desk) -> None:
    desk.run("keys", "create", "--tenant", "shop", "--scopes", "admin")

    tenants = str(desk.folder / "tenants")
    desk.settings.update({name: value.replace("TENANTS", tenants) for name, value in said.items()})

    with desk.running("serve"):
        pass


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"TURNKEEP_TENANT_TOOLS": '{"shop": ["read_file"]}'}, "set TURNKEEP_TENANT_WORKSPACES"),
        ({"TURNKEEP_TENANT_TOOLS": '{"*": ["*"]}'}, "set TURNKEEP_TENANT_WORKSPACES"),
        ({"TURNKEEP_TENANT_TOOLS": '{"shop": ["no_tool"]}'}, "which no setting turns on"),
        ({"TURNKEEP_TENANT_TOOLS": '{"default": ["read_file"]}'}, "has every tool"),
        ({"TURNKEEP_TENANT_TOOLS": "[]"}, "TURNKEEP_TENANT_TOOLS"),
        ({"TURNKEEP_TENANT_WORKSPACES": "WORKSPACE"}, "lie within each other"),
        ({"TURNKEEP_TENANT_WORKSPACES": "WORKSPACE/.."}, "lie within each other"),
    ],
)
def test_what_would_let_tenants_meet_is_refused(said: dict[str, str], words: str, desk: Desk) -> None:
    workspace = str(desk.folder / "workspace")

    done = desk.run("serve", **{name: value.replace("WORKSPACE", workspace) for name, value in said.items()})

    assert done.code == 2
    assert words in done.err


def test_a_file_of_tools_is_one_tenants(desk: Desk) -> None:
    (desk.folder / "shop.py").write_text(
        "from turnkeep.tools import tool\n@tool(effect='pure')\ndef prices() -> str:\n    'Prices.'\n    return '1'\n"
    )

    done = desk.run("doctor", "--offline", "--json", TURNKEEP_TENANT_TOOL_FILES='{"shop": "shop.py"}')

    assert "prices (shop alone)" in {check["name"]: check["sentence"] for check in done.json["checks"]}["tools"]


async def test_a_model_reaches_the_files_of_its_own_tenant_alone(tmp_path: Path) -> None:
    for name in ("default", "tenants"):
        (tmp_path / name).mkdir()
    tools = file_tools(Workspaces(tmp_path / "default", tmp_path / "tenants"))
    call = "[[call:write_file {}]]".format(json.dumps({"path": "secret.txt", "content": "A-SECRET"}))
    allowed = {"ta": ["write_file"], "tb": ["read_file"]}
    async with served(tools=tools, tenant_tools=allowed) as server:
        queue = server.queue
        await queue.ask("c1", call, tenant="ta")
        await queue.ask("c1", "[[call:read_file {}]]".format(json.dumps({"path": "secret.txt"})), tenant="tb")
        await queue.ask("c1", "[[call:read_file {}]]".format(json.dumps({"path": "secret.txt"})), tenant="ta")
        await queue.ask("c1", call, tenant="nobody")
        outputs = {
            tenant: [
                entry.item
                for entry in (await queue.store.history(queue.address("c1", tenant))).entries
                if isinstance(entry.item, OutputItem)
            ]
            for tenant in ("ta", "tb", "nobody")
        }

    assert "created secret.txt" in outputs["ta"][0].output
    assert "no such file" in outputs["tb"][0].output
    assert "there is no tool named" in outputs["ta"][1].output
    assert all("there is no tool named" in one.output for one in outputs["nobody"])
    assert sorted(path.name for path in (tmp_path / "tenants").iterdir()) == ["ta", "tb"]
    assert list((tmp_path / "default").iterdir()) == []
