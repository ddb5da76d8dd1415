"""What is measured of a claim and of what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.runs.moved_time import BEGIN
from tests.runs.stage import HERE, NotingMeter, Stage
from turnkeep.events import TurnFault
from turnkeep.runs.activity import RunFigures, measure_claim, measure_run
from turnkeep.runs.lease import Lease
from turnkeep.runs.outcomes import VERDICT_LABELS, Dropping, HoldVerdict, Releasing, Verdict
from turnkeep.runs.run import Run
from turnkeep.store.values import Commit, FailOutcome, Failure
from turnkeep.usage import Usage

FAULT = TurnFault("model_unavailable", "please try again")
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
FIRST_WAITS = {"window": 3.0, "queue": 0.5}
WAITS_OF_AN_ANSWER = {**FIRST_WAITS, "first": 0.7, "whole": 8.5}
FIGURES: dict[str, tuple[Verdict, Any, dict[str, Any], dict[str, float]]] = {
    "an answer": (
        Commit("completed", "", [], USED), None,
        {"end": "completed", "messages": 2, "usage": USED}, WAITS_OF_AN_ANSWER,
    ),
    "an answer that was cut off": (
        Commit("incomplete", "", [], USED), None,
        {"end": "incomplete", "messages": 2, "usage": USED}, WAITS_OF_AN_ANSWER,
    ),
    "an answer that was stopped": (
        Commit("cancelled", "", [], USED), None,
        {"end": "cancelled", "messages": 2, "usage": USED}, WAITS_OF_AN_ANSWER,
    ),
    "a retry, whose usage the run tells that ends the batch": (
        Failure(FAULT, 5.0, usage=USED), "retry", {"end": "retry", "code": "model_unavailable"}, FIRST_WAITS,
    ),
    "a batch that is split": (
        Failure(FAULT, None, usage=USED), "split",
        {"end": "split", "usage": USED, "code": "model_unavailable"}, FIRST_WAITS,
    ),
    "a dead letter": (
        Failure(FAULT, None, usage=USED), "dead",
        {"end": "dead", "usage": USED, "code": "model_unavailable"}, FIRST_WAITS,
    ),
    "a failure that the store never answered": (
        Failure(FAULT, 5.0, usage=USED), None,
        {"end": "lost", "usage": USED, "code": "model_unavailable"}, FIRST_WAITS,
    ),
    "waiting": (Releasing(1.0), None, {"end": "waiting"}, FIRST_WAITS),
    "waiting for a model": (
        Releasing(1.0, FAULT), None, {"end": "waiting", "code": "model_unavailable"}, FIRST_WAITS,
    ),
    "waiting for somebody": (HoldVerdict(()), None, {"end": "held"}, FIRST_WAITS),
    "a lost lease": (Dropping(), None, {"end": "lost"}, {}),
}  # fmt: skip


def figures_of(stage: Stage, lease: Lease, verdict: Verdict, failed: FailOutcome | None = None) -> RunFigures:
    """Of a run of five seconds, whose first token came after seven tenths of one."""
    run = Run(stage.house, lease)
    run.failure = failed
    begun_at = asyncio.get_running_loop().time() - 5.0
    return run.figures(verdict, begun_at, begun_at + 0.7)


@pytest.mark.parametrize(("verdict", "failed", "expected", "waits"), FIGURES.values(), ids=FIGURES)
async def test_charts_count_each_verdict_for_what_it_is(
    verdict: Verdict, failed: FailOutcome | None, expected: dict[str, Any], waits: dict[str, float]
) -> None:
    stage = Stage()
    lease = await stage.lease("m1", "m2")
    first, second = lease.claim.messages
    timed = (first.but(arrival=10.0), second.but(arrival=11.0))
    lease.claim = replace(lease.claim, messages=timed, due_at=13.0, claimed_at=13.5)

    figures = figures_of(stage, lease, verdict, failed)

    counted = {"messages": 0, "usage": Usage(), "code": "", **expected}
    assert {name: getattr(figures, name) for name in counted} == counted
    assert figures.waits == pytest.approx(waits)
    assert (figures.tenant, figures.at) == ("default", stage.clock.now())


async def test_charts_count_the_wait_of_a_batch_once_and_the_answer_from_its_first_message() -> None:
    """However many attempts it took."""
    stage = Stage()
    lease = await stage.lease("m1")
    message = lease.claim.messages[0].but(arrival=10.0)
    lease.claim = replace(lease.claim, messages=(message,), due_at=13.0, claimed_at=40.0, attempt=2)
    answer = Commit("completed", "", [])

    answered = figures_of(stage, lease, answer).waits
    retried = figures_of(stage, lease, Failure(FAULT, 5.0), "retry").waits
    lease.claim = replace(lease.claim, messages=())
    empty = figures_of(stage, lease, answer).waits

    assert answered == pytest.approx({"first": 0.7, "whole": 35.0})
    assert retried == {}
    assert empty == pytest.approx({"first": 0.7})


async def test_an_answer_of_which_nothing_was_shown_has_no_first_token() -> None:
    stage = Stage()
    lease = await stage.lease("m1")
    now = asyncio.get_running_loop().time()

    waits = Run(stage.house, lease).figures(Commit("cancelled", "", []), now, None).waits

    assert "first" not in waits
    assert "whole" in waits
