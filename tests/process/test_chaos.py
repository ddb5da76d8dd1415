"""Storms over real processes: whatever is killed, frozen or cut, each message is answered once, nothing acts twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.services import CHECKOUT

STORMS = (
    ("redis", 1),
    pytest.param("sqlite", 2, marks=pytest.mark.only_in_prove),  # killed daily in test_kill and test_sqlite_processes
    pytest.param("redis", 3, marks=pytest.mark.only_in_prove),
)
PLANTED = (
    ("no_dedupe", "sqlite", 1),
    ("act_before_journal", "sqlite", 2),
    ("batch_asked_again", "redis", 1),
    ("what_fails_is_left_out", "sqlite", 1),
    ("what_fails_is_tried_before_all_others", "sqlite", 1),
    ("failed_write_taken_for_done", "sqlite", 1, "fail_disk"),
    ("unfit_server_gives_receipts", "redis", 1, "spoil_store"),
    ("replica_not_waited_for", "redis", 1, "promote_replica"),
    ("receivers_told_too_early", "redis", 1, "promote_replica"),
)
"""Bugs that a storm over real processes must notice: what is broken, on which store, the first seed to try, and what is
broken outside, if not everything.
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("store", "seed"), STORMS)
def test_a_storm_loses_nothing_and_doubles_nothing(
    store: str,
    seed: int,
    tmp_path: Path,
    size: Callable[[int, int], int],
    proof: Callable[[str, str], None],
    request: pytest.FixtureRequest,
) -> None:
    if store == "redis":
        request.getfixturevalue("redis_installed")
    people = ("--workers", "2", "--clients", "4") if size(1, 0) else ()

    code, lines = storm(tmp_path, "--seed", str(seed), "--seconds", str(size(3, 20)), "--store", store, *people)

    assert code == 0, "\n".join(lines[-40:])
    assert lines[0] == f"seed {seed}"
    proof(f"storm over processes, {store}, seed {seed}", lines[-1])


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.only_in_prove  # minutes of storms
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted[0])
def test_a_planted_bug_is_found_in_real_processes(
    planted: tuple[Any, ...], tmp_path: Path, proof: Callable[[str, str], None]
) -> None:
    name, store, seed, *acts = planted
    found: dict[int, int] = {}
    for tried in range(seed, seed + 4):
        harm = ("--acts", *acts) if acts else ()
        arguments = ("--seed", str(tried), "--seconds", "15", "--store", store, "--planted", name, "--json", *harm)
        code, lines = storm(tmp_path / str(tried), *arguments)
        assert code in (0, 1), lines[-5:]
        if code == 1:
            found[tried] = len(orjson.loads(lines[-1])["violations"])
            break

    assert found, f"{name} was not noticed"
    proof("planted in real processes", f"{name} on {store} | violations by seed {found}")


def test_a_storm_that_cannot_begin_says_why(tmp_path: Path) -> None:
    code, lines = storm(tmp_path, "--seconds", "1", "--store", "redis", redis=str(tmp_path / "none"))

    assert code == 2
    assert "there is no redis-server on this machine" in lines[-1]


def test_the_ledgers_of_two_storms_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "model.jsonl").touch()

    code, lines = storm(tmp_path, "--seconds", "1")

    assert code == 2
    assert "is not empty" in lines[-1]


def storm(folder: Path, *arguments: str, redis: str = "") -> tuple[int, list[str]]:
    """Run the command; its exit code and what it said."""
    command = [sys.executable, "-m", "tests.chaos", "--keep", str(folder), *arguments]
    chosen = redis or os.environ.get("TURNKEEP_TEST_REDIS", "")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TURNKEEP_TEST_REDIS": chosen}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=550, check=False
    )
    said = done.stderr if done.returncode == 2 else done.stdout
    return done.returncode, said.splitlines()
