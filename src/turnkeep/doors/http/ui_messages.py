"""Transcripts as messages of Vercel's AI SDK: what a page begins with, equal to what it would have
been streamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnkeep.doors.http.past_turns import TranscriptTurn
from turnkeep.doors.http.vercel_chunks import NO_OUTPUT, Level, value_of
from turnkeep.events import CallDetail, Event, FileDetail, ResultDetail, StepDetail
from turnkeep.messages import Citation, Content, Message, Part
from turnkeep.runs.journal import SEPARATOR

UiMessage = dict[str, Any]


def ui_messages(turns: Sequence[TranscriptTurn], waiting: Sequence[Message], level: Level) -> list[UiMessage]:
    """Turns, then what waits for an answer."""
    messages: list[UiMessage] = []
    for turn in turns:
        ids = [user.message_id for user in turn.users if user.message_id]
        messages += [
            _user(user.message_id or f"{turn.run_id}-{place}", user.content) for place, user in enumerate(turn.users)
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


class _Parts:
    """The parts of one answer."""

    def __init__(self, level: Level) -> None:
        self._level = level
        self._parts: list[dict[str, Any]] = []
        self._tools: dict[str, dict[str, Any]] = {}
        self._in_step = False
        self._ends_step = False
        self._at_step_start = True
        self._has_text = False

    def of(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        for event in events:
            self._add(event)
        return self._parts

    def _add(self, event: Event) -> None:
        match event.kind, event.detail:
            case "delta", _:
                self._begin()
                # what stands between the texts of two steps: here each has a part of its own
                is_between = self._at_step_start and self._has_text
                self._at_step_start, self._has_text = False, True
                self._join("text", event.text.removeprefix(SEPARATOR) if is_between else event.text)
            case "reasoning", _:
                self._begin()
                self._join("reasoning", event.text)
            case _, CallDetail() as call:
                self._begin()
                self._call(call)
            case _, ResultDetail() as result:
                self._result(result)
            case _, Citation() as source:
                self._begin()
                self._source(source)
            case _, FileDetail(url, media_type):
                self._begin()
                self._parts.append({"type": "file", "mediaType": media_type, "url": url})
            case _, StepDetail():
                self._ends_step = True

    def _begin(self) -> None:
        if not self._in_step or self._ends_step:
            self._in_step, self._ends_step, self._at_step_start = True, False, True
            self._parts.append({"type": "step-start"})

    def _join(self, kind: str, text: str) -> None:
        if self._parts[-1]["type"] == kind:
            self._parts[-1]["text"] += text
        elif text:
            self._parts.append({"type": kind, "text": text, "state": "done"})

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
            text = result.output or NO_OUTPUT.get(result.status, "The call failed.")
            part |= {"state": "output-error", "errorText": text}

    def _source(self, source: Citation) -> None:
        source_id = f"source-{len(self._parts)}"
        if source.url:
            self._parts.append({"type": "source-url", "sourceId": source_id, "url": source.url, "title": source.title})
        else:
            kind, title = "application/octet-stream", source.title or source.file_id
            self._parts.append({"type": "source-document", "sourceId": source_id, "mediaType": kind, "title": title})
