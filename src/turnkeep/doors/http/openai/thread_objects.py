"""Threads and messages of the Assistants API, as the transcript has them.

Nothing is kept beside it: the ids of what the assistant said say where in which turn it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai.openai_input import id_from
from turnkeep.doors.http.openai.turn_reader import texts_of
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import AssistantItem, Content, Part, UserItem
from turnkeep.store.values import ThreadRecord, TranscriptEntry

RUN_PREFIX = "run_"
"""What the ids of runs of this API begin with. Such a run is a message without words: it asks for an
answer to what was said before, and what becomes of it is what becomes of that message.
"""


@dataclass(frozen=True, slots=True)
class ThreadMessage:
    """A message, and the runs of callers that its turn answers."""

    form: dict[str, Any]
    run_ids: tuple[str, ...] = ()


def thread_form(record: ThreadRecord) -> dict[str, Any]:
    return {
        "id": record.thread_id, "object": "thread", "created_at": int(record.created_at),
        "metadata": dict(record.metadata), "tool_resources": {},
    }  # fmt: skip


async def messages_of_thread(call: HttpCall, record: ThreadRecord) -> list[ThreadMessage]:
    """All of them, oldest first."""
    store = call.application.store
    history = await store.history(record.address)
    messages = [
        message
        for _, turn in groupby(history.entries, key=lambda entry: entry.turn)
        for message in messages_of_turn(record.thread_id, list(turn))
    ]
    for one in await store.open_messages(record.address):
        if one.message is not None and one.message.content:
            form = user_form(record.thread_id, one.message_id, one.message.content, one.message.arrival)
            messages.append(ThreadMessage(form | {"metadata": dict(one.message.metadata)}))
    return messages


def messages_of_turn(thread_id: str, entries: Sequence[TranscriptEntry]) -> list[ThreadMessage]:
    """What was said in a turn: users first, in their order, then each step of the answer."""
    users = [entry.item for entry in entries if isinstance(entry.item, UserItem)]
    ids = [item.message_id or "" for item in users]
    run_ids = tuple(one for one in ids if one.startswith(RUN_PREFIX))
    messages = []
    for entry in entries:
        item = entry.item
        if isinstance(item, UserItem) and item.content:
            form = user_form(thread_id, item.message_id or said_id(ids, entry.turn, -1), item.content, entry.at)
            messages.append(ThreadMessage(form | {"metadata": dict(item.metadata or {})}))
    assistant = next((item.assistant for item in reversed(users) if item.assistant), None)
    is_cut = any(isinstance(entry.item, AssistantItem) and entry.item.interrupted for entry in entries)
    texts = texts_of(entries)
    for number, (place, text) in enumerate(texts, 1):
        status = "incomplete" if is_cut and number == len(texts) else "completed"
        form = answer_form(thread_id, said_id(ids, entries[-1].turn, place), text, entries[-1].at, status=status)
        form |= {"run_id": run_ids[0] if run_ids else None, "assistant_id": assistant}
        messages.append(ThreadMessage(form, run_ids))
    return messages


def said_id(message_ids: Sequence[str], turn: int, place: int) -> str:
    """The id of what an answer says from this character on."""
    return id_from(next(iter(message_ids), f"turn {turn}"), str(place))


def user_form(thread_id: str, message_id: str, content: Content, at: float) -> dict[str, Any]:
    return _form(thread_id, message_id, "user", [_part(part) for part in content], at)


def answer_form(thread_id: str, message_id: str, text: str, at: float, *, status: str) -> dict[str, Any]:
    parts = [_part(Part("text", text))] if text else []
    form = _form(thread_id, message_id, "assistant", parts, at)
    ends = {"completed_at": int(at) if status == "completed" else None}
    if status == "incomplete":
        ends |= {"incomplete_at": int(at), "incomplete_details": {"reason": "run_cancelled"}}  # type: ignore[dict-item]
    return form | {"status": status} | ends


def _form(thread_id: str, message_id: str, role: str, content: list[dict[str, Any]], at: float) -> dict[str, Any]:
    return {
        "id": message_id, "object": "thread.message", "created_at": int(at), "thread_id": thread_id,
        "status": "completed", "incomplete_details": None, "completed_at": int(at), "incomplete_at": None,
        "role": role, "content": content, "assistant_id": None, "run_id": None, "attachments": [], "metadata": {},
    }  # fmt: skip


def _part(part: Part) -> dict[str, Any]:
    if part.type == "text":
        return {"type": "text", "text": {"value": part.text, "annotations": []}}
    data = part.data or {}
    if part.type == "image" and "image_url" in data:
        return {"type": "image_url", "image_url": {"url": data["image_url"], "detail": data.get("detail", "auto")}}
    if part.type == "image":
        return {"type": "image_file", "image_file": {"file_id": data.get("file_id", "")}}
    return {"type": "text", "text": {"value": f"[{data.get('filename') or 'file'}]", "annotations": []}}
