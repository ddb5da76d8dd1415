"""Workers of pytest are given every test once, what takes longest first, and both kinds of tests all the time."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.durations_of_tests import long_tests
from tests.services.scheduling import DURATIONS, TOGETHER, RingScheduling, without_group

SMALL = [f"tests/unit/test_a.py::test_{number}" for number in range(60)]
WAITING = [f"tests/process/test_b.py::test_{number}" for number in range(20)]
GROUP = [f"tests/contract/test_c.py::test_{number}@broker" for number in range(5)]
SLOW = {
    "tests/unit/test_a.py::test_7": 30.0,
    "tests/process/test_b.py::test_19": 20.0,
    GROUP[0].partition("@")[0]: 25.0,
}
ALL = [*SMALL, *WAITING, *GROUP]


@dataclass(eq=False)
class Worker:
    """What xdist knows of a worker."""

    name: str
    given: list[list[int]] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    shutting_down: bool = False

    @property
    def gateway(self) -> Any:
        return SimpleNamespace(id=self.name)

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given.append(indices)
        self.waiting += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def first(self) -> list[str]:
        return [ALL[index] for index in self.given[0]]


def begun(monkeypatch: pytest.MonkeyPatch, workers: int, durations: Mapping[str, float] = SLOW, cores: int = 2) -> Any:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    option = SimpleNamespace(loadscopereorder=True)
    config = SimpleNamespace(option=option, getvalue=lambda _: [f"{workers}*popen"])
    scheduling = RingScheduling(config, durations=durations)
    for number in range(workers):
        worker = Worker(f"gw{number}")
        scheduling.add_node(worker)
        scheduling.add_node_collection(worker, ALL)
    scheduling.schedule()
    return scheduling


def test_some_workers_begin_with_small_tests_and_the_others_with_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = begun(monkeypatch, 4).nodes
    quick = [test for test in SMALL if test not in SLOW]
    assert workers[0].first() == quick[:TOGETHER]
    assert workers[1].first() == quick[TOGETHER : 2 * TOGETHER]
    assert workers[2].first() == ["tests/unit/test_a.py::test_7"]
    assert workers[3].first() == GROUP


def test_of_many_processors_half_of_the_workers_begin_with_what_takes_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = begun(monkeypatch, 4, cores=64).nodes
    assert [len(worker.first()) for worker in workers] == [TOGETHER, TOGETHER, 1, len(GROUP)]


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/a.py::test_it@group", "tests/a.py::test_it"),
        ("tests/a.py::test_it[a@b]", "tests/a.py::test_it[a@b]"),
        ("tests/a.py::test_it[a@b]@group", "tests/a.py::test_it[a@b]"),
        ("tests/a.py::test_it", "tests/a.py::test_it"),
    ],
)
def test_a_group_is_no_part_of_a_name(nodeid: str, name: str) -> None:
    assert without_group(nodeid) == name


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("durations", [{}, SLOW], ids=["unknown", "known"])
def test_every_test_is_given_once_whoever_is_quick(
    monkeypatch: pytest.MonkeyPatch, workers: int, durations: Mapping[str, float]
) -> None:
    scheduling, dice = begun(monkeypatch, workers, durations), random.Random(workers)
    ran: Counter[str] = Counter()
    while busy := [worker for worker in scheduling.nodes if worker.waiting]:
        worker = dice.choice(busy)
        # a worker holds its last test back until it is told that there is no more
        index = worker.waiting.pop(0)
        ran[ALL[index]] += 1
        scheduling.mark_test_complete(worker, index)
    assert ran == Counter(ALL)
    assert scheduling.tests_finished
    assert not any(scheduling.assigned_work.values()), "what is done is forgotten"
    assert all(worker.shutting_down for worker in scheduling.nodes)


def test_a_test_may_be_told_of_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduling = begun(monkeypatch, 2)
    ran: Counter[str] = Counter()
    while busy := [worker for worker in scheduling.nodes if worker.waiting]:
        index = busy[0].waiting.pop(0)
        ran[ALL[index]] += 1
        for _ in range(3):
            scheduling.mark_test_complete(busy[0], index)
    assert ran == Counter(ALL)
    assert scheduling.tests_finished


def test_what_a_worker_leaves_that_has_died_is_given_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduling = begun(monkeypatch, 3)
    died, *others = scheduling.nodes
    crashed = scheduling.remove_node(died)
    assert crashed == died.first()[0]
    ran = set()
    while busy := [worker for worker in others if worker.waiting]:
        index = busy[0].waiting.pop(0)
        ran.add(ALL[index])
        scheduling.mark_test_complete(busy[0], index)
    assert ran == set(ALL)


def test_durations_are_read_from_the_log_of_a_run() -> None:
    log = """
12.50s call     tests/process/test_b.py::test_one[a b]
0.60s setup    tests/process/test_b.py::test_one[a b]
0.90s call     tests/unit/test_a.py::test_two
9.00s call     tests/contract/test_c.py::test_three@broker
"""
    assert long_tests(log) == {
        "tests/process/test_b.py::test_one[a b]": 13.1,
        "tests/contract/test_c.py::test_three": 9.0,
    }


def test_durations_are_of_tests_that_are_there() -> None:
    """A file that was renamed takes its place anew."""
    root = DURATIONS.parents[1]
    modules = {nodeid.partition("::")[0] for nodeid in json.loads(DURATIONS.read_text())}
    assert sorted(module for module in modules if not (root / module).exists()) == []
