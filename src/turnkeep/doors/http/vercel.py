"""The door for Vercel's AI SDK: `useChat` as it is, majors 5 to 7.

`POST /api/chat` takes the messages in that are new and streams the turn that answers them;
`GET /api/chat/{channel}/stream` goes on with it from its beginning; `POST …/stop` stops it;
`GET /api/chat/{channel}` is the transcript as a page begins with it. The id of a chat is a channel,
the id of a message a message id: what a client sends again is known. Of the history that comes
along nothing is believed but decisions about calls that wait here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import field
from typing import Any

from starlette.responses import PlainTextResponse, Response

from turnkeep.auth import acts
from turnkeep.doors.error_answers import JsonResponse, error_body, error_response, status_of
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.past_turns import past_turn, past_turns
from turnkeep.doors.http.sent_events import END_FRAME, SentEvents, response_resources
from turnkeep.doors.http.turn_encoder import is_result_of
from turnkeep.doors.http.turn_feed import TurnFeed, chunks, follow, one_chunk
from turnkeep.doors.http.ui_messages import ui_messages
from turnkeep.doors.http.vercel_chunks import STREAM_HEADERS, ChunkEncoder, Level, aside, chunk
from turnkeep.errors import Conflict, InvalidMessage, MessageConflict, NotFound, ThreadBusy, TurnkeepError
from turnkeep.events import Event
from turnkeep.inputs import MAX_NAME, checked_channel, optional_text
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Message, content_text
from turnkeep.store.values import MessageRecord, Receipt

MOST_NEW = 20
"""Messages of one request that are new at most: so far back an unknown one is looked for."""
WISHES = (
    *("instructions", "model", "effort", "format", "parameters", "metadata"),
    *("on_busy", "window", "max_wait", "not_before", "flush"),
)
"""What may stand in the body beside the messages, and is asked for with each new one."""
PASSED_ON = ("retry-after", "www-authenticate")

LEVELS: Mapping[str, Level] = {"5": 5, "6": 6, "7": 7}

EARLIER_CHANGED = (
    "An earlier message was changed. What was answered stays here as it was said: send the change as a new message."
)
OTHERS_WAIT = "Somebody has written since: the last answer can be made anew when that is answered."
ONLY_THE_LAST = "Only the last answer can be made anew: what came after an earlier one rests on it."


def sentence_response(error: TurnkeepError) -> Response:
    """A client shows the body of a refusal as it is: a sentence."""
    headers = {name: value for name, value in error_response(error).headers.items() if name in PASSED_ON}
    return PlainTextResponse(error_body(error)["message"], status_of(error), headers=headers)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What `useChat` posts. `messages` is its whole history."""

    channel: str
    messages: Sequence[Mapping[str, Any]]
    trigger: str = "submit-message"
    message_id: str | None = None
    wishes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Mapping[str, Any]:
        return self.messages[-1]


def read_chat_request(body: Mapping[str, Any]) -> ChatRequest:
    messages, trigger = body.get("messages"), body.get("trigger", "submit-message")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise InvalidMessage("'messages' must be a list of messages of the AI SDK, each with 'id', 'role' and 'parts'")
    if trigger not in ("submit-message", "regenerate-message"):
        raise InvalidMessage("'trigger' must be submit-message or regenerate-message")
    wishes = {name: body[name] for name in WISHES if body.get(name) is not None}
    message_id = optional_text(body, "messageId", MAX_NAME)
    return ChatRequest(checked_channel(body.get("id")), messages, trigger, message_id, wishes)


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("id"), str)
        and 0 < len(value["id"]) <= MAX_NAME
        and value.get("role") in ("user", "assistant", "system")
        and isinstance(value.get("parts"), list)
        and all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in value["parts"])
    )


async def chat(call: HttpCall) -> Response:
    """Take in what is new, and stream the turn that answers it."""
    level, holds_back = _level(call), _holds_back(call)
    request = read_chat_request(await call.body())
    address = call.application.address(request.channel, call.principal.tenant)
    call.principal.require("send", address.channel)
    call.principal.require("read", address.channel)
    async with response_resources() as resources:
        return await ChatTurn(call, address, level, resources, holds_back).respond(request)


