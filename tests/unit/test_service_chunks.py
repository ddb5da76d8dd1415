"""Chunks arrive in order, and a reader that is slow costs no memory."""

from __future__ import annotations

import pytest

from turnkeep.errors import ModelUnavailable
from turnkeep.events import Event, delta
from turnkeep.service.chunks import (
    MERGE_ABOVE,
    Chunk,
    ContentChunk,
    DoneChunk,
    ErrorChunk,
    Metadata,
    Outlet,
    Timings,
    ToolCallChunk,
    ToolResultChunk,
    fold_chunks,
)
from turnkeep.usage import Usage

DONE = DoneChunk(Metadata("stop", "m", Usage(), Timings(None, 1.0, None), "run_1", "thread_1"))


async def read(outlet: Outlet) -> list[Chunk]:
    return [chunk async for chunk in outlet]


def word(chunk: Chunk) -> str:
    """The text of a chunk, or whose call it is of."""
    match chunk:
        case ContentChunk(text):
            return text
        case ToolCallChunk(call):
            return call.id
        case ToolResultChunk(result):
            return result.id
    return ""


async def test_text_of_a_slow_reader_is_joined() -> None:
    outlet = Outlet()
    words = [f"{n} " for n in range(10_000)]
    for word in words:
        outlet.observe(delta(word, "run_1", 1))
    outlet.end(DONE)
    chunks = await read(outlet)
    assert len(chunks) <= MERGE_ABOVE + 2
    assert "".join(chunk.content for chunk in chunks if isinstance(chunk, ContentChunk)) == "".join(words)
    assert chunks[-1] == DONE


async def test_joining_keeps_the_order_of_text_and_calls() -> None:
    outlet = Outlet()
    for n in range(200):
        outlet.observe(delta(f"{n} ", "run_1", 1))
        if n % 50 == 49:
            call = {"kind": "call", "call_id": f"c{n}", "name": "look", "arguments": "{}"}
            outlet.observe({"type": "step", "n": n, "items": [call]})
            outlet.observe({"type": "output", "n": n, "item": {"kind": "output", "call_id": f"c{n}", "output": "x"}})
    outlet.end(DONE)
    chunks = await read(outlet)
    told = list(map(word, chunks))
    expected = []
    for n in range(200):
        expected.append(f"{n} ")
        if n % 50 == 49:
            expected += [f"c{n}", f"c{n}"]
    assert "|".join(told).replace("|", "") == "".join(expected)


async def test_an_answer_that_begins_anew_replaces_what_was_shown() -> None:
    outlet = Outlet()
    for event in (delta("wrong", "r", 1), Event("snapshot", text="first "), delta("right", "r", 1)):
        outlet.observe(event)
    outlet.end(DONE)
    assert (await fold_chunks(aiter(outlet))).content == "first right"


async def test_a_fold_raises_what_is_told_as_error() -> None:
    outlet = Outlet()
    outlet.observe(delta("half", "r", 1))
    outlet.end(ErrorChunk(ModelUnavailable("gone"), DONE.metadata))
    with pytest.raises(ModelUnavailable, match="gone"):
        await fold_chunks(aiter(outlet))


async def test_nothing_comes_after_the_last_chunk() -> None:
    outlet = Outlet()
    outlet.end(DONE)
    outlet.end(ErrorChunk(ModelUnavailable()))
    outlet.observe(
        {"type": "step", "n": 0, "items": [{"kind": "call", "call_id": "c", "name": "n", "arguments": "{}"}]}
    )
    assert await read(outlet) == [DONE]
