"""Answers from the Responses API, used as a stateless function.

Every request carries the whole input and asks for nothing to be stored (`store=false`); reasoning comes back sealed
and is sent back without the ids that a server would look up in a store.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from turnkeep.errors import AnswerMalformed
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Content,
    HostedItem,
    Item,
    OutputItem,
    ReasoningItem,
    SystemItem,
    UserItem,
)
from turnkeep.models.base import Began, Delta, Finish, ItemDone, ModelRequest, StreamPart, ToolSpec
from turnkeep.models.calls import CallIds
from turnkeep.models.capabilities import Capabilities, capabilities_of
from turnkeep.models.classify import error_in
from turnkeep.models.endpoint import Endpoint
from turnkeep.models.exchange import exchange, label_headers
from turnkeep.models.http import Client, Reply
from turnkeep.models.pairing import pair
from turnkeep.models.parameters import responses_parameters
from turnkeep.models.reading import mapping, words
from turnkeep.models.sse import Frame
from turnkeep.usage import Usage


class ResponsesModel:
    """A `Model` over `POST /responses`."""

    def __init__(self, endpoint: Endpoint, capabilities: Capabilities | None = None) -> None:
        self.endpoint = endpoint.name
        self._client = Client(endpoint)
        self._caps = capabilities or capabilities_of(endpoint, "responses")

    def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        caps = self._caps
        headers = {} if caps.takes_metadata else label_headers(request)
        reader = partial(ResponsesReader, items=request.items, sealed=caps.returns_reasoning(request.model))
        return exchange(self._client, "/responses", request_body(request, caps), headers, reader)

    async def close(self) -> None:
        await self._client.close()


# ---------------------------------------------------------------- what is sent


def request_body(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """The body of one request, with nothing in it that the server does not take."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": input_items(request.items, caps),
        "stream": True,
        **responses_parameters(request, caps),
    }
    if request.instructions:
        body["instructions"] = request.instructions
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if caps.takes_store:
        body["store"] = False
    if caps.returns_reasoning(request.model):
        body["include"] = ["reasoning.encrypted_content"]
    if caps.takes_stream_options:
        body["stream_options"] = {"include_obfuscation": False}
    if caps.takes_metadata and request.labels:
        body["metadata"] = dict(request.labels)
    if caps.takes_cache_key and request.cache_key:
        body["prompt_cache_key"] = request.cache_key
    if caps.takes_safety_identifier and request.user:
        body["safety_identifier"] = request.user
    return body


def input_items(items: Sequence[Item], caps: Capabilities) -> list[dict[str, Any]]:
    """A transcript in the words of the API; entries that hold nothing it takes are left out.

    What a tool of the provider did goes back only by its id, to a store that holds nothing of ours: the answer says
    what was found, and reasoning that led to nothing else would be refused.
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
            return _said(item) if item.text else None
        case ReasoningItem():
            return _sealed(item.raw)
        case HostedItem():
            return None
        case CallItem():
            return {
                "type": "function_call",
                "call_id": item.call_id,
                "name": item.name,
                "arguments": item.arguments,
            }
        case OutputItem():
            return {"type": "function_call_output", "call_id": item.call_id, "output": item.output}


def _said(item: AssistantItem) -> dict[str, Any]:
    entry = {"type": "message", "role": "assistant", "content": item.text}
    return entry if item.phase is None else {**entry, "phase": item.phase}


def _sealed(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """A reasoning item as it may go back: with its contents, without what points into the server's store."""
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


# ---------------------------------------------------------------- what comes back

_TEXT = "response.output_text.delta"

_UNREAD = frozenset(
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
        b"response.reasoning_text.delta",
        b"response.reasoning_text.done",
        b"response.reasoning_summary_part.added",
        b"response.reasoning_summary_part.done",
        b"response.reasoning_summary_text.delta",
        b"response.reasoning_summary_text.done",
    )
)
"""Events whose content comes again in a finished item: not even decoded."""


