"""Two revisions are compared by what both measured in the same rounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import comparison
import pytest
import run

STEPS = """
import json, sys
for number in range(100):
    for step, figures in (("first", {"us": FIRST * (number + 1)}), OTHER, (None, {})):
        print(json.dumps({"step": step, "figures": figures}), flush=True)
        if not sys.stdin.readline():
            sys.exit()
"""


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A program that reads its figures from the tree it is run on: the other tree, and this one."""
    (tmp_path / "program.py").write_text("from figures import FIRST, OTHER\n" + STEPS)
    trees = tmp_path / "other", tmp_path / "ours"
    for tree, figures in zip(trees, ("4; OTHER = 'gone', {'us': 1}", "2; OTHER = 'new', {'us': 1}"), strict=True):
        (tree / "src").mkdir(parents=True)
        (tree / "src" / "figures.py").write_text(f"FIRST = {figures}\n")
    monkeypatch.setattr(comparison, "HERE", tmp_path)
    monkeypatch.setattr(comparison, "ROOT", trees[1])
    return trees


def test_each_round_gives_one_ratio_and_what_only_one_of_them_can_do_is_left_out(trees: tuple[Path, Path]) -> None:
    (ratio,) = comparison.ratios_of("program", trees[0], rounds=3)

    assert (ratio.step, ratio.unit, ratio.ratio, ratio.low, ratio.high) == ("first", "us", 0.5, 0.5, 0.5)
    assert (ratio.before, ratio.now) == (12, 6)  # the first round warmed up


def test_a_program_that_breaks_down_ends_the_comparison(trees: tuple[Path, Path]) -> None:
    (trees[1] / "src" / "figures.py").write_text("raise ValueError('broken')\n")

    with pytest.raises(SystemExit, match="ended with code 1"):
        comparison.ratios_of("program", trees[0], rounds=1)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], list(comparison.COMPARABLE)),
        (["store"], ["store_redis", "store_sqlite"]),
        (["readers", "store_redis"], ["readers", "store_redis"]),
    ],
)
def test_benchmarks_are_chosen_by_name_or_by_what_they_begin_with(names: Sequence[str], found: Sequence[str]) -> None:
    assert comparison.chosen(names) == found


@pytest.mark.slow  # a program that imports every benchmark
def test_what_cannot_be_compared_is_refused_by_name() -> None:
    command = [sys.executable, run.__file__, "windows", "--against", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "there is no benchmark windows; choose from readers, store_redis, store_sqlite" in done.stderr
