"""A turn as Chat Completions show it: whole, or in chunks.

Tools of the house run unseen; functions of the caller end the answer with `tool_calls`. There is no
way to take text back: an attempt that begins otherwise than the one that was shown ends the stream
with an error, and the request sent again gives the whole answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from turnkeep.doors.http.openai.openai_errors import error_form, fault_form
from turnkeep.doors.http.openai.shown_text import ShownText
from turnkeep.doors.http.openai.turn_reader import (
    Beginning,
    OutputsWanted,
    Replacement,
    TextGrowth,
    ThoughtGrowth,
    TurnEnd,
    TurnFailure,
    TurnPart,
)
from turnkeep.store.values import HeldCall
from turnkeep.usage import Usage

FINISH = {"completed": "stop", "incomplete": "length", "cancelled": "stop"}
LONGEST_COVERS = 512
ANEW = error_form(
    "the answer was begun anew after some of it was shown: send the request again to have it whole",
    "server_error",
    "answer_restarted",
)


class ChatChunks:
    """Encodes one stream."""

    def __init__(self, completion_id: str, model: str, created_at: int, *, tells_usage: bool) -> None:
        self._head = {"id": completion_id, "object": "chat.completion.chunk", "created": created_at, "model": model}
        self._tells_usage = tells_usage
        self._text = ShownText()
        self._thoughts = ShownText()
        self.is_over = False

    def begin(self) -> Iterable[dict[str, Any]]:
        """At once, while the turn still waits for its window."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def encode(self, part: TurnPart) -> Iterable[dict[str, Any]]:
        match part:
            case Beginning():
                self._thoughts.become("")
                return self._show(self._text.become(""))
            case TextGrowth(text) | Replacement(text):
                is_more = isinstance(part, TextGrowth)
                return self._show(self._text.grow(text) if is_more else self._text.become(text))
            case ThoughtGrowth(text):
                return self._think(text)
            case OutputsWanted(calls):
                return self._end("tool_calls", [self._chunk({"tool_calls": tool_calls(calls, has_index=True)})])
            case TurnEnd():
                if (rest := self._text.end(part.text)) is None:
                    return self._fail(ANEW)
                return self._end(FINISH[part.outcome], self._show(rest), part)
            case TurnFailure(fault):
                return self._fail(fault_form(fault))
        return ()

    def _show(self, text: str | None) -> list[dict[str, Any]]:
        if text is None:
            return self._fail(ANEW)
        return [self._chunk({"content": text})] if text else []

    def _think(self, text: str) -> list[dict[str, Any]]:
        """As servers of open models say it, and front ends read it: OpenAI's own dialect has no word for it."""
        addition = self._thoughts.grow_on(text)
        return [self._chunk({"reasoning_content": addition})] if addition else []

    def _fail(self, error: dict[str, Any]) -> list[dict[str, Any]]:
        self.is_over = True
        return [error]

    def _end(self, reason: str, chunks: list[dict[str, Any]], end: TurnEnd | None = None) -> list[dict[str, Any]]:
        self.is_over = True
        chunks = [*chunks, self._chunk({}, reason) | metadata_of(end)]
        if self._tells_usage:
            usage = end.usage if end else Usage()
            chunks.append({**self._head, "choices": [], "usage": usage_form(usage)})
        return chunks

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}


def completion(
    completion_id: str, model: str, created_at: int, part: TurnEnd | OutputsWanted, *, text: str, thoughts: str
) -> dict[str, Any]:
    """The answer as one object; `text` and `thoughts` are what was said and thought until then."""
    calls = part.calls if isinstance(part, OutputsWanted) else ()
    text = part.text if isinstance(part, TurnEnd) else text
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = tool_calls(calls)
    reason = FINISH[part.outcome] if isinstance(part, TurnEnd) else "tool_calls"
    usage = part.usage if isinstance(part, TurnEnd) else Usage()
    return {
        "id": completion_id, "object": "chat.completion", "created": created_at, "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": usage_form(usage),
        **metadata_of(part if isinstance(part, TurnEnd) else None),
    }  # fmt: skip


def tool_calls(calls: Sequence[HeldCall], *, has_index: bool = False) -> list[dict[str, Any]]:
    forms: list[dict[str, Any]] = [
        {"id": one.call_id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
        for one in calls
    ]
    return [{"index": index, **form} for index, form in enumerate(forms)] if has_index else forms


def usage_form(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def metadata_of(end: TurnEnd | None) -> dict[str, Any]:
    """Which run it was, and which messages it answers."""
    return {} if end is None else {"metadata": run_metadata(end)}


def run_metadata(end: TurnEnd) -> dict[str, str]:
    covers = ",".join(end.covers)
    if len(covers) > LONGEST_COVERS:  # whole ids alone
        covers = covers[:LONGEST_COVERS].rpartition(",")[0]
    return {"run_id": end.run_id, "covers": covers, "outcome": end.outcome}
