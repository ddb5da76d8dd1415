"""Answers over Chat Completions, the protocol that every compatible server speaks,
each a little differently.

What an answer is gets decided by what arrived, not by what the server calls it: tool calls make it
``calls`` whatever the finish reason says, and an answer without any sign of its end has failed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from turnkeep.errors import AnswerMalformed
from turnkeep.messages import AssistantItem, CallItem, Citation, Item, ProviderData, ReasoningItem
from turnkeep.models.capabilities import Capabilities, Lessons, capabilities_of
from turnkeep.models.chat_body import messages, request_body
from turnkeep.models.end_reasons import end_of, meaning_of_end
from turnkeep.models.exchange import Asker, Asking, label_headers
from turnkeep.models.fit import PastForms, ToolNames, fit
from turnkeep.models.growth import Growth
from turnkeep.models.http_client import Client, Reply
from turnkeep.models.model import Began, Delta, Finish, ItemDone, ModelRequest, OnText, ReasoningDelta, StreamPart
from turnkeep.models.past import CallIds
from turnkeep.models.pieces import CallPieces
from turnkeep.models.provider import Provider
from turnkeep.models.reading import (
    Halves,
    StreamEvent,
    citations_of_annotations,
    citations_of_sources,
    complaint_in,
    entries,
    error_in,
    is_json,
    json_values,
    label,
    mapping,
    text_of_content,
    words,
)
from turnkeep.models.thoughts import Thoughts
from turnkeep.usage import Usage

TRIMMINGS = 5.0
"""How long to wait, after the last of the answer, for its usage."""

_CALLS = ("tool_calls", "function_call")


class ChatModel:
    """A `Model` over `POST /chat/completions`."""

    def __init__(self, endpoint: Provider, capabilities: Capabilities | None = None) -> None:
        self.endpoint = endpoint.name
        self._site = endpoint.site
        self._client = Client(endpoint)
        self._past = PastForms(endpoint.site, partial(messages, None))
        self._asker = Asker(
            self._client, "/chat/completions", Lessons(capabilities or capabilities_of(endpoint, "chat"))
        )

    def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        return self._asker.exchange(request.model, partial(self._put, request))

    def push(self, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
        return self._asker.exchange(request.model, partial(self._put, request), on_text)

    def _put(self, request: ModelRequest, caps: Capabilities, *, whole: bool = False) -> Asking:
        excerpt = None if whole else self._past.excerpt(request, caps)
        result = fit(excerpt.request if excerpt else request, caps, self._site)
        body = request_body(result.request, caps)
        headers = {} if caps.takes_metadata else label_headers(request)
        reader = partial(ChatReader, items=request.items, site=self._site, names=result.names)
        return Asking(*(excerpt.put(body, "messages") if excerpt else (body, b"")), headers, reader)

    async def close(self) -> None:
        await self._client.close()


class ChatReader:
    """Reads one answer.

    `items` is the transcript, `names` are those of the tools; `site` is whose the answer is.
    """

    def __init__(self, reply: Reply, *, items: Sequence[Item], site: str = "", names: ToolNames | None = None) -> None:
        self.is_done = False
        self._reply = reply
        self._items = items
        self._site = site
        self._has_begun = False
        # Nothing stands in the way of the shortest way for the next text.
        self._plain = False
        self._text: list[str] = []
        self._halves = Halves()
        self._thoughts = Thoughts()
        # By field, of messages that come whole.
        self._growths: defaultdict[str, Growth] = defaultdict(Growth)
        self._citations: list[Citation] = []
        self._is_refusal = False
        self._names = names or ToolNames.of(())
        self._calls = CallPieces(frozenset(self._names.names_sent.values()))
        self._lane: object = None
        self._reason: str | None = None
        # There was a sign of the end without a reason: usage alone, or a whole message.
        self._has_end_sign = False
        self._complaint: object = None
        self._usage: object = None
        self._model: str | None = None
        self._tier: str | None = None

    @property
    def is_answered(self) -> bool:
        return self._reason is not None

    def parts(self, frames: list[StreamEvent]) -> Iterator[StreamPart]:
        for name, data in frames:
            if data.startswith(b"[DONE]"):
                self.is_done = True
                return
            try:
                chunk = orjson.loads(data)
                text = _only_text(chunk) if self._plain else ""
            except (ValueError, LookupError, TypeError, AttributeError):
                yield from self._odd(name, data)
                continue
            # The shortest way: nearly every chunk is one more word, and costs one list entry here.
            if text:
                self._text.append(text)
                yield Delta(text)
            else:
                yield from self._chunk(chunk, name)

    def ending(self) -> Iterator[StreamPart]:
        if self._reason is None and not ((self.is_done or self._has_end_sign) and self._whole()):
            raise self._reply.failure_without_end(self._complaint, "a finish reason")
        outcome = meaning_of_end(self._reason)
        if outcome == "failed":
            raise AnswerMalformed(f"the server broke its answer off with the finish reason {self._reason!r}")
        if self._halves.is_waiting:
            yield from self._add_text("", final=True)
        cut = outcome in ("length", "filter")
        if reasoning := self._thoughts.fields:
            yield ItemDone(ReasoningItem(reasoning, self._site or None))
        if text := "".join(self._text):
            yield ItemDone(AssistantItem(text, interrupted=cut, citations=tuple(self._citations)))
        calls = list(self._finished_calls(cut))
        yield from calls
        yield Finish(self._outcome(outcome, bool(calls)), usage_of(self._usage), self._model, self._tier)

    def _odd(self, name: bytes, data: bytes) -> Iterator[StreamPart]:
        """An event that is not the usual: read as far as it makes sense."""
        if data.strip(b' \t"').upper() == b"[DONE]":
            self.is_done = True
            return
        for value in json_values(data):
            yield from self._chunk(value, name)

    def _chunk(self, chunk: object, name: bytes = b"") -> Iterator[StreamPart]:
        if isinstance(chunk, list):
            for entry in chunk:
                yield from self._chunk(entry, name)
        if not isinstance(chunk, Mapping):
            return
        if error_in(chunk) or name == b"error":
            raise self._reply.failure(chunk)
        if not self._has_begun:
            yield self._begin(chunk)
        choices = entries(chunk.get("choices"))
        for choice in choices:
            if isinstance(choice, Mapping) and self._is_ours(choice.get("index")):
                yield from self._choice(choice)
        self._complaint = self._complaint if choices else complaint_in(chunk) or self._complaint
        self._plain = not (self._halves.is_waiting or self._lane)
        # Perplexity repeats them in every chunk: the last list counts, none is added to another.
        if sources := citations_of_sources(chunk):
            self._citations = sources
        # Groq has it in a place of its own; at OpenAI it comes last, in a chunk without choices.
        if usage := chunk.get("usage") or mapping(chunk.get("x_groq")).get("usage"):
            self._usage, self._has_end_sign = usage, self._has_end_sign or not choices
        self._tier = label(chunk.get("service_tier")) or self._tier

    def _begin(self, chunk: Mapping[str, Any]) -> Began:
        self._has_begun = True
        self._model = label(chunk.get("model"))
        return Began(label(chunk.get("id")), self._reply.request_id, self._reply.wait)

    def _choice(self, choice: Mapping[str, Any]) -> Iterator[StreamPart]:
        if choice.get("error"):
            raise self._reply.failure({"error": choice["error"]})
        self._usage = choice.get("usage") or self._usage  # Moonshot
        delta = choice.get("delta")
        if delta:
            yield from self._message(mapping(delta) or {"content": delta})
        # Chunks with a `message` or a `text` may bring everything so far or only what is new.
        elif message := mapping(choice.get("message")):
            self._has_end_sign = True
            yield from self._message(self._news(message))
        elif "delta" not in choice:
            yield from self._add_text(self._unsaid(words(choice.get("text"))))
        if (reason := end_of(choice.get("finish_reason"))) is not None:
            self._reason = reason
            # Only usage is missing from here on, which is not worth the patience of a whole answer.
            self._reply.hurry(TRIMMINGS)

    def _is_ours(self, index: object) -> bool:
        """Whether this choice is read: the first that comes is, whatever its number."""
        # Other choices of the same answer would be mixed into its words.
        if self._lane is None:
            self._lane = 0 if self._text else index or 0
        return (index or 0) == self._lane

    def _message(self, message: Mapping[str, Any]) -> Iterator[StreamPart]:
        """Take in a piece of the message."""
        for raw in entries(message.get("tool_calls")):
            self._calls.take(raw)
        if function := mapping(message.get("function_call")):
            self._calls.take({"index": "function_call", "function": function})
        self._citations += citations_of_annotations(message.get("annotations"))
        if reasoning := self._thoughts.take(message):
            yield ReasoningDelta(reasoning)
        text = text_of_content(message.get("content"))
        if refusal := text_of_content(message.get("refusal")):
            self._is_refusal = True
            text += refusal
        yield from self._add_text(text)

    def _news(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What a whole message adds to what has come.

        Calls are left as they are: `CallPieces` knows its own.
        """
        refusal = text_of_content(message.get("refusal"))
        self._is_refusal = self._is_refusal or bool(refusal)
        text = self._unsaid(text_of_content(message.get("content")) + refusal)
        news = {name: self._new(name, value) for name, value in message.items() if name not in _CALLS}
        return {**message, **news, "content": text, "refusal": None}

    def _unsaid(self, text: str) -> str:
        return self._growths["content"].news(text, "".join(self._text))

    def _new(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return self._growths[name].news(value, self._thoughts.text_of(name))
        return self._growths[name].new_entries(value) if isinstance(value, list) else value

    def _add_text(self, text: str, *, final: bool = False) -> Iterator[Delta]:
        """Whole characters of this text, kept and shown; half of one waits for its other half."""
        if text := self._halves.take(text, final=final):
            self._text.append(text)
            yield Delta(text)

    def _finished_calls(self, cut: bool) -> Iterator[ItemDone]:
        ids = CallIds(self._items)
        for call in self._calls.calls:
            arguments = call.arguments
            # A call that was cut off must not run with half its arguments.
            if cut and not is_json(arguments):
                continue
            provider_data = ProviderData(self._site, call.fields) if call.fields else None
            yield ItemDone(CallItem(ids.unique(call.id), self._names.here(call.name), arguments, provider_data))

    def _whole(self) -> bool:
        """Whether an answer whose end has no reason looks complete."""
        return bool(self._text or self._calls) and all(is_json(call.arguments) for call in self._calls.calls)

    def _outcome(self, meaning: str, calls: bool) -> Any:
        if meaning in ("length", "filter"):
            return meaning
        if self._is_refusal or meaning == "refusal":
            return "refusal"
        return "calls" if calls else "stop"


def _only_text(chunk: dict[str, Any]) -> str:
    """The text of a chunk that brings nothing else: nearly all, so they go the shortest way."""
    choices = chunk.get("choices")
    if not choices or len(choices) != 1:
        return ""
    choice = choices[0]
    delta = choice.get("delta")
    if not delta or len(delta) != 1 or choice.get("finish_reason") or choice.get("index"):
        return ""
    text = delta.get("content")
    return text if isinstance(text, str) else ""


def usage_of(raw: object) -> Usage:
    """Usage in our words; without any, one request that the caller has to estimate."""
    if not isinstance(raw, Mapping):
        return Usage.from_counts()
    input_details, output_details = (
        mapping(raw.get("prompt_tokens_details")),
        mapping(raw.get("completion_tokens_details")),
    )
    return Usage.from_counts(
        input_tokens=raw.get("prompt_tokens"),
        cached_tokens=input_details.get("cached_tokens") or raw.get("prompt_cache_hit_tokens"),
        cache_write_tokens=input_details.get("cache_write_tokens"),
        output_tokens=raw.get("completion_tokens"),
        reasoning_tokens=output_details.get("reasoning_tokens"),
    )
