"""Answers from the Responses API, used as a stateless function: its requests, and its answers.

Every request carries the whole input and asks for nothing to be stored (`store=false`); reasoning
comes back sealed and is sent back without the ids that a server would look up in a store.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, field, replace
from functools import partial
from typing import Any

import orjson

from turnkeep.errors import AnswerMalformed
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Citation,
    Content,
    HostedItem,
    Item,
    OutputItem,
    ReasoningItem,
    SystemItem,
    UserItem,
)
from turnkeep.models.background import BackgroundResponse
from turnkeep.models.capabilities import Capabilities, Lessons, capabilities_of, reasons
from turnkeep.models.exchange import Asker, Asking, label_headers, origin_fields
from turnkeep.models.fit import PastForms, ToolNames, fit
from turnkeep.models.hosted_tools import for_responses, hosted_item, results_of
from turnkeep.models.http_client import Client, Reply
from turnkeep.models.model import (
    Began,
    Delta,
    Finish,
    ItemDone,
    ModelRequest,
    OnText,
    ReasoningDelta,
    StreamPart,
    ToolSpec,
    responses_parameters,
)
from turnkeep.models.past import CallIds, pair, readable_arguments
from turnkeep.models.pieces import arguments_of
from turnkeep.models.provider import Provider
from turnkeep.models.reading import (
    Halves,
    StreamEvent,
    citations_of_annotations,
    complaint_in,
    entries,
    error_in,
    json_values,
    label,
    mapping,
    repair_text,
    text_of_content,
    words,
)
from turnkeep.usage import Usage

SEALED_REASONING = "reasoning.encrypted_content"
"""As `include`: what a thought goes back as."""

_TEXT = "response.output_text.delta"

_THOUGHTS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")

# Events whose content comes again in a finished item: not even decoded.
_SKIPPED_EVENTS = frozenset(
    (
        b"keepalive",
        b"response.in_progress",
        b"response.queued",
        b"response.output_item.added",
        b"response.content_part.added",
        b"response.content_part.done",
        b"response.output_text.done",
        b"response.output_text.annotation.added",
        b"response.refusal.done",
        b"response.function_call_arguments.delta",
        b"response.function_call_arguments.done",
        b"response.reasoning_text.done",
        b"response.reasoning_summary_part.added",
        b"response.reasoning_summary_part.done",
        b"response.reasoning_summary_text.done",
    )
)


class ResponsesModel:
    """A `Model` over `POST /responses`."""

    def __init__(self, endpoint: Provider, capabilities: Capabilities | None = None) -> None:
        self.endpoint = endpoint.name
        self._site = endpoint.site
        self._client = Client(endpoint)
        self._past = PastForms(endpoint.site, input_items)
        self._caps = capabilities or capabilities_of(endpoint, "responses")
        self._asker = Asker(self._client, "/responses", Lessons(self._caps))
        self._background = BackgroundResponse(self._client)

    def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        return self._exchange(request, None)

    def push(self, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
        return self._exchange(request, on_text)

    def _exchange(self, request: ModelRequest, on_text: OnText | None) -> AsyncGenerator[StreamPart, None]:
        if request.response_id is not None:
            reading = self._put(request, self._caps).reading
            return self._background.resume(request.response_id, reading, on_text)
        return self._asker.exchange(request.model, partial(self._put, request), on_text)

    def _put(self, request: ModelRequest, caps: Capabilities, *, whole: bool = False) -> Asking:
        excerpt = None if whole else self._past.excerpt(request, caps)
        result = fit(excerpt.request if excerpt else request, caps, self._site)
        body = request_body(result.request, caps)
        headers = {} if caps.takes_metadata else label_headers(request)
        wants_seal = SEALED_REASONING in body.get("include", ())
        reader = partial(
            ResponsesReader, items=request.items, wants_seal=wants_seal, site=self._site, names=result.names
        )
        return Asking(*(excerpt.put(body, "input") if excerpt else (body, b"")), headers, reader)

    @property
    def in_background(self) -> bool:
        return self._caps.takes_background

    async def cancel(self, response_id: str) -> Usage | None:
        usage = await self._background.cancel(response_id)
        return None if usage is None else usage_of(usage)

    async def close(self) -> None:
        await self._client.close()


@dataclass(slots=True)
class ResponsesReader:
    """Reads one answer.

    `items` is what was sent, `wants_seal` says that sealed reasoning was asked for.

    Some servers give the seal of a reasoning item only in the terminal event; then it and all items
    after it are kept back until there, so that their order stays.
    """

    reply: Reply
    _: KW_ONLY
    items: Sequence[Item]
    wants_seal: bool
    site: str | None = None
    names: ToolNames = field(default_factory=lambda: ToolNames.of(()))
    is_done: bool = field(init=False, default=False)
    is_answered: bool = field(init=False, default=False)
    _has_begun: bool = field(init=False, default=False)
    _plain: bool = field(init=False, default=False)
    """Nothing stands in the way of the shortest way for the next text."""
    _pieces: list[str] = field(init=False, default_factory=list)
    """What was shown of the message that has not ended yet."""
    _halves: Halves = field(init=False, default_factory=Halves)
    _is_refusal: bool = field(init=False, default=False)
    _calls: bool = field(init=False, default=False)
    _has_stopped: bool = field(init=False, default=False)
    _places: set[int] = field(init=False, default_factory=set)
    _names: set[str | None] = field(init=False, default_factory=set)
    _withheld_items: list[ItemDone] = field(init=False, default_factory=list)
    _complaint: object = field(init=False, default=None)
    _finish: Finish | None = field(init=False, default=None)
    _call_ids: CallIds = field(init=False)

    def __post_init__(self) -> None:
        self._call_ids = CallIds(self.items)

    def parts(self, frames: list[StreamEvent]) -> Iterator[StreamPart]:
        for name, data in frames:
            if name in _SKIPPED_EVENTS:
                continue
            try:
                event = orjson.loads(data)
                # Nearly all events are more text: for them one comparison, and no call.
                text = event["delta"] if self._plain and event["type"] == _TEXT else None
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
        if self._finish is None:
            if not (self._has_stopped and (self._pieces or self._names)):
                raise self.reply.failure_without_end(self._complaint, "a terminal event")
            self._finish = Finish(self._reason(True, None), Usage.from_counts())
        yield from self._withheld_items
        if text := "".join(self._pieces):  # shown, and never told as a finished item
            yield ItemDone(AssistantItem(text, interrupted=self._finish.reason in ("length", "filter")))
        yield self._finish

    def _odd(self, name: bytes, data: bytes) -> Iterator[StreamPart]:
        """An event that is not the usual: read as far as it makes sense."""
        if data.strip(b' \t"').upper() == b"[DONE]":
            self._has_stopped = True
            return
        for value in json_values(data):
            yield from self._event(value, name)

    def _event(self, event: object, name: bytes) -> Iterator[StreamPart]:
        if not isinstance(event, Mapping):
            return
        if not event.get("type"):  # told by the name of the event alone, or no event: the response itself
            self._complaint = complaint_in(event) or self._complaint
            kind = "response.done" if event.get("object") == "response" else name.decode("utf-8", "replace")
            event = {**event, "type": kind}
        if event["type"] in ("response.failed", "error") or error_in(event):
            raise self.reply.failure(event)
        yield from self._other(event)
        self._plain = not self._halves.is_waiting

    def _begin(self, response: Mapping[str, Any]) -> Began:
        self._has_begun = True
        return Began(label(response.get("id")), self.reply.request_id, self.reply.wait)

    def _other(self, event: Mapping[str, Any]) -> Iterator[StreamPart]:
        kind = event["type"]
        response = mapping(event.get("response"))
        if not self._has_begun:
            yield self._begin(response)
        if kind in (_TEXT, "response.refusal.delta"):
            self._is_refusal = self._is_refusal or kind != _TEXT
            yield from self._add_text(words(event.get("delta")))
        elif kind in _THOUGHTS:
            if reasoning := words(event.get("delta")):
                yield ReasoningDelta(reasoning)
        elif kind == "response.output_item.done":
            if item := mapping(event.get("item")):
                yield from self._item(item, event.get("output_index"))
        elif kind in ("response.completed", "response.incomplete", "response.done", "response.cancelled"):
            yield from self._end(response or event, kind)

    def _add_text(self, text: str, *, final: bool = False) -> Iterator[Delta]:
        """Whole characters of this text, shown; half of one waits for its other half."""
        if text := self._halves.take(text, final=final):
            self._pieces.append(text)
            yield Delta(text)

    def _item(self, raw: Mapping[str, Any], index: object) -> Iterator[StreamPart]:
        # The terminal event repeats all items; servers name them by place, by id, or by neither.
        self._places.add(index if isinstance(index, int) else len(self._places))
        self._names.add(_name(raw))
        kind = raw.get("type")
        if kind == "message":
            yield from self._message(raw)
        elif kind == "reasoning":
            item = ReasoningItem({name: value for name, value in raw.items() if name != "status"}, self.site)
            yield from self._emit(ItemDone(item), lacks_seal=self.wants_seal and not raw.get("encrypted_content"))
        # A call that was cut off is none: its arguments are half an object.
        elif kind == "function_call" and raw.get("status") != "incomplete":
            self._calls = True
            if not (tool_name := words(raw.get("name"))):
                raise AnswerMalformed("the answer holds a tool call without a name")
            call_id = self._call_ids.unique(label(raw.get("call_id")) or "")
            name, arguments = self.names.here(tool_name), arguments_of(raw.get("arguments"))
            yield from self._emit(ItemDone(CallItem(call_id, name, arguments)))
        elif kind != "function_call":
            yield from self._emit(ItemDone(hosted_item(raw, self.site)))

    def _message(self, raw: Mapping[str, Any]) -> Iterator[StreamPart]:
        if self._halves.is_waiting:
            yield from self._add_text("", final=True)
        content = raw.get("content")
        if isinstance(content, list):
            self._is_refusal = self._is_refusal or any(mapping(part).get("type") == "refusal" for part in content)
        text = repair_text(text_of_content(content))
        shown_length = sum(map(len, self._pieces))
        if len(text) > shown_length:  # a server that sends whole texts, or the end of one, without deltas
            yield Delta(text[shown_length:])
        if text:
            self._pieces.clear()
            phase = label(raw.get("phase"))
            cut, citations = raw.get("status") == "incomplete", _citations(content)
            item = AssistantItem(text, interrupted=cut, phase=phase, citations=citations)
            yield from self._emit(ItemDone(item))

    def _emit(self, part: ItemDone, *, lacks_seal: bool = False) -> Iterator[StreamPart]:
        # What follows waits too: the order of items is the order in which they go back.
        if lacks_seal or self._withheld_items:
            self._withheld_items.append(part)
        else:
            yield part

    def _end(self, response: Mapping[str, Any], kind: str) -> Iterator[StreamPart]:
        ends = (response.get("status"), kind.removeprefix("response."))
        if "cancelled" in ends or ends[0] == "failed":
            raise AnswerMalformed("the server broke its answer off: the response was cancelled or has failed")
        output = [raw for raw in entries(response.get("output")) if isinstance(raw, Mapping)]
        for place, raw in enumerate(output):
            if place not in self._places and (_name(raw) is None or _name(raw) not in self._names):
                yield from self._item(raw, place)
        if self._halves.is_waiting:
            yield from self._add_text("", final=True)
        if self._withheld_items:
            seals = {_name(raw): raw for raw in output if raw.get("type") == "reasoning"}
            self._withheld_items = [_with_seal(part, seals) for part in self._withheld_items]
        details = mapping(response.get("incomplete_details"))
        self._finish = Finish(
            self._reason("incomplete" not in ends, details.get("reason")),
            usage_of(response.get("usage")),
            label(response.get("model")),
            label(response.get("service_tier")),
        )
        self.is_done = self.is_answered = True

    def _reason(self, complete: bool, why: object) -> Any:
        if not complete:
            return "filter" if why == "content_filter" else "length"
        if self._is_refusal:
            return "refusal"
        return "calls" if self._calls else "stop"


def _with_seal(part: ItemDone, seals: Mapping[str | None, Mapping[str, Any]]) -> ItemDone:
    if not isinstance(part.item, ReasoningItem) or part.item.raw.get("encrypted_content"):
        return part
    seal = seals.get(_name(part.item.raw), {}).get("encrypted_content")
    return ItemDone(replace(part.item, raw={**part.item.raw, "encrypted_content": seal})) if seal else part


def _citations(content: object) -> tuple[Citation, ...]:
    """What the texts of a message rest on, by their places in all of it."""
    parts = content if isinstance(content, list) else ()
    if not any(mapping(part).get("annotations") for part in parts):
        return ()
    citations: list[Citation] = []
    offset = 0
    for part in parts:
        citations += citations_of_annotations(mapping(part).get("annotations"), offset=offset)
        offset += len(text_of_content([part]))
    return tuple(citations)


def _name(raw: Mapping[str, Any]) -> str | None:
    return label(raw.get("id")) or label(raw.get("call_id"))


def usage_of(raw: object) -> Usage:
    """Usage in our words; without any, one request that the caller has to estimate."""
    if not isinstance(raw, Mapping):
        return Usage.from_counts()
    input_details, output_details = mapping(raw.get("input_tokens_details")), mapping(raw.get("output_tokens_details"))
    return Usage.from_counts(
        input_tokens=raw.get("input_tokens"),
        cached_tokens=input_details.get("cached_tokens"),
        cache_write_tokens=input_details.get("cache_write_tokens"),
        output_tokens=raw.get("output_tokens"),
        reasoning_tokens=output_details.get("reasoning_tokens"),
    )


def request_body(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """The body of one request, with nothing in it that the server does not take."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": input_items(request.items, caps),
        "stream": caps.takes_stream,
    }
    if request.parameters:
        body |= responses_parameters(request, caps)
    if request.instructions:
        body["instructions"] = request.instructions
    # Nothing is stored there, so a thought comes back, and goes back, only as a sealed whole.
    # Refused for models that do not reason.
    include = [SEALED_REASONING] if caps.takes_encrypted_reasoning and reasons(request.model) else []
    tools = [_tool(tool) for tool in request.tools]
    if request.hosted_tools:
        tools += for_responses(request.hosted_tools)
        include += results_of(request.hosted_tools)
    if tools:
        body["tools"] = tools
    if include:
        body["include"] = include
    background = request.background and caps.takes_background
    if caps.takes_store:
        body["store"] = background  # what is not kept there cannot be gone on with
    if background:
        body["background"] = True
    if caps.takes_stream_options and caps.takes_stream:
        # Padding that hides the length of words from who watches the line: bytes without a word.
        body["stream_options"] = {"include_obfuscation": False}
    body |= origin_fields(request, caps)
    return {name: value for name, value in body.items() if name not in caps.drops}


