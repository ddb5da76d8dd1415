"""How much of a log is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from turnkeep.events import Answer, Event, EventKind
from turnkeep.store.log_bounds import trim_log
from turnkeep.store.values import Policy

NOW = 10_000.0


def log_of(*kinds: EventKind, at: float = NOW) -> list[Event]:
    return [Event(kind, text=f"<{n}>").at_position(n, "e", at) for n, kind in enumerate(kinds, 1)]


def text_of(events: list[Event]) -> str:
    answer = Answer()
    for event in events:
        answer.take(event)
    return answer.text


def test_what_fits_is_kept() -> None:
    log = log_of("accepted", "started", "delta", "completed")

    assert trim_log(log, None, Policy(log_events=4), NOW) == (log, 0)
    assert trim_log([], None, Policy(log_events=0), NOW) == ([], 0)


def test_the_oldest_go_first_but_final_ones_stay() -> None:
    log = log_of("accepted", "started", "delta", "completed", "accepted", "started", "delta", "dead", "accepted")

    kept, floor = trim_log(log, None, Policy(log_events=3), NOW)

    assert [event.offset for event in kept] == [4, 7, 8, 9]
    assert floor == 6


def test_of_final_ones_only_the_last_are_kept() -> None:
    log = log_of("completed", "dead", "completed", "dead", "completed", "dead", "completed")

    kept, floor = trim_log(log, None, Policy(log_events=2, log_age=5.0), NOW + 6)

    assert [event.offset for event in kept] == [6, 7]
    assert floor == 5


def test_what_is_too_old_goes_but_final_ones_stay() -> None:
    log = [*log_of("accepted", "completed", at=NOW - 11), *log_of("accepted", "accepted", "paused", at=NOW - 10)[2:]]

    kept, floor = trim_log(log, None, Policy(log_age=10.0), NOW)

    assert [(event.offset, event.kind) for event in kept] == [(2, "completed"), (3, "paused")]
    assert floor == 1


def test_of_a_live_run_the_older_text_becomes_one_snapshot() -> None:
    log = log_of("started", "delta", "processing", "delta", "delta", "accepted", "delta")

    kept, floor = trim_log(log, 1, Policy(log_events=2), NOW)

    assert [(e.offset, e.kind, e.text) for e in kept] == [
        (1, "started", "<1>"),
        (3, "processing", "<3>"),
        (4, "snapshot", "<2><4>"),
        (5, "delta", "<5>"),
        (6, "accepted", "<6>"),
        (7, "delta", "<7>"),
    ]
    assert floor == 4


def test_a_live_run_is_not_aged() -> None:
    log = log_of("accepted", "started", "delta", at=NOW - 1_000_000)

    kept, floor = trim_log(log, 2, Policy(log_age=1.0), NOW)

    assert [event.offset for event in kept] == [2, 3]
    assert floor == 1


kinds = st.lists(st.sampled_from(["delta", "delta", "delta", "processing", "accepted", "steered"]), max_size=60)


@given(kinds, st.integers(1, 8), st.integers(1, 5))
def test_trimming_again_and_again_loses_no_text(run: list[EventKind], bound: int, every: int) -> None:
    whole = log_of("accepted", "completed", "started", *run)
    kept: list[Event] = []
    floor = 0
    for n, event in enumerate(whole, 1):
        kept.append(event)
        if n % every == 0 and n >= 3:
            kept, removed = trim_log(kept, 3, Policy(log_events=bound), NOW)
            floor = max(floor, removed)

    assert text_of(kept) == text_of(whole)
    offsets = [event.offset for event in kept]
    assert offsets == sorted(set(offsets))
    assert [e for e in kept if e.offset > floor] == [e for e in whole if e.offset > floor]
    assert sum(event.kind == "delta" for event in kept) < bound + every
