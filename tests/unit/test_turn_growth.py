"""A turn only grows, whatever its log repeats, rolls up or takes back, and whenever somebody joins."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.rows import each_row
from turnkeep.events import CallDetail, Event, ResultDetail, StepDetail
from turnkeep.messages import Citation
from turnkeep.store.log_bounds import trim_log
from turnkeep.store.values import Policy
from turnkeep.turn_growth import TurnGrowth

Shown = list[tuple[str, Any]]


def started(attempt: int = 1, *ids: str, run: str = "r") -> Event:
    return Event("started", ids or ("m",), run_id=run, attempt=attempt)


def text(words: str) -> Event:
    return Event("delta", text=words, run_id="r", attempt=1)


def thought(words: str, place: int = 0) -> Event:
    return Event("reasoning", text=words, place=place)


def call(call_id: str, place: int = 0, *, by_provider: bool = False) -> Event:
    return Event("tool_call", detail=CallDetail(call_id, "look", by_provider=by_provider), place=place)


def result(call_id: str, place: int = 0) -> Event:
    return Event("tool_result", detail=ResultDetail(call_id, "look"), place=place)


def step(number: int, place: int = 0, ending: str | None = "calls") -> Event:
    return Event("step", detail=StepDetail(number, ending), place=place)


def source(place: int) -> Event:
    return Event("source", detail=Citation(url="u"), place=place)


def name(event: Event) -> tuple[str, Any]:
    match event.detail:
        case CallDetail(call_id) | ResultDetail(call_id):
            return event.kind, call_id
        case StepDetail(number, ending):
            return ("step", number) if ending else ("retake", number)
    return event.kind, event.text


def joined(events: Sequence[Event]) -> Shown:
    """Names and texts, neighbouring texts as one."""
    shown: Shown = []
    for kind, what in map(name, events):
        if shown and kind == shown[-1][0] in ("delta", "reasoning"):
            shown[-1] = (kind, shown[-1][1] + what)
        else:
            shown.append((kind, what))
    return shown


def live(events: Sequence[Event]) -> Shown:
    """Told event by event."""
    growth, new = TurnGrowth(), list[Event]()
    for event in events:
        growth.fold(event)
        new += growth.advance()
    return joined(new)


def late(events: Sequence[Event], through: int) -> Shown:
    """Told to somebody who joins behind so many events."""
    growth, new = TurnGrowth(), list[Event]()
    for number, event in enumerate(events, 1):
        growth.fold(event)
        if number >= through:
            new += growth.advance()
    return joined(new)


TURN = [
    started(), thought("hm"), text("Let me"), text(" see."), call("c1", 11), call("c2", 11), step(1, 11),
    result("c2", 11), result("c1", 11), thought("so", 11), text("\n\n"), text("Five"), source(17),
    Event("step", detail=StepDetail(2, "stop"), place=17),
]  # fmt: skip
SHOWN: Shown = [
    ("reasoning", "hm"), ("delta", "Let me see."), ("tool_call", "c1"), ("tool_call", "c2"), ("step", 1),
    ("tool_result", "c2"), ("tool_result", "c1"), ("reasoning", "so"), ("delta", "\n\nFive"),
    ("source", ""), ("step", 2),
]  # fmt: skip


def test_what_happens_is_told_as_it_happens() -> None:
    assert live(TURN) == SHOWN


@pytest.mark.parametrize("through", range(1, len(TURN) + 1))
def test_whoever_joins_late_is_told_the_same_in_the_same_order(through: int) -> None:
    assert late(TURN, through) == SHOWN


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_text_that_was_rolled_into_a_snapshot_comes_at_its_places(kept: int) -> None:
    offsets = [event.at_position(n, "", 0.0) for n, event in enumerate(TURN, 1)]
    rolled, _ = trim_log(offsets, 1, Policy(log_events=kept), 0.0)
    assert len(rolled) <= len(TURN) - (3 - kept if kept < 3 else 0)
    assert late(rolled, len(rolled)) == SHOWN


AGAIN = [
    started(2), Event("snapshot", text="Let me see."), thought("hm"), call("c1", 11), call("c2", 11), step(1, 11),
    result("c2", 11),
]  # fmt: skip
"""How a second attempt begins when the first one died before the output of c1 was known."""


def test_a_further_attempt_tells_nothing_twice_and_goes_on() -> None:
    events = [*TURN[:8], *AGAIN, result("c1", 11), text("\n\n"), text("Six")]
    assert live(events) == [*SHOWN[:6], ("tool_result", "c1"), ("delta", "\n\nSix")]


def test_what_an_unfinished_step_has_shown_is_taken_back_by_the_next_attempt_alone() -> None:
    events = [*TURN[:12], *AGAIN, result("c1", 11), text("\n\n"), text("Six")]
    assert live(events) == [*SHOWN[:8], ("delta", "\n\nFive"), ("retake", 2), ("delta", "\n\nSix")]


def test_a_step_whose_end_was_not_told_is_told_again_whole() -> None:
    events = [started(), thought("hm"), text("Let me see."), call("c1", 11), *AGAIN]
    assert live(events) == [
        ("reasoning", "hm"), ("delta", "Let me see."), ("tool_call", "c1"), ("retake", 1),
        ("delta", "Let me see."), ("reasoning", "hm"), ("tool_call", "c1"), ("tool_call", "c2"), ("step", 1),
        ("tool_result", "c2"),
    ]  # fmt: skip


@pytest.mark.parametrize("shown", [[thought("wrong")], [call("ws", by_provider=True), result("ws")], [text("wrong")]])
def test_a_call_of_the_model_that_is_repeated_takes_back_what_it_has_shown(shown: list[Event]) -> None:
    undo = [Event("snapshot", text=""), step(1, ending=None)] if shown[0].kind == "delta" else [step(1, ending=None)]
    told = live([started(), *shown, *undo, *shown, text("right")])
    kinds = [kind for kind, _ in told]
    first = [event.kind for event in shown]
    assert kinds == [*first, "retake", *(first if first == ["delta"] else [*first, "delta"])]
    assert told[-1][1].endswith("right")


def test_a_repetition_that_had_shown_nothing_takes_nothing_back() -> None:
    assert live([started(), step(1, ending=None), text("yes")]) == [("delta", "yes")]


def test_another_run_begins_from_nothing() -> None:
    growth = TurnGrowth()
    for event in (started(), text("one"), Event("completed", ("m",), text="one", run_id="r"), started(1, "n", run="s")):
        growth.fold(event)
    assert (growth.run_id, growth.covers, growth.text) == ("s", ("n",), "")
    assert growth.advance() == []


def test_messages_that_steer_are_covered_too() -> None:
    growth = TurnGrowth()
    growth.fold(started())
    growth.fold(Event("steered", ("n",), outcome="applied"))
    growth.fold(Event("steered", ("o",), outcome="deferred"))
    assert growth.covers == ("m", "n")


def test_the_final_text_completes_what_was_told() -> None:
    end = Event("completed", ("m",), text="one two", run_id="r")
    assert live([started(), text("one"), end]) == [("delta", "one two")]


@each_row("seed", range(20))
def test_a_log_in_any_pieces_and_rolled_at_any_time_tells_the_same(seed: int) -> None:
    chance = random.Random(seed)
    events = [event.at_position(n, "", 0.0) for n, event in enumerate(TURN, 1)]
    growth, new, read, place = TurnGrowth(), list[Event](), 0, 0
    while place < len(events):
        place = min(len(events), place + chance.randint(1, 4))
        page, _ = trim_log(events[:place], 1, Policy(log_events=chance.randint(0, 4)), 0.0)
        for event in page:
            if event.offset > read:
                growth.fold(event)
        read = place
        new += growth.advance()
    assert joined(new) == SHOWN
