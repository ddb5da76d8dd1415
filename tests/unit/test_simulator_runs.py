"""Runs give events in true order, without gaps in their numbers, and end as what they said."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from turnkeep.simulator import AnswerPlan, CallStep, Prompt, Refuse, Say, StreamPace, Think
from turnkeep.simulator.chat_run import ChatRun, Head
from turnkeep.simulator.frames import FrameStream, ReplyFrame, pour
from turnkeep.simulator.prompt import PromptEntry
from turnkeep.simulator.quirks import QUIRKS
from turnkeep.simulator.response_run import Manner, ResponseRun
from turnkeep.simulator.seeded_ids import SeededIds
from turnkeep.testing.fake_clock import FakeClock

Json = dict[str, Any]
ASKED = Prompt((PromptEntry("user", "hi"),))


def response_run(plan: AnswerPlan, *, seed: int = 0, status: str = "in_progress", **manner: Any) -> ResponseRun:
    response: Json = {"id": "resp_1", "status": status, "output": [], "usage": None, "error": None}
    manner = {"pace": StreamPace(), **manner}
    return ResponseRun(response, plan, ASKED, ids=SeededIds(seed), manner=Manner(**manner), settle=lambda _: None)


def chat_run(plan: AnswerPlan, quirk: str = "openai", *, usage: bool = True, forced: bool = False) -> ChatRun:
    head = Head("chatcmpl-1", 1, "m", usage=usage, is_forced=forced)
    return ChatRun(head, plan, ASKED, ids=SeededIds(0), manner=Manner(StreamPace()), quirk=QUIRKS[quirk])


def events(run: ResponseRun) -> list[Json]:
    found = []
    for frame in run.stream:
        first, second, *rest = frame.data.split(b"\n")
        payload = orjson.loads(second.removeprefix(b"data: "))
        assert first == b"event: " + payload["type"].encode()
        assert rest == [b"", b""]
        found.append(payload)
    return found


def chunks(run: ChatRun) -> list[Any]:
    frames = [frame.data.removeprefix(b"data: ").strip() for frame in run.stream]
    return [frame if frame == b"[DONE]" else orjson.loads(frame) for frame in frames if frame]


def types(found: list[Json]) -> list[str]:
    """The types of events, each run of deltas once."""
    names = [event["type"].removeprefix("response.") for event in found]
    return [name for at, name in enumerate(names) if not (at and name == names[at - 1] and name.endswith("delta"))]


MESSAGE = [
    *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
    *("content_part.done", "output_item.done"),
]


def test_a_text_answer_has_its_events_in_order() -> None:
    found = events(response_run(AnswerPlan((Say("one two three"),))))
    assert types(found) == ["created", "in_progress", *MESSAGE, "completed"]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert "".join(event["delta"] for event in found if "delta" in event) == "one two three"


def test_thoughts_and_parallel_calls_have_their_places() -> None:
    run = response_run(AnswerPlan((Think("hm"), CallStep("f", '{"a":1}'), CallStep("g", "{}"))), summarize=True)
    found = events(run)
    thought = [
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
    ]
    call = [
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
        "output_item.done",
    ]
    assert types(found) == ["created", "in_progress", *thought, *call, *call, "completed"]
    done = [event for event in found if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == [0, 1, 2]
    assert [event["item"]["id"].split("_")[0] for event in done] == ["rs", "fc", "fc"]
    assert done[0]["item"]["encrypted_content"]
    assert [event["item"] for event in done] == found[-1]["response"]["output"]
    assert set(run.partners.values()) == {done[0]["item"]["id"]}


def test_calls_of_one_response_share_the_head_of_their_ids() -> None:
    found = events(response_run(AnswerPlan((CallStep("f", "{}"), CallStep("g", "{}")))))
    ids = [item["call_id"] for item in found[-1]["response"]["output"]]
    assert ids[0][:13] == ids[1][:13]
    assert ids[0] != ids[1]


def test_a_refusal_is_a_part_of_its_own() -> None:
    found = events(response_run(AnswerPlan((Refuse("I can't."),))))
    assert "refusal.delta" in types(found)
    assert found[-1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "I can't."}]


def test_an_incomplete_answer_says_why() -> None:
    last = events(response_run(AnswerPlan((Say("half"),), incomplete="content_filter")))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_usage_comes_with_the_end() -> None:
    found = events(response_run(AnswerPlan((Think("a b"), Say("one two three")))))
    assert found[0]["response"]["usage"] is None
    usage = found[-1]["response"]["usage"]
    assert usage["output_tokens"] == 5
    assert usage["output_tokens_details"] == {"reasoning_tokens": 2}
    assert usage["total_tokens"] == usage["input_tokens"] + 5


def test_padding_hides_the_length_of_deltas_unless_disabled() -> None:
    padded = [event for event in events(response_run(AnswerPlan((Say("a bb ccc"),)))) if "delta" in event]
    assert all(event["obfuscation"] for event in padded)
    bare = events(response_run(AnswerPlan((Say("a"),)), obfuscate=False))
    assert not any("obfuscation" in event for event in bare)


def test_a_background_response_is_queued_first() -> None:
    found = events(response_run(AnswerPlan((Say("x"),)), status="queued"))
    assert types(found)[:3] == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in found[:3]] == ["queued", "queued", "in_progress"]


def test_the_outcome_is_settled_before_it_is_told() -> None:
    told: list[str] = []
    response: Json = {"id": "resp_1", "status": "in_progress", "output": []}
    run = ResponseRun(
        response,
        AnswerPlan((Say("x"),)),
        ASKED,
        ids=SeededIds(0),
        manner=Manner(StreamPace()),
        settle=lambda settled: told.append(settled["status"]),
    )
    frames = [(frame.act, list(told)) for frame in run.stream]
    assert frames[-1] == ("last", ["completed"])
    assert frames[-2] == (None, [])


def test_the_first_token_waits_longer_than_the_others() -> None:
    waits = [
        frame.wait
        for frame in response_run(AnswerPlan((Say("a b c"),)), pace=StreamPace(1.0, 0.25)).stream
        if frame.wait
    ]
    assert waits == [1.0, 0.25, 0.25]
    steered = response_run(AnswerPlan((Say("a b c"),), first=2.0, token=0.5), pace=StreamPace(1.0, 0.25))
    assert [frame.wait for frame in steered.stream if frame.wait] == [2.0, 0.5, 0.5]


def test_the_same_seed_gives_the_same_bytes() -> None:
    def taken(seed: int) -> list[bytes]:
        return [frame.data for frame in response_run(AnswerPlan((Say("x y"), CallStep("f", "{}"))), seed=seed).stream]

    assert taken(1) == taken(1)
    assert taken(1) != taken(2)


@pytest.mark.parametrize(("error", "failed"), [(True, False), (False, True), (True, True)])
def test_a_failure_has_its_events(error: bool, failed: bool) -> None:
    run = response_run(AnswerPlan((Say("x"),)))
    next(run.stream)
    frames = [
        orjson.loads(f.data.split(b"\ndata: ")[1]) for f in run.fail("c", "m", error_event=error, failed_event=failed)
    ]
    assert [frame["type"] for frame in frames] == ["error"] * error + ["response.failed"] * failed
    assert run.is_settled
    assert run.body()["error"] == {"code": "c", "message": "m"}
    assert [frame["sequence_number"] for frame in frames] == list(range(1, 1 + len(frames)))


# ---------------------------------------------------------------- chat


def test_a_chat_answer_has_role_text_finish_usage_and_done() -> None:
    found = chunks(chat_run(AnswerPlan((Say("one two"),))))
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in found[:3]) == "one two"
    assert found[3]["choices"][0]["finish_reason"] == "stop"
    assert all(chunk["usage"] is None for chunk in found[:4])
    assert found[4]["choices"] == []
    assert found[4]["usage"]["completion_tokens"] == 2
    assert found[5] == b"[DONE]"


def test_usage_comes_only_when_asked() -> None:
    found = chunks(chat_run(AnswerPlan((Say("x"),)), usage=False))
    assert not any("usage" in chunk for chunk in found[:-1])


def test_call_deltas_carry_id_and_name_once_and_join_to_the_arguments() -> None:
    arguments = orjson.dumps({"location": "Paris", "unit": "celsius"}).decode()
    found = chunks(chat_run(AnswerPlan((CallStep("f", arguments), CallStep("g", "{}")))))
    deltas = [call for chunk in found[1:-3] for call in chunk["choices"][0]["delta"]["tool_calls"]]
    first = [delta for delta in deltas if delta["index"] == 0]
    assert "".join(delta["function"]["arguments"] for delta in first) == arguments
    assert [delta.get("id") is not None for delta in first].count(True) == 1
    assert {delta["index"] for delta in deltas} == {0, 1}
    assert found[-3]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_forced_call_ends_with_stop() -> None:
    assert (
        chunks(chat_run(AnswerPlan((CallStep("f", "{}"),)), forced=True))[-3]["choices"][0]["finish_reason"] == "stop"
    )


def test_every_finish_reason_is_played() -> None:
    for reason, finish in (("max_output_tokens", "length"), ("content_filter", "content_filter")):
        found = chunks(chat_run(AnswerPlan((Say("x"),), incomplete=reason)))  # type: ignore[arg-type]
        assert found[-3]["choices"][0]["finish_reason"] == finish


def _calls(quirk: str) -> tuple[list[Json], Json, list[Any]]:
    found = chunks(chat_run(AnswerPlan((CallStep("f", '{"a":1}'), CallStep("g", '{"b":2}'))), quirk))
    deltas = [
        call
        for chunk in found
        if isinstance(chunk, dict)
        for choice in chunk["choices"]
        for call in choice.get("delta", {}).get("tool_calls", ())
    ]
    finish = next(
        choice
        for chunk in found
        if isinstance(chunk, dict)
        for choice in chunk["choices"]
        if choice.get("finish_reason")
    )
    return deltas, finish, found


def test_ollama_leaves_out_the_index() -> None:
    deltas, _, _ = _calls("ollama")
    assert len(deltas) == 2
    assert not any("index" in call for call in deltas)


def test_litellm_gives_objects_zero_indexes_changing_ids_and_stop() -> None:
    deltas, finish, found = _calls("litellm")
    assert [(call["index"], call["function"]["arguments"]) for call in deltas] == [(0, {"a": 1}), (0, {"b": 2})]
    assert finish["finish_reason"] == "stop"
    assert len({chunk["id"] for chunk in found[:-1]}) == len(found) - 1


def test_gemini_stops_with_calls_without_ids_and_counts_at_the_finish() -> None:
    deltas, finish, found = _calls("gemini")
    assert {call["id"] for call in deltas} == {""}
    assert finish["finish_reason"] == "stop"
    assert found[-2]["usage"]["completion_tokens"] == 2


def test_azure_begins_without_choices_and_has_a_choice_without_delta() -> None:
    found = chunks(chat_run(AnswerPlan((Say("x"),)), "azure"))
    assert (found[0]["choices"], found[0]["id"]) == ([], "")
    assert any("delta" not in choice for chunk in found[1:-1] for choice in chunk["choices"])


def test_others_leave_out_usage_done_or_the_end() -> None:
    assert not any(chunk.get("usage") for chunk in chunks(chat_run(AnswerPlan((Say("x"),)), "no-usage"))[:-1])
    assert chunks(chat_run(AnswerPlan((Say("x"),)), "no-done"))[-1] != b"[DONE]"
    dropped = chunks(chat_run(AnswerPlan((Say("x"),)), "dropped"))
    assert not any(chunk["choices"][0]["finish_reason"] for chunk in dropped)


def test_a_gateway_fails_within_200() -> None:
    (found,) = chunks(chat_run(AnswerPlan((Say("x"),)), "gateway"))
    assert found["error"]["code"] == "upstream_error"


def test_thoughts_are_beside_the_content_where_the_server_shows_them() -> None:
    plan = AnswerPlan((Think("hm"), Say("x")))
    assert "reasoning_content" in orjson.dumps(chunks(chat_run(plan, "vllm"))[1]).decode()
    assert "reasoning_content" not in str(chunks(chat_run(plan)))


# ---------------------------------------------------------------- onto the wire


class Sink:
    """Takes what an application sends."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.ended = False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.chunks.append(message["body"])
            self.ended = not message["more_body"]


