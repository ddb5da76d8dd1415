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
from tests.services.rings import RINGS, WAITS, only_waits
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
    tests: list[str] = field(default_factory=lambda: ALL)
    workerinput: dict[str, object] = field(default_factory=dict)
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
        return [self.tests[index] for index in self.given[0]]


def begun(
    monkeypatch: pytest.MonkeyPatch, workers: int, durations: Mapping[str, float] = SLOW, cores: int = 2,
    parts: int = 0, part: list[str] = WAITING,
) -> Any:  # fmt: skip
    """With so many `workers`, of which the last collect only a part, and are the first to have collected it."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    option = SimpleNamespace(loadscopereorder=True)
    told: list[pytest.CollectReport] = []

    def pytest_collectreport(report: pytest.CollectReport) -> None:
        told.append(report)

    hook = SimpleNamespace(told=told, pytest_collectreport=pytest_collectreport)
    config = SimpleNamespace(option=option, getvalue=lambda _: [f"{workers}*popen"], hook=hook)
    scheduling = RingScheduling(config, durations=durations)
    for number in reversed(range(workers)):
        is_part = number >= workers - parts
        worker = Worker(f"gw{number}", part, {WAITS: True}) if is_part else Worker(f"gw{number}")
        scheduling.add_node(worker)
        scheduling.add_node_collection(worker, worker.tests)
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


@pytest.mark.parametrize(("workers", "parts"), [(1, 0), (2, 0), (3, 0), (8, 0), (2, 1), (8, 4), (40, 39)])
@pytest.mark.parametrize("durations", [{}, SLOW], ids=["unknown", "known"])
def test_every_test_is_given_once_whoever_is_quick(
    monkeypatch: pytest.MonkeyPatch, workers: int, parts: int, durations: Mapping[str, float]
) -> None:
    scheduling, dice = begun(monkeypatch, workers, durations, parts=parts), random.Random(workers)
    ran: Counter[str] = Counter()
    while busy := [worker for worker in scheduling.nodes if worker.waiting]:
        worker = dice.choice(busy)
        # a worker holds its last test back until it is told that there is no more
        index = worker.waiting.pop(0)
        ran[worker.tests[index]] += 1
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


def test_what_is_left_by_who_computed_and_died_waits_for_another_who_may(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduling = begun(monkeypatch, 2, parts=1)
    died, part = scheduling.nodes
    assert WAITS in part.workerinput
    scheduling.remove_node(died)
    while part.waiting:
        scheduling.mark_test_complete(part, part.waiting.pop(0))
    assert scheduling.has_pending
    scheduling.add_node(other := Worker("gw2"))
    scheduling.add_node_collection(other, ALL)
    scheduling.schedule()
    ran = set()
    while other.waiting:
        ran.add(ALL[index := other.waiting.pop(0)])
        scheduling.mark_test_complete(other, index)
    assert ran == {*ALL} - {WAITING[index] for unit in part.given for index in unit}


def test_a_part_that_is_not_that_of_the_whole_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduling = begun(monkeypatch, 4, parts=2, part=WAITING[1:])
    told = [str(report.longrepr) for report in scheduling.config.hook.told]
    assert len(told) == 2
    assert all(WAITING[0] in text for text in told)
    assert not any(worker.given for worker in scheduling.nodes)


def test_some_of_the_workers_collect_all_and_who_takes_the_place_of_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert [only_waits(number, 10) for number in range(12)] == [False] * 3 + [True] * 7 + [False] * 2
    assert not any(only_waits(number, 3) for number in range(3))


def test_the_rings_are_folders() -> None:
    assert all((DURATIONS.parents[1] / ring).is_dir() for ring in RINGS)


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
