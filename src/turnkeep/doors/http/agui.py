"""The door for AG-UI 1.0: `HttpAgent`, and what TanStack's client does beside the protocol.

`POST /api/agui` takes in what is new and streams the turn that answers it; sent again with
`Last-Event-ID` it goes on behind it. `GET …?runId=R&offset=-1` joins a run, `GET …?threadId=T` is
the conversation as a page begins with it. A thread id is a channel, the id of a message a message
id. Of the history that comes along nothing is believed but what a client's own tools gave.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import field
from typing import Any

from starlette.responses import Response

from turnkeep.auth import acts
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.agui_events import AgUiMessage, Cursor, RunEncoder, interrupt
from turnkeep.doors.http.agui_messages import agui_messages, page_messages
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.past_turns import TranscriptTurn, past_turn, past_turns
from turnkeep.doors.http.sent_events import SentEvents, response_resources
from turnkeep.doors.http.turn_encoder import is_result_of
from turnkeep.doors.http.turn_feed import TurnFeed, chunks, follow, one_chunk
from turnkeep.doors.http.vercel import MOST_NEW, WISHES, PageDecision
from turnkeep.errors import InvalidMessage, NotFound
from turnkeep.events import Event
from turnkeep.inputs import MAX_INSTRUCTIONS, MAX_NAME, MAX_NAMES, checked_channel, read_function
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Message
from turnkeep.store.values import Receipt, ThreadRecord
from turnkeep.wire import call_form

NEXT = "next"
"""Stands for the run of what waits, which has no id yet."""


@dataclass(frozen=True, slots=True)
class RunInput:
    """What a client posts (`RunAgentInput`). `messages` is its whole history."""

    channel: str
    messages: Sequence[AgUiMessage]
    tools: Sequence[Mapping[str, Any]] = ()
    resume: Sequence[Mapping[str, Any]] = ()
    context: str | None = None
    """What the page says of where its user is, in words."""
    state: Any = None
    """The page's own: it is told back, and kept nowhere."""
    wishes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> AgUiMessage:
        return self.messages[-1] if self.messages else {}


def read_run_input(body: Mapping[str, Any]) -> RunInput:
    messages = body.get("messages", [])
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise InvalidMessage("'messages' must be a list of messages of AG-UI, each with 'id' and 'role'")
    props = body.get("forwardedProps") or {}
    if not isinstance(props, Mapping):
        raise InvalidMessage("'forwardedProps' must be an object")
    return RunInput(
        checked_channel(body.get("threadId")), messages, _objects(body, "tools"), _objects(body, "resume"),
        _context(_objects(body, "context")), body.get("state") or None,
        {name: props[name] for name in WISHES if props.get(name) is not None},
    )  # fmt: skip


def _context(entries: Sequence[Mapping[str, Any]]) -> str | None:
    if not all(isinstance(one.get(name), str) for one in entries for name in ("description", "value")):
        raise InvalidMessage("an entry of 'context' needs 'description' and 'value', both texts")
    words = "\n".join(f"{one['description']}: {one['value']}" for one in entries)
    if len(words) > MAX_INSTRUCTIONS:
        raise InvalidMessage(f"'context' has {len(words)} characters, and {MAX_INSTRUCTIONS} are read at most")
    return f"Context of the page:\n{words}" if words else None


def _is_message(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str) or not isinstance(value.get("role"), str):
        return False
    return 0 < len(value["id"]) <= MAX_NAME and isinstance(value.get("toolCallId", ""), str)


def _objects(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = body.get(name) or []
    if not isinstance(value, list) or len(value) > MAX_NAMES or not all(isinstance(one, dict) for one in value):
        raise InvalidMessage(f"'{name}' must be a list of at most {MAX_NAMES} objects")
    return value


async def run_agent(call: HttpCall) -> Response:
    """Take in what is new, and stream the turn that answers it."""
    request = read_run_input(await call.body())
    address = call.application.address(request.channel, call.principal.tenant)
    call.principal.require("send", address.channel)
    call.principal.require("read", address.channel)
    async with response_resources() as resources:
        return await AgentRun(call, address, request, resources).respond()


async def join_agent(call: HttpCall) -> Response:
    """A run from its beginning (`runId`), or the conversation (`threadId`)."""
    query = call.request.query_params
    if "runId" not in query:
        return await _hydrate(call, checked_channel(query.get("threadId")))
    run_id, _, word = query["runId"].partition(".")
    address = call.application.address(checked_channel(channel_of(word)), call.principal.tenant)
    call.principal.require("read", address.channel)
    async with response_resources() as resources:
        return await AgentRun(call, address, RunInput(address.channel, ()), resources).join(run_id)


async def _hydrate(call: HttpCall, channel: str) -> Response:
    address = call.application.address(channel, call.principal.tenant)
    call.principal.require("read", address.channel)
    record = await call.application.store.thread(address)
    turns = await past_turns(call.application, address)
    waiting = await call.application.store.open_messages(address)
    pending = _pending(record, in_full=call.principal.sees_calls) if record is not None else []
    run_id = None
    if record is not None and record.open_messages:
        run_id = f"{record.run_id or NEXT}.{word_of(channel)}"
    return JsonResponse(
        {
            "messages": page_messages(turns, [one.message for one in waiting if one.message]),
            "activeRun": {"runId": run_id} if run_id and not pending else None,
            "interrupts": {"runId": run_id, "pending": pending} if pending else None,
        }
    )


def _pending(record: ThreadRecord, *, in_full: bool) -> list[dict[str, Any]]:
    if record.state != "held":
        return []
    calls = [call_form(one.to_json(), in_full=in_full) for one in record.calls if not one.decision]
    return [
        interrupt(one["call_id"], one["name"], one["arguments"], record.due)
        for one in calls
        if one["kind"] == "approval"
    ]


def word_of(channel: str) -> str:
    """A channel as a word that may stand in an id."""
    return base64.urlsafe_b64encode(channel.encode()).decode().rstrip("=")


def channel_of(word: str) -> str:
    try:
        return base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)).decode()
    except (binascii.Error, ValueError):
        raise InvalidMessage("'runId' must be one that was told here") from None


