"""POST /v1/responses and what is kept of it: storage, chains, bindings to conversations."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from turnkeep.lean_dataclass import dataclass
from turnkeep.simulator import call_contract, faults, response_checks
from turnkeep.simulator.conversations import Conversations, stored_item
from turnkeep.simulator.exchanges import Exchange
from turnkeep.simulator.faults import Fault
from turnkeep.simulator.frames import ReplyFrame
from turnkeep.simulator.model_list import window
from turnkeep.simulator.persona import AnswerPlan
from turnkeep.simulator.problems import (
    Problem,
    bad,
    context_length_exceeded,
    item_not_found,
    not_found,
    previous_response_not_found,
    unsupported_parameter,
    wrong_type,
)
from turnkeep.simulator.prompt import Json, Prompt, entries_of_items, offered_tools
from turnkeep.simulator.quirks import Quirk
from turnkeep.simulator.response_run import ENCRYPTED_PREFIX, Manner, ResponseRun, encrypted_thoughts
from turnkeep.simulator.world import World

_MEMORY_LIMIT = 100_000

# A response repeats what it was asked with, defaults filled in.
_ECHO_DEFAULTS: Mapping[str, Any] = {
    "model": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


@dataclass(slots=True)
class StoredResponse:
    """A stored response: the object, what it read, and for background its frames and
    whoever waits for more.
    """

    response: Json
    input_items: list[Json]
    run: ResponseRun
    created_at: float
    ttl: float
    exchange: Exchange
    conversation: str | None = None
    streamable: bool = False
    frames: list[ReplyFrame] = field(default_factory=list)
    change: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def is_done(self) -> bool:
        return self.response["status"] not in ("queued", "in_progress")

    def tell(self) -> None:
        """Wake whoever follows."""
        self.change.set()
        self.change = asyncio.Event()


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A create request, understood: its body, what it adds, and everything the model reads."""

    body: Json
    input_items: list[Json]
    context: list[Json]
    prompt: Prompt
    conversation: str | None


