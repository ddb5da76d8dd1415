"""What becomes of one message, read from the log of its channel: what the dialects encode.

Several messages of a burst follow the same run: whoever reads for one of them is told of the run
that covers it, from its beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from typing import Self

from starlette.requests import ClientDisconnect

from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai.openai_input import seen_calls
from turnkeep.errors import NotAuthenticated, NotFound
from turnkeep.events import Answer, Event, Outcome, TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, AssistantItem, UserItem
from turnkeep.runs.journal import SEPARATOR, join_texts
from turnkeep.store.values import HeldCall, MessageRecord, TranscriptEntry
from turnkeep.streams import EventStream
from turnkeep.usage import Usage

EVERY = 0.05
"""Seconds for which text is merged after some was told."""
QUIET = 5.0
"""Seconds of silence after which something is said, for proxies that cut what is quiet."""
LOOK_AGAIN = 0.5
"""Seconds between two looks at the connection."""

OPEN_STATES = ("waiting", "running", "delayed")
"""Of a message: nobody has answered it."""

WITHDRAWAL = TurnFault("withdrawn", "This message was taken back before it was answered.")
FORGOTTEN_FAULT = TurnFault("dead", "This message could not be answered, and the reason is not kept any more.")


@dataclass(frozen=True, slots=True)
class Beginning:
    """A claim of the run began; what an earlier attempt has shown is replaced."""

    run_id: str
    covers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepBeginning:
    """The model begins to say something: what it said in an earlier step is finished."""


@dataclass(frozen=True, slots=True)
class TextGrowth:
    """Some more of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ThoughtGrowth:
    """Some more of what the model thinks, of assistants that show it; no part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Replacement:
    """The whole answer so far, in place of what was told."""

    text: str


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing happened for a while."""


