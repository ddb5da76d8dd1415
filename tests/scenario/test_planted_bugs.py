"""Storms in a machine made of one thread: the product comes through them, and a bug that is planted does not."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator

import pytest

from turnkeep.testing.chaos.judge import Judgement
from turnkeep.testing.chaos.planted import BUGS, planted
from turnkeep.testing.chaos.world import EVERYTHING, ZOMBIES, Plan, simulate

pytestmark = pytest.mark.filterwarnings("ignore")  # what a killed process had in hand is never ended

PLANS = {"everything": EVERYTHING, "zombies": ZOMBIES}

SHOWN_BY = {
    "no_fence": ("zombies", 2),
    "resumes_too_early": ("everything", 30),
    "ids_forgotten_with_the_answer": ("zombies", 1),
    "retry_of_a_grown_batch": ("everything", 2),
    "act_before_journal": ("everything", 2),
    "effects_run_again": ("zombies", 2),
    "cut_taken_for_the_end": ("everything", 3),
    "deaf_heartbeat": ("zombies", 4),
    "never_gives_up": ("everything", 2),
}
"""The storm that is likely to show a bug, where it is not the first: tried first, to save time."""

SEEDS = range(1, 41)


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
@pytest.mark.parametrize("plan", PLANS)
def test_nothing_goes_wrong_in_a_storm(
    plan: str, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    storms = [simulate(seed, PLANS[plan]) for seed in range(1, 1 + size(3, 300))]

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
    assert simulate(7).line == simulate(7).line


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    plan, seed = SHOWN_BY.get(name, ("everything", 1))
    others = [(other, each) for each in SEEDS for other in PLANS]
    tried: list[tuple[str, int]] = [(plan, seed), *others]

    assert any(shows(name, PLANS[each], number) for each, number in tried), f"{len(tried)} storms show nothing"


@pytest.mark.prove
@pytest.mark.timeout(3600)
def test_every_planted_bug_is_found(size: Callable[[int, int], int], proof: Callable[[str, str], None]) -> None:
    bugs = list(BUGS)[: size(1, len(BUGS))]

    found = [name for name in bugs if any(shows(name, plan, seed) for seed in SEEDS for plan in PLANS.values())]

    assert found == bugs
    proof("planted bugs", f"caught {len(found)} of {len(bugs)}")


def shows(name: str, plan: Plan, seed: int) -> bool:
    """Whether one storm shows a bug: a ledger disagrees, or the program breaks."""
    with planted(name):
        try:
            return bool(simulate(seed, plan).violations)
        except Exception:
            return True
