"""Windows: what a preset stands for, and that the adaptive one learns from a channel and from that channel alone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from bench.windows import WINDOWS, Tally, bursts_of, live
from turnkeep.adaptive_window import AdaptiveRules, AdaptiveWindow
from turnkeep.errors import InvalidMessage
from turnkeep.messages import Address, Message, text_content
from turnkeep.store.values import ThreadOptions
from turnkeep.thread_options import thread_options

RULES = AdaptiveRules()
HERE, THERE = Address("default", "q", "here"), Address("default", "q", "there")


def written(windows: AdaptiveWindow, address: Address, at: float, **wishes: float) -> float | None:
    """The window that a message gets."""
    [message] = windows.apply([Message(address, f"m{at}", text_content("x"), **wishes)], at)  # type: ignore[arg-type]
    return message.window


def test_a_channel_that_is_not_known_yet_has_the_window_of_its_queue() -> None:
    windows = AdaptiveWindow()
    assert [written(windows, HERE, at) for at in (0.0, 1.0, 2.0)] == [None] * 3


def test_who_writes_in_quick_pieces_waits_a_little_longer_than_the_usual_gap() -> None:
    windows = AdaptiveWindow()
    for n in range(40):
        written(windows, HERE, 0.5 * n)
    learned = written(windows, HERE, 20.0)
    assert learned is not None
    assert 0.5 < learned < 1.5
    assert written(windows, THERE, 20.0) is None


def test_who_writes_whole_messages_hardly_waits() -> None:
    windows = AdaptiveWindow()
    for n in range(40):
        written(windows, HERE, 60.0 * n)
    assert written(windows, HERE, 2400.0) == RULES.shortest


def test_a_window_is_never_longer_than_the_rules_say() -> None:
    windows = AdaptiveWindow()
    for n in range(40):
        written(windows, HERE, 7.5 * n)
    assert written(windows, HERE, 300.0) == RULES.longest


def test_a_message_with_a_window_of_its_own_keeps_it() -> None:
    windows = AdaptiveWindow()
    for n in range(40):
        written(windows, HERE, 0.5 * n)
    assert written(windows, HERE, 20.0, window=9.0) == 9.0


def test_adaptive_saves_runs_without_letting_most_people_wait_longer(size: Callable[[int, int], int]) -> None:
    crowd = [list(bursts_of(random.Random(n))) for n in range(size(300, 10_000))]
    tallies = {}
    for name in ("sliding 1.5 s, at most 8 s (`web`)", "adaptive, at most 8 s"):
        tallies[name] = Tally(waits=[])
        for person in crowd:
            live(person, WINDOWS[name], tallies[name])
    web, adaptive = tallies.values()
    assert adaptive.runs < 0.92 * web.runs
    assert adaptive.cut < 0.85 * web.cut
    assert sorted(adaptive.waits or [])[len(adaptive.waits or []) // 2] <= 1.6


def test_a_preset_stands_for_two_numbers_and_what_is_given_beside_it_counts() -> None:
    assert thread_options({"preset": "web"}) == ThreadOptions(window=1.5, max_wait=8.0)
    assert thread_options({"preset": "seed", "max_wait": 30.0}) == ThreadOptions(window=10.0, max_wait=30.0)
    assert thread_options({}) == thread_options({"window": None}) == ThreadOptions()


@pytest.mark.parametrize("wrong", [{"preset": "fast"}, {"on_busy": "shout"}, {"size": 3}])
def test_an_option_that_does_not_exist_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidMessage):
        thread_options(wrong)


@pytest.mark.parametrize("wrong", ["web", 3, ["web"], True, 1.5])
def test_options_that_are_no_object_are_refused(wrong: object) -> None:
    with pytest.raises(InvalidMessage, match="'options' must be an object or null"):
        thread_options(wrong)


def test_no_options_are_none_of_its_own() -> None:
    assert thread_options(None) == ThreadOptions()


def test_a_message_for_later_is_left_as_it_is_and_teaches_no_rhythm() -> None:
    windows = AdaptiveWindow()
    for n in range(40):
        written(windows, HERE, 0.5 * n)
    learned = written(windows, HERE, 20.0)
    for _ in range(40):
        assert written(windows, HERE, 20.0, not_before=10_000.0) is None

    assert learned is not None
    assert written(windows, HERE, 20.5) == pytest.approx(learned, rel=0.2)
