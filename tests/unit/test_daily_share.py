"""What a day leaves to `prove` is a share: every test has a row of it, and engines take their turns."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.contract import test_leaping_clocks, test_store, test_store_sealed, test_store_sqlite
from tests.contract.store_suite import StoreSuite
from tests.daily_share import MARK, DailyShare, share_of_engines

NAMES = sorted({name for kind in StoreSuite.__mro__ for name in vars(kind) if name.startswith("test_")})


def share_of(suite: type) -> DailyShare:
    [mark] = [mark for mark in suite.pytestmark if mark.name == MARK]  # type: ignore[attr-defined]
    return DailyShare(mark.args, **mark.kwargs)


def rows(count: int) -> list[list[str]]:
    return [[str(number)] for number in range(count)]


@pytest.mark.parametrize("share", [2, 3, 4, 5])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 20])
def test_of_every_test_a_share_of_the_rows_is_taken_and_one_at_least(count: int, turn: int, share: int) -> None:
    taken = DailyShare(rows=share, turn=turn).takes_rows(rows(count))
    assert 1 <= sum(taken) <= -(-count // share)


def test_engines_take_one_anothers_turns() -> None:
    """As a table of rows and engines has them."""
    table = [[str(number), engine] for number in range(12) for engine in "abc"]
    taken = [row for row, is_taken in zip(table, DailyShare(rows=3).takes_rows(table), strict=True) if is_taken]
    assert [number for number, _ in taken] == [str(number) for number in range(12)]
    assert sorted(engine for _, engine in taken) == sorted("abc" * 4)


@pytest.mark.parametrize("engines", [("sqlite", "redis"), ("redis", "sqlite"), ("memory", "sqlite", "redis")])
def test_above_the_contract_each_durable_engine_is_asked_half_of_the_tests(engines: tuple[str, ...]) -> None:
    asked: Counter[str] = Counter()
    for number in range(400):
        table = [[engine] for engine in engines]
        share = share_of_engines(f"tests/scenario/test_a.py::test_{number}", table)
        assert share is not None
        taken = [row[0] for row, is_taken in zip(table, share.takes_rows(table), strict=True) if is_taken]
        assert len([engine for engine in taken if engine != "memory"]) == 1, "memory is left to prove there"
        asked.update(taken)
    assert abs(asked["sqlite"] - asked["redis"]) < 80


def test_of_a_test_that_one_engine_is_asked_nothing_is_left_out() -> None:
    assert share_of_engines("test_it", [["sqlite", "1"], ["sqlite", "2"], ["memory", "1"]]) is None


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 13, 40])
def test_every_row_of_the_contract_or_its_neighbour_meets_a_durable_engine_in_a_day(count: int) -> None:
    shares = [share_of(test_store_sqlite.TestSqlite), share_of(test_store.TestRedis)]
    on_sqlite, on_redis = (share.takes_rows(rows(count)) for share in shares)
    taken = [one or other for one, other in zip(on_sqlite, on_redis, strict=True)]
    assert all(any(pair) for pair in pairwise(taken))


@pytest.mark.parametrize("count", [1, 2])
def test_of_two_rows_of_the_contract_each_meets_a_durable_engine_in_a_day(count: int) -> None:
    shares = [share_of(test_store_sqlite.TestSqlite), share_of(test_store.TestRedis)]
    assert all(map(any, zip(*(share.takes_rows(rows(count)) for share in shares), strict=True)))


def test_a_sealed_store_keeps_every_promise_about_content_on_a_durable_engine_in_a_day() -> None:
    shares = [share_of(test_store_sealed.TestSqlite), share_of(test_store_sealed.TestRedis)]
    content = [name for name in NAMES if any(name in vars(promises) for promises in test_store_sealed.CONTENT)]
    assert content
    assert [name for name in content if sum(share.takes_test(name) for share in shares) != 1] == []


def test_no_two_engines_under_a_leaping_clock_try_the_same() -> None:
    suites = (test_leaping_clocks.TestMemory, test_leaping_clocks.TestSqlite, test_leaping_clocks.TestRedis)
    taken = [{name for name in NAMES if share_of(suite).takes_test(name)} for suite in suites]
    assert all(taken)
    assert len(set.union(*taken)) == sum(map(len, taken))
