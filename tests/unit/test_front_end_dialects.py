"""The dialects of front ends, chunk by chunk: nothing that a client does not know, everything opened before it is used
and closed before the end, and the rest from whichever place.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from tests.rows import each_row
from turnkeep.doors.http.agui_events import Cursor, RunEncoder
from turnkeep.doors.http.past_turns import TranscriptTurn
from turnkeep.doors.http.ui_messages import ui_messages
from turnkeep.doors.http.vercel_chunks import ChunkEncoder, Level
from turnkeep.events import CallDetail, Event, FileDetail, ResultDetail, StepDetail, TurnFault
from turnkeep.messages import Citation
from turnkeep.usage import Usage

KNOWN_TO_ALL = {
    *("start", "start-step", "text-start", "text-delta", "text-end", "reasoning-start", "reasoning-delta"),
    *("reasoning-end", "tool-input-available", "tool-output-available", "tool-output-error", "source-url"),
    *("source-document", "file", "finish-step", "finish", "abort", "error", "data-turn"),
}
KNOWN: dict[int, set[str]] = {
    5: KNOWN_TO_ALL,
    6: KNOWN_TO_ALL | {"tool-approval-request", "tool-output-denied"},
    7: KNOWN_TO_ALL | {"tool-approval-request", "tool-output-denied", "reset-step"},
}
LEVELS: tuple[Level, ...] = (5, 6, 7)
START = Event("started", ("m1", "m2"), run_id="run_1", attempt=1)
HELD_CALL = {"call_id": "c9", "name": "pay", "arguments": '{"amount": 7}', "digest": "d", "kind": "approval"}
ENDS = {
    "completed": Event("completed", ("m1",), text="x", run_id="run_1", outcome="completed", usage=Usage(1, 2)),
    "incomplete": Event("completed", ("m1",), text="x", run_id="run_1", outcome="incomplete"),
    "cancelled": Event("completed", ("m1",), text="x", run_id="run_1", outcome="cancelled"),
    "dead": Event("dead", ("m1",), error=TurnFault("timeout", "Too slow.")),
    "held": Event("held", ("m1",), calls=(HELD_CALL,)),
    "client tool": Event("held", ("m1",), calls=({**HELD_CALL, "kind": "output"},)),
    "withdrawn": Event("withdrawn", ("m1",)),
}


def part(kind: Any, detail: Any, **fields: Any) -> Event:
    return Event(kind, run_id="run_1", attempt=1, detail=detail, **fields)


def text(words: str) -> Event:
    return Event("delta", text=words, run_id="run_1", attempt=1)


def turn(seed: int) -> list[Event]:
    """Any turn, as it grows: steps with thoughts, text, sources, files, calls and results of every status."""
    chance = random.Random(seed)
    events = [START]
    for number in range(1, chance.randint(2, 4)):
        calls = [f"c{number}{n}" for n in range(chance.randint(0, 3))]
        middle: list[Event] = []
        for _ in range(chance.randint(0, 5)):
            middle.append(
                chance.choice(
                    [
                        text("word "), Event("reasoning", text="hm ", attempt=1), part("source", Citation(url="u")),
                        part("source", Citation(file_id="f")), part("file", FileDetail("data:,x", "text/plain")),
                        Event("waiting", error=TurnFault("rate_limited", "Busy.")), part("step", StepDetail(number)),
                        Event("said", text="hello", author="Bea"),
                    ]
                )
            )  # fmt: skip
        events += [
            *middle,
            *(part("tool_call", CallDetail(call, "look", chance.choice([None, "{}", "{"]))) for call in calls),
        ]
        events.append(part("step", StepDetail(number, "calls"), usage=Usage(1)))
        for call in calls:
            status = chance.choice(["ok", "error", "denied", "expired", "unknown"])
            events.append(part("tool_result", ResultDetail(call, "look", status, chance.choice([None, "5", "text"]))))
    return [*events, text("\n\n"), text("end")]


def chunks_of(data: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


# ---------------------------------------------------------------- Vercel


@each_row("end", ENDS.values(), ids=ENDS)
@each_row("level", LEVELS)
def test_a_client_is_told_nothing_that_its_version_does_not_know(level: Level, end: Event) -> None:
    for seed in range(25):
        encoder = ChunkEncoder(level)
        data = encoder.encode([*turn(seed), end])
        chunks = chunks_of(data)
        assert {chunk["type"] for chunk in chunks} <= KNOWN[level]
        assert encoder.is_done
        assert data.endswith(b"data: [DONE]\n\n")
        assert data.count(b"[DONE]") == 1
        assert [chunk["type"] for chunk in chunks].count("start") == 1


@each_row("end", ENDS.values(), ids=ENDS)
@each_row("level", LEVELS)
def test_parts_are_opened_before_they_grow_and_closed_before_the_end(level: Level, end: Event) -> None:
    for seed in range(25):
        _follow(chunks_of(ChunkEncoder(level).encode([*turn(seed), end])))


def _follow(chunks: Sequence[dict[str, Any]]) -> None:
    """As a client does it."""
    is_open: set[str] = set()
    in_step = False
    for chunk in chunks:
        match chunk["type"]:
            case "text-start" | "reasoning-start":
                assert (in_step, is_open) == (True, set())
                is_open.add(chunk["id"])
            case "text-delta" | "reasoning-delta":
                assert chunk["id"] in is_open
                assert chunk["delta"]
            case "text-end" | "reasoning-end":
                is_open.remove(chunk["id"])
            case "start-step" | "finish-step" as kind:
                assert (is_open, in_step) == (set(), kind == "finish-step")
                in_step = kind == "start-step"
            case "reset-step":
                is_open.clear()
            case "finish" | "abort":
                assert (is_open, in_step) == (set(), False)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_the_chunks_are_the_same_however_the_events_come_together(level: Level, size: int) -> None:
    events = [*turn(3), ENDS["completed"]]
    whole = ChunkEncoder(level).encode(events)
    encoder = ChunkEncoder(level)
    assert b"".join(encoder.encode(events[n : n + size]) for n in range(0, len(events), size)) == whole


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_who_waits_for_whole_steps_is_told_the_same_and_nothing_that_is_taken_back(level: Level, size: int) -> None:
    again = part("step", StepDetail(1))
    for seed in range(25):
        events = [*turn(seed), ENDS["completed"]]
        firm = [event for event in events if event.detail != StepDetail(getattr(event.detail, "number", 0))]
        half = [START, text("Hal"), Event("reasoning", text="no", attempt=1), again, *firm[1:]]
        encoder = ChunkEncoder(level, holds_back=True)
        data = b"".join(encoder.encode(half[n : n + size]) for n in range(0, len(half), size))
        told, live = chunks_of(data), chunks_of(ChunkEncoder(level).encode(firm))
        _follow(told)
        assert _said_in(told) == _said_in(live)
        assert encoder.is_done


def _said_in(chunks: Sequence[dict[str, Any]]) -> list[str]:
    """Pieces of an answer in their order; what is said in passing may come sooner."""
    return [json.dumps(chunk) for chunk in chunks if chunk["type"] != "data-turn"]


def test_whoever_has_decided_is_told_what_comes_from_the_result_on() -> None:
    events = [START, text("Well."), part("tool_call", CallDetail("c9", "pay")), part("step", StepDetail(1, "calls"))]
    rest = [part("tool_result", ResultDetail("c9", "pay", "ok", "paid")), text("\n\n"), text("done"), ENDS["completed"]]
    chunks = chunks_of(ChunkEncoder(7, after_calls=["c9"]).encode([*events, *rest]))
    assert [chunk["type"] for chunk in chunks][:2] == ["start", "tool-output-available"]
    assert "messageId" not in chunks[0]
    assert [chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"] == ["done"]


# ---------------------------------------------------------------- AG-UI


def frames_of(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Id (empty where there is none) and event of every frame."""
    frames = []
    for block in data.decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        frames.append((lines.get("id", ""), json.loads(lines["data"])))
    return frames


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_run_keeps_the_order_of_the_protocol(end: Event) -> None:
    for seed in range(25):
        is_open: set[str] = set()
        steps: list[str] = []
        frames = frames_of(RunEncoder("t", "w").encode([*turn(seed), end]))
        assert frames[0][1]["type"] == "RUN_STARTED"
        assert frames[-1][1]["type"] in ("RUN_FINISHED", "RUN_ERROR")
        ids = [frame_id for frame_id, _ in frames if frame_id]
        assert len(ids) == len(set(ids))
        for _, event in frames:
            assert None not in event.values()
            match event["type"]:
                case "TEXT_MESSAGE_START" | "REASONING_MESSAGE_START":
                    assert not is_open
                    is_open.add(event["messageId"])
                case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT":
                    assert event["messageId"] in is_open
                    assert event["delta"]
                case "TEXT_MESSAGE_END" | "REASONING_MESSAGE_END":
                    is_open.remove(event["messageId"])
                case "STEP_STARTED":
                    steps.append(event["stepName"])
                case "STEP_FINISHED":
                    steps.remove(event["stepName"])
                case "RUN_FINISHED":
                    assert (is_open, steps) == (set(), [])


