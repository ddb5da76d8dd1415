"""One answer of the Messages API as it comes into being: its events in true order, and the
message it ends as.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import orjson

from turnkeep.simulator.frames import ReplyFrame, event
from turnkeep.simulator.message_checks import signature
from turnkeep.simulator.options import StreamPace
from turnkeep.simulator.persona import AnswerPlan, CallStep, Drawing, Refuse, Say, Search, Think, tokens_of
from turnkeep.simulator.prompt import Json
from turnkeep.simulator.prompt_cache import InputTokens
from turnkeep.simulator.response_run import pieces
from turnkeep.simulator.seeded_ids import SeededIds

REDACTION_TRIGGER = "ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING"
"""A text that makes the platform seal its thoughts."""

_STOP = {"max_output_tokens": "max_tokens", "content_filter": "refusal", "pause_turn": "pause_turn"}
_ERRORS = {
    "rate_limit_exceeded": "rate_limit_error",
    "server_is_overloaded": "overloaded_error",
    "insufficient_quota": "billing_error",
    "server_error": "api_error",
    "context_length_exceeded": "request_too_large",
}


class MessageRun:
    """Plays a plan as a stream of events. `stream` can be read once, to its end or not."""

    def __init__(
        self, body: Json, plan: AnswerPlan, *, ids: SeededIds, pace: StreamPace, input_tokens: InputTokens
    ) -> None:
        self.plan = plan
        self.outcome: Literal["completed", "incomplete", "failed"] = "completed"
        self.is_settled = False
        self.stream = self._frames()
        self._ids = ids
        self._pace = pace
        self._input = input_tokens
        self._body = body
        self._thinks = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
        self._call_head = f"toolu_{ids.hex(8)}"
        self._tokens = 0
        self._thinking_tokens = 0
        self._searches = 0
        self._first = True
        self._error: Json | None = None
        self.message: Json = {
            "id": ids.new("msg_", 24),
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }

    def body(self) -> Json:
        return self._error or self.message

    def garbage(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"te\n\n'

    def unknown_frames(self) -> list[bytes]:
        return [event("hologram", {"type": "hologram", "delta": "?"}), event("ping", {"type": "ping"})]

    def fail(self, code: str, message: str, *, error_event: bool, failed_event: bool) -> Iterator[ReplyFrame]:
        """This protocol has one form for both kinds of failure."""
        self.outcome = "failed"
        kind = _ERRORS.get(code, code)
        self._error = {"type": "error", "error": {"type": kind, "message": message}}
        self.is_settled = True
        yield ReplyFrame(event("error", self._error), act="last")

    def _frames(self) -> Iterator[ReplyFrame]:
        yield ReplyFrame(event("message_start", {"type": "message_start", "message": {**self.message}}), head=True)
        for part in self.plan.parts:
            if not isinstance(part, Drawing):  # this protocol has none
                yield from self._part(part)
        yield from self._closing()

    def _part(self, part: Think | Search | Say | Refuse | CallStep) -> Iterator[ReplyFrame]:
        if isinstance(part, Think):
            return self._think(part)
        if isinstance(part, CallStep):
            return self._call(part)
        if isinstance(part, Search):
            return self._search(part)
        return self._say(part)

    def _closing(self) -> Iterator[ReplyFrame]:
        incomplete = self.plan.incomplete
        has_refusal = any(isinstance(part, Refuse) for part in self.plan.parts)
        reason = "tool_use" if self.plan.calls else "refusal" if has_refusal else "end_turn"
        if incomplete is not None:
            reason = _STOP.get(incomplete, "end_turn")
            # A pause cuts nothing off: so far the answer is whole.
            self.outcome = "incomplete" if incomplete != "pause_turn" else "completed"
        delta: Json = {"stop_reason": reason, "stop_sequence": None}
        if reason == "refusal":
            details = {"type": "refusal", "category": None, "explanation": "The simulator was told to refuse this."}
            delta["stop_details"] = details
        self.message |= delta
        self.message["usage"] = self._usage()
        usage = {name: value for name, value in self.message["usage"].items() if name != "service_tier"}
        yield ReplyFrame(event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage}))
        self.is_settled = True
        yield ReplyFrame(event("message_stop", {"type": "message_stop"}), act="last")

    def _say(self, part: Say | Refuse) -> Iterator[ReplyFrame]:
        block: Json = {"type": "text", "text": ""}
        source = part.source if isinstance(part, Say) else None
        if source is not None:
            block["citations"] = []
        yield from self._open(block)
        yield from self._deltas("text_delta", "text", tokens_of(part.text))
        final = {**block, "text": part.text}
        if source is not None:
            final["citations"] = [_citation(source)]
            yield self._delta({"type": "citations_delta", "citation": _citation(source)})
        yield self._close(final)

    def _call(self, part: CallStep) -> Iterator[ReplyFrame]:
        call_id = part.call_id or self._call_head + self._ids.hex(16)
        block: Json = {"type": "tool_use", "id": call_id, "name": part.name, "input": {}}
        yield from self._open(block)
        yield from self._deltas("input_json_delta", "partial_json", ["", *pieces(part.arguments)])
        # Whole messages hold an object in any case; arguments that are none are met in the deltas.
        yield self._close({**block, "input": _decode(part.arguments)})

    def _search(self, part: Search) -> Iterator[ReplyFrame]:
        self._searches += 1
        search_id = self._ids.new("srvtoolu_", 24)
        query_block: Json = {"type": "server_tool_use", "id": search_id, "name": "web_search", "input": {}}
        yield from self._open(query_block)
        yield from self._deltas("input_json_delta", "partial_json", ["", orjson.dumps({"query": part.query}).decode()])
        yield self._close({**query_block, "input": {"query": part.query}})
        if self.plan.incomplete == "pause_turn":
            return
        result = {"type": "web_search_result", "url": part.url, "title": part.title}
        opaque = {"encrypted_content": _ciphertext(part.url), "page_age": None}
        result_block: Json = {
            "type": "web_search_tool_result",
            "tool_use_id": search_id,
            "content": [{**result, **opaque}],
        }
        yield from self._open(result_block)
        yield self._close(result_block)

    def _think(self, part: Think) -> Iterator[ReplyFrame]:
        tokens = tokens_of(part.text)
        self._thinking_tokens += len(tokens)
        if not self._thinks:
            return
        if REDACTION_TRIGGER in orjson.dumps(self._body["messages"]).decode():
            redaction: Json = {"type": "redacted_thinking", "data": "EmwK" + _ciphertext(part.text)}
            yield from self._open(redaction)
            yield self._close(redaction)
            return
        block: Json = {"type": "thinking", "thinking": "", "signature": ""}
        yield from self._open(block)
        yield from self._deltas("thinking_delta", "thinking", tokens)
        yield self._delta({"type": "signature_delta", "signature": signature(part.text)})
        yield self._close({**block, "thinking": part.text, "signature": signature(part.text)})

    @property
    def _index(self) -> int:
        return len(self.message["content"])

    def _open(self, block: Json) -> Iterator[ReplyFrame]:
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        yield ReplyFrame(event("content_block_start", start), self._wait())
        if self._index == 0:
            # They may come anywhere in a stream, so one comes where a reader expects a delta.
            yield ReplyFrame(event("ping", {"type": "ping"}))

    def _close(self, block: Json) -> ReplyFrame:
        stop = {"type": "content_block_stop", "index": self._index}
        self.message["content"].append(block)
        return ReplyFrame(event("content_block_stop", stop))

    def _delta(self, delta: Mapping[str, Any]) -> ReplyFrame:
        return ReplyFrame(
            event("content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta})
        )

    def _deltas(self, kind: str, name: str, tokens: list[str]) -> Iterator[ReplyFrame]:
        """The hot part: what does not change from delta to delta is rendered once."""
        delta = {"type": "content_block_delta", "index": self._index, "delta": {"type": kind, name: "\x00"}}
        before, after = event("content_block_delta", delta).split(b'"\\u0000"')
        pause = self._pace.token if self.plan.token is None else self.plan.token
        for at, token in enumerate(tokens):
            self._tokens += 1
            yield ReplyFrame(b"".join((before, orjson.dumps(token), after)), pause if at else 0.0, delta=True)

    def _wait(self) -> float:
        if not self._first:
            return 0.0
        self._first = False
        return self._pace.first if self.plan.first is None else self.plan.first

    def _usage(self) -> Json:
        usage: Json = {
            "input_tokens": self._input.fresh,
            "cache_creation_input_tokens": self._input.written_tokens,
            "cache_read_input_tokens": self._input.read_tokens,
            "cache_creation": {"ephemeral_5m_input_tokens": self._input.written_tokens, "ephemeral_1h_input_tokens": 0},
            # The opening counts one already, as the platform's does.
            "output_tokens": self._tokens or 1,
            "output_tokens_details": {"thinking_tokens": self._thinking_tokens},
            "service_tier": "standard",
        }
        if self._searches:
            usage["server_tool_use"] = {"web_search_requests": self._searches, "web_fetch_requests": 0}
        return usage


def _citation(source: Search) -> Json:
    where = {"type": "web_search_result_location", "url": source.url, "title": source.title}
    return {**where, "encrypted_index": _ciphertext(source.title), "cited_text": source.text[:150]}


def _ciphertext(text: str) -> str:
    return base64.b64encode(hashlib.sha512(text.encode()).digest()).decode()


def _decode(arguments: str) -> Any:
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
