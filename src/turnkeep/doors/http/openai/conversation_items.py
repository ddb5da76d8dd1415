"""A transcript as items of OpenAI's conversations: messages, shown thoughts, and calls of the caller's
own functions with their outputs. Tools of the house run unseen.

Nothing is kept beside it: an item that has no id of its own gets one that says where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai.openai_input import seen_calls
from turnkeep.doors.http.openai.response_object import call_item, message_item, reasoning_item
from turnkeep.doors.http.openai.thread_objects import said_id
from turnkeep.doors.http.openai.turn_reader import texts_of
from turnkeep.doors.http.openai.turn_segments import client_names
from turnkeep.messages import AssistantItem, CallItem, Content, OutputItem, Part, ReasoningItem, UserItem
from turnkeep.store.values import HeldCall, ThreadRecord, TranscriptEntry

ItemForm = dict[str, Any]


async def items_of_conversation(call: HttpCall, record: ThreadRecord) -> list[ItemForm]:
    """All of them, oldest first, and what waits for its turn."""
    store = call.application.store
    history = await store.history(record.address)
    items: list[ItemForm] = []
    for _, turn in groupby(history.entries, key=lambda entry: entry.turn):
        items += await items_of_turn(call, record, list(turn))
    for one in await store.open_messages(record.address):
        if one.message is not None and one.message.content:
            items.append(user_item_form(one.message_id, one.message.content))
    return items


async def items_of_turn(call: HttpCall, record: ThreadRecord, entries: Sequence[TranscriptEntry]) -> Sequence[ItemForm]:
    """In their order; the steps of an answer that follow each other are one message."""
    names = await client_names(call, record, entries)
    ids = [entry.item.message_id or "" for entry in entries if isinstance(entry.item, UserItem)]
    texts = iter(texts_of(entries))
    own_calls: dict[str, CallItem] = {}
    forms: list[ItemForm] = []
    continues = False
    for index, entry in enumerate(entries):
        match entry.item:
            case UserItem() as item if item.content:
                message_id = item.message_id or said_id(ids, entry.turn, -1 - index)
                forms.append(user_item_form(message_id, item.content))
            case ReasoningItem(is_public=True) as item if item.text:
                thought_id = said_id(ids, entry.turn, -1 - index).replace("msg_", "rs_")
                forms.append(reasoning_item(thought_id, item.text))
            case AssistantItem() as item if item.text and not continues:
                start, text = next(texts)
                status = "incomplete" if item.interrupted else "completed"
                forms.append(message_item(said_id(ids, entries[-1].turn, start), text, status))
                continues = True
            case CallItem() as item if item.name in names:
                own_calls[item.call_id] = item
                function_call = HeldCall(item.call_id, item.name, item.arguments, "", "output", show=item.show)
                forms += map(call_item, seen_calls(call, [function_call]))
            case OutputItem() as item if item.call_id in own_calls:
                forms.append(_output_form(call, own_calls[item.call_id], item))
        continues = continues and entry.item.kind not in ("call", "output", "user")
    return forms


def _output_form(call: HttpCall, own_call: CallItem, item: OutputItem) -> ItemForm:
    shows = call.principal.sees_calls or own_call.show == "all"
    return {
        "id": f"fco_{item.call_id}", "type": "function_call_output", "call_id": item.call_id,
        "output": item.output if shows else "", "status": "completed",
    }  # fmt: skip


def user_item_form(message_id: str, content: Content) -> ItemForm:
    return {
        "id": message_id, "type": "message", "role": "user", "status": "completed",
        "content": [_part_form(part) for part in content],
    }  # fmt: skip


def _part_form(part: Part) -> dict[str, Any]:
    if part.type == "text":
        return {"type": "input_text", "text": part.text}
    data: Mapping[str, Any] = part.data or {}
    detail = {"detail": data.get("detail", "auto")} if part.type == "image" else {}
    return {"type": f"input_{part.type}", **data, **detail}
