"""Answers from Anthropic's Messages API, and from every server that speaks it.

The stream is read raw, like that of Responses. Items are given out when the answer has ended: only
the stop reason, which comes last, says whether a text or a call was cut off.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Any

import orjson

from turnkeep.errors import AnswerMalformed
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import AssistantItem, CallItem, Citation, HostedItem, Item, ProviderData, ReasoningItem
from turnkeep.models.anthropic_request import alternating, request_body, without
from turnkeep.models.capabilities import Capabilities, Lessons, capabilities_of
from turnkeep.models.end_reasons import end_of, meaning_of_end
from turnkeep.models.exchange import Asker, Asking, label_headers
from turnkeep.models.fit import PastForms, ToolNames, fit
from turnkeep.models.http_client import Client, Reply
from turnkeep.models.model import Began, Delta, Finish, ItemDone, ModelRequest, OnText, ReasoningDelta, StreamPart
from turnkeep.models.past import CallIds
from turnkeep.models.pieces import arguments_of
from turnkeep.models.provider import Provider
from turnkeep.models.reading import (
    Halves,
    StreamEvent,
    complaint_in,
    entries,
    error_in,
    is_json,
    json_values,
    label,
    mapping,
    words,
)
from turnkeep.usage import Usage

VERSION = "2023-06-01"
"""The version that every server of this protocol knows; 2026-10-21 takes less (no sampling) and
gives nothing more.
"""

_DELTA = "content_block_delta"
_TEXT = "text_delta"
_NO_BLOCK = object()

# What people may read of the input of a server's tool.
_TELLING = ("query", "url", "code", "command", "pattern")


class AnthropicModel:
    """A `Model` over `POST /messages`."""

    def __init__(self, endpoint: Provider, capabilities: Capabilities | None = None) -> None:
        self.endpoint = endpoint.name
        self._site = endpoint.site
        self._key = endpoint.api_key
        self._client = Client(endpoint)
        # the last two things that the user said are marked for the prompt cache: one of them is of the past
        self._past = PastForms(endpoint.site, _alternating, alternates=True, open_turns=1)
        # The official client adds `/v1` itself, so people give the address with and without it.
        path = "/messages" if endpoint.site.endswith("/v1") else "/v1/messages"
        self._asker = Asker(self._client, path, Lessons(capabilities or capabilities_of(endpoint, "anthropic")))

    def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        return self._asker.exchange(request.model, partial(self._put, request))

    def push(self, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
        return self._asker.exchange(request.model, partial(self._put, request), on_text)

    def _put(self, request: ModelRequest, caps: Capabilities, *, whole: bool = False) -> Asking:
        excerpt = None if whole else self._past.excerpt(request, caps)
        result = fit(excerpt.request if excerpt else request, caps, self._site)
        body = without(request_body(result.request, caps.most_output_tokens), caps.drops)
        body, past = excerpt.put(body, "messages") if excerpt else (body, b"")
        reader = partial(AnthropicReader, items=request.items, site=self._site, names=result.names)
        return Asking({**body, "stream": caps.takes_stream}, past, self._headers(request), reader)

    def _headers(self, request: ModelRequest) -> dict[str, str]:
        headers = {**key_headers(self._key), **label_headers(request)}
        if isinstance(betas := request.parameters.get("betas"), list | tuple):
            headers["anthropic-beta"] = ",".join(map(str, betas))
        return headers

    async def close(self) -> None:
        await self._client.close()


def key_headers(key: str) -> dict[str, str]:
    """What every request says, whatever it asks: without a version it is refused."""
    headers = {"anthropic-version": VERSION}
    # Under both names: older servers of this protocol know one, newer clients send the other.
    if key and not key.startswith("sk-ant-oat"):  # a token of an account goes as Bearer alone
        headers["x-api-key"] = key
    return headers


def _alternating(items: Sequence[Item], _: Capabilities) -> list[dict[str, Any]]:
    return alternating(items)


@dataclass(slots=True)
class _Block:
    """One block of the answer while it arrives."""

    raw: dict[str, Any]
    pieces: list[str] = field(default_factory=list)
    citations: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return label(self.raw.get("type")) or "text"

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class AnthropicReader:
    """Reads one answer.

    `items` is what was sent, `site` is whose the opaque parts of the answer are.
    """

    def __init__(self, reply: Reply, *, items: Sequence[Item], site: str, names: ToolNames | None = None) -> None:
        self.is_done = False
        self._reply = reply
        self._items = items
        self._site = site
        self._tools = names or ToolNames.of(())
        self._has_begun = False
        self._blocks: list[_Block] = []
        # The newest block of each index: some servers begin every block with the same one.
        self._by_index: dict[object, _Block] = {}
        # The index of the block whose next text takes the shortest way.
        self._plain: object = _NO_BLOCK
        self._pieces: list[str] = []
        self._halves = Halves()
        self._reason: str | None = None
        self._explanation = ""
        self._complaint: object = None
        self._usage: dict[str, Any] = {}
        self._model: str | None = None

    @property
    def is_answered(self) -> bool:
        return self._reason is not None

    def parts(self, frames: list[StreamEvent]) -> Iterator[StreamPart]:
        for name, data in frames:
            if name == b"ping":
                continue
            try:
                event = orjson.loads(data)
                # Nearly all events are more text of one block: one comparison, no call.
                text = event["delta"]["text"] if event["index"] == self._plain and event["type"] == _DELTA else None
            except (ValueError, LookupError, TypeError):
                yield from self._odd(name, data)
                continue
            # `isinstance` would be a call for each token; orjson makes no subclasses.
            if text.__class__ is str and text:
                self._pieces.append(text)
                yield Delta(text)
            else:
                yield from self._event(event, name)
            if self.is_done:
                return

    def ending(self) -> Iterator[StreamPart]:
        if self._reason is None:
            raise self._reply.failure_without_end(self._complaint, "a stop reason")
        if self._halves.is_waiting:
            block = yield from self._block(None, "text")
            if half := self._halves.join("", final=True):
                block.pieces.append(half)
                yield Delta(half)
        # Compatible servers of this protocol say length, content_filter, sensitive and error too.
        if (meaning := meaning_of_end(self._reason)) == "failed":
            raise AnswerMalformed(f"the server broke its answer off with the stop reason {self._reason!r}")
        items = list(self._output_items(cut=meaning in ("length", "filter")))
        # A refusal without a word would be an answer without a text.
        if self._reason == "refusal" and self._explanation and not items:
            yield Delta(self._explanation)
            items = [AssistantItem(self._explanation)]
        for item in items:
            yield ItemDone(item)
        # What came decides, not the word of the server: see `Finish`.
        calls = any(isinstance(item, CallItem) for item in items)
        yield Finish(self._outcome(calls), usage_of(self._usage), self._model, _tier(self._usage))

    def _odd(self, name: bytes, data: bytes) -> Iterator[StreamPart]:
        """An event that is not the usual: read as far as it makes sense."""
        # The end mark of Chat Completions is no event of this protocol, but gateways send it.
        if data.strip(b' \t"').upper() != b"[DONE]":
            for value in json_values(data):
                yield from self._event(value, name)

    def _event(self, event: object, name: bytes) -> Iterator[StreamPart]:
        if not isinstance(event, Mapping):
            return
        self._plain = _NO_BLOCK
        kind = label(event.get("type")) or name.decode("utf-8", "replace")
        if kind == "error" or error_in(event):
            raise self._reply.failure(event)
        # An error in a form of its own, or nothing at all: it counts only where no answer comes.
        if not kind:
            self._complaint = complaint_in(event) or self._complaint
        elif kind in ("message_start", "message"):
            yield from self._message(mapping(event.get("message")) or event)
        elif kind == "content_block_start":
            yield from self._start(event.get("index"), mapping(event.get("content_block")))
        elif kind == _DELTA:
            yield from self._grow(event.get("index"), mapping(event.get("delta")))
        elif kind == "message_delta":
            self._stop(mapping(event.get("delta")), event.get("usage"))
        elif kind == "message_stop":
            self.is_done = True

    def _message(self, message: Mapping[str, Any]) -> Iterator[StreamPart]:
        """The head of an answer; from servers that do not stream, all of it."""
        if not self._has_begun:
            self._has_begun = True
            self._model = label(message.get("model"))
            yield Began(label(message.get("id")), self._reply.request_id, self._reply.wait)
        for index, block in enumerate(entries(message.get("content"))):
            yield from self._start(index, mapping(block))
        self._stop(message, message.get("usage"))
        self.is_done = self._reason is not None

    def _start(self, index: object, raw: Mapping[str, Any]) -> Iterator[StreamPart]:
        if not self._has_begun:
            # Without `message_start` nothing else says that the request was taken.
            yield from self._message({})
        block = _Block(dict(raw))
        self._blocks.append(block)
        self._by_index[index if isinstance(index, int) else None] = block
        if block.kind == "text":
            block.citations += [raw for raw in entries(raw.get("citations")) if isinstance(raw, Mapping)]
            yield from self._add_text(block, words(raw.get("text")))
        elif block.kind == "thinking":
            yield from _add_reasoning(block, words(raw.get("thinking")))

    def _grow(self, index: object, delta: Mapping[str, Any]) -> Iterator[StreamPart]:
        kind = delta.get("type")
        if kind == _TEXT:
            block = yield from self._block(index, "text")
            yield from self._add_text(block, words(delta.get("text")))
            self._plain = _NO_BLOCK if self._halves.is_waiting else index
            self._pieces = block.pieces
        elif kind == "input_json_delta":
            block = yield from self._block(index, "tool_use")
            block.pieces.append(words(delta.get("partial_json")))
        elif kind == "thinking_delta":
            block = yield from self._block(index, "thinking")
            yield from _add_reasoning(block, words(delta.get("thinking")))
        elif kind == "signature_delta":
            block = yield from self._block(index, "thinking")
            block.raw["signature"] = words(delta.get("signature"))
        elif kind == "citations_delta" and (citation := mapping(delta.get("citation"))):
            block = yield from self._block(index, "text")
            block.citations.append(citation)

    def _add_text(self, block: _Block, text: str) -> Iterator[Delta]:
        """Whole characters of this text, shown; half of one waits for its other half."""
        if text := self._halves.take(text):
            block.pieces.append(text)
            yield Delta(text)

    def _stop(self, message: Mapping[str, Any], usage: object) -> None:
        self._usage |= {name: value for name, value in mapping(usage).items() if value is not None}
        if (reason := end_of(message.get("stop_reason"))) is not None:
            self._reason = reason
            self._explanation = label(mapping(message.get("stop_details")).get("explanation")) or ""

    def _block(self, index: object, kind: str) -> Generator[StreamPart, None, _Block]:
        """The block that a piece belongs to; one that nobody announced begins here."""
        block = self._by_index.get(index if isinstance(index, int) else None)
        if block is None and not isinstance(index, int) and self._blocks:
            block = self._blocks[-1]
        if block is None:
            yield from self._start(index, {"type": kind})
            block = self._blocks[-1]
        return block

    def _output_items(self, *, cut: bool) -> Iterator[AssistantItem | ReasoningItem | HostedItem | CallItem]:
        """The blocks as items: neighbouring texts are one, and a call that was cut off is none."""
        ids = CallIds(self._items)
        texts: list[_Block] = []
        for block in self._blocks:
            # A text with sources comes as many blocks; to people and to the next request it is one.
            if block.kind == "text":
                texts.append(block)
                continue
            yield from self._assistant_item(texts, cut=False)
            texts = []
            if block.kind == "tool_use":
                if arguments := _arguments(block, cut=cut):
                    yield CallItem(
                        ids.unique(label(block.raw.get("id")) or ""), self._tools.here(_name(block)), arguments
                    )
            elif block.kind in ("thinking", "redacted_thinking"):
                yield self._reasoning_item(block)
            else:
                yield self._hosted_item(block)
        yield from self._assistant_item(texts, cut=cut)

    def _assistant_item(self, blocks: Sequence[_Block], *, cut: bool) -> Iterator[AssistantItem]:
        if not (text := "".join(block.text for block in blocks)):
            return
        citations: list[Citation] = []
        passages: list[dict[str, Any]] = []
        end = 0
        for block in blocks:
            start, end = end, end + len(block.text)
            citations += [_citation(raw, start, end) for raw in block.citations]
            passages.append({"end": end, **({"citations": list(block.citations)} if block.citations else {})})
        data = ProviderData(self._site, {"passages": passages}) if citations else None
        yield AssistantItem(text, interrupted=cut, provider_data=data, citations=tuple(citations))

    def _reasoning_item(self, block: _Block) -> ReasoningItem:
        text = {"thinking": block.text} if block.kind == "thinking" else {}
        return ReasoningItem({**block.raw, **text}, self._site)

    def _hosted_item(self, block: _Block) -> HostedItem:
        raw = dict(block.raw)
        if block.pieces:
            raw["input"] = _json_or_empty(block.text)
        name = label(raw.get("name")) or block.kind
        tool_input = mapping(raw.get("input"))
        text = next((tool_input[key] for key in _TELLING if isinstance(tool_input.get(key), str)), "")
        return HostedItem(name, raw, text, self._site)

    def _outcome(self, calls: bool) -> Any:
        if (meaning := meaning_of_end(self._reason)) != "stop":
            return meaning
        if calls:
            return "calls"
        return "pause" if self._reason == "pause_turn" else "stop"


def _add_reasoning(block: _Block, text: str) -> Iterator[ReasoningDelta]:
    if text:
        block.pieces.append(text)
        yield ReasoningDelta(text)


def _arguments(block: _Block, *, cut: bool) -> str:
    """The JSON text of a call's arguments; empty where the answer was cut off within it."""
    arguments = arguments_of(block.text if block.pieces else block.raw.get("input"))
    return "" if cut and not is_json(arguments) else arguments