async def test_split_streams_keep_their_bytes_and_cut_characters() -> None:
    frames = [ReplyFrame(f"data: {n} ünïcödé 🎈🎈🎈\n\n".encode()) for n in range(40)]
    sink = Sink()
    stream = FrameStream(sink, None, SeededIds(1))
    held_back = 0
    for frame in frames:
        await stream.write(frame.data)
        held_back += not sink.chunks[-1].endswith(b"\n\n")
    await stream.end()
    assert held_back > 20
    whole = b"".join(frame.data for frame in frames)
    assert b"".join(sink.chunks) == whole
    assert len(sink.chunks) > 80
    torn = 0
    for chunk in sink.chunks:
        try:
            chunk.decode()
        except UnicodeDecodeError:
            torn += 1
    assert torn > 10


async def test_frames_wait_on_the_clock_and_pings_fill_the_silence() -> None:
    clock, sink = FakeClock(), Sink()
    frames = iter([ReplyFrame(b"a"), ReplyFrame(b"b", wait=25.0, act="last")])
    seen: list[ReplyFrame] = []
    task = asyncio.create_task(pour(frames, FrameStream(sink, None, None), clock, ping=10.0, on_frame=seen.append))
    await clock.run(24.0)
    assert sink.chunks == [b"a", b": ping\n\n", b": ping\n\n"]
    await clock.run(1.0)
    assert await task == "last"
    assert sink.chunks[-1] == b"b"
    assert len(seen) == 2


async def test_pouring_stops_at_an_act() -> None:
    sink = Sink()
    frames = iter([ReplyFrame(b"a"), ReplyFrame(b"b", act="reset"), ReplyFrame(b"never")])
    assert await pour(frames, FrameStream(sink, None, None), FakeClock(), ping=None, on_frame=lambda _: None) == "reset"
    assert b"".join(sink.chunks) == b"ab"
