"""Turns of the transcript as the events that showed them: what a dialect says again, and what a page
begins with. Only what people may see of a turn is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import cast

from turnkeep.application import Application
from turnkeep.events import CallDetail, Event, EventKind, Outcome, ResultDetail, StepDetail, picture_of
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, AssistantItem, CallItem, HostedItem, Item, OutputItem, ReasoningItem, UserItem
from turnkeep.runs.journal import SEPARATOR
from turnkeep.store.values import RunRecord

NEWEST = 400
"""Items of a transcript among which a turn is looked for."""


@dataclass(frozen=True, slots=True)
class TranscriptTurn:
    """A turn that is in the transcript. `answer` tells it as its log did, `completed` at its end."""

    users: tuple[UserItem, ...]
    run_id: str
    answer: tuple[Event, ...]
    at: float
    attempt: int = 1


async def past_turns(application: Application, address: Address, *, items: int = NEWEST) -> list[TranscriptTurn]:
    """The newest turns, oldest first."""
    store = application.store
    history = await store.history(address, items=items)
    runs = {message_id: run for run in await store.runs(address) for message_id in run.message_ids}
    turns = [list(entries) for _, entries in groupby(history.entries, key=attrgetter("turn"))]
    return [_past_turn(entries[0].turn, [one.item for one in entries], runs, entries[-1].at) for entries in turns]


async def past_turn(application: Application, address: Address, message_id: str) -> TranscriptTurn | None:
    """The turn that answered a message, where the transcript still has it."""
    turns = await past_turns(application, address)
    return next((turn for turn in reversed(turns) if any(one.message_id == message_id for one in turn.users)), None)


def _past_turn(number: int, items: Sequence[Item], runs: Mapping[str, RunRecord], at: float) -> TranscriptTurn:
    users = tuple(item for item in items if isinstance(item, UserItem))
    ids = tuple(item.message_id for item in users if item.message_id)
    run = next((runs[one] for one in ids if one in runs), None)
    run_id = run.run_id if run else f"turn_{number}"
    answer = _Telling(run_id).tell([item for item in items if not isinstance(item, UserItem)])
    text = "".join(event.text for event in answer if event.kind == "delta")
    outcome = run.status if run is not None and run.status in ("cancelled", "incomplete") else "completed"
    end = Event(
        "completed", ids, text=text, run_id=run_id, outcome=cast("Outcome", outcome), usage=run.usage if run else None
    )
    return TranscriptTurn(
        users, run_id, (*answer, end) if answer or run is not None else (), at, run.attempt if run else 1
    )


class _Telling:
    """The events of one turn from its items."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._length = 0
        self._step = 1
        self._calls: dict[str, CallItem] = {}
        self._is_asking = False
        self._has_text = False
        """The step has said something."""
        self._events: list[Event] = []

    def tell(self, items: Sequence[Item]) -> list[Event]:
        for item in items:
            # a step ends with its calls: what is said after them belongs to the next one
            if self._is_asking and not isinstance(item, CallItem):
                self._is_asking = False
                self._say("step", detail=StepDetail(self._step, "calls"))
                self._step, self._has_text = self._step + 1, False
            self._tell_item(item)
        return self._events

    def _tell_item(self, item: Item) -> None:
        match item:
            case AssistantItem():
                self._tell_text(item)
            case ReasoningItem(is_public=True) if item.text:
                self._say("reasoning", text=item.text)
            case CallItem():
                self._is_asking, self._calls[item.call_id] = True, item
                arguments = None if item.show == "name" else item.arguments
                self._say("tool_call", detail=CallDetail(item.call_id, item.name, arguments))
            case OutputItem():
                self._tell_output(item)
            case HostedItem():
                call_id = str(item.raw.get("id") or f"hosted_{self._step}_{self._length}")
                self._say("tool_call", detail=CallDetail(call_id, item.name, by_provider=True))
                self._say("tool_result", detail=ResultDetail(call_id, item.name))
                if (picture := picture_of(item)) is not None:
                    self._say("file", detail=picture)

    def _tell_text(self, item: AssistantItem) -> None:
        begin = self._length
        if item.text:
            lead = SEPARATOR if self._length and not self._has_text else ""
            self._has_text = True
            begin += len(lead)
            self._say("delta", text=lead + item.text)
            self._length += len(lead) + len(item.text)
        for one in item.citations:
            is_placed = one.end > one.start
            self._say("source", detail=replace(one, start=one.start + begin, end=one.end + begin) if is_placed else one)

    def _tell_output(self, item: OutputItem) -> None:
        call = self._calls.get(item.call_id)
        shown_output = item.output if call is not None and call.show == "all" else None
        name = call.name if call is not None else ""
        self._say("tool_result", detail=ResultDetail(item.call_id, name, item.status, shown_output))

    def _say(self, kind: EventKind, **about: object) -> None:
        self._events.append(Event(kind, run_id=self._run_id, place=self._length, **about))  # type: ignore[arg-type]
