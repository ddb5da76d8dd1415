"""Answers over Chat Completions, the protocol that every compatible server speaks, each a little differently.

What an answer is gets decided by what arrived, not by what the server calls it: tool calls make it ``calls``
whatever the finish reason says, and an answer without any sign of its end has failed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from turnkeep.errors import AnswerMalformed, ModelRefused
from turnkeep.messages import AssistantItem, CallItem, Content, Item, OutputItem, SystemItem, UserItem, content_text
from turnkeep.models.base import Began, Delta, Finish, ItemDone, ModelRequest, StreamPart, ToolSpec
from turnkeep.models.calls import CallIds
from turnkeep.models.capabilities import Capabilities, capabilities_of
from turnkeep.models.classify import error_in
from turnkeep.models.endpoint import Endpoint
from turnkeep.models.exchange import exchange, label_headers
from turnkeep.models.http import Client, Reply
from turnkeep.models.parameters import chat_parameters
from turnkeep.models.reading import mapping, words
from turnkeep.models.sse import Frame
from turnkeep.usage import Usage

TRIMMINGS = 5.0
"""How long to wait, after the last of the answer, for its usage."""


class ChatModel:
    """A `Model` over `POST /chat/completions`."""

    def __init__(self, endpoint: Endpoint, capabilities: Capabilities | None = None) -> None:
        self.endpoint = endpoint.name
        self._client = Client(endpoint)
        self._caps = capabilities or capabilities_of(endpoint, "chat")

    def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        headers = {} if self._caps.takes_metadata else label_headers(request)
        reader = partial(ChatReader, items=request.items)
        return exchange(self._client, "/chat/completions", request_body(request, self._caps), headers, reader)

    async def close(self) -> None:
        await self._client.close()


# ---------------------------------------------------------------- what is sent


def request_body(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """The body of one request, with nothing in it that the server does not take."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages(request.instructions, request.items, caps),
        "stream": True,
        **chat_parameters(request, caps),
    }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if caps.takes_store:
        body["store"] = False
    if caps.takes_stream_options:
        body["stream_options"] = {"include_usage": True}
    if caps.takes_metadata and request.labels:
        body["metadata"] = dict(request.labels)
    if caps.takes_cache_key and request.cache_key:
        body["prompt_cache_key"] = request.cache_key
    if caps.takes_safety_identifier and request.user:
        body["safety_identifier"] = request.user
    return body


def messages(instructions: str | None, items: Sequence[Item], caps: Capabilities) -> list[dict[str, Any]]:
    """A transcript in the words of the API: calls join the assistant's message before them, reasoning has no place."""
    result: list[dict[str, Any]] = []
    if instructions:
        result.append({"role": caps.system_role, "content": instructions})
    for item in items:
        match item:
            case UserItem():
                result.append({"role": "user", "content": _content(item.content)})
            case SystemItem():
                result.append({"role": caps.system_role, "content": item.text})
            case AssistantItem():
                if item.text:
                    result.append({"role": "assistant", "content": item.text})
            case CallItem():
                _asking(result).setdefault("tool_calls", []).append(_call(item))
            case OutputItem():
                result.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
    return result


