"""Tables of many rows that take no time, each of which would cost more as a test of its own than it takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet

Test = Callable[..., None]
FAILURES = (Exception, pytest.fail.Exception, pytest.skip.Exception, pytest.xfail.Exception)
"""A row that would be left out hides nothing of the others: it fails."""


def each_row(
    names: str | Sequence[str], rows: Iterable[Any], *, ids: Callable[[Any], object] | Iterable[object] | None = None
) -> Callable[[Test], Test]:
    """As `pytest.mark.parametrize`, in one test: for tables of dozens of rows and tests that only compute. Every row is
    tried, whatever became of those before it, and all that fail are told, each with its name. What else the test asks
    for (a fixture) its rows share.
    """
    told = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    rows = list(rows)
    assert not any(isinstance(row, ParameterSet) and row.marks for row in rows), "a row of a table takes no mark"
    table = [row.values if isinstance(row, ParameterSet) else row if len(told) > 1 else (row,) for row in rows]
    if ids is None or callable(ids):
        labels = [", ".join(str(ids(value)) if ids else f"{value!r:.80}" for value in row) for row in table]
    else:
        labels = [str(name) for name in ids]
    assert table, "a table has rows"
    assert len(table) == len(labels), "a table has as many names as rows"

    def decorate(test: Test) -> Test:
        assert not inspect.iscoroutinefunction(test), "a table is of tests that only compute"

        @functools.wraps(test)
        def try_all(**shared: Any) -> None:
            failures = []
            for row, label in zip(table, labels, strict=True):
                try:
                    test(**shared, **dict(zip(told, row, strict=True)))
                except FAILURES as failure:
                    failure.add_note(f"row: {label}")
                    failures.append(failure)
            if failures:
                raise BaseExceptionGroup(f"{len(failures)} of {len(table)} rows fail", failures)

        signature = inspect.signature(test)
        shared = [parameter for name, parameter in signature.parameters.items() if name not in told]
        try_all.__signature__ = signature.replace(parameters=shared)  # type: ignore[attr-defined]
        return try_all

    return decorate
