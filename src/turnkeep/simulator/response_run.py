"""One response as it comes into being: its events in true order, and the object it ends as."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import orjson

from turnkeep.lean_dataclass import dataclass
from turnkeep.simulator.frames import ReplyFrame, event
from turnkeep.simulator.options import StreamPace
from turnkeep.simulator.persona import (
    PICTURE,
    AnswerPart,
    AnswerPlan,
    CallStep,
    Drawing,
    Refuse,
    Say,
    Search,
    Think,
    tokens_of,
)
from turnkeep.simulator.prompt import Json, Prompt
from turnkeep.simulator.seeded_ids import SeededIds

_PADDING = "aZ3kQ9wX7mB1vN5t"
ENCRYPTED_PREFIX = "gAAAAAB"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a run speaks: its pace, padding against traffic analysis, and summaries of its thoughts."""

    pace: StreamPace
    obfuscate: bool = True
    summarize: bool = False
    queue_delay: float = 0.0


class ResponseRun:
    """Plays a plan as a stream of events. `stream` can be read once, to its end or not.

    `settle` is called when the outcome is known, just before the terminal event is given out: what
    it stores is there before the client can know.
    """

    def __init__(
        self,
        response: Json,
        plan: AnswerPlan,
        prompt: Prompt,
        *,
        ids: SeededIds,
        manner: Manner,
        settle: Callable[[Json], None],
    ) -> None:
        self.response = response
        self.plan = plan
        self.outcome: Literal["completed", "incomplete", "failed"] = "completed"
        self.partners: dict[str, str] = {}
        # One generator for the whole life: what a fault or a client leaves unread is read on by
        # whoever decides what becomes of the answer.
        self.stream = self._frames()
        self._prompt = prompt
        self._ids = ids
        self._manner = manner
        self._settle = settle
        self._sequence = 0
        self._tokens = {"output": 0, "reasoning": 0}
        self._call_head = f"call_{ids.hex(8)}"
        self._reasoning_id: str | None = None
        self._first = True

    @property
    def is_settled(self) -> bool:
        return self.response["status"] not in ("queued", "in_progress")

    def body(self) -> Json:
        return self.response

    def garbage(self) -> bytes:
        return b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"unfin\n\n'

    def unknown_frames(self) -> list[bytes]:
        late = {"rate_limits": [{"name": "requests", "remaining": 1}]}
        return [self._event("response.rate_limits.updated", **late), self._event("response.hologram.delta", delta="?")]

    def fail(self, code: str, message: str, *, error_event: bool, failed_event: bool) -> Iterator[ReplyFrame]:
        self.outcome = "failed"
        self.response.update(status="failed", error={"code": code, "message": message})
        # Two forms of one failure, which come alone or together; the error is flat in this
        # protocol.
        frames = [self._event("error", code=code, message=message, param=None)] if error_event else []
        if failed_event:
            frames.append(self._event("response.failed", response=self.response))
        self._settle(self.response)
        for at, data in enumerate(frames, 1):
            yield ReplyFrame(data, act="last" if at == len(frames) else None)

    def _frames(self) -> Iterator[ReplyFrame]:
        yield self._lifecycle("response.created")
        if self.response["status"] == "queued":
            yield self._lifecycle("response.queued")
            self.response["status"] = "in_progress"
            yield self._lifecycle("response.in_progress")._replace(wait=self._manner.queue_delay)
        else:
            yield self._lifecycle("response.in_progress")
        for at, part in enumerate(self.plan.parts):
            yield from self._part(part, cut=self.plan.incomplete is not None and at == len(self.plan.parts) - 1)
        yield self._terminal()

    def _part(self, part: AnswerPart, *, cut: bool) -> Iterator[ReplyFrame]:
        if isinstance(part, Think):
            return self._think(part)
        if isinstance(part, CallStep):
            return self._call(part, cut=cut)
        if isinstance(part, Search):
            return self._search(part)
        if isinstance(part, Drawing):
            return self._draw(part)
        return self._message(part, cut=cut)

    def _lifecycle(self, kind: str) -> ReplyFrame:
        return ReplyFrame(self._event(kind, response=self.response), head=True)

    def _terminal(self) -> ReplyFrame:
        reason = self.plan.incomplete
        self.outcome = "completed" if reason is None else "incomplete"
        self.response["status"] = self.outcome
        self.response["usage"] = self.usage()
        if reason is not None:
            self.response["incomplete_details"] = {"reason": reason}
        self._settle(self.response)
        return ReplyFrame(self._event(f"response.{self.outcome}", response=self.response), act="last")

    def _message(self, part: Say | Refuse, *, cut: bool) -> Iterator[ReplyFrame]:
        location = {"item_id": self._ids.new("msg_"), "output_index": len(self.response["output"]), "content_index": 0}
        item: Json = {"id": location["item_id"], "type": "message", "status": "in_progress", "role": "assistant"}
        if isinstance(part, Say) and part.phase is not None:
            item["phase"] = part.phase
        field, kind = ("text", "output_text") if isinstance(part, Say) else ("refusal", "refusal")
        yield self._open_item({**item, "content": []})
        yield ReplyFrame(self._event("response.content_part.added", **location, part=_content(part, "")))
        yield from self._deltas(f"response.{kind}.delta", location, tokens_of(part.text), counter="output")
        source = part.source if isinstance(part, Say) else None
        notes = [] if source is None else [annotation(source, part.text)]
        for at, note in enumerate(notes):
            kind_of = "response.output_text.annotation.added"
            yield ReplyFrame(self._event(kind_of, **location, annotation_index=at, annotation=note))
        final: Json = {**location, field: part.text}
        yield ReplyFrame(self._event(f"response.{kind}.done", **final, **({"logprobs": []} if field == "text" else {})))
        content = _content(part, part.text) | ({"annotations": notes} if notes else {})
        yield ReplyFrame(self._event("response.content_part.done", **location, part=content))
        yield self._close_item({**item, "status": "incomplete" if cut else "completed", "content": [content]})

    def _call(self, part: CallStep, *, cut: bool) -> Iterator[ReplyFrame]:
        location = {"item_id": self._ids.new("fc_"), "output_index": len(self.response["output"])}
        call_id = part.call_id or self._call_head + self._ids.hex(16)
        item: Json = {"id": location["item_id"], "type": "function_call", "status": "in_progress", "arguments": ""}
        item |= {"call_id": call_id, "name": part.name}
        yield self._open_item(item)
        yield from self._deltas(
            "response.function_call_arguments.delta", location, pieces(part.arguments), counter="output"
        )
        yield ReplyFrame(self._event("response.function_call_arguments.done", **location, arguments=part.arguments))
        yield self._close_item({**item, "status": "incomplete" if cut else "completed", "arguments": part.arguments})

    def _search(self, part: Search) -> Iterator[ReplyFrame]:
        location = {"item_id": self._ids.new("ws_"), "output_index": len(self.response["output"])}
        item: Json = {"id": location["item_id"], "type": "web_search_call", "status": "in_progress"}
        item["action"] = {"type": "search", "query": part.query, "queries": [part.query]}
        yield self._open_item(item)
        for state in ("in_progress", "searching", "completed"):
            yield ReplyFrame(self._event(f"response.web_search_call.{state}", **location))
        yield self._close_item({**item, "status": "completed"})

    def _draw(self, part: Drawing) -> Iterator[ReplyFrame]:
        location = {"item_id": self._ids.new("ig_"), "output_index": len(self.response["output"])}
        item: Json = {"id": location["item_id"], "type": "image_generation_call", "status": "in_progress"}
        yield self._open_item(item)
        for state in ("in_progress", "generating", "completed"):
            yield ReplyFrame(self._event(f"response.image_generation_call.{state}", **location))
        picture = {"result": PICTURE, "output_format": "png", "revised_prompt": part.subject}
        yield self._close_item({**item, "status": "completed", **picture})

    def _think(self, part: Think) -> Iterator[ReplyFrame]:
        item_id = self._ids.new("rs_")
        index = len(self.response["output"])
        item: Json = {"id": item_id, "type": "reasoning", "summary": []}
        self._tokens["reasoning"] += len(tokens_of(part.text))
        yield self._open_item({**item, "encrypted_content": ""})
        if self._manner.summarize:
            location = {"item_id": item_id, "output_index": index, "summary_index": 0}
            yield from self._summary(part.text, location)
            item["summary"] = [{"type": "summary_text", "text": part.text}]
        yield self._close_item({**item, "encrypted_content": encrypted_thoughts(item_id)})
        self._reasoning_id = item_id

    def _summary(self, text: str, location: Mapping[str, Any]) -> Iterator[ReplyFrame]:
        kind = "response.reasoning_summary"
        empty, full = {"type": "summary_text", "text": ""}, {"type": "summary_text", "text": text}
        yield ReplyFrame(self._event(f"{kind}_part.added", **location, part=empty))
        yield from self._deltas(f"{kind}_text.delta", location, tokens_of(text), counter=None)
        yield ReplyFrame(self._event(f"{kind}_text.done", **location, text=text))
        yield ReplyFrame(self._event(f"{kind}_part.done", **location, part=full))

    def _open_item(self, item: Json) -> ReplyFrame:
        wait = self._wait_first()
        data = self._event("response.output_item.added", output_index=len(self.response["output"]), item=item)
        return ReplyFrame(data, wait)

    def _close_item(self, item: Json) -> ReplyFrame:
        index = len(self.response["output"])
        self.response["output"].append(item)
        # From here on neither may come back without the other.
        if self._reasoning_id is not None:
            self.partners[item["id"]] = self._reasoning_id
        return ReplyFrame(self._event("response.output_item.done", output_index=index, item=item))

    def _deltas(
        self, kind: str, location: Mapping[str, Any], tokens: list[str], *, counter: str | None
    ) -> Iterator[ReplyFrame]:
        """The hot part: what does not change from delta to delta is rendered once."""
        head = b"event: %b\ndata: " % kind.encode()
        constant = orjson.dumps({"type": kind, **location})[:-1]
        tail = b',"logprobs":[]' if kind == "response.output_text.delta" else b""
        pause = self._manner.pace.token if self.plan.token is None else self.plan.token
        for at, token in enumerate(tokens):
            text = orjson.dumps(token)
            padding = b',"obfuscation":"%b"' % _pad(len(text)) if self._manner.obfuscate else b""
            number = b',"sequence_number":%d}\n\n' % self._sequence
            self._sequence += 1
            if counter is not None:
                self._tokens[counter] += 1
            data = b"".join((head, constant, b',"delta":', text, tail, padding, number))
            yield ReplyFrame(data, pause if at else 0.0, delta=True)

    def _wait_first(self) -> float:
        if not self._first:
            return 0.0
        self._first = False
        return self._manner.pace.first if self.plan.first is None else self.plan.first

    def _event(self, kind: str, **fields: Any) -> bytes:
        # Without a hole: a stream is resumed after one of these numbers.
        number = self._sequence
        self._sequence += 1
        return event(kind, {"type": kind, **fields, "sequence_number": number})

    def usage(self) -> Json:
        """What it has cost so far."""
        input_tokens, reasoning_tokens = self._prompt.tokens(), self._tokens["reasoning"]
        output = self._tokens["output"] + reasoning_tokens
        return {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
            "total_tokens": input_tokens + output,
        }


def encrypted_thoughts(item_id: str) -> str:
    """What stands for the encrypted thoughts of a reasoning item."""
    return ENCRYPTED_PREFIX + base64.urlsafe_b64encode(hashlib.sha512(item_id.encode()).digest() * 2).decode()


def pieces(arguments: str) -> list[str]:
    """Arguments as they are streamed: small fragments, fewer and larger ones where they are long."""
    size = max(12, len(arguments) // 64)
    return [arguments[at : at + size] for at in range(0, len(arguments), size)]


def _content(part: Say | Refuse, text: str) -> Json:
    if isinstance(part, Refuse):
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def annotation(source: Search, text: str) -> Json:
    """The citation of a page by a whole text."""
    return {"type": "url_citation", "start_index": 0, "end_index": len(text), "url": source.url, "title": source.title}


def _pad(length: int) -> bytes:
    # Both together are a multiple of sixteen, so that the size of a frame says little of its text.
    return _PADDING[: 16 - length % 16].encode()
