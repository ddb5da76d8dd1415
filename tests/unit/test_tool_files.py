"""Reading and writing files of a workspace: sizes, encodings, and replacing in one step."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from turnkeep.clock import SystemClock
from turnkeep.tools import Tool, ToolContext
from turnkeep.tools.execution import Result, ToolRequest, call
from turnkeep.tools.files import READ_CAP, file_tools
from turnkeep.tools.workspace import openat2_works
from turnkeep.tools.workspaces import Workspaces

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not openat2_works(), reason="needs openat2 (Linux)"
)


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, Tool]:
    return {one.name: one for one in file_tools(Workspaces(tmp_path))}


async def use(made: Tool, **arguments: Any) -> Result:
    return await call(made, ToolRequest("call_1", made.name, json.dumps(arguments)), ToolContext(), clock=SystemClock())


async def test_what_is_written_is_read(tools: dict[str, Tool], tmp_path: Path) -> None:
    written = await use(tools["write_file"], path="notes/today/list.md", content="milk\nBrötchen")
    read = await use(tools["read_file"], path="notes/today/list.md")

    assert written.output == "created notes/today/list.md, 14 bytes"
    assert read == Result("milk\nBrötchen")
    assert (tmp_path / "notes/today/list.md").read_text() == "milk\nBrötchen"


@pytest.mark.parametrize(
    ("encoding", "content", "data"),
    [
        ("utf-8", "é", b"\xc3\xa9"),
        ("latin-1", "é", b"\xe9"),
        ("utf-16", "é", "é".encode("utf-16")),
        ("ascii", "e", b"e"),
        ("base64", "AAEC/w==", b"\x00\x01\x02\xff"),
    ],
)
async def test_encodings_go_both_ways(
    encoding: str, content: str, data: bytes, tools: dict[str, Tool], tmp_path: Path
) -> None:
    await use(tools["write_file"], path="file", content=content, encoding=encoding)

    assert (tmp_path / "file").read_bytes() == data
    assert (await use(tools["read_file"], path="file", encoding=encoding)).output == content


async def test_what_has_another_encoding_is_told(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe\x00")

    assert "no utf-8 text" in (await use(tools["read_file"], path="file")).output
    assert (
        "cannot be written as ascii"
        in (await use(tools["write_file"], path="other", content="é", encoding="ascii")).output
    )
    assert (
        "cannot be written as base64"
        in (await use(tools["write_file"], path="other", content="!", encoding="base64")).output
    )
    assert not (tmp_path / "other").exists()


async def test_a_file_is_read_up_to_the_limit_and_not_beyond(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "just").write_bytes(b"x" * READ_CAP)
    (tmp_path / "more").write_bytes(b"x" * (READ_CAP + 1))

    assert len((await use(tools["read_file"], path="just")).output) == READ_CAP
    assert f"has {READ_CAP + 1} bytes" in (await use(tools["read_file"], path="more")).output


async def test_a_file_is_replaced_in_one_step(tools: dict[str, Tool], tmp_path: Path) -> None:
    file = tmp_path / "run.sh"
    file.write_text("old")
    file.chmod(0o750)
    with file.open() as held:
        result = await use(tools["write_file"], path="run.sh", content="new")

        assert result.output == "replaced run.sh, 3 bytes"
        assert held.read() == "old", "who has the old file open keeps it"
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o750


async def test_a_hard_link_elsewhere_keeps_its_content(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    os.link(tmp_path / "one", tmp_path / "other")

    await use(tools["write_file"], path="one", content="new")

    assert (tmp_path / "other").read_text() == "old"


async def test_a_failed_write_leaves_nothing_behind(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    result = await use(tools["write_file"], path="folder", content="x")

    assert result.status == "error"
    assert [*os.listdir(tmp_path), *os.listdir(tmp_path / "folder")] == ["folder"]


async def test_missing_files_are_told_without_the_place_of_the_workspace(
    tools: dict[str, Tool], tmp_path: Path
) -> None:
    result = await use(tools["read_file"], path="no/such/file")

    assert result.output == "error: 'no': no such file or directory"
    assert str(tmp_path) not in result.output


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "1 to 1024 printable characters"),
        ("x" * 1_025, "1 to 1024 printable characters"),
        ("a\nb", "1 to 1024 printable characters"),
        ("/etc/hostname", "is not relative"),
        ("~/list", "is not relative"),
        ("notes/", "does not name a file"),
        ("./.", "does not name a file"),
        ("/".join("x" * 65), "does not name a file"),
        ("a/../b", "leads upwards"),
        ("link", "links are not followed"),
        ("up/list", "symbolic links are not followed"),
        ("pipe", "is no regular file"),
    ],
)
@pytest.mark.parametrize("name", ["read_file", "write_file"])
async def test_a_path_that_names_no_file_of_the_workspace_is_refused(
    tools: dict[str, Tool], tmp_path: Path, name: str, path: str, words: str
) -> None:
    (tmp_path / "target").write_text("secret")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "up").symlink_to(tmp_path.parent)
    os.mkfifo(tmp_path / "pipe")

    result = await use(tools[name], path=path, **({"content": "x"} if name == "write_file" else {}))

    assert result.status == "error"
    assert words in result.output
    assert (tmp_path / "target").read_text() == "secret"


async def test_a_few_hidden_names_are_open(tools: dict[str, Tool]) -> None:
    for name in (".gitignore", ".editorconfig", "sub/.gitattributes"):
        assert (await use(tools["write_file"], path=name, content="x")).status == "ok"
    for name in (".env", ".git/config", "sub/.ssh/id", ".gitignore/../.env", "..."):
        assert (await use(tools["write_file"], path=name, content="x")).status == "error"


async def test_descriptors_are_given_back(tools: dict[str, Tool]) -> None:
    await use(tools["write_file"], path="a/b", content="x")
    before = len(os.listdir("/proc/self/fd"))

    for path in ("a/b", "a", "a/b/c", "none", "a/none", "../x"):
        await use(tools["read_file"], path=path)
        await use(tools["write_file"], path=path, content="x")

    assert len(os.listdir("/proc/self/fd")) == before


def test_the_tools_tell_their_effect(tools: dict[str, Tool]) -> None:
    assert {name: one.effect for name, one in tools.items()} == {"read_file": "pure", "write_file": "idempotent"}
    assert all(one.strict for one in tools.values())
