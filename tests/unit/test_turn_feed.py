"""What the dialects of front ends are told: the turn of one's own messages, from wherever one comes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from turnkeep.doors.http.turn_feed import TurnFeed
from turnkeep.events import Answer, CallDetail, Event, ResultDetail, StepDetail
from turnkeep.messages import Address
from turnkeep.subscription import SubscriptionStart

HERE = Address("t", "q", "c")


def call(call_id: str) -> dict[str, Any]:
    return {"call_id": call_id, "name": "pay", "arguments": "{}", "digest": "d", "kind": "approval"}


def started(*ids: str, run: str = "r", attempt: int = 1) -> Event:
    return Event("started", ids, run_id=run, attempt=attempt)


def text(words: str) -> Event:
    return Event("delta", text=words)


HOLD = [
    started("u1"), text("Well."), Event("tool_call", detail=CallDetail("c1", "pay"), place=5),
    Event("step", detail=StepDetail(1, "calls"), place=5),
    Event("held", ("u1",), run_id="r", calls=(call("c1"), call("c2"))),
]  # fmt: skip


def news(feed: TurnFeed, past: Sequence[Event], *later: Event) -> list[str]:
    """Kinds of what is told to somebody who comes in behind `past`."""
    events = [event.at_position(n, "e", 0.0) for n, event in enumerate((*past, *later), 1)]
    feed.on_subscription(HERE, SubscriptionStart("e", 0, len(past), False, Answer()))
    told: list[Event] = []
    for event in events:
        feed.deliver(HERE, [event])
        told += feed.news()
    return [event.kind for event in told]


def test_a_run_is_told_to_those_whose_messages_it_covers() -> None:
    turn = [started("u1", "u2"), text("hi"), Event("completed", ("u1", "u2"), text="hi", run_id="r")]
    assert news(TurnFeed(("u2",)), [], *turn) == ["started", "delta", "completed"]
    assert news(TurnFeed(None), [], *turn) == ["started", "delta", "completed"]
    assert news(TurnFeed(("u3",)), [], *turn) == []


def test_whoever_waits_for_the_next_run_is_told_nothing_of_the_one_before() -> None:
    first = [started("u1"), text("one"), Event("completed", ("u1",), text="one", run_id="r")]
    second = [started("u2", run="s"), text("two"), Event("completed", ("u2",), text="two", run_id="s")]
    assert news(TurnFeed(("u2",)), first[:2], first[2], *second) == ["started", "delta", "completed"]


def test_a_message_that_steers_a_run_is_told_all_of_it() -> None:
    events = [started("u1"), text("one"), Event("steered", ("u2",), outcome="applied"), text("two")]
    assert news(TurnFeed(("u2",)), events[:2], *events[2:]) == ["started", "delta", "delta"]


def test_what_was_withdrawn_ends_the_waiting_for_it() -> None:
    assert news(TurnFeed(("u1",)), [], Event("withdrawn", ("u1",)), Event("withdrawn", ("u2",))) == ["withdrawn"]


PASTS: dict[str, tuple[list[Event], list[str]]] = {
    "both wait": ([], ["held"]),
    "one was decided": ([Event("decided", calls=(call("c1"),))], ["held"]),
    "both were decided": ([Event("decided", calls=(call("c1"),)), Event("decided", calls=(call("c2"),))], []),
    "it goes on": ([Event("decided", calls=(call("c1"),)), started("u1", attempt=2)], []),
    "it waits": ([Event("waiting", ("u1",), run_id="r")], ["waiting"]),
}


@pytest.mark.parametrize(("since", "last"), PASTS.values(), ids=PASTS)
def test_a_hold_of_the_past_is_told_while_somebody_has_to_decide(since: list[Event], last: list[str]) -> None:
    told = news(TurnFeed(("u1",)), [*HOLD, *since])
    assert [kind for kind in told if kind in ("held", "waiting")] == last


def test_whoever_has_decided_is_told_of_the_next_hold_alone() -> None:
    result = Event("tool_result", detail=ResultDetail("c1", "pay"), place=5)
    again = [started("u1", attempt=2), Event("snapshot", text="Well."), *HOLD[2:4], result]
    told = news(TurnFeed(None, after_calls=("c1",)), HOLD, *again, Event("held", ("u1",), calls=(call("c3"),)))
    assert told.count("held") == 1
    assert told[-1] == "held"
    assert told.count("tool_call") == 1


def test_a_batch_that_was_split_tells_the_run_of_the_message_and_takes_back_the_other() -> None:
    events = [started("u1", "u2"), text("half"), Event("retrying", ("u1", "u2"), run_id="r"), started("u1", run="s")]
    told = news(TurnFeed(("u2",)), [], *events, started("u2", run="t"), text("two"))
    assert told == ["started", "delta", "retrying", "step", "delta"]
