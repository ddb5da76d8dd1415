"""The map says the truth: the files of a message's path exist and run, and the path is no longer than it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import CHECKOUT
from turnkeep.cli import VERBS

pytestmark = pytest.mark.xdist_group("map")  # they share a trace

MAP = (CHECKOUT / "ARCHITECTURE.md").read_text()
PATH = MAP.split("# The path of a message")[1].split("And what else")[0]
PROMISES_ONLY = {"store/contract.py", "runs/answer_contract.py"}
"""Protocols: to be read, and nothing in them runs."""
SLACK = 0.85
"""The path may be shorter than the map says by so much before somebody has to write the new figure down."""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Executed lines by file, of one message on SQLite; 0 where no others run than without it."""
    folder = tmp_path_factory.mktemp("map")
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.message_trace", f"sqlite:{folder / 'turnkeep.db'}"],
        cwd=CHECKOUT, env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines: dict[str, int] = json.loads(done.stdout)
    return lines


def test_every_file_of_the_path_runs(executed: dict[str, int]) -> None:
    named = re.findall(r"`([a-z_/]+\.py)`", PATH)
    assert len(named) >= 20
    assert [file for file in named if file not in executed and file not in PROMISES_ONLY] == []


def test_the_path_is_as_long_as_the_map_says(executed: dict[str, int]) -> None:
    stated = re.search(r"runs through (\d+) files and (\d+) executed lines", PATH)
    assert stated is not None
    files, lines = map(int, stated.groups())
    outside = {file: count for file, count in executed.items() if count and not file.startswith("store/")}
    assert SLACK * files <= len(outside) <= files
    assert SLACK * lines <= sum(outside.values()) <= lines


def test_every_place_on_the_map_exists() -> None:
    roots = (CHECKOUT / "src" / "turnkeep", CHECKOUT / "src", CHECKOUT)
    names = re.findall(r"`([a-z_/]+/[a-z_]+\.(?:py|toml|md))`", MAP)
    assert [name for name in names if not any(Path(root, name).exists() for root in roots)] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "docs/glossary.md"])
def test_every_verb_that_is_named_can_be_typed(page: str) -> None:
    named = re.findall(r"`turnkeep ([a-z]+)", (CHECKOUT / page).read_text())
    assert named != []
    assert [verb for verb in named if verb not in VERBS] == []


def test_the_map_is_read_in_one_look() -> None:
    assert len(MAP.splitlines()) <= 120