@dataclass(slots=True)
class AgentRun:
    """One response: the turn that it tells, and what was opened for it."""

    call: HttpCall
    address: Address
    request: RunInput
    resources: AsyncExitStack
    feed: TurnFeed = field(default_factory=lambda: TurnFeed(None))

    async def respond(self) -> Response:
        if decisions := self._decisions():
            return await self._decide(decisions)
        await self._follow(only=())
        # all are read before the first is taken in: a request is not taken half
        call, new = self.call, [self._message(message) for message in await self._new_messages()]
        receipts = [await call.limits.accept(call.application, call.principal, one) for one in new]
        newest_id = receipts[-1].message_id if receipts else self._last_user()
        if not receipts or receipts[-1].repeated:
            return await self._tell_again(newest_id)
        self.feed.follow(newest_id)
        return self._stream(receipts[-1])

    async def join(self, run_id: str) -> Response:
        await self._follow()
        record = await self.call.application.store.thread(self.address)
        turns = await past_turns(self.call.application, self.address)
        if record is not None and record.open_messages and run_id in (NEXT, record.run_id):
            return self._stream(base=agui_messages(turns))
        if turns and run_id in (NEXT, turns[-1].run_id):
            return self._past(turns[-1], base=agui_messages(turns[:-1]))
        raise NotFound("this run is not in progress here any more, load the conversation anew")

    async def _follow(self, *, only: Sequence[str] | None = None, after_calls: Sequence[str] = ()) -> None:
        self.feed = TurnFeed(only, after_calls=after_calls, sees_calls=self.call.principal.sees_calls)
        await follow(self.call, self.address, self.feed, self.resources)

    def _encoder(self, base: Sequence[AgUiMessage] | None, after_calls: Sequence[str]) -> RunEncoder:
        cursor = Cursor.read(self.call.request.headers.get("last-event-id", ""))
        messages = self.request.messages if base is None else base
        word = word_of(self.request.channel)
        return RunEncoder(
            self.request.channel, word, base=messages, cursor=cursor, after_calls=after_calls, state=self.request.state
        )

    def _stream(
        self,
        receipt: Receipt | None = None,
        *,
        base: Sequence[AgUiMessage] | None = None,
        after_calls: Sequence[str] = (),
    ) -> Response:
        encoder = self._encoder(base, after_calls)
        return SentEvents(chunks(self.call, self.feed, encoder), self.resources.aclose)

    def _past(
        self, turn: TranscriptTurn, *, base: Sequence[AgUiMessage] | None = None, after_calls: Sequence[str] = ()
    ) -> Response:
        """A turn that is over, as it would have been told then."""
        begin = Event("started", run_id=turn.run_id, attempt=turn.attempt)
        data = self._encoder(base, after_calls).encode([begin, *turn.answer])
        return SentEvents(one_chunk(data), self.resources.aclose)

    # ------------------------------------------------------------ new messages

    def _last_user(self) -> str:
        last = next((one for one in reversed(self.request.messages) if one["role"] == "user"), None)
        if last is None:
            raise InvalidMessage("there is no message of a user in 'messages', and no 'resume'")
        return str(last["id"])

    async def _new_messages(self) -> list[AgUiMessage]:
        """The messages of users at the end of the history that are not known here, oldest first."""
        new: list[AgUiMessage] = []
        for message in reversed(self.request.messages[-MOST_NEW:]):
            if message["role"] != "user":
                break
            if await self.call.application.store.message(self.address, message["id"]) is not None:
                break
            new.append(message)
        return new[::-1]

    def _message(self, message: AgUiMessage) -> Message:
        call = self.call
        body = {**self.request.wishes, "content": content_of(message), "message_id": message["id"]}
        new = call.limits.message_of(body, self.address, call.principal)
        # a page speaks for its user, whatever it may: its context is never the operator's words
        if words := [text for text in (new.user_instructions, self.request.context) if text]:
            new = new.but(user_instructions="\n\n".join(words))
        # what the model may call is the operator's matter: tools of anybody else are those that are declared here
        if "manage" in call.principal.rights:
            return new.but(client_tools=tuple(_function(tool) for tool in self.request.tools))
        return new

    async def _tell_again(self, message_id: str) -> Response:
        """What becomes of a message that was sent before: its client has lost the answer."""
        application = self.call.application
        # new messages have rates of their own
        self.call.limits.check_request(self.call.principal)
        record = await application.store.message(self.address, message_id)
        if record is None:
            raise InvalidMessage("the last message of the user is neither new nor one that was sent here before")
        if record.settled_at is None:
            self.feed.follow(message_id)
            return self._stream()
        if (turn := await past_turn(application, self.address, message_id)) is not None:
            return self._past(turn)
        runs = await application.store.runs(self.address)
        fault = next((run.fault for run in runs if message_id in run.message_ids), None)
        end = Event("dead" if record.status == "dead" else "withdrawn", (message_id,), error=fault)
        begin = Event("started", run_id=record.run_id or NEXT)
        return SentEvents(one_chunk(self._encoder(None, ()).encode([begin, end])), self.resources.aclose)

    # ------------------------------------------------------------ decisions

    def _decisions(self) -> list[PageDecision]:
        """Answers to interrupts, and what the client's own tools gave."""
        decisions = [_resumption(entry) for entry in self.request.resume]
        for message in reversed(self.request.messages):
            if message["role"] != "tool" or not isinstance(message.get("toolCallId"), str):
                break
            decisions.append(PageDecision(message["toolCallId"], None, _output_of(message)))
        return decisions

    async def _decide(self, decisions: Sequence[PageDecision]) -> Response:
        call, ids = self.call, [one.call_id for one in decisions]
        call.limits.check_request(call.principal)
        await self._follow(after_calls=ids)
        record = await call.application.store.thread(self.address)
        held_calls = {one.call_id: one for one in record.calls if not one.decision} if record else {}
        for one in decisions:
            if (held_call := held_calls.pop(one.call_id, None)) is not None:
                call.principal.require("approve", self.address.channel)
                body = one.to_body(held_call.digest)
                await acts.decide(call.application, call.principal, self.address, body, once=None)
        if held_calls:
            raise InvalidMessage(f"{len(held_calls)} more calls wait for a decision: 'resume' must answer all of them")
        if record is not None and record.run_id is not None:
            return self._stream(after_calls=ids)
        turns = await past_turns(call.application, self.address)
        turn = next((turn for turn in reversed(turns) if any(is_result_of(one, ids) for one in turn.answer)), None)
        if turn is None:
            raise NotFound("the calls that were decided are not known here, load the conversation anew")
        return self._past(turn, after_calls=ids)