def input_items(items: Sequence[Item], caps: Capabilities) -> list[dict[str, Any]]:
    """A transcript in the words of the API; entries that hold nothing it takes are left out.

    What a tool of the provider did goes back only by its id, to a store that holds nothing of ours:
    the answer says what was found, and reasoning that led to nothing else would be refused.
    """
    if any(item.kind == "hosted" for item in items):
        items = pair([item for item in items if item.kind != "hosted"])
    return [entry for item in items if (entry := _input_item(item, caps)) is not None]


def _input_item(item: Item, caps: Capabilities) -> dict[str, Any] | None:
    match item:
        case UserItem():
            return {"type": "message", "role": "user", "content": _content(item.content)}
        case SystemItem():
            return {"type": "message", "role": caps.system_role, "content": item.text}
        case AssistantItem():
            return _assistant_entry(item, caps) if item.text else None
        case ReasoningItem():
            return _reasoning_entry(item.raw)
        case HostedItem():
            return None
        case CallItem():
            return {
                "type": "function_call",
                "call_id": item.call_id,
                "name": item.name,
                "arguments": readable_arguments(item.arguments),
            }
        case OutputItem():
            return {"type": "function_call_output", "call_id": item.call_id, "output": item.output}


def _assistant_entry(item: AssistantItem, caps: Capabilities) -> dict[str, Any]:
    entry = {"type": "message", "role": "assistant", "content": item.text}
    return entry if item.phase is None or "phase" in caps.drops else {**entry, "phase": item.phase}


def _reasoning_entry(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """A reasoning item as it may go back: with its contents, without what points
    into the server's store.
    """
    if not raw.get("encrypted_content") and not raw.get("content"):
        return None
    return {"summary": [], **{k: v for k, v in raw.items() if v is not None and k not in ("id", "status")}}


def _content(content: Content) -> list[dict[str, Any]]:
    return [
        {"type": "input_text", "text": part.text}
        if part.type == "text"
        else {"type": f"input_{part.type}", **(part.data or {})}
        for part in content
    ]


def _tool(tool: ToolSpec) -> dict[str, Any]:
    # `strict` is always said: a server that is not told tries strict first.
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
