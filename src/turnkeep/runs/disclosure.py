"""What of a run people may see beside its text: calls and results as far as their tools allow,
thoughts where the assistant shows them, sources, files, and where each step ends.

A further attempt shows all finished steps again, from the journal (`replay`), so that whoever joins
late sees the whole turn. What a model call has shown before it failed is taken back by a `step`
without ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from turnkeep.assistants import Assistant
from turnkeep.events import CallDetail, Detail, Event, EventKind, ResultDetail, StepDetail, picture_of
from turnkeep.messages import AssistantItem, CallItem, HostedItem, Item, OutputItem, ReasoningItem, item_from_json
from turnkeep.runs.announcer import Announcer
from turnkeep.runs.journal import SEPARATOR, Step, join_texts
from turnkeep.store.values import Claim
from turnkeep.tools.toolbox import Toolbox
from turnkeep.usage import Usage

MOST_SHOWN = 16_384
"""Characters of arguments, and of an output, that are shown; the whole is in the transcript."""
MOST_THOUGHT = 262_144
"""Characters of the thoughts of one step that are shown: a log holds what is thought beside what is said."""
MOST_OF_A_FILE = 1_048_576
"""Characters of a file that goes into the log; a larger one is in the transcript alone."""
NO_SITE = "nowhere"
"""Whose the thought is that a stop has cut off: half of one is no provider's, who would miss his seal on it."""
PIECE, EVERY = 1_024, 0.25
"""Characters, and seconds, after which a piece of a thought is shown: thoughts are not read word by
word, and their pieces stay in the log for as long as the run goes on.
"""


