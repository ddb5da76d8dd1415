"""What comes of a run: one verdict for each way in which it can end, and one act of the store for each verdict."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.runs.stage import (
    HERE,
    MODEL,
    RULES,
    BackgroundScript,
    Line,
    LostReply,
    ScriptedModel,
    Stage,
    Stumble,
    StumblingStore,
    asks,
    says,
    words,
)
from turnkeep import failpoints
from turnkeep.errors import (
    AnswerMalformed,
    AnswerUnreadable,
    CredentialsRefused,
    LeaseLost,
    ModelGone,
    ModelRateLimited,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    ModelUnreachable,
    OutcomeUnknown,
    QuotaExhausted,
    StoreUnavailable,
    ThreadQuarantined,
    Waiting,
)
from turnkeep.events import BESIDE_TEXT, Answer, Event, TurnFault
from turnkeep.messages import Address, AssistantItem, CallItem, OutputItem, UserItem
from turnkeep.models.model import Began
from turnkeep.pricing.prices import PriceBook
from turnkeep.runs.activity import quantile, read_days
from turnkeep.runs.budget import Budget, Budgets, Pace
from turnkeep.runs.lease import DrainRequest, Lease, StopRequest, weightiest
from turnkeep.runs.outcomes import VERDICT_LABELS, Dropping, HoldVerdict, Releasing
from turnkeep.runs.run_context import DETAILS
from turnkeep.runs.worker import LeaseRules
from turnkeep.store.values import Claim, Commit, Failure, HeldCall, Page, Remainder, Stop
from turnkeep.telemetry import SILENT
from turnkeep.telemetry.traces import use_tracer
from turnkeep.tools.tool import ToolContext, tool
from turnkeep.usage import Usage

LogLines = Callable[[], list[dict[str, Any]]]

PAY = ("c1", "pay", '{"amount": 5}')


@tool
async def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@tool(needs_approval=True)
async def buy(amount: int) -> str:
    """Buy."""
    return f"bought {amount}"


def names(log_lines: LogLines) -> list[str]:
    return [line["event"] for line in log_lines()]


# ---------------------------------------------------------------- the verdict of an error


@dataclass(frozen=True)
class Row:
    """An error of the model, and what becomes of the run: `retry` in so many seconds, `dead`, or `release`."""

    error: Exception
    outcome: str
    seconds: float | None = None
    circuit: str = ""
    """Which circuit is open afterwards."""
    probe_in: float | None = None
    code: str = ""


ERRORS = {
    "a server error": Row(ModelUnavailable("503"), "retry", 5.0, code="model_unavailable"),
    "one that says when": Row(ModelUnavailable("503", retry_after=9.0), "retry", 9.0, code="model_unavailable"),
    "silence": Row(ModelTimedOut("nothing"), "retry", 5.0, code="model_timed_out"),
    "garbage": Row(AnswerMalformed("<html>"), "retry", 5.0, code="answer_malformed"),
    "an unknown form": Row(AnswerUnreadable("new"), "dead", code="answer_unreadable"),
    "a refusal": Row(ModelRefused("no"), "dead", code="model_refused"),
    "a bug": Row(ValueError("secret"), "retry", 5.0, code="run_broke"),
    "a timeout that is not ours": Row(TimeoutError("inner"), "retry", 5.0, code="run_broke"),
    "a rate limit": Row(ModelRateLimited("slow"), "release", 2.0, code="model_rate_limited"),
    "a rate limit that says when": Row(
        ModelRateLimited("slow", retry_after=60.0), "release", 60.0, code="model_rate_limited"
    ),
    "a rate limit of hours": Row(
        ModelRateLimited("slow", retry_after=7200.0), "release", 60.0, f"there/{MODEL}", 7200.0, "model_rate_limited"
    ),
    "no connection": Row(ModelUnreachable("away"), "release", 2.0, "there", 2.0, "model_unreachable"),
    "no credit": Row(QuotaExhausted("empty"), "release", 30.0, "there", 30.0, "quota_exhausted"),
    "a wrong key": Row(CredentialsRefused("401"), "release", 30.0, "there", 30.0, "credentials_refused"),
    "a model that is gone": Row(ModelGone("404"), "release", 30.0, f"there/{MODEL}", 30.0, "model_gone"),
    "a wait of ours": Row(Waiting("later", retry_after=4.0), "release", 4.0, code="waiting"),
    "a wait of ours without a time": Row(Waiting("later"), "release", 1.0, code="waiting"),
}


def outcome(verdict: object) -> tuple[str, Any, str]:
    match verdict:
        case Failure(fault, retry_in):
            return ("dead" if retry_in is None else "retry"), retry_in, fault.code
        case Releasing(delay, reason):
            return "release", delay, reason.code if reason else ""
    return type(verdict).__name__, None, ""


@pytest.mark.parametrize("row", ERRORS.values(), ids=ERRORS)
async def test_each_error_of_the_model_has_one_verdict(row: Row) -> None:
    stage = Stage([row.error])

    verdict = await stage.play()

    assert outcome(verdict) == (row.outcome, row.seconds, row.code)
    circuits = {one.endpoint: one.probe_at - stage.clock.now() for one in await stage.store.circuits()}
    assert circuits == pytest.approx({row.circuit: row.probe_in} if row.circuit else {})
    last = {"retry": "retrying", "dead": "dead", "release": "waiting"}[row.outcome]
    assert (await stage.kinds())[-1] == last
    assert (await stage.events())[-1].error == (verdict.fault if isinstance(verdict, Failure) else verdict.reason)  # type: ignore[union-attr]


@pytest.mark.parametrize("row", ERRORS.values(), ids=ERRORS)
async def test_a_run_that_is_waited_for_never_goes_back_to_wait(row: Row) -> None:
    stage = Stage([row.error], rules=replace(RULES, direct=True))

    verdict = await stage.play()

    assert isinstance(verdict, Failure)
    assert verdict.fault.code == row.code
    assert verdict.effects is False
    is_passing = row.outcome == "retry" or row.code == "model_unreachable"
    assert (verdict.retry_in is not None) == is_passing


async def test_a_drained_run_that_is_waited_for_says_so() -> None:
    stage = Stage([30.0], rules=replace(RULES, direct=True))
    lease = await stage.lease("m1")
    asyncio.get_running_loop().call_later(1.0, stage.keeper.drain)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Failure)
    assert (verdict.fault.code, verdict.fault.details, verdict.retry_in) == ("run_broke", "DrainRequest", None)


async def test_a_run_that_is_waited_for_says_what_its_effects_and_tokens_were() -> None:
    stage = Stage(asks(PAY), [Waiting("later")], tools=[pay], rules=replace(RULES, direct=True))

    verdict = await stage.play()

    assert isinstance(verdict, Failure)
    assert (verdict.effects, verdict.usage.requests) == (True, 1)


@dataclass(frozen=True)
class Chance:
    """What the claim brings along, and whether a retryable error is retried, and after how long."""

    claim: dict[str, Any]
    retry_in: float | None


CHANCES = {
    "the first attempt": Chance({}, 5.0),
    "the second": Chance({"attempts": 1}, 10.0),
    "the last": Chance({"attempts": 2}, None),
    "one too many": Chance({"attempts": 3}, None),
    "the last chance of a split message": Chance({"last_chance": True}, None),
    "deaths do not count": Chance({"deaths": 2}, 5.0),
}


@pytest.mark.parametrize("chance", CHANCES.values(), ids=CHANCES)
async def test_an_attempt_is_repeated_while_attempts_are_left(chance: Chance) -> None:
    stage = Stage([ModelUnavailable("503")])

    verdict = await stage.play(**chance.claim)

    assert isinstance(verdict, Failure)
    assert verdict.retry_in == chance.retry_in


@pytest.mark.parametrize(("deaths", "code"), [(2, ""), (3, "too_many_deaths")])
async def test_a_batch_that_killed_too_many_workers_is_not_tried_again(deaths: int, code: str) -> None:
    stage = Stage(says("answer"))

    verdict = await stage.play(deaths=deaths)

    assert outcome(verdict)[2] == code
    assert len(stage.model.requests) == (0 if code else 1)


async def test_a_failed_attempt_says_whether_effects_have_begun_and_a_last_one_what_it_cost() -> None:
    error = ModelUnavailable("503")
    quiet, busy, over = Stage([error]), Stage(asks(PAY), [error], tools=[pay]), Stage(asks(PAY), [error], tools=[pay])

    verdicts = [await quiet.play(), await busy.play(), await over.play(last_chance=True)]

    assert [(v.effects, v.usage.requests) for v in verdicts if isinstance(v, Failure)] == [
        (False, 0),
        (True, 0),
        (True, 1),
    ]


async def test_details_of_an_error_are_bounded_and_its_sentence_is_for_people() -> None:
    stage = Stage([ModelRefused("x" * 2 * DETAILS)])

    verdict = await stage.play()

    assert isinstance(verdict, Failure)
    assert verdict.fault == TurnFault("model_refused", ModelRefused.public, "x" * DETAILS)


async def test_an_error_that_nobody_expected_keeps_its_words_to_the_log(log_lines: LogLines) -> None:
    stage = Stage([ValueError("a secret")])

    verdict = await stage.play()

    assert isinstance(verdict, Failure)
    assert verdict.fault.details == "ValueError in the run, see the log of the worker"
    assert names(log_lines) == ["run_broke", "attempt_failed", "run_settled"]


# ---------------------------------------------------------------- time


async def test_a_run_ends_at_its_deadline_and_not_before() -> None:
    late, early = Stage([301.0]), Stage([299.0, *says("in time")])

    verdicts = [await late.play(), await early.play()]

    assert outcome(verdicts[0]) == ("dead", None, "run_timed_out")
    assert isinstance(verdicts[1], Commit)
    assert late.meter.observed("run_seconds") == pytest.approx([30.0 * 10], abs=0.01)
    assert late.model.aborts == 1


@pytest.mark.parametrize(
    ("kind", "verdict"), [(LeaseLost, Dropping()), (DrainRequest, Releasing(0.0))], ids=["lost", "drained"]
)
async def test_what_the_keeper_says_ends_the_work_at_once(kind: type[Exception], verdict: object) -> None:
    stage = Stage([Began(None), 600.0])
    lease = await stage.lease("m1")
    asyncio.get_running_loop().call_later(7.0, lease.end, kind())

    assert await stage.perform(lease) == verdict
    assert stage.meter.observed("run_seconds") == pytest.approx([7.0], abs=0.01)
    assert stage.model.aborts == 1
    assert await stage.kinds() == ["accepted", "started"]
    assert stage.store.about("release") == ([0.0] if kind is DrainRequest else [])


async def test_who_may_publish_no_more_ends_at_once_and_asks_the_model_for_nothing_more() -> None:
    """Another worker has the thread: to wait for the next renewal would pay for an answer that nobody sees."""
    stage = Stage([Began(None), *words("half"), 200.0, *words("an answer")])
    stage.store.stumbles["publish"].append(LeaseLost("fenced"))

    assert await stage.play() == Dropping()
    assert stage.meter.observed("run_seconds") == pytest.approx([0.0], abs=0.01)
    assert stage.model.aborts == 1


async def test_of_several_errors_at_once_the_weightiest_decides() -> None:
    lost, stopped, drained, ours = LeaseLost(), StopRequest("cancel"), DrainRequest(), ModelUnavailable()
    other = ValueError()

    for light in ([other, ours, drained, stopped, lost], [lost, stopped, drained, ours, other]):
        chosen = [weightiest([e for e in light if e not in gone]) for gone in (
            [], [lost], [lost, stopped], [lost, stopped, drained], [lost, stopped, drained, ours],
        )]  # fmt: skip
        assert chosen == [lost, stopped, drained, ours, other]
    nested = BaseExceptionGroup("", [other, BaseExceptionGroup("", [drained, BaseExceptionGroup("", [lost])])])
    assert weightiest([nested]) is lost


# ---------------------------------------------------------------- the path that goes well


async def test_an_answer_is_shown_journalled_committed_and_measured() -> None:
    stage = Stage([Began(None), 2.0, *says("good day", usage=Usage(1, 10, 3, 1, 4, 2))[1:]])

    verdict = await stage.play("m1", "m2")

    assert isinstance(verdict, Commit)
    assert (verdict.outcome, verdict.text, verdict.model) == ("completed", "good day", MODEL)
    assert [entry.item for entry in verdict.entries][2:] == [AssistantItem("good day")]
    assert [e.item.message_id for e in verdict.entries if isinstance(e.item, UserItem)] == ["m1", "m2"]
    assert all(entry.tokens > 0 for entry in verdict.entries)
    assert await stage.kinds() == ["accepted", "accepted", "started", "responding", "delta", "delta", "completed"]
    assert [await stage.status("m1"), await stage.status("m2")] == ["answered", "answered"]
    meter = stage.meter
    assert meter.total("runs", verdict="commit") == 1
    assert (meter.observed("run_attempt"), meter.observed("batch_messages")) == ([1], [2])
    assert meter.observed("run_seconds") == pytest.approx([2.0])
    assert meter.observed("first_token_seconds") == pytest.approx([2.0])
    assert stage.observations[-1]["type"] == "step"
    assert [event.kind for event in stage.observations[:-1]] == ["responding", "delta", "delta"]


async def test_a_run_that_nobody_measures_or_reads_about_ends_as_any_other() -> None:
    stage = Stage(says("good day"))
    stage.house = replace(stage.house, meter=SILENT)
    logging.getLogger("turnkeep.runs.run").setLevel(logging.WARNING)
    try:
        verdict = await stage.play("m1")
    finally:
        logging.getLogger("turnkeep.runs.run").setLevel(logging.NOTSET)

    assert isinstance(verdict, Commit)
    assert stage.meter.observed("run_seconds") == []
    assert (await stage.kinds())[-1] == "completed"


@pytest.mark.parametrize(
    ("reason", "ending"),
    [("stop", "completed"), ("length", "incomplete"), ("filter", "incomplete"), ("refusal", "completed")],
)
async def test_an_answer_that_was_cut_off_says_so(reason: str, ending: str) -> None:
    verdict = await Stage(says("some words", reason=reason)).play()

    assert isinstance(verdict, Commit)
    assert (verdict.outcome, verdict.text) == (ending, "some words")


async def test_a_run_without_text_has_no_first_token() -> None:
    stage = Stage([ModelRefused("no")])
    await stage.play()

    assert stage.meter.observed("first_token_seconds") == []


async def test_the_assistant_that_was_chosen_answers_with_its_model() -> None:
    stage = Stage(others=[ScriptedModel(says("from the other"), endpoint="other")])
    await stage.assistant(model="other", instructions="Be brief.")

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert (verdict.text, verdict.model) == ("from the other", "other")
    assert stage.model.requests == []


async def test_a_held_call_gives_the_worker_back_and_keeps_the_turn() -> None:
    stage = Stage(asks(("c1", "buy", '{"amount": 1}')), tools=[buy])

    verdict = await stage.play()

    assert isinstance(verdict, HoldVerdict)
    assert [call.call_id for call in verdict.calls] == ["c1"]
    assert stage.store.about("hold") == [100.0]
    assert (await stage.kinds())[-1] == "held"


async def test_every_point_of_a_run_can_be_reached_by_a_crash() -> None:
    points: list[str] = []
    failpoints.arm(dict.fromkeys(failpoints.POINTS, 1.0), act=points.append)
    try:
        await Stage(asks(PAY), says("done"), tools=[pay]).play()
    finally:
        failpoints.arm({})

    assert points == [
        "claimed", "asked", "called", "tool_started", "tool_done", "asked", "midstream", "called", "final", "committed",
    ]  # fmt: skip


# ---------------------------------------------------------------- which model answers


async def open_circuits(
    stage: Stage, *endpoints: str, error: type[Exception] = QuotaExhausted, probe_in: float = 30.0
) -> None:
    for endpoint in endpoints:
        await stage.store.trip(endpoint, TurnFault(error.code, "", "why"), probe_in=probe_in)  # type: ignore[attr-defined]
    stage.store.requests.clear()


@pytest.mark.parametrize("circuit", ["there", f"there/{MODEL}"])
async def test_behind_an_open_circuit_the_fallback_answers(circuit: str) -> None:
    stage = Stage(says("first"), others=[ScriptedModel(says("second"), endpoint="other")])
    await stage.assistant(model=MODEL, fallbacks=("other",))
    await open_circuits(stage, circuit)

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert (verdict.text, verdict.model) == ("second", "other")
    assert stage.store.about("probe") == []


async def test_a_circuit_of_somebody_else_stops_nobody() -> None:
    stage = Stage(says("answer"))
    await open_circuits(stage, "elsewhere", "there/model-2")

    assert isinstance(await stage.play(), Commit)
    assert stage.run is not None
    assert stage.run.circuits._probe_endpoint is None


async def test_without_a_fallback_a_run_waits_for_the_circuit_with_its_reason() -> None:
    stage = Stage()
    await open_circuits(stage, "there", probe_in=20.0)

    verdict = await stage.play()

    assert outcome(verdict) == ("release", pytest.approx(20.0), "quota_exhausted")
    assert isinstance(verdict, Releasing)
    assert verdict.reason is not None
    assert verdict.reason.details == "why"
    assert stage.model.requests == []


@pytest.mark.parametrize(
    ("error", "probe_in", "attempt", "delay"),
    [
        (QuotaExhausted, 0.4, 1, 1.0),
        (QuotaExhausted, 45.0, 1, 45.0),
        (QuotaExhausted, 600.0, 1, 60.0),
        (ModelUnreachable, 0.5, 1, 2.0),
        (ModelUnreachable, 0.5, 3, 8.0),
        (ModelUnreachable, 30.0, 1, 30.0),
    ],
)
async def test_who_waits_for_a_circuit_looks_again_in_time(
    error: type[Exception], probe_in: float, attempt: int, delay: float
) -> None:
    stage = Stage()
    await open_circuits(stage, "there", error=error, probe_in=probe_in)

    assert outcome(await stage.play(attempt=attempt))[1] == pytest.approx(delay, abs=0.01)


@pytest.mark.parametrize(("error", "every"), [(QuotaExhausted, 30.0), (ModelUnreachable, 2.0)])
async def test_one_run_tries_whether_a_circuit_can_be_closed(error: type[Exception], every: float) -> None:
    stage = Stage(says("it works again"))
    await open_circuits(stage, "there", error=error, probe_in=0.0)

    verdict = await stage.play()

    assert isinstance(verdict, Commit)
    assert stage.store.about("probe") == [("there", every)]
    assert await stage.store.circuits() == []


async def test_a_probe_that_fails_leaves_the_circuit_open() -> None:
    stage = Stage([QuotaExhausted("still empty")])
    await open_circuits(stage, "there", probe_in=0.0)

    await stage.play()

    assert [one.endpoint for one in await stage.store.circuits()] == ["there"]


async def test_who_goes_over_to_a_fallback_does_so_at_once() -> None:
    stage = Stage([QuotaExhausted("empty")], others=[ScriptedModel([QuotaExhausted("too")], endpoint="other")])
    await stage.assistant(model=MODEL, fallbacks=("other",))

    first = await stage.play()
    [lease] = await stage.keeper.claim(1, None)
    second = await stage.perform(lease)

    assert (outcome(first)[1], outcome(second)[1]) == (0.0, 30.0)


async def test_a_rate_limit_makes_everybody_wait_and_is_done_once_in_an_attempt() -> None:
    stage = Stage([ModelRateLimited("slow", retry_after=7.0)])

    await stage.play()

    [(endpoint, seconds, once)] = stage.store.about("slow_down")
    assert (endpoint, seconds) == ("there", 7.0)
    assert once == f"slow_down {stage.run.claim.run_id} 1"  # type: ignore[union-attr]


async def test_a_circuit_is_opened_once_in_an_attempt_and_said_in_the_log(log_lines: LogLines) -> None:
    stage = Stage([QuotaExhausted("empty")])
    stage.store.stumbles["trip"] += [LostReply(OutcomeUnknown("lost"))]

    await stage.play()

    [(_, _, once), (_, _, again)] = stage.store.about("trip")
    assert once == again == f"trip {stage.run.claim.run_id} 1"  # type: ignore[union-attr]
    assert names(log_lines) == ["circuit_opened", "run_settled"]


@pytest.mark.parametrize(("attempt", "delay"), [(1, 2.0), (3, 5.0), (9, 61.0)])
async def test_a_rate_limit_without_a_time_waits_longer_each_time(attempt: int, delay: float) -> None:
    stage = Stage([ModelRateLimited("slow")])

    verdict = await stage.play(attempt=attempt)

    assert outcome(verdict)[1] == min(delay, 60.0)
    assert len(stage.store.about("slow_down")) == (delay <= 60.0)
    assert len(stage.store.about("trip")) == (delay > 60.0)


async def test_a_message_may_name_the_model_that_answers_it_and_the_last_word_counts() -> None:
    others = [ScriptedModel(says(f"from {name}"), endpoint=name) for name in ("a", "b")]
    stage = Stage(others=others)
    await stage.say("m1", model="a")
    await stage.say("m2", model="b")
    await stage.say("m3")

    verdict = await stage.perform(await stage.lease())

    assert isinstance(verdict, Commit)
    assert verdict.text == "from b"


# ---------------------------------------------------------------- a stop


async def test_a_claim_that_was_stopped_before_asks_nobody() -> None:
    stage = Stage()

    verdict = await stage.play(stop="cancel")

    assert isinstance(verdict, Commit)
    assert (verdict.outcome, verdict.text, stage.model.requests) == ("cancelled", "", [])
    assert [entry.item.kind for entry in verdict.entries] == ["user"]


STOPS = {
    "cancel": ("cancel", "half a", [AssistantItem("half a", interrupted=True)]),
    "interrupt": ("interrupt", "half a", [AssistantItem("half a", interrupted=True)]),
    "rollback": ("rollback", "", []),
}


@pytest.mark.parametrize(("stop", "text", "items"), STOPS.values(), ids=STOPS)
async def test_a_stopped_run_keeps_what_was_shown_unless_it_is_rolled_back(
    stop: Any, text: str, items: list[object]
) -> None:
    stage = Stage([Began(None), *words("half ", "a"), 60.0])
    lease = await stage.lease("m1")
    asyncio.get_running_loop().call_later(5.0, lease.stop, stop)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert (verdict.outcome, verdict.text) == ("cancelled", text)
    assert [entry.item for entry in verdict.entries][1:] == items
    assert (await stage.events())[-1].outcome == "cancelled"


async def test_a_stopped_step_is_kept_beside_the_whole_ones_before_it() -> None:
    script = [asks(PAY, text="I pay."), [Began(None), *words("Now ", "I"), 60.0]]
    stage = Stage(*script, tools=[pay])
    lease = await stage.lease("m1")
    asyncio.get_running_loop().call_later(5.0, lease.stop)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert verdict.text == "I pay.\n\nNow I"
    assert [entry.item for entry in verdict.entries][1:] == [
        AssistantItem("I pay."),
        CallItem(*PAY),
        OutputItem("c1", "paid 5"),
        AssistantItem("Now I", interrupted=True),
    ]


async def test_a_lease_that_is_lost_within_a_call_ends_the_run_as_one_that_is_lost_elsewhere() -> None:
    stage = Stage(asks(PAY), says("never"), tools=[pay])
    stage.store.stumbles["journal"] += [None, LeaseLost("fenced")]

    assert await stage.play() == Dropping()
    assert len(stage.store.about("journal")) == 2


def stopped_in_a_call(stop: Stop) -> tuple[Stage, Callable[[], Any]]:
    started = asyncio.Event()

    @tool
    async def slow(context: ToolContext) -> str:
        """Takes an hour."""
        started.set()
        await asyncio.sleep(3600.0)
        return "never"

    calls = [("c1", "slow", "{}"), ("c2", "ask", "{}"), ("c3", "slow", "{}")]

    @tool(needs_approval=True)
    async def ask() -> str:
        """Asks."""
        return "never"

    rules = replace(RULES, calls=replace(RULES.calls, parallel=1))
    stage = Stage(asks(*calls, text="Look:"), tools=[slow, ask], rules=rules)

    async def play() -> Any:
        lease = await stage.lease("m1")
        asyncio.get_running_loop().call_later(5.0, lease.stop, stop)
        return await stage.perform(lease)

    return stage, play


@pytest.mark.parametrize("stop", ["cancel", "rollback"])
async def test_a_run_stopped_in_a_call_never_hides_an_effect_that_had_begun(stop: Any) -> None:
    _, play = stopped_in_a_call(stop)

    verdict = await play()

    outputs = {e.item.call_id: e.item.status for e in verdict.entries if isinstance(e.item, OutputItem)}
    calls = [e.item.call_id for e in verdict.entries if isinstance(e.item, CallItem)]
    if stop == "rollback":
        assert (calls, outputs, verdict.text) == (["c1"], {"c1": "unknown"}, "")
    else:
        assert calls == ["c1", "c2", "c3"]
        assert outputs == {"c1": "unknown", "c2": "cancelled", "c3": "cancelled"}
        assert verdict.text == "Look:"


async def dies(stage: Stage, lease: Lease, after: float = 5.0) -> None:
    """A worker that is gone in the middle of a run, and says nothing to anybody."""
    running = asyncio.create_task(stage.perform(lease))
    await asyncio.sleep(after)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("page", [1000, 2])
async def test_a_stop_after_a_death_commits_what_the_dead_worker_has_shown(page: int) -> None:
    stage = Stage([Began(None), *words("half ", "an ", "answer"), 600.0], lease=LeaseRules(30.0))
    await dies(stage, await stage.lease("m1"))
    await stage.store.cancel(HERE)
    await asyncio.sleep(31.0)
    stage.store.page = page
    [lease] = await stage.keeper.claim(1, None)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert (verdict.outcome, verdict.text) == ("cancelled", "half an answer")
    assert len(stage.store.about("read")) > (1 if page == 1000 else 3)


async def test_a_stop_in_retry_commits_what_the_failed_attempt_has_shown() -> None:
    stage = Stage([Began(None), *words("half ", "an answer"), 1.0, ModelUnavailable("gone")])
    await stage.play("m1")
    await stage.store.cancel(HERE)
    [lease] = await stage.keeper.claim(1, None)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert (verdict.outcome, verdict.text) == ("cancelled", "half an answer")


async def test_of_a_log_that_was_lost_nothing_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    read = StumblingStore.read

    async def read_lost(self: StumblingStore, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        return replace(await read(self, address, after=after, limit=limit), live_from=None)

    monkeypatch.setattr(StumblingStore, "read", read_lost)
    verdict = await stage.play(stop="cancel")

    assert isinstance(verdict, Commit)
    assert (verdict.text, len(stage.store.about("read"))) == ("", 1)


async def test_a_log_that_gives_no_more_ends_the_search_for_what_was_shown() -> None:
    stage = Stage()
    stage.store.page = 0

    verdict = await stage.play(stop="cancel")

    assert isinstance(verdict, Commit)
    assert verdict.text == ""


async def test_of_a_journal_without_a_log_the_text_of_its_steps_is_kept() -> None:
    stage = Stage()
    step = {"n": 0, "type": "step", "items": [{"kind": "assistant", "text": "whole"}], "text": "whole", "usage": {},
            "ending": "calls", "model": MODEL}  # fmt: skip

    verdict = await stage.play(stop="cancel", journal=(step,))

    assert isinstance(verdict, Commit)
    assert verdict.text == "whole"
    assert [entry.item for entry in verdict.entries][1:] == [AssistantItem("whole")]


async def test_a_stop_while_the_store_is_away_drops_the_run_when_the_lease_is_over() -> None:
    stage = Stage([Began(None), *words("half"), 60.0], lease=LeaseRules(30.0))
    lease = await stage.lease("m1")
    asyncio.get_running_loop().call_later(5.0, lease.stop)
    stage.store.stumbles["publish"] += [StoreUnavailable("away")] * 1000
    stage.store.stumbles["journal"] += [StoreUnavailable("away")] * 1000
    stage.store.stumbles["read"] += [StoreUnavailable("away")] * 1000
    stage.store.stumbles["commit"] += [StoreUnavailable("away")] * 1000

    assert await stage.perform(lease) == Dropping()
    assert stage.meter.total("lease_losses") == 1
    assert stage.meter.observed("run_seconds") == pytest.approx([25.0], abs=1.5)


async def test_a_stop_that_cannot_read_what_was_shown_drops_the_run() -> None:
    stage = Stage(lease=LeaseRules(30.0))
    stage.store.stumbles["read"] += [StoreUnavailable("away")] * 1000

    assert await stage.play(stop="cancel") == Dropping()
    assert stage.store.about("commit") == []


# ---------------------------------------------------------------- what works in the background


async def background(stage: Stage) -> None:
    await stage.assistant(model=MODEL, background=True)


@pytest.mark.parametrize(
    ("costs", "requests", "estimated"),
    [(Usage(1, 100, output_tokens=7), 1, 0), (None, 1, 1), (ModelUnavailable("x"), 1, 1), (60.0, 1, 1)],
    ids=["told", "not told", "refused", "too slow"],
)
async def test_a_stopped_run_stops_its_response_and_pays_for_it(costs: Any, requests: int, estimated: int) -> None:
    model = BackgroundScript([Began("resp_1"), *words("half"), 60.0], costs=costs)
    stage = Stage(model=model)
    await background(stage)
    lease = await stage.lease("m1")
    asyncio.get_running_loop().call_later(5.0, lease.stop)

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert model.cancellations == ["resp_1"]
    assert (verdict.usage.requests, verdict.usage.estimated, verdict.usage.unpriced) == (requests, estimated, 1)
    assert verdict.usage.input_tokens == (100 if isinstance(costs, Usage) else 0)


@pytest.mark.parametrize(("error", "stopped"), [(ModelRefused("no"), ["resp_1"]), (ModelRateLimited("slow"), [])])
async def test_a_run_that_fails_for_good_stops_its_response_and_another_attempt_goes_on_with_it(
    error: Exception, stopped: list[str]
) -> None:
    model = BackgroundScript([Began("resp_1"), error])
    stage = Stage(model=model)
    await background(stage)

    await stage.play()

    assert model.cancellations == stopped


async def test_an_open_response_is_gone_on_with_by_the_model_that_has_it() -> None:
    model = BackgroundScript(says("from the background", response_id="resp_1"))
    stage = Stage(says("not asked"), others=[])
    stage.models["slow-model"] = model
    record = {"n": 0, "type": "response", "response_id": "resp_1", "model": "slow-model"}
    lease = await stage.lease("m1")
    await stage.store.journal(lease.claim, [record])
    lease.claim = replace(lease.claim, journal=(record,))

    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert (verdict.text, verdict.model) == ("from the background", "slow-model")
    assert [request.response_id for request in model.requests] == ["resp_1"]


# ---------------------------------------------------------------- acting upon the verdict


SETTLED: dict[str, tuple[str, list[Line]]] = {
    "commit": ("commit", says("answer")),
    "fail": ("fail", [ModelRefused("no")]),
    "release": ("release", [Waiting("later")]),
    "hold": ("hold", asks(("c1", "buy", '{"amount": 1}'))),
}


@pytest.mark.parametrize(("operation", "script"), SETTLED.values(), ids=SETTLED)
@pytest.mark.parametrize(
    "stumble", [StoreUnavailable("away"), LostReply(OutcomeUnknown("lost"))], ids=["before", "reply lost"]
)
async def test_a_settlement_is_repeated_until_the_store_answers(
    operation: str, script: Sequence[Line], stumble: Stumble
) -> None:
    stage = Stage(script, tools=[buy])
    stage.store.stumbles[operation] += [stumble, stumble]

    verdict = await stage.play()

    assert not isinstance(verdict, Dropping)
    assert len(stage.store.about(operation)) == 3


@pytest.mark.parametrize(("operation", "script"), SETTLED.values(), ids=SETTLED)
@pytest.mark.parametrize(
    ("stumble", "line"),
    [
        (StoreUnavailable("away"), "settlement_failed"),
        (ThreadQuarantined("damaged"), "settlement_failed"),
        (LeaseLost("somebody else"), None),
        (ValueError("a bug"), "settlement_broke"),
    ],
    ids=["away for good", "refused", "fenced", "broken"],
)
async def test_what_cannot_be_settled_is_dropped_before_the_lease_is_over(
    operation: str, script: Sequence[Line], stumble: Exception, line: str | None, log_lines: LogLines
) -> None:
    stage = Stage(script, tools=[buy], lease=LeaseRules(30.0))
    stage.store.stumbles[operation] += [stumble] * 1000

    verdict = await stage.play()

    assert verdict == Dropping()
    expected = [*([line] if line else []), "run_settled"]
    assert [name for name in names(log_lines) if name not in ("attempt_failed",)] == expected
    assert stage.meter.observed("run_seconds")[0] <= 25.5
    assert stage.meter.total("lease_losses") == 1


async def test_a_run_reports_how_it_was_settled(log_lines: LogLines) -> None:
    stage = Stage()
    await stage.play("m1", "m2")

    [line] = log_lines()
    assert line | {"run_id": ""} == {
        "event": "run_settled", "run_id": "", "attempt": 1, "verdict": "commit", "messages": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("operation", "script"), SETTLED.values(), ids=SETTLED)
@pytest.mark.parametrize("is_lost", [False, True], ids=["settled", "lost"])
async def test_a_run_is_logged_by_the_word_that_it_is_counted_by(
    operation: str, script: Sequence[Line], is_lost: bool, log_lines: LogLines
) -> None:
    stage = Stage(script, tools=[buy])
    stage.store.stumbles[operation] += [LeaseLost("somebody else")] * is_lost

    verdict = await stage.play()

    [word] = [line["verdict"] for line in log_lines() if line["event"] == "run_settled"]
    assert word == VERDICT_LABELS[type(verdict)]
    assert stage.meter.total("runs", verdict=word) == 1


async def test_everything_that_was_said_is_in_the_log_before_the_settlement() -> None:
    stage = Stage(says("one two three"))
    stage.store.stumbles["publish"] += [5.0]

    await stage.play()

    assert (await stage.kinds())[-4:] == ["delta", "delta", "delta", "completed"]


LOST_WORDS: dict[str, tuple[int, list[str]]] = {
    "all": (0, ["responding", "delta", "delta"]),
    "the last": (2, ["delta"]),
    "none": (3, []),
}


@pytest.mark.parametrize(("heard", "lost"), LOST_WORDS.values(), ids=LOST_WORDS)
async def test_what_a_failover_took_of_an_answer_is_shown_again_before_its_end(heard: int, lost: list[str]) -> None:
    stage = Stage(says("good day"))
    lease = await stage.lease("m1")
    promoted = promote_before_the_end(stage, heard)

    verdict = await stage.perform(lease)

    events = await stage.events()
    assert isinstance(verdict, Commit)
    assert [event.kind for event in promoted] == lost
    assert [event.kind for event in events].count("completed") == 1
    answer = Answer()
    for event in events[:-1]:
        answer.take(event)
    assert answer.text == events[-1].text == "good day"
    assert len(stage.store.about("commit")) == (2 if lost else 1)


@pytest.mark.parametrize("heard", [0, 2, 9])
async def test_what_a_failover_took_of_a_turn_is_shown_again_before_it_waits_for_somebody(heard: int) -> None:
    stage = Stage(asks(("c1", "buy", '{"amount": 1}'), text="let me buy it"), tools=[buy])
    lease = await stage.lease("m1")
    promoted = promote_before_the_end(stage, heard)

    verdict = await stage.perform(lease)

    events = await stage.events()
    assert isinstance(verdict, HoldVerdict)
    assert bool(promoted) == (heard < 9)
    assert [event.kind for event in events].index("held") == len(events) - 1
    answer = Answer()
    for event in events:
        answer.take(event)
    assert answer.text == "let me buy it"
    beside = [event.kind for event in events if event.kind in BESIDE_TEXT]
    assert len(beside) == len(set(beside)) > 0
    assert len(stage.store.about("hold")) == (2 if promoted else 1)


async def test_who_lost_his_lease_with_the_words_of_his_answer_drops_it(log_lines: LogLines) -> None:
    stage = Stage(says("good day"))
    lease = await stage.lease("m1")
    promote_before_the_end(stage, 0)
    stage.store.stumbles["publish"] += [None, LeaseLost("taken over")]

    assert await stage.perform(lease) == Dropping()
    assert "events_published_again" in names(log_lines)
    assert await stage.status("m1") == "running"


def promote_before_the_end(stage: Stage, heard: int) -> list[Event]:
    """A server that has heard so many events of the run takes over when the run ends; what that took."""
    first_commit, first_hold, lost = stage.store.commit, stage.store.hold, list[Event]()

    def take_over() -> None:
        kept = stage.store.threads[HERE]
        if not lost and kept.thread.published > heard:
            place = len(kept.log.events) - (kept.thread.published - heard)
            lost[:] = kept.log.events[place:]
            del kept.log.events[place:]
            kept.thread.top -= len(lost)
            kept.thread.published = heard

    async def commit(claim: Claim, commit: Commit) -> Remainder:
        take_over()
        return await first_commit(claim, commit)

    async def hold(claim: Claim, calls: Sequence[HeldCall], **wishes: Any) -> None:
        take_over()
        await first_hold(claim, calls, **wishes)

    stage.store.commit, stage.store.hold = commit, hold  # type: ignore[method-assign]
    return lost


# ---------------------------------------------------------------- money and pace


def price_book(folder: Path) -> PriceBook:
    path = folder / "prices.toml"
    path.write_text(f'[prices."{MODEL}"]\ninput = 1\noutput = 1\n')
    return PriceBook(path)


async def test_a_run_asks_leave_for_each_request_and_waits_for_the_pace() -> None:
    stage = Stage(
        asks(PAY), says("done"), tools=[pay], purse=lambda store: Budgets(store, PriceBook(), pace=Pace(requests=1))
    )

    verdict = await stage.play()

    assert outcome(verdict)[0::2] == ("release", "pace_reached")
    assert len(stage.model.requests) == 1


@pytest.mark.parametrize("budgets", [[], [Budget("tenant", 1.0)]], ids=["free", "with a budget"])
async def test_limits_that_an_answer_states_make_everybody_wait(budgets: list[Budget], tmp_path: Path) -> None:
    prices = price_book(tmp_path)
    script = [Began(None, wait=12.0), *says("answer")[1:]]
    stage = Stage(script, prices=prices, purse=lambda store: Budgets(store, prices, budgets))

    await stage.play()

    assert stage.store.about("slow_down") == [("there", 12.0, None)]


@pytest.mark.parametrize(
    ("script", "dollars"),
    [
        (says("answer"), 12e-6),
        ([ModelRefused("no")], 0.0),
        ([Waiting("later")], None),
        ([ModelUnavailable("503")], None),
    ],
    ids=["committed", "failed for good", "waits", "tried again"],
)
async def test_a_reservation_is_settled_when_the_run_is_over_and_not_before(
    script: Sequence[Line], dollars: float | None, tmp_path: Path
) -> None:
    prices = price_book(tmp_path)
    stage = Stage(script, prices=prices, purse=lambda store: Budgets(store, prices, [Budget("tenant", 1.0)]))
    lease = await stage.lease("m1")
    limit = Budget("tenant", 1.0).limit(lease.claim)
    assert limit is not None

    await stage.perform(lease)

    account = await stage.store.spend(limit.account, tenant="default")
    assert (account.reserved_amount > 0) == (dollars is None)
    assert account.settled_amount == round((dollars or 0.0) * 1e9)


# ---------------------------------------------------------------- what is asked of the store


async def test_nothing_is_asked_of_the_store_between_a_claim_and_its_model_while_runs_follow_each_other() -> None:
    stage = Stage(says("one"), says("two"), purse=lambda store: Budgets(store, PriceBook()))
    operations: list[str] = []
    for name in ("get", "circuits", "pace", "history"):
        note_calls(stage, name, operations)
    await stage.play("m1")
    assert {"get", "circuits", "pace"} <= set(operations), "nothing was known"

    lease = await stage.lease("m2")
    operations.clear()
    await stage.perform(lease)

    assert set(operations) <= {"history"}


def note_calls(stage: Stage, name: str, operations: list[str]) -> None:
    act = getattr(stage.store, name)

    def noted(*arguments: Any, **options: Any) -> Any:
        operations.append(name)
        return act(*arguments, **options)

    setattr(stage.store, name, noted)


@pytest.mark.parametrize("change", ["a circuit opens", "a provider asks to wait"])
async def test_what_another_worker_has_met_counts_for_the_next_run(change: str) -> None:
    stage = Stage(says("one"), says("two"), purse=lambda store: Budgets(store, PriceBook()))
    await stage.play("m1")
    if change == "a circuit opens":
        await stage.store.trip("there", TurnFault("spent_quota", "", ""), probe_in=30.0)
    else:
        await stage.store.slow_down("there", 30.0)

    verdict = await stage.play("m2")

    assert isinstance(verdict, Releasing)
    assert len(stage.model.requests) == 1


async def test_a_final_answer_is_written_by_its_commit_alone() -> None:
    stage = Stage(asks(PAY), says("done"), tools=[pay])
    await stage.play()

    assert [record["type"] for [record] in stage.store.about("journal")] == ["step", "started", "output"]
    assert [entry["type"] for entry in stage.observations if isinstance(entry, dict)][-1] == "step"
    assert len(stage.store.about("commit")) == 1


async def test_a_final_answer_whose_run_is_drained_before_its_commit_is_not_asked_for_again() -> None:
    """The next worker goes on with what the last one has."""
    stage = Stage(says("done"), says("asked again"))
    lease = await stage.lease("m1")
    stage.store.stumbles["publish"].append(1.0)  # what was said is on its way when the worker drains
    asyncio.get_running_loop().call_later(0.5, stage.keeper.drain)
    assert isinstance(await stage.perform(lease), Releasing)

    [lease] = await stage.keeper.claim(10, None)
    verdict = await stage.perform(lease)

    assert isinstance(verdict, Commit)
    assert verdict.text == "done"
    assert len(stage.model.requests) == 1


async def test_charts_name_the_model_and_the_assistant_that_answered_and_how_long_it_took() -> None:
    stage = Stage([Began(None), 2.0, *says("hello")[1:-1], 3.0, says("")[-1]], has_activity=True)
    await stage.assistant(model=MODEL, name="Olga")
    assert stage.house.activity is not None

    await stage.play("m1", "m2")
    await stage.house.activity.save()

    [day] = await read_days(stage.store, "default", days=1, now=stage.clock.now())
    assert (list(day.models), list(day.assistants)) == ([MODEL], ["Olga"])
    assert (day.total["ends"], day.total["messages"]) == ({"completed": 1}, 2)
    waits = day.total["waits"]
    assert (quantile(waits["first"], 1.0), quantile(waits["whole"], 1.0)) == (4.0, 8.0)


async def test_charts_count_a_run_that_showed_nothing_and_has_no_first_token() -> None:
    stage = Stage([ModelUnavailable("503")], has_activity=True)
    assert stage.house.activity is not None

    await stage.play("m1")
    await stage.house.activity.save()

    [cell] = await stage.activity()
    assert (cell["ends"], cell["errors"]) == ({"retry": 1}, {"model_unavailable": 1})
    assert "first" not in cell["waits"]


async def test_who_traces_sees_the_run_its_requests_and_its_calls_in_the_words_of_the_conventions() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stage = Stage(asks(PAY), says("done", response_id="resp_2"), tools=[pay])
    await stage.assistant(model=MODEL, name="Olga", parameters={"temperature": 0.5})
    lease = await stage.lease("m1", "m2")
    use_tracer(provider.get_tracer("test"))
    try:
        await stage.perform(lease)
    finally:
        use_tracer(None)

    spans = [(span.name, dict(span.attributes or {})) for span in exporter.get_finished_spans()]
    assert [name for name, _ in spans] == [f"chat {MODEL}", "execute_tool pay", f"chat {MODEL}", "invoke_agent Olga"]
    first, call, second, run = (attributes for _, attributes in spans)
    assert (first["gen_ai.request.model"], first["gen_ai.request.temperature"]) == (MODEL, 0.5)
    assert first["gen_ai.conversation.id"] == run["gen_ai.conversation.id"] == lease.claim.thread_id
    assert "gen_ai.response.id" not in first
    assert (call["gen_ai.tool.name"], call["gen_ai.tool.call.id"]) == ("pay", "c1")
    assert second["gen_ai.response.id"] == "resp_2"
    finishes = [one["gen_ai.response.finish_reasons"] for one in (first, second)]
    assert finishes == [("tool_calls",), ("stop",)]
    assert (second["gen_ai.usage.input_tokens"], second["gen_ai.usage.output_tokens"]) == (10, 2)
    assert (run["turnkeep.run.id"], run["turnkeep.batch.messages"]) == (lease.claim.run_id, 2)
    words = repr([attributes for _, attributes in spans])
    assert "hello" not in words
    assert "done" not in words