def contents(frames: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    """What a client makes of events: neighbouring pieces of a text are one, what is said in passing is left out."""
    told: list[Any] = []
    for frame_id, event in frames:
        if not frame_id:
            continue
        kind = event["type"]
        if kind.endswith("_CONTENT") and told and told[-1][0] == kind:
            told[-1] = (kind, told[-1][1] + event["delta"])
        else:
            told.append((kind, event["delta"]) if kind.endswith("_CONTENT") else (kind, event))
    return told


@pytest.mark.parametrize("seed", range(8))
def test_a_client_that_comes_back_is_told_the_rest_from_wherever_it_was(seed: int) -> None:
    events = [*turn(seed), text("more "), text("and more"), ENDS["completed"]]
    whole = frames_of(RunEncoder("t", "w").encode(events))
    places = [n for n, (frame_id, _) in enumerate(whole) if frame_id]
    for place in places[:-1]:
        cursor = Cursor.read(whole[place][0])
        # the pieces may be others: here each two are one
        merged = [*events[:-4], text("end" + "more " + "and more"), events[-1]] if events[-4].text == "end" else events
        rest = frames_of(RunEncoder("t", "w", cursor=cursor).encode(merged))
        assert contents([*whole[: place + 1], *rest]) == contents(whole)


@pytest.mark.parametrize(
    "word", ["", "x", "run_1", "run_1.1", "run_1.a.b", "run_1.-1.5", "run_2.1.3", "run_1.2.3", "ü.1.2"]
)
def test_an_id_of_something_else_tells_all_from_the_messages_on(word: str) -> None:
    base = [{"id": "u1", "role": "user", "content": "hi"}]
    events = [*turn(1), ENDS["completed"]]
    whole = frames_of(RunEncoder("t", "w").encode(events))
    told = frames_of(RunEncoder("t", "w", base=base, cursor=Cursor.read(word)).encode(events))
    rest = [event for _, event in told if event["type"] != "MESSAGES_SNAPSHOT" or event["messages"] != base]
    assert rest == [event for _, event in whole]


def test_a_step_that_is_taken_back_leaves_the_finished_ones() -> None:
    events = [
        START, text("Well."), part("tool_call", CallDetail("c1", "look", "{}")), part("step", StepDetail(1, "calls")),
        part("tool_result", ResultDetail("c1", "look", "ok", "5")), text("\n\n"), text("wrong"),
        part("step", StepDetail(2)), text("\n\n"), text("right"), ENDS["completed"],
    ]  # fmt: skip
    encoder = RunEncoder("t", "w", base=[{"id": "u1", "role": "user", "content": "hi"}])
    frames = frames_of(encoder.encode(events))
    [snapshot] = [event for _, event in frames if event["type"] == "MESSAGES_SNAPSHOT"]
    assert [message["role"] for message in snapshot["messages"]] == ["user", "assistant", "tool"]
    assert [message.get("content") for message in encoder.messages] == ["Well.", "5", "right"]


@pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
@pytest.mark.parametrize("excess", [2, 10**9])
def test_an_id_of_more_than_there_is_hides_nothing(end: Event, excess: int) -> None:
    events = [*turn(1), end]
    top = Cursor.read([frame_id for frame_id, _ in frames_of(RunEncoder("t", "w").encode(events)) if frame_id][-1])
    assert top is not None
    encoder = RunEncoder("t", "w", cursor=Cursor(top.run_id, top.attempt, top.progress + excess))
    first, *_, snapshot, last = [event for frame_id, event in frames_of(encoder.encode(events)) if frame_id]
    assert (first["type"], snapshot["messages"]) == ("RUN_STARTED", encoder.messages)
    assert last["type"] in ("RUN_FINISHED", "RUN_ERROR")


DEEP = [f"{'[' * depth}{']' * depth}" for depth in (1, 199, 201, 300, 1_000, 5_000)]


@pytest.mark.parametrize("value", [*DEEP, f'{{"a":{DEEP[-3]}}}', f'{{"a":{DEEP[1]}}}'])
@pytest.mark.parametrize("kind", ["output", "approval"])
def test_a_value_however_deep_is_told(value: str, kind: str) -> None:
    """Models write arguments, and tools outputs, deeper than anybody can write them again."""
    call = {**HELD_CALL, "call_id": "c2", "arguments": value, "kind": kind}
    called = part("tool_call", CallDetail("c1", "look", value))
    events = [START, called, part("tool_result", ResultDetail("c1", "look", "ok", value)), Event("held", calls=(call,))]
    for level in LEVELS:
        kinds = [json.loads(line[6:])["type"] for line in _lines(ChunkEncoder(level).encode(events))]
        assert (kinds.count("tool-input-available"), kinds[-1]) == (2, "finish")
    assert frames_of(RunEncoder("t", "w").encode(events))[-1][1]["type"] == "RUN_FINISHED"
    parts = ui_messages([TranscriptTurn((), "run_1", tuple(events), 0.0)], (), 7)[0]["parts"]
    assert orjson.dumps({"messages": [{"parts": parts}]})


def _lines(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n\n") if line and line != b"data: [DONE]"]
