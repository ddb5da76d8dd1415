"""The seed dialect, against the documents' samples and the captured frames of the program it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rows import each_row
from turnkeep.events import Answer, CallDetail, Event, StepDetail, TurnFault, delta
from turnkeep.messages import Address, Citation
from turnkeep.remedies import remedy_of
from turnkeep.subscription import SubscriptionStart
from turnkeep.usage import Usage
from turnkeep.wire import Dialect, Encoder, Frame, WireEncoder, call_form, dumps, envelope, subscription_frame

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "seed-frames.jsonl"
ADDRESS = Address("default", "assistant", "c1")
RUN = {"run_id": "run_1", "attempt": 1, "epoch": "e"}

STATUS = {
    "message": "Assistant is processing your request...", "timestamp": 1683042123.456, "status": "started",
    "type": "status", "final_message": False, "message_id": "unique-message-id", "thread_id": "thread_abc123",
}  # fmt: skip
IN_PROGRESS = {
    "message": "Response content...", "timestamp": 1683042124.789, "status": "in_progress",
    "type": "response", "final_message": False, "message_id": "unique-message-id", "thread_id": "thread_abc123",
}  # fmt: skip
COMPLETED = {
    "message": "Complete response content...", "timestamp": 1683042125.123, "status": "completed",
    "type": "response", "final_message": True, "message_id": "unique-message-id", "thread_id": "thread_abc123",
}  # fmt: skip
ERROR = {
    "message": "Error description", "timestamp": 1683042126.456, "status": "error",
    "type": "error", "error_details": "Detailed error information", "message_id": "unique-message-id",
    "thread_id": "thread_abc123",
}  # fmt: skip


def encoder(**dialect: bool) -> Encoder:
    return Encoder(ADDRESS, "thread_abc123", Dialect(**dialect))


def event(kind: Any, offset: int = 1, at: float = 1.5, ids: tuple[str, ...] = (), **fields: Any) -> Event:
    return Event(kind, ids, offset=offset, at=at, **{**RUN, **fields})


def begin(to: Encoder, *ids: str) -> list[Frame]:
    return to.encode(event("started", ids=ids or ("unique-message-id",)))


def head(frame: Frame, like: dict[str, Any]) -> dict[str, Any]:
    return dict(list(frame.items())[: len(like)])


def test_the_four_samples_of_the_documents_come_out_key_by_key() -> None:
    to = encoder()
    started = to.encode(event("started", ids=("unique-message-id",), at=1683042123.456))
    to.encode(event("delta", 2, 1683042124.789, text="Response content..."))
    progress = to.flush()
    completed = to.encode(
        event(
            "completed",
            3,
            1683042125.123,
            ("unique-message-id",),
            text="Complete response content...",
            outcome="completed",
        )
    )
    fault = TurnFault("model_unavailable", "Error description", "Detailed error information")
    dead = to.encode(event("dead", 4, 1683042126.456, ("unique-message-id",), error=fault))

    for frames, sample in ((started, STATUS), (progress, IN_PROGRESS), (completed, COMPLETED), (dead, ERROR)):
        [frame] = frames
        assert list(head(frame, sample).items()) == list(sample.items())


def captured() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The captured frames by status and type."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in GOLDEN.read_text().splitlines():
        frame = json.loads(json.loads(line)["frame"])
        payload = frame.get("payload", frame)
        if "status" in payload:
            found.setdefault((payload["status"], payload["type"]), []).append(payload)
    return found


def ours() -> dict[tuple[str, str], Frame]:
    """One of our frames for each status and type that was captured."""
    to = encoder()
    frames = begin(to)
    frames += to.encode(event("processing", 2, tools=("get_weather",)))
    frames += to.encode(event("responding", 3))
    to.encode(event("delta", 4, text="word "))
    frames += to.encode(event("completed", 5, ids=("unique-message-id",), text="word", outcome="completed"))
    frames += to.encode(event("dead", 6, ids=("unique-message-id",), error=TurnFault("x", "m", "d")))
    return {(frame["status"], frame["type"]): frame for frame in frames}


@pytest.mark.parametrize("kind", sorted(captured()), ids="/".join)
def test_each_captured_kind_of_frame_has_our_keys_in_order_types_and_fixed_strings(kind: tuple[str, str]) -> None:
    mine = ours()[kind]
    for theirs in captured()[kind]:
        assert list(mine)[: len(theirs)] == list(theirs)
        for name, value in theirs.items():
            if value is not None and mine[name] is not None:
                assert type(mine[name]) is type(value), name
        if kind[1] == "status":
            assert mine["message"] == theirs["message"]
        assert mine.get("final_message") == theirs.get("final_message")


def test_there_are_103_captured_lines() -> None:
    assert len(GOLDEN.read_text().splitlines()) == 103


def test_a_batch_ends_with_one_response_and_one_status_for_each_older_message() -> None:
    to = encoder()
    started = begin(to, "a", "b", "c")
    frames = to.encode(event("completed", 2, ids=("a", "b", "c"), text="answer", outcome="completed", usage=Usage(1)))

    assert [frame["message_id"] for frame in started] == ["a", "b", "c"]
    assert [(f["type"], f["message_id"], f["message"], f["final_message"]) for f in frames] == [
        ("response", "c", "answer", True),
        ("status", "a", "", True),
        ("status", "b", "", True),
    ]
    assert frames[0]["message_ids"] == ["a", "b", "c"]


def test_the_text_so_far_is_cumulative_and_delta_is_what_it_adds() -> None:
    to = encoder()
    begin(to)
    told = []
    for offset, text in enumerate(["Hel", "lo ", "you"], 2):
        to.encode(event("delta", offset, text=text))
        told += to.flush()

    assert [(f["message"], f["delta"]) for f in told] == [("Hel", "Hel"), ("Hello ", "lo "), ("Hello you", "you")]


def test_merged_text_is_one_frame_at_the_last_offset() -> None:
    to = encoder()
    begin(to)
    for offset, text in enumerate(["a", "b", "c"], 2):
        to.encode(event("delta", offset, text=text))

    [frame] = to.flush()

    assert (frame["message"], frame["delta"], frame["offset"]) == ("abc", "abc", 4)
    assert to.flush() == []


def test_delta_mode_sends_no_text_twice() -> None:
    to = encoder(deltas=True)
    begin(to)
    to.encode(event("delta", 2, text="a"))
    [first] = to.flush()
    to.encode(event("delta", 3, text="b"))
    [second] = to.flush()

    assert [(f["message"], f["delta"]) for f in (first, second)] == [("", "a"), ("", "b")]


def test_text_that_is_owed_is_told_before_anything_else() -> None:
    to = encoder()
    begin(to)
    to.encode(event("delta", 2, text="almost"))

    frames = to.encode(event("completed", 3, ids=("unique-message-id",), text="almost", outcome="completed"))

    assert [frame["status"] for frame in frames] == ["in_progress", "completed"]


def test_a_new_attempt_begins_with_a_snapshot_that_replaces_what_was_shown() -> None:
    to = encoder()
    begin(to)
    to.encode(event("delta", 2, text="half"))
    to.flush()

    frames = to.encode(event("started", 3, ids=("unique-message-id",), attempt=2))

    assert [(f["status"], f.get("snapshot")) for f in frames] == [("started", None), ("in_progress", True)]
    assert [frames[-1][name] for name in ("type", "message", "delta")] == ["response", "", ""]
    to.encode(event("delta", 4, text="whole", attempt=2))
    assert to.flush()[0]["message"] == "whole"


def test_a_retry_and_an_open_circuit_say_processing_only() -> None:
    to = encoder()
    begin(to)
    for kind in ("retrying", "waiting"):
        frames = to.encode(event(kind, 2, error=TurnFault("model_unavailable", "m", "d")))
        assert [(f["type"], f["status"]) for f in frames] == [("status", "processing")]


def test_an_empty_or_stopped_answer_has_a_fixed_sentence() -> None:
    stopped = encoder().encode(event("completed", 2, ids=("m",), text="", outcome="cancelled"))
    silent = encoder().encode(event("completed", 2, ids=("m",), text="", outcome="completed"))

    assert stopped[0]["message"] == "Stopped."
    assert silent[0]["message"]


def test_life_cycle_events_go_only_to_those_who_ask_for_everything() -> None:
    accepted = event("accepted", 1, ids=("m",), text="hello", policy="collect")

    assert encoder().encode(accepted) == []
    [frame] = encoder(everything=True).encode(accepted)
    assert (frame["status"], frame["type"], frame["message"]) == ("accepted", "status", "hello")


def test_all_frames_of_an_event_but_the_last_say_that_more_will_come() -> None:
    to = encoder()
    begin(to, "a", "b")
    to.encode(event("delta", 2, text="text"))

    frames = to.encode(event("completed", 3, ids=("a", "b"), text="text", outcome="completed"))

    assert [(f["offset"], f.get("more", False)) for f in frames] == [(2, False), (3, True), (3, False)]


def test_a_snapshot_takes_the_place_of_the_text_that_was_kept_back() -> None:
    """P7: whoever has shown the text so far must not show it twice."""
    to = encoder()
    begin(to)
    to.encode(event("delta", 2, text="half of it"))
    assert to.encode(event("snapshot", 3, text="whole")) == []
    to.encode(event("delta", 4, text=" text"))

    [frame] = to.flush()

    assert (frame["message"], frame["delta"], frame["snapshot"], frame["offset"]) == ("whole text", " text", True, 4)


@pytest.mark.parametrize("deltas", [False, True])
def test_a_snapshot_is_told_whole_in_every_mode_and_what_follows_is_not(deltas: bool) -> None:
    to = encoder(deltas=deltas)
    begin(to)
    to.encode(event("delta", 2, text="ab"))
    to.flush()
    to.encode(event("snapshot", 3, text="xy"))
    [replaced] = to.flush()
    to.encode(event("delta", 4, text="z"))
    [added] = to.flush()

    assert (replaced["message"], replaced["delta"], replaced["snapshot"]) == ("xy", "", True)
    assert (added["message"], added["delta"], added.get("snapshot")) == ("" if deltas else "xyz", "z", None)


def test_text_is_owed_from_the_first_piece_until_it_is_told() -> None:
    to = encoder()
    begin(to)
    owed = [to.owes]
    to.encode(event("delta", 2, text="a"))
    owed.append(to.owes)
    to.flush()

    assert [*owed, to.owes] == [False, True, False]


QUIET_EVENTS: dict[str, tuple[Event, dict[str, Any]]] = {
    "accepted": (event("accepted", ids=("m",), text="hi", policy="steer"), {"policy": "steer"}),
    "accepted without a policy": (event("accepted", ids=("m",), text="hi"), {}),
    "steered": (event("steered", ids=("m",), outcome="applied"), {"outcome": "applied"}),
    "decided": (event("decided", calls=({"call_id": "c1"},)), {"calls": [{"call_id": "c1", "withheld": True}]}),
    "paused": (event("paused"), {}),
    "reasoning": (event("reasoning", text="hm", place=3), {"place": 3}),
    "tool_call": (
        event("tool_call", detail=CallDetail("c1", "look", "{}"), place=4),
        {"place": 4, "detail": {"call_id": "c1", "name": "look", "arguments": "{}"}},
    ),
    "source": (event("source", detail=Citation(0, 4, "u")), {"place": 0, "detail": {"end": 4, "url": "u"}}),
    "step": (
        event("step", detail=StepDetail(1, "calls"), usage=Usage(1, 2)),
        {
            "place": 0,
            "detail": {"number": 1, "ending": "calls"},
            "usage": {"requests": 1, "input_tokens": 2, "cost": 0.0},
        },
    ),
}


@pytest.mark.parametrize(("told", "added"), QUIET_EVENTS.values(), ids=QUIET_EVENTS)
def test_an_event_of_the_life_cycle_tells_what_it_has_and_no_more(told: Event, added: dict[str, Any]) -> None:
    [frame] = encoder(everything=True).encode(told)

    assert {
        name: frame[name] for name in ("outcome", "policy", "calls", "place", "detail", "usage") if name in frame
    } == added
    assert (frame["status"], frame["type"], frame["final_message"]) == (told.kind, "status", False)


def test_a_frame_names_run_attempt_and_messages_of_its_event_else_of_the_turn_in_progress() -> None:
    to = encoder()
    to.encode(event("started", ids=("a", "b"), attempt=3))
    [bare] = to.encode(Event("responding", offset=2, epoch="e"))
    [own] = to.encode(event("responding", 3, ids=("c",), run_id="run_2", attempt=4))
    [before] = encoder().encode(Event("responding", offset=1, epoch="e"))

    assert (bare["run_id"], bare["attempt"], bare["message_ids"], bare["message_id"]) == ("run_1", 3, ["a", "b"], "b")
    assert (own["run_id"], own["attempt"], own["message_ids"], own["message_id"]) == ("run_2", 4, ["c"], "c")
    assert (before["message_id"], {"run_id", "attempt", "message_ids"} & before.keys()) == (None, set())


@pytest.mark.parametrize(
    ("show", "secret"),
    [(None, {"arguments", "digest", "output"}), ("arguments", {"output"}), ("all", set())],
)
def test_a_call_is_told_as_its_tool_says_and_in_full_to_who_decides(show: str | None, secret: set[str]) -> None:
    call = {"call_id": "c1", "name": "pay", "arguments": "{}", "digest": "d", "decision": "output", "output": "paid"}
    call |= {"show": show} if show else {}
    for kind, status in (("held", "processing"), ("decided", "decided")):
        told = {}
        for in_full in (True, False):
            to = encoder(everything=True, in_full=in_full)
            begin(to)
            [frame] = to.encode(event(kind, 4, calls=(call,)))
            assert frame["status"] == status
            [told[in_full]] = frame["calls"]
        assert told[True] == call
        assert {name for name in call if told[False][name] != call[name]} == secret
        assert told[False].get("withheld", False) == bool(secret)


def test_waiting_says_why_and_a_decision_says_on_what() -> None:
    to = encoder()
    begin(to)
    [waiting] = to.encode(event("waiting", 2, error=TurnFault("pace_reached", "m", "d")))
    [silent] = to.encode(event("waiting", 3))
    [held] = to.encode(event("held", 4, calls=({"call_id": "c1"},)))
    [tools] = to.encode(event("processing", 5, tools=("pay",)))

    assert (waiting["reason"], "reason" in silent) == ("pace_reached", False)
    assert (waiting["phase"], waiting["error_details"], waiting["remedy"]) == (
        "waiting",
        "d",
        remedy_of("pace_reached"),
    )
    assert (held["status"], held["calls"]) == ("processing", [{"call_id": "c1", "withheld": True}])
    assert (tools["tools"], "reason" in tools) == (["pay"], False)


def test_what_is_said_beside_the_log_has_no_position_to_resume_from() -> None:
    to = encoder()
    begin(to)

    [frame] = to.encode(event("processing", 2, error=TurnFault("silent", "m", "d")))

    assert (frame["reason"], frame["more"], {"offset", "epoch"} & frame.keys()) == ("silent", True, set())


def test_a_person_who_ends_a_turn_is_named_beside_its_outcome() -> None:
    [end] = encoder().encode(event("completed", text="by hand", author="olga", outcome="completed"))

    assert (end["message"], end["author"], end["outcome"], end["final_message"]) == (
        "by hand", "olga", "completed", True,
    )  # fmt: skip
    [of_model] = encoder().encode(event("completed", text="by itself", outcome="completed"))
    assert "author" not in of_model


def test_a_person_who_answers_is_named_and_a_dead_letter_has_its_code() -> None:
    to = encoder()
    [said] = to.encode(event("said", text="by hand", author="olga"))
    [dead, older] = to.encode(event("dead", 2, ids=("a", "b"), error=TurnFault("model_refused", "sorry", "why")))
    [bare] = to.encode(event("dead", 3))

    assert (said["type"], said["message"], said["author"], said["final_message"]) == (
        "response",
        "by hand",
        "olga",
        True,
    )
    assert (dead["code"], dead["message"], dead["error_details"], dead["message_id"]) == (
        "model_refused", "sorry", "why", "b",
    )  # fmt: skip
    assert (older["message_id"], older["final_message"]) == ("a", True)
    assert (bare["code"], bare["message"], bare["message_id"]) == ("internal_error", "", None)


def test_the_thread_of_an_event_is_the_one_of_all_that_follow() -> None:
    to = Encoder(ADDRESS, None, Dialect())
    begin(to)
    [named] = to.encode(event("responding", 2, thread_id="thread_new"))
    [after] = to.encode(event("responding", 3))

    assert (named["thread_id"], after["thread_id"]) == ("thread_new", "thread_new")


def test_a_resumed_stream_goes_on_with_what_was_shown_before() -> None:
    answer = Answer()
    answer.take(event("started", ids=("m",)))
    answer.take(event("delta", 2, text="half "))
    to = Encoder(ADDRESS, "thread_abc123", Dialect(), answer=answer, replaces=True)
    to.encode(event("delta", 3, text="an answer"))

    [first] = to.flush()

    assert (first["message"], first["snapshot"], first["message_id"]) == ("half an answer", True, "m")


def test_usage_goes_with_the_answer_where_it_is_told() -> None:
    used = event("completed", 2, ids=("m",), text="x", outcome="completed", usage=Usage(1, 5, cost_nano=2_000_000_000))
    [with_usage] = encoder().encode(used)
    [without] = encoder().encode(event("completed", 2, ids=("m",), text="x", outcome="completed"))

    assert with_usage["usage"] == {"requests": 1, "input_tokens": 5, "cost_nano": 2_000_000_000, "cost": 2.0}
    assert "usage" not in without


def test_a_subscription_says_where_it_begins_and_whether_anything_is_missing() -> None:
    frame = subscription_frame(ADDRESS, "thread_1", SubscriptionStart("e", 7, 9, False, Answer()), at=3.5)

    assert frame == {
        "message": "", "timestamp": 3.5, "status": "subscribed", "type": "status", "final_message": False,
        "message_id": None, "thread_id": "thread_1", "channel": "c1", "offset": 7, "epoch": "e", "top": 9,
        "recovered": False,
    }  # fmt: skip
    assert envelope("c1", frame) == {"channel": "c1", "payload": frame}
    assert json.loads(dumps(frame)) == frame


EVENTS = (
    event("accepted", 1, ids=("m1",), thread_id="thread_other"),
    event("started", 2, ids=("m1", "m2")),
    event("delta", 3, text="word "),
    delta('quote " and \\ and \n ü 👋', "run_1", 1).at_position(4, "e", 1683042124.789),
    delta("more ", "run_1", 1).at_position(5, "e", 2.0),
    event("processing", 6, tools=("look",)),
    delta("after ", "run_1", 1).at_position(7, "e.1", 2.5),
    event("snapshot", 8, text="anew "),
    delta("end", "run_2", 2).at_position(9, "e.1", 3.0),
    event("started", 10, ids=("m3",), attempt=2),
    delta("again", "run_1", 2).at_position(11, "e.1", 3.5),
    event("completed", 12, ids=("m1", "m2"), text="again", outcome="completed"),
)


@pytest.mark.parametrize("as_stream", [False, True], ids=["frames", "stream"])
@pytest.mark.parametrize("in_envelopes", [False, True], ids=["bare", "enveloped"])
@pytest.mark.parametrize("deltas", [False, True], ids=["full", "delta"])
@pytest.mark.parametrize("everything", [False, True], ids=["some", "all"])
def test_messages_are_the_frames_to_the_byte(
    deltas: bool, everything: bool, in_envelopes: bool, as_stream: bool
) -> None:
    """The shortest way of a delta too, which puts its bytes together without a frame."""
    dialect = Dialect(deltas, everything, in_envelopes and not as_stream, as_stream)
    start = SubscriptionStart("e", 0, 0, True, Answer())
    messages, frames = WireEncoder(ADDRESS, "thread_1", dialect, start), Encoder(ADDRESS, "thread_1", dialect)
    for one in EVENTS:
        pairs = [(messages.encode(one), frames.encode(one))]
        if deltas:
            pairs.append((messages.flush(), frames.flush()))
        for said, expected in pairs:
            assert said == [_message(dialect, frame) for frame in expected]
        assert messages.owes == frames.owes


@pytest.mark.parametrize("is_told", [lambda _: True, lambda place: place % 3 == 2], ids=["each", "some"])
@pytest.mark.parametrize("dialect", [Dialect(), Dialect(deltas=True), Dialect(deltas=True, as_stream=True)], ids=str)
def test_what_is_told_at_once_is_what_is_encoded_and_flushed(dialect: Dialect, is_told: Callable[[int], bool]) -> None:
    """Also where text was kept back before it."""
    at_once, in_two_steps = wire_encoder(dialect), wire_encoder(dialect)
    for place, one in enumerate(EVENTS):
        expected = in_two_steps.encode(one)
        if is_told(place):
            assert at_once.tell(one) == [*expected, *in_two_steps.flush()]
        else:
            assert at_once.encode(one) == expected
        assert (at_once.owes, at_once.state) == (in_two_steps.owes, in_two_steps.state)


@pytest.mark.parametrize("dialect", [Dialect(), Dialect(deltas=True), Dialect(deltas=True, as_stream=True)], ids=str)
def test_a_delta_of_the_same_run_is_told_with_what_was_kept_back_before_it(dialect: Dialect) -> None:
    at_once, in_two_steps = wire_encoder(dialect), wire_encoder(dialect)
    first, second, third = (delta(f"word{n} ", "run_1", 1).at_position(n, "e", float(n)) for n in (1, 2, 3))
    for encoder in (at_once, in_two_steps):
        encoder.encode(event("started", 0, ids=("m1",), run_id="run_1", attempt=1))
    assert at_once.tell(first) == [*in_two_steps.encode(first), *in_two_steps.flush()]

    for encoder in (at_once, in_two_steps):
        encoder.encode(second)
    told = at_once.tell(third)

    assert told == [*in_two_steps.encode(third), *in_two_steps.flush()]
    assert len(told) == 1
    assert b"word2 word3" in told[0]


GROWING = (
    event("started", 1, ids=("m1",)),
    delta("one ", "run_1", 1).at_position(2, "e", 1.0),
    event("responding", 3, ids=("m1", "m2"), thread_id="thread_new"),
    event("started", 4, ids=("m1", "m2")),
    delta("two ", "run_1", 1).at_position(5, "e", 2.0),
    delta("three", "run_2", 1).at_position(6, "e", 3.0),
)


@pytest.mark.parametrize("is_at_once", [False, True])
def test_each_delta_names_the_messages_the_thread_and_the_run_that_it_is_of(is_at_once: bool) -> None:
    """Also where they become others and nothing else does: a message that joins a run, a run without its start."""
    dialect = Dialect(deltas=True)
    messages, frames = wire_encoder(dialect), Encoder(ADDRESS, "thread_1", dialect)
    for one in GROWING:
        expected = [_message(dialect, frame) for frame in (*frames.encode(one), *frames.flush())]
        said = messages.tell(one) if is_at_once else [*messages.encode(one), *messages.flush()]
        assert said == expected


def _message(dialect: Dialect, frame: Frame) -> bytes:
    if dialect.as_stream:
        position = "" if frame.get("more") else f"id: {frame['epoch']}:{frame['offset']}\n"
        return f"{position}data: {dumps(frame)}\n\n".encode()
    return dumps(envelope(ADDRESS.channel, frame) if dialect.in_envelopes else frame).encode()


def wire_encoder(dialect: Dialect) -> WireEncoder:
    """One that begins before the first event."""
    return WireEncoder(ADDRESS, "thread_1", dialect, SubscriptionStart("e", 0, 0, True, Answer()))


@each_row("dialect", [Dialect(), Dialect(deltas=True), Dialect(deltas=True, as_stream=True)], ids=str)
@each_row("at", range(len(EVENTS)))
def test_a_copy_says_of_what_is_to_come_what_the_original_says(at: int, dialect: Dialect) -> None:
    """Whoever falls behind goes on with one: nothing is said twice or missing, however far the two have gone."""
    original, alone = wire_encoder(dialect), wire_encoder(dialect)
    for one in EVENTS[:at]:
        original.encode(one)
        alone.encode(one)
    behind = original.copy()

    # one after the other: what the one says may change nothing for the other
    said = [[m for one in EVENTS[at:] for m in (*by.encode(one), *by.flush())] for by in (original, behind, alone)]
    assert said[0] == said[1] == said[2]


def test_encoders_that_would_say_the_same_of_all_that_comes_are_equal_and_no_others() -> None:
    """By it a subscriber that has caught up finds those he may share with."""
    first, second = wire_encoder(Dialect(deltas=True)), wire_encoder(Dialect(deltas=True))
    assert first.state == second.state
    for one in EVENTS:
        first.encode(one)
        first.flush()
        assert first.state != second.state, one.kind
        second.encode(one)
        second.flush()
        assert first.state == second.state, one.kind


def shown(text: str) -> Answer:
    answer = Answer()
    answer.take(event("delta", text=text))
    return answer


LATER = {
    "elsewhere in the log": SubscriptionStart("e", 1, 1, True, Answer()),
    "in another log": SubscriptionStart("other", 0, 0, True, Answer()),
    "whose first text replaces": SubscriptionStart("e", 0, 0, False, Answer()),
    "behind another text": SubscriptionStart("e", 0, 0, True, shown("half ")),
}


@pytest.mark.parametrize("start", LATER.values(), ids=LATER)
def test_an_encoder_that_begins_elsewhere_is_another(start: SubscriptionStart) -> None:
    assert WireEncoder(ADDRESS, "thread_1", Dialect(), start).state != wire_encoder(Dialect()).state


@pytest.mark.parametrize(
    ("dialect", "written"),
    [
        (Dialect(), "{frame}"),
        (Dialect(in_envelopes=True), '{{"channel":"c1","payload":{frame}}}'),
        (Dialect(as_stream=True), "id: e:7\ndata: {frame}\n\n"),
    ],
    ids=["bare", "enveloped", "stream"],
)
def test_the_first_frame_of_a_subscription_is_wrapped_as_all_others_are(dialect: Dialect, written: str) -> None:
    start = SubscriptionStart("e", 7, 9, True, Answer())
    frame = subscription_frame(ADDRESS, "thread_1", start, at=3.5)

    first = WireEncoder(ADDRESS, "thread_1", dialect, start).encode_frame(frame)

    assert first.decode() == written.format(frame=dumps(frame))


CALL = {"call_id": "c1", "name": "pay", "arguments": "{}", "digest": "d", "output": "done", "decision": "approved"}
FORMS = {
    "its tool shows all": ("all", False, set()),
    "its tool shows its arguments": ("arguments", False, {"output"}),
    "its tool shows its name": ("name", False, {"output", "arguments", "digest"}),
    "its tool says nothing": (None, False, {"output", "arguments", "digest"}),
    "to who decides": ("name", True, set()),
}


@pytest.mark.parametrize(("show", "in_full", "secrets"), FORMS.values(), ids=FORMS)
def test_of_a_call_that_waits_others_are_told_what_its_tool_shows(
    show: str | None, in_full: bool, secrets: set[str]
) -> None:
    call = CALL if show is None else {**CALL, "show": show}

    form = call_form(call, in_full=in_full)

    assert {name for name in call if form[name] != call[name]} == secrets
    assert all(form[name] == "" for name in secrets)
    assert form.get("withheld", False) == bool(secrets)
