"""The reference of the command line says what the commands say of themselves, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.rows import each_row
from turnkeep.cli import FLAGS, VERBS

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/cli.md").read_text()
SEED_COMMANDS = (ROOT / "docs/reference/seed-commands.md").read_text()
TESTS = (ROOT / "tests/process/test_seed_commands.py").read_text()


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its path."""
    for verb, entry in VERBS.items():
        yield from below(f"turnkeep {verb}", typer.main.get_command(import_module(entry.module).app))


def below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not (children := getattr(command, "commands", {})):
        yield path, command
    for name, child in children.items():
        yield from below(f"{path} {name}", child)


def section(path: str, command: Any) -> str:
    """What the reference has of a command. `--json` and `--tenant` are explained once, for all."""
    arguments = [p.metavar for p in command.params if p.param_type_name == "argument"]
    lines = [f"### `{' '.join([path, *arguments])}`", "", " ".join(command.help.split())]
    options = [
        p
        for p in command.params
        if p.param_type_name == "option" and p.name not in ("as_json", "tenant") and not p.hidden
    ]
    if options:
        lines += ["", "| option | meaning |", "|---|---|", *(row(option) for option in options)]
    return "\n".join(lines) + "\n"


def row(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar}"
    default = "" if option.default in (None, False, "", "0s") else f" Default: {option.default}."
    return f"| `{', '.join(option.opts)}{value}` | {option.help}{default} |"


@each_row(("path", "command"), [pytest.param(*one, id=one[0]) for one in commands()])
def test_a_command_has_its_section_in_the_reference(path: str, command: Any) -> None:
    assert section(path, command) in REFERENCE


def test_the_reference_has_no_other_command() -> None:
    headings = re.findall(r"^### `(turnkeep [^`A-Z\[]*[a-z])", REFERENCE, re.MULTILINE)
    assert sorted(headings) == sorted(path for path, _ in commands())


@each_row(("path", "command"), [pytest.param(*one, id=one[0]) for one in commands()])
def test_every_command_speaks_to_machines(path: str, command: Any) -> None:
    assert "--json" in [name for option in command.params for name in option.opts]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_in_both_references(flag: str) -> None:
    assert f"`{flag}" in REFERENCE
    assert f"`python main.py {flag}" in SEED_COMMANDS


def test_every_test_that_the_table_names_exists_and_every_one_is_named() -> None:
    named = set(re.findall(r"`(test_\w+)`", SEED_COMMANDS))
    assert named == set(re.findall(r"^def (test_\w+)", TESTS, re.MULTILINE))
