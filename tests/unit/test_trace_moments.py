"""What `turnkeep trace` says of what a turn showed beside its text: one short line for each kind."""

from __future__ import annotations

from typing import get_args

import pytest

from turnkeep.cli.trace import _moment, _without_deltas
from turnkeep.events import CallDetail, Detail, Event, EventKind, FileDetail, ResultDetail, StepDetail
from turnkeep.messages import Citation

DETAILS: list[tuple[EventKind, Detail, str]] = [
    ("tool_call", CallDetail("c1", "look"), "look c1"),
    ("tool_result", ResultDetail("c1", "look", "denied"), "look c1, denied"),
    ("step", StepDetail(1, "calls"), "1, calls"),
    ("step", StepDetail(2), "2, made anew"),
    ("source", Citation(url="https://a.example"), "https://a.example"),
    ("source", Citation(file_id="file_1"), "file_1"),
    ("file", FileDetail("data:,x", "image/png"), "image/png"),
]


def lines(*events: Event) -> list[tuple[str, str]]:
    moments = [_moment(event) for event in _without_deltas(events)]
    return [(moment.what, moment.detail) for moment in moments]


@pytest.mark.parametrize(("kind", "detail", "said"), DETAILS)
def test_each_kind_has_a_line_of_its_own(kind: EventKind, detail: Detail, said: str) -> None:
    assert lines(Event(kind, detail=detail)) == [(kind.replace("_", " "), said)]


def test_every_kind_of_detail_is_known() -> None:
    assert {type(detail) for _, detail, _ in DETAILS} == set(get_args(Detail))


def test_words_of_a_thought_do_not_hide_the_life() -> None:
    assert lines(Event("reasoning", text="hm"), Event("responding")) == [("responding", "first token")]