def _resumption(entry: Mapping[str, Any]) -> PageDecision:
    call_id, status, payload = entry.get("interruptId"), entry.get("status"), entry.get("payload")
    if not isinstance(call_id, str) or status not in ("resolved", "cancelled"):
        raise InvalidMessage("an entry of 'resume' needs 'interruptId' and 'status' (resolved or cancelled)")
    fields = payload if isinstance(payload, Mapping) else {}
    reason = fields.get("reason")
    # TanStack's `resolveInterrupt(true)` says it without an object around it
    is_approved = status == "resolved" and (payload is True or fields.get("approved") is True)
    return PageDecision(call_id, is_approved, reason if isinstance(reason, str) else "")


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    name, parameters = read_function(tool)
    function = {"name": name, "description": str(tool.get("description") or "")}
    return {**function, "parameters": parameters} if parameters else function


def content_of(message: AgUiMessage) -> str | list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, list):
        return [_part(part) for part in content]
    if not isinstance(content, str | None):
        raise InvalidMessage("the 'content' of a message must be a text or a list of parts")
    return content or ""


def _output_of(message: AgUiMessage) -> str:
    """What a tool of the page gave, as a model reads it."""
    content = message.get("content")
    return content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)


def _part(part: object) -> dict[str, Any]:
    fields = part if isinstance(part, Mapping) else {}
    source = fields.get("source")
    if fields.get("type") == "text":
        return {"type": "text", "text": fields.get("text") or fields.get("content")}
    if fields.get("type") not in ("image", "document") or not isinstance(source, Mapping):
        raise InvalidMessage("a part of 'content' must be text, image or document, the last two with a 'source'")
    value, kind = str(source.get("value") or ""), str(source.get("mimeType") or "application/octet-stream")
    if source.get("type") == "file":
        return {"type": "image" if fields["type"] == "image" else "file", "file_id": value}
    url = f"data:{kind};base64,{value}" if source.get("type") == "data" else value
    if fields["type"] == "image":
        return {"type": "image", "image_url": url}
    return {"type": "file", "file_data" if url.startswith("data:") else "file_url": url}