@dataclass(slots=True)
class Disclosure:
    """Tells what one claim's work shows, in order, by its announcer."""

    announcer: Announcer
    claim: Claim
    toolbox: Toolbox
    assistant: Assistant
    _calls: dict[str, CallItem] = field(init=False, default_factory=dict)
    _pieces: list[str] = field(init=False, default_factory=list)
    _number: int = field(init=False, default=1)
    """Of the step that goes on."""
    _shown_thought: list[str] = field(init=False, default_factory=list)
    """What was shown of the thoughts of that step."""
    _thought_place: int = field(init=False, default=0)
    _thought_length: int = field(init=False, default=0)
    _shown_at: float = field(init=False, default=0.0)
    _has_loose_parts: bool = field(init=False, default=False)
    """Something was shown of that step."""
    _unsaid_end: Event | None = field(init=False, default=None)
    _replay_place: int | None = field(init=False, default=None)
    """Where in the answer stands what is shown again."""

    def public(self, step: Step) -> Step:
        """The step with what may be seen of its items written on them: tools may be others by the
        time somebody reads the transcript.
        """
        return replace(step, items=tuple(self._public(item) for item in step.items))

    def _public(self, item: Any) -> Any:
        if isinstance(item, CallItem) and (tool := self.toolbox.get(item.name)) is not None:
            return replace(item, show=tool.show)
        if isinstance(item, ReasoningItem):
            return replace(item, is_public=self.assistant.show_reasoning)
        return item

    # ------------------------------------------------------------ while a step goes on

    def think(self, text: str) -> None:
        """Some more of a thought."""
        if not self.assistant.show_reasoning or self._thought_length >= MOST_THOUGHT:
            return
        text = text[: MOST_THOUGHT - self._thought_length]
        if not self._pieces:
            self._thought_place = self._place
        self._pieces.append(text)
        self._thought_length += len(text)
        now = asyncio.get_running_loop().time()
        if now - self._shown_at >= EVERY or sum(map(len, self._pieces)) >= PIECE:
            self._shown_at = now
            self.end_thought()

    def end_thought(self) -> None:
        """Show what is left of a thought: what comes next is something else."""
        if self._pieces:
            text, self._pieces = "".join(self._pieces), []
            self._shown_thought.append(text)
            self._show("reasoning", text=text, place=self._thought_place)

    def item(self, item: Item, place: int) -> None:
        """A finished item of a step that goes on; `place` is where its text begins in the answer."""
        self.end_thought()
        if isinstance(item, HostedItem):
            self._show_hosted(item)
        elif isinstance(item, AssistantItem):
            for one in item.citations:
                citation = one if one.end <= one.start else replace(one, start=one.start + place, end=one.end + place)
                self._show("source", citation, place=self._place)

    def begin_again(self) -> None:
        """The model is asked anew: what the call before has shown beside its text does not count."""
        self._pieces, self._shown_thought, self._thought_length = [], [], 0
        if self._has_loose_parts:
            self._has_loose_parts = False
            self._say("step", StepDetail(self._number))

    def shown_thought(self, steps: int) -> ReasoningItem | None:
        """What was shown of the thoughts behind so many finished steps, as a transcript has it: people
        have read it, and no model is told of it.
        """
        text = "".join(self._shown_thought)
        is_of_next = text and self._number == steps + 1
        return ReasoningItem({"reasoning": text}, NO_SITE, is_public=True) if is_of_next else None

    def begin_step(self) -> None:
        """Another model call of this run: the one before was not its last."""
        self._thought_length = 0
        if self._unsaid_end is not None:
            self.announcer.say(self._unsaid_end)
            self._unsaid_end = None

    # ------------------------------------------------------------ what has ended

    def end_step(self, step: Step, number: int) -> None:
        """A model call that is in the journal: its calls, and its end. A turn of one step says none: its
        final event does.
        """
        self.end_thought()
        calls = [item for item in step.items if isinstance(item, CallItem)]
        for item in calls:
            self._show_call(item)
        detail = StepDetail(number, step.ending, step.model)
        end = self._event("step", detail, usage=step.usage, place=self._place)
        self._has_loose_parts, self._number, self._unsaid_end = False, number + 1, end
        self._shown_thought = []
        if calls or step.ending == "pause" or number > 1:
            self.begin_step()

    def result(self, output: OutputItem) -> None:
        """What became of a call, once it is in the journal."""
        call = self._calls.get(output.call_id)
        text, is_cut = _cut(output.output) if call is not None and call.show == "all" else (None, False)
        name = call.name if call is not None else ""
        self._say("tool_result", ResultDetail(output.call_id, name, output.status, text, is_cut))

    def replay(self) -> None:
        """Show the finished steps of earlier attempts again, beside their text, which stands already."""
        texts: list[str] = []
        for record in self.claim.journal:
            if record["type"] == "step":
                self._replay_step(record, before=join_texts(texts), number=len(texts) + 1)
                texts.append(record["text"])
            elif record["type"] == "output":
                self._replay_place = len(join_texts(texts))
                self.result(_output(record))
        self._replay_place = None

    def _replay_step(self, record: Mapping[str, Any], *, before: str, number: int) -> None:
        items: Sequence[Any] = [item_from_json(item) for item in record["items"]]
        text, lead = "", len(SEPARATOR) if before and record["text"] else 0
        for item in items:
            begin = len(before) + lead + len(text)
            text += item.text if isinstance(item, AssistantItem) else ""
            self._replay_place = len(before) + (lead + len(text) if text else 0)
            if isinstance(item, ReasoningItem) and item.text:
                self.think(item.text)
                self.end_thought()
            elif isinstance(item, HostedItem | AssistantItem):
                self.item(item, begin)
        self._replay_place = len(before) + (lead + len(record["text"]) if record["text"] else 0)
        step = Step(tuple(items), record["text"], Usage.from_json(record["usage"]), record["ending"], record["model"])
        self.end_step(step, number)
        self._thought_length = 0

    # ------------------------------------------------------------ events

    @property
    def _place(self) -> int:
        return len(self.announcer.text_so_far) if self._replay_place is None else self._replay_place

    def _show(self, kind: EventKind, detail: Detail | None = None, *, place: int, text: str = "") -> None:
        self._has_loose_parts = True
        self.announcer.say(self._event(kind, detail, text=text, place=place))

    def _say(self, kind: EventKind, detail: Detail) -> None:
        self.announcer.say(self._event(kind, detail, place=self._place))

    def _event(self, kind: EventKind, detail: Detail | None, **more: Any) -> Event:
        return Event(kind, run_id=self.claim.run_id, attempt=self.claim.attempt, detail=detail, **more)

    def _show_call(self, item: CallItem) -> None:
        self._calls[item.call_id] = item
        arguments, is_cut = (None, False) if item.show == "name" else _cut(item.arguments)
        self._say("tool_call", CallDetail(item.call_id, item.name, arguments, is_cut))

    def _show_hosted(self, item: HostedItem) -> None:
        """What ran at the provider: it belongs to nobody here, so the assistant says what is seen of it."""
        place = self._place
        call_id = str(item.raw.get("id") or f"hosted_{self._number}_{place}")
        query, is_cut = _cut(item.text) if self.assistant.shows_hosted(item.name) else (None, False)
        self._show("tool_call", CallDetail(call_id, item.name, query, is_cut, by_provider=True), place=place)
        self._show("tool_result", ResultDetail(call_id, item.name), place=place)
        picture = picture_of(item)
        if picture is not None and len(picture.url) <= MOST_OF_A_FILE:
            self._show("file", picture, place=place)


def _cut(text: str) -> tuple[str, bool]:
    return text[:MOST_SHOWN], len(text) > MOST_SHOWN


def _output(record: Mapping[str, Any]) -> OutputItem:
    item = item_from_json(record["item"])
    if not isinstance(item, OutputItem):
        raise TypeError(f"the journal holds a {item.kind} where the output of a call belongs")
    return item