@dataclass(frozen=True, slots=True)
class OutputsWanted:
    """The turn waits for what the caller's own functions give. The last word of this reading."""

    calls: tuple[HeldCall, ...]

    def with_ids(self, rename: Callable[[str], str]) -> OutputsWanted:
        return OutputsWanted(tuple(replace(one, call_id=rename(one.call_id)) for one in self.calls))


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The turn is in the transcript. The last word."""

    text: str
    outcome: Outcome
    usage: Usage
    run_id: str
    covers: tuple[str, ...]

    def with_text(self, text: str) -> TurnEnd:
        return replace(self, text=text)


@dataclass(frozen=True, slots=True)
class TurnFailure:
    """Nobody could answer: the messages are dead letters, or were withdrawn. The last word."""

    fault: TurnFault


TurnPart = (
    Beginning
    | StepBeginning
    | TextGrowth
    | ThoughtGrowth
    | Replacement
    | Silence
    | OutputsWanted
    | TurnEnd
    | TurnFailure
)
LAST_WORDS = (OutputsWanted, TurnEnd, TurnFailure)


class CallerGone(ClientDisconnect):
    """Whoever asked is not there any more."""


@dataclass(frozen=True, slots=True)
class LogCursor:
    """Where to begin in a log: behind the outputs of `calls`, where there are any. `base` is what
    the turn had shown by then: it belongs to an earlier answer and is left out.
    """

    epoch: str
    offset: int
    base: str = ""
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunOutline:
    """What the log says of the turn of a message: where its first attempt begins, and where it was
    held for outputs of the caller's functions, each time, with the calls of that round. The log may be younger than
    the turn.
    """

    beginning: LogCursor | None = None
    holds: tuple[LogCursor, ...] = ()
    rounds: tuple[tuple[HeldCall, ...], ...] = ()

    def text_before(self, hold: int) -> str:
        """What was shown between this hold and the one before it."""
        text = self.holds[hold].base
        return text[len(self.holds[hold - 1].base) :].removeprefix(SEPARATOR) if hold else text

    def behind(self, calls: Collection[str]) -> LogCursor | None:
        """The last place that was held for one of these calls."""
        return next((cursor for cursor in reversed(self.holds) if not set(calls).isdisjoint(cursor.calls)), None)


async def outline_of(call: HttpCall, address: Address, message_id: str) -> RunOutline:
    store, answer, after = call.application.store, Answer(), 0
    outline = RunOutline()
    while True:
        page = await store.read(address, after=after)
        for event in page.events:
            answer.take(event)
            if message_id not in event.message_ids:
                continue
            if event.kind == "started" and outline.beginning is None:
                outline = replace(outline, beginning=LogCursor(page.epoch, event.offset - 1))
            wanted_calls = tuple(HeldCall(**one) for one in event.calls if one.get("kind") == "output")
            calls = tuple(one.call_id for one in wanted_calls)
            # A claim that found one of them undecided holds them again: it is the same round.
            if event.kind == "held" and calls and outline.behind(calls) is None:
                cursor = LogCursor(page.epoch, event.offset, answer.text, calls)
                outline = replace(outline, holds=(*outline.holds, cursor), rounds=(*outline.rounds, wanted_calls))
        if not page.events or page.events[-1].offset >= page.top:
            return outline
        after = page.events[-1].offset


class TurnReader:
    """Reads for one call, `async with`: subscribed before the message is accepted, so that nothing
    of its turn is missed, and told no more once its credential has ended.

    `cursor` is where in the log to begin; None: a run in progress from its beginning, else what
    happens now.
    """

    def __init__(self, call: HttpCall, address: Address, cursor: LogCursor | None = None) -> None:
        self._call = call
        self._address = address
        after, epoch = (cursor.offset, cursor.epoch) if cursor else (None, None)
        application = call.application
        self._store = application.store
        self._stream = EventStream(application.hub, application.store, address, after=after, epoch=epoch)
        # For as long as it is open, not as somebody reads: who breaks off leaves no generator to wait for.
        self._watch = call.watch_credential(self._stream.wake)
        self._run_id: str | None = None
        self._text: list[str] = []
        self._cursor = cursor
        self._is_at_base = bool(cursor and cursor.base)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        self._credential = self._watch.__enter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._watch.__exit__(None, None, None)
        await self._stream.__aexit__(*exc)

    @property
    def base_length(self) -> int:
        """Characters of the turn that belong to an earlier answer, with what parts them from this one."""
        return len(self._cursor.base) + len(SEPARATOR) if self._cursor and self._cursor.base else 0

    async def parts(self, message_id: str) -> AsyncIterator[TurnPart]:
        """What becomes of it, up to a last word. Raises `CallerGone`, and what keeps it from being read on:
        `NotAuthenticated` once the credential has ended, `NotFound`, `StoreError`.
        """
        record = await self._store.message(self._address, message_id)
        if record is None:
            raise NotFound(f"message {message_id!r} is not known any more")
        if record.status not in OPEN_STATES:
            yield await settled_part(self._call, self._address, record, self._cursor.calls if self._cursor else ())
            return
        async for part in self._live_parts(message_id):
            yield part
            if isinstance(part, LAST_WORDS):
                return

    async def logged_parts(self, message_id: str) -> AsyncIterator[TurnPart]:
        """The same as the log has it, for a reader that begins where the turn began, or after the
        outputs of its calls: also of a turn that has ended.
        """
        has_it = self._stream.subscription_start.is_recovered
        async for part in self._live_parts(message_id) if has_it else self.parts(message_id):
            yield part
            if isinstance(part, LAST_WORDS):
                return

    async def _live_parts(self, message_id: str) -> AsyncIterator[TurnPart]:
        loop = asyncio.get_running_loop()
        told_at = 0.0
        spoke_at = looked_at = loop.time()
        while (over := self._credential.end) is None:
            if loop.time() - looked_at >= LOOK_AGAIN:
                looked_at = loop.time()
                if await self._call.request.is_disconnected():
                    raise CallerGone
            # With all that is here by then: to wait for each alone costs more than to read it.
            events = await self._stream.arrivals(EVERY if self._text else LOOK_AGAIN)
            parts = [part for event in events for part in await self._read(event, message_id)]
            # Text is merged for a moment: each token alone costs more bytes around it than in it.
            if self._text and (not events or loop.time() - told_at >= EVERY):
                told_at = loop.time()
                parts += self._flush()
            if not parts and loop.time() - spoke_at >= QUIET:
                parts = [Silence()]
            if parts:
                spoke_at = loop.time()
            for part in parts:
                yield part
        raise NotAuthenticated(str(over))  # one of its own: all who rest on a credential are told by the same one

    def _flush(self) -> Sequence[TurnPart]:
        if not self._text:
            return ()
        text = "".join(self._text)
        self._text.clear()
        if self._is_at_base:  # what parts it from the earlier answer
            self._is_at_base, text = False, text.removeprefix(SEPARATOR)
        return (TextGrowth(text),) if text else ()

    async def _read(self, event: Event, message_id: str) -> Sequence[TurnPart]:
        """The parts that an event is, behind the text that was said before it."""
        if event.kind == "delta":
            if event.run_id == self._run_id:
                self._text.append(event.text)
            return ()
        part = await self._part_of(event, message_id)
        return () if part is None else (*self._flush(), part)

    async def _part_of(self, event: Event, message_id: str) -> TurnPart | None:
        is_ours = message_id in event.message_ids
        match event.kind:
            case "started":
                self._run_id = event.run_id if is_ours else None
                return Beginning(event.run_id or "", event.message_ids) if is_ours else None
            case "steered" if is_ours and event.outcome == "applied":
                self._run_id = event.run_id
            case "reasoning" | "responding" | "snapshot" if event.run_id == self._run_id:
                return self._progress_part(event)
            case "held" if is_ours:
                return await self._held_part()
            case "completed" if is_ours:
                return TurnEnd(
                    self._without_base(event.text), event.outcome or "completed", event.usage or Usage(),
                    event.run_id or "", event.message_ids,
                )  # fmt: skip
            case "dead" if is_ours:
                return TurnFailure(event.error or TurnFault("internal_error", "Something went wrong."))
            case "withdrawn" if is_ours:
                return TurnFailure(WITHDRAWAL)
        return None

    def _progress_part(self, event: Event) -> TurnPart:
        """What the run says and thinks, and where a step of it begins."""
        if event.kind == "reasoning":
            return ThoughtGrowth(event.text)
        return StepBeginning() if event.kind == "responding" else Replacement(self._without_base(event.text))

    def _without_base(self, text: str) -> str:
        """Behind what an earlier answer of this turn has shown."""
        base = self._cursor.base if self._cursor else ""
        self._is_at_base = bool(base) and text == base
        return text[len(base) :].removeprefix(SEPARATOR) if base and text.startswith(base) else text

    async def _held_part(self) -> TurnPart | None:
        """What the caller has to do. Approvals are somebody else's, and are waited for."""
        record = await self._store.thread(self._address)
        if record is None or record.state != "held":
            return None  # of the past: it was decided meanwhile
        calls = tuple(call for call in record.calls if call.kind == "output" and call.decision is None)
        return OutputsWanted(seen_calls(self._call, calls)) if calls else None


