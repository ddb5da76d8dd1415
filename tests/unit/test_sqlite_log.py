"""The log in rows is kept within its bounds exactly as the rule for lists says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

import apsw
import hypothesis.strategies as st
from hypothesis import given

from turnkeep.events import Event, EventKind, TurnFault
from turnkeep.messages import Address
from turnkeep.store.log_bounds import trim_log
from turnkeep.store.sqlite import event_log
from turnkeep.store.sqlite.rows import ThreadRow
from turnkeep.store.thread import Thread
from turnkeep.store.values import Policy
from turnkeep.usage import Usage

KINDS: list[EventKind] = ["accepted", "delta", "delta", "delta", "processing", "completed", "dead", "started"]
NOW = 1_000.0


@contextmanager
def table(events: list[Event], live_from: int | None) -> Iterator[tuple[apsw.Connection, ThreadRow]]:
    """A log in memory, and its thread."""
    connection = apsw.Connection(":memory:")
    connection.execute(resources.files("turnkeep.store.sqlite").joinpath("schema.sql").read_text())
    thread = Thread(Address("t", "q", "c"), "thread_1", 0.0, 0.0, "epoch")
    thread.top, thread.live_from = len(events), live_from
    kept = ThreadRow(1, thread, "epoch")
    event_log.append(connection, kept, events)
    yield connection, kept
    connection.close()


def numbered(kinds: list[EventKind], ages: list[float]) -> list[Event]:
    """One event of each kind, oldest first."""
    at = sorted((NOW - age for age in ages[: len(kinds)]), reverse=False)
    return [
        Event(kind, text=f"<{n}>", run_id="run_1", attempt=1).at_position(n, "epoch", moment)
        for n, (kind, moment) in enumerate(zip(kinds, at, strict=True), start=1)
    ]


@given(
    kinds=st.lists(st.sampled_from(KINDS), max_size=40),
    ages=st.lists(st.sampled_from([0.0, 5.0, 10.0, 50.0]), min_size=40, max_size=40),
    live_from=st.none() | st.integers(1, 45),
    keep=st.integers(1, 12),
    age=st.sampled_from([4.0, 20.0, 100.0]),
)
def test_it_keeps_what_the_rule_keeps(
    kinds: list[EventKind], ages: list[float], live_from: int | None, keep: int, age: float
) -> None:
    events, policy = numbered(kinds, ages), Policy(log_events=keep, log_age=age)
    with table(events, live_from) as (connection, kept):
        for _ in range(2):  # what was trimmed once is not trimmed further
            event_log.trim(connection, kept, policy, NOW)

            page = event_log.page(connection, kept, 0, 1_000)

            left, floor = trim_log(events, live_from, policy, NOW)
            assert list(page.events) == left
            assert page.floor == floor


def test_an_event_comes_back_as_it_was_whatever_it_says() -> None:
    event = Event(
        "completed",
        ("m1", "m2"),
        text="\ud800 \x00 \N{SNOWMAN}",
        run_id="run_1",
        attempt=3,
        outcome="cancelled",
        tools=("a", "b"),
        calls=({"call_id": "c", "n": 1 << 70},),
        error=TurnFault("code", "message", "details"),
        usage=Usage(requests=1, cost_nano=1 << 80),
        author="somebody",
        policy="steer",
        thread_id="thread_1",
    ).at_position(1, "epoch", 2.5)

    with table([event], None) as (connection, kept):
        assert event_log.page(connection, kept, 0, 10).events == (event,)


def test_a_delta_comes_back_as_it_was_whatever_it_says() -> None:
    plain = Event("delta", text="a", run_id="run_1", attempt=1).at_position(1, "epoch", 2.5)
    odd = Event("delta", ("m1",), tools=("t",), outcome="applied").at_position(2, "epoch", 2.5)

    with table([plain, odd], None) as (connection, kept):
        assert event_log.page(connection, kept, 0, 10).events == (plain, odd)
