"""The programs that tests start: those that dev.py declares, found as they are on this machine."""

from __future__ import annotations

import os
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


def absent(command: str) -> NoReturn:
    package = PROGRAMS[command].package
    sentence = f"{command} is not installed: apt-get install --no-install-recommends {package}"
    if REQUIRED:
        pytest.fail(f"{sentence} (TURNKEEP_REQUIRE_SERVICES=1 forbids to skip)", pytrace=False)
    pytest.skip(sentence)
