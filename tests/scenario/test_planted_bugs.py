"""Storms in a machine made of one thread: the product comes through them, and a bug that is planted does not."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.judge import Judgement
from tests.chaos.planted import BUGS, planted
from tests.chaos.world import EVERYTHING, FAILOVERS, ZOMBIES, Plan, simulate

pytestmark = pytest.mark.filterwarnings("ignore")  # what a killed process had in hand is never ended

PLANS = {"everything": EVERYTHING, "zombies": ZOMBIES, "failovers": FAILOVERS}

SHOWN_BY = {
    "no_fence": ("failovers", 1),
    "commit_in_two_commands": ("zombies", 1),
    "retry_of_a_grown_batch": ("everything", 7),
    "death_forgets_the_journal": ("zombies", 1),
    "act_before_journal": ("everything", 2),
    "effects_run_again": ("everything", 2),
    "key_of_the_attempt": ("everything", 5),
    "cut_taken_for_the_end": ("zombies", 1),
    "steering_not_journalled": ("zombies", 1),
    "answer_ends_without_its_words": ("failovers", 2),
    "compares_the_clocks_of_two_hosts": ("everything", 2),
    "deaf_heartbeat": ("failovers", 1),
    "never_gives_up": ("zombies", 1),
    "resumes_too_early": ("zombies", 8),
}
"""The storm that is likely to show a bug, where it is not the first: tried first, to save time."""

SEEDS = range(1, 41)

SHOWN_AT_ONCE = (
    "no_fence",
    "lease_without_end",
    "due_not_armed_again",
    "retry_of_a_grown_batch",
    "death_forgets_the_journal",
)
"""One each of fences, leases, due times, batches and journals, shown by the storm tried first: for every day."""


@pytest.fixture(autouse=True)
def nobody_reads_the_log() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def the_killed_are_buried_here() -> Iterator[None]:
    """Else they warn in a test to come."""
    yield
    gc.collect()


@pytest.mark.prove
@pytest.mark.timeout(3600)
@pytest.mark.daily(rows=3)  # each plan shows planted bugs daily, below
@pytest.mark.parametrize("plan", PLANS)
def test_nothing_goes_wrong_in_a_storm(
    plan: str, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    storms = [simulate(seed, PLANS[plan]) for seed in range(1, 1 + size(1, 300))]

    wrong = {seed: storm.violations for seed, storm in enumerate(storms, 1) if storm.violations}

    assert wrong == {}
    proof(f"storms in one thread, {plan}", f"seeds {len(storms)} | {in_all(storms).line}")


def in_all(storms: list[Judgement]) -> Judgement:
    """The figures of all storms together."""
    total = Judgement()
    for storm in storms:
        for name in ("sent", "once", "dup", "lost", "out_of_order", "model_saw_twice", "tool_repeats"):
            setattr(total, name, getattr(total, name) + getattr(storm, name))
        for name in ("unknown", "fenced", "deaths", "store_kills"):
            setattr(total, name, getattr(total, name) + getattr(storm, name))
        total.worst_stall = max(total.worst_stall, storm.worst_stall)
    return total


def test_the_same_seed_is_the_same_storm() -> None:
    assert simulate(7, ZOMBIES).line == simulate(7, ZOMBIES).line


@pytest.mark.daily(rows=2)  # a fence, a due time and a journal: a storm for each of them
@pytest.mark.parametrize("name", SHOWN_AT_ONCE)
def test_a_planted_bug_is_found(name: str) -> None:
    assert storm_that_shows(name) is not None, f"{len(storms_for(name))} storms show nothing"


@pytest.mark.prove
@pytest.mark.only_in_prove  # minutes of storms
@pytest.mark.timeout(3600)
def test_every_planted_bug_is_found(proof: Callable[[str, str], None]) -> None:
    shown = {name: storm_that_shows(name) for name in BUGS}

    assert [name for name, storm in shown.items() if storm is None] == []
    late = {name: storm for name, storm in shown.items() if storm != storms_for(name)[0]}
    proof("planted bugs", f"caught {len(BUGS)} of {len(BUGS)} | not by the storm that is tried first: {late or 'none'}")


def storm_that_shows(name: str) -> tuple[str, int] | None:
    return next((storm for storm in storms_for(name) if shows(name, PLANS[storm[0]], storm[1])), None)


def storms_for(name: str) -> list[tuple[str, int]]:
    return [SHOWN_BY.get(name, ("everything", 1)), *((plan, seed) for seed in SEEDS for plan in PLANS)]


def shows(name: str, plan: Plan, seed: int) -> bool:
    """Whether one storm shows a bug: a ledger disagrees, or the program breaks."""
    with planted(name):
        try:
            return bool(simulate(seed, plan).violations)
        except Exception:
            return True
