"""`/v1/threads` and their messages: our threads in the words of the Assistants API.

A message waits in the transcript until a run is asked for, as there; one that is written while a run
goes on waits in the inbox, and is answered by the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from turnkeep.auth.audit_trail import channel_digest
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall, audit
from turnkeep.doors.http.openai import openai_input, turn_request
from turnkeep.doors.http.openai.assistant_profiles import check_resources
from turnkeep.doors.http.openai.conversation_key import thread_of
from turnkeep.doors.http.openai.cursor_list import list_response
from turnkeep.doors.http.openai.sdk_retries import find_written, is_written
from turnkeep.doors.http.openai.thread_objects import RUN_PREFIX, answer_form, messages_of_thread, thread_form
from turnkeep.errors import InvalidMessage, NotAllowed, NotFound, NotOffered, ThreadBusy
from turnkeep.inputs import read_metadata
from turnkeep.messages import Address, AssistantItem, Item, Message, UserItem
from turnkeep.pricing.tokenizer import tokenizer_for
from turnkeep.store.clearing import forget_at_work
from turnkeep.store.values import MessageRecord, ThreadRecord, TranscriptEntry

UNTIL_A_RUN = 1e9
"""Seconds of a window that only a run ends: some thirty years."""
MOST_MESSAGES = 256
ACTIVE = "Can't add messages to {thread} while a run {run} is active."


async def begin_thread(call: HttpCall) -> Response:
    body = await call.body(empty=True)
    return JsonResponse(thread_form(await make_thread(call, body)))


async def make_thread(call: HttpCall, body: Mapping[str, Any]) -> ThreadRecord:
    check_resources(body.get("tool_resources"))
    messages = read_messages(call, body, "messages")
    record = await turn_request.new_thread(call, metadata=read_metadata(body.get("metadata") or {}))
    for number, message in enumerate(messages):
        await write(call, record, message, once=call.once_for(number))
    return record


def read_messages(call: HttpCall, body: Mapping[str, Any], name: str) -> list[Any]:
    """Those that stand in another request. Raises what `write` would, but for the state of a thread:
    a request is not taken half.
    """
    messages = body.get(name) or []
    if not isinstance(messages, list) or len(messages) > MOST_MESSAGES:
        raise InvalidMessage(f"'{name}' must be a list of at most {MOST_MESSAGES} messages")
    anywhere = call.application.address(name, call.principal.tenant)
    for message in messages:
        _read(call, anywhere, message)
    return messages


async def show_thread_form(call: HttpCall) -> Response:
    return JsonResponse(thread_form(await _thread(call, "read")))


async def change_thread(call: HttpCall) -> Response:
    record = await _thread(call, "send", "read")
    body = await call.body(empty=True)
    check_resources(body.get("tool_resources"))
    if body.get("metadata") is not None:
        changes = {"metadata": read_metadata(body["metadata"])}
        record = await call.application.store.update(record.address, changes, once=call.once)
    return JsonResponse(thread_form(record))


async def delete_thread(call: HttpCall) -> Response:
    record = await _thread(call, "manage")
    await forget_at_work(call.application.store, record.address, once=call.once)
    await audit(call, "channel_forgotten", channel=channel_digest(record.address.channel), force=True)
    return JsonResponse({"id": record.thread_id, "object": "thread.deleted", "deleted": True})


async def _thread(call: HttpCall, *scopes: Any) -> ThreadRecord:
    return await thread_of(call, call.path("thread_id"), *scopes)


# ---------------------------------------------------------------- messages


async def add_message(call: HttpCall) -> Response:
    record = await _thread(call, "send")
    message_id = await write(call, record, await call.body(), once=call.once)
    return JsonResponse(await find_message(call, record, message_id))


async def list_thread_messages(call: HttpCall) -> Response:
    record = await _thread(call, "read")
    messages = await messages_of_thread(call, record)
    if run_id := call.request.query_params.get("run_id"):
        messages = [one for one in messages if run_id in one.run_ids]
    return list_response(call, [one.form for one in messages])


async def show_thread_message(call: HttpCall) -> Response:
    record = await _thread(call, "read")
    return JsonResponse(await find_message(call, record, call.path("message_id")))


async def refuse_message_change(call: HttpCall) -> Response:
    """What was said stays as it was said: it may be answered already."""
    await _thread(call, "send")
    raise NotOffered("a message of a transcript is not changed or taken back here: say what is meant in a new one")


async def refuse_message_deletion(call: HttpCall) -> Response:
    return await refuse_message_change(call)


async def find_message(call: HttpCall, record: ThreadRecord, message_id: str) -> dict[str, Any]:
    for one in await messages_of_thread(call, record):
        if one.form["id"] == message_id:
            return one.form
    raise NotFound(f"No message found with id '{message_id[:80]}'.")


def _read(call: HttpCall, address: Address, body: object, message_id: str | None = None) -> tuple[str, Message]:
    """The role, and the message."""
    if not isinstance(body, Mapping) or body.get("role", "user") not in ("user", "assistant"):
        raise InvalidMessage("a message must be an object whose 'role' is user or assistant")
    if body.get("attachments"):
        raise NotOffered("'attachments': files are not kept here: send one as a part of the content, or its text")
    role = str(body.get("role", "user"))
    if role == "assistant" and "manage" not in call.principal.rights:
        raise NotAllowed("to speak as the assistant needs the scope 'manage'")
    wishes = {"metadata": body.get("metadata") or {}}
    content = body.get("content")
    return role, openai_input.message_of(call, address, content=content, message_id=message_id, wishes=wishes)


async def write(call: HttpCall, record: ThreadRecord, body: object, *, once: str | None = None) -> str:
    """Put a message behind what was said; its id.

    Raises `InvalidMessage` while a run is active, where runs are strict, and `ThreadBusy` for words of
    the assistant while a turn goes on.
    """
    message_id = f"msg_{secrets.token_hex(12)}" if once is None else openai_input.id_from(once)
    role, message = _read(call, record.address, body, message_id)
    if (before := await find_written(call, record.address, message.content)) is not None:
        return before
    if once is not None and await is_written(call, record.address, message_id, message.content):
        return message_id
    open_messages = await call.application.store.open_messages(record.address)
    run = active_run(open_messages)
    if run is not None and call.application.settings.openai_runs == "strict":
        raise InvalidMessage(ACTIVE.format(thread=record.thread_id, run=run))
    if role == "assistant":
        return await _write_answer(call, message, once=once)
    if not any(one.status != "delayed" for one in open_messages):
        try:
            call.limits.check_rate(call.principal, record.address)
            # Without the time, which a repeat tells otherwise: the entry has it.
            item = UserItem(message.content, message_id, metadata=message.metadata)
            await append(call, record.address, item, once=once)
            return message_id
        except ThreadBusy:
            pass  # a run has begun meanwhile
    return await _await_a_run(call, message)


async def _await_a_run(call: HttpCall, message: Message) -> str:
    waiting = message.but(window=UNTIL_A_RUN, max_wait=UNTIL_A_RUN, on_busy="collect")
    await call.limits.accept(call.application, call.principal, waiting)
    return message.message_id


async def _write_answer(call: HttpCall, message: Message, *, once: str | None) -> str:
    item = AssistantItem(message.text, author=call.principal.subject)
    await append(call, message.address, item, once=once)
    record = await call.application.store.thread(message.address)
    content = answer_form("", "", item.text, 0.0, status="completed")["content"]
    messages = [one.form for one in await messages_of_thread(call, record)] if record else []
    # Others may have spoken since, where this is a repeat.
    same = [form for form in messages if form["role"] == "assistant" and form["content"] == content]
    return str((same or messages)[-1]["id"])


async def append(call: HttpCall, address: Address, item: Item, *, once: str | None) -> None:
    count = tokenizer_for(call.application.model_name, call.application.catalog).count_item
    author = item.author if isinstance(item, AssistantItem) else None
    entry = TranscriptEntry(item, count(item))
    await call.application.store.append(address, [entry], author=author, once=once)


def active_run(open_messages: list[MessageRecord]) -> str | None:
    """The run of a caller that is not at its end, or else the one that is in progress."""
    for record in open_messages:
        if record.message_id.startswith(RUN_PREFIX):
            return record.message_id
    running = [record for record in open_messages if record.status == "running"]
    return running[0].run_id or running[0].message_id if running else None
