"""A turn of the transcript cut where the caller's own functions were called: each piece was one
answer to him.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai.openai_input import seen_calls
from turnkeep.doors.http.openai.turn_reader import (
    OPEN_STATES,
    OutputsWanted,
    TextGrowth,
    TurnPart,
    outline_of,
    text_of,
    turn_of,
)
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import CallItem, UserItem
from turnkeep.store.values import HeldCall, MessageRecord, ThreadRecord, TranscriptEntry


@dataclass(frozen=True, slots=True)
class TurnSegment:
    """What was said, and the calls that ended it."""

    text: str
    calls: tuple[HeldCall, ...] = ()

    async def parts(self) -> AsyncIterator[TurnPart]:
        """The same as a reader tells it who is there while it is said."""
        if self.text:
            yield TextGrowth(self.text)
        yield OutputsWanted(self.calls)


async def client_names(call: HttpCall, record: ThreadRecord, entries: Sequence[TranscriptEntry]) -> set[str]:
    """The functions that the caller of this turn ran himself: its messages' and its assistant's."""
    users = [entry.item for entry in entries if isinstance(entry.item, UserItem)]
    choices = [item.assistant for item in users if item.assistant]
    assistant = await call.application.assistants.answering(
        record.address.tenant, choices[-1] if choices else record.assistant
    )
    return {tool["name"] for tool in (*assistant.client_tools, *(tool for item in users for tool in item.client_tools))}


async def segments_of(
    call: HttpCall, record: ThreadRecord, entries: Sequence[TranscriptEntry]
) -> Sequence[TurnSegment]:
    """At least one, the last without calls."""
    names = await client_names(call, record, entries)
    segments: list[TurnSegment] = []
    piece: list[TranscriptEntry] = []
    calls: list[HeldCall] = []
    for entry in entries:
        item = entry.item
        if isinstance(item, CallItem) and item.name in names:
            calls.append(HeldCall(item.call_id, item.name, item.arguments, "", "output", show=item.show))
        elif calls and item.kind in ("assistant", "reasoning", "user"):
            segments.append(TurnSegment(text_of(piece), seen_calls(call, calls)))
            piece, calls = [], []
        piece.append(entry)
    if calls:
        segments.append(TurnSegment(text_of(piece), seen_calls(call, calls)))
        piece = []
    return [*segments, TurnSegment(text_of(piece))]


async def past_segment(call: HttpCall, record: ThreadRecord, message: MessageRecord, number: int) -> TurnSegment | None:
    """The answer of this number, if calls of the caller's functions have ended it."""
    if message.status == "running":
        outline = await outline_of(call, record.address, message.message_id)
        if number < len(outline.holds):
            return TurnSegment(outline.text_before(number), seen_calls(call, outline.rounds[number]))
    elif message.status not in (*OPEN_STATES, "dead", "withdrawn"):
        segments = await segments_of(call, record, await turn_of(call, record.address, message.message_id))
        if number < len(segments) - 1:
            return segments[number]
    return None
