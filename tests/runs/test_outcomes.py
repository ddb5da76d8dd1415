"""What is measured of a claim and of what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.runs.moved_time import BEGIN
from tests.runs.stage import HERE, NotingMeter, Stage
from turnkeep.events import TurnFault
from turnkeep.runs.activity import RunFigures, figures_of, measure_claim, measure_run
from turnkeep.runs.outcomes import VERDICT_LABELS, Dropping, HoldVerdict, Releasing, Verdict
from turnkeep.store.values import Commit, Failure
from turnkeep.usage import Usage

FAULT = TurnFault("model_unavailable", "please try again")
NAMES = {"model": "small", "assistant": "Olga"}
NOTHING: dict[tuple[str, str], float] = {}

CLAIMS = {
    "a first claim": ({}, [2], [3.0], [0.5]),
    "one that was due when it was claimed": ({"claimed_at": 13.0}, [2], [3.0], [0.0]),
    "one that a clock made early": ({"claimed_at": 12.0, "due_at": 9.0}, [2], [0.0], [3.0]),
    "one before it was due": ({"claimed_at": 12.0}, [2], [3.0], [0.0]),
    "a second claim": ({"attempt": 2}, [], [], []),
    "a claim without messages": ({"messages": ()}, [], [], []),
}


@pytest.mark.parametrize(("changes", "messages", "window", "wait"), CLAIMS.values(), ids=CLAIMS)
async def test_a_batch_is_measured_at_its_first_claim(
    changes: dict[str, Any], messages: list[float], window: list[float], wait: list[float]
) -> None:
    stage = Stage()
    claim = (await stage.lease("m1", "m2")).claim
    first, second = claim.messages
    timed = (first.but(arrival=10.0), second.but(arrival=11.0))
    claim = replace(claim, **{"messages": timed, "due_at": 13.0, "claimed_at": 13.5, **changes})
    meter = NotingMeter()

    measure_claim(meter, claim)

    assert meter.observed("run_attempt") == [claim.attempt]
    assert meter.observed("batch_messages") == messages
    assert meter.observed("window_seconds") == window
    assert meter.observed("queue_wait_seconds") == wait


VERDICTS: dict[str, tuple[Verdict, Any, dict[tuple[str, str], float]]] = {
    "commit": (Commit("completed", "", []), None, NOTHING),
    "hold": (HoldVerdict(()), None, NOTHING),
    "drop": (Dropping(), None, {("lease_losses", ""): 1}),
    "release": (Releasing(1.0), None, NOTHING),
    "release with a reason": (Releasing(1.0, FAULT), None, {("waits", "model_unavailable"): 1}),
    "failure tried again": (
        Failure(FAULT, 5.0), "retry", {("errors", "model_unavailable"): 1, ("retries", "model_unavailable"): 1},
    ),
    "failure split": (
        Failure(FAULT, None), "split", {("errors", "model_unavailable"): 1, ("retries", "model_unavailable"): 1},
    ),
    "dead": (
        Failure(FAULT, None), "dead", {("errors", "model_unavailable"): 1, ("dead_letters", "model_unavailable"): 2},
    ),
    "failure that the store never answered": (Failure(FAULT, 5.0), None, {("errors", "model_unavailable"): 1}),
}  # fmt: skip


@pytest.mark.parametrize(("verdict", "failed", "expected"), VERDICTS.values(), ids=VERDICTS)
async def test_each_verdict_is_counted_for_what_it_is(
    verdict: Verdict, failed: Any, expected: dict[tuple[str, str], float]
) -> None:
    claim = (await Stage().lease("m1", "m2")).claim
    meter = NotingMeter()

    measure_run(meter, claim, verdict, failed, begun_at=0.0, first_shown_at=None)

    counts = {
        (name, labels.get("code") or labels.get("reason", "")): value
        for name, value, labels in meter.counts
        if name != "runs"
    }
    assert counts == expected
    assert meter.total("runs", verdict=VERDICT_LABELS[type(verdict)]) == 1
    assert claim.address == HERE


@pytest.mark.parametrize(("shown_at", "seconds"), [(None, []), (3.0, [1.0]), (2.0, [0.0])])
async def test_times_of_a_run_count_from_its_beginning(shown_at: float | None, seconds: list[float]) -> None:
    claim = (await Stage().lease("m1")).claim
    meter = NotingMeter()
    await asyncio.sleep(7.0)

    measure_run(meter, claim, Dropping(), None, begun_at=BEGIN + 2.0, first_shown_at=shown_at and BEGIN + shown_at)

    assert meter.observed("run_seconds") == [pytest.approx(5.0)]
    assert meter.observed("first_token_seconds") == seconds


USED = Usage(requests=2, input_tokens=30, output_tokens=4)
FIRST_WAITS: dict[str, float | None] = {"window": 3.0, "queue": 0.5}
FIGURES: dict[str, tuple[Verdict, Any, dict[str, Any]]] = {
    "an answer": (
        Commit("completed", "", [], USED), None,
        {"end": "completed", "messages": 2, "usage": USED, "waits": {**FIRST_WAITS, "first": 0.7, "whole": 8.5}},
    ),
    "an answer that was cut off": (
        Commit("incomplete", "", [], USED), None,
        {"end": "incomplete", "messages": 2, "usage": USED, "waits": {**FIRST_WAITS, "first": 0.7, "whole": 8.5}},
    ),
    "a retry, whose usage the run tells that ends the batch": (
        Failure(FAULT, 5.0, usage=USED), "retry", {"end": "retry", "code": "model_unavailable"},
    ),
    "a batch that is split": (
        Failure(FAULT, None, usage=USED), "split", {"end": "split", "usage": USED, "code": "model_unavailable"},
    ),
    "a dead letter": (
        Failure(FAULT, None, usage=USED), "dead", {"end": "dead", "usage": USED, "code": "model_unavailable"},
    ),
    "a failure that the store never answered": (
        Failure(FAULT, 5.0, usage=USED), None, {"end": "lost", "usage": USED, "code": "model_unavailable"},
    ),
    "waiting": (Releasing(1.0), None, {"end": "waiting"}),
    "waiting for a model": (Releasing(1.0, FAULT), None, {"end": "waiting", "code": "model_unavailable"}),
    "waiting for somebody": (HoldVerdict(()), None, {"end": "held"}),
    "a lost lease": (Dropping(), None, {"end": "lost", "waits": None}),
}  # fmt: skip


@pytest.mark.parametrize(("verdict", "failed", "expected"), FIGURES.values(), ids=FIGURES)
async def test_charts_count_each_verdict_for_what_it_is(
    verdict: Verdict, failed: Any, expected: dict[str, Any]
) -> None:
    claim = (await Stage().lease("m1", "m2")).claim
    first, second = claim.messages
    timed = (first.but(arrival=10.0), second.but(arrival=11.0))
    claim = replace(claim, messages=timed, due_at=13.0, claimed_at=13.5)

    figures = figures_of(claim, verdict, failed, **NAMES, first=0.7, run_seconds=5.0)

    assert figures == RunFigures("default", **{"waits": FIRST_WAITS, **NAMES, **expected})


async def test_charts_count_the_wait_of_a_batch_once_and_the_answer_from_its_first_message() -> None:
    """However many attempts it took."""
    claim = (await Stage().lease("m1")).claim
    timed = replace(claim, messages=(claim.messages[0].but(arrival=10.0),), due_at=13.0, claimed_at=40.0, attempt=2)

    answered = figures_of(timed, Commit("completed", "", []), None, **NAMES, first=None, run_seconds=2.0)
    retried = figures_of(timed, Failure(FAULT, 5.0), "retry", **NAMES, first=None, run_seconds=2.0)
    nobody = replace(timed, messages=())
    empty = figures_of(nobody, Commit("completed", "", []), None, **NAMES, first=1.0, run_seconds=2.0)

    assert (answered.waits, retried.waits, empty.waits) == ({"first": None, "whole": 32.0}, {}, {"first": 1.0})
