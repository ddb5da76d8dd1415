"""`/v1/responses`: asked, asked in the background, read again from any place, stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import Response

from turnkeep.auth import acts
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai import turn_request
from turnkeep.doors.http.openai.chat_completions import answering_assistant, wishes_of
from turnkeep.doors.http.openai.conversation_key import AnswerName, conversation_of, is_beside, thread_of
from turnkeep.doors.http.openai.openai_errors import fault_response
from turnkeep.doors.http.openai.part_frames import frames_of
from turnkeep.doors.http.openai.response_events import ResponseEvents
from turnkeep.doors.http.openai.response_object import (
    ResponseHead,
    call_item,
    message_item,
    message_item_id,
    response_of_end,
)
from turnkeep.doors.http.openai.response_object import response as response_form
from turnkeep.doors.http.openai.sdk_retries import is_retry
from turnkeep.doors.http.openai.turn_reader import (
    OPEN_STATES,
    CallerGone,
    OutputsWanted,
    TurnEnd,
    TurnFailure,
    TurnPart,
    TurnReader,
    outline_of,
    settled_part,
    turn_of,
)
from turnkeep.doors.http.openai.turn_request import TurnAnswer, TurnRequest, question_id
from turnkeep.doors.http.openai.turn_segments import TurnSegment, past_segment, segments_of
from turnkeep.doors.http.sent_events import SentEvents, named_frame, response_resources
from turnkeep.errors import Conflict, InvalidMessage, MessageFrozen, NotFound, NotOffered
from turnkeep.messages import Address, UserItem
from turnkeep.store.values import MessageRecord, ThreadRecord

LARGEST_NUMBER = 2**53
EARLIER = (
    "the conversation has gone on since response {name}: go on from its last response, or set "
    "TURNKEEP_OPENAI_HISTORY=fresh, by which a thread of its own begins there"
)


async def create_response(call: HttpCall) -> Response:
    body = await call.body()
    address = await _address(call, body)
    messages = messages_of(body.get("input"))
    if is_beside(call, messages):
        address = None
    background, is_kept = body.get("background") is True, body.get("store") is not False
    if background and not is_kept:
        raise InvalidMessage("'background' needs 'store': what is not kept cannot be asked for later")
    assistant = await answering_assistant(call, body)
    wishes = wishes_of(body, messages) | {"assistant": assistant}
    request = TurnRequest(
        messages=messages, wishes=wishes, compares=False, is_retry=is_retry(call), message_id=question_id(call)
    )
    answer = await _ask(call, address, request, is_kept=is_kept)
    head = ResponseHead(
        name=answer.question.name, created_at=call.application.clock.now(), model=str(body["model"]),
        instructions=wishes["instructions"], metadata=wishes["metadata"], parameters=wishes["parameters"],
        client_tools=wishes["client_tools"], previous_response_id=body.get("previous_response_id"),
        conversation=_conversation(body), background=background, store=is_kept,
    )  # fmt: skip
    if body.get("stream") is True:
        return SentEvents(_frames(answer.parts(), ResponseEvents(head, call.application.clock)), answer.close)
    if background:
        await answer.close()
        return JsonResponse(response_form(head, "queued"))
    return await answer.wait_for(_whole(call, answer, head))


def _conversation(body: Mapping[str, Any]) -> str | None:
    conversation = body.get("conversation")
    name = conversation.get("id") if isinstance(conversation, Mapping) else conversation
    return name if isinstance(name, str) else None


async def _address(call: HttpCall, body: Mapping[str, Any]) -> Address | None:
    if (previous := body.get("previous_response_id")) is not None:
        return await _thread_of_answer(call, AnswerName.read(previous))
    return conversation_of(call, body)


async def _ask(call: HttpCall, address: Address | None, request: TurnRequest, *, is_kept: bool) -> TurnAnswer:
    if address is None and is_kept and not turn_request.outputs_of(request.messages):
        return await turn_request.ask_anew(call, request)
    has_past = any(one.get("role") == "assistant" for one in request.messages)
    if address is not None and has_past:  # a client that resends its history
        request = turn_request.comparing(request)
    return await turn_request.ask(call, address, request)


async def _thread_of_answer(call: HttpCall, name: AnswerName) -> Address:
    """The thread in which that answer is the last one; by setting a new one that ends with it."""
    record = await thread_of(call, name.thread_id, "send", "read")
    store, message_id = call.application.store, question_id(call)
    if message_id is not None and await store.message(record.address, message_id) is not None:
        return record.address  # a repeat: it has gone on by this request itself
    if any(one.message_id == name.message_id for one in await store.open_messages(record.address)):
        return record.address
    history = await store.history(record.address)
    turns = [e.turn for e in history.entries if isinstance(e.item, UserItem) and e.item.message_id == name.message_id]
    if not turns:
        raise NotFound(f"response {name.id('resp')!r} is not in its conversation any more")
    users = [e.turn for e in history.entries if isinstance(e.item, UserItem)]
    if turns[-1] == users[-1]:
        return record.address
    if call.application.settings.openai_history == "refuse":
        raise Conflict(EARLIER.format(name=name.id("resp")))
    branch = await turn_request.new_thread(call, name.id("resp"))
    for turn in sorted({e.turn for e in history.entries if e.turn <= turns[-1]}):
        entries = [e for e in history.entries if e.turn == turn]
        await store.append(branch.address, entries, once=call.once_for(turn))
    return branch.address


async def _whole(call: HttpCall, answer: TurnAnswer, head: ResponseHead) -> Response:
    async for part in answer.parts():
        now = call.application.clock.now()
        match part:
            case TurnFailure():
                return fault_response(part.fault)
            case TurnEnd():
                return JsonResponse(response_of_end(head, part, now=now, thoughts=answer.thoughts_so_far))
            case OutputsWanted(calls):
                return JsonResponse(_held_response(head, TurnSegment(answer.text_so_far, calls), now=now))
    raise CallerGone


def _held_response(head: ResponseHead, segment: TurnSegment, *, now: float) -> dict[str, Any]:
    """An answer that ends with calls of the caller's functions."""
    item_id = message_item_id(head.name, 0)
    output = [message_item(item_id, segment.text, "completed")] if segment.text else []
    return response_form(head, "completed", [*output, *map(call_item, segment.calls)], completed_at=now)


