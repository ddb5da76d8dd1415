"""Version control of a workspace, in the sandbox of this machine."""

import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from turnkeep.clock import SystemClock
from turnkeep.errors import ToolFailed
from turnkeep.tools import Tool, ToolContext
from turnkeep.tools.execution import Result, ToolRequest, call
from turnkeep.tools.git import GIT_VERBS, command_words, git_tool
from turnkeep.tools.sandbox import Sandbox, sandbox
from turnkeep.tools.workspaces import Workspaces

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("git"), reason="needs Linux and git"),
    pytest.mark.usefixtures("bubblewrap"),
]


@functools.cache
def here() -> Sandbox:
    found = sandbox()
    assert found is not None
    return found


def made(root: Path) -> Tool:
    return git_tool(Workspaces(root), here(), name="Ada", email="ada@example.com")


@pytest.fixture
def git(tmp_path: Path) -> Tool:
    return made(tmp_path)


async def use(one: Tool, operation: str, *arguments: str, **more: Any) -> str:
    result = await used(one, operation, *arguments, **more)
    assert result.status == "ok", result.output
    return result.output


async def used(one: Tool, operation: str, *arguments: str, **more: Any) -> Result:
    text = json.dumps({"operation": operation, "arguments": list(arguments), **more})
    return await call(one, ToolRequest("call_1", one.name, text), ToolContext(), clock=SystemClock())


@pytest.mark.slow  # dozens of programs
async def test_a_history_can_be_written_and_read(git: Tool, tmp_path: Path) -> None:
    await use(git, "init")
    (tmp_path / "a.txt").write_text("one\n")
    await use(git, "add", paths=["."])
    await use(git, "commit", message="first: 'quotes' and -dashes\n\nand a body")
    (tmp_path / "a.txt").write_text("two\n")

    assert " M a.txt" in await use(git, "status", "--short")
    assert "-one\n+two" in await use(git, "diff", paths=["a.txt"])
    await use(git, "commit", "-a", message="second")
    log = await use(git, "log", "-n2", "--oneline")
    assert "second" in log
    assert "first: 'quotes' and -dashes" in log
    assert "one" in await use(git, "show", "HEAD~1:a.txt")
    assert "Ada <ada@example.com>" in await use(git, "log", "-n1")
    assert "two" in await use(git, "blame", paths=["a.txt"])


@pytest.mark.slow  # dozens of programs
async def test_branches_tags_and_restoring(git: Tool, tmp_path: Path) -> None:
    await use(git, "init")
    (tmp_path / "a.txt").write_text("one\n")
    await use(git, "add", "--all")
    await use(git, "commit", message="first")
    await use(git, "switch", "-c", "feature/x")
    await use(git, "tag", "v1", message="the first")
    (tmp_path / "a.txt").write_text("two\n")
    await use(git, "restore", paths=["a.txt"])
    await use(git, "mv", paths=["a.txt", "b.txt"])

    assert (tmp_path / "b.txt").read_text() == "one\n"
    assert "feature/x" in await use(git, "branch", "--show-current")
    assert "v1" in await use(git, "tag", "--list")
    assert "the first" in await use(git, "show", "v1")
    assert "b.txt" in await use(git, "ls-files")
    await use(git, "rm", "--cached", paths=["b.txt"])
    assert len((await use(git, "rev-parse", "HEAD")).strip()) == 40


async def test_a_failure_of_git_is_an_output_with_its_exit_code(git: Tool) -> None:
    await use(git, "init")

    assert (await use(git, "log")).startswith("exit code 128\nfatal:")


async def test_without_a_repository_only_init_works(git: Tool) -> None:
    result = await used(git, "status")

    assert result.output == "error: there is no repository in the workspace; use init first"


async def test_a_repository_above_the_workspace_is_not_used(tmp_path: Path) -> None:
    await use(made(tmp_path), "init")
    (tmp_path / "below").mkdir()

    assert "no repository" in (await used(made(tmp_path / "below"), "status")).output


async def test_who_commits_is_the_repositorys_word_if_it_says(git: Tool, tmp_path: Path) -> None:
    await use(git, "init")
    config = tmp_path / ".git/config"
    config.write_text(config.read_text() + "[user]\n\tname = Grace\n\temail = grace@example.com\n")

    await use(git, "commit", "--allow-empty", message="first")

    assert "Grace <grace@example.com>" in await use(git, "log")


@pytest.mark.parametrize(
    ("operation", "arguments", "paths", "message", "words"),
    [
        ("status", ["--exec=x"], [], None, "status does not take '--exec=x'"),
        ("status", ["-c"], [], None, "status does not take '-c'"),
        ("init", ["--template=x"], [], None, "init does not take"),
        ("log", ["a b"], [], None, "is no revision"),
        ("log", ["HEAD\n--output=x"], [], None, "is no revision"),
        ("log", ["-n1\n"], [], None, "log does not take"),
        ("commit", [], [], None, "commit needs a message"),
        ("commit", [], ["a"], "m", "commit takes no paths"),
        ("status", [], [], "m", "status takes no message"),
        ("commit", [], [], "a\0b", "takes no message"),
        ("add", [], ["../a"], None, "no path beneath"),
        ("add", [], ["a/../../b"], None, "no path beneath"),
        ("add", [], ["/a"], None, "no path beneath"),
        ("add", [], ["-A"], None, "no path beneath"),
        ("add", [], [""], None, "no path beneath"),
        ("add", [], ["sub/.GIT/hooks/x"], None, "own directory"),
    ],
)
def test_what_is_not_on_the_lists_is_refused(
    operation: str, arguments: list[str], paths: list[str], message: str | None, words: str
) -> None:
    with pytest.raises(ToolFailed, match=words):
        command_words(operation, arguments, paths, message=message)


@pytest.mark.parametrize("verb", GIT_VERBS)
def test_paths_always_follow_the_two_dashes(verb: str) -> None:
    message = "m" if verb == "commit" else None
    try:
        words = command_words(verb, ["main"], ["a.txt"], message=message)
    except ToolFailed:
        words = command_words(verb, ["main"], [], message=message)
        assert "a.txt" not in words
    else:
        assert words[-2:] == ["--", "a.txt"]


def test_no_verb_reaches_the_network() -> None:
    assert not {"push", "pull", "fetch", "clone", "remote", "submodule", "ls-remote", "archive"} & set(GIT_VERBS)
