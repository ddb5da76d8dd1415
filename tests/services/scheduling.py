"""Which tests a worker of pytest is given, and when."""

from __future__ import annotations

import json
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

from tests.services.rings import RINGS, WAITS

TOGETHER = 25
DURATIONS = Path(__file__).parents[1] / "durations.json"
"""Seconds of each test that takes more than one, on an idle machine: `scripts/durations_of_tests.py` writes it. Where
it is wrong, the whole takes longer.
"""
SHORT = 0.1


def without_group(nodeid: str) -> str:
    """xdist writes the group of a test behind its name: `…::test_it[row]@group`."""
    at = nodeid.rfind("@")
    return nodeid[:at] if at > nodeid.rfind("]") else nodeid


class RingScheduling(LoadGroupScheduling):  # type: ignore[misc]
    """As `--dist loadgroup`, but for five things, each of which kept processors idle or busy for nothing.

    * Small tests of a module are given many at once: one by one a worker has at most three before it, and waits.
    * What is done is forgotten, and the place of a test is looked up: there all that a worker ever ran are counted for
      every test that ends, and all tests are compared for each that is given.
    * What takes longest comes first, so that no worker is still at it when the others are done.
    * Some workers begin with the small tests, which compute, and the others with those that wait: for programs,
      servers and windows. One kind after the other there is too much to do first, and too little later.
    * Workers that wait need not have collected what computes (`only_waits`).
    """

    workqueue: OrderedDict[str, dict[str, bool]]
    assigned_work: dict[Any, dict[str, dict[str, bool]]]
    registered_collections: dict[Any, list[str]]

    def __init__(self, config: Any, log: Any = None, durations: Mapping[str, float] | None = None) -> None:
        super().__init__(config, log)
        self._durations = json.loads(DURATIONS.read_text()) if durations is None else durations
        self._scopes: dict[str, str] = {}
        self._seen: Counter[str] = Counter()
        self._batches: set[str] = set()
        self._places: dict[Any, dict[str, int]] = {}

    def _split_scope(self, nodeid: str) -> str:
        scope = str(super()._split_scope(nodeid))
        if scope != nodeid or not nodeid.startswith(RINGS) or nodeid in self._durations:  # it is of a group, or alone
            return scope
        if nodeid not in self._scopes:
            module = nodeid.partition("::")[0]
            batch = f"{module} {self._seen[module] // TOGETHER}"
            self._scopes[nodeid] = batch
            self._batches.add(batch)
            self._seen[module] += 1
        return self._scopes[nodeid]

    def _check_nodes_have_same_collection(self) -> bool:
        """Who has collected all is to come first: the first collection counts as that of all, and the last workers are
        those that are let go where there is little to do.
        """
        whole = {node: tests for node, tests in self.registered_collections.items() if WAITS not in node.workerinput}
        parts = {node: tests for node, tests in self.registered_collections.items() if node not in whole}
        first, everything = next(iter(whole.items()))
        waiting = [nodeid for nodeid in everything if not nodeid.startswith(RINGS)]
        are_same = True
        for self.registered_collections in (whole, {first: waiting, **parts}):
            are_same = super()._check_nodes_have_same_collection() and are_same
        self.registered_collections = {**whole, **parts}
        self.assigned_work = {node: self.assigned_work[node] for node in self.registered_collections}
        return are_same

    def _assign_work_unit(self, node: Any) -> None:
        if not self._places:
            self.workqueue = OrderedDict(sorted(self.workqueue.items(), key=self._seconds_of, reverse=True))
        if node not in self._places:
            self._places[node] = {nodeid: place for place, nodeid in enumerate(self.registered_collections[node])}
        places = self._places[node]
        most = max(1, min(os.cpu_count() or 1, len(self.assigned_work) // 2))
        computes = list(self.assigned_work).index(node) < most
        own = (scope for scope in self.workqueue if (scope in self._batches) == computes)
        scope = next(
            (scope for scope in chain(own, self.workqueue) if self.workqueue[scope].keys() <= places.keys()), None
        )
        if scope is None:
            node.shutdown()  # what is left computes
            return
        unit = self.assigned_work[node][scope] = self.workqueue.pop(scope)
        node.send_runtest_some([places[nodeid] for nodeid, is_done in unit.items() if not is_done])

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        assigned = self.assigned_work[node]
        if self._split_scope(self.registered_collections[node][item_index]) not in assigned:
            return  # told once more of what is forgotten: pytest runs a test again, or it has subtests
        super().mark_test_complete(node, item_index, duration)
        for scope in [scope for scope, unit in assigned.items() if all(unit.values())]:
            del assigned[scope]

    def _seconds_of(self, unit: tuple[str, Mapping[str, bool]]) -> float:
        return sum(self._durations.get(without_group(nodeid), SHORT) for nodeid in unit[1])
