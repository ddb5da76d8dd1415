"""One chat completion as it comes into being: its chunks, with the ways of whichever
server is played.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import orjson

from turnkeep.lean_dataclass import dataclass
from turnkeep.simulator.frames import ReplyFrame, data
from turnkeep.simulator.persona import AnswerPlan, CallStep, Drawing, Refuse, Say, Search, Think, tokens_of
from turnkeep.simulator.prompt import Json, Prompt
from turnkeep.simulator.quirks import Quirk
from turnkeep.simulator.response_run import Manner, annotation, pieces
from turnkeep.simulator.seeded_ids import SeededIds

_FINISH = {
    "max_output_tokens": "length",
    "max_messages": "length",
    "steered": "stop",
    "content_filter": "content_filter",
}


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk repeats. `is_forced`: a named tool was demanded. `usage`: a usage
    chunk was asked for.
    """

    id: str
    created_at: int
    model: str
    usage: bool = False
    is_forced: bool = False


class ChatRun:
    """Plays a plan as chunks. `stream` can be read once, to its end or not."""

    def __init__(
        self, head: Head, plan: AnswerPlan, prompt: Prompt, *, ids: SeededIds, manner: Manner, quirk: Quirk
    ) -> None:
        self.plan = plan
        self.outcome: Literal["completed", "incomplete", "failed"] = "completed"
        self.is_settled = False
        self.stream = self._frames()
        self._head = head
        self._prompt = prompt
        self._ids = ids
        self._manner = manner
        self._quirk = quirk
        self._error: Json | None = None
        self._tokens = 0
        # Calls of one response share the head of their ids: by it a prompt tells later which of
        # them came together, however a client has ordered them.
        self._call_head = f"call_{ids.hex(8)}"
        self._calls: list[Json] = []
        self._first = True

    def body(self) -> Json:
        """The reply when nothing is streamed."""
        text = "".join(part.text for part in self.plan.parts if isinstance(part, Say))
        refusal = "".join(part.text for part in self.plan.parts if isinstance(part, Refuse))
        notes = [
            _url_citation(p.source, p.text) for p in self.plan.parts if isinstance(p, Say) and p.source is not None
        ]
        message: Json = {"role": "assistant", "content": text or None, "refusal": refusal or None, "annotations": notes}
        # Null beside calls or a refusal, and an empty text where there is simply nothing.
        if not self._calls and not refusal:
            message["content"] = text
        if self._calls:
            message["tool_calls"] = self._calls
        if self._quirk.thoughts:
            message["reasoning_content"] = "".join(p.text for p in self.plan.parts if isinstance(p, Think)) or None
        if self._error is not None:
            return {"error": self._error}
        body: Json = {
            "id": self._head.id,
            "object": "chat.completion",
            "created": self._head.created_at,
            "model": self._head.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish()}],
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }
        if self._quirk.usage:
            body["usage"] = self._usage()
        return body

    def garbage(self) -> bytes:
        return b'data: {"id":"chatcmpl-x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"cont\n\n'

    def unknown_frames(self) -> list[bytes]:
        return [b"event: hologram\n" + data({"object": "hologram.chunk", "choices": []}), data({"object": "ping"})]

    def fail(self, code: str, message: str, *, error_event: bool, failed_event: bool) -> Iterator[ReplyFrame]:
        """An error within HTTP 200 is nested in its chunk; this protocol has one form for both
        kinds.
        """
        self.outcome = "failed"
        self._error = {"message": message, "type": "server_error", "param": None, "code": code}
        self.is_settled = True
        yield ReplyFrame(data({"error": self._error}), act="last")

    def _frames(self) -> Iterator[ReplyFrame]:
        quirk = self._quirk
        if quirk.filter_chunks:
            # Azure begins with a chunk without choices and id (semantic-kernel#3650).
            empty: Json = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
            empty["prompt_filter_results"] = [{"prompt_index": 0, **_filter_results()}]
            yield ReplyFrame(data(empty), head=True)
        if quirk.error_in_200:
            yield from self.fail(
                "upstream_error", "The upstream provider failed.", error_event=True, failed_event=False
            )
            return
        yield ReplyFrame(self._chunk({"role": "assistant", "content": "", "refusal": None}), head=True)
        for part in self.plan.parts:
            if isinstance(part, Search | Drawing):  # this protocol shows only what was found
                continue
            yield from self._call(part) if isinstance(part, CallStep) else self._text(part)
        yield from self._closing()

    def _closing(self) -> Iterator[ReplyFrame]:
        quirk = self._quirk
        self.outcome = "completed" if self.plan.incomplete is None else "incomplete"
        frames: list[bytes] = []
        if not quirk.no_finish:
            frames.append(self._chunk({}, self._finish()))
        # Azure's filter runs behind the text and ends with a choice without a delta (autogen#6465).
        if quirk.filter_chunks:
            frames.append(
                data({**self._shell(), "choices": [{"index": 0, "finish_reason": None, **_filter_results()}]})
            )
        if self._head.usage and quirk.usage and not quirk.usage_at_finish and not quirk.no_finish:
            frames.append(data({**self._shell(), "choices": [], "usage": self._usage()}))
        if quirk.sends_done and not quirk.no_finish:
            frames.append(b"data: [DONE]\n\n")
        # Settled before the last frame goes out: a generator that nobody asks again cannot say so.
        for frame in frames[:-1]:
            yield ReplyFrame(frame)
        self.is_settled = True
        yield ReplyFrame(frames[-1] if frames else b"", act="last")

    def _text(self, part: Say | Refuse | Think) -> Iterator[ReplyFrame]:
        # Thoughts that nobody is shown are paid for all the same.
        if isinstance(part, Think) and not self._quirk.thoughts:
            self._tokens += len(tokens_of(part.text))
            return
        field = "reasoning_content" if isinstance(part, Think) else "refusal" if isinstance(part, Refuse) else "content"
        yield from self._deltas(field, tokens_of(part.text))
        if isinstance(part, Say) and part.source is not None:
            yield ReplyFrame(self._chunk({"annotations": [_url_citation(part.source, part.text)]}))

    def _deltas(self, field: str, tokens: list[str]) -> Iterator[ReplyFrame]:
        """The hot part: what does not change from delta to delta is rendered once."""
        before, after = self._chunk({field: "\x00"}).split(b'"\\u0000"')
        for token in tokens:
            self._tokens += 1
            wait = self._wait()
            # LiteLLM gives each chunk an id of its own (litellm#37792): no client may
            # join chunks by it.
            if self._quirk.changing_id:
                before, after = self._chunk({field: "\x00"}).split(b'"\\u0000"')
            yield ReplyFrame(b"".join((before, orjson.dumps(token), after)), wait, delta=True)

    def _call(self, part: CallStep) -> Iterator[ReplyFrame]:
        call_id = part.call_id or self._call_head + self._ids.hex(16)
        call_id = call_id if self._quirk.call_ids else ""
        index = len(self._calls)
        arguments: Any = self._arguments(part.arguments)
        self._calls.append({"id": call_id, "type": "function", "function": {"name": part.name, "arguments": arguments}})
        fragments = [arguments] if self._quirk.whole_calls else ["", *pieces(part.arguments)]
        self._tokens += len(fragments)
        for at, fragment in enumerate(fragments):
            call: Json = {"index": index, "function": {"arguments": fragment}}
            if at == 0:
                call |= {"id": call_id, "type": "function", "function": {"name": part.name, "arguments": fragment}}
            yield ReplyFrame(self._chunk({"tool_calls": [self._with_index(call)]}), self._wait(), delta=True)

    def _arguments(self, text: str) -> Any:
        if not self._quirk.arguments_as_object:
            return text
        try:
            # An object in the place of its text (litellm#35663). What is no JSON stays a text: the
            # worst model has to come through on these servers too.
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text

    def _with_index(self, call: Json) -> Json:
        if self._quirk.tool_index == "absent":
            del call["index"]
        elif self._quirk.tool_index == "zero":
            call["index"] = 0
        return call

    def _finish(self) -> str:
        if self._calls:
            # OpenAI itself ends with `stop` where a named tool was forced (vllm#25054): whoever
            # decides by the reason instead of by the calls is found out here.
            return "stop" if self._quirk.calls_end_with_stop or self._head.is_forced else "tool_calls"
        return "stop" if self.plan.incomplete is None else _FINISH[self.plan.incomplete]

    def _shell(self) -> Json:
        chunk_id = self._ids.new("chatcmpl-", 29) if self._quirk.changing_id else self._head.id
        return {
            "id": chunk_id,
            "object": "chat.completion.chunk",
            "created": self._head.created_at,
            "model": self._head.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        chunk = self._shell()
        chunk["choices"] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        if finish is not None and self._quirk.usage_at_finish:
            chunk["usage"] = self._usage()
        elif self._head.usage and self._quirk.usage:
            chunk["usage"] = None
        if self._manner.obfuscate:
            chunk["obfuscation"] = "kQ9wX7mB1v"
        return data(chunk)

    def _wait(self) -> float:
        pace, plan = self._manner.pace, self.plan
        if self._first:
            self._first = False
            return pace.first if plan.first is None else plan.first
        return pace.token if plan.token is None else plan.token

    def _usage(self) -> Json:
        prompt_tokens = self._prompt.tokens()
        reasoning_tokens = sum(len(tokens_of(part.text)) for part in self.plan.parts if isinstance(part, Think))
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._tokens,
            "total_tokens": prompt_tokens + self._tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def _url_citation(source: Search, text: str) -> Json:
    note = annotation(source, text)
    return {"type": note.pop("type"), "url_citation": note}


def _filter_results() -> Json:
    calm = {"filtered": False, "severity": "safe"}
    return {"content_filter_results": {"hate": calm, "violence": calm}, "content_filter_offsets": {"check_offset": 0}}
