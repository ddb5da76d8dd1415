"""What a subscriber may see: one closed family of events, one JSON form, every dialect an encoder
over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Literal

from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Citation, HostedItem
from turnkeep.usage import Usage

EventKind = Literal[
    "accepted",  # a message is durable; `text` is what was said, `policy` what it asks of a busy thread
    "edited",  # a waiting message has other text now
    "withdrawn",  # a waiting message was taken back
    "started",  # a claim of the run began; a new attempt (> 1) replaces what was shown before by nothing
    "processing",  # tools are running; `tools` names them
    "waiting",  # the run waits and uses no attempt: rate limit, budget, open circuit, shutdown; `error` says why
    "retrying",  # an attempt failed and will be repeated
    "responding",  # the first token of a step is on its way
    "delta",  # `text` is what the answer grows by
    "reasoning",  # `text` is what the thought grows by; only of assistants that show what they think
    "tool_call",  # the model asks for a tool: `detail` says what may be seen of the call
    "tool_result",  # what became of a call: `detail`
    "source",  # what a passage of the answer rests on: `detail`
    "file",  # a file that the provider made: `detail`
    "step",  # a model call has ended (`detail`, `usage`), or is made anew and what was shown of it does not count
    "snapshot",  # `text` is the whole answer so far and replaces what was shown
    "steered",  # a message that asked to steer was taken into the run (outcome applied) or not (deferred)
    "held",  # the run waits for decisions; `calls` says on what
    "decided",  # one of them was taken; `calls` holds it
    "completed",  # the batch is committed: `text` is the whole answer, `outcome` how it ended
    "dead",  # the batch is a dead letter; `error` says why
    "said",  # somebody else than the model added `text` as the assistant (`author`)
    "paused",  # a person takes over: no run begins
    "resumed",
]

Outcome = Literal["completed", "incomplete", "cancelled", "applied", "deferred"]

FINAL: frozenset[EventKind] = frozenset({"completed", "dead"})

BESIDE_TEXT: frozenset[EventKind] = frozenset({"reasoning", "tool_call", "tool_result", "source", "file", "step"})
"""What a turn shows beside its text. `place` says where in the text: a log may roll deltas into one
snapshot, and whoever joins late puts the two together by it.
"""

OF_A_RUN: frozenset[EventKind] = BESIDE_TEXT | {"started", "delta", "snapshot", "processing", "responding"}
ENDS_A_RUN: frozenset[EventKind] = frozenset({"completed", "dead", "held", "retrying", "waiting"})
"""What a run says while it goes on, and after what it says nothing more before it has begun again."""


@dataclass(frozen=True, slots=True)
class TurnFault:
    """What went wrong, for subscribers. `message` is a sentence for people, `details` technical,
    scrubbed, ≤ 500 characters.
    """

    code: str
    message: str
    details: str = ""

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "details": self.details}


class _Detail:
    """What an event says beside its text, in one JSON form without fields that hold their default."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class CallDetail(_Detail):
    """A call. `arguments` is the JSON text of the model, None where the tool withholds it;
    `is_cut`: only its beginning. `by_provider`: the tool runs at the model's provider.
    """

    call_id: str
    name: str
    arguments: str | None = None
    is_cut: bool = False
    by_provider: bool = False


@dataclass(frozen=True, slots=True)
class ResultDetail(_Detail):
    """What a call gave. `output` is None where the tool withholds it; `is_cut`: only its beginning."""

    call_id: str
    name: str
    status: str = "ok"
    output: str | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class FileDetail(_Detail):
    """A file: `url` is an address or the file itself (data:)."""

    url: str
    media_type: str
    filename: str = ""


def picture_of(item: HostedItem) -> FileDetail | None:
    """The picture that a tool of the provider has made."""
    picture = item.raw.get("result")
    if item.name != "image_generation" or not isinstance(picture, str) or not picture:
        return None
    kind = f"image/{item.raw.get('output_format') or 'png'}"
    return FileDetail(f"data:{kind};base64,{picture}", kind)


@dataclass(frozen=True, slots=True)
class StepDetail(_Detail):
    """The model call of this number (from 1). `ending` None: it is made anew."""

    number: int
    ending: str | None = None
    model: str | None = None


