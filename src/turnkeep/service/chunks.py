"""What a direct call yields while it is answered, and what it comes to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from turnkeep.errors import TurnkeepError
from turnkeep.events import Event
from turnkeep.lean_dataclass import dataclass
from turnkeep.usage import Usage

MERGE_ABOVE = 64
"""Chunks waiting for their reader from which on text is joined to the last one."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool; `arguments` is JSON as the model wrote it.

    `output` once there is one.
    """

    id: str
    name: str
    arguments: str
    output: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool call gave; `status` is ``ok`` or says why not."""

    id: str
    output: str
    status: str = "ok"


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the call to the first text (None: there was none) and to the end; output tokens
    per second.
    """

    first_token: float | None
    total: float
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Metadata:
    """How an answer ended. `cost` is in US dollars, None where a price is not known: never 0 for
    lack of one.

    `finish_reason`: stop, length, content_filter, refusal, cancelled; or tool_calls: calls wait for
    their outputs.
    """

    finish_reason: str
    model: str | None
    usage: Usage
    timings: Timings
    run_id: str
    thread_id: str
    session_id: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def cost(self) -> float | None:
        return self.usage.cost


@dataclass(frozen=True, slots=True)
class ContentChunk:
    """What the text grows by, or with `replaces` the whole text so far."""

    content: str
    replaces: bool = False
    type: Literal["content"] = "content"


@dataclass(frozen=True, slots=True)
class ToolCallChunk:
    """The model asks for a tool, which runs now."""

    tool_call: ToolCall
    type: Literal["tool_call"] = "tool_call"


@dataclass(frozen=True, slots=True)
class ToolResultChunk:
    """A tool has given its result."""

    tool_result: ToolResult
    type: Literal["tool_result"] = "tool_result"


@dataclass(frozen=True, slots=True)
class DoneChunk:
    """The answer is complete: the last chunk."""

    metadata: Metadata
    type: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class ErrorChunk:
    """There is no answer: the last chunk. `metadata` where the run came so far."""

    error: TurnkeepError
    metadata: Metadata | None = None
    type: Literal["error"] = "error"


# Told apart by `type`: in `match chunk.type` a type checker knows what each one holds.
Chunk = ContentChunk | ToolCallChunk | ToolResultChunk | DoneChunk | ErrorChunk
"""One piece of an answer. Last and exactly once comes a `DoneChunk` or an `ErrorChunk`."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: the chunks, folded."""

    content: str
    tool_calls: tuple[ToolCall, ...]
    metadata: Metadata


async def fold_chunks(chunks: AsyncIterator[Chunk]) -> Completion:
    """The answer that these chunks are. Raises their error."""
    text, calls = "", dict[str, ToolCall]()
    async for chunk in chunks:
        match chunk:
            case ContentChunk():
                text = chunk.content if chunk.replaces else text + chunk.content
            case ToolCallChunk(call):
                calls[call.id] = call
            case ToolResultChunk(result) if result.id in calls:
                calls[result.id] = replace(calls[result.id], output=result.output)
            case ErrorChunk(error):
                raise error
            case DoneChunk(metadata):
                return Completion(text, tuple(calls.values()), metadata)
    raise AssertionError("the chunks ended without their last one")


class Outlet:
    """Chunks on their way from a run to whoever reads them, in order. It never makes the run wait.

    When the reader is behind, text is joined, so that what waits is bounded by the answer itself.
    """

    def __init__(self) -> None:
        self._waiting: deque[Chunk] = deque()
        self._some = asyncio.Event()
        self._has_ended = False
        self._begun_at = asyncio.get_running_loop().time()
        self._first_text_at: float | None = None

    def observe(self, what: Event | Mapping[str, Any]) -> None:
        """Take in what a run shows and does."""
        if isinstance(what, Event):
            if what.kind == "delta":
                self._text(what.text)
            elif what.kind == "snapshot":
                self._put(ContentChunk(what.text, replaces=True))
        # calls are told from the journal, not from the stream: there they are complete, and will run
        elif what["type"] == "step":
            for item in what["items"]:
                if item["kind"] == "call":
                    call = ToolCall(item["call_id"], item["name"], item["arguments"])
                    self._put(ToolCallChunk(call))
        elif what["type"] == "output":
            item = what["item"]
            result = ToolResult(item["call_id"], item["output"], item.get("status", "ok"))
            self._put(ToolResultChunk(result))

    def end(self, last: Chunk | None) -> None:
        """Nothing comes after this."""
        # the first end counts: a run that was left may still come to another one
        if not self._has_ended:
            self._has_ended = True
            if last is not None:
                self._waiting.append(last)
            self._some.set()

    def timings(self, usage: Usage) -> Timings:
        now = asyncio.get_running_loop().time()
        total = now - self._begun_at
        first = None if self._first_text_at is None else self._first_text_at - self._begun_at
        return Timings(first, total, usage.output_tokens / total if usage.output_tokens and total > 0 else None)

    def _text(self, text: str) -> None:
        if self._first_text_at is None:
            self._first_text_at = asyncio.get_running_loop().time()
        # joined, never dropped: a fold over the chunks has to give the whole answer
        last = self._waiting[-1] if len(self._waiting) > MERGE_ABOVE else None
        if isinstance(last, ContentChunk):
            self._waiting[-1] = ContentChunk(last.content + text, replaces=last.replaces)
        else:
            self._put(ContentChunk(text))

    def _put(self, chunk: Chunk) -> None:
        if not self._has_ended:
            self._waiting.append(chunk)
            self._some.set()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._has_ended:
                return
            self._some.clear()
            await self._some.wait()