class Responses:
    """All responses of one simulator."""

    def __init__(self, world: World, conversations: Conversations) -> None:
        self._world = world
        self._conversations = conversations
        self._entries: OrderedDict[str, StoredResponse] = OrderedDict()
        self._items: OrderedDict[str, Json] = OrderedDict()
        self._partners: OrderedDict[str, str] = OrderedDict()

    def understand(self, body: object, quirk: Quirk) -> CreateRequest:
        """Check a create request and collect what the model reads; refuses with a `Problem`."""
        request = response_checks.response_body(body, strict_models=self._world.options.strict_models)
        request = _stateless(request, quirk)
        new_items = self._resolve(response_checks.items(request.get("input")))
        conversation = _conversation_of(request)
        context = [*self._history(request.get("previous_response_id"), conversation), *new_items]
        return CreateRequest(request, new_items, context, _prompt(request, context), conversation)

    def check(self, request: CreateRequest, fault: Fault | None) -> None:
        """What is refused only when the model is about to read it: faults, pairing, length."""
        if fault is not None and (refusal := faults.problem(fault, request.prompt, "input")) is not None:
            raise refusal
        call_contract.check_items(request.context, self._partners)
        _check_thoughts(request.context)
        limit = self._world.options.context_tokens or window(request.body["model"])
        if request.prompt.tokens() > limit and request.body.get("truncation") != "auto":
            raise context_length_exceeded(request.prompt.tokens(), limit, "input")
        if request.body.get("background") and self._world.options.region == "eu":
            raise bad("Background mode is not supported in the EU data residency region.", "background")

    def begin(self, request: CreateRequest, exchange: Exchange) -> StoredResponse:
        """Take the conversation's lock, make the response and keep it."""
        world = self._world
        response = _response(request, world.ids.new("resp_"), int(world.clock.now()))
        if world.options.answers_as is not None:
            response["model"] = world.options.answers_as
        if request.conversation is not None:
            # Before the plan: a response that is refused must use up no reply of a script.
            self._conversations.lock(request.conversation, response["id"])
        plan = world.persona.plan(request.prompt)
        entry = self._keep(request, response, plan, exchange=exchange)
        exchange.response_id = response["id"]
        exchange.calls = [call.name for call in plan.calls]
        return entry

    def abandon(self, entry: StoredResponse) -> None:
        """The client is gone before the end; what becomes of the turn is `Options.on_abort`."""
        mode = self._world.options.on_abort
        if mode == "finish":
            entry.task = self._world.spawn(self._finish_unseen(entry))
        elif mode == "orphan":
            entry.response["status"] = "cancelled"
            self._bind(entry)
        else:
            # It runs to its end and says completed, yet the conversation holds nothing of it
            # (openai-python#3561).
            bound, entry.conversation = entry.conversation, None
            for _ in entry.run.stream:
                pass
            if bound is not None:
                self._conversations.release(bound, entry.response["id"], self._world.options)

    async def _finish_unseen(self, entry: StoredResponse) -> None:
        for frame in entry.run.stream:
            await self._world.clock.sleep(frame.wait)

    def get(self, response_id: str) -> StoredResponse:
        entry = self._find(response_id)
        if entry is None:
            raise not_found("Response", response_id)
        return entry

    def delete(self, response_id: str) -> Json:
        del self._entries[self.get(response_id).response["id"]]
        return {"id": response_id, "object": "response", "deleted": True}

    def clear(self) -> None:
        self._entries.clear()
        self._items.clear()
        self._partners.clear()

    def count(self, body: Mapping[str, Any]) -> Json:
        """POST /v1/responses/input_tokens"""
        new_items = response_checks.items(body.get("input"))
        context = [*self._history(body.get("previous_response_id"), _conversation_of(body)), *self._resolve(new_items)]
        return {"object": "response.input_tokens", "input_tokens": _prompt(body, context).tokens()}

    def compact(self, body: Mapping[str, Any]) -> Json:
        """POST /v1/responses/compact: the user messages, and one opaque item for all the rest."""
        if not isinstance(body.get("model"), str):
            raise Problem(400, "Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
        context = [*self._history(body.get("previous_response_id"), None), *response_checks.items(body.get("input"))]
        ids = self._world.ids
        messages = [stored_item(item, ids) for item in context if item.get("role") == "user"]
        item_id = ids.new("cmp_")
        tokens = _prompt(body, context).tokens()
        return {
            "id": ids.new("resp_"),
            "object": "response.compaction",
            "created_at": int(self._world.clock.now()),
            "output": [
                *messages,
                {"id": item_id, "type": "compaction", "encrypted_content": encrypted_thoughts(item_id)},
            ],
            "usage": {
                "input_tokens": tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": 16,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": tokens + 16,
            },
        }

    def _keep(self, request: CreateRequest, response: Json, plan: AnswerPlan, *, exchange: Exchange) -> StoredResponse:
        world, body, options = self._world, request.body, self._world.options
        obfuscation = (body.get("stream_options") or {}).get("include_obfuscation")
        summary = (body.get("reasoning") or {}).get("summary") is not None
        background = bool(body.get("background"))
        remember = body.get("store") is not False or background
        manner = Manner(world.pace, options.obfuscation and obfuscation is not False, summary, options.queue_delay)
        run = ResponseRun(
            response, plan, request.prompt, ids=world.ids, manner=manner, settle=lambda _: self._settle(entry)
        )
        entry = StoredResponse(
            response,
            [stored_item(item, world.ids) for item in request.input_items] if remember or request.conversation else [],
            run,
            world.clock.now(),
            options.response_ttl if body.get("store") is not False else options.unstored_ttl,
            exchange,
            request.conversation,
            streamable=background and body.get("stream") is True,
        )
        if remember:
            self._entries[response["id"]] = entry
            while len(self._entries) > options.keep_responses:
                self._entries.popitem(last=False)
        return entry

    def _settle(self, entry: StoredResponse) -> None:
        """The outcome is known: remember items and bind them to the conversation."""
        if entry.response["status"] == "completed":
            entry.response["completed_at"] = int(self._world.clock.now())
        self._partners.update(entry.run.partners)
        # What is not stored cannot be named again: with `store: false` items have to be sent whole.
        if entry.response["store"]:
            self._items.update({item["id"]: item for item in (*entry.input_items, *entry.response["output"])})
        for memory in (self._partners, self._items):
            while len(memory) > _MEMORY_LIMIT:
                memory.popitem(last=False)
        self._bind(entry)

    def _bind(self, entry: StoredResponse) -> None:
        if entry.conversation is None:
            return
        options = self._world.options
        if entry.response["status"] != "failed":
            self._conversations.append(entry.conversation, (*entry.input_items, *entry.response["output"]), options)
        self._conversations.release(entry.conversation, entry.response["id"], options)

    def release(self, entry: StoredResponse) -> None:
        """Give the conversation back without adding to it."""
        if entry.conversation is not None:
            self._conversations.release(entry.conversation, entry.response["id"], self._world.options)

    def _find(self, response_id: str) -> StoredResponse | None:
        entry = self._entries.get(response_id)
        # Looked at when it is asked for: no timer for each of many thousands.
        if entry is not None and self._world.clock.now() - entry.created_at > entry.ttl:
            del self._entries[response_id]
            return None
        return entry

    def _history(self, previous: str | None, conversation: str | None) -> list[Json]:
        if conversation is not None:
            return [item for _, item in self._conversations.get(conversation).items]
        # Items alone are inherited. Instructions are not, as the platform says.
        chain: list[StoredResponse] = []
        while previous is not None:
            entry = self._find(previous)
            if entry is None:
                raise previous_response_not_found(previous)
            chain.append(entry)
            previous = entry.response["previous_response_id"]
        return [item for entry in reversed(chain) for item in (*entry.input_items, *entry.response["output"])]

    def _resolve(self, items: Sequence[Json]) -> list[Json]:
        """Replace references by what they name; opaque thoughts without content have to be known
        here.
        """
        whole_items: list[Json] = []
        for raw in items:
            item, item_id = raw, raw.get("id")
            bare = item.get("type") == "reasoning" and not item.get("encrypted_content")
            if item.get("type") == "item_reference" or (bare and item_id is not None):
                if item_id not in self._items:
                    raise item_not_found(str(item_id))
                item = self._items[str(item_id)]
            whole_items.append(item)
        return whole_items


def _prompt(body: Mapping[str, Any], context: Sequence[Json]) -> Prompt:
    shape = ((body.get("text") or {}).get("format") or {}) if isinstance(body.get("text"), dict) else {}
    return Prompt(
        entries_of_items(context),
        model=str(body.get("model", "")),
        instructions=body.get("instructions") or "",
        tools=offered_tools(body.get("tools") or ()),
        choice=choice_of(body.get("tool_choice")),
        max_tokens=body.get("max_output_tokens"),
        thinks=(body.get("reasoning") or {}).get("effort") in response_checks.EFFORTS[1:],
        shape=shape_of(shape),
        labels=body.get("metadata") or {},
    )


def choice_of(value: object) -> str:
    """auto, none, required, or ``=name``; the forms of both protocols."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        name = value.get("name") or (value.get("function") or {}).get("name")
        return f"={name}" if name else "auto"
    return "auto"


def shape_of(form: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of a structured answer, where one is asked for."""
    if form.get("type") == "json_schema":
        schema = form.get("schema") or (form.get("json_schema") or {}).get("schema")
        return schema if isinstance(schema, dict) else None
    if form.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    return None


def _conversation_of(body: Mapping[str, Any]) -> str | None:
    value = body.get("conversation")
    if isinstance(value, dict):
        value = value.get("id")
    if value is not None and not isinstance(value, str):
        raise wrong_type("conversation", "a string", value)
    return value


def _stateless(body: Json, quirk: Quirk) -> Json:
    """Servers that keep nothing: some say so, some do not."""
    stateful = [name for name in ("previous_response_id", "conversation") if body.get(name) is not None]
    if quirk.stateless == "refuses" and (stateful or body.get("store") is True):
        raise unsupported_parameter(stateful[0] if stateful else "store")
    # The worse of the two: the client believes that the server remembers.
    if quirk.stateless == "ignores":
        return {**body, "previous_response_id": None, "conversation": None, "store": False}
    return body


def _check_thoughts(context: Sequence[Json]) -> None:
    for item in context:
        content = item.get("encrypted_content")
        if content is not None and not str(content).startswith(ENCRYPTED_PREFIX):
            message = "The encrypted content could not be verified. Reason: Encrypted content could not be decrypted."
            raise bad(message, "input", "invalid_encrypted_content")


def _response(request: CreateRequest, response_id: str, now: int) -> Json:
    body = request.body
    background = bool(body.get("background"))
    reasoning = body.get("reasoning") or {}
    response: Json = {
        "id": response_id,
        "object": "response",
        "created_at": now,
        "status": "queued" if background else "in_progress",
        "background": background,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": "default",
        "usage": None,
        "conversation": None if request.conversation is None else {"id": request.conversation},
    }
    return {**response, **{name: body[name] if body.get(name) is not None else d for name, d in _ECHO_DEFAULTS.items()}}