Detail = CallDetail | ResultDetail | Citation | FileDetail | StepDetail
_DETAILS: dict[str, type[Detail]] = {
    "tool_call": CallDetail,
    "tool_result": ResultDetail,
    "source": Citation,
    "file": FileDetail,
    "step": StepDetail,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a channel's log.

    `offset` (from 1, rising by 1 per entry), `epoch` and `at` (Unix seconds, store clock) are given
    by the store at the append. `message_ids` are the messages concerned, oldest first. `place` is
    how many characters of the answer stand before what is shown beside it.
    """

    kind: EventKind
    message_ids: tuple[str, ...] = ()
    text: str = ""
    run_id: str | None = None
    attempt: int = 0
    outcome: Outcome | None = None
    tools: tuple[str, ...] = ()
    calls: tuple[Mapping[str, Any], ...] = ()
    error: TurnFault | None = None
    usage: Usage | None = None
    author: str | None = None
    policy: str | None = None
    thread_id: str | None = None
    detail: Detail | None = None
    place: int = 0
    offset: int = 0
    epoch: str = ""
    at: float = 0.0

    @property
    def is_final(self) -> bool:
        """After this event the messages named are settled."""
        return self.kind in FINAL

    @property
    def is_beside_log(self) -> bool:
        """It tells those who watch that nothing is heard of a run, at the position of what they have: no log
        has it.
        """
        return self.kind == "processing" and self.error is not None

    def at_position(self, offset: int, epoch: str, at: float) -> Event:
        # All but the last three by one call in C: field by field it was the dearest part of an append.
        return type(self)(*_contents_of(self), offset, epoch, at)  # type: ignore[call-arg]

    def to_json(self) -> dict[str, Any]:
        """Stored form, without fields that hold their default."""
        data: dict[str, Any] = {"kind": self.kind}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "kind" or value == f.default:
                continue
            if f.name in ("error", "usage", "detail"):
                value = value.to_json()
            elif f.name in ("message_ids", "tools"):
                value = list(value)
            elif f.name == "calls":
                value = [dict(call) for call in value]
            data[f.name] = value
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Event:
        values = dict(data)
        for name in ("message_ids", "tools", "calls"):
            if name in values:
                values[name] = tuple(values[name])
        if "error" in values:
            values["error"] = TurnFault(**values["error"])
        if "usage" in values:
            values["usage"] = Usage.from_json(values["usage"])
        if "detail" in values:
            values["detail"] = _DETAILS[data["kind"]](**values["detail"])
        return Event(**values)


class TextDelta(Event):
    """What an answer grows by: the event that comes with every token, so it is made of six values.

    Everything else an event may say has its default; two events are equal that say the same,
    whichever class made them.
    """

    # A frozen dataclass calls `object.__setattr__` for each of its 18 fields, twice for each token:
    # that was an eighth of what a token cost. Names in the class stand before the slots of `Event`.
    __slots__ = ()
    kind: EventKind = "delta"
    message_ids = ()
    outcome = None
    tools = ()
    calls = ()
    error = None
    usage = None
    author = None
    policy = None
    thread_id = None
    detail = None
    place = 0
    is_final = False

    def __init__(  # noqa: PLR0917 - by place: names would cost as much again
        self, text: str, run_id: str | None = None, attempt: int = 0, offset: int = 0, epoch: str = "", at: float = 0.0
    ) -> None:
        _set_text(self, text)
        _set_run_id(self, run_id)
        _set_attempt(self, attempt)
        _set_offset(self, offset)
        _set_epoch(self, epoch)
        _set_at(self, at)

    def at_position(self, offset: int, epoch: str, at: float) -> TextDelta:
        return TextDelta(self.text, self.run_id, self.attempt, offset, epoch, at)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        return f"TextDelta({self.text!r}, {self.run_id!r}, {self.attempt}, {self.offset}, {self.epoch!r}, {self.at})"

    def __reduce__(self) -> tuple[Any, ...]:
        return TextDelta, (self.text, self.run_id, self.attempt, self.offset, self.epoch, self.at)


_set_text, _set_run_id, _set_attempt, _set_offset, _set_epoch, _set_at = (
    getattr(Event, name).__set__ for name in ("text", "run_id", "attempt", "offset", "epoch", "at")
)
_values = attrgetter(*(f.name for f in fields(Event)))
# What `fields` and `replace` go by: a copy is made of the six.
TextDelta.__dataclass_fields__ = {
    name: Event.__dataclass_fields__[name] for name in ("text", "run_id", "attempt", "offset", "epoch", "at")
}


*_CONTENTS, _OFFSET, _EPOCH, _AT = (f.name for f in fields(Event))
_contents_of = attrgetter(*_CONTENTS)


def delta(text: str, run_id: str, attempt: int) -> Event:
    """The hot path: one per token."""
    return TextDelta(text, run_id, attempt)


class Answer:
    """The text of a turn in progress, folded from its events: what a snapshot shows."""

    __slots__ = ("_pieces", "attempt", "message_ids", "run_id")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.run_id: str | None = None
        self.attempt = 0
        self.message_ids: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        # Joined when somebody asks: added to a text, each token would copy all those before it.
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def take(self, event: Event) -> None:
        """Fold one event in, in log order."""
        if event.kind == "delta":
            self._pieces.append(event.text)
        elif event.kind == "snapshot":
            self._pieces = [event.text]
        elif event.kind == "started":
            self._pieces = []
            self.run_id, self.attempt, self.message_ids = event.run_id, event.attempt, event.message_ids
        elif event.is_final:
            self._pieces, self.run_id = [], None

    def copy(self) -> Answer:
        other = Answer()
        other._pieces = list(self._pieces)
        other.run_id, other.attempt, other.message_ids = self.run_id, self.attempt, self.message_ids
        return other


def newest_of_run(before: Event | None, events: Sequence[Event]) -> Event | None:
    """What was heard last of a run in progress, after these events; None between runs."""
    for event in events:
        if event.kind in OF_A_RUN:
            before = event
        elif event.kind in ENDS_A_RUN:
            before = None
    return before