def _frames(parts: AsyncIterator[TurnPart], events: ResponseEvents) -> AsyncIterator[bytes]:
    return frames_of(parts, events, lambda event: named_frame(event["type"], event))


# ---------------------------------------------------------------- read again, stopped


async def show_response(call: HttpCall) -> Response:
    """As it is now; with `stream=true` from its beginning, or behind `starting_after`."""
    name = AnswerName.read(call.path("response_id"))
    record = await thread_of(call, name.thread_id, "read")
    message = await _message_record(call, record.address, name)
    head = await _head(call, record, message, name)
    if call.word("stream", "true", "false") != "true":
        return JsonResponse(await _current(call, record, message, head))
    after = call.number("starting_after", 0, LARGEST_NUMBER) if "starting_after" in call.request.query_params else None
    return await _stream_again(call, record, message, ResponseEvents(head, call.application.clock, after=after), name)


async def _message_record(call: HttpCall, address: Address, name: AnswerName) -> MessageRecord:
    message = await call.application.store.message(address, name.message_id)
    if message is None:
        raise NotFound(f"there is no response {name.id('resp')!r}")
    return message


async def _head(call: HttpCall, record: ThreadRecord, message: MessageRecord, name: AnswerName) -> ResponseHead:
    default = (await call.application.assistants.answering(call.principal.tenant, record.assistant)).assistant_id
    if message.message is not None:
        return ResponseHead.of_item(name, message.message, message.message.arrival, default)
    if message.status in ("dead", "withdrawn"):
        return ResponseHead(name=name, created_at=message.settled_at or 0.0, model=default)
    entries = await turn_of(call, record.address, name.message_id)
    item = next(e.item for e in entries if isinstance(e.item, UserItem) and e.item.message_id == name.message_id)
    return ResponseHead.of_item(name, item, item.at, default)