async def settled_part(
    call: HttpCall, address: Address, record: MessageRecord, calls: Collection[str] = ()
) -> TurnEnd | TurnFailure:
    """The end of a turn that was settled before: from transcript and records. Of its text what
    stands behind the outputs of these calls.
    """
    run = next((r for r in await call.application.store.runs(address) if r.run_id == record.run_id), None)
    if record.status in ("dead", "withdrawn"):
        fault = run.fault if run else None
        return TurnFailure(WITHDRAWAL if record.status == "withdrawn" else fault or FORGOTTEN_FAULT)
    entries = await turn_of(call, address, record.message_id)
    ends = [end for end, entry in enumerate(entries, 1) if getattr(entry.item, "call_id", None) in calls]
    outcome: Outcome = "completed"
    if run is not None and run.status in ("completed", "incomplete", "cancelled"):
        outcome = run.status
    elif record.status == "cancelled":
        outcome = "cancelled"
    usage = run.usage if run else Usage()
    return TurnEnd(text_of(entries[max(ends, default=0) :]), outcome, usage, record.run_id or "", record.covers)


async def turn_of(call: HttpCall, address: Address, message_id: str) -> list[TranscriptEntry]:
    """The entries of the turn that answered this message. Raises `NotFound`."""
    history = await call.application.store.history(address)
    for entry in reversed(history.entries):
        if isinstance(entry.item, UserItem) and entry.item.message_id == message_id:
            return [one for one in history.entries if one.turn == entry.turn]
    raise NotFound(f"the turn of message {message_id!r} is not in the transcript any more")


def text_of(entries: Sequence[TranscriptEntry]) -> str:
    """What the assistant said in them, as people see it."""
    return join_texts([text for _, text in texts_of(entries)])


def texts_of(entries: Sequence[TranscriptEntry]) -> list[tuple[int, str]]:
    """The same, step by step, each with the number of characters that were shown before it."""
    texts: list[str] = []
    continues = False
    for entry in entries:
        if isinstance(entry.item, AssistantItem):
            if continues:
                texts[-1] += entry.item.text
            else:
                texts.append(entry.item.text)
            continues = True
        elif entry.item.kind in ("call", "output", "user"):
            continues = False
    texts = [text for text in texts if text]
    places = [sum(len(text) + len(SEPARATOR) for text in texts[:number]) for number in range(len(texts))]
    return list(zip(places, texts, strict=True))
