"""`/v1/conversations`: our threads in the words of the Responses API, and what a response was asked.

A conversation is a thread: its id is the thread's, and a channel may stand in place of it, as in the
field `conversation` of a request. What was said stays as it was said; only what waits is taken back.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from turnkeep.auth import acts
from turnkeep.auth.audit_trail import channel_digest
from turnkeep.auth.principals import Scope
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall, audit
from turnkeep.doors.http.openai import turn_request
from turnkeep.doors.http.openai.conversation_items import ItemForm, items_of_conversation, items_of_turn, user_item_form
from turnkeep.doors.http.openai.conversation_key import AnswerName, thread_of
from turnkeep.doors.http.openai.cursor_list import list_response
from turnkeep.doors.http.openai.openai_input import id_from, read_past_content
from turnkeep.doors.http.openai.response_endpoints import messages_of
from turnkeep.doors.http.openai.sdk_retries import is_retry, is_written
from turnkeep.doors.http.openai.turn_reader import turn_of
from turnkeep.errors import InvalidMessage, MessageFrozen, NotAllowed, NotFound, NotOffered, ThreadNotFound
from turnkeep.inputs import checked_channel, read_metadata
from turnkeep.messages import AssistantItem, CallItem, Item, OutputItem, UserItem, turns_of
from turnkeep.pricing.tokenizer import tokenizer_for
from turnkeep.store.clearing import forget_at_work
from turnkeep.store.values import ThreadRecord, TranscriptEntry

MOST_ITEMS = 20
STAYS = "what was said stays as it was said, it may be answered already: say what is meant in a new item"


async def begin_conversation(call: HttpCall) -> Response:
    body = await call.body(empty=True)
    metadata, items = read_metadata(body.get("metadata") or {}), _read_items(call, body.get("items") or [])
    record = await turn_request.new_thread(call, metadata=metadata)
    await _append(call, record, items)
    return JsonResponse(_form(record))


async def show_conversation(call: HttpCall) -> Response:
    return JsonResponse(_form(await _conversation(call, "read")))


async def change_conversation(call: HttpCall) -> Response:
    record = await _conversation(call, "send", "read")
    changes = {"metadata": read_metadata((await call.body()).get("metadata") or {})}
    return JsonResponse(_form(await call.application.store.update(record.address, changes, once=call.once)))


async def delete_conversation(call: HttpCall) -> Response:
    """Forget it, with all that was said in it."""
    record = await _conversation(call, "manage")
    await forget_at_work(call.application.store, record.address, once=call.once)
    await audit(call, "channel_forgotten", channel=channel_digest(record.address.channel), force=True)
    return JsonResponse({"id": call.path("conversation_id"), "object": "conversation.deleted", "deleted": True})


def _form(record: ThreadRecord) -> dict[str, Any]:
    return {
        "id": record.thread_id, "object": "conversation", "created_at": int(record.created_at),
        "metadata": dict(record.metadata),
    }  # fmt: skip


async def _conversation(call: HttpCall, *scopes: Scope) -> ThreadRecord:
    name = checked_channel(call.path("conversation_id"))
    address = call.application.address(name, call.principal.tenant)
    if address.names_thread:
        return await thread_of(call, name, *scopes)
    for scope in scopes:
        call.principal.require(scope, address.channel)
    record = await call.application.store.thread(address)
    if record is None:
        raise ThreadNotFound(f"No conversation found with id '{name[:80]}'.")
    return record


# ---------------------------------------------------------------- items


async def list_conversation_items(call: HttpCall) -> Response:
    return list_response(call, await items_of_conversation(call, await _conversation(call, "read")))


async def show_conversation_item(call: HttpCall) -> Response:
    item_id = call.path("item_id")
    for form in await items_of_conversation(call, await _conversation(call, "read")):
        if form["id"] == item_id:
            return JsonResponse(form)
    raise NotFound(f"No item found with id '{item_id[:80]}'.")


async def add_conversation_items(call: HttpCall) -> Response:
    """Put them behind what was said; nothing is answered. Raises `ThreadBusy` while a turn goes on."""
    record = await _conversation(call, "send", "read")
    items = _read_items(call, (await call.body()).get("items"))
    if not items:
        raise InvalidMessage("'items' must be a list of at least one item")
    call.limits.check_rate(call.principal, record.address)
    known_ids = {form["id"] for form in await items_of_conversation(call, record)}
    # a client whose reply was lost sends the same once more, and names no request
    if is_retry(call) and await _is_newest(call, record, items):
        forms = await items_of_conversation(call, record)
        return list_response(call, forms[-len(items) :], is_whole=True)
    await _append(call, record, items)
    forms = await items_of_conversation(call, record)
    new = [form for form in forms if form["id"] not in known_ids]
    return list_response(call, new or _forms_of(items, forms), is_whole=True)


def _forms_of(items: Sequence[Item], forms: Sequence[ItemForm]) -> Sequence[ItemForm]:
    """Of items that a repeat finds written: from the first of a user on, whose id their call gave it."""
    ids = {item.message_id for item in items if isinstance(item, UserItem)}
    start = next((place for place, form in enumerate(forms) if form["id"] in ids), None)
    if start is None:
        return forms[-len(items) :]
    before = next(place for place, item in enumerate(items) if isinstance(item, UserItem))
    return forms[max(0, start - before) :][: len(items)]


async def _is_newest(call: HttpCall, record: ThreadRecord, items: Sequence[Item]) -> bool:
    entries = (await call.application.store.history(record.address)).entries[-len(items) :]
    return [_words_of(entry.item) for entry in entries] == [_words_of(item) for item in items]


def _words_of(item: Item) -> tuple[str, object]:
    match item:
        case UserItem():
            return item.kind, item.content
        case AssistantItem():
            return item.kind, item.text
        case CallItem() | OutputItem():
            return item.kind, item.call_id
    return item.kind, None


async def delete_conversation_item(call: HttpCall) -> Response:
    """Take back a message that waits. Raises `NotOffered` for what was answered."""
    record, item_id = await _conversation(call, "send", "read"), call.path("item_id")
    message = await call.application.store.message(record.address, item_id)
    if message is None or message.status not in ("waiting", "delayed"):
        if all(form["id"] != item_id for form in await items_of_conversation(call, record)):
            raise NotFound(f"No item found with id '{item_id[:80]}'.")
        raise NotOffered(STAYS)
    await acts.own_message(call.application, call.principal, record.address, item_id)
    try:
        await call.application.store.withdraw(record.address, item_id, once=call.once)
    except MessageFrozen:
        raise NotOffered(STAYS) from None
    return JsonResponse(_form(record))


def _read_items(call: HttpCall, value: object) -> list[Item]:
    if not isinstance(value, list) or len(value) > MOST_ITEMS:
        raise InvalidMessage(f"'items' must be a list of at most {MOST_ITEMS} items")
    messages = messages_of(value) if value else []
    return [item for number, message in enumerate(messages) for item in _past_items(call, message, number)]


def _past_items(call: HttpCall, message: Mapping[str, Any], number: int) -> list[Item]:
    role = message["role"]
    if role == "user":
        content = read_past_content(call, message.get("content"))
        # Nothing that a repeat would say otherwise: the entry has the time.
        name = call.once_for(number)
        return [UserItem(content, f"msg_{secrets.token_hex(12)}" if name is None else id_from(name))]
    if role in ("system", "developer"):
        raise NotOffered(
            f"a message of the role {role!r} is not kept: give instructions with a request, or the assistant"
        )
    if "manage" not in call.principal.rights:
        raise NotAllowed("to speak as the assistant needs the scope 'manage'")
    return turn_request.past_items(call, message)


async def _append(call: HttpCall, record: ThreadRecord, items: Sequence[Item]) -> None:
    count = tokenizer_for(call.application.model_name, call.application.catalog).count_item
    for item in items:
        if call.once is not None and isinstance(item, UserItem) and item.message_id is not None:
            await is_written(call, record.address, item.message_id, item.content)  # refused, if it says something else
    for number, turn in enumerate(turns_of(items)):
        entries = [TranscriptEntry(item, count(item)) for item in turn]
        await call.application.store.append(record.address, entries, once=call.once_for(number))


# ---------------------------------------------------------------- what a response was asked


async def list_input_items(call: HttpCall) -> Response:
    """What the turn of a response was asked, all messages of a burst; behind outputs of the caller's
    functions these.
    """
    name = AnswerName.read(call.path("response_id"))
    record = await thread_of(call, name.thread_id, "read")
    message = await call.application.store.message(record.address, name.message_id)
    if message is None:
        raise NotFound(f"there is no response {name.id('resp')!r}")
    if message.message is not None:
        waiting = await call.application.store.open_messages(record.address)
        batch = [
            one for one in waiting if one.message_id == name.message_id or one.run_id == message.run_id is not None
        ]
        return list_response(
            call, [user_item_form(one.message_id, one.message.content) for one in batch if one.message]
        )
    if message.status in ("dead", "withdrawn"):
        return list_response(call, [])
    forms = await items_of_turn(call, record, await turn_of(call, record.address, name.message_id))
    return list_response(call, _input_of(forms, name.segment))


def _input_of(forms: Sequence[ItemForm], segment: int) -> list[ItemForm]:
    if segment == 0:
        return [form for form in forms if form.get("role") == "user"]
    outputs: list[list[ItemForm]] = []
    is_round = False
    for form in forms:
        if form["type"] == "function_call_output":
            if not is_round:
                outputs.append([])
            outputs[-1].append(form)
        is_round = form["type"] == "function_call_output"
    return outputs[segment - 1] if segment <= len(outputs) else []