async def _current(call: HttpCall, record: ThreadRecord, message: MessageRecord, head: ResponseHead) -> dict[str, Any]:
    now = call.application.clock.now()
    past = await past_segment(call, record, message, head.name.segment)
    if past is not None:
        return _held_response(head, past, now=now)
    if message.status not in OPEN_STATES:
        return response_of_end(head, await _end(call, record, message), now=now)
    return response_form(head, "in_progress" if message.status == "running" else "queued")


async def _end(call: HttpCall, record: ThreadRecord, message: MessageRecord) -> TurnEnd | TurnFailure:
    """Of a turn that is settled, with what its last answer has said."""
    end = await settled_part(call, record.address, message)
    if isinstance(end, TurnFailure):
        return end
    segments = await segments_of(call, record, await turn_of(call, record.address, message.message_id))
    return end.with_text(segments[-1].text)


async def _stream_again(
    call: HttpCall, record: ThreadRecord, message: MessageRecord, events: ResponseEvents, name: AnswerName
) -> Response:
    async with response_resources() as resources:
        resources.enter_context(call.limits.streaming(call.holder))
        outline = await outline_of(call, record.address, name.message_id)
        hold_before = outline.holds[name.segment - 1 : name.segment] if name.segment else ()
        cursor = hold_before[0] if hold_before else None if name.segment else outline.beginning
        if message.status not in OPEN_STATES and cursor is None:  # the log does not know it any more
            parts = _settled_parts(call, record, message, name.segment)
        else:
            reader = await resources.enter_async_context(TurnReader(call, record.address, cursor))
            parts = reader.logged_parts(name.message_id) if cursor else reader.parts(name.message_id)
        return SentEvents(_frames(parts, events), resources.aclose)


async def _settled_parts(
    call: HttpCall, record: ThreadRecord, message: MessageRecord, number: int
) -> AsyncIterator[TurnPart]:
    past = await past_segment(call, record, message, number)
    if past is None:
        yield await _end(call, record, message)
        return
    async for part in past.parts():
        yield part


async def cancel_response(call: HttpCall) -> Response:
    """Stop the turn, and everything that it answers with it; one that has not begun is taken back."""
    name = AnswerName.read(call.path("response_id"))
    record = await thread_of(call, name.thread_id, "send", "read")
    store, address = call.application.store, record.address
    message = await _message_record(call, address, name)
    head = await _head(call, record, message, name)
    if message.status in ("waiting", "delayed"):
        try:
            await acts.own_message(call.application, call.principal, address, name.message_id)
            await store.withdraw(address, name.message_id, once=call.once)
            return JsonResponse(response_form(head, "cancelled"))
        except MessageFrozen:
            pass  # its run has begun meanwhile
    if message.status in OPEN_STATES:
        async with TurnReader(call, address) as reader:
            await acts.stop(call.application, call.principal, address, drop_inbox=False, once=call.once)
            async for part in reader.parts(name.message_id):
                if isinstance(part, TurnEnd | TurnFailure):
                    break
    message = await _message_record(call, address, name)
    return JsonResponse(await _current(call, record, message, head))


# ---------------------------------------------------------------- input


def messages_of(value: object) -> list[dict[str, Any]]:
    """The items of a request as messages of Chat Completions' kind."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise InvalidMessage("'input' must be a text or a list of items")
    return [message for item in value if (message := _message_of(item)) is not None]


def _message_of(item: object) -> dict[str, Any] | None:
    if not isinstance(item, Mapping):
        raise InvalidMessage("an item of 'input' must be an object")
    kind = item.get("type", "message")
    match kind:
        case "message":
            if item.get("role") not in ("user", "assistant", "system", "developer"):
                raise InvalidMessage("a message of 'input' must have the role user, assistant, system or developer")
            return {"role": item["role"], "content": item.get("content")}
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            return {"role": "assistant", "tool_calls": [{"id": item.get("call_id"), "function": function}]}
        case "function_call_output":
            return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    # What other providers thought or ran there is theirs; agents send it back unasked.
    if kind in ("reasoning", "item_reference") or str(kind).endswith("_call"):
        return None
    raise NotOffered(f"an item of 'input' of type {str(kind)[:80]!r} is not taken: send messages and function outputs")
