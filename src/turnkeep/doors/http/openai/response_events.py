"""A turn as the Responses dialect streams it.

`sequence_number` is the same for the same event whenever and however often the turn is read: each
event has one, and each character of a text, so that the number of a delta is that of its last
character. Who comes back with `starting_after` gets the rest to the character, whatever the log has
merged meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from turnkeep.doors.http.openai import response_object as form
from turnkeep.doors.http.openai.response_object import ResponseHead, response
from turnkeep.doors.http.openai.shown_text import ShownText
from turnkeep.doors.http.openai.turn_reader import (
    Beginning,
    OutputsWanted,
    Replacement,
    TextGrowth,
    TurnEnd,
    TurnFailure,
    TurnPart,
)
from turnkeep.store.values import HeldCall

FINAL = {"completed": "response.completed", "incomplete": "response.incomplete", "cancelled": "response.completed"}


class ResponseEvents:
    """Encodes one stream. `after`: up to which number the client has it."""

    def __init__(self, head: ResponseHead, *, after: int | None = None) -> None:
        self._head = head
        self._after = -1 if after is None else after
        self._next = 0
        self._text = ShownText()
        self._index = 0
        self._number = 0
        """Of message items, those of attempts that were given up too."""
        self._is_open = False
        self._output: list[dict[str, Any]] = []
        self.is_over = False

    def begin(self) -> Iterable[dict[str, Any]]:
        queue = response(self._head, "queued" if self._head.background else "in_progress")
        return self._new(
            [self._event("response.created", response=queue)],
            [self._event("response.in_progress", response=response(self._head, "in_progress"))],
        )

    def encode(self, part: TurnPart, *, now: float) -> Iterable[dict[str, Any]]:
        match part:
            case Beginning():
                return self._new(self._show(self._text.become("")))
            case TextGrowth(text):
                return self._new(self._show(self._text.grow(text)))
            case Replacement(text):
                return self._new(self._show(self._text.become(text)))
            case OutputsWanted(calls):
                return self._new(self._end_item(), *map(self._call, calls), self._finish_calls(now))
            case TurnEnd():
                return self._new(self._show(self._text.end(part.text)), self._end(part, now))
            case TurnFailure():
                self.is_over = True
                data = response(self._head, "failed", self._output, fault=part.fault)
                return self._new([self._event("response.failed", response=data)])
        return ()

    def _new(self, *groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the client does not have yet."""
        return [rest for group in groups for event in group if (rest := self._beyond(event)) is not None]

    def _beyond(self, event: dict[str, Any]) -> dict[str, Any] | None:
        missing = event["sequence_number"] - self._after
        if missing <= 0:
            return None
        if event["type"] == "response.output_text.delta" and missing < len(event["delta"]):
            return {**event, "delta": event["delta"][-missing:]}
        return event

    def _event(self, kind: str, *, size: int = 1, **fields: Any) -> dict[str, Any]:
        self._next += size
        return {"type": kind, "sequence_number": self._next - 1, **fields}

    def _show(self, text: str | None) -> list[dict[str, Any]]:
        if text is None:  # the attempt that was shown is given up, and its item with it
            events = self._end_item(status="incomplete")
            self._output.pop()
            return [*events, *self._show(self._text.begin_anew())]
        if not text:
            return []
        return [*([] if self._is_open else self._begin_item()), self._delta(text)]

    def _begin_item(self) -> list[dict[str, Any]]:
        self._is_open = True
        item = {**form.message_item(self._item_id, "", "in_progress"), "content": []}
        return [
            self._event("response.output_item.added", output_index=self._index, item=item),
            self._event("response.content_part.added", part=form.text_part(""), **self._place),
        ]

    def _delta(self, text: str) -> dict[str, Any]:
        return self._event("response.output_text.delta", size=len(text), delta=text, logprobs=[], **self._place)

    def _end_item(self, status: str = "completed") -> list[dict[str, Any]]:
        if not self._is_open:
            return []
        text, place, item_id = self._text.text, self._place, self._item_id
        item = form.message_item(item_id, text, status)
        events = [
            self._event("response.output_text.done", text=text, logprobs=[], **place),
            self._event("response.content_part.done", part=form.text_part(text), **place),
            self._event("response.output_item.done", output_index=self._index, item=item),
        ]
        self._output.append(item)
        self._is_open = False
        self._index, self._number = self._index + 1, self._number + 1
        return events

    def _call(self, call: HeldCall) -> list[dict[str, Any]]:
        item = form.call_item(call)
        start = form.call_item(call, status="in_progress", arguments="")
        place = {"item_id": item["id"], "output_index": self._index}
        self._output.append(item)
        self._index += 1
        arguments = "response.function_call_arguments"
        return [
            self._event("response.output_item.added", output_index=place["output_index"], item=start),
            self._event(f"{arguments}.delta", delta=call.arguments, **place),
            self._event(f"{arguments}.done", arguments=call.arguments, name=call.name, **place),
            self._event("response.output_item.done", output_index=place["output_index"], item=item),
        ]

    def _finish_calls(self, now: float) -> list[dict[str, Any]]:
        self.is_over = True
        data = response(self._head, "completed", self._output, completed_at=now)
        return [self._event("response.completed", response=data)]

    def _end(self, end: TurnEnd, now: float) -> list[dict[str, Any]]:
        self.is_over = True
        status = form.status_of_end(end)
        events = self._end_item("completed" if status == "completed" else "incomplete")
        data = response(self._head, status, self._output, end=end, completed_at=now)
        return [*events, self._event(FINAL[status], response=data)]

    @property
    def _item_id(self) -> str:
        return form.message_item_id(self._head.name, self._number)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": self._index, "content_index": 0}
