"""Transcripts as messages of AG-UI, and as a page of TanStack's client begins with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnkeep.doors.http.agui_events import AgUiMessage, RunEncoder
from turnkeep.doors.http.past_turns import TranscriptTurn
from turnkeep.events import Event
from turnkeep.messages import Content, Message, content_text

PageMessage = dict[str, Any]


def agui_messages(turns: Sequence[TranscriptTurn]) -> list[AgUiMessage]:
    """What `MESSAGES_SNAPSHOT` says of turns that are over."""
    messages: list[AgUiMessage] = []
    for turn in turns:
        for index, user in enumerate(turn.users):
            message_id = user.message_id or f"{turn.run_id}-user-{index}"
            messages.append({"id": message_id, "role": "user", "content": content_text(user.content)})
        messages += answer_messages(turn)
    return messages


def answer_messages(turn: TranscriptTurn) -> list[AgUiMessage]:
    """The messages that a client makes of the answer."""
    encoder = RunEncoder("", "")
    encoder.encode([Event("started", run_id=turn.run_id), *turn.answer])
    return encoder.messages


def page_messages(turns: Sequence[TranscriptTurn], waiting: Sequence[Message]) -> list[PageMessage]:
    """Turns, then what waits for an answer."""
    messages: list[PageMessage] = []
    for turn in turns:
        for index, user in enumerate(turn.users):
            messages.append(_user(user.message_id or f"{turn.run_id}-user-{index}", user.content))
        messages += _answer(answer_messages(turn))
    return messages + [_user(message.message_id, message.content) for message in waiting]


def _user(message_id: str, content: Content) -> PageMessage:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "content": content_text(content)}]}


def _answer(messages: Sequence[AgUiMessage]) -> list[PageMessage]:
    pages: list[PageMessage] = []
    parts_by_call: dict[str, list[dict[str, Any]]] = {}
    for message in messages:
        if message["role"] == "tool":
            content = message["content"]
            result = {
                "type": "tool-result",
                "toolCallId": message["toolCallId"],
                "content": content,
                "state": "complete",
            }
            parts_by_call.get(message["toolCallId"], []).append(result)
            continue
        parts: list[dict[str, Any]] = (
            [{"type": "text", "content": message["content"]}] if message.get("content") else []
        )
        for call in message.get("toolCalls", ()):
            function = call["function"]
            parts.append({"type": "tool-call", "id": call["id"], "state": "input-complete", **function})
            parts_by_call[call["id"]] = parts
        pages.append({"id": message["id"], "role": "assistant", "parts": parts})
    return pages
