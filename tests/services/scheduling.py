"""Which tests a worker of pytest is given at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

RINGS = ("tests/unit/", "tests/runs/", "tests/contract/")
"""Of thousands of tests that take some milliseconds each."""
TOGETHER = 25


class RingScheduling(LoadGroupScheduling):  # type: ignore[misc]
    """As `--dist loadgroup`, but of these rings so many tests of a module are given at once.

    One by one the scheduler is what takes time: a worker has at most three tests before it, and to find the next one
    all that it ever ran are counted again, for every test that ends.
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