class ResponsesReader:
    """Reads one answer. `items` is what was sent, `sealed` says that sealed reasoning was asked for.

    Some servers give the seal of a reasoning item only in the terminal event; then it and all items after it
    are kept back until there, so that their order stays.
    """

    def __init__(self, reply: Reply, *, items: Sequence[Item], sealed: bool) -> None:
        self.done = False
        self.answered = False
        self._reply = reply
        self._ids = CallIds(items)
        self._sealed = sealed
        self._begun = False
        self._shown = 0
        self._refused = False
        self._calls = False
        self._places: set[int] = set()
        self._names: set[str | None] = set()
        self._held: list[ItemDone] = []
        self._finish: Finish | None = None

    def parts(self, frames: list[Frame]) -> Iterator[StreamPart]:
        try:
            for name, data in frames:
                if name in _UNREAD or data == b"[DONE]":
                    continue
                event = orjson.loads(data)
                if event.get("type") == _TEXT:
                    if not self._begun:
                        yield self._begin(None)
                    if text := words(event["delta"]):
                        self._shown += len(text)
                        yield Delta(text)
                else:
                    yield from self._other(event)
                    if self.done:
                        return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnswerMalformed(f"the stream holds an event that makes no sense ({type(error).__name__})") from error

    def ending(self) -> Iterator[StreamPart]:
        if self._finish is None:
            raise AnswerMalformed("the stream ended without a terminal event")
        yield from self._held
        yield self._finish

    def _begin(self, response_id: str | None) -> Began:
        self._begun = True
        return Began(response_id, self._reply.request_id, self._reply.rate)

    def _other(self, event: dict[str, Any]) -> Iterator[StreamPart]:
        kind = event.get("type")
        if kind == "response.failed" or error_in(event):
            raise self._reply.failure(event)
        if not self._begun:
            response = event.get("response")
            yield self._begin(words(response.get("id")) or None if response else None)
        if kind == "response.output_item.done":
            yield from self._item(event["item"], event.get("output_index"))
        elif kind == "response.refusal.delta":
            self._refused = True
            text = words(event["delta"])
            self._shown += len(text)
            yield Delta(text)
        elif kind in ("response.completed", "response.incomplete"):
            yield from self._end(event.get("response") or {}, complete=kind == "response.completed")

    def _item(self, raw: dict[str, Any], index: object) -> Iterator[StreamPart]:
        self._places.add(index if isinstance(index, int) else len(self._places))
        self._names.add(raw.get("id") or raw.get("call_id"))
        kind = raw.get("type")
        if kind == "message":
            yield from self._message(raw)
        elif kind == "reasoning":
            item = ReasoningItem({name: value for name, value in raw.items() if name != "status"})
            yield from self._emit(ItemDone(item), unsealed=self._sealed and not raw.get("encrypted_content"))
        elif kind == "function_call" and raw.get("status") != "incomplete":
            self._calls = True
            call_id, arguments = self._ids.unique(words(raw.get("call_id"))), words(raw.get("arguments"))
            yield from self._emit(ItemDone(CallItem(call_id, words(raw["name"]), arguments or "{}")))

    def _message(self, raw: dict[str, Any]) -> Iterator[StreamPart]:
        content = raw.get("content") or ()
        self._refused = self._refused or any(part.get("type") == "refusal" for part in content)
        text = "".join(part.get("text") or part.get("refusal") or "" for part in content)
        if len(text) > self._shown:  # a server that sends whole texts, or the end of one, without deltas
            yield Delta(text[self._shown :])
        self._shown = 0
        if text:
            phase = words(raw.get("phase")) or None
            item = AssistantItem(text, interrupted=raw.get("status") == "incomplete", phase=phase)
            yield from self._emit(ItemDone(item))

    def _emit(self, part: ItemDone, *, unsealed: bool = False) -> Iterator[StreamPart]:
        if unsealed or self._held:
            self._held.append(part)
        else:
            yield part

    def _end(self, response: dict[str, Any], *, complete: bool) -> Iterator[StreamPart]:
        output = response.get("output") or []
        for place, raw in enumerate(output):
            name = raw.get("id") or raw.get("call_id")
            if place not in self._places and (name is None or name not in self._names):
                yield from self._item(raw, place)
        seals = {raw.get("id"): raw for raw in output if raw.get("type") == "reasoning"}
        self._held = [_with_seal(part, seals) for part in self._held]
        details = response.get("incomplete_details") or {}
        self._finish = Finish(
            self._reason(complete, details.get("reason")),
            usage_of(response.get("usage")),
            words(response.get("model")) or None,
            words(response.get("service_tier")) or None,
        )
        self.done = self.answered = True

    def _reason(self, complete: bool, why: object) -> Any:
        if not complete:
            return "filter" if why == "content_filter" else "length"
        if self._refused:
            return "refusal"
        return "calls" if self._calls else "stop"


def _with_seal(part: ItemDone, seals: Mapping[object, Mapping[str, Any]]) -> ItemDone:
    if not isinstance(part.item, ReasoningItem) or part.item.raw.get("encrypted_content"):
        return part
    seal = seals.get(part.item.raw.get("id"), {}).get("encrypted_content")
    return ItemDone(ReasoningItem({**part.item.raw, "encrypted_content": seal})) if seal else part


def usage_of(raw: object) -> Usage:
    """Usage in our words; without any, one request that the caller has to estimate."""
    if not isinstance(raw, Mapping):
        return Usage.told()
    read, written = mapping(raw.get("input_tokens_details")), mapping(raw.get("output_tokens_details"))
    return Usage.told(
        input_tokens=raw.get("input_tokens"),
        cached_tokens=read.get("cached_tokens"),
        cache_write_tokens=read.get("cache_write_tokens"),
        output_tokens=raw.get("output_tokens"),
        reasoning_tokens=written.get("reasoning_tokens"),
    )
