"""Transcripts as messages of Vercel's AI SDK: what a page begins with, equal to what it would have
been streamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnkeep.doors.http.past_turns import TranscriptTurn
from turnkeep.doors.http.turn_encoder import TurnVisitor, failure_text, value_of
from turnkeep.doors.http.vercel_chunks import Level
from turnkeep.events import CallDetail, Event, FileDetail, ResultDetail
from turnkeep.messages import Citation, Content, Message, Part

UiMessage = dict[str, Any]


def ui_messages(turns: Sequence[TranscriptTurn], waiting: Sequence[Message], level: Level) -> list[UiMessage]:
    """Turns, then what waits for an answer."""
    messages: list[UiMessage] = []
    for turn in turns:
        ids = [user.message_id for user in turn.users if user.message_id]
        messages += [
            _user(user.message_id or f"{turn.run_id}-{index}", user.content) for index, user in enumerate(turn.users)
        ]
        if parts := _Parts(level).of(turn.answer):
            metadata = {"run_id": turn.run_id, "covers": ids}
            messages.append({"id": turn.run_id, "role": "assistant", "parts": parts, "metadata": metadata})
    return messages + [_user(message.message_id, message.content) for message in waiting]


def _user(message_id: str, content: Content) -> UiMessage:
    return {"id": message_id, "role": "user", "parts": [_user_part(part) for part in content]}


def _user_part(part: Part) -> dict[str, Any]:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    data = part.data or {}
    url = next((data[name] for name in ("image_url", "file_url", "file_data", "file_id") if name in data), "")
    kind = "image/*" if part.type == "image" else "application/octet-stream"
    if url.startswith("data:"):
        kind = url[5:].partition(";")[0].partition(",")[0] or kind
    name = {"filename": data["filename"]} if "filename" in data else {}
    return {"type": "file", "mediaType": kind, "url": url, **name}


class _Parts(TurnVisitor):
    """The parts of one answer."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self._level = level
        self._parts: list[dict[str, Any]] = []
        self._tools: dict[str, dict[str, Any]] = {}

    def of(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        for event in events:
            self.visit(event)
        return self._parts

    def _begin_step(self) -> None:
        self._parts.append({"type": "step-start"})

    def _open_text(self) -> None:
        self._parts.append({"type": "text", "text": "", "state": "done"})

    def _tell_text(self, text: str) -> None:
        self._parts[-1]["text"] += text

    def _open_thought(self) -> None:
        self._parts.append({"type": "reasoning", "text": "", "state": "done"})

    def _tell_thought(self, text: str) -> None:
        self._tell_text(text)

    def _call(self, call: CallDetail) -> None:
        part = {
            "type": "dynamic-tool",
            "toolName": call.name,
            "toolCallId": call.call_id,
            "state": "input-available",
            "input": {} if call.arguments is None else value_of(call.arguments),
            "providerExecuted": True,
        }
        self._tools[call.call_id] = part
        self._parts.append(part)

    def _result(self, result: ResultDetail) -> None:
        part = self._tools.get(result.call_id)
        if part is None:
            return
        if result.status == "ok":
            output = None if result.output is None else value_of(result.output)
            part |= {"state": "output-available", "output": output}
        elif result.status == "denied" and self._level >= 6:
            part |= {"state": "output-denied", "approval": {"id": result.call_id, "approved": False}}
        else:
            part |= {"state": "output-error", "errorText": failure_text(result)}

    def _source(self, source: Citation) -> None:
        source_id = f"source-{len(self._parts)}"
        if source.url:
            self._parts.append({"type": "source-url", "sourceId": source_id, "url": source.url, "title": source.title})
        else:
            kind, title = "application/octet-stream", source.title or source.file_id
            self._parts.append({"type": "source-document", "sourceId": source_id, "mediaType": kind, "title": title})

    def _file(self, file: FileDetail) -> None:
        self._parts.append({"type": "file", "mediaType": file.media_type, "url": file.url})
