"""What one process knows of due moments is never later than they are, in whatever order looks and hints come."""

from __future__ import annotations

import random

import pytest

from tests.rows import each_row
from turnkeep.messages import Address
from turnkeep.store.redis.outlook import ALWAYS, LOOK_EVERY, MOST_NAMES, NEVER, DueThread, Outlook

HERE = Address("t", "q", "c")
THERE = Address("t", "q", "d")


def looked_at(moment: float = NEVER, queues: list[str] | None = None) -> Outlook:
    """One partition that was looked at."""
    outlook = Outlook(1, queues)
    outlook.ask(0, by_look=True)
    outlook.learn(0, moment)
    return outlook


def test_a_partition_that_was_never_looked_at_is_due() -> None:
    outlook = Outlook(2, None)

    assert outlook.earliest == ALWAYS
    assert outlook.due(5.0) == [0, 1]
    assert outlook.due_threads(0, 5.0) is None


def test_a_hint_names_what_is_due_without_a_look() -> None:
    outlook = looked_at(100.0)
    outlook.on_due(0, HERE, "q", 7.0)

    assert outlook.earliest == 7.0
    assert outlook.due(6.0) == []
    assert outlook.due_threads(0, 7.0) == [DueThread(7.0, HERE)]


@pytest.mark.parametrize("nameless", ["a program before this one", "too many to remember"])
def test_where_not_all_is_named_a_look_has_to_tell(nameless: str) -> None:
    outlook = looked_at()
    if nameless == "a program before this one":
        outlook.on_due(0, HERE, "q", 7.0)
        outlook.on_due(0, None, "q", 8.0)
    else:
        for n in range(MOST_NAMES + 1):
            outlook.on_due(0, Address("t", "q", f"c{n}"), "q", 7.0)

    assert outlook.due_threads(0, 9.0) is None


@pytest.mark.parametrize("moments", [(7.0, 9.0), (9.0, 7.0)])
def test_of_several_without_a_name_the_first_says_when_to_look(moments: tuple[float, float]) -> None:
    outlook = looked_at()
    for moment in moments:
        outlook.on_due(0, None, "q", moment)

    assert outlook.earliest == 7.0
    assert outlook.due_threads(0, 6.9) == []
    assert outlook.due_threads(0, 7.0) is None


def test_what_a_look_saw_due_is_not_claimed_by_names_alone() -> None:
    outlook = looked_at(5.0)
    outlook.on_due(0, HERE, "q", 4.0)

    assert outlook.due_threads(0, 5.0) is None


def test_a_hint_between_question_and_answer_is_not_lost() -> None:
    outlook = looked_at()
    outlook.ask(0, by_look=True)
    outlook.on_due(0, HERE, "q", 7.0)
    outlook.learn(0, NEVER)

    assert outlook.due_threads(0, 7.0) == [DueThread(7.0, HERE)]


def test_a_hint_before_the_question_is_answered_with_it() -> None:
    outlook = looked_at()
    outlook.on_due(0, HERE, "q", 7.0)
    outlook.ask(0, by_look=True)
    outlook.learn(0, NEVER)

    assert outlook.earliest == NEVER


def test_a_named_thread_that_is_due_later_keeps_its_name() -> None:
    outlook = looked_at()
    outlook.on_due(0, HERE, "q", 7.0)
    outlook.ask(0)
    outlook.learn(0, 8.0)
    outlook.name(0, HERE, 8.0)
    outlook.on_due(0, THERE, "q", 7.5)

    assert outlook.due_threads(0, 7.9) == [DueThread(7.5, THERE)]


def test_queues_that_are_not_served_are_not_heard() -> None:
    outlook = looked_at(queues=["q"])
    outlook.on_due(0, HERE, "reports", 7.0)

    assert outlook.earliest == NEVER


def test_what_was_missed_is_looked_up() -> None:
    outlook = looked_at()
    outlook.forget([0])

    assert outlook.due_threads(0, 1.0) is None
    assert outlook.due(1.0) == [0]


def test_partitions_take_turns_in_being_looked_at() -> None:
    outlook = Outlook(5, None)
    places: list[int] = []
    for _ in range(5):
        [place] = outlook.longest_unasked(1)
        outlook.ask(place, by_look=True)
        places.append(place)

    assert sorted(places) == [0, 1, 2, 3, 4]


def test_hints_are_trusted_for_a_second_after_a_look_of_its_own() -> None:
    outlook = looked_at()
    assert outlook.take_trust(10.0) is False
    outlook.trust(10.0 + LOOK_EVERY)
    assert outlook.take_trust(10.0 + LOOK_EVERY) is True
    assert outlook.take_trust(10.0 + LOOK_EVERY) is False, "once"
    outlook.trust(12.5 + LOOK_EVERY)
    assert outlook.take_trust(12.5 + LOOK_EVERY) is False, "too long without a look"


@each_row("seed", range(20))
def test_nothing_is_known_later_than_it_is(seed: int) -> None:
    """A server with an index of its own; hints come late but in order, answers tell of when they were asked."""
    source = random.Random(seed)
    outlook, index, hints, bound = looked_at(), dict[Address, float](), list[tuple[Address, float]](), NEVER
    answer: float | None = None
    for _ in range(300):
        act = source.choice(("write", "hear", "ask", "answer"))
        if act == "write":
            who, at = Address("t", "q", f"c{source.randrange(4)}"), source.randrange(100)
            index[who] = at
            if at < bound:
                bound = at
                hints.append((who, at))
        elif act == "hear" and hints:
            outlook.on_due(0, hints[0][0], "q", hints.pop(0)[1])
        elif act == "ask" and answer is None:
            outlook.ask(0, by_look=True)
            index = {who: at for who, at in index.items() if source.random() < 0.7}
            answer = bound = min(index.values(), default=NEVER)
        elif act == "answer" and answer is not None:
            outlook.learn(0, answer)
            answer = None
        if answer is None and not hints:
            assert outlook.earliest <= min(index.values(), default=NEVER)