def _asking(result: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message that a call belongs to."""
    if not result or result[-1]["role"] != "assistant":
        result.append({"role": "assistant", "content": None})
    return result[-1]


def _call(item: CallItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": _readable(item.arguments)}
    return {"id": item.call_id, "type": "function", "function": function}


def _readable(arguments: str) -> str:
    # Many servers parse what the model wrote; one bad call must not make a thread unanswerable.
    return arguments if _is_json(arguments) else orjson.dumps({"malformed": arguments}).decode()


def _content(content: Content) -> str | list[dict[str, Any]]:
    if all(part.type == "text" for part in content):
        return content_text(content)
    return [_part(part.type, part.text, part.data or {}) for part in content]


def _part(kind: str, text: str, data: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "text":
        return {"type": "text", "text": text}
    if kind == "file":
        return {"type": "file", "file": dict(data)}
    image = data.get("image_url")
    if image is None:
        raise ModelRefused(f"Chat Completions takes an image by its 'image_url', not by {', '.join(data) or 'nothing'}")
    if isinstance(image, str):
        image = {"url": image, **({"detail": data["detail"]} if "detail" in data else {})}
    return {"type": "image_url", "image_url": image}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": {**function, "strict": True} if tool.strict else function}


# ---------------------------------------------------------------- what comes back


@dataclass(slots=True)
class _Call:
    """One tool call while its pieces arrive."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.arguments) or "{}"


_FAILED = frozenset(("error", "abort", "network_error", "insufficient_system_resource"))
"""Finish reasons with which servers admit that the answer is not one."""


class ChatReader:
    """Reads one answer. `items` is what was sent."""

    def __init__(self, reply: Reply, *, items: Sequence[Item]) -> None:
        self.done = False
        self._reply = reply
        self._items = items
        self._begun = False
        self._text: list[str] = []
        self._refused = False
        self._calls: list[_Call] = []
        self._by_index: dict[object, _Call] = {}
        self._reason: str | None = None
        self._usage: object = None
        self._model: str | None = None
        self._tier: str | None = None

    @property
    def answered(self) -> bool:
        return self._reason is not None

    def parts(self, frames: list[Frame]) -> Iterator[StreamPart]:
        try:
            for _, data in frames:
                if data.startswith(b"[DONE]"):
                    self.done = True
                    return
                chunk = orjson.loads(data)
                if self._begun and (text := _only_text(chunk)):
                    self._text.append(text)
                    yield Delta(text)
                else:
                    yield from self._chunk(chunk)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnswerMalformed(f"the stream holds a chunk that makes no sense ({type(error).__name__})") from error

    def ending(self) -> Iterator[StreamPart]:
        if self._reason is None and not (self.done and self._whole()):
            raise AnswerMalformed("the stream ended without a finish reason")
        if self._reason in _FAILED:
            raise AnswerMalformed(f"the server broke its answer off with the finish reason {self._reason!r}")
        text = "".join(self._text)
        cut = self._reason in ("length", "content_filter")
        if text:
            yield ItemDone(AssistantItem(text, interrupted=cut))
        ids = CallIds(self._items)
        calls = [call for call in self._calls if not (cut and not _is_json(call.text))]
        for call in calls:
            if not call.name:
                raise AnswerMalformed("the answer holds a tool call without a name")
            yield ItemDone(CallItem(ids.unique(call.id), call.name, call.text))
        yield Finish(self._outcome(bool(calls)), usage_of(self._usage), self._model, self._tier)

    def _chunk(self, chunk: dict[str, Any]) -> Iterator[StreamPart]:
        if error_in(chunk):
            raise self._reply.failure(chunk)
        if not self._begun:
            yield self._begin(chunk)
        for choice in chunk.get("choices") or ():
            if text := self._choice(choice):
                yield Delta(text)
        self._usage = chunk.get("usage") or self._usage
        self._tier = words(chunk.get("service_tier")) or self._tier

    def _begin(self, chunk: Mapping[str, Any]) -> Began:
        self._begun = True
        self._model = words(chunk.get("model")) or None
        return Began(words(chunk.get("id")) or None, self._reply.request_id, self._reply.rate)

    def _choice(self, choice: Mapping[str, Any]) -> str:
        """Take in one choice; gives the text that it adds."""
        if choice.get("index"):
            return ""
        text = ""
        if delta := choice.get("delta"):
            text = self._said(delta)
            for raw in delta.get("tool_calls") or ():
                self._fragment(raw)
        if reason := choice.get("finish_reason"):
            self._reason = reason
            self._reply.hurry(TRIMMINGS)
        return text

    def _said(self, delta: Mapping[str, Any]) -> str:
        text = delta.get("content")
        if isinstance(text, list):
            text = "".join(part.get("text") or "" for part in text if part.get("type") == "text")
        text = words(text)
        if refusal := words(delta.get("refusal")):
            self._refused = True
            text += refusal
        if text:
            self._text.append(text)
        return text

    def _fragment(self, raw: Mapping[str, Any]) -> None:
        function = raw.get("function") or {}
        call_id, name, arguments = words(raw.get("id")), words(function.get("name")), function.get("arguments")
        whole = arguments is not None and not isinstance(arguments, str)
        call = self._known(raw.get("index"), call_id, name)
        if call is None or (call_id and call.id and call_id != call.id and name) or (whole and call.arguments):
            call = _Call(call_id, name)
            self._calls.append(call)
            self._by_index[raw.get("index")] = call
        call.id = call.id or call_id
        call.name = call.name or name
        if arguments:
            call.arguments.append(orjson.dumps(arguments).decode() if whole else arguments)

    def _known(self, index: object, call_id: str, name: str) -> _Call | None:
        """The call that a piece goes on with; without an index the id decides, without an id the name begins one."""
        if index is None:
            if call_id:
                return next((call for call in self._calls if call.id == call_id), None)
            return None if name or not self._calls else self._calls[-1]
        call = self._by_index.get(index)
        return None if call and name and call.name and name != call.name else call

    def _whole(self) -> bool:
        """Whether an answer whose end has no reason looks complete."""
        return bool(self._text or self._calls) and all(_is_json(call.text) for call in self._calls)

    def _outcome(self, calls: bool) -> Any:
        if self._reason == "length":
            return "length"
        if self._reason == "content_filter":
            return "filter"
        if self._refused:
            return "refusal"
        return "calls" if calls else "stop"


def _only_text(chunk: dict[str, Any]) -> str:
    """The text of a chunk that brings nothing else: nearly all of them, so they take the shortest way."""
    choices = chunk.get("choices")
    if not choices or len(choices) != 1:
        return ""
    choice = choices[0]
    delta = choice.get("delta")
    if not delta or len(delta) != 1 or choice.get("finish_reason") or choice.get("index"):
        return ""
    text = delta.get("content")
    return text if isinstance(text, str) else ""


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def usage_of(raw: object) -> Usage:
    """Usage in our words; without any, one request that the caller has to estimate."""
    if not isinstance(raw, Mapping):
        return Usage.told()
    read, written = mapping(raw.get("prompt_tokens_details")), mapping(raw.get("completion_tokens_details"))
    return Usage.told(
        input_tokens=raw.get("prompt_tokens"),
        cached_tokens=read.get("cached_tokens") or raw.get("prompt_cache_hit_tokens"),
        cache_write_tokens=read.get("cache_write_tokens"),
        output_tokens=raw.get("completion_tokens"),
        reasoning_tokens=written.get("reasoning_tokens"),
    )