async def resume_chat(call: HttpCall) -> Response:
    """The turn in progress from its beginning, or what waits; 204 where nothing does."""
    async with response_resources() as resources:
        turn = ChatTurn(call, call.address, _level(call), resources, _holds_back(call))
        await turn.follow()
        record = await call.application.store.thread(call.address)
        if record is not None and record.open_messages:
            return turn.stream()
        await resources.aclose()
    return Response(status_code=204)


async def stop_chat(call: HttpCall) -> Response:
    is_stopped = await acts.stop(call.application, call.principal, call.address, drop_inbox=False, once=call.once)
    return JsonResponse({"cancelled": is_stopped})


async def show_chat(call: HttpCall) -> Response:
    """What a page begins with: `useChat({messages, resume: true})`."""
    turns = await past_turns(call.application, call.address, items=call.number("limit", 200, 2_000))
    waiting = await call.application.store.open_messages(call.address)
    return JsonResponse({"messages": ui_messages(turns, [one.message for one in waiting if one.message], _level(call))})


def _level(call: HttpCall) -> Level:
    return LEVELS[call.word("level", *LEVELS) or "5"]


def _holds_back(call: HttpCall) -> bool:
    return call.word("text", "live", "steps") == "steps"


@dataclass(slots=True)
class ChatTurn:
    """One response: the turn that it tells, and what was opened for it."""

    call: HttpCall
    address: Address
    level: Level
    resources: AsyncExitStack
    holds_back: bool = False
    feed: TurnFeed = field(default_factory=lambda: TurnFeed(None))

    async def follow(self, *, only: Sequence[str] | None = None, after_calls: Sequence[str] = ()) -> None:
        self.feed = TurnFeed(only, after_calls=after_calls, sees_calls=self.call.principal.sees_calls)
        await follow(self.call, self.address, self.feed, self.resources)

    async def respond(self, request: ChatRequest) -> Response:
        if request.last["role"] == "assistant" and request.trigger == "submit-message":
            return await self._decide(_decisions(request.last))
        if request.trigger == "regenerate-message":
            return await self._regenerate(request)
        return await self._take_in(request)

    def stream(self, first: bytes = b"", *, after_calls: Sequence[str] = ()) -> Response:
        encoder = ChunkEncoder(self.level, after_calls=after_calls, holds_back=self.holds_back)
        return SentEvents(chunks(self.call, self.feed, encoder, first), self.resources.aclose, STREAM_HEADERS)

    def _once(self, data: bytes) -> Response:
        """All that there is to say is known."""
        return SentEvents(one_chunk(data), self.resources.aclose, STREAM_HEADERS)

    # ------------------------------------------------------------ new messages

    async def _take_in(self, request: ChatRequest) -> Response:
        # before anything is taken in: what happens to it must not be missed
        await self.follow(only=())
        # all are read before the first is taken in: a request is not taken half
        new = [self._message(message, request) for message in await self._new_messages(request)]
        receipts = [await self._accept(message, request.message_id) for message in new]
        if not receipts:
            return await self._tell_again(str(request.last["id"]))
        newest = receipts[-1]
        if newest.repeated:
            return await self._tell_again(newest.message_id)
        self.feed.follow(newest.message_id)
        return self.stream(_acceptance(newest))

    async def _new_messages(self, request: ChatRequest) -> list[Mapping[str, Any]]:
        """The user messages at the end of the history that are not known here, oldest first; one that is
        named (`messageId`) has another text now.
        """
        new: list[Mapping[str, Any]] = []
        for message in reversed(request.messages[-MOST_NEW:]):
            # behind an answer nothing is new: it may be of another server, and years old
            if message["role"] != "user":
                break
            is_known = await self.call.application.store.message(self.address, str(message["id"])) is not None
            if is_known and message["id"] != request.message_id:
                break
            # the transcript knows it for longer than its id is remembered
            is_change = not is_known and message["id"] == request.message_id
            if is_change and await past_turn(self.call.application, self.address, str(message["id"])) is not None:
                raise Conflict(EARLIER_CHANGED)
            new.append(message)
        return new[::-1]

    def _message(self, message: Mapping[str, Any], request: ChatRequest) -> Message:
        body = {**request.wishes, "content": content_of(message), "message_id": message["id"]}
        return self.call.limits.message_of(body, self.address, self.call.principal)

    async def _accept(self, message: Message, edited_id: str | None) -> Receipt:
        call = self.call
        try:
            return await call.limits.accept(call.application, call.principal, message)
        except MessageConflict:
            if message.message_id != edited_id:
                raise
        return await self._edit(message)

    async def _edit(self, message: Message) -> Receipt:
        """Another text for a message that waits; one that was answered stays as it was said."""
        await acts.own_message(self.call.application, self.call.principal, self.address, message.message_id)
        try:
            record = await self.call.application.store.edit(self.address, message.message_id, message.content)
        except Conflict:
            raise Conflict(EARLIER_CHANGED) from None
        return record.receipt

    # ------------------------------------------------------------ again, anew

    async def _tell_again(self, message_id: str, *, after_calls: Sequence[str] = ()) -> Response:
        """What becomes of a message that was sent before: its client has lost the answer."""
        # new messages have rates of their own
        self.call.limits.check_request(self.call.principal)
        record = await self.call.application.store.message(self.address, message_id)
        if record is None:
            raise InvalidMessage("the last message is neither a new one of the user nor one that was sent here before")
        if record.settled_at is None:
            self.feed.follow(message_id)
            return self.stream(_acceptance(record.receipt))
        return self._once(await self._past(record, after_calls))

    async def _past(self, record: MessageRecord, after_calls: Sequence[str]) -> bytes:
        """How it ended, as it would have been told then."""
        application, encoder = self.call.application, ChunkEncoder(self.level, after_calls=after_calls)
        if record.status == "dead":
            runs = await application.store.runs(self.address)
            fault = next((run.fault for run in runs if record.message_id in run.message_ids), None)
            return encoder.encode([Event("dead", (record.message_id,), error=fault)])
        turn = await past_turn(application, self.address, record.message_id)
        if turn is None:
            return aside(state=record.status) + END_FRAME
        begin = Event("started", record.covers, run_id=turn.run_id)
        return encoder.encode([begin, *turn.answer])

    async def _regenerate(self, request: ChatRequest) -> Response:
        """The last answer anew. A message that has died is tried again; one that never came is taken in."""
        last_user = next((one for one in reversed(request.messages) if one["role"] == "user"), None)
        if last_user is None:
            raise InvalidMessage("there is no message of the user to answer anew")
        record = await self.call.application.store.message(self.address, str(last_user["id"]))
        # the transcript knows a message for longer than its id is remembered
        if record is None and await past_turn(self.call.application, self.address, str(last_user["id"])) is None:
            return await self._take_in(request)
        if record is not None and record.settled_at is None:
            return await self._take_in(request)
        if record is not None and record.status == "dead":
            return await self._redrive(record)
        self.call.limits.check_rate(self.call.principal, self.address)
        words = content_text(self.call.limits.content_of(_content_body(last_user), self.call.principal))
        await self.follow(only=())
        receipt = await self._find_repeat(words) or await self._make_anew(words)
        self.feed.follow(receipt.message_id)
        return self.stream(_acceptance(receipt))

    async def _find_repeat(self, words: str) -> Receipt | None:
        """The message that waits with these words: the same was asked before, and its client lost the
        answer. Raises `Conflict` where others wait: their answer is not the one that is asked for.
        """
        waiting = [one for one in await self.call.application.store.open_messages(self.address) if one.message]
        repeats = [one.receipt for one in waiting if one.message and content_text(one.message.content) == words]
        if not repeats and any(one.status != "delayed" for one in waiting):
            raise Conflict(OTHERS_WAIT)
        return repeats[-1] if repeats else None

    async def _make_anew(self, words: str) -> Receipt:
        await self._check_is_last(words)
        try:
            return (await self.call.application.store.regenerate(self.address, once=self.call.once))[-1]
        except ThreadBusy:
            # somebody was faster, with the same or with something else
            if (receipt := await self._find_repeat(words)) is None:
                raise
            return receipt

    async def _check_is_last(self, words: str) -> None:
        """By its words: a message whose answer was made anew has another id here."""
        turns = await past_turns(self.call.application, self.address)
        if not turns or not turns[-1].users or content_text(turns[-1].users[-1].content) != words:
            raise Conflict(ONLY_THE_LAST)

    async def _redrive(self, record: MessageRecord) -> Response:
        await acts.own_message(self.call.application, self.call.principal, self.address, record.message_id)
        store = self.call.application.store
        where = self.address
        letters = await store.dead(tenant=where.tenant, queue=where.queue, channel=where.channel)
        letter = next((one for one in letters if one.message.message_id == record.message_id), None)
        if letter is None:
            raise NotFound("the message that was not answered is gone, send it as a new one")
        await self.follow(only=(record.message_id,))
        return self.stream(_acceptance(await store.redrive(letter.dead_id)))

    # ------------------------------------------------------------ decisions

    async def _decide(self, decisions: Sequence[PageDecision]) -> Response:
        """What was said to calls that wait; then the same message goes on."""
        call, ids = self.call, [decision.call_id for decision in decisions]
        call.limits.check_request(call.principal)
        if not decisions:
            return self._once(chunk("finish", finishReason="stop") + END_FRAME)
        await self.follow(after_calls=ids)
        record = await call.application.store.thread(self.address)
        held_calls = {one.call_id: one for one in record.calls if not one.decision} if record else {}
        if decisions_now := [one for one in decisions if one.call_id in held_calls]:
            call.principal.require("approve", self.address.channel)
        for one in decisions_now:
            body = one.to_body(held_calls[one.call_id].digest)
            await acts.decide(call.application, call.principal, self.address, body, once=None)
        if held_calls.keys() - {one.call_id for one in decisions_now}:
            return self._once(aside(state="held") + chunk("finish", finishReason="tool-calls") + END_FRAME)
        if decisions_now or (record is not None and record.run_id is not None):
            return self.stream(after_calls=ids)
        turns = await past_turns(call.application, self.address)
        last = next((turn for turn in reversed(turns) if any(is_result_of(one, ids) for one in turn.answer)), None)
        if last is None or not last.users:
            raise NotFound("the calls that were decided are not known here, load the conversation anew")
        return await self._tell_again(str(last.users[-1].message_id), after_calls=ids)


