"""An answer that says nothing is never completed, and one that cannot be read is asked for once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.contract.canned import Visit, canned
from tests.scenario.house import opened
from turnkeep.events import Event
from turnkeep.tools.tool import tool

DONE = b"data: [DONE]\n\n"


def piece(delta: dict[str, Any], reason: str | None = None) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}) + b"\n\n"


@tool(effect="pure")
def clock() -> str:
    """The time of day."""
    return "noon"


CALL = piece({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "clock", "arguments": "{}"}}]}, "tool_calls")
FINE = piece({"content": "fine"}, "stop") + DONE


async def outcome_of(*answers: bytes) -> tuple[Event, int]:
    """The final event of one message, and how often the model was asked; the last answer stays."""
    left = list(answers)

    async def answer(visit: Visit) -> None:
        visit.whole(left.pop(0) if len(left) > 1 else left[0])

    async with canned(answer) as server:
        settings: dict[str, Any] = {"openai_base_url": server.url, "model_api": "chat"}
        async with opened(tools=[clock], **settings) as house, house.stream("c") as stream:
            await house.send("c", "hello", "m0")
            events = await house.settled(stream, "m0")
            return events[-1], len(server.visits)


def code_of(event: Event) -> str:
    return event.error.code if event.error else ""


@pytest.mark.parametrize(
    "silence",
    [
        piece({}, "stop") + DONE,
        piece({"content": ""}, "stop") + DONE,
        piece({"content": " \n\n"}, "stop") + DONE,
        piece({"reasoning_content": "hm"}, "stop") + DONE,
        piece({}, "tool_calls") + DONE,
        b'data: {"choices":[{"index":0,"something":{"new":"shape"},"finish_reason":"stop"}]}\n\n' + DONE,
    ],
    ids=["nothing", "an empty text", "blanks", "a thought alone", "calls that are not there", "an unknown shape"],
)
async def test_a_silent_answer_is_asked_for_again_and_given_up_with_its_reason(silence: bytes) -> None:
    event, requests = await outcome_of(silence)
    assert event.kind == "dead"
    assert code_of(event) == "answer_malformed"
    assert requests == 3
    event, requests = await outcome_of(silence, FINE)
    assert (event.kind, event.text, requests) == ("completed", "fine", 2)


async def test_a_model_may_be_silent_after_it_has_said_something_and_acted() -> None:
    event, requests = await outcome_of(piece({"content": "a moment"}) + CALL + DONE, piece({}, "stop") + DONE)
    assert (event.kind, event.text, requests) == ("completed", "a moment", 2)


async def test_a_model_may_not_be_silent_after_it_has_only_acted() -> None:
    event, _ = await outcome_of(CALL + DONE, piece({}, "stop") + DONE)
    assert (event.kind, code_of(event)) == ("dead", "answer_malformed")


async def test_an_answer_of_an_unknown_form_is_asked_for_once() -> None:
    event, requests = await outcome_of(piece({"content": {"new": "shape"}}, "stop") + DONE)
    assert (event.kind, code_of(event), requests) == ("dead", "answer_unreadable", 1)
