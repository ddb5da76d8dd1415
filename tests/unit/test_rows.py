"""A table that is one test tries each of its rows."""

from __future__ import annotations

import inspect

import pytest

from tests.rows import each_row


def test_every_row_is_tried_and_each_failure_told_with_its_row() -> None:
    tried = []

    @each_row("number, word", [(1, "one"), (2, "two"), pytest.param(3, "three"), (4, "four")])
    def fails_on_the_even(number: int, word: str) -> None:
        tried.append(word)
        if number == 4:
            pytest.fail("in its own way")
        assert number % 2

    with pytest.raises(BaseExceptionGroup, match="2 of 4 rows fail") as caught:
        fails_on_the_even()
    assert tried == ["one", "two", "three", "four"]
    assert [failure.__notes__ for failure in caught.value.exceptions] == [["row: 2, 'two'"], ["row: 4, 'four'"]]


def test_tables_are_crossed_and_fixtures_asked_for() -> None:
    seen = []

    @each_row("one", [1, 2])
    @each_row("other", "ab", ids=["first", "second"])
    def looks(one: int, other: str, request: object) -> None:
        seen.append((one, other, request))

    assert list(inspect.signature(looks).parameters) == ["request"]
    looks(request="given")
    assert seen == [(1, "a", "given"), (1, "b", "given"), (2, "a", "given"), (2, "b", "given")]


def test_a_row_that_is_left_out_fails_and_hides_no_other() -> None:
    @each_row("number", [1, 2, 3])
    def skips(number: int) -> None:
        assert number != 1
        pytest.skip("nothing for it")

    with pytest.raises(BaseExceptionGroup, match="3 of 3 rows fail"):
        skips()


def test_marks_and_coroutines_are_refused() -> None:
    with pytest.raises(AssertionError, match="takes no mark"):
        each_row("number", [pytest.param(1, marks=pytest.mark.slow)])

    async def waits(number: int) -> None: ...

    with pytest.raises(AssertionError, match="only compute"):
        each_row("number", [1])(waits)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [[], [1, 2]])
def test_a_table_without_rows_or_names_is_a_mistake(rows: list[int]) -> None:
    with pytest.raises(AssertionError, match="a table has"):
        each_row("number", rows, ids=["one"])