@dataclass(frozen=True, slots=True)
class PageDecision:
    """What somebody said on the page to a call: yes or no, or what his own tool gave."""

    call_id: str
    is_approved: bool | None = None
    output: str = ""

    def to_body(self, digest: str) -> dict[str, Any]:
        # an output of a tool that runs here is refused by the store: it is neither a yes nor a no
        verdict = {True: "approved", False: "denied", None: "output"}[self.is_approved]
        return {"call_id": self.call_id, "digest": digest, "decision": verdict, "output": self.output}


def _decisions(message: Mapping[str, Any]) -> list[PageDecision]:
    """Those in the parts of an answer."""
    return [decision for part in message["parts"] if (decision := _decision(part)) is not None]


def _decision(part: Mapping[str, Any]) -> PageDecision | None:
    call_id, state = part.get("toolCallId"), part.get("state")
    if not isinstance(call_id, str):
        return None
    approval = part.get("approval")
    if state == "approval-responded" and isinstance(approval, dict):
        reason = approval.get("reason")
        # nothing but true is a yes: not "false", nor a number
        return PageDecision(call_id, approval.get("approved") is True, reason if isinstance(reason, str) else "")
    # what we ran ourselves is no decision, whatever the page says it gave
    if state not in ("output-available", "output-error") or part.get("providerExecuted"):
        return None
    output = part.get("output") if state == "output-available" else part.get("errorText")
    return PageDecision(call_id, None, output if isinstance(output, str) else json.dumps(output, ensure_ascii=False))


def content_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message that say something; the page draws others by itself."""
    return [_part(part) for part in message["parts"] if _says(part)]


def _content_body(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": content_of(message)}


def _says(part: Mapping[str, Any]) -> bool:
    return part["type"] == "file" or (part["type"] == "text" and bool(str(part.get("text") or "").strip()))


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part.get("text")}
    url, kind = part.get("url"), str(part.get("mediaType") or "")
    if not isinstance(url, str):
        raise InvalidMessage("a part of type file needs a 'url'")
    if kind.startswith("image/"):
        return {"type": "image", "image_url": url}
    source = {"file_data": url} if url.startswith("data:") else {"file_url": url}
    name = {"filename": part["filename"]} if isinstance(part.get("filename"), str) and part["filename"] else {}
    return {"type": "file", **source, **name}


def _acceptance(receipt: Receipt) -> bytes:
    return aside(state="accepted", position=receipt.position, due_in=receipt.due_in)
