"""A turn as the Responses dialect streams it.

`sequence_number` is the same for the same event whenever and however often the turn is read: each
event has one, and each character of a text, so that the number of a delta is that of its last
character; and each item has a range of its own, so that thoughts, which are kept for less long, move
no number of the answer. Who comes back with `starting_after` gets the rest to the character, whatever
the log has merged meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from turnkeep.clock import Clock
from turnkeep.doors.http.openai import response_object as form
from turnkeep.doors.http.openai.response_object import ResponseHead, response
from turnkeep.doors.http.openai.shown_text import ShownText
from turnkeep.doors.http.openai.turn_reader import (
    Beginning,
    OutputsWanted,
    Replacement,
    TextGrowth,
    ThoughtGrowth,
    TurnEnd,
    TurnFailure,
    TurnPart,
)
from turnkeep.store.values import HeldCall

RANGE = 1 << 32
"""Numbers of one item of the answer; clients of JavaScript count to 2^53."""
FINAL_EVENTS = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.completed",
}


class ResponseEvents:
    """Encodes one stream. `after`: up to which number the client has it."""

    def __init__(self, head: ResponseHead, clock: Clock, *, after: int | None = None) -> None:
        self._head = head
        self._clock = clock
        self._after = -1 if after is None else after
        self._next = 0
        self._text = ShownText()
        self._thoughts = ShownText()
        self._thought_id: str | None = None
        """Of the reasoning item that is open."""
        self._thought_start = 0
        self._thought_count = 0
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

    def encode(self, part: TurnPart) -> Iterable[dict[str, Any]]:
        match part:
            case Beginning():
                self._thoughts.become("")
                return self._new(self._show(self._text.become("")))
            case TextGrowth(text):
                return self._new(self._show(self._text.grow(text)))
            case ThoughtGrowth(text):
                return self._new(self._think(text))
            case Replacement(text):
                return self._new(self._show(self._text.become(text)))
            case OutputsWanted(calls):
                ends = [self._end_thought(), self._end_item()]
                return self._new(*ends, *map(self._call, calls), self._finish_calls())
            case TurnEnd():
                return self._new(self._show(self._text.end(part.text)), self._end(part))
            case TurnFailure():
                self.is_over = True
                self._begin_range()
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
        if event["type"].endswith("_text.delta") and missing < len(event["delta"]):
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

    def _think(self, text: str) -> list[dict[str, Any]]:
        """A reasoning item before the answer; what is thought between two steps of it is left out."""
        addition = self._thoughts.grow_on(text)
        if not addition or self._is_open or self._next >= RANGE:
            return []
        events = []
        if self._thought_id is None:
            self._thought_id = form.thought_item_id(self._head.name, self._thought_count)
            self._thought_start = len(self._thoughts.text) - len(addition)
            item = form.reasoning_item(self._thought_id, "", "in_progress")
            events = [
                self._event("response.output_item.added", output_index=self._index, item=item),
                self._event(
                    "response.reasoning_summary_part.added", part=form.summary_part(""), **self._thought_location
                ),
            ]
        kind = "response.reasoning_summary_text.delta"
        return [*events, self._event(kind, size=len(addition), delta=addition, **self._thought_location)]

    def _end_thought(self) -> list[dict[str, Any]]:
        if self._thought_id is None:
            return []
        text, location = self._thoughts.text[self._thought_start :], self._thought_location
        item = form.reasoning_item(self._thought_id, text, "completed")
        events = [
            self._event("response.reasoning_summary_text.done", text=text, **location),
            self._event("response.reasoning_summary_part.done", part=form.summary_part(text), **location),
            self._event("response.output_item.done", output_index=self._index, item=item),
        ]
        self._output.append(item)
        self._thought_id = None
        self._index, self._thought_count = self._index + 1, self._thought_count + 1
        return events

    @property
    def _thought_location(self) -> dict[str, Any]:
        return {"item_id": self._thought_id, "output_index": self._index, "summary_index": 0}

    def _begin_range(self) -> None:
        """The numbers of the next item, whatever came before."""
        self._next = max(self._next, RANGE * (self._number + 1))

    def _begin_item(self) -> list[dict[str, Any]]:
        ending = self._end_thought()
        self._begin_range()
        self._is_open = True
        item = {**form.message_item(self._item_id, "", "in_progress"), "content": []}
        return [
            *ending,
            self._event("response.output_item.added", output_index=self._index, item=item),
            self._event("response.content_part.added", part=form.text_part(""), **self._location),
        ]

    def _delta(self, text: str) -> dict[str, Any]:
        return self._event("response.output_text.delta", size=len(text), delta=text, logprobs=[], **self._location)

    def _end_item(self, status: str = "completed") -> list[dict[str, Any]]:
        if not self._is_open:
            return []
        text, location, item_id = self._text.text, self._location, self._item_id
        item = form.message_item(item_id, text, status)
        events = [
            self._event("response.output_text.done", text=text, logprobs=[], **location),
            self._event("response.content_part.done", part=form.text_part(text), **location),
            self._event("response.output_item.done", output_index=self._index, item=item),
        ]
        self._output.append(item)
        self._is_open = False
        self._index, self._number = self._index + 1, self._number + 1
        return events

    def _call(self, call: HeldCall) -> list[dict[str, Any]]:
        self._begin_range()
        item = form.call_item(call)
        start = form.call_item(call, status="in_progress", arguments="")
        location = {"item_id": item["id"], "output_index": self._index}
        self._output.append(item)
        self._index += 1
        arguments = "response.function_call_arguments"
        return [
            self._event("response.output_item.added", output_index=location["output_index"], item=start),
            self._event(f"{arguments}.delta", delta=call.arguments, **location),
            self._event(f"{arguments}.done", arguments=call.arguments, name=call.name, **location),
            self._event("response.output_item.done", output_index=location["output_index"], item=item),
        ]

    def _finish_calls(self) -> list[dict[str, Any]]:
        self.is_over = True
        self._begin_range()
        data = response(self._head, "completed", self._output, completed_at=self._clock.now())
        return [self._event("response.completed", response=data)]

    def _end(self, end: TurnEnd) -> list[dict[str, Any]]:
        self.is_over = True
        status = form.status_of_end(end)
        events = [*self._end_thought(), *self._end_item("completed" if status == "completed" else "incomplete")]
        self._begin_range()
        data = response(self._head, status, self._output, end=end, completed_at=self._clock.now())
        return [*events, self._event(FINAL_EVENTS[status], response=data)]

    @property
    def _item_id(self) -> str:
        return form.message_item_id(self._head.name, self._number)

    @property
    def _location(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": self._index, "content_index": 0}
