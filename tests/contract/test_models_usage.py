"""A server whose usage makes no sense: it is estimated, nothing breaks."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.contract.asking import finish_of, items_of, told_by
from turnkeep.messages import AssistantItem
from turnkeep.usage import MOST, Usage

ESTIMATED = Usage(requests=1, estimated=1)


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def chunk(delta: Any, reason: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def chat(usage: Any) -> bytes:
    return stream(chunk({"role": "assistant", "content": "fine"}), chunk({}, "stop"), {"choices": [], "usage": usage})


def responses(usage: Any) -> bytes:
    message = {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "fine"}]}
    return stream(
        {"type": "response.created", "response": {"id": "r1"}},
        {"type": "response.output_text.delta", "delta": "fine"},
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": "response.completed", "response": {"id": "r1", "model": "m", "output": [message], "usage": usage}},
    )


NAMES = {"chat": ("prompt_tokens", "prompt_tokens_details"), "responses": ("input_tokens", "input_tokens_details")}
TOLD = {"chat": chat, "responses": responses}


@pytest.mark.parametrize("value", ["12", [1], {"a": 1}, -1, 1.5, True, MOST + 1, 2**63])
@pytest.mark.parametrize("kind", ["responses", "chat"])
async def test_a_count_that_makes_no_sense_is_estimated(kind: str, value: Any) -> None:
    name, details = NAMES[kind]
    for usage in ({name: value}, {name: 5, details: {"cached_tokens": value}}, value):
        parts = await told_by(TOLD[kind](usage), kind)
        assert items_of(parts) == [AssistantItem("fine")]
        assert finish_of(parts).usage == ESTIMATED


@pytest.mark.parametrize("kind", ["responses", "chat"])
async def test_details_that_are_none_are_left_out(kind: str) -> None:
    name, details = NAMES[kind]
    nothing: list[Any] = ["x", 5, [], None]
    for none in nothing:
        parts = await told_by(TOLD[kind]({name: 5, details: none}), kind)
        assert finish_of(parts).usage == Usage(requests=1, input_tokens=5)
