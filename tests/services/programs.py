"""The programs that tests start: those that dev.py declares, found as they are on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

import dev

REQUIRED = os.environ.get("TURNKEEP_REQUIRE_SERVICES") == "1"
PROGRAMS = {program.commands[0]: program for program in dev.TEST_PROGRAMS}


def program(command: str) -> str:
    """Path of a program, by the first command of its declaration; without it the test is skipped with the remedy.

    Where everything is demanded the test fails instead.
    """
    declared = PROGRAMS[command]
    return next(filter(None, map(dev.located, declared.commands)), None) or absent(command)


def packages(folder: Path) -> None:
    """Have the npm packages of a folder installed beside it; skipped without Node or npm, as any program."""
    for command in ("node", "npm"):
        program(command)
    try:
        dev.node_packages(folder)
    except RuntimeError as error:
        missing(str(error))


def older_packages(folder: Path) -> Path:
    """Where the Python packages of a folder are that the tests' own would hide; skipped where they cannot be had."""
    try:
        return dev.python_packages(folder)
    except RuntimeError as error:
        missing(str(error))


def absent(command: str) -> NoReturn:
    package = PROGRAMS[command].package
    missing(f"{command} is not installed: apt-get install --no-install-recommends {package}")


def missing(sentence: str) -> NoReturn:
    if REQUIRED:
        pytest.fail(f"{sentence} (TURNKEEP_REQUIRE_SERVICES=1 forbids to skip)", pytrace=False)
    pytest.skip(sentence)
