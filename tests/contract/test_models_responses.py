"""What is made of the events of the Responses API."""

from __future__ import annotations

import orjson
import pytest

from tests.contract.asking import (
    TEXT,
    finish_of,
    items_of,
    recorded,
    text_of,
    told_by,
)
from turnkeep.errors import (
    ModelRateLimited,
    QuotaExhausted,
)
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    ReasoningItem,
)
from turnkeep.models.model import Began
from turnkeep.usage import Usage

# ---------------------------------------------------------------- Responses


async def test_usage_of_a_response_counts_what_was_cached_written_and_thought() -> None:
    finish = finish_of(await told_by(recorded("responses-text"), "responses"))
    assert finish.usage == Usage(
        requests=1, input_tokens=1234, cached_tokens=1024, cache_write_tokens=128, output_tokens=37
    )
    finish = finish_of(await told_by(recorded("responses-tools-reasoning"), "responses"))
    assert (finish.usage.output_tokens, finish.usage.reasoning_tokens) == (96, 64)


async def test_reasoning_text_and_parallel_calls_come_in_the_order_of_the_provider() -> None:
    parts = await told_by(recorded("responses-tools-reasoning"), "responses")
    reasoning, said, *calls = items_of(parts)
    assert isinstance(reasoning, ReasoningItem)
    assert reasoning.raw["encrypted_content"].startswith("gAAAA")
    assert said == AssistantItem("Let me look.", phase="commentary")
    assert calls == [
        CallItem("call_J4kZtQ0vN2", "get_weather", '{"city":"Zürich","unit":"c"}'),
        CallItem("call_P9sLwE7mB1", "get_weather", '{"city":"Oslo","unit":"c"}'),
    ]
    assert text_of(parts) == "Let me look."
    assert finish_of(parts).reason == "calls"


async def test_a_seal_that_comes_with_the_terminal_event_is_put_on_its_reasoning() -> None:
    parts = await told_by(recorded("responses-azure-late-seal"), "responses")
    reasoning, call = items_of(parts)
    assert isinstance(reasoning, ReasoningItem)
    assert reasoning.raw["encrypted_content"] == "gAAAAABsealedlate=="
    assert call == CallItem("call_azure000001", "lookup", '{"id":7}')
    assert finish_of(parts).reason == "calls"


async def test_a_refusal_is_shown_and_named() -> None:
    parts = await told_by(recorded("responses-refusal"), "responses")
    assert text_of(parts) == "I'm sorry, I can't help with that."
    assert items_of(parts) == [AssistantItem("I'm sorry, I can't help with that.")]
    assert finish_of(parts).reason == "refusal"


async def test_an_answer_cut_at_the_limit_is_marked_as_interrupted() -> None:
    parts = await told_by(recorded("responses-incomplete"), "responses")
    assert items_of(parts) == [AssistantItem("Once upon a", interrupted=True)]
    assert finish_of(parts).reason == "length"


async def test_an_answer_stopped_by_a_filter_says_so() -> None:
    stream = recorded("responses-incomplete").replace(b'"max_output_tokens"}', b'"content_filter"}')
    assert finish_of(await told_by(stream, "responses")).reason == "filter"


async def test_no_credit_after_status_200_is_no_credit() -> None:
    with pytest.raises(QuotaExhausted):
        await told_by(recorded("responses-error-after-200"), "responses")


async def test_a_failed_response_is_classified_with_its_time_to_wait() -> None:
    with pytest.raises(ModelRateLimited) as caught:
        await told_by(recorded("responses-failed"), "responses")
    assert caught.value.retry_after == 1.2


async def test_unknown_events_and_a_done_mark_change_nothing() -> None:
    stream = recorded("responses-text")
    place = stream.index(b"event: response.output_item.added")
    odd = b'event: response.dreaming\ndata: {"type":"response.dreaming","delta":"zzz"}\n\ndata: [DONE]\n\n'
    parts = await told_by(stream[:place] + odd + stream[place:] + odd, "responses")
    assert parts == await told_by(stream, "responses")


async def test_events_without_names_are_read_by_their_type() -> None:
    stream = b"\n".join(line for line in recorded("responses-text").split(b"\n") if not line.startswith(b"event:"))
    assert await told_by(stream, "responses") == await told_by(recorded("responses-text"), "responses")


@pytest.mark.parametrize("left_out", [b"output_item.done", b"output_text.delta", b"response.created"])
async def test_what_a_sloppy_server_leaves_out_is_taken_from_what_comes_later(left_out: bytes) -> None:
    blocks = recorded("responses-text").split(b"\n\n")
    stream = b"\n\n".join(block for block in blocks if left_out not in block.split(b"\n")[0])
    parts = await told_by(stream, "responses")
    assert isinstance(parts[0], Began)
    assert text_of(parts) == TEXT["responses"]
    assert items_of(parts) == [AssistantItem(TEXT["responses"], phase="final_answer")]


async def test_a_second_message_that_comes_whole_is_shown_too() -> None:
    blocks = recorded("responses-text").split(b"\n\n")
    second = {"id": "msg_2", "type": "message", "content": [{"type": "output_text", "text": "P.S."}]}
    event = {"type": "response.output_item.done", "output_index": 1, "item": second}
    stream = b"\n\n".join([*blocks[:-2], b"data: " + orjson.dumps(event), *blocks[-2:]])
    parts = await told_by(stream, "responses")
    assert text_of(parts) == TEXT["responses"] + "P.S."
    assert items_of(parts)[1:] == [AssistantItem("P.S.")]


async def test_a_call_that_was_cut_off_is_not_a_call() -> None:
    stream = recorded("responses-tools-reasoning")
    stream = stream.replace(b"response.completed", b"response.incomplete").replace(
        b'"type":"function_call","status":"completed"', b'"type":"function_call","status":"incomplete"'
    )
    parts = await told_by(stream, "responses")
    assert [item.kind for item in items_of(parts)] == ["reasoning", "assistant"]
    assert finish_of(parts).reason == "length"


async def test_without_usage_the_request_is_marked_as_estimated() -> None:
    stream = b'data: {"type":"response.completed","response":{"id":"r","usage":null,"output":[]}}\n\n'
    assert finish_of(await told_by(stream, "responses")).usage == Usage(requests=1, estimated=1)
