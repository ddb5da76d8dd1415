"""`check` takes a figure of coverage only if it is high enough, and of a tree such as this one."""

from __future__ import annotations

import pytest

from scripts import coverage_figure

SEEN = {"percent": 95.0, "lines": 1_000}


@pytest.mark.parametrize(
    ("figure", "lines", "complaint"),
    [
        (SEEN, 1_000, ""),
        (SEEN, 1_030, ""),
        (SEEN, 970, ""),
        (SEEN | {"percent": 94.99}, 1_000, "coverage over all is 94.99 %"),
        (SEEN, 1_031, "coverage was seen at 1000 lines, src has 1031"),
        (SEEN, 969, "coverage was seen at 1000 lines, src has 969"),
    ],
)
def test_a_figure_that_is_low_or_of_another_tree_is_refused(
    figure: dict[str, float], lines: int, complaint: str
) -> None:
    said = coverage_figure.complaint_about(figure, lines)
    assert said.startswith(complaint)
    assert bool(said) is bool(complaint)


def test_what_was_measured_is_written_down_with_the_size_of_the_tree() -> None:
    totals = {"num_statements": 90, "missing_lines": 4, "num_branches": 10, "missing_branches": 1}
    seen = coverage_figure.figure_of({**totals, "percent_covered": 95.0049, "excluded_lines": 3}, 500)
    assert seen == {"percent": 95.0, "lines": 500, **totals}
    assert coverage_figure.source_lines() > 10_000
