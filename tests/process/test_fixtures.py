"""What tests lean on besides servers: sizes, proofs, and that nothing required is skipped in silence."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.patience import LAST_WORDS, TEST_ENDS, until, within

ROOT = Path(__file__).parents[2]
PLAIN = {"PYTHONPATH": str(ROOT), "HOME": os.environ.get("HOME", "/")}
EXAMPLE = """
import pytest
def test_counts(size, proof):
    proof("counting", f"{size(3, 3000)} sheep")
@pytest.mark.daily(rows=3)
@pytest.mark.parametrize("engine", "abc")
@pytest.mark.parametrize(("row", "twice"), [(0, 0), (1, 2), (2, 4), (3, 6)])
def test_row(engine, row, twice):
    print(f"tried {engine}{row}")
def on_each():
    @pytest.mark.parametrize("store", ["sqlite", "redis"])
    def ask(store): print(f"asked {store}")
    return ask
def on_one():
    @pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.only_in_prove)])
    def ask(store): print(f"asked {store} alone")
    return ask
for number in range(8):
    globals()[f"test_each_{number}"], globals()[f"test_one_{number}"] = on_each(), on_one()
"""


def run_tests(directory: Path, source: str, *arguments: str, **environment: str) -> str:
    """Run one test file with our fixtures in a process of its own, or what is named of it; what pytest says."""
    (directory / "test_example.py").write_text(source)
    (directory / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rs", "-s"]
    command += ["-p", "no:schemathesis", *arguments]
    command += [] if any("::" in argument for argument in arguments) else [str(directory)]
    done = subprocess.run(
        command, cwd=directory, env=PLAIN | environment, capture_output=True, text=True, timeout=280, check=False
    )
    return done.stdout


def test_the_everyday_run_is_small_and_tells_its_figures_at_the_end(tmp_path: Path) -> None:
    said = run_tests(tmp_path, EXAMPLE)
    assert said.count("PROVE counting: 3 sheep") == 1
    assert sorted(re.findall(r"tried (\w+)", said)) == ["a0", "a3", "b2", "c1"]  # each row on one of three engines
    asked = re.findall(r"asked (\w+)( alone)?", said)
    assert asked.count(("sqlite", " alone")) == 8, "what is said of a row counts"
    both = Counter(store for store, alone in asked if not alone)
    assert both.total() == 8
    assert set(both) == {"sqlite", "redis"}, "each engine has some of the tests"
    assert "figures at reduced size" in said


def test_a_row_is_of_today_or_not_whatever_else_is_collected(tmp_path: Path) -> None:
    rows = [f"test_example.py::test_row[{row}]" for row in ("3-6-a", "2-4-b", "1-2-c", "1-2-a")]
    said = run_tests(tmp_path, EXAMPLE, *rows)
    assert re.findall(r"tried (\w+)", said) == ["a3", "b2", "c1"]


def test_a_proof_is_full_size_and_tells_its_figures_at_once_and_at_the_end(tmp_path: Path) -> None:
    said = run_tests(tmp_path, EXAMPLE, TURNKEEP_PROVE="1")
    assert said.count("PROVE counting: 3000 sheep") == 2
    assert len(set(re.findall(r"tried (\w+)", said))) == 12
    assert "figures at full size" in said


BY_EACH_FIXTURE = """
def test_shares_one(rabbit_server): ...
def test_starts_its_own(rabbit_installed): ...
"""


@pytest.mark.only_in_prove  # of the tools of tests: the next one shows daily that it is missed
def test_a_missing_broker_is_skipped_with_the_remedy(tmp_path: Path) -> None:
    said = run_tests(tmp_path, BY_EACH_FIXTURE, PATH="/nowhere")
    assert "2 skipped" in said
    assert "apt-get install" in said


def test_a_missing_broker_is_a_failure_where_servers_are_required(tmp_path: Path) -> None:
    said = run_tests(tmp_path, BY_EACH_FIXTURE, PATH="/nowhere", TURNKEEP_REQUIRE_SERVICES="1")
    assert "2 errors" in said
    assert "skipped" not in said


def test_settings_of_the_shell_do_not_reach_the_tests(tmp_path: Path) -> None:
    source = "import os\ndef test_clean(): assert not {'OPENAI_API_KEY', 'REDIS_URL'} & set(os.environ)"
    assert "1 passed" in run_tests(tmp_path, source, OPENAI_API_KEY="secret", REDIS_URL="redis://elsewhere")


def test_what_waits_in_vain_ends_at_its_own_line(tmp_path: Path) -> None:
    source = """
