"""A run as the Assistants API streams it: each step of the answer is a message of its own.

A message that an attempt has left half said, and that the next one says otherwise, ends as
incomplete and is begun anew under its id: the last form of each id is what the transcript holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from turnkeep.doors.http.openai import run_objects as objects
from turnkeep.doors.http.openai.run_objects import RunState
from turnkeep.doors.http.openai.shown_text import ShownText
from turnkeep.doors.http.openai.thread_objects import answer_form, said_id
from turnkeep.doors.http.openai.turn_reader import (
    Beginning,
    OutputsWanted,
    Replacement,
    StepBeginning,
    TextGrowth,
    TurnEnd,
    TurnFailure,
    TurnPart,
)
from turnkeep.runs.journal import SEPARATOR

RunFrame = tuple[str, dict[str, Any]]
FAILURES = {"withdrawn": "cancelled"}


class RunEvents:
    """Encodes one stream, which begins with `first`. `base`: characters of the turn that an earlier stream
    has shown.
    """

    def __init__(
        self, state: RunState, *, first: Iterable[RunFrame] = (), base: int = 0, continues: bool = False
    ) -> None:
        self._state = state
        self._first = first
        self._base = base
        self._continues = continues
        self._has_begun = False
        self._anchor: tuple[str, ...] = (state.run_id,)
        self._texts: list[str] = []
        """The texts of messages that are complete."""
        self._current = ShownText()
        self._message_id: str | None = None
        """Of the message that is open."""
        self._is_new_step = True
        self.is_over = False

    def begin(self) -> Iterable[RunFrame]:
        queue = self._state.form("queued")
        return [
            *self._first,
            *([] if self._continues else [("thread.run.created", queue)]),
            ("thread.run.queued", queue),
        ]

    def encode(self, part: TurnPart) -> Iterable[RunFrame]:
        match part:
            case Beginning():
                return self._begin_attempt(part)
            case StepBeginning():
                return self._begin_step()
            case TextGrowth(text):
                return self._grow(text)
            case Replacement(text):
                return self._replace(text)
            case OutputsWanted():
                return [*self._end_message("completed"), *self._want_outputs(part)]
            case TurnEnd():
                return self._end(part)
            case TurnFailure():
                return self._fail(part)
        return ()

    def _begin_attempt(self, part: Beginning) -> list[RunFrame]:
        self._anchor = part.covers
        self._is_new_step = True
        frames = self._show(self._current.become("")) if self._message_id else []
        if self._has_begun:
            return frames
        self._has_begun = True
        return [("thread.run.in_progress", self._state.form("in_progress"))]

    def _begin_step(self) -> list[RunFrame]:
        """What was said before belongs to an earlier step, unless this is the same one once more."""
        frames = [] if self._is_new_step else self._end_message("completed")
        self._is_new_step = False
        return frames

    def _grow(self, text: str) -> list[RunFrame]:
        self._is_new_step = False
        if self._texts and not self._current.text and self._message_id is None:
            text = text.removeprefix(SEPARATOR)
        return self._show(self._current.grow(text)) if text else []

    def _replace(self, whole: str) -> list[RunFrame]:
        """All that finished steps have said: what a further attempt begins with."""
        before = SEPARATOR.join(self._texts)
        rest = whole[len(before) :].removeprefix(SEPARATOR) if whole.startswith(before) else whole
        self._is_new_step = not rest
        return self._show(self._current.become(rest))

    def _show(self, text: str | None) -> list[RunFrame]:
        if text is None:
            return [*self._end_message("incomplete"), *self._show(self._current.begin_anew())]
        if not text:
            return []
        frames = [] if self._message_id else self._begin_message()
        content = [{"index": 0, "type": "text", "text": {"value": text, "annotations": []}}]
        delta = {"id": self._message_id, "object": "thread.message.delta", "delta": {"content": content}}
        return [*frames, ("thread.message.delta", delta)]

    def _begin_message(self) -> list[RunFrame]:
        place = self._base + sum(len(text) + len(SEPARATOR) for text in self._texts)
        self._message_id = said_id(self._anchor, 0, place)
        step = objects.step_of_message(self._state, self._message_id, status="in_progress")
        message = self._message("in_progress", "")
        return [
            ("thread.run.step.created", step),
            ("thread.run.step.in_progress", step),
            ("thread.message.created", message),
            ("thread.message.in_progress", message),
        ]

    def _end_message(self, status: str) -> list[RunFrame]:
        if self._message_id is None:
            return []
        text, step_status = self._current.text, "completed" if status == "completed" else "cancelled"
        frames = [
            (f"thread.message.{status}", self._message(status, text)),
            (f"thread.run.step.{step_status}",
             objects.step_of_message(self._state, self._message_id, status=step_status)),
        ]  # fmt: skip
        self._message_id = None
        if status == "completed":
            self._texts.append(text)
            self._current = ShownText()
        return frames

    def _message(self, status: str, text: str) -> dict[str, Any]:
        state = self._state
        at = float(state.form(self._state.status)["created_at"])
        form = answer_form(state.thread.thread_id, self._message_id or "", text, at, status=status)
        return form | {"run_id": state.run_id, "assistant_id": state.assistant.assistant_id}

    def _want_outputs(self, part: OutputsWanted) -> list[RunFrame]:
        self.is_over = True
        step = objects.step_of_calls(self._state, part.calls, {}, status="in_progress")
        deltas = [{"index": index, **objects.call_form(one, shows_output=True)} for index, one in enumerate(part.calls)]
        details = {"step_details": {"type": "tool_calls", "tool_calls": deltas}}
        action = objects.action_form(part.calls)
        start = {**step, "step_details": {"type": "tool_calls", "tool_calls": []}}
        return [
            ("thread.run.step.created", start),
            ("thread.run.step.in_progress", start),
            ("thread.run.step.delta", {"id": step["id"], "object": "thread.run.step.delta", "delta": details}),
            ("thread.run.requires_action", self._state.form("requires_action") | {"required_action": action}),
        ]

    def _end(self, end: TurnEnd) -> list[RunFrame]:
        self.is_over = True
        status = end.outcome if end.outcome in ("incomplete", "cancelled") else "completed"
        before = SEPARATOR.join(self._texts)
        text = end.text[len(before) :].removeprefix(SEPARATOR) if end.text.startswith(before) else end.text
        frames = self._show(self._current.end(text)) if text else []
        frames += self._end_message("completed" if status == "completed" else "incomplete")
        run = self._state.form(status) | {"usage": objects.usage_form(end.usage)}
        return [*frames, (f"thread.run.{status}", run)]

    def _fail(self, part: TurnFailure) -> list[RunFrame]:
        self.is_over = True
        status = FAILURES.get(part.fault.code, "failed")
        error = {"code": "server_error", "message": part.fault.message} if status == "failed" else None
        frames = self._end_message("incomplete")
        return [*frames, (f"thread.run.{status}", self._state.form(status) | {"last_error": error})]
