"""What a run tells its subscribers while it goes on, in order and without slowing the model down.

A token alone would cost an operation of the store: a task, a future, a transaction or a round trip.
So all runs of a process publish together (`Publisher`): each lane of the store has one publication
at a time, and what is said meanwhile goes with the next; between two of them are a few
milliseconds, so that a thousand runs share one. After a silence the first word goes at once.

Beside its text people may see of a run (`Disclosure`) calls and results as far as their tools
allow, thoughts where the assistant shows them, sources, files, and where each step ends. A further
attempt shows all finished steps again, from the journal (`replay`), so that whoever joins late sees
the whole turn. What a model call has shown before it failed is taken back by a `step` without
ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Protocol

from turnkeep.assistants import Assistant
from turnkeep.errors import StoreError
from turnkeep.events import (
    BESIDE_TEXT,
    CallDetail,
    Detail,
    Event,
    EventKind,
    ResultDetail,
    StepDetail,
    TextDelta,
    delta,
    picture_of,
)
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import (
    Address,
    AssistantItem,
    CallItem,
    HostedItem,
    Item,
    OutputItem,
    ReasoningItem,
    item_from_json,
)
from turnkeep.runs.journal import SEPARATOR, STORE_PATIENCE, Step, join_texts
from turnkeep.store.contract import EventGap, Events
from turnkeep.store.values import Claim, Publication
from turnkeep.tools.toolbox import Toolbox
from turnkeep.usage import Usage

TICK = 0.005
"""Seconds between the beginnings of two publications of a lane."""

MERGE_ABOVE = 64
"""Events that wait for the store from which on deltas are merged: only when it is behind."""

MOST_SHOWN = 16_384
"""Characters of arguments, and of an output, that are shown; the whole is in the transcript."""
MOST_THOUGHT = 262_144
"""Characters of the thoughts of one step that are shown: a log holds what is thought beside what is said."""
MOST_OF_A_FILE = 1_048_576
"""Characters of a file that goes into the log; a larger one is in the transcript alone."""
NO_SITE = "nowhere"
"""The site of a thought that a stop has cut off. No provider takes half of his own: it lacks his seal."""
PIECE, EVERY = 1_024, 0.25
"""Characters, and seconds, after which a piece of a thought is shown: thoughts are not read word by
word, and their pieces stay in the log for as long as the run goes on.
"""


class Speaker(Protocol):
    """A run that has something to say."""

    def take(self) -> Publication:
        """All that is to be published now."""
        ...

    def settle(self, outcome: int | Exception) -> None:
        """What came of it: the top of the log, or what `Events.publish` raises. May not wait."""
        ...


class Publisher:
    """Publishes for all runs of a process, while `run` runs; what is said before waits for it."""

    def __init__(self, store: Events) -> None:
        self._store = store
        self._lanes: dict[int, Lane] = {}
        self._group: asyncio.TaskGroup | None = None

    def lane(self, address: Address) -> Lane:
        """What is published together with this channel."""
        number = self._store.lane_of(address)
        if (lane := self._lanes.get(number)) is None:
            lane = self._lanes[number] = Lane(self._store)
            lane.open(self._group)
        return lane

    async def run(self) -> None:
        """Publish until cancelled, and with it what is on its way: runs end before."""
        async with asyncio.TaskGroup() as group:
            self._open(group)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._open(None)

    def _open(self, group: asyncio.TaskGroup | None) -> None:
        self._group = group
        for lane in self._lanes.values():
            lane.open(group)


class Lane:
    """One publication at a time, of all who have something to say."""

    def __init__(self, store: Events) -> None:
        self._store = store
        self._speakers: list[Speaker] = []
        self._begun_at = float("-inf")
        self._begin: asyncio.TimerHandle | None = None
        self._group: asyncio.TaskGroup | None = None
        self._publishing: asyncio.Task[None] | None = None

    def open(self, group: asyncio.TaskGroup | None) -> None:
        """Publish in tasks of this group from now on, and not at all without one."""
        self._group = group
        self._publishing = None  # what is on its way ends with the group before, perhaps before it has begun
        if self._begin is not None:
            self._begin.cancel()
            self._begin = None
        if self._speakers:
            self._go_on()

    def add(self, speaker: Speaker) -> None:
        """`take` is called for him soon, once."""
        self._speakers.append(speaker)
        if self._begin is None and self._publishing is None:
            self._go_on()

    def hurry(self) -> None:
        """Do not wait for the tick: somebody waits for what was said."""
        if self._publishing is None and self._speakers:
            self._begin_at(float("-inf"))

    def _go_on(self) -> None:
        self._begin_at(self._begun_at + TICK)

    def _begin_at(self, moment: float) -> None:
        if self._group is None:
            return
        loop = asyncio.get_running_loop()
        if self._begin is not None:
            self._begin.cancel()
            self._begin = None
        if moment <= loop.time():
            self._publish_soon(self._group)
        else:
            self._begin = loop.call_at(moment, self._publish_soon, self._group)

    def _publish_soon(self, group: asyncio.TaskGroup) -> None:
        self._begin = None
        self._publishing = group.create_task(self._publish())

    async def _publish(self) -> None:
        # Taken here, where the task begins: who speaks in the same turn of the loop goes along.
        speakers, self._speakers = self._speakers, []
        self._begun_at = asyncio.get_running_loop().time()
        outcomes: list[int | Exception] = []
        try:
            outcomes += await self._store.publish_many([speaker.take() for speaker in speakers])
        # A mistake of ours, too: it ends the runs that it concerns, not the publishing for all others.
        except Exception as error:
            outcomes += [error] * len(speakers)
        finally:
            self._publishing = None
            if self._speakers:
                self._go_on()
        for speaker, outcome in zip(speakers, outcomes, strict=True):
            speaker.settle(outcome)


class Announcer:
    """Publishes the events of one claim.

    `say` never waits; what was said is published with what others say (`Publisher`), from the beginning
    until `close`.

    Everything said before a settlement is in the log before it, if `wait_until_published` is awaited in between.
    Who waits for the answer in this process is told at once.
    """

    published_count = 0
    """How many events of the claim are in the log, as far as the store has answered."""
    text_so_far = ""
    """The text of this attempt that subscribers have seen, or will before the settlement."""
    _failures = 0
    _is_queued = False
    _is_over = False
    _error: Exception | None = None
    """What ends the publishing."""
    _on_failure: Callable[[Exception], None] | None = None
    # Made for whoever waits: an event of asyncio is larger than all else here, and a thousand
    # runs have nobody who waits, nearly always.
    _is_empty = True
    _emptying: asyncio.Event | None = None

    def __init__(self, publisher: Publisher, claim: Claim, *, tell: Callable[[Event], None] | None = None) -> None:
        self._lane = publisher.lane(claim.address)
        self._claim = claim
        self._tell = tell
        self._waiting: list[Event] = []
        self._batch: list[Event] = []
        """What is being published: the same again, until the store has answered."""
        self._parts: list[tuple[int, Event]] = []
        """What was shown beside the text, by number: few, and a log that lost its end has to get it again."""

    def say(self, event: Event) -> None:
        self._waiting.append(event)
        if self._tell is not None:
            self._tell(event)
        if not self._is_queued:
            self._queue()
        # All but more of the same text: a step begins, a tool runs, a decision is waited for.
        if event.__class__ is not TextDelta:
            self._lane.hurry()

    def _queue(self) -> None:
        if self._is_over:
            return
        self._is_queued = True
        self._is_empty = False
        self._lane.add(self)

    def text(self, text: str) -> None:
        """Some more of the answer."""
        self.text_so_far += text
        self.say(delta(text, self._claim.run_id, self._claim.attempt))

    def replace(self, text: str) -> None:
        """The whole answer so far, in place of what was shown."""
        self.text_so_far = text
        self.say(Event("snapshot", text=text, run_id=self._claim.run_id, attempt=self._claim.attempt))

    def watch(self, on_failure: Callable[[Exception], None]) -> None:
        """Be told what ends the publishing, as `LeaseLost`. It may have ended already."""
        self._on_failure = on_failure
        if self._error is not None:
            on_failure(self._error)

    def close(self) -> None:
        """Publish nothing more of what is said from now on, and tell nobody."""
        self._is_over = True
        self._on_failure = None

    async def wait_until_published(self) -> None:
        """Wait until all that was said is in the log; raises what ends the publishing."""
        self._lane.hurry()
        await self._wait_until_empty()
        if self._error is not None:
            raise self._error

    async def _wait_until_empty(self) -> None:
        if not self._is_empty:
            self._emptying = self._emptying or asyncio.Event()
            await self._emptying.wait()

    async def publish_again(self, published_count: int) -> None:
        """Once it is closed: publish what came after these events once more, for a log that lost its end."""
        self._is_over = False
        self._go_back_to(published_count)
        self._queue()
        await self.wait_until_published()

    def take(self) -> Publication:
        self._is_queued = False
        if not self._batch:
            pending, self._waiting = self._waiting, []
            # a store that keeps up streams as the model does; one that is behind gets fewer events,
            # not a longer queue
            self._batch = pending if len(pending) <= MERGE_ABOVE else merge_deltas(pending)
        # the count makes a repeat harmless: of what the store has already nothing is written twice
        return Publication(self._claim, self.published_count, self._batch)

    def settle(self, outcome: int | Exception) -> None:
        if isinstance(outcome, int):
            self._failures = 0
            self._note_parts()
            self.published_count += len(self._batch)
            self._batch = []
        elif isinstance(outcome, EventGap):  # a server that was promoted had not heard of the last ones
            self._go_back_to(outcome.published_count)
        elif isinstance(outcome, StoreError) and outcome.retryable:
            self._try_later()
            return
        else:
            self._fail(outcome)
            return
        if not (self._batch or self._waiting):
            self._become_empty()
        elif not self._is_queued:
            self._queue()

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._become_empty()
        if self._on_failure is not None:
            self._on_failure(self._error)

    def _become_empty(self) -> None:
        """Nothing more is on its way."""
        self._is_empty = True
        if self._emptying is not None:
            self._emptying.set()
            self._emptying = None

    def _try_later(self) -> None:
        """Without an end of its own: the lease of the run is the limit."""
        self._failures += 1
        # What is said meanwhile goes along then.
        self._is_queued = True
        asyncio.get_running_loop().call_later(STORE_PATIENCE.after(self._failures), self._queue)

    def _note_parts(self) -> None:
        first = self.published_count
        self._parts += [(first + n, one) for n, one in enumerate(self._batch) if one.kind in BESIDE_TEXT]

    def _go_back_to(self, published_count: int) -> None:
        self.published_count = published_count
        lost_parts = [event for number, event in self._parts if number >= published_count]
        self._parts = [one for one in self._parts if one[0] < published_count]
        self._batch = [*lost_parts, *self._shown_before(self._batch), *self._batch]

    def _shown_before(self, events: list[Event]) -> list[Event]:
        """The answer as it was before these events, unless they begin it anew."""
        pending = [*events, *self._waiting]
        # it replaces everything that was shown, so nobody misses the past
        if any(event.kind == "snapshot" for event in pending):
            return []
        unsaid = sum(len(event.text) for event in pending if event.kind == "delta")
        text = self.text_so_far[: len(self.text_so_far) - unsaid]
        return [Event("snapshot", text=text, run_id=self._claim.run_id, attempt=self._claim.attempt)] if text else []


def merge_deltas(events: list[Event]) -> list[Event]:
    """Neighbouring deltas as one: the text is the same, the offsets are fewer."""
    result: list[Event] = []
    texts: list[str] = []
    for event in events:
        if event.kind == "delta":
            texts.append(event.text)
            if len(texts) == 1:
                result.append(event)
            continue
        _close(result, texts)
        result.append(event)
    _close(result, texts)
    return result


def _close(result: list[Event], texts: list[str]) -> None:
    if len(texts) > 1:
        last = result[-1]
        result[-1] = delta("".join(texts), last.run_id or "", last.attempt)
    texts.clear()


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
        """The step, each item marked with what people may see of it. Marked now, because the tools
        may be others when somebody reads the transcript.
        """
        items = tuple([self._public(item) for item in step.items])
        return step if items == step.items else replace(step, items=items)

    def _public(self, item: Any) -> Any:
        if isinstance(item, CallItem):
            tool = self.toolbox.of(self.claim.address.tenant).get(item.name)
            return item if tool is None else replace(item, show=tool.show)
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
        """Behind so many finished steps: the thought of the next one, as far as it was shown, as an
        item of the transcript. People have read it; no model is told of it.
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
        """Show the calls of a step that is in the journal, then its end. A turn of one step tells no
        end: its final event does.
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