import asyncio, pytest
@pytest.mark.timeout(1)
async def test_waits():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        group.create_task(listens(), name="the other one")
        await asyncio.Event().wait()  # nobody sets it
async def listens():
    await hears()
async def hears():
    await asyncio.get_running_loop().create_future()
"""
    said = run_tests(tmp_path, source, "-p", "no:timeout")  # which of the two comes first is for the machine to say
    assert "1 failed" in said
    assert "await asyncio.Event().wait()  # nobody sets it" in said
    assert "after 1 s this test still waits" in said
    assert re.search(r"the other one: .*test_example.py:\d+ hears", said)


async def test_waits_of_a_test_share_its_deadline_and_each_says_what_it_waited_for() -> None:
    loop = asyncio.get_running_loop()
    assert loop.time() < TEST_ENDS.get() < loop.time() + 300  # what pytest gives a test
    before = TEST_ENDS.set(loop.time() + LAST_WORDS + 0.05)
    with pytest.raises(TimeoutError, match=r"still False: .*len\(\[\]\) == 2"):
        await until(lambda: len([]) == 2)
    with pytest.raises(TimeoutError, match=r"still False: .*len\(\[\]\) == 3"):
        await until(lambda: len([]) == 3)
    with pytest.raises(TimeoutError):
        async with within(60.0):
            await asyncio.Event().wait()
    TEST_ENDS.reset(before)


@pytest.mark.only_in_prove  # of the tools of tests: it starts three more of pytest
def test_tests_of_the_heavy_broker_share_one_worker(tmp_path: Path) -> None:
    source = """
import os, pathlib, pytest
@pytest.mark.rabbit
@pytest.mark.parametrize("number", range(8))
def test_worker(number):
    with pathlib.Path("workers").open("a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)
"""
    said = run_tests(tmp_path, source, "-n", "2", "--dist", "loadgroup")
    assert "8 passed" in said
    assert len(set((tmp_path / "workers").read_text().split())) == 1


@pytest.mark.parametrize("row", ["x" * 1_000_000, "x" * 1_000_001, b"\xff" * 200, "\n\0\u00e9" * 50, "short"])
def test_a_row_is_named_by_the_beginning_of_a_long_text(row: str | bytes, request: pytest.FixtureRequest) -> None:
    assert len(request.node.name) < 500
    assert request.node.name.isascii()
    assert request.node.name.isprintable()
    assert f"{len(row)} long]" in request.node.name or row == "short"


async def test_a_wait_in_vain_says_what_it_waited_for_and_what_there_was_last() -> None:
    there = [1, 2]

    async def has_three() -> list[int] | None:
        return there if len(there) == 3 else None

    with pytest.raises(TimeoutError, match=r"still False: .*len\(there\) == 3"):
        await until(lambda: len(there) == 3, patience=0.05)
    with pytest.raises(TimeoutError, match=r"still None: .*def has_three"):
        await until(has_three, patience=0.05)
    asyncio.get_running_loop().call_soon(there.append, 3)
    await until(has_three)


async def test_a_wait_ends_by_its_time_or_by_what_its_question_raises() -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    async def refuses() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="still None"):
        await until(hangs, patience=0.05)
    with pytest.raises(TimeoutError, match="its own"):
        await until(refuses)
