"""Which tests a worker of pytest is given, and when."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

RINGS = ("tests/unit/", "tests/runs/", "tests/contract/")
"""Of thousands of tests that take some milliseconds each, of a processor: they compute."""
TOGETHER = 25


class RingScheduling(LoadGroupScheduling):  # type: ignore[misc]
    """As `--dist loadgroup`, but of these rings so many tests of a module are given at once, and beside them from the
    beginning the others are, which wait: for programs, servers and windows.

    One by one the scheduler is what takes time: a worker has at most three tests before it, and to find the next one
    all that it ever ran are counted again, for every test that ends. And one kind after the other, the processors have
    too much to do first, and stand still later.
    """

    def __init__(self, config: Any, log: Any = None) -> None:
        super().__init__(config, log)
        self._scopes: dict[str, str] = {}
        self._seen: Counter[str] = Counter()

    def _split_scope(self, nodeid: str) -> str:
        scope = str(super()._split_scope(nodeid))
        if scope != nodeid or not nodeid.startswith(RINGS):
            return scope
        if nodeid not in self._scopes:
            module = nodeid.partition("::")[0]
            self._scopes[nodeid] = f"{module} {self._seen[module] // TOGETHER}"
            self._seen[module] += 1
        return self._scopes[nodeid]

    def _assign_work_unit(self, node: Any) -> None:
        """A worker goes on with its own kind of tests as long as there are some: those that are left at the end are
        small.
        """
        computes = list(self.assigned_work).index(node) < (os.cpu_count() or 1)
        scope = next(self._of_kind(computes), None) or next(iter(self.workqueue))
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _of_kind(self, computes: bool) -> Iterator[str]:
        return (scope for scope in self.workqueue if scope.startswith(RINGS) == computes)
