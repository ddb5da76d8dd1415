"""A turn as a sequence that only grows: what the dialects of front ends are made of.

A log may repeat (a further attempt shows its finished steps again), roll text into snapshots, and
take back what a failed call has shown; somebody may join in the middle. A front end can only add.
So the events of a turn are folded here, and what comes out is new and in its order: text by its
place among calls and thoughts, each of them once. What cannot stay is taken back by a `step`
without ending, up to the end of the last finished step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from turnkeep.events import BESIDE_TEXT, CallDetail, Event, ResultDetail, StepDetail


class TurnGrowth:
    """Takes the events of one channel in the order of its log (`fold`), and gives what is new of the
    turn in progress (`advance`).

    Until the first `advance` nothing counts as told, however many events were folded. `covers` are
    the messages that the turn answers, `run_id` its run.
    """

    def __init__(self) -> None:
        self.run_id: str | None = None
        self.attempt = 0
        self.covers: tuple[str, ...] = ()
        self._begin()

    def _begin(self) -> None:
        # pieces, joined when somebody needs the whole: else each token would copy all before it
        self._told_pieces: list[str] = []
        self._told_length = 0
        self._told_ids: set[str] = set()
        self._firm = 0
        """Characters of finished steps, which no failure takes back."""
        self._firm_step = 0
        self._loose_ids: set[str] = set()
        self._is_loose = False
        """Something was told beside the text of a step that has not ended."""
        self._wants_retake = False
        self._begin_attempt()

    def _begin_attempt(self) -> None:
        self._text: list[str] = []
        """What the attempt has shown, of which some may have been told by the one before."""
        self._length = 0
        self._step = 1
        self._parts: deque[tuple[int, Event]] = deque()
        """What was shown beside the text and is not told yet, with its step."""

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    def fold(self, event: Event) -> None:
        """Take an event in."""
        kind = event.kind
        if kind == "delta":
            self._text.append(event.text)
            self._length += len(event.text)
        elif kind in BESIDE_TEXT:
            self._fold_part(event)
        elif kind == "snapshot" or (kind == "completed" and event.run_id == self.run_id):
            self._replace(event.text)
        elif kind == "started":
            self._fold_start(event)
        elif kind == "steered" and event.outcome == "applied":
            self.covers += event.message_ids

    def _fold_start(self, event: Event) -> None:
        if event.run_id != self.run_id:
            self.run_id = event.run_id
            self._begin()
        else:
            self._begin_attempt()
            self._want_retake()
        self.covers, self.attempt = event.message_ids, event.attempt

    def _fold_part(self, event: Event) -> None:
        detail = event.detail
        if isinstance(detail, StepDetail) and detail.ending is None:
            while self._parts and self._parts[-1][0] == self._step:
                self._parts.pop()
            self._want_retake()
            return
        self._parts.append((self._step, event))
        if isinstance(detail, StepDetail):
            self._step = detail.number + 1

    def _replace(self, text: str) -> None:
        """The whole text so far: most often what was told, and some more; or the finished steps alone."""
        self._text, self._length = [text], len(text)
        if not text.startswith("".join(self._told_pieces)):
            self._want_retake()

    def _want_retake(self) -> None:
        self._wants_retake = self._wants_retake or self._is_loose or self._told_length > self._firm

    def advance(self) -> Sequence[Event]:
        """What is new since the last call, in its order."""
        new: list[Event] = []
        if self._wants_retake:
            new.append(self._retake())
        while self._parts and self._parts[0][1].place <= self._length:
            step, event = self._parts.popleft()
            if self._is_told(step, event):
                continue
            if event.place > self._told_length:
                new.append(self._tell(event.place))
            new.append(event)
            self._note(event)
        if self._length > self._told_length:
            new.append(self._tell(self._length))
        return new

    def _tell(self, until: int) -> Event:
        last = self._text[-1]
        is_next = until == self._length == self._told_length + len(last)
        piece = last if is_next else self.text[self._told_length : until]
        self._told_pieces.append(piece)
        self._told_length = until
        return Event("delta", text=piece, run_id=self.run_id, attempt=self.attempt)

    def _retake(self) -> Event:
        self._told_pieces = ["".join(self._told_pieces)[: self._firm]]
        self._told_length = self._firm
        self._told_ids -= self._loose_ids
        self._loose_ids, self._is_loose, self._wants_retake = set(), False, False
        detail = StepDetail(self._firm_step + 1)
        return Event("step", run_id=self.run_id, attempt=self.attempt, detail=detail, place=self._firm)

    def _is_told(self, step: int, event: Event) -> bool:
        name = _name_of(event)
        return step <= self._firm_step if name is None else name in self._told_ids

    def _note(self, event: Event) -> None:
        detail = event.detail
        if isinstance(detail, StepDetail):
            self._firm_step, self._firm = detail.number, self._told_length
            self._loose_ids, self._is_loose = set(), False
            return
        name = _name_of(event)
        if name is not None:
            self._told_ids.add(name)
        # what a finished step asked for ends after it, and stays
        if isinstance(detail, ResultDetail) and f"tool_call {detail.call_id}" not in self._loose_ids:
            return
        self._is_loose = True
        if name is not None:
            self._loose_ids.add(name)


def _name_of(event: Event) -> str | None:
    """What tells a part from all others of its turn, at whichever attempt."""
    detail = event.detail
    return f"{event.kind} {detail.call_id}" if isinstance(detail, CallDetail | ResultDetail) else None
