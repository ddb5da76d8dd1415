"""Faults strike the requests they are meant for, as often as told, and where they say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from turnkeep.simulator import Fault, Faults, Options, Prompt
from turnkeep.simulator.faults import FAULT_KINDS, disturb, problem
from turnkeep.simulator.frames import FOREVER, ReplyFrame
from turnkeep.simulator.prompt import PromptEntry
from turnkeep.simulator.seeded_ids import SeededIds


def asked(*texts: str, thread: str | None = None) -> Prompt:
    labels = {} if thread is None else {"turnkeep_thread": thread}
    return Prompt(tuple(PromptEntry("user", text) for text in texts), model="m", labels=labels)


def faults(*some: Fault) -> Faults:
    found = Faults(SeededIds(0))
    for fault in some:
        found.append(fault)
    return found


def kinds(found: Faults, prompt: Prompt, times: int) -> list[str | None]:
    return [fault.kind if (fault := found.strike(prompt)) is not None else None for _ in range(times)]


def test_a_fault_strikes_as_often_as_told_then_leaves() -> None:
    found = faults(Fault("500", times=2))
    assert kinds(found, asked("x"), 3) == ["500", "500", None]
    assert len(found) == 0


def test_times_none_is_for_ever() -> None:
    assert kinds(faults(Fault("500", times=None)), asked("x"), 5) == ["500"] * 5


def test_a_fault_waits_for_its_message_and_thread() -> None:
    found = faults(Fault("500", match="milk", thread="t"))
    assert found.strike(asked("eggs", thread="t")) is None
    assert found.strike(asked("milk", thread="u")) is None
    assert found.strike(asked("eggs", "buy milk", thread="t")) is not None


def test_a_fault_may_ask_the_prompt() -> None:
    found = faults(Fault("500", match=lambda prompt: len(prompt.entries) > 1))
    assert kinds(found, asked("x"), 1) == [None]
    assert kinds(found, asked("x", "y"), 1) == ["500"]


def test_a_fault_may_wait_for_a_step() -> None:
    found = faults(Fault("500", step=1))
    assert found.strike(asked("x")) is None
    later = Prompt(
        (PromptEntry("user", "x"), PromptEntry("call", "{}", "call_1", "f"), PromptEntry("output", "y", "call_1"))
    )
    assert found.strike(later) is not None


def test_probability_is_repeatable() -> None:
    def some() -> list[str | None]:
        return kinds(faults(Fault("500", times=None, probability=0.3)), asked("x"), 200)

    assert some() == some()
    assert 30 < some().count("500") < 90


def test_a_marker_counts_for_its_own_message() -> None:
    found = faults()
    prompt = asked("a [[fault:429 times=2]]")
    assert kinds(found, prompt, 3) == ["429", "429", None]
    assert kinds(found, asked("b [[fault:429]]"), 2) == ["429", None]


def test_markers_of_a_message_strike_one_after_the_other() -> None:
    assert kinds(faults(), asked("[[fault:500]] [[fault:cut after=2]]"), 3) == ["500", "cut", None]


def test_a_marker_in_an_answered_turn_is_over() -> None:
    prompt = Prompt((PromptEntry("user", "[[fault:500]]"), PromptEntry("assistant", "ok"), PromptEntry("user", "next")))
    assert faults().strike(prompt) is None


def test_poison_never_goes_away() -> None:
    found = faults()
    assert kinds(found, asked("good", "bad [[fault:poison]]"), 4) == ["poison"] * 4
    assert kinds(found, asked("good"), 1) == [None]
    assert kinds(faults(Fault("poison", match="bad")), asked("very bad"), 3) == ["poison"] * 3


def test_unknown_faults_are_refused_when_told_and_ignored_in_texts() -> None:
    with pytest.raises(ValueError, match="there is no fault 'nonsense'"):
        Fault("nonsense")
    with pytest.raises(ValueError, match="colour"):
        Fault.from_json({"kind": "500", "colour": "red"})
    assert faults().strike(asked("[[fault:nonsense]]")) is None


def test_parameters_of_a_marker_arrive() -> None:
    fault = faults().strike(asked("[[fault:stall after=3 seconds=1.5 how=reset times=always]]"))
    assert fault == Fault("stall", None, after=3, seconds=1.5, how="reset")


def test_aliases_mean_the_same() -> None:
    assert Fault("accepted-then-lost").kind == "lost"
    assert (Fault("reset").kind, Fault("reset").how) == ("cut", "reset")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fault", "status", "type", "code"),
    [
        (Fault("429"), 429, "requests", "rate_limit_exceeded"),
        (Fault("429", code="slow_down"), 429, "rate_limit_error", "slow_down"),
        (Fault("quota"), 429, "insufficient_quota", "insufficient_quota"),
        (Fault("429", code="credit_balance_exhausted"), 429, "insufficient_quota", "credit_balance_exhausted"),
        (Fault("429", code="project_spend_limit_exceeded"), 429, "insufficient_quota", "project_spend_limit_exceeded"),
        (Fault("500"), 500, "server_error", None),
        (Fault("503"), 503, "service_unavailable_error", "server_is_overloaded"),
        (Fault("529"), 529, "server_error", None),
        (Fault("401"), 401, "invalid_request_error", "invalid_api_key"),
        (Fault("model_not_found"), 404, "invalid_request_error", "model_not_found"),
        (Fault("context_length_exceeded"), 400, "invalid_request_error", "context_length_exceeded"),
        (Fault("conversation_locked"), 400, "invalid_request_error", "conversation_locked"),
        (Fault("poison"), 400, "invalid_request_error", "invalid_prompt"),
    ],
)
def test_refusals_have_the_platforms_shape(fault: Fault, status: int, type: str, code: str | None) -> None:
    refusal = problem(fault, asked("x"), "input")
    assert refusal is not None
    assert (refusal.status, refusal.type, refusal.code) == (status, type, code)


def test_waiting_times_and_other_headers_are_sent() -> None:
    fault = Fault("429", retry_after=7, retry_after_ms=7000, headers={"x-should-retry": "false"})
    refusal = problem(fault, asked("x"), "input")
    assert refusal is not None
    assert refusal.headers == {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "7s",
        "retry-after": "7",
        "retry-after-ms": "7000",
        "x-should-retry": "false",
    }


def test_faults_of_the_stream_are_no_refusals() -> None:
    assert all(problem(Fault(kind), asked("x"), "input") is None for kind in ("cut", "stall", "lost", "html", "refuse"))


# ---------------------------------------------------------------- within a stream


class Tape:
    """A run of five deltas between a head and a terminal event."""

    def __init__(self) -> None:
        self.stream = self._frames()
        self.failed_with: tuple[str, bool, bool] | None = None

    def _frames(self) -> Iterator[ReplyFrame]:
        yield ReplyFrame(b"head", head=True)
        yield ReplyFrame(b"added")
        yield from (ReplyFrame(b"delta-%d" % n, wait=0.1, delta=True) for n in range(5))
        yield ReplyFrame(b"last", act="last")

    def garbage(self) -> bytes:
        return b"garbage"

    def unknown_frames(self) -> list[bytes]:
        return [b"unknown"]

    def fail(self, code: str, message: str, *, error_event: bool, failed_event: bool) -> Iterator[ReplyFrame]:
        self.failed_with = (code, error_event, failed_event)
        yield ReplyFrame(b"failed", act="last")


def played(fault: Fault | None) -> list[bytes]:
    return [frame.data for frame in disturb(Tape(), fault)]


def test_no_fault_changes_nothing() -> None:
    assert played(None) == [b"head", b"added", *(b"delta-%d" % n for n in range(5)), b"last"]
    assert played(Fault("lost")) == played(None)


def test_a_cut_ends_within_the_next_frame() -> None:
    frames = list(disturb(Tape(), Fault("cut", after=3)))
    assert [frame.data for frame in frames][-2:] == [b"delta-2", b"del"]
    assert frames[-1].act == "close"
    assert list(disturb(Tape(), Fault("cut", how="reset")))[-1].act == "reset"


def test_a_truncated_stream_ends_cleanly_without_its_end() -> None:
    frames = list(disturb(Tape(), Fault("truncate", after=99)))
    assert frames[-2].data == b"delta-4"
    assert frames[-1] == ReplyFrame(act="end")


def test_a_stall_is_silence_then_the_rest_or_nothing() -> None:
    short = list(disturb(Tape(), Fault("stall", after=1, seconds=2)))
    assert ReplyFrame(wait=2, act="stall") in short
    assert short[-1].data == b"last"
    assert ReplyFrame(wait=FOREVER, act="stall") in list(disturb(Tape(), Fault("stall")))


def test_odd_frames_come_between_and_after() -> None:
    assert played(Fault("garbage", after=1))[3] == b"garbage"
    assert played(Fault("unknown"))[1] == b"unknown"
    assert played(Fault("late"))[-2:] == [b"last", b"unknown"]


@pytest.mark.parametrize(
    ("kind", "error", "failed"), [("error", True, False), ("failed", False, True), ("early-error", True, True)]
)
def test_failures_within_200_end_the_stream(kind: str, error: bool, failed: bool) -> None:
    tape = Tape()
    frames = list(disturb(tape, Fault(kind, code="insufficient_quota")))
    assert tape.failed_with == ("insufficient_quota", error, failed)
    assert [frame.data for frame in frames] == [b"head", b"failed"]


def test_leaving_a_disturbed_stream_leaves_the_run_usable() -> None:
    tape = Tape()
    frames = disturb(tape, Fault("unknown", after=2))
    assert next(frames).data == b"head"
    del frames
    assert next(tape.stream).data == b"added"


def test_every_kind_is_described() -> None:
    assert all(FAULT_KINDS.values())
    assert all(Fault(kind).kind == kind for kind in FAULT_KINDS)


def test_options_refuse_what_they_do_not_know() -> None:
    assert Options().but({"ping": 5, "api_keys": ["k"]}).api_keys == frozenset("k")
    for wrong in ({"colour": 1}, {"ping": "soon"}, {"ledger_file": "/x"}, {"on_abort": "maybe"}, {"split": 1}):
        with pytest.raises(ValueError, match="option"):
            Options().but(wrong)
