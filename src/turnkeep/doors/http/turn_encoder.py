"""What all dialects of front ends do with a turn: its events sorted by kind, and cut into steps and
parts. A dialect derives from it, and says of each what its clients read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import orjson

from turnkeep.events import BESIDE_TEXT, CallDetail, Event, FileDetail, ResultDetail, StepDetail, TurnFault
from turnkeep.messages import Citation
from turnkeep.runs.journal import SEPARATOR

MOST_LEVELS = 200
"""Levels of a value that is told as one. Models and tools may give more; orjson writes 254, with what stands around."""
NO_OUTPUT = {"denied": "The call was denied.", "expired": "Nobody decided about the call in time."}


class TurnVisitor:
    """Visits the events of one turn, as `TurnGrowth` has them, in their order. Every act does nothing
    here: who derives from it overrides those that his dialect has a word for.

    A part is some text or thought that goes on, a call, a source or a file. A step begins with its
    first part, and ends before the first part of the next one: results of its calls belong to it.
    """

    def __init__(self) -> None:
        self._open: Literal["text", "reasoning"] | None = None
        """What kind of part goes on."""
        self._is_in_step = False
        self._step_ends = False
        """What comes next belongs to another step, unless it is a result."""
        self._has_text = False
        """Something was said before this step."""
        self._at_step_start = True

    def visit(self, event: Event) -> None:
        match event.kind:
            case "delta":
                self._add_text(event.text)
            case "reasoning":
                self._add_thought(event.text)
            case "started":
                self._start(event)
            case "completed":
                self._complete(event)
            case "dead":
                self._fail(event.error)
            case "held":
                self._hold([call for call in event.calls if not call.get("decision")])
            case "withdrawn":
                self._withdraw()
            case "waiting" | "retrying":
                self._wait(event)
            case "said":
                self._quote(event)
            case _:
                self._visit_detail(event)

    def _visit_detail(self, event: Event) -> None:
        match event.detail:
            case CallDetail() as call:
                self._begin_part()
                self._call(call)
            case ResultDetail() as result:
                self._close_part()
                self._result(result)
            case Citation() as source:
                self._begin_part()
                self._source(source)
            case FileDetail() as file:
                self._begin_part()
                self._file(file)
            case StepDetail(ending=None):
                self._take_back()
                self._at_step_start = True
            case StepDetail():
                self._close_part()
                self._step_ends = True
                self._settle_step()

    # ------------------------------------------------------------ steps and parts

    def _add_text(self, text: str) -> None:
        if self._open != "text":
            self._begin_part()
            # what stands between the texts of two steps: here each has a part of its own
            if self._has_text and self._at_step_start:
                text = text.removeprefix(SEPARATOR)
            if not text:
                return
            self._open = "text"
            self._open_text()
        self._has_text, self._at_step_start = True, False
        self._tell_text(text)

    def _add_thought(self, text: str) -> None:
        if self._open != "reasoning":
            self._begin_part()
            self._open = "reasoning"
            self._open_thought()
        self._tell_thought(text)

    def _close_part(self) -> None:
        if self._open == "text":
            self._close_text()
        elif self._open == "reasoning":
            self._close_thought()
        self._open = None

    def _begin_part(self) -> None:
        """Something else than before; of the next step, if the last one has ended."""
        self._close_part()
        if self._step_ends:
            self._finish_step()
        if not self._is_in_step:
            self._is_in_step, self._at_step_start = True, True
            self._begin_step()

    def _finish_step(self) -> None:
        self._close_part()
        if self._is_in_step:
            self._end_step()
        self._is_in_step = self._step_ends = False

    # ------------------------------------------------------------ acts of a dialect

    def _start(self, event: Event) -> None:
        """A run has begun."""

    def _begin_step(self) -> None: ...

    def _end_step(self) -> None: ...

    def _settle_step(self) -> None:
        """What was told of the step stays; nothing but results comes any more."""

    def _take_back(self) -> None:
        """What was told of the step that goes on does not count."""

    def _open_text(self) -> None: ...

    def _tell_text(self, text: str) -> None: ...

    def _close_text(self) -> None: ...

    def _open_thought(self) -> None: ...

    def _tell_thought(self, text: str) -> None: ...

    def _close_thought(self) -> None: ...

    def _call(self, call: CallDetail) -> None: ...

    def _result(self, result: ResultDetail) -> None: ...

    def _source(self, source: Citation) -> None: ...

    def _file(self, file: FileDetail) -> None: ...

    def _wait(self, event: Event) -> None:
        """The run goes on later."""

    def _quote(self, event: Event) -> None:
        """A person wrote something meanwhile."""

    def _hold(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """The run waits until somebody decides about these calls."""

    def _complete(self, event: Event) -> None: ...

    def _fail(self, fault: TurnFault | None) -> None: ...

    def _withdraw(self) -> None: ...


class TurnEncoder(TurnVisitor, ABC):
    """A dialect: what is new of a turn as bytes. One for each response.

    With `after_calls` what the client has goes on with the result of one of these calls: what was
    before it is not told.
    """

    def __init__(self, *, after_calls: Collection[str] = ()) -> None:
        super().__init__()
        self._after_calls = set(after_calls)
        self._out: list[bytes] = []
        self._is_done = False

    @property
    def is_done(self) -> bool:
        """The last word was said."""
        return self._is_done

    def encode(self, events: Sequence[Event]) -> bytes:
        for event in events:
            if self._after_calls and is_result_of(event, self._after_calls):
                self._after_calls.clear()
                self._go_on()
            told_count = len(self._out)
            self.visit(event)
            if self._after_calls and is_piece(event):
                del self._out[told_count:]
        data, self._out = b"".join(self._out), []
        return data

    def break_off(self, fault: TurnFault) -> bytes:
        """The last word to somebody who may not be told more."""
        self._is_done = True
        return self._last_word(fault)

    def _go_on(self) -> None:
        """Behind here it is told; the step was begun in an earlier response."""

    @abstractmethod
    def _last_word(self, fault: TurnFault) -> bytes:
        """The end of a response that may not show more, and why."""


def is_piece(event: Event) -> bool:
    """Whether it shows something of an answer, and is not about the run."""
    return event.kind == "delta" or event.kind in BESIDE_TEXT


def is_result_of(piece: Event, call_ids: Collection[str]) -> bool:
    return isinstance(piece.detail, ResultDetail) and piece.detail.call_id in call_ids


def value_of(text: str) -> Any:
    """JSON where it is some that can be written again, else the text."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return text if _is_too_deep(value) else value


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [child for outer in level for child in _inside(outer) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _inside(outer: object) -> Iterable[object]:
    return outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()


def failure_text(result: ResultDetail) -> str:
    """What is read in place of an output."""
    return result.output or NO_OUTPUT.get(result.status, "The call failed.")
