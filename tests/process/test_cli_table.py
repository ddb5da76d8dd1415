"""The table of verbs and flags: quick to load, complete, and understood as it is typed."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer

from tests.rows import each_row
from turnkeep.cli import FLAGS, VERBS, choose_verb, main, overview

HEAVY = ("typer", "rich", "pydantic", "uvicorn", "starlette", "aiohttp", "openai", "apsw", "genai_prices", "tiktoken")


def loaded_by(code: str, folder: Path) -> set[str]:
    """Which heavy packages a program has imported in the end."""
    program = f"import sys\n{code}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=280, check=True
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("argument", ["--help", "--version", "sned"])
def test_the_overview_imports_nothing_heavy(tmp_path: Path, argument: str) -> None:
    assert not loaded_by(f"from turnkeep.cli import main; main([{argument!r}])", tmp_path) & set(HEAVY)


def test_a_verb_of_the_store_imports_no_server(tmp_path: Path) -> None:
    loaded = loaded_by("from turnkeep.cli import main; main(['threads', 'list'])", tmp_path)
    assert not loaded & {"uvicorn", "starlette", "openai", "genai_prices", "tiktoken"}


@each_row("verb", VERBS)
def test_every_verb_of_the_table_is_there(verb: str) -> None:
    app = import_module(VERBS[verb].module).app
    assert isinstance(app, typer.Typer)
    assert verb in overview()


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_in_the_overview(flag: str) -> None:
    assert flag in overview()


@pytest.mark.parametrize(
    ("typed", "verb", "rest"),
    [
        ([], "serve", []),
        (["--port", "9000"], "serve", ["--port", "9000"]),
        (["threads", "list"], "threads", ["list"]),
        (["help", "send"], "send", ["--help"]),
        (["--test-message", "c1", "Hi"], "send", ["--as-test", "--", "c1", "Hi"]),
        (["--test-message", "c1", "-- no", "--json"], "send", ["--as-test", "--json", "--", "c1", "-- no"]),
        (["--generate-uuid"], "threads", ["new"]),
        (["--generate-thread"], "threads", ["new", "--by-id"]),
        (["--show-thread-stats", "--json"], "threads", ["stats", "--json"]),
        (["--clear-all-threads", "--yes"], "threads", ["clear", "--yes"]),
        (["--yes", "--clear-all-threads"], "threads", ["clear", "--yes"]),
        (["--clear-old-threads", "30"], "threads", ["clear", "--older-than=30d"]),
        (["--clear-old-threads=30", "--yes"], "threads", ["clear", "--older-than=30d", "--yes"]),
        (["--create-assistant"], "assistants", ["create"]),
        (["--delete-assistant", "asst_1"], "assistants", ["delete", "--", "asst_1"]),
    ],
)  # fmt: skip
def test_what_is_typed_is_understood(typed: list[str], verb: str, rest: list[str]) -> None:
    assert choose_verb(typed) == (verb, rest)


def test_a_mistyped_verb_is_told_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sned", "c1", "Hi"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "turnkeep: there is no command 'sned', did you mean 'send'? `turnkeep --help` lists them all\n"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("turnkeep 0.")