def _name(block: _Block) -> str:
    if name := label(block.raw.get("name")):
        return name
    raise AnswerMalformed("the answer holds a tool call without a name")


def _json_or_empty(text: str) -> Any:
    try:
        return orjson.loads(text or "{}")
    except ValueError:
        return {}


def _citation(raw: Mapping[str, Any], start: int, end: int) -> Citation:
    def first(*names: str) -> str:
        return next((value for name in names if isinstance(value := raw.get(name), str)), "")

    url, title = first("url", "source"), first("title", "document_title")
    return Citation(start, end, url, title, first("cited_text"), first("file_id"))


def usage_of(raw: Mapping[str, Any]) -> Usage:
    """Usage in our words: there the input counts neither cache reads nor cache writes."""
    cache_read, cache_write = raw.get("cache_read_input_tokens"), raw.get("cache_creation_input_tokens")
    counts = [count for count in (raw.get("input_tokens"), cache_read, cache_write) if count is not None]
    sensible = all(type(count) is int and count >= 0 for count in counts)
    return Usage.from_counts(
        input_tokens=sum(counts) if sensible else "?",
        cached_tokens=cache_read,
        cache_write_tokens=cache_write,
        output_tokens=raw.get("output_tokens"),
        reasoning_tokens=mapping(raw.get("output_tokens_details")).get("thinking_tokens"),
    )


def _tier(usage: Mapping[str, Any]) -> str | None:
    if usage.get("speed") == "fast":
        return "fast"
    tier = usage.get("service_tier")
    return tier if isinstance(tier, str) else None
